"""DTSH: values of swuxyj's code."""

from deephash.methods.dtsh import TripletLikelihood
from tests.methods.worked import PAIRS, Row, Worked


class TestDTSH(Worked):
    method = "dtsh"
    rows = (
        Row(TripletLikelihood, (3.279948, 1.627831), (3.949647, 1.791410), labels=PAIRS),
    )  # fmt: skip
