"""Checks of image lists, split files and datasets, and what they report."""
