"""DHN: values of swuxyj's code and of TreezzZ's."""

from deephash.models.relaxations import Tanh
from tests.methods.worked import Worked, pairs


class TestDHN(Worked):
    method = "dhn"
    rows = (
        pairs((0.631542, 0.063291), (0.632167, 0.064661),
              alpha=0.5, pairs="memory", weighting="mean", quantization=0.1),
        pairs((0.726589, 0.156686), (0.738321, 0.121529), Tanh(),
              alpha=0.5, weighting="mean", quantization=1.0),
    )  # fmt: skip
