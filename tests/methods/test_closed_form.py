"""All methods that are fitted in closed form: interface, degenerate features, whole runs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deephash import runs
from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError
from deephash.methods.closed_form import ClosedForm
from deephash.methods.imh import IMH, Anchors
from deephash.methods.itq import ITQ
from deephash.methods.lsh import LSH
from deephash.methods.pca_rr import PCARR
from deephash.methods.pcah import PCAH
from deephash.methods.sh import SH, Waves
from deephash.models.encoder import Encoder
from deephash.models.heads import MLP, BatchNorm, Linear
from deephash.models.projections import components, principal_axes
from tests.methods.worked import LEARNING, METHODS, method_class
from tests.pages import composable, job, typed

CLOSED_FORM = [name for name in METHODS if name not in LEARNING]
FEW_ANCHORS = {"imh": ["method.head.anchors=20", "method.perplexity=5"]}
RUN_OPTIONS = ["trainer.device=cpu", "logger=quiet", "model.nbit=8"]


@pytest.fixture(autouse=True)
def fast_tsne(monkeypatch, without_curves):
    """Replace t-SNE, which takes seconds and is tested in ``test_imh``, by PCA; use one thread."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)

    def tsne(points, nbit, perplexity, seed):
        codes = components(points, *principal_axes(points, nbit))
        rotation = torch.randn(nbit, nbit, generator=torch.Generator().manual_seed(seed))
        return codes.float() @ rotation

    monkeypatch.setattr("deephash.methods.imh.tsne", tsne)


def fit_method(name, features, nbit, seed=0):
    """Build a method by its name, and fit it to features."""
    width, count = features.shape[1], len(features)
    heads = {
        "imh": lambda: Anchors(width, nbit, 20, bandwidth="mean"),
        "sh": lambda: Waves(width, nbit),
    }
    head = heads[name]() if name in heads else Linear(width, nbit, bias=True)
    encoder = Encoder(nn.Identity(), head)
    methods = {
        "imh": lambda: IMH(encoder, nbit, count, seed, perplexity=5.0),
        "itq": lambda: ITQ(encoder, nbit, count, seed),
        "lsh": lambda: LSH(encoder, nbit, seed, center=True),
        "pca_rr": lambda: PCARR(encoder, nbit, count, seed),
        "pcah": lambda: PCAH(encoder, nbit, count),
        "sh": lambda: SH(encoder, nbit),
    }
    method = methods[name]()
    method.fit(features)
    return method


@torch.no_grad()
def codes_of(method, features):
    return method.encoder.encode(features)


def hamming(codes):
    bits = (codes >= 0).double()
    return torch.cdist(bits, bits, p=1).round()


def random_features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_mixture(images=1500, width=64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(20, width, generator=rng)
    chosen = torch.randint(0, 20, (images,), generator=rng)
    return means[chosen] + torch.randn(images, width, generator=rng)


# interface


def test_list_of_closed_form_methods():
    assert set(CLOSED_FORM) >= {"lsh", "pcah", "pca_rr", "itq", "sh", "imh"}


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_closed_form_methods_have_no_optimizer_and_read_no_labels(name, composed):
    method_type = method_class(name)
    assert issubclass(method_type, ClosedForm) and not method_type.learns and not method_type.labels
    cfg = composed(f"method={name}", *FEW_ANCHORS.get(name, ()))
    assert cfg["optimizer"] is None and cfg["scheduler"] is None and cfg["trainer"]["epochs"] == 0
    assert checks.check_train(cfg) == []


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_other_heads_are_refused(name, composed):
    """By the check, before data is opened, and by the constructor."""
    overrides = [f"method={name}", "head=mlp"]
    faults = checks.check_train(composed(*overrides), parse_all(overrides))
    assert [fault.key for fault in faults] == ["method.head"] and "is MLP" in faults[0].message
    method_type = method_class(name)
    values = {"nbit": 4, "num_train": 50, "seed": 0}
    values = {
        key: values[key] for key in values if key in method_type.__init__.__code__.co_varnames
    }
    for head in (MLP(8, 4), BatchNorm(8, 4)):
        with pytest.raises(ConfigError, match=r"method\.head"):
            method_type(Encoder(nn.Identity(), head), **values)


@pytest.mark.parametrize("name", ["lsh", "pcah", "pca_rr", "itq"])
@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["method.head.bias=false"], "method.head.bias"),
        (["head=linear"], "head.bias"),
    ],
)
def test_head_without_bias_is_refused_by_the_check(name, options, key, composed):
    overrides = [f"method={name}", *options]
    faults = checks.check_train(composed(*overrides), parse_all(overrides))
    assert [(fault.key, fault.hint) for fault in faults] == [(key, f"Type {key}=true.")]


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_codes_depend_on_the_seed(name):
    x = random_mixture(200, 12)
    codes, repeated = (codes_of(fit_method(name, x, 4), x) for _ in range(2))
    assert torch.equal(codes, repeated)
    other_seed = codes_of(fit_method(name, x, 4, seed=1), x)
    assert torch.equal(codes, other_seed) == (name in ("pcah", "sh"))  # which are not random


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_state_dict_restores_codes(name, composed):
    overrides = ["dataset=digits", "model.nbit=4", "backbone.width=2", f"method={name}",
             *FEW_ANCHORS.get(name, ())]  # fmt: skip
    method, restored = (
        build.method(typed(composed(*overrides, f"seed={seed}")), 10, 50) for seed in (0, 1)
    )
    x = random_mixture(50, 32)
    if method.wants_features:
        method.fit(x)
    restored.load_state_dict(method.state_dict())
    with torch.no_grad():
        assert torch.equal(method.encoder.head(x), restored.encoder.head(x))


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_fit_does_not_modify_features(name):
    x = random_mixture(100, 12)
    before = x.clone()
    fit_method(name, x, 4)
    assert torch.equal(x, before)


# projections onto principal components


def test_quantization_error_of_itq_pca_rr_and_pcah():
    """The mean squared distances of codes from bits have the order of the ITQ paper."""
    for seed in range(3):
        x = random_mixture(seed=seed)
        error = {}
        for name in ("itq", "pca_rr", "pcah"):
            codes = codes_of(fit_method(name, x, 16, seed), x)
            error[name] = (torch.where(codes >= 0, 1.0, -1.0) - codes).square().mean().item()
        assert error["itq"] < 0.97 * error["pca_rr"] and error["pca_rr"] < error["pcah"]


@pytest.mark.parametrize("name", ["pcah", "sh"])
def test_signs_of_axes_do_not_change_hamming_distances(name, monkeypatch):
    x = random_mixture(300, 24)
    expected = hamming(codes_of(fit_method(name, x, 12), x))
    signs = torch.where(torch.arange(12) % 3 == 0, -1.0, 1.0).double()[:, None]

    def flipped_axes(features, count):
        mean, axes = principal_axes(features, count)
        return mean, axes * signs

    monkeypatch.setattr(f"deephash.methods.{name}.principal_axes", flipped_axes)
    result = hamming(codes_of(fit_method(name, x, 12), x))
    assert (result != expected).double().mean() < 1e-4  # the sign of a code near 0 can differ


@pytest.mark.parametrize("name", ["itq", "pca_rr", "pcah"])
@pytest.mark.parametrize(
    ("nbit", "images", "message"), [(9, 50, "9.*8 features"), (8, 8, "8.*8 tra")]
)
def test_more_bits_than_components_are_refused(name, nbit, images, message):
    with pytest.raises(ConfigError, match=rf"model\.nbit  is {message}"):
        fit_method(name, random_features(images, 8), nbit)


# degenerate features


@pytest.mark.parametrize("name", CLOSED_FORM)
@pytest.mark.parametrize("kind", ["constant", "a constant column", "duplicates", "tiny", "huge"])
def test_degenerate_features(name, kind):
    features = {
        "constant": torch.ones(60, 12),
        "a constant column": random_features(60, 12),
        "duplicates": random_features(30, 12).repeat(2, 1),
        "tiny": random_features(60, 12) * 1e-20,
        "huge": random_features(60, 12) * 1e8,
    }
    x = features[kind]
    if kind == "a constant column":
        x[:, 3] = 5.0
    if name == "imh" and kind == "constant":
        with pytest.raises(ConfigError, match=r"20, but .* 1 distinct.*\n.*anchors=1 "):
            fit_method(name, x, 4)
        return
    if name == "imh" and kind == "tiny":  # squared distances are 0 in float32
        return
    assert codes_of(fit_method(name, x, 4), x).isfinite().all()


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_equal_images_have_equal_codes(name):
    x = random_mixture(100, 12)
    codes = codes_of(fit_method(name, x, 4), torch.cat([x, x]))
    torch.testing.assert_close(codes[:100], codes[100:])


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_codes_under_autocast(name):
    """Phases and squared distances would be wrong in bfloat16."""
    x = random_mixture(400, 32)
    method = fit_method(name, x, 16)
    expected = codes_of(method, x) >= 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = codes_of(method, x) >= 0
    different = (result != expected).float().mean().item()
    assert different == 0 if name in ("sh", "imh") else different < 0.01


# whole runs


def train(folder, *overrides):
    overrides = [
        *RUN_OPTIONS,
        f"paths.outputs={folder}/outputs",
        f"paths.cache={folder}/cache",
        *overrides,
    ]
    with composable():
        report = runs.train(*job("train", overrides))
    return report, folder / "outputs" / report["run"]


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_run_on_digits(name, tmp_path):
    """The mAP exceeds that of random codes, 0.1."""
    report, folder = train(tmp_path, "dataset=digits", f"method={name}", "backbone.width=8",
                           *FEW_ANCHORS.get(name, ()))  # fmt: skip
    assert report["metrics"]["map"] > 0.15
    assert report["training"]["steps"] == 0 and report["selection"]["selected_epoch"] == 0
    assert json.loads((folder / "report.json").read_text())["method"] == name


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_run_on_features_without_labels(name, tmp_path):
    x = random_mixture(150, 16).numpy()
    root = tmp_path / "features"
    root.mkdir()
    for role, rows in (("train", x[:100]), ("test", x[100:]), ("database", x[:100])):
        np.save(root / f"{role}.npy", rows)
    report, _ = train(tmp_path, "dataset=features", f"dataset.root={root}", f"method={name}",
                      *FEW_ANCHORS.get(name, ()))  # fmt: skip
    assert report["metrics"]["map"] is None and report["protocol"]["num_classes"] == 0
    assert report["metrics"]["codes"]["bits"]["distinct_codes"] > 10


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_run_on_a_folder_without_labels(name, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for index in range(40):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(np.kron(pixels, np.ones((2, 2, 1), np.uint8))).save(root / f"{index}.png")
    report, _ = train(tmp_path, "dataset=folder", f"dataset.root={root}", f"method={name}",
                      "dataset.protocol=drawn", "dataset.protocols.drawn.queries=8",
                      "dataset.size=16", "dataset.source.size=16", "backbone=tiny",
                      "backbone.width=4", *FEW_ANCHORS.get(name, ()))  # fmt: skip
    assert report["metrics"]["map"] is None and report["protocol"]["num_train"] == 32


def test_pcah_codes_are_principal_components():
    """Compared in float64."""
    x = random_mixture(200, 24) + 3
    mean, axes = principal_axes(x, 8)
    torch.testing.assert_close(
        codes_of(fit_method("pcah", x, 8), x).double(),
        components(x, mean, axes),
        rtol=1e-4,
        atol=1e-4,
    )
