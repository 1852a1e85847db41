"""Values that are text, and arguments without ``=``."""

import importlib
import pkgutil
import typing

import pytest

from deephash.config import overrides
from deephash.config.overrides import Override, as_text, is_text, read, texts
from deephash.data import archives, sources

NASTY = ["~/my data", "a (1)", "Übung", "数据", "x=y", "a#b", "$HOME", "it's", 'say "x"', "[old] x",
         "{x", "a\\b", "a\\", "\\'", "100%", "a&b;c", "~nobody/x", "2024", "1e3", "true", "007",
         "a:b", "a]", "x'", "*?"]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("key", ["dataset.root", "run", "+dataset.source.lists"])
def test_a_path_is_read_as_it_is_typed(key, text):
    override = overrides.parsed(as_text(f"{key}={text}"))
    assert override.value() == text


@pytest.mark.parametrize(
    "text",
    ["trainer.epochs=3", "a=[1,2]", "a={b:1}", "seed=0,1", "a='x y'", "dataset.root=null", "~a",
     "seed=range(0,3)", "a=${b}", "dataset.root=", "dataset.root=plain/path-1.0", "a=true"],
)  # fmt: skip
def test_what_hydra_reads_rightly_stays_as_it_is(text):
    assert as_text(text) == text


def test_a_folder_with_a_comma_is_one_and_a_grid_s_values_are_several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert as_text("dataset.root=a,b") == "dataset.root='a,b'"
    assert as_text("dataset.root=c,d") == "dataset.root=c,d"
    assert as_text("dataset.root=a,b", many=True) == "dataset.root=a,b"
    assert as_text("dataset.root=ä,b c", many=True) == "dataset.root='ä',b c"
    assert as_text("dataset.classes=[Übung,cat]") == "dataset.classes=['Übung',cat]"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["method", "relahash"], ["method=relahash"]),
        (["method", "=", "relahash"], ["method=relahash"]),
        (["method", "=relahash"], ["method=relahash"]),
        (["method=", "relahash"], ["method=relahash"]),
        (["--batch-size", "64", "--wandb"], ["batch_size=64", "wandb=true"]),
        (["--x", "-1"], ["x=-1"]),
        (["-e", "3"], ["e=3"]),
        (["relahash"], ["relahash"]),
        (["--run", "x"], ["run=x"]),
    ],
)
def test_words_that_are_no_override(arguments, meant):
    line = read([*arguments, "seed=1"])
    assert texts(line.overrides) == ["seed=1"]
    assert texts(override.meant for override in line.mistyped) == meant


@pytest.mark.parametrize(
    "arguments",
    [["--cfg", "job"], ["--cfg=job", "--resolve"], ["-sc", "install=bash"], ["--info", "defaults"],
     ["-cd", "folder", "seed=1"], ["--help"], ["dataset.lists=", "seed=1"], ["-m", "seed=0,1"]],
)  # fmt: skip
def test_the_flags_of_hydra_stay(arguments):
    line = read(arguments)
    assert line.arguments == arguments and not line.mistyped


def test_flags_and_overrides_are_taken_apart_once():
    line = read(["seed=1", "-m", "--config-dir", "mine", "~a", "--cfg=job", "-cd=other", "b=2"])
    assert texts(line.overrides) == ["seed=1", "~a", "b=2"]
    assert line.names == {"-m", "--config-dir", "--cfg", "-cd"}
    assert line.values_of("--config-dir", "-cd") == ["mine", "other"]
    assert line.without("-m", "--config-dir", "-cd").flags == ("--cfg=job",)
    assert line.arguments[0] == "-m"


@pytest.mark.parametrize(
    ("text", "mark", "key", "value", "plain"),
    [
        ("a.b=1", "", "a.b", "1", "1"),
        ("+a='x y'", "+", "a", "'x y'", "x y"),
        ("++a=b=c", "++", "a", "b=c", "b=c"),
        ("~a", "~", "a", None, ""),
        ("~a=1", "~", "a", "1", "1"),
        ("views@dataset.transforms=cibhash", "", "views@dataset.transforms", "cibhash", "cibhash"),
        ("a=", "", "a", "", ""),
    ],
)
def test_parts_of_an_override(text, mark, key, value, plain):
    override = Override.parse(text)
    assert (override.mark, override.key, override.value, override.plain) == (
        mark,
        key,
        value,
        plain,
    )
    assert (
        str(override) == text and override.name == mark + key and override.deletes == (mark == "~")
    )


def test_several_values_are_single_overrides():
    assert texts(Override.parse("+seed=0,1").single) == ["+seed=0", "+seed=1"]
    assert texts(Override.parse("seed=range(0,3)").single) == ["seed=0", "seed=1", "seed=2"]
    assert Override.parse("seed=3").single == (Override.parse("seed=3"),)
    interval = Override.parse("seed=interval(0,1)")
    assert interval.is_sweep and not interval.is_discrete


def test_an_override_lies_within_keys():
    override = Override.parse("dataset.source.root=x")
    assert (
        override.within("dataset")
        and override.within("dataset.source", "a")
        and not override.within("data")
    )
    assert Override.parse("hydra/launcher=slurm").within("hydra", "hydra/launcher")


@pytest.mark.parametrize("text", ["plugins=mypkg", "plugins=[mypkg]"])
def test_one_plugin_is_a_list_of_one(text):
    assert as_text(text) == "plugins=[mypkg]"


def test_no_switch_of_a_source_is_a_text():
    """``dataset.source.labels=false`` is a boolean."""
    for package in (sources, archives):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for kind in vars(importlib.import_module(module.name)).values():
                if isinstance(kind, type) and kind.__module__ == module.name:
                    hints = typing.get_type_hints(kind.__init__)
                    switches = [key for key, hint in hints.items()
                                if hint is bool or bool in typing.get_args(hint)]  # fmt: skip
                    assert not [key for key in switches if is_text(f"dataset.source.{key}")]
    assert as_text("dataset.source.labels=false") == "dataset.source.labels=false"
