"""CE: values of the formula, checked against FIRe."""

from deephash.losses.cross_entropy import CrossEntropy
from tests.methods.worked import Row, W, Worked


class TestCE(Worked):
    method = "ce"
    rows = (
        Row(CrossEntropy, (0.762425, 0.386554), (1.264925, 0.411661), centers=W),
    )  # fmt: skip
