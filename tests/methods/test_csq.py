"""CSQ: values of its authors' code."""

from deephash.methods.csq import CentralSimilarity
from deephash.models.relaxations import Tanh
from tests.methods.worked import CENTERS, Row, Worked, lmcl


class TestCSQ(Worked):
    method = "csq"
    rows = (
        Row(CentralSimilarity, (0.598090, 0.310328), (0.660590, 0.333949), {}, Tanh(),
            centers=CENTERS),
        lmcl((0.592453, 0.458569), (1.318270, 0.515044), Tanh()),
    )  # fmt: skip
