"""All methods that are fitted in closed form: their promises, data of all kinds, and hard cases."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn

from deephash import runs
from deephash.config import build, checks, resolve, schema
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
from tests.methods.worked import CONF, LEARNING, METHODS, method_class
from tests.pages import typed

CLOSED = [name for name in METHODS if name not in LEARNING]
FEW = {"imh": ["method.head.anchors=20", "method.perplexity=5"]}
SMALL = ["trainer.device=cpu", "logger=quiet", "model.nbit=8"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """PCA in place of t-SNE, which ``test_imh`` has and which takes seconds, and one thread."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)

    def tsne(points, nbit, perplexity, seed):
        codes = components(points, *principal_axes(points, nbit))
        turn = torch.randn(nbit, nbit, generator=torch.Generator().manual_seed(seed))
        return codes.float() @ turn

    monkeypatch.setattr("deephash.methods.imh.tsne", tsne)


def linear(kind, features, nbit, **options):
    """A method fitted to features, with a linear head."""
    head = Linear(features.shape[1], nbit, bias=True)
    method = kind(Encoder(nn.Identity(), head), nbit=nbit, **options)
    method.fit(features)
    return method


def made(name, features, nbit, seed=0):
    """A method by its name, fitted."""
    width, count = features.shape[1], len(features)
    if name == "sh":
        method = SH(Encoder(nn.Identity(), Waves(width, nbit)), nbit)
        method.fit(features)
        return method
    if name == "imh":
        encoder = Encoder(nn.Identity(), Anchors(width, nbit, 20, bandwidth="mean"))
        method = IMH(encoder, nbit, count, seed, perplexity=5.0)
        method.fit(features)
        return method
    options = {"itq": {"seed": seed, "num_train": count}, "pcah": {"num_train": count},
               "pca_rr": {"seed": seed, "num_train": count},
               "lsh": {"seed": seed, "center": True}}  # fmt: skip
    kinds = {"itq": ITQ, "pcah": PCAH, "pca_rr": PCARR, "lsh": LSH}
    return linear(kinds[name], features, nbit, **options[name])


@torch.no_grad()
def coded(method, features):
    return method.encoder.encode(features)


def hamming(codes):
    bits = (codes >= 0).double()
    return torch.cdist(bits, bits, p=1).round()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixture(images=1500, width=64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(20, width, generator=draw)
    chosen = torch.randint(0, 20, (images,), generator=draw)
    return means[chosen] + torch.randn(images, width, generator=draw)


# what they promise


def test_these_are_the_shallow_methods():
    assert set(CLOSED) >= {"lsh", "pcah", "pca_rr", "itq", "sh", "imh"}


@pytest.mark.parametrize("name", CLOSED)
def test_nothing_is_learned_and_no_label_is_read(name, composed):
    kind = method_class(name)
    assert issubclass(kind, ClosedForm) and not kind.learns and not kind.labels
    cfg = composed(f"method={name}", *FEW.get(name, ()))
    assert cfg["optimizer"] is None and cfg["scheduler"] is None and cfg["trainer"]["epochs"] == 0
    assert checks.check_train(cfg) == []


@pytest.mark.parametrize("name", CLOSED)
def test_another_head_is_refused(name, composed):
    """Before data are opened, and by the constructor."""
    words = [f"method={name}", "head=mlp"]
    faults = checks.check_train(composed(*words), parse_all(words))
    assert [fault.key for fault in faults] == ["method.head"] and "is MLP" in faults[0].message
    kind = method_class(name)
    values = {"nbit": 4, "num_train": 50, "seed": 0}
    values = {key: values[key] for key in values if key in kind.__init__.__code__.co_varnames}
    for head in (MLP(8, 4), BatchNorm(8, 4)):
        with pytest.raises(ConfigError, match=r"method\.head"):
            kind(Encoder(nn.Identity(), head), **values)


@pytest.mark.parametrize("name", ["lsh", "pcah", "pca_rr", "itq"])
@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["method.head.bias=false"], "method.head.bias"),
        (["head=linear"], "head.bias"),
    ],
)
def test_a_head_without_a_bias_is_refused_before_data_are_opened(name, words, key, composed):
    line = [f"method={name}", *words]
    faults = checks.check_train(composed(*line), parse_all(line))
    assert [(fault.key, fault.hint) for fault in faults] == [(key, f"Type {key}=true.")]


@pytest.mark.parametrize("name", CLOSED)
def test_the_seed_decides(name):
    x = mixture(200, 12)
    one, two = (coded(made(name, x, 4), x) for _ in range(2))
    assert torch.equal(one, two)
    other = coded(made(name, x, 4, seed=1), x)
    assert torch.equal(one, other) == (name in ("pcah", "sh"))  # which draw nothing


@pytest.mark.parametrize("name", CLOSED)
def test_a_checkpoint_holds_all_that_codes_need(name, composed):
    words = ["dataset=digits", "model.nbit=4", "backbone.width=2", f"method={name}",
             *FEW.get(name, ())]  # fmt: skip
    one, two = (build.method(typed(composed(*words, f"seed={seed}")), 10, 50) for seed in (0, 1))
    x = mixture(50, 32)
    if one.wants_features:
        one.fit(x)
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one.encoder.head(x), two.encoder.head(x))


@pytest.mark.parametrize("name", CLOSED)
def test_features_are_not_changed(name):
    x = mixture(100, 12)
    before = x.clone()
    made(name, x, 4)
    assert torch.equal(x, before)


# what the projections of principal components have in common


def test_itq_is_closer_to_its_bits_than_pca_rr_and_that_than_pcah():
    """The mean squared distance of codes from bits; the order of the ITQ paper."""
    for seed in range(3):
        x = mixture(seed=seed)
        error = {}
        for name in ("itq", "pca_rr", "pcah"):
            codes = coded(made(name, x, 16, seed), x)
            error[name] = (torch.where(codes >= 0, 1.0, -1.0) - codes).square().mean().item()
        assert error["itq"] < 0.97 * error["pca_rr"] and error["pca_rr"] < error["pcah"]


@pytest.mark.parametrize("name", ["pcah", "sh"])
def test_hamming_distances_do_not_depend_on_the_signs_of_axes(name, monkeypatch):
    x = mixture(300, 24)
    expected = hamming(coded(made(name, x, 12), x))
    signs = torch.where(torch.arange(12) % 3 == 0, -1.0, 1.0).double()[:, None]

    def turned(features, count):
        mean, axes = principal_axes(features, count)
        return mean, axes * signs

    monkeypatch.setattr(f"deephash.methods.{name}.principal_axes", turned)
    result = hamming(coded(made(name, x, 12), x))
    assert (result != expected).double().mean() < 1e-4  # a code at 0 may fall to either side


@pytest.mark.parametrize("name", ["itq", "pca_rr", "pcah"])
@pytest.mark.parametrize(("nbit", "images", "said"), [(9, 50, "9.*8 features"), (8, 8, "8.*8 tra")])
def test_more_bits_than_components_are_refused(name, nbit, images, said):
    with pytest.raises(ConfigError, match=rf"model\.nbit  is {said}"):
        made(name, drawn(images, 8), nbit)


# hard cases


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("kind", ["constant", "a constant column", "duplicates", "tiny", "huge"])
def test_degenerate_features_give_finite_codes_or_a_sentence(name, kind):
    x = {"constant": torch.ones(60, 12), "a constant column": drawn(60, 12),
         "duplicates": drawn(30, 12).repeat(2, 1), "tiny": drawn(60, 12) * 1e-20,
         "huge": drawn(60, 12) * 1e8}[kind]  # fmt: skip
    if kind == "a constant column":
        x[:, 3] = 5.0
    if name == "imh" and kind == "constant":
        with pytest.raises(ConfigError, match=r"20, but .* 1 distinct.*\n.*anchors=1 "):
            made(name, x, 4)
        return
    if name == "imh" and kind == "tiny":  # squared distances are 0 in float32
        return
    assert coded(made(name, x, 4), x).isfinite().all()


@pytest.mark.parametrize("name", CLOSED)
def test_equal_images_have_equal_codes(name):
    x = mixture(100, 12)
    codes = coded(made(name, x, 4), torch.cat([x, x]))
    torch.testing.assert_close(codes[:100], codes[100:])


@pytest.mark.parametrize("name", CLOSED)
def test_codes_do_not_suffer_from_autocast(name):
    """Phases and squared distances in bfloat16 would be wrong altogether."""
    x = mixture(400, 32)
    method = made(name, x, 16)
    expected = coded(method, x) >= 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = coded(method, x) >= 0
    wrong = (result != expected).float().mean().item()
    assert wrong == 0 if name in ("sh", "imh") else wrong < 0.01


# whole runs


@pytest.fixture(scope="module", autouse=True)
def pages():
    schema.register()


def train(folder, *words):
    words = [*SMALL, f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache", *words]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = resolve.resolve(compose("train", overrides=words), parse_all(words))
    report = runs.train(checks.parse_page(schema.Train, cfg, parse_all(words)), parse_all(words))
    return report, folder / "outputs" / report["run"]


@pytest.mark.parametrize("name", CLOSED)
def test_a_run_on_digits(name, tmp_path):
    """Better than chance, 0.1, in every case."""
    report, folder = train(tmp_path, "dataset=digits", f"method={name}", "backbone.width=8",
                           *FEW.get(name, ()))  # fmt: skip
    assert report["metrics"]["map"] > 0.15
    assert report["training"]["steps"] == 0 and report["selection"]["selected_epoch"] == 0
    assert json.loads((folder / "report.json").read_text())["method"] == name


@pytest.mark.parametrize("name", CLOSED)
def test_a_run_on_features_without_labels(name, tmp_path):
    x = mixture(150, 16).numpy()
    root = tmp_path / "features"
    root.mkdir()
    for role, rows in (("train", x[:100]), ("test", x[100:]), ("database", x[:100])):
        np.save(root / f"{role}.npy", rows)
    report, _ = train(tmp_path, "dataset=features", f"dataset.root={root}", f"method={name}",
                      *FEW.get(name, ()))  # fmt: skip
    assert report["metrics"]["map"] is None and report["protocol"]["num_classes"] == 0
    assert report["metrics"]["codes"]["bits"]["distinct_codes"] > 10


@pytest.mark.parametrize("name", CLOSED)
def test_a_run_on_a_folder_without_labels(name, tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for at in range(40):
        pixels = np.random.default_rng(at).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(np.kron(pixels, np.ones((2, 2, 1), np.uint8))).save(root / f"{at}.png")
    report, _ = train(tmp_path, "dataset=folder", f"dataset.root={root}", f"method={name}",
                      "dataset.protocol=drawn", "dataset.protocols.drawn.queries=8",
                      "dataset.size=16", "dataset.source.size=16", "backbone=tiny",
                      "backbone.width=4", *FEW.get(name, ()))  # fmt: skip
    assert report["metrics"]["map"] is None and report["protocol"]["num_train"] == 32


def test_components_are_those_of_the_head():
    """In float32, by a naive computation in float64."""
    x = mixture(200, 24) + 3
    mean, axes = principal_axes(x, 8)
    torch.testing.assert_close(
        coded(made("pcah", x, 8), x).double(), components(x, mean, axes), rtol=1e-4, atol=1e-4
    )
