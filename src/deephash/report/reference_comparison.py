"""The reference of a report: numbers that need no training, beside those of the run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from deephash.utils.formatting import number

Report = Mapping[str, Any]

AGREEMENT = (("spearman", "Spearman"), ("recall_at_10", "recall of the 10 nearest"))
"""Names and titles of the measures of agreement between codes and features."""


class Measure(NamedTuple):
    """One measure of a run and of its reference; None for what was not measured.

    Example:
        >>> report = {"metrics": {"map": 0.5}, "reference": {"map": 0.6, "sd": 0.01, "draws": 10}}
        >>> measures(report)[0]
        Measure(name='map', title='mAP', own=0.5, mean=0.6, sd=0.01)
    """

    name: str
    title: str
    own: float | None
    mean: float | None  # over the draws of the reference
    sd: float | None  # n - 1

    @property
    def text(self) -> str:
        """Mean and standard deviation of the reference."""
        return f"{number(self.mean)} ± {number(self.sd)}"


def measures(report: Report) -> list[Measure]:
    """Return mAP, Spearman and recall of a run and of its reference.

    Args:
        report: ``report.json``.
    """
    metrics, reference = report.get("metrics") or {}, report.get("reference") or {}
    own, other = metrics.get("agreement") or {}, reference.get("agreement") or {}
    title = (metrics.get("conventions") or {}).get("metric", "mAP")
    return [
        Measure("map", title, metrics.get("map"), reference.get("map"), reference.get("sd")),
        *(
            Measure(name, title, own.get(name), other.get(name), other.get(f"{name}_sd"))
            for name, title in AGREEMENT
        ),
    ]


def not_beaten(report: Report) -> str:
    """Return a sentence if a run is not better than its reference; empty if it is, or has none.

    The mAP is compared; without labels the recall of the nearest by features.

    Args:
        report: ``report.json``.

    Example:
        >>> not_beaten({"metrics": {"map": 0.5}, "reference": {"map": 0.6, "sd": 0.01}})
        'Not better than PCA with random rotations of the same features: 0.5000, not 0.6000.'
    """
    if report.get("method") == (report.get("reference") or {}).get("method", ""):  # its own draws
        return ""
    by_name = {one.name: one for one in measures(report)}
    of = by_name["map"] if by_name["map"].mean is not None else by_name["recall_at_10"]
    if not isinstance(of.own, int | float) or not isinstance(of.mean, int | float):
        return ""
    if of.own > of.mean:
        return ""
    unit = "" if of.name == "map" else f"{of.title} "
    return (
        "Not better than PCA with random rotations of the same features:"
        f" {unit}{number(of.own)}, not {number(of.mean)}."
    )
