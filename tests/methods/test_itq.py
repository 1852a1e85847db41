"""ITQ: an example by hand, both kinds of update, refused options, and a whole run."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from deephash.config import checks
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError
from deephash.methods.itq import ITQ, update_rotation
from deephash.models.encoder import Encoder
from deephash.models.heads import MLP, BatchNorm, Linear
from deephash.models.projections import principal_axes, random_rotation
from tests.commands import run

CROSS = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]]).double()


def make_encoder(width, nbit, head=Linear, **options):
    options = {"bias": True} if head is Linear and not options else options
    return Encoder(nn.Identity(), head(width, nbit, **options))


def fit_method(features, nbit, seed=0, **options):
    method = ITQ(make_encoder(features.shape[1], nbit), nbit, len(features), seed, **options)
    method.fit(features.float())
    return method


def rotation_by(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]]).double()


def squared_error(components, rotation):
    """The squared distance of codes from their bits, averaged over the images."""
    codes = components @ rotation
    return (torch.where(codes >= 0, 1.0, -1.0) - codes).square().sum(dim=1).mean().item()


def hamming(codes):
    bits = (codes >= 0).float()
    return torch.cdist(bits, bits, p=1)


@pytest.fixture(scope="module")
def mixtures():
    """Principal components of three mixtures of 20 Gaussians: 3,000 x 128, 32 components."""
    result = []
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        means = torch.randn(20, 128, generator=rng, dtype=torch.float64)
        noise = torch.randn(3000, 128, generator=rng, dtype=torch.float64)
        x = means[torch.randint(0, 20, (3000,), generator=rng)] + noise
        mean, axes = principal_axes(x, 32)
        result.append((x - mean) @ axes.T)
    return result


# by hand


@pytest.mark.parametrize("degrees", [10, 30, 45, 80])
def test_update_by_hand(degrees):
    """The points (2, 0), (-2, 0), (0, 1), (0, -1), rotated by less than 90 degrees.

    Their bits are +-, -+, ++ and --, so V^T B is ((4, -4), (2, 2)). Its rows are orthogonal, so W
    is the identity and R has these rows at unit length: a rotation by 45 degrees. The codes are
    then the bits times 1.41 or 0.71, with distances 2 (1.41 - 1)^2 and 2 (1 - 0.71)^2.
    """
    rotation = update_rotation(CROSS, rotation_by(degrees))
    torch.testing.assert_close(rotation, rotation_by(45))
    assert squared_error(CROSS, rotation) == pytest.approx(4.5 - 3 * math.sqrt(2))
    assert squared_error(CROSS, rotation_by(0)) == 1.5  # (1, 1) from (2, 0), (1, 0) from (0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_fitted_head_by_hand(seed):
    """For all initial rotations; the bias subtracts the mean of the features."""
    features = CROSS + torch.tensor([3.0, -7])
    method = fit_method(features, 2, seed)
    with torch.no_grad():
        _, z = method.encoder(features.float())
    assert squared_error(z.double(), torch.eye(2).double()) == pytest.approx(0.2573593, abs=1e-6)
    assert hamming(z).tolist() == [[0, 2, 1, 1], [2, 0, 1, 1], [1, 1, 0, 2], [1, 1, 2, 0]]


# the update


def test_error_decreases_in_every_iteration(mixtures):
    """By about a sixth in total. Without a rotation (PCA hashing) the error is largest."""
    for seed, components in enumerate(mixtures):
        rotation = random_rotation(32, seed)
        errors = []
        for _ in range(100):
            errors.append(squared_error(components, rotation) / 32)
            rotation = update_rotation(components, rotation)
        assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))
        assert errors[2] < 0.93 * errors[0] and errors[-1] < 0.86 * errors[0]
        assert squared_error(components, torch.eye(32).double()) / 32 > 1.05 * errors[0]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(32).double())


def test_transposed_update_does_not_decrease_the_error(mixtures):
    for seed, components in enumerate(mixtures):
        rotation = random_rotation(32, seed)
        errors = []
        for _ in range(30):
            errors.append(squared_error(components, rotation) / 32)
            rotation = update_rotation(components, rotation, "transposed")
        assert max(errors) > errors[0] and min(errors[1:]) > 0.9 * errors[0]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(32).double())


def test_update_minimizes_the_distance_from_the_bits(mixtures):
    """Compared with 100 random rotations, for the bits of the previous rotation."""
    components, rotation = mixtures[0], random_rotation(32, 5)
    bits = torch.where(components @ rotation >= 0, 1.0, -1.0)
    best = (bits - components @ update_rotation(components, rotation)).square().sum()
    for seed in range(100):
        assert (bits - components @ random_rotation(32, seed)).square().sum() > best


def test_signs_of_axes_do_not_matter(mixtures):
    """If the initial rotation changes with them, the bits are the same."""
    components, rotation = mixtures[0], random_rotation(32, 0)
    signs = torch.where(torch.arange(32) % 3 == 0, -1.0, 1.0).double()
    expected = update_rotation(components, rotation)
    result = update_rotation(components * signs, signs[:, None] * rotation)
    torch.testing.assert_close(result, signs[:, None] * expected)
    assert torch.equal(hamming(components @ expected), hamming(components * signs @ result))


# the method


def test_codes_depend_on_the_seed_only():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    method, repeated, other_seed = fit_method(x, 6), fit_method(x, 6), fit_method(x, 6, seed=1)
    weights = [each.encoder.head.linear.weight for each in (method, repeated, other_seed)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    initial = fit_method(x, 6, iterations=0).encoder.head.linear.weight
    _, axes = principal_axes(x, 6)
    torch.testing.assert_close(initial.double(), random_rotation(6, 0).T @ axes, rtol=0, atol=1e-6)


def test_shifted_features_have_the_same_codes():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)).double()
    method, shifted_method = fit_method(x, 6), fit_method(x + 100, 6)
    with torch.no_grad():
        result, shifted = method.encoder(x.float())[1], shifted_method.encoder(x.float() + 100)[1]
    torch.testing.assert_close(result, shifted, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("width", "nbit", "images", "message"),
    [
        (8, 9, 50, r"model\.nbit  is 9, but the backbone has 8 features(.|\n)*model\.nbit=8"),
        (8, 4, 4, r"model\.nbit  is 4, but 4 training images(.|\n)*model\.nbit=3"),
    ],
)
def test_more_bits_than_components_are_refused(width, nbit, images, message):
    with pytest.raises(ConfigError, match=message):
        ITQ(make_encoder(width, nbit), nbit, images, 0)


@pytest.mark.parametrize(
    ("head", "options"), [(MLP, {}), (BatchNorm, {}), (Linear, {"bias": False})]
)
def test_other_heads_are_refused(head, options):
    with pytest.raises(ConfigError, match=r"method\.head  is|method\.head\.bias=true"):
        ITQ(make_encoder(8, 4, head, **options), 4, 50, 0)


# a run


def test_run_evaluate_and_skip(tmp_path):
    """A run has no epochs, its encoder reproduces the codes, and it is not repeated."""
    overrides = ("method=itq", "model.nbit=16", "logger=quiet")
    folder = tmp_path / "outputs/digits/itq/16bit/seed0"
    run(tmp_path, *overrides)
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["map"] > 0.5 and report["training"]["steps"] == 0
    assert report["codebook"] is None
    assert "the same" in run(tmp_path, f"run={folder}", "figures=false", script="evaluate.py")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "finished already" in run(tmp_path, *overrides)
    changed = {
        path.name for path in folder.iterdir() if path.stat().st_mtime_ns != before[path.name]
    }
    assert changed <= {"run.lock"}
    checkpoint = torch.load(folder / "best.pt", weights_only=True)
    assert any(key.endswith("head.linear.weight") for key in checkpoint["encoder"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer=sgd", "method=itq is fitted in closed form: it would do nothing"),
        ("trainer.epochs=5", "method=itq is fitted in closed form, without epochs"),
        ("loss=lmcl", "is not used by ITQ, the method here"),
        ("method.update=newest", "method.update"),
    ],
)
def test_options_without_effect_are_refused(override, message, composed):
    """Before data is opened."""
    overrides = ["method=itq", override]
    faults = checks.check_train(composed(*overrides), parse_all(overrides))
    assert any(message in f"{fault.key} {fault.message}" for fault in faults)
