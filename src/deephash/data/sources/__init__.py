"""Sources of images and features: embedded sets, archives, folders, lists and feature files."""

from deephash.data.sources.basic import Cifar, Digits, Folder
from deephash.data.sources.features import Features
from deephash.data.sources.lists import Lists

__all__ = ["Cifar", "Digits", "Features", "Folder", "Lists"]
