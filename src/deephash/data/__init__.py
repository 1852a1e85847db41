"""Images, the splits they are measured under, and the batches a method trains on."""
