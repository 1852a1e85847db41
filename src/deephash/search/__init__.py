"""Search collections of images by their codes."""
