"""RelaHash: values of its authors' code."""

import pytest
import torch

from deephash.methods.relahash import Relative
from tests.methods.worked import CENTERS, Worked, Z, lmcl


class TestRelaHash(Worked):
    method = "relahash"
    rows = (
        lmcl((1.731512, 2.393275), (3.884026, 2.553156), None, Relative(), CENTERS, 8, 0.5),
        lmcl((8.134884, 17.869433), (21.610255, 19.566770), None, Relative(), CENTERS, 50, 0.5),
        lmcl((0.427632, 4.194213), (6.525888, 5.496883), None, Relative(sqrt_bk=True), CENTERS,
             8, 0.5),
        lmcl((0.783257, 0.442787), (1.304105, 0.456044), None, Relative()),
    )  # fmt: skip


def test_relative_position_step_by_step():
    z = torch.tensor(Z[:2], dtype=torch.float64)
    assert z.mean().item() == pytest.approx(0.243750)
    assert (z - z.mean()).norm().item() == pytest.approx(2.232081, abs=1e-6)
    expected = [[0.596416, -0.033601, -0.481613], [-0.198805, -0.022401, -0.246407]]
    result = Relative()(z, torch.tensor(CENTERS, dtype=torch.float64))
    torch.testing.assert_close(
        result, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )
