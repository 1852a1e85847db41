"""The first 50 steps of training, and the mAP after them. ``compare`` defines the tolerance."""

import pytest

from tests.golden import make
from tests.golden.compare import VALUES, check_map, check_terms

pytestmark = pytest.mark.usefixtures("composable")


@pytest.mark.parametrize("name", make.TRAINED)
def test_losses(tmp_path, name):
    result, golden = make.losses(tmp_path, name), VALUES["losses"][name]
    assert len(golden["terms"]["loss"]) == 50
    check_terms(result["terms"], golden["terms"])
    check_map(float.fromhex(result["map"]), golden["map"])
