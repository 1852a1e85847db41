"""GreedyHash: values of its authors' code."""

from deephash.methods.greedyhash import Greedy
from deephash.models.relaxations import Sign
from tests.methods.worked import Row, W, Worked, lmcl


class TestGreedyHash(Worked):
    method = "greedyhash"
    rows = (
        Row(Greedy, (0.909876, 0.464859), (1.309876, 0.529427), {}, Sign(), centers=W),
        lmcl((0.981060, 0.631815), (1.559775, 0.677699), Sign(), centers=W),
    )  # fmt: skip
