"""Whether plain values fit annotations, and how values are typed."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from deephash.config.overrides import parsed
from deephash.config.validate import Part, advice, assignment, check_fields, fits, literal, problem
from deephash.utils.bounds import Count, Fraction, Interval, Length, Name, Place, Positive, Seed

HUGE = 10**23


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -3, 2**63 - 1], [1.0, True, "1", None, HUGE]),
        (float, [1, 0.5, -2], [float("nan"), float("inf"), "1", True, None, [1.0], HUGE]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a"], [1, None, ["a"], True]),
        (Count, [1, 7], [0, -1, 1.5, None]),
        (Positive, [1, 1e-9], [0, 0.0, -1, float("nan")]),
        (Fraction, [0, 1, 0.5], [-0.1, 1.1]),
        (Seed | None, [None, 0], [-1, HUGE]),
        (Name, ["a"], ["", "  ", 3]),
        (Place, ["a/b"], ["", 3, None]),
        (Literal[1, 2], [1, 2], [True, 1.0, "1", 3]),
        (Literal["auto"] | list[Count], ["auto", [1, 2], []], ["a", [0], 3]),
        (Annotated[list[Positive], Length(2)], [[1, 2]], [[1], [1, 0], [1, "a"], "ab", 3]),
        (tuple[float | complex, float], [[1, 2]], [[1], [1, 2, 3], ["a", 1]]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, [], 3]),
        (Part, [{"_target_": "x"}], [{}, {"_target_": 3}, "x", 1.5, None]),
        (Any, [1, "a", None], []),
        (Annotated[float, Interval(0, 1, above=True, below=True)], [0.5], [0, 1]),
    ],
)
def test_what_fits(kind, good, bad):
    for value in good:
        assert fits(value, kind) and problem(value, kind) is None, value
    for value in bad:
        assert not fits(value, kind) and problem(value, kind) and advice("k", kind, value=value)


@dataclass
class Inner:
    rate: Positive = 0.5


@dataclass
class Page:
    part: Annotated[Any, Part]
    inner: Inner = field(default_factory=Inner)
    seed: Seed = 0


def test_a_page_is_checked_key_by_key():
    assert check_fields({"part": {"_target_": "x"}, "inner": {"rate": 1}, "seed": 1}, Page) == []
    result = check_fields({"part": 3, "inner": {"rate": -1, "x": 2}, "y": 1}, Page, closed=True)
    assert {fault.key for fault in result} == {"part", "inner.rate", "inner.x", "seed", "y"}


@pytest.mark.parametrize(
    "value",
    [1, 0.5, True, None, "a", "a b", "it's", "null", "1e3", "Ü", "a\\", [1, "x y"], {"a": None},
     "", "~/x", "[a", "2024", "nan"],
)  # fmt: skip
def test_a_value_is_typed_as_hydra_reads_it(value):
    assert parsed(f"k={literal(value)}").value() == value
    assert assignment("k", value).strip('"').startswith("k=")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Literal["auto", "folders"] | None, "folder", "Did you mean labels=folders?"),
        (Annotated[Any, Literal["best", "last"]], "lst", "Did you mean labels=last?"),
        (Literal["auto", "folders"], "xyz", "Type for example labels=auto."),
        (Literal[1, 2], "one", "Type for example labels=1."),
    ],
)
def test_a_choice_that_is_near_is_offered(kind, value, expected):
    assert advice("labels", kind, value=value) == expected
