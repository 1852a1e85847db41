"""A search page and an HTTP API for an index of images: ``deephash serve``."""
