"""SDC on one view: values by hand, loops, the targets, odd and degenerate batches."""

import math

import pytest
import torch
from scipy import stats

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError
from deephash.methods.sdc import ContrastiveCalibration, SimilarityCalibration
from deephash.types import Batch, Output
from tests.methods.unlabelled import (
    V,
    X,
    cosine,
    drawn,
    gradient_of,
    pairs,
    sign,
    terms_of,
)
from tests.pages import typed


def quantiles(count, a=5.0, b=5.0, clamp=False, gaussian=None):
    """The target of each rank, by scipy's distributions."""
    result = []
    for p in range(1, count + 1):
        middle = (2 * p - 1) / (2 * count)
        if gaussian is None:
            value = 2 * stats.beta.ppf(middle, a, b) - 1
        else:
            value = min(max(stats.norm.ppf(middle, scale=gaussian), -1), 1)
        result.append(max(value, 0.0) if clamp else value)
    return result


def reconstruction(z, x, targets, form="l1", parts=2):
    """Pairs in order of their features, equal ones as they come; each with its target."""
    z, x = z.tolist(), x.tolist()
    result = [(cosine(x[i], x[j]), cosine(z[i], z[j])) for i, j in pairs(len(z), parts)]
    ordered = sorted(range(len(result)), key=lambda p: (result[p][0], p))
    gaps = [result[p][1] - target for p, target in zip(ordered, targets, strict=True)]
    each = {"l1": abs, "l2": lambda g: g * g, "relu": lambda g: max(g, 0.0)}[form]
    return sum(map(each, gaps)) / len(gaps)


def quantization(z, form="cosine"):
    rows = z.tolist()
    if form == "cosine":
        return sum(1 - cosine(row, [sign(x) for x in row]) for row in rows) / len(rows)
    power = int(form[1])
    each = [abs(x - sign(x)) ** power for row in rows for x in row]
    return sum(each) / len(each)


def test_the_worked_example():
    """C = (-.2161, .2161) against (0, .4472); 1 - cos(v, sign v) = .0513, 0, .0513, .1056."""
    result = terms_of(SimilarityCalibration(), V, X)
    assert result["reconstruction"] == pytest.approx(0.2236068, abs=1e-6)
    assert sum(result.values()) == pytest.approx(0.275658, abs=1e-6)
    single = SimilarityCalibration()(
        Output.of(torch.tensor(V), features=torch.tensor(X)), Batch.of(None)
    )
    assert sum(single.values()).item() == pytest.approx(0.275658, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(1, (0.25, 0.75)), (2, (0.1683, 0.5579)), (5, (0.1030, 0.3603))],
)
def test_the_table_of_targets(beta, expected):
    result = SimilarityCalibration(beta_ab=beta).targets(4, dtype=torch.float64)
    both = [-expected[1], -expected[0], *expected]
    assert result.tolist() == pytest.approx(both, abs=5e-5)


@pytest.mark.parametrize("pairs_", [1, 2, 7, 32, 128])
@pytest.mark.parametrize(
    ("options", "known"),
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
def test_targets_are_quantiles(options, known, pairs_):
    result = SimilarityCalibration(**options).targets(pairs_, dtype=torch.float64)
    assert result.tolist() == pytest.approx(quantiles(pairs_, **known), abs=1e-9)
    assert result.diff().min() >= 0 if pairs_ > 1 else len(result) == 1


def test_the_gaussian_is_cut_to_the_range_of_cosines():
    result = SimilarityCalibration(calibration="gaussian", std=1.0).targets(10)
    assert (result.min().item(), result.max().item()) == (-1.0, 1.0)
    assert result[3].item() == pytest.approx(stats.norm.ppf(0.35), abs=1e-6)


def test_targets_are_computed_once_for_each_number_of_pairs():
    loss = SimilarityCalibration()
    one = loss.targets(8, torch.device("cpu"))
    assert loss.targets(8) is one and loss.targets(4) is not one
    assert loss.targets(8, "cpu", torch.float64) is not one
    assert loss.state_dict() == {}


@pytest.mark.parametrize("rows", [8, 9, 2, 3])
@pytest.mark.parametrize("form", ["l1", "l2", "relu"])
@pytest.mark.parametrize("quantization_form", ["cosine", "l1", "l2", "l3"])
def test_it_is_the_loop(rows, form, quantization_form):
    """The last row of an odd batch is in no pair, and in the other term."""
    z, x = drawn(rows, 1), drawn(rows, 2, 5).relu()
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


def test_the_gradient_is_a_finite_difference():
    z, x = drawn(8, 3).requires_grad_(), drawn(8, 4)
    loss = SimilarityCalibration()

    def total(z):
        return sum(loss(Output.of(z, features=x), Batch.of(None)).values())

    assert torch.autograd.gradcheck(total, (z,))


def test_only_ranks_of_the_features_count():
    """A change of the features that keeps the order of the pairs changes nothing."""
    z, x = drawn(10, 5), drawn(10, 6).abs()
    angles = torch.tensor([0.1, 0.5, 0.3, 1.2, 0.9], dtype=torch.float64)

    def features(angles):
        first = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(5, 1)
        return torch.cat([first, torch.stack([angles.cos(), angles.sin()], dim=1)])

    loss = SimilarityCalibration()
    assert terms_of(loss, z, features(angles)) == terms_of(loss, z, features(angles**2))
    assert terms_of(loss, z, features(angles)) != terms_of(loss, z, features(-angles + 1.3))
    assert not gradient_of(loss, z, x).isnan().any()


def test_equal_similarities_keep_their_places():
    """All pairs of the features are alike: the first one gets the smallest target."""
    z = drawn(64, 7)
    x = torch.ones(64, 3, dtype=torch.float64)
    result = terms_of(SimilarityCalibration(quantization=0), z, x)
    own = [cosine(z[i].tolist(), z[j].tolist()) for i, j in pairs(64)]
    expected = sum(abs(s - c) for s, c in zip(own, quantiles(32), strict=True)) / 32
    assert result == {"reconstruction": pytest.approx(expected, abs=1e-9)}


@pytest.mark.parametrize("form", ["cosine", "l1", "l2", "l3"])
@pytest.mark.parametrize(
    "rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 6, [[1.0, -2, 0, 4]], [[1.0, 2, 0, 0]] * 2]
)
def test_degenerate_batches_are_finite(rows, form):
    """Zeros, all rows equal, one row, two rows; of one row there is no pair."""
    loss = SimilarityCalibration(quantization_form=form)
    for x in (rows, [[0.0] * 4] * len(rows)):
        assert all(math.isfinite(term) for term in terms_of(loss, rows, x).values())
        assert gradient_of(loss, rows, x).isfinite().all()
    if len(rows) == 1:
        assert terms_of(loss, rows, rows)["reconstruction"] == 0


def test_terms_without_weight_are_left_out():
    assert list(terms_of(SimilarityCalibration(quantization=0), V, X)) == ["reconstruction"]
    assert list(terms_of(SimilarityCalibration(reconstruction=0), V, X)) == ["quantization"]


@pytest.mark.parametrize("key", ["beta_a", "beta_b"])
def test_one_parameter_alone_is_refused(key, composed):
    other = {"beta_a": "beta_b", "beta_b": "beta_a"}[key]
    with pytest.raises(ConfigError, match=f"{key}  is set without {other}"):
        SimilarityCalibration(**{key: 2.0})
    words = ["method=sdc", f"method.loss.{key}=2"]
    (fault,) = checks.check_train(composed(*words), parse_all(words))
    assert fault.key == f"method.loss.{key}" and f"Set {other} too" in fault.hint
    assert checks.check_train(composed(*words, f"method.loss.{other}=3")) == []


def test_the_recipe_is_that_of_the_supplement(composed):
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


def test_two_views_and_batches_of_one_are_refused(composed):
    words = ["method=sdc", "method.views=2"]
    (fault,) = checks.check_train(composed(*words), parse_all(words))
    assert fault.key == "method.views" and "SimilarityCalibration needs 1" in fault.message
    words = ["method=sdc", "trainer.batch_size=1"]
    (fault,) = checks.check_train(composed(*words), parse_all(words))
    assert fault.key == "trainer.batch_size" and "needs a batch of 2" in fault.message


@pytest.mark.parametrize(
    ("kind", "options", "key"),
    [
        (SimilarityCalibration, {}, "reconstruction"),
        (ContrastiveCalibration, {"contrast": 0}, "contrast"),
        (ContrastiveCalibration, {"contrast_on": "features"}, "contrast_on"),
    ],
)
def test_weights_that_leave_nothing_to_train_are_refused(kind, options, key):
    zero = {"reconstruction": 0.0, "quantization": 0, **options}
    assert [fault[0] for fault in kind.refused(zero)] == [key]
    with pytest.raises(ConfigError, match=rf"{key}  is .* weight above 0"):
        kind(**zero)
    for weight in ("reconstruction", "quantization"):
        kind(**zero | {weight: 0.1})
    if kind is ContrastiveCalibration:
        kind(reconstruction=0, quantization=0)
