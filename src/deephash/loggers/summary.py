"""The values that represent a run in a table of runs."""

from collections.abc import Mapping
from typing import Any

from deephash.utils.nested import get_nested

SUMMARY = {
    "map": "metrics.map",
    "map_best_on_query": "selection.map_best_on_query",
    "map_at_val_epoch": "selection.map_at_val_epoch",
    "map_last": "selection.map_last",
    "selected_epoch": "selection.selected_epoch",
    "reference_map": "reference.map",
    "precision_at_100": "metrics.precision_at.100",
    "precision_within_radius_2": "metrics.precision_within_radius_2.mean_zero",
    "agreement": "metrics.agreement.recall_at_10",
    "bit_imbalance": "metrics.codes.bits.imbalance",
    "quantization_degrees": "metrics.codes.quantization.degrees",
    "separability": "metrics.codes.separability.value",
    "distinct_codes": "metrics.codes.bits.distinct_codes",
    "seconds": "training.seconds",
    "note": "metrics.note",
}
"""Names of the values of a summary, and their places in a report."""


def summary_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return about a dozen values of a report; values that it does not have are left out.

    Args:
        report: As in ``report.json``.

    >>> summary_of({"metrics": {"map": 0.5, "note": None}, "selection": {"map_last": 0.4}})
    {'map': 0.5, 'map_last': 0.4}
    """
    values = {name: get_nested(report, *place.split(".")) for name, place in SUMMARY.items()}
    for name, setup in (get_nested(report, "metrics", "setups") or {}).items():
        values |= flat({"map": setup.get("map")}, f"{name}/")
    return {name: value for name, value in values.items() if value is not None}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested numbers to names with slashes; leave out lists, texts and None.

    >>> flat({"map": 0.5, "ties": {"best": 0.6}, "curve": [1, 2], "note": "all"})
    {'map': 0.5, 'ties/best': 0.6}
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            result[prefix + name] = value
    return result
