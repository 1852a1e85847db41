"""Names that become pieces of a path."""

import pytest

from deephash.config import checks, run_identity
from deephash.config.overrides import parse_all
from deephash.utils import filenames


@pytest.mark.parametrize(
    "name", ["cifar10", "CUB-200 birds", "Vögel (2011)", "鳥", "a+b=c,d", "v1.0", "59k"]
)
def test_a_plain_name_is_accepted(name):
    assert filenames.name_fault(name) is None


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../x", "/x", "a/b", "a\\b", "~", "~x", "-m", ".hidden", " a", "a ",
     "a\nb", "a\0b", "a\x1b[2J", "x" * 300, "鳥" * 90, None, 5, ["a"]],
)  # fmt: skip
def test_what_leads_elsewhere_is_refused(name):
    assert filenames.name_fault(name)


@pytest.mark.parametrize(
    ("path", "below"),
    [("a", True), ("a/b.svg", True), ("a..b", True), ("../a", False), ("a/../../b", False),
     ("/a", False), ("\\a", False), ("C:\\a", False), ("C:a", False), ("a\\..\\b", False),
     ("", False), (None, False), (3, False), ("a\0", False)],
)  # fmt: skip
def test_is_below(path, below):
    assert filenames.is_below(path) == below


def test_short_names_stay_and_long_ones_keep_their_mark():
    assert filenames.truncate("a" * 160, "~x", most=160, head=140) == "a" * 160
    assert filenames.truncate("a" * 161, "~x", most=160, head=140) == "a" * 140 + "~x"
    cut = filenames.truncate("鳥" * 150, "~x", most=160, head=140)
    assert cut.startswith("鳥" * 80) and cut.endswith("~x") and len(cut.encode()) <= 255


@pytest.mark.parametrize("name", ["", "../../x", "/abs", "a/b", ".", 5, None])
@pytest.mark.parametrize("key", ["dataset.name", "method.name", "dataset.protocol", "group"])
def test_check_names_refuses_each_value_that_becomes_a_folder(key, name):
    cfg = {
        "dataset": {"name": "digits", "protocol": "59k"},
        "method": {"name": "relahash"},
        "group": None,
    }
    assert checks.check_names(cfg) == []
    group, _, last = key.partition(".")
    if last:
        cfg[group][last] = name
    else:
        cfg[group] = name
    expected = [] if (key, name) == ("group", None) else [key]
    assert [fault.key for fault in checks.check_names(cfg)] == expected


def test_a_run_name_has_four_pieces_whatever_is_typed():
    cfg = {
        "dataset": {"name": "d"}, "method": {"name": "m"}, "model": {"nbit": 8}, "seed": 0,
    }  # fmt: skip
    name = run_identity.run_name(
        cfg, parse_all(["loss=a/../../b", "~x/../../y", "+experiment=../../z"])
    )
    assert name.count("/") == 3 and ".." not in name.split("/")
