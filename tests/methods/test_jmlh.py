"""JMLH: values of its authors' code, without random bits."""

from deephash.methods.jmlh import Variational
from deephash.models.relaxations import StochasticSign
from tests.methods.worked import Row, W, Worked, lmcl

BIT = StochasticSign(stochastic=False)


class TestJMLH(Worked):
    method = "jmlh"
    rows = (
        Row(Variational, (0.837604, 0.080467), (1.137604, 0.086089), {}, BIT, centers=W),
        lmcl((0.981060, 0.282488), (1.559775, 0.299083), BIT, centers=W),
    )  # fmt: skip
