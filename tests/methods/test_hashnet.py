"""HashNet: values of its authors' code, of FIRe and of swuxyj's."""

from deephash.models.relaxations import Continuation
from tests.methods.worked import Worked, pairs


class TestHashNet(Worked):
    method = "hashnet"
    rows = (
        pairs((0.586549, 0.727065), (0.920366, 0.769944), Continuation(),
              alpha="10/nbit", pairs="halves", weighting="class"),
        pairs((1.124071, 0.460248), (1.199291, 0.384911), Continuation()),
        pairs((1.154504, 0.187332), (1.256181, 0.136853), Continuation(), pairs="memory"),
        pairs((1.338416, 0.043449), (1.349110, 0.037289), Continuation(), alpha=0.1),
    )  # fmt: skip
