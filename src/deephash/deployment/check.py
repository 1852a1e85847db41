"""Compare an exported encoder with the encoder of the run, image by image."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deephash import retrieval
from deephash.errors import ExportError
from deephash.training.code_encoder import CodeEncoder

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Runs an exported encoder: inputs (N, ...) to packed codes (N, ceil(K / 8)) and z (N, K)."""

BATCH = 32
"""Images in a batch of the comparison; the first batch has one image."""


@dataclass(frozen=True)
class CodeDifferences:
    r"""The differences between two encoders on the same images.

    Attributes:
        images: number of images, N.
        nbit: K.
        differing_bits: of the N * K bits.
        differing_codes: of the N codes, those with a differing bit.
        largest_z_difference: largest absolute difference of a real-valued code; None if unknown.
        largest_z_of_differing_bits: largest \|z\| of a bit that differs: how undecided these bits
            are; None if unknown or if no bit differs.
    """

    images: int
    nbit: int
    differing_bits: int
    differing_codes: int
    largest_z_difference: float | None = None
    largest_z_of_differing_bits: float | None = None

    @property
    def share(self) -> float:
        """The fraction of bits that differ."""
        return self.differing_bits / max(1, self.images * self.nbit)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes, for metadata."""
        return asdict(self)

    def __str__(self) -> str:
        text = (
            f"{self.differing_bits:,} of {self.images * self.nbit:,} bits and"
            f" {self.differing_codes:,} of {self.images:,} codes differ"
        )
        if self.largest_z_difference is not None:
            text += f", largest difference of z {self.largest_z_difference:.2g}"
        if self.largest_z_of_differing_bits is not None:
            text += f", |z| of differing bits at most {self.largest_z_of_differing_bits:.2g}"
        return text


def compare_codes(
    ours: npt.NDArray[np.uint8],
    theirs: npt.NDArray[np.uint8],
    nbit: int,
    z: np.ndarray | None = None,
    their_z: np.ndarray | None = None,
) -> CodeDifferences:
    """Compare packed codes of the same images, (N, ceil(K / 8)) each.

    Args:
        ours: codes of one encoder.
        theirs: codes of the other.
        nbit: K.
        z: real-valued codes of the first, (N, K).
        their_z: those of the second.

    Example:
        >>> ours, theirs = np.array([[0b10000000], [0]], np.uint8), np.zeros((2, 1), np.uint8)
        >>> print(compare_codes(ours, theirs, nbit=4))
        1 of 8 bits and 1 of 2 codes differ
    """
    differs = retrieval.unpack(ours, nbit) != retrieval.unpack(theirs, nbit)
    of_z = of_bits = None
    if z is not None and their_z is not None:
        of_z = float(np.abs(z - their_z).max(initial=0.0))
        if differs.any():
            of_bits = float(np.abs(z)[differs].max())
    return CodeDifferences(
        len(ours), nbit, int(differs.sum()), int(differs.any(axis=1).sum()), of_z, of_bits
    )


def compare(
    run: Run, encoder: CodeEncoder, batches: Iterable[np.ndarray]
) -> tuple[CodeDifferences, npt.NDArray[np.uint8]]:
    """Compare an exported encoder with the encoder of a run.

    Args:
        run: of the exported encoder.
        encoder: of the run.
        batches: inputs of both: uint8 (N, 3, H, W), or float32 (N, D).

    Returns:
        the differences, and the packed codes of the exported encoder.

    Raises:
        ExportError: the exported codes are not the signs of the exported z, or there is no input.
    """
    ours, theirs, our_z, their_z = [], [], [], []
    for inputs in batches:
        codes, z = run(inputs)
        if not np.array_equal(codes, retrieval.pack(z >= 0)):
            raise ExportError("the exported encoder packs bits that are not the signs of its z")
        reference = encoder.codes(torch.from_numpy(inputs))
        ours.append(codes)
        our_z.append(z)
        theirs.append(retrieval.pack(reference >= 0))
        their_z.append(reference)
    if not ours:
        raise ExportError("there is no image to compare the exported encoder on")
    parts = [np.concatenate(part) for part in (ours, theirs, our_z, their_z)]
    return compare_codes(parts[0], parts[1], encoder.nbit, parts[2], parts[3]), parts[0]


def in_batches(inputs: np.ndarray) -> Sequence[np.ndarray]:
    """Split inputs into a batch of one image and batches of `BATCH`.

    >>> [len(batch) for batch in in_batches(np.zeros((70, 2)))]
    [1, 32, 32, 5]
    """
    edges = [0, *range(1, len(inputs), BATCH), len(inputs)]
    return [inputs[start:stop] for start, stop in pairwise(edges)]
