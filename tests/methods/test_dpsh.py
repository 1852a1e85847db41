"""DPSH: values of swuxyj's code and of FIRe."""

from tests.methods.worked import Worked, pairs


class TestDPSH(Worked):
    method = "dpsh"
    rows = (
        pairs((0.643879, 0.067547), (0.644504, 0.065445), alpha=0.5, pairs="memory",
              weighting="mean", quantization=0.1, quantization_form="l2"),
        pairs((1.173818, 0.151651), (1.253123, 0.136489), alpha=0.5, pairs="memory",
              quantization=0.1, quantization_form="l2"),
    )  # fmt: skip
