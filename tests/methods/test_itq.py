"""ITQ: a case by hand, the published update and the one of later code, and what is refused."""

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


def encoder(width, nbit, head=Linear, **options):
    options = {"bias": True} if head is Linear and not options else options
    return Encoder(nn.Identity(), head(width, nbit, **options))


def fitted(features, nbit, seed=0, **options):
    method = ITQ(encoder(features.shape[1], nbit), nbit, len(features), seed, **options)
    method.fit(features.float())
    return method


def turn(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]]).double()


def error(components, rotation):
    """The mean over the images of the squared distance from their bits."""
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
        draw = torch.Generator().manual_seed(seed)
        means = torch.randn(20, 128, generator=draw, dtype=torch.float64)
        noise = torch.randn(3000, 128, generator=draw, dtype=torch.float64)
        x = means[torch.randint(0, 20, (3000,), generator=draw)] + noise
        mean, axes = principal_axes(x, 32)
        result.append((x - mean) @ axes.T)
    return result


# by hand


@pytest.mark.parametrize("degrees", [10, 30, 45, 80])
def test_one_update_by_hand(degrees):
    """The cross (2, 0), (-2, 0), (0, 1), (0, -1), turned by less than a right angle.

    Its bits are +-, -+, ++ and --, so V^T B is ((4, -4), (2, 2)): its rows are orthogonal, W is the
    identity and R these rows at unit length, a turn by 45 degrees. The codes are then the corners
    times 1.41 or 0.71: 2 (1.41 - 1)^2 and 2 (1 - 0.71)^2 away from their bits.
    """
    result = update_rotation(CROSS, turn(degrees))
    torch.testing.assert_close(result, turn(45))
    assert error(CROSS, result) == pytest.approx(4.5 - 3 * math.sqrt(2))
    assert error(CROSS, turn(0)) == 1.5  # (1, 1) from (2, 0), (1, 0) from (0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_head_holds_center_axes_and_rotation(seed):
    """From any first rotation; the center of the features is subtracted by the bias."""
    features = CROSS + torch.tensor([3.0, -7])
    method = fitted(features, 2, seed)
    with torch.no_grad():
        _, z = method.encoder(features.float())
    assert error(z.double(), torch.eye(2).double()) == pytest.approx(0.2573593, abs=1e-6)
    assert hamming(z).tolist() == [[0, 2, 1, 1], [2, 0, 1, 1], [1, 1, 0, 2], [1, 1, 2, 0]]


# the update


def test_the_error_falls_in_every_iteration(mixtures):
    """By a sixth here. Without a rotation (PCA hashing) it is the largest."""
    for seed, components in enumerate(mixtures):
        rotation = random_rotation(32, seed)
        errors = []
        for _ in range(100):
            errors.append(error(components, rotation) / 32)
            rotation = update_rotation(components, rotation)
        assert all(later <= before + 1e-12 for before, later in itertools.pairwise(errors))
        assert errors[2] < 0.93 * errors[0] and errors[-1] < 0.86 * errors[0]
        assert error(components, torch.eye(32).double()) / 32 > 1.05 * errors[0]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(32).double())


def test_the_update_of_later_code_stays_a_random_rotation(mixtures):
    for seed, components in enumerate(mixtures):
        rotation = random_rotation(32, seed)
        errors = []
        for _ in range(30):
            errors.append(error(components, rotation) / 32)
            rotation = update_rotation(components, rotation, "transposed")
        assert max(errors) > errors[0] and min(errors[1:]) > 0.9 * errors[0]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(32).double())


def test_an_update_is_the_best_rotation_for_its_bits(mixtures):
    """No other one of a hundred is nearer to the bits that the old rotation gave."""
    components, old = mixtures[0], random_rotation(32, 5)
    bits = torch.where(components @ old >= 0, 1.0, -1.0)
    best = (bits - components @ update_rotation(components, old)).square().sum()
    for seed in range(100):
        assert (bits - components @ random_rotation(32, seed)).square().sum() > best


def test_the_signs_of_axes_do_not_matter(mixtures):
    """They turn with the first rotation, and the bits stay."""
    components, rotation = mixtures[0], random_rotation(32, 0)
    signs = torch.where(torch.arange(32) % 3 == 0, -1.0, 1.0).double()
    one, two = (
        update_rotation(components, rotation),
        update_rotation(components * signs, signs[:, None] * rotation),
    )
    torch.testing.assert_close(two, signs[:, None] * one)
    assert torch.equal(hamming(components @ one), hamming(components * signs @ two))


# the method


def test_it_is_drawn_from_the_seed_alone():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    one, two, other = fitted(x, 6), fitted(x, 6), fitted(x, 6, seed=1)
    weights = [each.encoder.head.linear.weight for each in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    start = fitted(x, 6, iterations=0).encoder.head.linear.weight
    _, axes = principal_axes(x, 6)
    torch.testing.assert_close(start.double(), random_rotation(6, 0).T @ axes, rtol=0, atol=1e-6)


def test_shifted_features_have_the_same_codes():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)).double()
    one, two = fitted(x, 6), fitted(x + 100, 6)
    with torch.no_grad():
        result, shifted = one.encoder(x.float())[1], two.encoder(x.float() + 100)[1]
    torch.testing.assert_close(result, shifted, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("width", "nbit", "images", "said"),
    [
        (8, 9, 50, r"model\.nbit  is 9, but the backbone has 8 features(.|\n)*model\.nbit=8"),
        (8, 4, 4, r"model\.nbit  is 4, but 4 training images(.|\n)*model\.nbit=3"),
    ],
)
def test_more_bits_than_components_are_refused(width, nbit, images, said):
    with pytest.raises(ConfigError, match=said):
        ITQ(encoder(width, nbit), nbit, images, 0)


@pytest.mark.parametrize(
    ("head", "options"), [(MLP, {}), (BatchNorm, {}), (Linear, {"bias": False})]
)
def test_another_head_is_refused(head, options):
    with pytest.raises(ConfigError, match=r"method\.head  is|method\.head\.bias=true"):
        ITQ(encoder(8, 4, head, **options), 4, 50, 0)


# a run


def test_a_run_has_no_epoch_and_its_encoder_gives_the_codes(tmp_path):
    """It is fitted once, evaluated, and found finished."""
    line = ("method=itq", "model.nbit=16", "logger=quiet")
    folder = tmp_path / "outputs/digits/itq/16bit/seed0"
    run(tmp_path, *line)
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["map"] > 0.5 and report["training"]["steps"] == 0
    assert report["codebook"] is None
    assert "the same" in run(tmp_path, f"run={folder}", "figures=false", script="evaluate.py")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "finished already" in run(tmp_path, *line)
    changed = {
        path.name for path in folder.iterdir() if path.stat().st_mtime_ns != before[path.name]
    }
    assert changed <= {"run.lock"}
    again = torch.load(folder / "best.pt", weights_only=True)
    assert any(key.endswith("head.linear.weight") for key in again["encoder"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer=sgd", "method=itq is fitted in closed form: it would do nothing"),
        ("trainer.epochs=5", "method=itq is fitted in closed form, without epochs"),
        ("loss=lmcl", "is not used by ITQ, the method here"),
        ("method.update=newest", "method.update"),
    ],
)
def test_what_would_do_nothing_is_refused(word, said, composed):
    """Before data are opened."""
    words = ["method=itq", word]
    faults = checks.check_train(composed(*words), parse_all(words))
    assert any(said in f"{fault.key} {fault.message}" for fault in faults)
