"""Values of single reports: numbers, evaluation settings, and statistics over seeds."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash.utils.formatting import number, shorten
from deephash.utils.nested import get_nested

Report = Mapping[str, Any]
"""Content of ``report.json`` or ``evaluation.json``."""

Floats = npt.NDArray[np.float64]

MARKS = ("", "*", "†", "‡", "§", "¶")


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_floats(values: Sequence[Any]) -> Floats:
    """Return a list as an array, with nan for everything that is not a number."""
    return np.array([value if is_number(value) else math.nan for value in values], dtype=float)


def mean_and_sd(values: Iterable[Any]) -> tuple[float, float]:
    """Return mean and sample standard deviation (n - 1) of the numbers among some values.

    Both are nan if there are too few numbers.

    >>> mean_and_sd([0.5, None, 0.5]), mean_and_sd([0.5])
    ((0.5, 0.0), (0.5, nan))
    """
    numbers = [value for value in values if is_number(value)]
    mean = statistics.fmean(numbers) if numbers else math.nan
    return mean, statistics.stdev(numbers) if len(numbers) > 1 else math.nan


def seeds_text(seeds: Sequence[str], statistic: str = "mean ± sd") -> str:
    """Return what a table shows of runs with these seeds.

    >>> seeds_text(["0", "1"]), seeds_text(["0"])
    ('mean ± sd over seeds 0, 1', 'seed 0')
    """
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"{statistic} over seeds {', '.join(seeds)}"


def metric_name(report: Report) -> str:
    """Return the name of the main metric, such as ``mAP@all``."""
    return str(get_nested(report, "metrics", "conventions", "metric") or "mAP")


def count_bits(report: Report) -> int:
    """Return the number of bits; 0 if the report does not contain it."""
    nbit = report.get("nbit") or get_nested(report, "metrics", "nbit")
    return int(nbit) if is_number(nbit) else 0


def run_label(name: str) -> str:
    """Return the part of a run's name that follows from its method and overrides.

    >>> run_label("cifar10/csq+lmcl/32bit/seed0,loss.margin=0.5")
    'csq+lmcl loss.margin=0.5'
    """
    pieces = name.split("/", 3)
    if len(pieces) < 4:
        return name
    return pieces[1] + re.sub(r"^seed-?\d+", "", pieces[3]).replace(",", " ")


def measurement_key(report: Report) -> tuple[str, str]:
    """Return the data and conventions of a measurement; runs that differ in it do not compare."""
    conventions = get_nested(report, "metrics", "conventions") or {}
    given = {key: value for key, value in conventions.items() if value is not None}
    given.pop("family", None)
    fingerprint = get_nested(report, "protocol", "fingerprint")
    return str(fingerprint or ""), repr(sorted(given.items()))


def footnote_mark(index: int) -> str:
    """Return the mark of the n-th measurement key; the first one has none."""
    return MARKS[index] if index < len(MARKS) else f"[{index}]"


def describe_difference(report: Report, other: Report) -> str:
    """Return how a measurement differs from another one, whose values are in brackets."""

    def of_protocol(key: str) -> tuple[str, Any, Any]:
        return key, get_nested(report, "protocol", key), get_nested(other, "protocol", key)

    rows = [of_protocol(key) for key in ("dataset", "protocol", "split_seed")]
    if all(ours == theirs for _, ours, theirs in rows[:2]):
        sizes = ("num_classes", "num_train", "num_queries", "num_database")
        rows += [of_protocol(key) for key in sizes]
    _, ours, theirs = of_protocol("fingerprint")
    rows.append(("fingerprint", str(ours or "?")[:8], str(theirs or "?")[:8]))
    first, second = _conventions(report), _conventions(other)
    rows += [(key, first.get(key), second.get(key)) for key in first | second]
    return ", ".join(
        f"{key} {' ('.join(_shorten_pair(ours, theirs))})"
        for key, ours, theirs in rows
        if ours != theirs
    )


def _conventions(report: Report) -> dict[str, Any]:
    """Return the conventions that a mAP depends on, without a cut at the whole database."""
    conventions = dict(get_nested(report, "metrics", "conventions") or {})
    conventions.pop("family", None)
    if conventions.get("top") == get_nested(report, "metrics", "database"):
        conventions.pop("top", None)
    return {key: value for key, value in conventions.items() if value is not None}


def _shorten_pair(value: Any, other: Any) -> list[str]:
    """Return two different values as text, shortened if they still differ then."""
    texts = ["–" if item is None else str(item) for item in (value, other)]
    short = [shorten(text, 24) for text in texts]
    return short if short[0] != short[1] else texts


def unlabelled_note(report: Report) -> str:
    """Return the note of a run that was evaluated without labels; empty for other runs."""
    return str(get_nested(report, "metrics", "note") or "")


def unlabelled_metrics(metrics: Mapping[str, Any]) -> str:
    """Format the metrics of codes without labels in one line."""
    codes, ball = metrics.get("codes") or {}, metrics.get("precision_within_radius_2") or {}
    bits, distances = codes.get("bits") or {}, metrics.get("distances") or {}
    angle = (codes.get("quantization") or {}).get("degrees")
    shown = {
        "bit entropy": number(bits.get("entropy")),
        "dead bits": bits.get("dead_bits", "-"),
        "distinct codes": f"{bits.get('distinct_codes', '-')} of {metrics.get('database', '-')}",
        "quantization error": "-" if angle is None else f"{angle:.1f} degrees",
        "empty balls of radius 2": number(ball.get("empty_fraction")),
        "bits to the nearest": number(distances.get("mean_nearest")),
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def unlabelled_sentence(reports: Iterable[Report]) -> str:
    """Return a sentence for a table with runs that were evaluated without labels; else empty."""
    unlabelled = [bool(unlabelled_note(report)) for report in reports]
    if not any(unlabelled):
        return ""
    which = "These runs were" if all(unlabelled) else "Runs with a dash for mAP were"
    return f"{which} evaluated on images without labels: metrics that need labels are missing."
