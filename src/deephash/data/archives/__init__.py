"""Readers of the field's datasets as they lie on disk: from files of labels to a catalogue.

A reader is built with plain keywords; `read()` gives ids, labels, classes and the places of the
files below its root. It opens no image: one that the labels name and the disk lacks is found by
whoever opens it. How many images a dataset must have is for its configuration to say.
"""

from typing import Protocol

from deephash.data.catalogue import Catalogue


class Reader(Protocol):
    """Anything that can catalogue the images of a dataset."""

    def read(self) -> Catalogue:
        """Read the labels; the same call gives the same rows in the same order."""
        ...
