"""Targets: only parts of the right kind are built, for any configuration."""

import sys

import pytest
import yaml
from hydra import compose

from deephash import runs
from deephash.config import build, checks, resolve, schema, targets
from deephash.errors import ConfigError, DataError
from tests.pages import composable

EVIL = (
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "deephashevil.Thing",
    "deephash.sweep.launchers.process.subprocess.Popen",
    "deephash.data.sources.basic.os.system",
    "deephash.config.run_identity.Path",
    "deephash.utils.files.write_text",
    "deephash.runs.folder.subprocess.Popen",
    "deephash.runs.folder",
    "deephash.utils.torch_files._Reader",
    "deephash.data.sources.Source",
    "deephash.loggers.jsonl.Jsonl",
    "deephash.runs.folder.RunFolder",
    "torch.utils.collect_env.subprocess.Popen",
    "torch.serialization.io.FileIO",
    "torch.hub.load",
    "torch.load",
    "torch.package.PackageImporter",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.module.OrderedDict",
    "torch.nn.Module.__init__",
    "torchvision.datasets.ImageFolder",
    "torchvision.models.get_model",
    "torch",
    "deephash",
    "",
    ".",
    "deephash..config",
    "deephash.config.resolve.",
    "deephash.nowhere.Thing",
    "torch.nn.nowhere.Thing",
)
PLACES = (
    "dataset.source",
    "dataset.catalog",
    "dataset.protocols.59k",
    "dataset.recipes.drawn",
    "dataset.transforms.train.0",
    "backbone",
    "method.head",
    "method.relaxation",
    "method.codebook",
    "method.similarity",
    "method.loss",
    "optimizer",
    "scheduler",
    "hydra.launcher",
)


@pytest.mark.parametrize("target", EVIL)
@pytest.mark.parametrize("place", PLACES)
def test_foreign_code_and_other_kinds_are_refused(place, target):
    with pytest.raises(ConfigError) as raised:
        targets.locate(target, place)
    assert f"{place}._target_" in str(raised.value)


@pytest.mark.parametrize("target", [5, None, ["a"], {"a": 1}])
def test_a_target_that_is_no_text_is_refused(target):
    with pytest.raises(ConfigError, match="not a part"):
        targets.locate(target, "backbone")


def test_a_logger_may_not_be_something_else():
    assert targets.locate("deephash.loggers.Console", "logger.console")
    with pytest.raises(ConfigError, match="is not a logger"):
        targets.locate("deephash.runs.folder.RunFolder", "logger.x")


@pytest.mark.parametrize("place", ["loss", "dataset.foo", "trainer", "method.extra", "x.y"])
def test_no_part_stands_at_another_place(place):
    with pytest.raises(ConfigError, match="no part can stand here"):
        targets.locate("deephash.models.similarities.Cosine", place)


def test_nothing_is_imported_for_a_target_outside():
    module = "turtledemo"
    sys.modules.pop(module, None)
    with pytest.raises(ConfigError):
        targets.locate(f"{module}.Thing", "backbone")
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("torch.optim.AdamW", "optimizer"),
        ("torch.optim.sgd.SGD", "optimizer"),
        ("torch.nn.Tanh", "method.relaxation"),
        ("deephash.models.heads.Linear", "method.head"),
        ("deephash.data.splits.PerClass", "dataset.protocols.x"),
    ],
)
def test_what_is_of_the_right_kind_is_found(target, place):
    assert targets.locate(target, place).__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize(
    ("target", "place", "message"),
    [
        ("torch.nn.Linear", "method.head", "does not take nbit"),
        ("deephash.models.similarities.Cosine", "method.codebook", "does not take num_classes"),
        ("deephash.models.heads.Linear", "method.loss", "has no needs"),
        ("torch.nn.Linear", "dataset.source", "is not a source of images"),
        ("deephash.training.schedules.StepDecay", "dataset.transforms.test.0", "is not a step"),
        ("deephash.data.transforms.Normalize", "scheduler", "has no factor"),
    ],
)
def test_the_message_names_what_is_expected(target, place, message):
    with pytest.raises(ConfigError, match=message):
        targets.locate(target, place)


@pytest.fixture(scope="module")
def digits():
    with composable():
        return resolve.resolve(compose("train", overrides=[])), resolve.resolve(compose("evaluate"))


def put(cfg, place, node):
    """Put a node at a place of a configuration that is made of mappings and lists."""
    *path, last = place.split(".")
    for piece in path:
        cfg = cfg[int(piece)] if isinstance(cfg, list) else cfg[piece]
    cfg[int(last) if isinstance(cfg, list) else last] = node


@pytest.mark.parametrize(
    "place",
    ["dataset.source", "dataset.transforms.test.0", "backbone", "method.head", "dataset.protocols"],
)
@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "deephash.sweep.launchers.process.subprocess.Popen", "args": ["touch", "ran"]},
        {"_target_": "torch.utils.collect_env.subprocess.Popen", "args": ["touch", "ran"]},
        {"_target_": "torch.serialization.io.FileIO", "file": "kept", "mode": "w"},
        {"_target_": "deephash.loggers.jsonl.Jsonl", "path": "ran"},
    ],
)
def test_an_untrusted_run_folder_builds_nothing_else(digits, place, node, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_text("text")
    ran, page = digits
    ran = yaml.safe_load(yaml.safe_dump(ran))
    if place == "dataset.protocols":
        place += f".{ran['dataset']['protocol']}"
    put(ran, place, node)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(ran))
    with pytest.raises(ConfigError, match="nothing was loaded or written"):
        runs.evaluate(checks.parse_page(schema.Evaluate, {**page, "run": "run"}))
    with pytest.raises(ConfigError):
        build.part(node, place)
    assert not (tmp_path / "ran").exists() and (tmp_path / "kept").read_text() == "text"
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"config.yaml"}


@pytest.fixture
def stranger(digits, tmp_path, monkeypatch):
    """Make a run folder whose configuration was changed, and the page that evaluates it."""
    monkeypatch.chdir(tmp_path)

    def make(**changes):
        ran, page = digits
        ran = yaml.safe_load(yaml.safe_dump(ran))
        for place, value in changes.items():
            put(ran, place, value)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(ran))
        return checks.parse_page(schema.Evaluate, {**page, "run": "run"})

    return make


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        ("model.nbit", -5, "model.nbit"),
        ("model.nbit", 10**9, "model.nbit"),
        ("evaluation.tops", "abc", "evaluation.tops"),
        ("dataset.protocol", "zz", "dataset.protocol"),
        ("dataset.classes", 5, "dataset.classes"),
        ("dataset.transforms.train", [{}], "dataset.transforms.train.0"),
        ("trainer.precision", "foo", "trainer.precision"),
        ("evaluation.centred", "x", "evaluation.centred"),
        ("seed", -1, "seed"),
    ],
)
def test_values_of_a_run_folder_are_checked_before_anything_is_built(stranger, place, value, key):
    with pytest.raises(ConfigError, match=rf"(?m)^  {key} .*"):
        runs.evaluate(stranger(**{place: value}))


def test_an_encoder_larger_than_its_checkpoint_is_not_built(stranger, tmp_path):
    page = stranger(**{"backbone.width": 1024})
    (tmp_path / "run" / "best.pt").write_bytes(b"x" * 1000)
    with pytest.raises(ConfigError, match="do not belong together"):
        runs.evaluate(page)


def test_a_run_folder_downloads_nothing(stranger, tmp_path, monkeypatch):
    def download(*arguments, **options):
        raise AssertionError("it downloads")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", download)
    source = {
        "_target_": "deephash.data.sources.Cifar",
        "name": "cifar10",
        "root": str(tmp_path / "elsewhere"),
    }
    page = stranger(**{"dataset.source": source})
    (tmp_path / "run" / "best.pt").touch()  # or it would be missed first
    with pytest.raises(DataError):  # though `download` is true where it is not given
        runs.evaluate(page)
    assert not (tmp_path / "elsewhere").exists()


def test_an_encoder_that_a_checkpoint_fills_downloads_no_weights(monkeypatch):
    def download(*arguments, **options):
        raise AssertionError("it downloads")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    node = {"_target_": "deephash.models.backbones.Torchvision", "name": "alexnet"}
    assert build.backbone(node, pretrained=False) is not None


@pytest.mark.parametrize("name", ["../../x", "", "/abs"])
def test_another_dataset_of_an_evaluation_has_a_plain_name(digits, name):
    ran, page = digits
    dataset = {**ran["dataset"], "name": name}
    faults = checks.check_evaluate({**page, "run": "run", "dataset": dataset})
    assert [fault.key for fault in faults] == ["dataset.name"]
