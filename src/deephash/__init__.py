"""Deep hashing for image retrieval: networks that turn images into short binary codes."""

__version__ = "0.1.0"
