"""Decoded images on disk, so that a dataset is decoded once."""
