"""Runs side by side: which of them are one line of a figure, and which do not compare."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash.report.figures.canvas import shorten
from deephash.report.table import label, measured
from deephash.utils.nested import get_nested

Found = Mapping[str, Any]
"""What was found of a run, as in ``evaluation.json``."""

Floats = npt.NDArray[np.float64]

SHORT = 12
"""Letters of a value that is never clipped."""

CONTEXT = 4
"""Letters that are kept of what long values have in common, beside what differs."""

MARKS = ("", "*", "†", "‡", "§", "¶")
LONGEST = 40
"""Letters of a label beyond which a shorter one is looked for."""


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed: one line, bar or panel."""

    label: str  # short enough for a legend, with its mark
    name: str  # the same in full, for tables
    place: int  # of the label among all of them; the same label has one place over all bits
    nbit: int
    mark: str  # those with the same mark were measured on the same data, in the same way
    runs: tuple[Found, ...]
    common: str = ""  # what the names of all rows have in common, and labels leave out

    def value(self, *path: str) -> tuple[float, float]:
        """A number's mean over the seeds, and its deviation (n - 1); nan for what there is not."""
        values = [
            value for value in (get_nested(run, *path) for run in self.runs) if is_number(value)
        ]
        mean = statistics.fmean(values) if values else math.nan
        return mean, statistics.stdev(values) if len(values) > 1 else math.nan

    def line(self, *path: str) -> Floats:
        """The mean over the seeds of a list of numbers; nan where a run has none."""
        found = [get_nested(run, *path) for run in self.runs]
        lists = [floats(values) for values in found if isinstance(values, list) and values]
        alike = [values for values in lists if len(values) == len(lists[0])]
        return np.mean(alike, axis=0) if alike else np.empty(0)

    def at(self, *path: str) -> tuple[Floats, Floats, Floats]:
        """A number that is told for many N: the N, ascending, its means and deviations."""
        cuts = sorted(
            {
                int(cut)
                for run in self.runs
                for cut, value in (get_nested(run, *path) or {}).items()
                if str(cut).isdecimal() and is_number(value)
            }
        )
        told = [self.value(*path, str(cut)) for cut in cuts]
        mean, deviation = zip(*told, strict=True) if told else ((), ())
        return floats(cuts), floats(mean), floats(deviation)


def rows_of_runs(found: Sequence[Found]) -> list[Row]:
    """The runs as rows, in the order in which they come.

    A row's name is the method and whatever else sets it apart from those that were measured in the
    same way. Runs of the same name and seed, say from two folders, are no seeds of each other and
    stand in two rows.
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
    common = _common(found) if len(labels) > 1 else ""
    places = {key: place for place, key in enumerate(labels)}
    return [
        Row(
            labels[name, mark],
            " ".join(filter(None, (name, mark))),
            places[name, mark],
            nbit,
            mark,
            tuple(runs),
            common,
        )
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


def differences(rows: Sequence[Row]) -> dict[str, str]:
    """For each mark, in what its runs were measured otherwise than those without one."""
    ways = ways_of(rows)
    plain = ways.get("")
    return {mark: unlike(one, plain) for mark, one in ways.items() if mark and plain is not None}


def bits(one: Found) -> int:
    """The number of bits; 0 if nothing tells."""
    value = one.get("nbit") or get_nested(one, "metrics", "nbit")
    return int(value) if is_number(value) else 0


def note_of(one: Found) -> str:
    """The sentence of a run that was measured without labels; empty for others."""
    return str(get_nested(one, "metrics", "note") or "")


def without_labels(runs: Iterable[Found]) -> str:
    """A sentence for a table in which some runs were measured without labels; empty if none was."""
    several = [bool(note_of(run)) for run in runs]
    if not any(several):
        return ""
    which = "These runs were" if all(several) else "Runs with a dash for mAP were"
    return f"{which} measured on images without labels: what needs labels was not measured."


def is_number(value: Any) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def floats(values: Sequence[Any]) -> Floats:
    """A list as an array, nan for what is no number."""
    return np.array([value if is_number(value) else math.nan for value in values], dtype=float)


def unlike(one: Found, plain: Found) -> str:
    """What differs between a run and another, whose values stand in brackets."""
    told = [
        (key, get_nested(one, "protocol", key), get_nested(plain, "protocol", key))
        for key in ("dataset", "protocol", "split_seed")
    ]
    if all(value == other for _, value, other in told[:2]):
        sizes = ("num_classes", "num_train", "num_queries", "num_database")
        told += [
            (key, get_nested(one, "protocol", key), get_nested(plain, "protocol", key))
            for key in sizes
        ]
    prints = [str(get_nested(run, "protocol", "fingerprint") or "?")[:8] for run in (one, plain)]
    told.append(("fingerprint", prints[0], prints[1]))
    said = [_conventions(run) for run in (one, plain)]
    told += [(key, said[0].get(key), said[1].get(key)) for key in {**said[0], **said[1]}]
    return ", ".join(
        f"{key} {' ('.join(_two(value, other))})" for key, value, other in told if value != other
    )


def _conventions(one: Found) -> dict[str, Any]:
    """The conventions that a mAP depends on, without a cut at the whole database."""
    told = dict(get_nested(one, "metrics", "conventions") or {})
    told.pop("family", None)
    if told.get("top") == get_nested(one, "metrics", "database"):
        told.pop("top", None)
    return {key: value for key, value in told.items() if value is not None}


def _two(value: Any, other: Any) -> list[str]:
    """Two different values, shortened if they still differ then."""
    whole = ["–" if one is None else str(one) for one in (value, other)]
    short = [shorten(one, 24) for one in whole]
    return short if short[0] != short[1] else whole


def _names(found: Sequence[Found]) -> list[str]:
    """What each run is called: the method, and what not all that were measured like it share."""
    told = [_pieces(one) for one in found]
    shared: dict[Any, set[str]] = {}
    for one, pieces in zip(found, told, strict=True):
        way = measured(one)
        shared[way] = shared.get(way, set(pieces)) & set(pieces)
    names = [
        " ".join([*pieces[:1], *(it for it in pieces[1:] if it not in shared[measured(one)])])
        for one, pieces in zip(found, told, strict=True)
    ]
    datasets = [str(get_nested(one, "protocol", "dataset") or "?") for one in found]
    if len(set(datasets)) > 1:
        names = [f"{dataset}: {name}" for dataset, name in zip(datasets, names, strict=True)]
    checkpoints = [str(one.get("checkpoint") or "?").removesuffix(".pt") for one in found]
    if len(set(checkpoints)) > 1:
        names = [f"{name} ({which})" for name, which in zip(names, checkpoints, strict=True)]
    return names


def _common(found: Sequence[Found]) -> str:
    """The method, if it is that of all runs, and the overrides that all of them have."""
    told = [_pieces(one) for one in found]
    shared = set(told[0]).intersection(*told)
    return ", ".join(piece for piece in told[0] if piece in shared)


def _pieces(one: Found) -> list[str]:
    """The method and what else was chosen."""
    name = str(one.get("full_name") or one.get("name") or "")
    if name.count("/") < 3:  # of a run that has not finished
        name = str(one.get("method") or name or one.get("run") or "run")
    return label(name).split(" ")


def _short(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A label for each name and mark, no two the same: what sets it apart from the others.

    The method is left out where it is that of all, and others say what differs. Of
    ``trainer.epochs=5`` it keeps ``epochs=5``, unless another key ends in the same word. Of labels
    that are too long, what all names of a method share is left out; then of long values the
    beginning and the end that all values of a key have in common. What differs is never cut.
    """
    keys = list(keys)
    words = [name.split(" ") for name, _ in keys]
    if len({name for name, _ in keys}) > 1 and len({some[0] for some in words}) == 1:
        rest = [[word for word in some[1:] if word[:1] != "("] for some in words]
        words = [some[1:] for some in words] if all(rest) else words
    ends: dict[str, set[str]] = {}
    for key in {word.partition("=")[0] for some in words for word in some if "=" in word}:
        ends.setdefault(_end(key), set()).add(key)

    def texts() -> list[str]:
        said = (" ".join(_clip(word, ends) for word in some) for some in words)
        return [
            " ".join(filter(None, (one, mark))) for one, (_, mark) in zip(said, keys, strict=True)
        ]

    for shorter in (_of_a_method, _of_a_value):
        if max(map(len, texts()), default=0) > LONGEST:
            other = shorter(words)
            if len({*map(tuple, other)}) == len({*map(tuple, words)}):
                words = other
    labels = texts()
    many, seen = Counter(labels), Counter[str]()
    for place, text in enumerate(labels):
        seen[text] += 1
        labels[place] = f"{text} #{seen[text]}" if many[text] > 1 else text
    return dict(zip(keys, labels, strict=True))


def _of_a_method(words: Sequence[list[str]]) -> list[list[str]]:
    """Names without the words that all of the same first word have in common."""
    groups: dict[str, list[list[str]]] = {}
    for some in words:
        groups.setdefault(some[0], []).append(some)
    shared = {
        first: set[str]().union(those[0][1:]).intersection(*those) if len(those) > 1 else set()
        for first, those in groups.items()
    }
    return [[some[0], *(one for one in some[1:] if one not in shared[some[0]])] for some in words]


def _of_a_value(words: Sequence[list[str]]) -> list[list[str]]:
    """Names whose long values lose what all values of their key begin or end with."""
    values: dict[str, set[str]] = {}
    for word in (word for some in words for word in some):
        key, sign, value = word.rpartition("=")
        values.setdefault(key + sign, set()).add(value)

    def clipped(word: str) -> str:
        key, sign, value = word.rpartition("=")
        alike = values[key + sign]
        if len(value) <= SHORT or len(alike) < 2:
            return word
        front = _alike(alike)
        room = min(map(len, alike)) - front
        back = min(room, _alike({one[::-1] for one in alike}))
        front, back = max(0, front - CONTEXT), max(0, back - CONTEXT)
        middle = value[front : len(value) - back]
        return f"{key}{sign}{'…' if front else ''}{middle}{'…' if back else ''}"

    return [[clipped(word) for word in some] for some in words]


def _alike(texts: Set[str]) -> int:
    """With how many of the same letters all texts begin."""
    least, most = min(texts), max(texts)  # of all in between it holds as well
    return next((at for at, letter in enumerate(least) if most[at] != letter), len(least))


def _clip(word: str, ends: Mapping[str, set[str]]) -> str:
    """An override with the last word of its key alone, if no other key ends in it."""
    key, sign, value = word.partition("=")
    return _end(key) + sign + value if sign and len(ends[_end(key)]) == 1 else word


def _end(key: str) -> str:
    return key.rpartition(".")[2]
