"""Packages of other authors: docs/extending.md as it stands, and what is refused."""

import json
import re
import shlex
import sys
import textwrap

import pytest
import torch

import deephash
from deephash.config import checks, composition, overrides, plugins, run_identity, schema, targets
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError
from deephash.runs.evaluate_run import measure
from deephash.training import checkpoint
from tests.commands import run
from tests.paths import ROOT

CONF = ROOT / "conf"
PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """``(files) ->`` a package of its own in the current folder; nothing of it stays afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(targets, "_plugins", [])
    known = set(sys.modules)
    schema.register()

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    yield write
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in ("mypkg", "other"):
            del sys.modules[name]


def files_of_the_page():
    """The files that docs/extending.md shows under their names."""
    return dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def checked(*arguments, page="train"):
    return composition.checked(CONF, page, overrides.read(arguments))


def test_the_page_runs_as_it_stands(tmp_path, plugin):
    plugin(files_of_the_page())
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [
        ["deephash", word] for word in ("train", "train", "evaluate", "report")
    ]
    for _, command, *words in lines:
        run(tmp_path, *words, script=command, fresh=True)  # jobs import the plugin
    runs = sorted((tmp_path / "outputs" / "digits").rglob("report.json"))
    assert [file.parent.name[:5] for file in runs] == ["seed0", "seed1"]
    for file in runs:  # of a single run, and of a job of a sweep
        record = json.loads(file.read_text())["plugins"]["mypkg"]
        assert record["version"] == "0.1" and re.fullmatch("[0-9a-f]{64}", record["sha256"])
    assert "mypkg" in (runs[0].parent / "report.html").read_text()
    assert (tmp_path / "outputs" / "sweeps" / "mine" / "report.html").is_file()


def test_the_loss_of_the_page_is_chosen_checked_and_named(plugin):
    plugin(files_of_the_page())
    words = ["plugins=[mypkg]", "method=dpsh", "loss=inner_product"]
    cfg = checked(*words)
    assert cfg.method.loss["_target_"] == "mypkg.losses.InnerProduct"
    name = run_identity.run_name(cfg.plain, parse_all(words))
    assert name == "digits/dpsh+inner_product/32bit/seed0"
    assert "plugins" not in run_identity.identity_of(cfg.plain) and cfg.plugins == ["mypkg"]
    with pytest.raises(ConfigError, match=r"loss.quantization  is -1"):
        checked(*words, "loss.quantization=-1")


def test_a_folder_of_configuration_beside_the_package(plugin):
    files = files_of_the_page()
    files["mine/loss/mine.yaml"] = files.pop("mypkg/conf/loss/inner_product.yaml")
    files["mine/other.py"] = "from mypkg.losses import InnerProduct\n"
    plugin(files)
    line = ["--config-dir", "mine", "plugins=[mypkg,other]", "loss=mine", "method=dpsh"]
    assert checked(*line).method.loss["quantization"] == 0.1
    assert targets.plugins() == ("mypkg", "other")  # found in the current folder, and in mine


@pytest.mark.parametrize("page", ["evaluate", "data", "report"])
def test_every_page_takes_plugins(plugin, page):
    plugin(files_of_the_page())
    more = {"evaluate": "run=x", "data": "do=verify", "report": "sweep=x"}[page]
    assert checked(more, "plugins=mypkg", page=page).plugins == ["mypkg"]


SOURCE = """
    from deephash.data.sources.basic import Folder

    class Birds(Folder):
        '''A folder of images, read as deephash reads it.'''
"""
DATASET = """
    defaults:
      - folder
      - _self_
    name: birds
    root: photos
    source: {_target_: mypkg.Birds}
"""
METHOD = """
    defaults:
      - dpsh
      - _self_
    name: mine
    loss: {alpha: 0.5}
"""


def test_a_dataset_page_a_source_and_a_recipe_of_a_package(plugin):
    from deephash.config import build

    plugin(
        {
            "mypkg/__init__.py": SOURCE,
            "mypkg/conf/dataset/birds.yaml": DATASET,
            "mypkg/conf/method/mine.yaml": METHOD,
        }
    )
    words = ["plugins=[mypkg]", "dataset=birds", "method=mine"]
    cfg = checked(*words)
    assert run_identity.run_name(cfg.plain, parse_all(words)) == "birds/mine/32bit/seed0"
    assert type(build.source(cfg)).__module__ == "mypkg"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "plugins  there is no package mypkg: it is not installed, and not in this folder"),
        (
            {"mypkg/__init__.py": "import nothing_like_this"},
            r"mypkg cannot be imported: "
            r"ModuleNotFoundError: No module named 'nothing_like_this' \(.*__init__.py, line 1\)",
        ),
        ({"mypkg/__init__.py": "def f(:"}, r"mypkg cannot be imported: SyntaxError.*line 1"),
        ({"mypkg.py": "raise RuntimeError('no license')"}, "RuntimeError: no license"),
    ],
)
def test_a_package_that_cannot_be_imported(plugin, files, says):
    plugin(files)
    with pytest.raises(ConfigError, match=says):
        checked("plugins=[mypkg]")


@pytest.mark.parametrize("name", ["os", "subprocess", "my-pkg", "../mypkg", "mypkg.", "1a"])
def test_a_name_that_is_no_package_of_an_author(plugin, name):
    with pytest.raises(ConfigError, match="is not the name of a package"):
        checked(f"plugins=['{name}']")


def test_a_class_of_a_package_that_is_not_named_is_refused(plugin):
    plugin(files_of_the_page())
    (fault,) = checks.check_part("method.loss", {"_target_": "mypkg.losses.InnerProduct"})
    assert fault.message.endswith("of a package that this command does not name.")
    assert fault.hint == "If you trust mypkg, type plugins=[mypkg]."
    assert "mypkg" not in sys.modules


def test_a_run_folder_cannot_name_a_package(tmp_path, plugin):
    """Plugins in an untrusted run folder are not imported."""
    plugin({"mypkg/__init__.py": "raise SystemExit('imported')"})
    cfg = dict(checked().plain)
    cfg["plugins"] = ["mypkg"]
    cfg["backbone"] = {"_target_": "mypkg.Backbone"}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(cfg))
    page = checked("run=run", page="evaluate")
    with pytest.raises(ConfigError, match=r"plugins=\[mypkg\]"):
        measure(page, plugins_run(folder))
    assert "mypkg" not in sys.modules


def plugins_run(folder):
    from deephash.runs.folder import RunFolder

    return RunFolder(folder)


def test_a_package_s_fingerprint_is_that_of_its_files(plugin, tmp_path):
    plugin({"mypkg/__init__.py": "", "mypkg/conf/loss/a.yaml": "a: 1"})
    (result,) = plugins.find_plugins(["mypkg"], [tmp_path])
    before = result.record()
    (tmp_path / "mypkg" / "__pycache__").mkdir()
    (tmp_path / "mypkg" / "data.bin").write_bytes(b"x")
    assert result.record() == before == {"version": None, "sha256": before["sha256"]}
    (tmp_path / "mypkg" / "conf" / "loss" / "a.yaml").write_text("a: 2")
    assert result.record() != before


def test_jobs_of_a_sweep_get_the_folder_of_configuration(plugin, tmp_path):
    plugin(files_of_the_page())
    (tmp_path / "mine").mkdir()
    line = overrides.read(["--config-dir", "mine", "plugins=[mypkg]", "seed=0,1"], many=True)
    extension = composition.Extension.of(line)
    assert extension.flags == [f"--config-dir={tmp_path / 'mine'}"]
    assert [plugin.name for plugin in extension.plugins] == ["mypkg"]
    with pytest.raises(ConfigError, match="there is no folder nowhere"):
        composition.Extension.of(overrides.read(["--config-dir=nowhere"]))


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("mean_teacher", {"teacher.head.norm.weight", "encoder.head.norm.weight"}),
        ("principal_signs", set()),
    ],
)
def test_methods_of_the_page_train(plugin, method, keys):
    plugin(files_of_the_page())
    words = ["plugins=[mypkg]", f"method={method}", "logger=quiet", "trainer.device=cpu"]
    words += ["trainer.epochs=1"] * (method != "principal_signs")
    report, folder = deephash.train(words)
    state = checkpoint.load_state(folder / "last.pt")["method"]
    assert keys <= set(state)
    assert report["training"]["steps"] == (0 if method == "principal_signs" else 10)
    assert report["metrics"]["map"] > 0.15  # 0.1 by chance
    if keys:
        assert not torch.equal(*(state[key] for key in sorted(keys)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=mean_teacher", "method.views=1"], "method.views"),
        (["method=mean_teacher", "method.momentum=2"], "method.momentum"),
        (["method=principal_signs", "trainer.epochs=5"], "trainer.epochs"),
        (["method=principal_signs", "loss=lmcl"], "method.loss"),
    ],
)
def test_recipes_of_the_page_are_checked(plugin, words, says):
    plugin(files_of_the_page())
    with pytest.raises(ConfigError, match=rf"config: 1 problem\n\n  {says}  "):
        checked("plugins=[mypkg]", *words)
