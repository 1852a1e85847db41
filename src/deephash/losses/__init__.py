"""Objectives that two or more papers share."""
