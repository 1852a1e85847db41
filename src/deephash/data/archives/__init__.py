"""Readers of published datasets as they are on disk: from label files to a catalogue.

`read()` returns ids, labels, classes and the paths of the files below the root. It opens no image,
so missing images are only detected when they are opened. The expected number of images is set in
the configuration of the dataset.
"""

from typing import Protocol

from deephash.data.catalogue import Catalogue


class Reader(Protocol):
    """An object that catalogues the images of a dataset."""

    def read(self) -> Catalogue:
        """Read the labels; the rows are the same on each call."""
        ...
