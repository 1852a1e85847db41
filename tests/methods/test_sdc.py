"""SDC on one view: values by hand, loops, targets, odd and degenerate batches."""

import math

import pytest
import torch
from scipy import stats

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError
from deephash.methods.sdc import ContrastiveCalibration, SimilarityCalibration
from deephash.types import Batch, Output
from tests.methods.loops import cosine, sign
from tests.methods.unlabelled import V, X, gradient_of, pairs, random_rows, terms_of
from tests.pages import typed


def quantiles(count, a=5.0, b=5.0, clamp=False, gaussian=None):
    """The target of each rank, computed with scipy's distributions."""
    result = []
    for p in range(1, count + 1):
        level = (2 * p - 1) / (2 * count)
        if gaussian is None:
            value = 2 * stats.beta.ppf(level, a, b) - 1
        else:
            value = min(max(stats.norm.ppf(level, scale=gaussian), -1), 1)
        result.append(max(value, 0.0) if clamp else value)
    return result


def reconstruction(z, x, targets, form="l1", parts=2):
    """The reconstruction term, in loops over pairs in the order of their feature similarity."""
    z, x = z.tolist(), x.tolist()
    cosines = [(cosine(x[i], x[j]), cosine(z[i], z[j])) for i, j in pairs(len(z), parts)]
    ordered = sorted(range(len(cosines)), key=lambda p: (cosines[p][0], p))
    gaps = [cosines[p][1] - target for p, target in zip(ordered, targets, strict=True)]
    function = {"l1": abs, "l2": lambda g: g * g, "relu": lambda g: max(g, 0.0)}[form]
    return sum(map(function, gaps)) / len(gaps)


def quantization(z, form="cosine"):
    rows = z.tolist()
    if form == "cosine":
        return sum(1 - cosine(row, [sign(x) for x in row]) for row in rows) / len(rows)
    power = int(form[1])
    each = [abs(x - sign(x)) ** power for row in rows for x in row]
    return sum(each) / len(each)


def test_worked_example():
    """C = (-.2161, .2161) against (0, .4472); 1 - cos(v, sign v) = .0513, 0, .0513, .1056."""
    result = terms_of(SimilarityCalibration(), V, X)
    assert result["reconstruction"] == pytest.approx(0.2236068, abs=1e-6)
    assert sum(result.values()) == pytest.approx(0.275658, abs=1e-6)
    float32_terms = SimilarityCalibration()(
        Output.of(torch.tensor(V), features=torch.tensor(X)), Batch.of(None)
    )
    assert sum(float32_terms.values()).item() == pytest.approx(0.275658, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(1, (0.25, 0.75)), (2, (0.1683, 0.5579)), (5, (0.1030, 0.3603))],
)
def test_targets_of_published_betas(beta, expected):
    result = SimilarityCalibration(beta_ab=beta).targets(4, dtype=torch.float64)
    targets = [-expected[1], -expected[0], *expected]
    assert result.tolist() == pytest.approx(targets, abs=5e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 32, 128])
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"beta_ab": 0.2}, {"a": 0.2, "b": 0.2}),
        ({"beta_ab": 5}, {}),
        ({"beta_a": 2, "beta_b": 7}, {"a": 2, "b": 7}),
        ({"beta_ab": 3, "clamp": True}, {"a": 3, "b": 3, "clamp": True}),
        ({"calibration": "gaussian"}, {"gaussian": 0.3}),
        ({"calibration": "gaussian", "std": 0.9, "clamp": True}, {"gaussian": 0.9, "clamp": True}),
    ],
    ids=str,
)
def test_targets_are_quantiles(options, arguments, count):
    result = SimilarityCalibration(**options).targets(count, dtype=torch.float64)
    assert result.tolist() == pytest.approx(quantiles(count, **arguments), abs=1e-9)
    assert result.diff().min() >= 0 if count > 1 else len(result) == 1


def test_gaussian_targets_are_clipped():
    result = SimilarityCalibration(calibration="gaussian", std=1.0).targets(10)
    assert (result.min().item(), result.max().item()) == (-1.0, 1.0)
    assert result[3].item() == pytest.approx(stats.norm.ppf(0.35), abs=1e-6)


def test_targets_are_cached():
    loss = SimilarityCalibration()
    targets = loss.targets(8, torch.device("cpu"))
    assert loss.targets(8) is targets and loss.targets(4) is not targets
    assert loss.targets(8, "cpu", torch.float64) is not targets
    assert loss.state_dict() == {}


@pytest.mark.parametrize("rows", [8, 9, 2, 3])
@pytest.mark.parametrize("form", ["l1", "l2", "relu"])
@pytest.mark.parametrize("quantization_form", ["cosine", "l1", "l2", "l3"])
def test_matches_loop(rows, form, quantization_form):
    """The last row of an odd batch is in no pair, but in the quantization term."""
    z, x = random_rows(rows, 1), random_rows(rows, 2, 5).relu()
    loss = SimilarityCalibration(
        reconstruction=0.7, reconstruction_form=form, quantization=0.2,
        quantization_form=quantization_form,
    )  # fmt: skip
    result = terms_of(loss, z, x)
    expected = reconstruction(z, x, quantiles(rows // 2), form)
    assert result["reconstruction"] == pytest.approx(0.7 * expected, abs=1e-9)
    assert result["quantization"] == pytest.approx(
        0.2 * quantization(z, quantization_form), abs=1e-9
    )


def test_gradient_matches_finite_differences():
    z, x = random_rows(8, 3).requires_grad_(), random_rows(8, 4)
    loss = SimilarityCalibration()

    def total(z):
        return sum(loss(Output.of(z, features=x), Batch.of(None)).values())

    assert torch.autograd.gradcheck(total, (z,))


def test_only_ranks_of_feature_similarities_matter():
    """Features with the same order of pairs have the same loss."""
    z, x = random_rows(10, 5), random_rows(10, 6).abs()
    angles = torch.tensor([0.1, 0.5, 0.3, 1.2, 0.9], dtype=torch.float64)

    def features(angles):
        first = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(5, 1)
        return torch.cat([first, torch.stack([angles.cos(), angles.sin()], dim=1)])

    loss = SimilarityCalibration()
    assert terms_of(loss, z, features(angles)) == terms_of(loss, z, features(angles**2))
    assert terms_of(loss, z, features(angles)) != terms_of(loss, z, features(-angles + 1.3))
    assert not gradient_of(loss, z, x).isnan().any()


def test_equal_similarities_keep_their_order():
    """If all features are equal, the targets are assigned in the order of the batch."""
    z = random_rows(64, 7)
    x = torch.ones(64, 3, dtype=torch.float64)
    result = terms_of(SimilarityCalibration(quantization=0), z, x)
    similarities = [cosine(z[i].tolist(), z[j].tolist()) for i, j in pairs(64)]
    expected = sum(abs(s - c) for s, c in zip(similarities, quantiles(32), strict=True)) / 32
    assert result == {"reconstruction": pytest.approx(expected, abs=1e-9)}


@pytest.mark.parametrize("form", ["cosine", "l1", "l2", "l3"])
@pytest.mark.parametrize(
    "rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 6, [[1.0, -2, 0, 4]], [[1.0, 2, 0, 0]] * 2]
)
def test_degenerate_batches_are_finite(rows, form):
    """Zeros, equal rows, one row (without a pair), two rows."""
    loss = SimilarityCalibration(quantization_form=form)
    for x in (rows, [[0.0] * 4] * len(rows)):
        assert all(math.isfinite(term) for term in terms_of(loss, rows, x).values())
        assert gradient_of(loss, rows, x).isfinite().all()
    if len(rows) == 1:
        assert terms_of(loss, rows, rows)["reconstruction"] == 0


def test_terms_without_weight_are_omitted():
    assert list(terms_of(SimilarityCalibration(quantization=0), V, X)) == ["reconstruction"]
    assert list(terms_of(SimilarityCalibration(reconstruction=0), V, X)) == ["quantization"]


@pytest.mark.parametrize("key", ["beta_a", "beta_b"])
def test_one_beta_parameter_is_refused(key, composed):
    other = {"beta_a": "beta_b", "beta_b": "beta_a"}[key]
    with pytest.raises(ConfigError, match=f"{key}  is set without {other}"):
        SimilarityCalibration(**{key: 2.0})
    overrides = ["method=sdc", f"method.loss.{key}=2"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == f"method.loss.{key}" and f"Set {other} too" in fault.hint
    assert checks.check_train(composed(*overrides, f"method.loss.{other}=3")) == []


def test_recipe_matches_the_supplement(composed):
    cfg = composed("method=sdc")
    head = build.method(typed(cfg), 10, 500).encoder.head
    names = [type(layer).__name__ for layer in head]
    assert names == ["Linear", "GELU", "Linear", "BatchNorm1d"]
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(512, 512), (512,), (16, 512), (16,), (16,), (16,)]
    cfg["method"]["head"]["width"] = 4096
    assert build.method(typed(cfg), 10, 500).encoder.head[0].out_features == 4096
    trainer = cfg["trainer"]
    assert (trainer["epochs"], trainer["batch_size"], trainer["eval_every"]) == (100, 64, 10)
    assert trainer["select_on"] == "last" and cfg["backbone"]["frozen"]
    assert cfg["optimizer"]["lr"] == 1e-4 and cfg["optimizer"]["weight_decay"] == 5e-4
    assert cfg["method"]["views"] == ["test"]


def test_two_views_and_batch_size_one_are_refused(composed):
    overrides = ["method=sdc", "method.views=2"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "method.views" and "SimilarityCalibration needs 1" in fault.message
    overrides = ["method=sdc", "trainer.batch_size=1"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "trainer.batch_size" and "needs a batch of 2" in fault.message


@pytest.mark.parametrize(
    ("loss_type", "zero_options", "key"),
    [
        (SimilarityCalibration, {}, "reconstruction"),
        (ContrastiveCalibration, {"contrast": 0}, "contrast"),
        (ContrastiveCalibration, {"contrast_on": "features"}, "contrast_on"),
    ],
)
def test_zero_weights_are_refused(loss_type, zero_options, key):
    options = {"reconstruction": 0.0, "quantization": 0, **zero_options}
    assert [fault[0] for fault in loss_type.refused(options)] == [key]
    with pytest.raises(ConfigError, match=rf"{key}  is .* weight above 0"):
        loss_type(**options)
    for weight in ("reconstruction", "quantization"):
        loss_type(**options | {weight: 0.1})
    if loss_type is ContrastiveCalibration:
        loss_type(reconstruction=0, quantization=0)
