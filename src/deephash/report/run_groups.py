"""Groups of runs that differ only in the seed, with labels that distinguish them in figures."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from deephash.report.values import (
    Floats,
    Report,
    as_floats,
    count_bits,
    describe_difference,
    footnote_mark,
    is_number,
    mean_and_sd,
    measurement_key,
    run_label,
)
from deephash.utils.filenames import TRUNCATED
from deephash.utils.nested import get_nested

MIN_CLIPPED = 12
"""Values up to this length are never clipped."""

CONTEXT = 4
"""Characters of a common prefix or suffix that are kept beside the part that differs."""

LONGEST = 40
"""Labels longer than this are shortened."""


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in the seed: one line, bar or panel of a figure."""

    label: str  # short enough for a legend, with its mark
    name: str  # in full, for tables
    index: int  # of the label; the same for all numbers of bits
    nbit: int
    mark: str  # the same for all runs with the same measurement key
    runs: tuple[Report, ...]
    common: str = ""  # what the names of all groups share, left out of the labels

    def mean_sd(self, *keys: str) -> tuple[float, float]:
        """Return mean and standard deviation (n - 1) of a number over the seeds."""
        return mean_and_sd(get_nested(run, *keys) for run in self.runs)

    def mean_list(self, *keys: str) -> Floats:
        """Return the mean of a list of numbers over the seeds; nan where a run has none."""
        values = [get_nested(run, *keys) for run in self.runs]
        lists = [as_floats(items) for items in values if isinstance(items, list) and items]
        equal = [items for items in lists if len(items) == len(lists[0])]
        return np.mean(equal, axis=0) if equal else np.empty(0)

    def by_cutoff(self, *keys: str) -> tuple[Floats, Floats, Floats]:
        """Return the cutoffs N of a metric in ascending order, with means and deviations."""
        cutoffs = sorted(
            {
                int(cutoff)
                for run in self.runs
                for cutoff, value in (get_nested(run, *keys) or {}).items()
                if str(cutoff).isdecimal() and is_number(value)
            }
        )
        rows = [self.mean_sd(*keys, str(cutoff)) for cutoff in cutoffs]
        mean, sd = zip(*rows, strict=True) if rows else ((), ())
        return as_floats(cutoffs), as_floats(mean), as_floats(sd)


def group_seeds(reports: Sequence[Report]) -> list[RunGroup]:
    """Group reports by everything but the seed, in order of first appearance.

    The name of a group is the method and all overrides that are not common to the runs with the
    same measurement key. Runs with the same name and the same seed, for example from two folders,
    become two groups.
    """
    keys = list(dict.fromkeys(map(measurement_key, reports)))
    groups: dict[tuple[str, str, int], list[Report]] = {}
    repeats: Counter[object] = Counter()
    for report, name in zip(reports, _group_names(reports), strict=True):
        mark, nbit = footnote_mark(keys.index(measurement_key(report))), count_bits(report)
        repeats[seed := (name, mark, nbit, report.get("seed"))] += 1
        if repeats[seed] > 1:
            name = f"{name} ({repeats[seed]})"
        groups.setdefault((name, mark, nbit), []).append(report)
    labels = _unique_labels(list(dict.fromkeys((name, mark) for name, mark, _ in groups)))
    common = _common_pieces(reports) if len(labels) > 1 else ""
    index = {key: number for number, key in enumerate(labels)}
    return [
        RunGroup(labels[name, mark], f"{name} {mark}".strip(), index[name, mark], nbit, mark,
                 tuple(runs), common)
        for (name, mark, nbit), runs in groups.items()
    ]  # fmt: skip


def first_runs(groups: Sequence[RunGroup]) -> dict[str, Report]:
    """Return the first run of each mark; every mark stands for one measurement key."""
    runs: dict[str, Report] = {}
    for group in groups:
        runs.setdefault(group.mark, group.runs[0])
    return runs


def mark_differences(groups: Sequence[RunGroup]) -> dict[str, str]:
    """Return for each mark how its measurement differs from that of the unmarked runs."""
    runs = first_runs(groups)
    if "" not in runs:
        return {}
    return {mark: describe_difference(run, runs[""]) for mark, run in runs.items() if mark}


def _group_names(reports: Sequence[Report]) -> list[str]:
    """Return method and distinctive overrides of each run, prefixed by its dataset if needed."""
    shared: dict[tuple[str, str], set[str]] = {}
    for report in reports:
        key, pieces = measurement_key(report), set(_pieces(report))
        shared[key] = shared.get(key, pieces) & pieces
    datasets = [str(get_nested(report, "protocol", "dataset") or "?") for report in reports]
    checkpoints = [str(run.get("checkpoint") or "?").removesuffix(".pt") for run in reports]
    names = []
    for report, dataset, checkpoint in zip(reports, datasets, checkpoints, strict=True):
        method, *overrides = _pieces(report)
        common = shared[measurement_key(report)]
        name = " ".join([method, *(piece for piece in overrides if piece not in common)])
        if len(set(datasets)) > 1:
            name = f"{dataset}: {name}"
        if len(set(checkpoints)) > 1:
            name = f"{name} ({checkpoint})"
        names.append(name)
    return names


def _common_pieces(reports: Sequence[Report]) -> str:
    """Return the method and the overrides that all runs share."""
    pieces = [_pieces(report) for report in reports]
    shared = set(pieces[0]).intersection(*pieces)
    return ", ".join(piece for piece in pieces[0] if piece in shared)


def _pieces(report: Report) -> list[str]:
    """Return the method of a run and its overrides."""
    name = str(report.get("name") or report.get("full_name") or "")
    if TRUNCATED.search(name):
        name = str(report.get("full_name") or name)
    if name.count("/") < 3:  # the run has not finished
        name = str(report.get("method") or name or report.get("run") or "run")
    return run_label(name).split(" ")


def _unique_labels(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a short unique label for each name and mark.

    The method is dropped where all names share it and have other pieces. ``trainer.epochs=5``
    becomes ``epochs=5`` unless another key has the same last part. If labels are still too long,
    first the pieces that all names of a method share are dropped, then common prefixes and
    suffixes of long values are clipped. The part that differs is never clipped.
    """
    names = [name.split(" ") for name, _ in keys]
    if (
        len({name for name, _ in keys}) > 1
        and len({pieces[0] for pieces in names}) == 1
        and all(any(piece[:1] != "(" for piece in pieces[1:]) for pieces in names)
    ):
        names = [pieces[1:] for pieces in names]
    keys_by_end: dict[str, set[str]] = {}
    for key in {piece.partition("=")[0] for pieces in names for piece in pieces if "=" in piece}:
        keys_by_end.setdefault(_last_part(key), set()).add(key)

    def as_labels() -> list[str]:
        return [
            " ".join([*(_drop_prefix(piece, keys_by_end) for piece in pieces), mark]).strip()
            for pieces, (_, mark) in zip(names, keys, strict=True)
        ]

    for shorten in (_drop_shared_pieces, _clip_values):
        if max(map(len, as_labels()), default=0) > LONGEST:
            shorter = shorten(names)
            if len({*map(tuple, shorter)}) == len({*map(tuple, names)}):
                names = shorter
    labels = as_labels()
    total, seen = Counter(labels), Counter[str]()
    for index, label in enumerate(labels):
        seen[label] += 1
        if total[label] > 1:
            labels[index] = f"{label} #{seen[label]}"
    return dict(zip(keys, labels, strict=True))


def _drop_shared_pieces(names: Sequence[list[str]]) -> list[list[str]]:
    """Drop the pieces that all names with the same first piece share."""
    groups: dict[str, list[list[str]]] = {}
    for first, *rest in names:
        groups.setdefault(first, []).append(rest)
    shared = {
        first: set(rests[0]).intersection(*rests) if len(rests) > 1 else set()
        for first, rests in groups.items()
    }
    return [[first, *(it for it in rest if it not in shared[first])] for first, *rest in names]


def _clip_values(names: Sequence[list[str]]) -> list[list[str]]:
    """Clip the prefix and suffix that all long values of a key share."""
    values: dict[str, set[str]] = {}
    for piece in (piece for pieces in names for piece in pieces):
        key, sign, value = piece.rpartition("=")
        values.setdefault(key + sign, set()).add(value)

    def clip(piece: str) -> str:
        key, sign, value = piece.rpartition("=")
        others = values[key + sign]
        if len(value) <= MIN_CLIPPED or len(others) < 2:
            return piece
        front = _common_prefix(others)
        back = min(min(map(len, others)) - front, _common_prefix({it[::-1] for it in others}))
        front, back = max(0, front - CONTEXT), max(0, back - CONTEXT)
        middle = value[front : len(value) - back]
        return f"{key}{sign}{'…' if front else ''}{middle}{'…' if back else ''}"

    return [[clip(piece) for piece in pieces] for pieces in names]


def _common_prefix(texts: Set[str]) -> int:
    """Return the length of the common prefix of all texts."""
    low, high = min(texts), max(texts)  # it is that of all texts between them as well
    return next((at for at, letter in enumerate(low) if high[at] != letter), len(low))


def _drop_prefix(piece: str, keys_by_end: Mapping[str, set[str]]) -> str:
    """Reduce the key of an override to its last part if that is unique."""
    key, sign, value = piece.partition("=")
    if not sign or len(keys_by_end[_last_part(key)]) > 1:
        return piece
    return _last_part(key) + sign + value


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]
