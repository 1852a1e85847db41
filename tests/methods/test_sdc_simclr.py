"""SDC on two views: pairs within quarters, the contrastive term, the options of the sources."""

import pytest
import torch

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.losses.contrastive import nt_xent, position_pairs
from deephash.methods.sdc import ContrastiveCalibration
from tests.methods.test_sdc import quantiles, quantization, reconstruction
from tests.methods.unlabelled import contrast, drawn, gradient_of, terms_of
from tests.pages import typed


@pytest.mark.parametrize(
    ("rows", "views", "one", "other"),
    [
        (4, 1, [0, 1], [2, 3]),
        (5, 1, [0, 1], [2, 3]),
        (8, 2, [0, 1, 4, 5], [2, 3, 6, 7]),
        (10, 2, [0, 1, 4, 5], [2, 3, 6, 7]),  # 5 images: rows 8 and 9 are in no pair
        (11, 1, [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]),
        (12, 3, [0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]),
        (1, 1, [], []),
        (2, 2, [], []),
    ],
)
def test_pairs_by_position(rows, views, one, other):
    result = position_pairs(torch.arange(rows), views)
    assert [part.tolist() for part in result] == [one, other]
    wide = position_pairs(torch.arange(rows * 2).view(rows, 2), views)
    assert wide[0].shape == (len(one), 2)


def test_pairs_stay_within_a_view():
    """With an even number of images."""
    view = torch.arange(2).repeat_interleave(6)
    one, other = position_pairs(view, views=2)
    assert torch.equal(one, other) and len(one) == 6


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("clamp", [True, False])
def test_it_is_the_loop(images, clamp):
    z, x = drawn(2 * images, 1), drawn(2 * images, 2, 5).abs()
    loss = ContrastiveCalibration(contrast=0.6, temperature=0.4, clamp=clamp, beta_ab=2)
    result = terms_of(loss, z, x, views=2)
    count = 2 * (2 * images // 4)
    expected = 0.0
    if count:
        expected = reconstruction(z, x, quantiles(count, 2, 2, clamp), parts=4)
    assert result["reconstruction"] == pytest.approx(expected, abs=1e-9)
    assert result["quantization"] == pytest.approx(quantization(z), abs=1e-9)
    assert result["contrast"] == pytest.approx(0.6 * contrast(z.tolist(), 0.4), abs=1e-9)


def test_one_image_has_no_pair_and_no_contrast():
    result = terms_of(ContrastiveCalibration(), [[1.0, -2], [-1, 3]], [[1.0, 2], [1, 3]], views=2)
    assert result["reconstruction"] == result["contrast"] == 0
    assert nt_xent(torch.tensor([[1.0, -2], [-1, 3]]), 0.3) == 0


@pytest.mark.parametrize("rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 8, [[1.0, -2, 0, 4]] * 2])
def test_degenerate_batches_are_finite(rows):
    loss = ContrastiveCalibration()
    for x in (rows, [[0.0] * 4] * len(rows)):
        assert gradient_of(loss, rows, x, views=2).isfinite().all()


def test_the_contrast_may_be_that_of_the_features():
    z, x = drawn(8, 1), drawn(8, 2, 5)
    loss = ContrastiveCalibration(contrast_on="features")
    result = terms_of(loss, z, x, views=2)
    assert result["contrast"] == pytest.approx(contrast(x.tolist(), 0.3), abs=1e-9)
    assert list(terms_of(ContrastiveCalibration(contrast=0), z, x, views=2)) == [
        "reconstruction", "quantization",
    ]  # fmt: skip


def test_with_nothing_of_its_own_it_is_the_loss_of_one_view_on_quarters():
    """The first two quarters and the last two, as two batches of the same targets, together."""
    z, x = drawn(12, 3), drawn(12, 4).abs()
    both = terms_of(ContrastiveCalibration(contrast=0, clamp=False), z, x, views=2)
    order = torch.cat([torch.arange(0, 3), torch.arange(6, 9), torch.arange(3, 6),
                       torch.arange(9, 12)])  # fmt: skip
    expected = reconstruction(z[order], x[order], quantiles(6))
    assert both["reconstruction"] == pytest.approx(expected, abs=1e-9)


def test_the_recipe_has_two_views_of_its_own(composed):
    cfg = composed("method=sdc_simclr")
    assert checks.check_train(cfg) == [] and cfg["method"]["views"] == [
        "train",
        "train",
    ]  # on digits
    assert cfg["method"]["loss"]["clamp"] and cfg["method"]["loss"]["beta_ab"] == 5
    assert build.method(typed(cfg), 10, 500).loss.temperature == 0.3
    words = ["method=sdc_simclr", "method.views=1"]
    (fault,) = checks.check_train(composed(*words), parse_all(words))
    assert fault.key == "method.views" and "needs 2" in fault.message
