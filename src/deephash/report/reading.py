"""Read what a run folder holds, checked as far as tables, figures and pages use it."""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deephash.errors import FileError
from deephash.utils.files import Kind, expect, finite, parse_json, read_json, read_text

log = logging.getLogger("deephash")

AGAIN = "Delete it, and training goes on from last.pt; or train anew with rerun=true."

PLAIN = (str, finite, float, bool, None)
NUMBER = (float, None)

MEASURED: dict[str, Kind] = {
    "metrics": dict,
    "metrics.map": NUMBER,
    "metrics.map_min": NUMBER,
    **{f"metrics.{name}": NUMBER for name in ("nbit", "queries", "database")},
    **{f"metrics.{name}.*": (float, None) for name in
       ("ties", "precision_at", "recall_at", "hit_rate_at", "map_at",
        "precision_within_radius_2", "map_within_radius_2")},
    "metrics.pr_curve.*": list,
    **{f"metrics.pr_curve.{name}_{kind}": [float, None] for name in ("precision", "recall")
       for kind in ("macro", "micro")},
    "metrics.pr_curve_by_rank.*": [float, None],
    "metrics.graded": (dict, None),
    **{f"metrics.graded.{name}.*": NUMBER for name in ("acg_at", "ndcg_at", "wmap_at")},
    "metrics.codes.*": (dict, float, None),
    **{f"metrics.codes.{name}.*": NUMBER for name in
       ("quantization", "orthogonality", "separability")},
    **{f"metrics.codes.histograms.{name}": [float, None] for name in ("intra", "inter")},
    "metrics.codes.bits.ones": [float, None],
    "metrics.setups.*": dict,
    "metrics.setups.*.map": (float, dict, None),
    "metrics.setups.*.precision_at.*": NUMBER,
    "metrics.agreement": (dict, None),
    **{f"metrics.agreement.{name}": NUMBER for name in ("spearman", "recall_at_10")},
    "metrics.distances": (dict, None),
    **{f"metrics.{name}": [float, None] for name in
       ("distances.distance", "distances.share", "codes.distances.share")},
    "metrics.conventions": dict,
    "metrics.conventions.*": (*PLAIN, dict),
    "metrics.conventions.metric": str,
    **{f"metrics.conventions.{name}": (int, None) for name in ("top", "seed")},
    **{f"metrics.conventions.{name}": (str, None) for name in ("ties", "family", "own")},
    "metrics.conventions.ternary": (float, None),
    "method": str,
    "kind": (str, None),
    "nbit": int,
    "seed": int,
    "checkpoint": (str, None),
    "protocol": dict,
    "protocol.dataset": str,
    "protocol.protocol": str,
    "protocol.fingerprint": str,
    "environment.*": (*PLAIN, list, dict),
    "plugins.*": dict,
    "plugins.*.*": PLAIN,
}  # fmt: skip
"""Kinds of what ``report.json`` and ``evaluation.json`` hold in common."""

REPORT: dict[str, Kind] = {
    "run": str,
    **MEASURED,
    "selection": dict,
    "selection.*": PLAIN,
    "selection.epochs": (int, None),
    "selection.epoch_last": int,
    "selection.eval_every": int,
    "selection.selected_epoch": (int, None),
    **{
        f"selection.{name}": (finite, None)
        for name in (
            "map_best_on_query",
            "map_at_val_epoch",
            "map_at_agreement_epoch",
            "agreement_best",
            "map_last",
        )
    },
    "codebook.*": PLAIN,
    "reference": (dict, None),
    "reference.skipped": (str, None),
    "reference.draws": (int, None),
    **{f"reference.{name}": (finite, None) for name in ("map", "sd")},
    "reference.agreement": (dict, None),
    "reference.agreement.*": (finite, None),
    "training": dict,
    "training.*": PLAIN,
    "training.seconds": finite,
    "training.data_share": (finite, None),
    "git.*": PLAIN,
}
"""Kinds of what ``report.json`` holds. Older ones and those of other programs hold less."""

TABLE = (
    "run", "nbit", "seed", "metrics.map", "metrics.conventions.metric", "protocol.dataset",
    "protocol.protocol", "protocol.fingerprint",
)  # fmt: skip
"""What tables need of it."""


def read_report(path: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Read the report of a finished run.

    Args:
        path: of ``report.json``.
        required: keys that must be there, such as ``TABLE``.

    Returns:
        The report; whatever it holds of ``REPORT`` is of the kind that stands there.

    Raises:
        FileError: it does not exist, since the run has not finished; or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(path, "it does not exist: the run has not finished", "report")
    report: dict[str, Any] = read_json(path, "report", advice=AGAIN)
    expect(report, {f"{key}?": kind for key, kind in REPORT.items()}, path, "report", AGAIN)
    expect(report, {key: REPORT[key] for key in required}, path, "report", AGAIN)
    return report


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log, in the order of their steps; those that are damaged are left out.

    Args:
        path: of ``log.jsonl``; it need not exist.
    """
    entries = (log_entry(line) for line in read_optional(path).splitlines())
    return sorted((one for one in entries if one is not None), key=lambda one: one["step"])


HEAD: dict[str, Kind] = {"where": str, "step": int, "epoch": int}
"""What each line of a log holds."""


def log_entry(line: str, kinds: Mapping[str, Kind] = HEAD) -> dict[str, Any] | None:
    """Parse one line of a log; None if it is not whole, or not one of ours."""
    try:
        entry = parse_json(Path("log.jsonl"), line, "log")
        expect(entry, kinds, Path("log.jsonl"), "log")
    except FileError:
        return None
    return {key: value for key, value in entry.items() if _plain(key, value)}


def _plain(key: str, value: Any) -> bool:
    """Whether a value of a log is a number, or one of the words that stand for what JSON lacks."""
    if isinstance(value, str):
        return key in ("where", "time") or value in ("nan", "inf", "-inf")
    return isinstance(value, int | float) and math.isfinite(value)


def read_optional(path: Path) -> str:
    """Read a text file as far as it is UTF-8; empty when it is not there or cannot be read.

    A file that is there and cannot be read is warned about.
    """
    try:
        return read_text(path, limit=1 << 30, errors="replace")
    except FileError as error:
        if path.exists():
            log.warning("%s", error)
        return ""


VALUE = (*PLAIN, list, dict)

SWEEP: dict[str, Kind] = {
    "jobs": [dict],
    **dict.fromkeys(("title?", "source?", "command?"), (str, None)),
    "report?": (dict, None),
    "report.rows?": (str, [str], None),
    **dict.fromkeys(("report.columns?", "report.row_label?"), (str, None)),
    "report.published?": (str, [str], None),
    "report.also?": (str, int, None),
    "report.digits?": (int, None),
    "report.figure?": (dict, None),
    "report.figure.*?": (str, None),
}
"""What ``sweep.json`` holds."""

JOB: dict[str, Kind] = {
    "run": str,
    "values": dict,
    "values.*": VALUE,
    "values.seed?": PLAIN,
    "settings?": ([str], None),
    "overrides?": ([str], None),
}
"""What it holds of each job."""


def read_sweep_file(path: Path) -> dict[str, Any]:
    """Read the ``sweep.json`` of a sweep.

    Args:
        path: of the file.

    Raises:
        FileError: it is missing or damaged.
    """
    what, advice = "sweep", "Delete it, and launch the sweep again: finished runs are skipped."
    manifest: dict[str, Any] = read_json(path, what, advice=advice)
    expect(manifest, SWEEP, path, what, advice)
    for number, job in enumerate(manifest["jobs"]):
        try:
            expect(job, JOB, path, what, advice)
        except FileError as error:
            raise FileError(path, f"jobs[{number}]: {error.reason}", what, advice) from None
    if not 0 <= ((manifest.get("report") or {}).get("digits") or 0) <= 15:
        raise FileError(path, "report.digits is not a number of digits", what, advice)
    return manifest
