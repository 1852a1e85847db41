"""SDC on two views: pairs within quarters, the contrastive term, options of the sources."""

import pytest
import torch

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.losses.contrastive import nt_xent, position_pairs
from deephash.methods.sdc import ContrastiveCalibration
from tests.methods.test_sdc import quantiles, quantization, reconstruction
from tests.methods.unlabelled import contrast, gradient_of, random_rows, terms_of
from tests.pages import typed


@pytest.mark.parametrize(
    ("rows", "views", "left", "right"),
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
def test_position_pairs(rows, views, left, right):
    result = position_pairs(torch.arange(rows), views)
    assert [part.tolist() for part in result] == [left, right]
    wide = position_pairs(torch.arange(rows * 2).view(rows, 2), views)
    assert wide[0].shape == (len(left), 2)


def test_position_pairs_are_within_a_view():
    """For an even number of images."""
    view = torch.arange(2).repeat_interleave(6)
    left, right = position_pairs(view, views=2)
    assert torch.equal(left, right) and len(left) == 6


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("clamp", [True, False])
def test_matches_loop(images, clamp):
    z, x = random_rows(2 * images, 1), random_rows(2 * images, 2, 5).abs()
    loss = ContrastiveCalibration(contrast=0.6, temperature=0.4, clamp=clamp, beta_ab=2)
    result = terms_of(loss, z, x, views=2)
    count = 2 * (2 * images // 4)
    expected = 0.0
    if count:
        expected = reconstruction(z, x, quantiles(count, 2, 2, clamp), parts=4)
    assert result["reconstruction"] == pytest.approx(expected, abs=1e-9)
    assert result["quantization"] == pytest.approx(quantization(z), abs=1e-9)
    assert result["contrast"] == pytest.approx(0.6 * contrast(z.tolist(), 0.4), abs=1e-9)


def test_terms_of_one_image_are_zero():
    result = terms_of(ContrastiveCalibration(), [[1.0, -2], [-1, 3]], [[1.0, 2], [1, 3]], views=2)
    assert result["reconstruction"] == result["contrast"] == 0
    assert nt_xent(torch.tensor([[1.0, -2], [-1, 3]]), 0.3) == 0


@pytest.mark.parametrize("rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 8, [[1.0, -2, 0, 4]] * 2])
def test_degenerate_batches_are_finite(rows):
    loss = ContrastiveCalibration()
    for x in (rows, [[0.0] * 4] * len(rows)):
        assert gradient_of(loss, rows, x, views=2).isfinite().all()


def test_contrast_of_features():
    z, x = random_rows(8, 1), random_rows(8, 2, 5)
    loss = ContrastiveCalibration(contrast_on="features")
    result = terms_of(loss, z, x, views=2)
    assert result["contrast"] == pytest.approx(contrast(x.tolist(), 0.3), abs=1e-9)
    assert list(terms_of(ContrastiveCalibration(contrast=0), z, x, views=2)) == [
        "reconstruction", "quantization",
    ]  # fmt: skip


def test_reconstruction_without_contrast():
    """It is the reconstruction of SDC on one view, for pairs within the halves of the batch."""
    z, x = random_rows(12, 3), random_rows(12, 4).abs()
    result = terms_of(ContrastiveCalibration(contrast=0, clamp=False), z, x, views=2)
    order = torch.cat([torch.arange(0, 3), torch.arange(6, 9), torch.arange(3, 6),
                       torch.arange(9, 12)])  # fmt: skip
    expected = reconstruction(z[order], x[order], quantiles(6))
    assert result["reconstruction"] == pytest.approx(expected, abs=1e-9)


def test_recipe_has_two_views(composed):
    cfg = composed("method=sdc_simclr")
    assert checks.check_train(cfg) == []
    assert cfg["method"]["views"] == ["train", "train"]  # on digits
    assert cfg["method"]["loss"]["clamp"] and cfg["method"]["loss"]["beta_ab"] == 5
    assert build.method(typed(cfg), 10, 500).loss.temperature == 0.3
    overrides = ["method=sdc_simclr", "method.views=1"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "method.views" and "needs 2" in fault.message
