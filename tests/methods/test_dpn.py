"""DPN: values of its authors' code, and of swuxyj's."""

from deephash.methods.dpn import Polarization
from tests.methods.worked import CENTERS, CONTROL, Row, Worked


class TestDPN(Worked):
    method = "dpn"
    rows = (
        Row(Polarization, (2.725000, 1.322876), (5.800000, 1.500000), centers=CENTERS),
        Row(Polarization, (2.793219, 1.309451), (5.868219, 1.506124), {"regularization": 0.1},
            centers=CENTERS),
        Row(Polarization, (0.681250, 0.330719), (0.743750, 0.330719),
            {"bits": "mean", "multi_label": "vote"}, centers=CENTERS),
        CONTROL,
    )  # fmt: skip
