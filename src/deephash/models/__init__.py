"""The part that is shipped: a backbone, a head, and the encoder they make."""
