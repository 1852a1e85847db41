"""Runs side by side: which of them are one line of a figure, and which do not compare."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash.report.canvas import shorten
from deephash.report.table import label, measured

Found = Mapping[str, Any]
"""What was found of a run, as in ``evaluation.json``."""

Floats = npt.NDArray[np.float64]

MARKS = ("", "*", "†", "‡", "§", "¶")
LONGEST = 34


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed: one line, bar or panel."""

    label: str  # short enough for a legend, with its mark
    place: int  # of the label among all of them; the same label has one place over all bits
    nbit: int
    mark: str  # those with the same mark were measured on the same data, in the same way
    runs: tuple[Found, ...]

    def value(self, *path: str) -> tuple[float, float]:
        """A number's mean over the seeds, and its deviation (n - 1); nan for what there is not."""
        values = [value for value in (dig(run, *path) for run in self.runs) if is_number(value)]
        mean = statistics.fmean(values) if values else math.nan
        return mean, statistics.stdev(values) if len(values) > 1 else math.nan

    def line(self, *path: str) -> Floats:
        """The mean over the seeds of a list of numbers; nan where a run has none."""
        found = [dig(run, *path) for run in self.runs]
        lists = [floats(values) for values in found if isinstance(values, list) and values]
        alike = [values for values in lists if len(values) == len(lists[0])]
        return np.mean(alike, axis=0) if alike else np.empty(0)

    def at(self, *path: str) -> tuple[Floats, Floats, Floats]:
        """A number that is told for many N: the N, ascending, its means and deviations."""
        cuts = sorted(
            {
                int(cut)
                for run in self.runs
                for cut, value in (dig(run, *path) or {}).items()
                if str(cut).isdecimal() and is_number(value)
            }
        )
        told = [self.value(*path, str(cut)) for cut in cuts]
        mean, deviation = zip(*told, strict=True) if told else ((), ())
        return floats(cuts), floats(mean), floats(deviation)


def rows_of_runs(found: Sequence[Found]) -> list[Row]:
    """The runs as rows, in the order in which they come.

    A row's label is the method and whatever else sets it apart from the others. Runs of the same
    name and seed, say from two folders, are no seeds of each other and stand in two rows.
    """
    ways = list(dict.fromkeys(measured(one) for one in found))
    names = _names(found)
    groups: dict[tuple[str, str, int], list[Found]] = {}
    times: Counter[tuple[str, str, int, Any]] = Counter()
    for one, name in zip(found, names, strict=True):
        mark, nbit = mark_of(ways.index(measured(one))), bits(one)
        seed = (name, mark, nbit, one.get("seed"))
        times[seed] += 1
        name = name if times[seed] == 1 else f"{name} ({times[seed]})"
        groups.setdefault((name, mark, nbit), []).append(one)
    labels = _short(dict.fromkeys((name, mark) for name, mark, _ in groups))
    places = {key: place for place, key in enumerate(labels)}
    return [
        Row(labels[name, mark], places[name, mark], nbit, mark, tuple(runs))
        for (name, mark, nbit), runs in groups.items()
    ]


def mark_of(way: int) -> str:
    """The mark of the first, second, ... way of measuring; the first has none."""
    return MARKS[way] if way < len(MARKS) else f"[{way}]"


def ways_of(rows: Sequence[Row]) -> dict[str, Found]:
    """For each mark a run that has it: there were so many ways of measuring."""
    ways: dict[str, Found] = {}
    for row in rows:
        ways.setdefault(row.mark, row.runs[0])
    return ways


def bits(one: Found) -> int:
    """The number of bits; 0 if nothing tells."""
    value = one.get("nbit") or dig(one, "metrics", "nbit")
    return int(value) if is_number(value) else 0


def dig(values: Any, *path: str) -> Any:
    """What lies at a path of keys, None if there is nothing."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def is_number(value: Any) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def floats(values: Sequence[Any]) -> Floats:
    """A list as an array, nan for what is no number."""
    return np.array([value if is_number(value) else math.nan for value in values], dtype=float)


def _names(found: Sequence[Found]) -> list[str]:
    """What each run is called: the method, and what is not the same for all of them."""
    told = [_pieces(one) for one in found]
    shared = set(told[0][1:]).intersection(*(pieces[1:] for pieces in told))
    names = [
        " ".join([*pieces[:1], *(piece for piece in pieces[1:] if piece not in shared)])
        for pieces in told
    ]
    datasets = [str(dig(one, "protocol", "dataset") or "?") for one in found]
    if len(set(datasets)) > 1:
        names = [f"{dataset}: {name}" for dataset, name in zip(datasets, names, strict=True)]
    checkpoints = [str(one.get("checkpoint") or "?").removesuffix(".pt") for one in found]
    if len(set(checkpoints)) > 1:
        names = [f"{name} ({which})" for name, which in zip(names, checkpoints, strict=True)]
    return names


def _pieces(one: Found) -> list[str]:
    """The method and what else was chosen."""
    name = str(one.get("name") or "")
    if name.count("/") < 3:  # of a run that has not finished
        name = str(one.get("method") or name or one.get("run") or "run")
    return label(name).split(" ")


def _short(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A label for each name and mark, no two the same."""
    labels: dict[tuple[str, str], str] = {}
    for name, mark in keys:
        text = " ".join(filter(None, (shorten(name, LONGEST), mark)))
        same = sum(other == text or other.startswith(f"{text} #") for other in labels.values())
        labels[name, mark] = f"{text} #{same + 1}" if same else text
    return labels
