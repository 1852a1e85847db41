"""Which values are texts, and how words without ``=`` are read."""

import pytest

from deephash import overrides
from deephash.overrides import as_text, read

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
    good, mistyped = read([*arguments, "seed=1"])
    assert good == ["seed=1"] and [one.meant for one in mistyped] == meant


@pytest.mark.parametrize(
    "arguments",
    [["--cfg", "job"], ["--cfg=job", "--resolve"], ["-sc", "install=bash"], ["--info", "defaults"],
     ["-cd", "folder", "seed=1"], ["--help"], ["dataset.lists=", "seed=1"], ["-m", "seed=0,1"]],
)  # fmt: skip
def test_the_flags_of_hydra_stay(arguments):
    assert read(arguments) == (arguments, [])
