"""Compose, check and resolve configurations, and build the objects that they name."""
