"""One finished run as a page: what it reached, how it got there, what it was measured under."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deephash.errors import FileError
from deephash.report.figures import canvas
from deephash.report.figures.evaluation import Retrieved
from deephash.report.figures.images import retrieved
from deephash.report.figures.svg import Point, svg_lines, svg_span
from deephash.report.pages.base import Rows, chips, render, rows_of
from deephash.report.reading import read_log, read_optional, read_report
from deephash.report.reference import measures, not_beaten
from deephash.report.rows import note_of
from deephash.utils.files import make_folder, make_subfolder, read_bytes, write_text
from deephash.utils.formatting import clock, number

LARGEST = 1 << 24
"""Bytes of a figure that a page takes in."""

NOT_TERMS = frozenset(
    {"time", "where", "step", "epoch", "lr", "images_per_second", "data_share", "grad_norm"}
)


def write_html(folder: Path) -> Path:
    """Write ``report.html`` beside a run's ``report.json`` and return its path.

    The page stands alone: it loads nothing, runs no script, and can be sent to somebody. Whatever
    the report leaves out, the page leaves out too.
    """
    folder = Path(folder)
    path = folder / "report.html"
    write_text(path, render("run.html.j2", read_page(folder)))
    return path


def write_nearest(folder: Path, gallery: Sequence[Retrieved]) -> None:
    """Write the figure of some queries with their nearest images, which ``report.html`` shows.

    Args:
        folder: of the run; the figure is ``figures/retrieved.png`` and ``.svg``.
        gallery: the queries; nothing is written if there are none.
    """
    with canvas.style():
        drawing = retrieved(gallery)
        if drawing is None:
            return
        make_folder(folder)
        make_subfolder(folder / "figures")
        canvas.save(canvas.readable(drawing).figure, folder / "figures", drawing.name)


def nearest(folder: Path) -> str:
    """Return the figure of nearest images as an address that holds it; empty if there is none."""
    file = folder / "figures" / "retrieved.png"
    if not file.is_file() or file.is_symlink():
        return ""
    try:
        content = read_bytes(file, "figure", LARGEST)
    except FileError:
        return ""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def read_page(folder: Path) -> dict[str, Any]:
    """Everything the template shows, from the files of a run folder."""
    report = read_report(folder / "report.json")
    lines = read_log(folder / "log.jsonl")
    part = {
        name: report.get(name) or {}
        for name in (
            "metrics",
            "selection",
            "protocol",
            "codebook",
            "training",
            "environment",
            "plugins",
            "git",
        )
    }
    fingerprint = str(part["protocol"].get("fingerprint", ""))
    unlabelled = "note" in part["metrics"]
    return {
        "title": report.get("run") or folder.name,
        "metric": (part["metrics"].get("conventions") or {}).get("metric", "mAP"),
        "map": number(part["metrics"].get("map")),
        "note": note_of(report),
        "chips": chips(report, part["protocol"]),
        "fingerprint": fingerprint,
        "choices": choices(part["selection"]),
        "selected_on": part["selection"].get("select_on"),
        "gap": gap(part["selection"]),
        "curves": curves(lines, part["selection"]),
        "retrieval": retrieval_figures(part["metrics"]),
        "reference": reference(report),
        "not_beaten": not_beaten(report),
        "nearest": nearest(folder) if unlabelled else "",
        "tables": [
            (title, rows)
            for title, rows in (
                ("Retrieval", metric_rows(part["metrics"])),
                ("Agreement with features", rows_of(part["metrics"].get("agreement") or {})),
                ("Conventions", rows_of(part["metrics"].get("conventions") or {})),
                ("Selection", rows_of(_known(part["selection"])) if unlabelled else []),
                ("Protocol", rows_of(part["protocol"])),
                ("Codebook", rows_of(part["codebook"])),
                ("Training", training_rows(part["training"])),
                ("Plugins", rows_of(part["plugins"])),
            )
            if rows
        ],
        "config": read_optional(folder / "config.yaml"),
        "overrides": " ".join(read_optional(folder / "overrides.txt").split()),
        "environment": rows_of(part["environment"]),
        "git": rows_of(part["git"]),
        "made_by": f"deephash {report.get('deephash', '')}".strip(),
        "checkpoint": report.get("checkpoint"),
    }


def choices(selection: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The three numbers a run can be quoted with, and what each of them means.

    There are none where no mAP was measured.
    """
    if "map_last" in selection and selection["map_last"] is None:
        return []
    found = []
    for key, name, value, epoch, meaning in (
        (
            "query",
            "Best on the queries",
            "map_best_on_query",
            "epoch_best_on_query",
            "The highest value seen on the very queries it is reported on. Many papers print "
            "this; it is optimistic, and more so the more often one looks.",
        ),
        (
            "val",
            "Chosen on validation",
            "map_at_val_epoch",
            "epoch_at_val",
            "The queries' value at the epoch that validation images chose. What to expect of "
            "queries that nobody has looked at.",
        ),
        (
            "agreement",
            "Chosen by agreement",
            "map_at_agreement_epoch",
            "epoch_at_agreement",
            "The queries' value at the epoch whose codes keep most of the neighbours that "
            "validation images have by features. No label was read to choose it.",
        ),
        (
            "last",
            "Last epoch",
            "map_last",
            "epoch_last",
            "The value when training ended. Nothing was chosen, so nothing is biased by choosing.",
        ),
    ):
        if value in selection:
            found.append(
                {
                    "name": name,
                    "value": number(selection[value]),
                    "epoch": selection.get(epoch),
                    "meaning": meaning,
                    "reported": selection.get("select_on") == key,
                }
            )
    return found


def gap(selection: Mapping[str, Any]) -> str:
    """A sentence on how much of the best number is owed to choosing it on the queries."""
    best = selection.get("map_best_on_query")
    honest, whose = selection.get("map_at_val_epoch"), "the epoch chosen on validation"
    if honest is None and selection.get("select_on") == "agreement":
        honest, whose = selection.get("map_at_agreement_epoch"), "the epoch chosen by agreement"
    if honest is None:
        honest, whose = selection.get("map_last"), "the last epoch"
    if best is None or honest is None:
        return ""
    looks = ""
    if selection.get("eval_every") and selection.get("epochs"):
        every = selection["eval_every"]
        often = "epoch" if every == 1 else f"{every} epochs"
        looks = f" The run of {selection['epochs']} epochs was looked at every {often}"
        looks += ", and stopped early." if selection.get("stopped_early") else "."
    return f"Choosing on the queries is worth {best - honest:+.4f} over {whose}.{looks}"


def curves(
    lines: Sequence[Mapping[str, Any]], selection: Mapping[str, Any]
) -> list[tuple[str, str, Markup]]:
    """The learning curves: title, caption, drawing."""
    train = [entry for entry in lines if entry["where"] == "train"]
    terms = {name: None for entry in train for name in entry if name not in NOT_TERMS}
    names = list(terms)
    if len(names) == 2 and "loss" in names and same(train, *names):
        names.remove("loss")  # the sole term is the loss
    losses = {name: track(train, "step", name) for name in names}
    titles = {"query": "queries", "val": "validation"}
    parts = {entry["where"]: None for entry in lines if "map" in entry}
    maps = {
        titles.get(part, part): track([e for e in lines if e["where"] == part], "epoch", "map")
        for part in parts
    }
    selected = selection.get("selected_epoch")
    marks = {} if selected is None else {f"selected: {selected}": float(selected)}
    found = []
    if any(maps.values()):
        caption = "Each point is an evaluation; the line marks the epoch that is reported."
        drawing = svg_lines(maps, "epoch", "mAP", marks)
        found.append(("mAP", caption if marks else "Each point is an evaluation.", drawing))
    if agreed := track([e for e in lines if e["where"] == "val"], "epoch", "agreement"):
        caption = "Of the 10 nearest by features, the part that is among the 10 nearest by codes."
        drawing = svg_lines({"validation": agreed}, "epoch", "recall of the 10 nearest", marks)
        found.append(("Agreement with features", caption, drawing))
    if any(losses.values()):
        caption = "Means over the steps since the point before, as the objective weighs them."
        found.append(("Loss", caption, svg_lines(losses, "step", "loss")))
    if rates := track(train, "step", "lr"):
        drawing = svg_lines({"lr": rates}, "step", "learning rate", y_range=(0.0, 0.0))
        found.append(("Learning rate", "", drawing))
    return [(title, caption, Markup(drawing)) for title, caption, drawing in found]


def retrieval_figures(metrics: Mapping[str, Any]) -> list[tuple[str, str, Markup]]:
    """Precision against recall, and what the order of ties is worth: title, caption, drawing."""
    found = []
    curve = metrics.get("pr_curve") or {}
    columns = [curve.get(name) or [] for name in ("recall_macro", "precision_macro", "radius")]
    points: list[Point] = [
        (x, y, f"radius {radius}: precision {number(y)}, recall {number(x)}")
        for x, y, radius in zip(*columns, strict=False)
        if x is not None and y is not None
    ]
    if points:
        drawing = svg_lines({"precision": points}, "recall", "precision", y_range=(0.0, 1.0))
        caption = (
            "One point for each Hamming radius: all that lies within it is returned. Means over "
            "the queries; one with nothing within the radius has precision 0."
        )
        found.append(("Precision and recall by radius", caption, drawing))
    ties = {
        name: float(value)
        for name, value in (metrics.get("ties") or {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    if {"worst", "best"} <= ties.keys():
        caption = (
            "Images at the same Hamming distance can stand in any order. This is the mAP if they "
            "stood in the worst or the best one, on average over all, and in the stable order."
        )
        found.append(("What ties are worth", caption, svg_span(ties, "worst", "best")))
    if "note" in metrics:
        found += codes_figures(metrics)
    return [(title, caption, Markup(drawing)) for title, caption, drawing in found]


def codes_figures(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What codes look like where there are no labels: distances, and the balance of the bits."""
    found, codes = [], metrics.get("codes") or {}
    pairs = (codes.get("distances") or {}).get("share") or []
    queries = metrics.get("distances") or {}
    shares: dict[str, list[Point]] = {
        "pairs of the database": [(float(at), share) for at, share in enumerate(pairs)],
        "queries to database": list(
            zip(queries.get("distance") or [], queries.get("share") or [], strict=False)
        ),
    }
    shares = {name: points for name, points in shares.items() if points}
    if shares:
        caption = "The share of pairs at each Hamming distance, whatever they show."
        drawing = svg_lines(shares, "Hamming distance", "share of pairs", y_range=(0.0, 0.0))
        found.append(("Distances", caption, drawing))
    ones = (codes.get("bits") or {}).get("ones") or []
    if ones:
        points: list[Point] = [(float(bit), share) for bit, share in enumerate(ones, 1)]
        drawing = svg_lines({"ones": points}, "bit", "share of ones", y_range=(0.0, 1.0))
        caption = "A balanced bit is at 1/2; one at 0 or 1 is dead, the same for all images."
        found.append(("Balance of the bits", caption, drawing))
    return found


def reference(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The run beside principal components of the same features, turned at random.

    Returns:
        ``head`` and ``rows`` of a table, and ``skipped``, the reason why there is none; None if the
        report does not speak of one.
    """
    known = report.get("reference") or {}
    if not known:
        return None
    if known.get("skipped"):
        return {"skipped": known["skipped"], "head": [], "rows": []}
    columns = [one for one in measures(report) if one.mean is not None]
    draws = known.get("draws") or "some"
    name = f"{report.get('method', 'this run')}, {report.get('nbit', '-')} bits"
    return {
        "skipped": "",
        "head": ["", *(one.title for one in columns)],
        "rows": [
            [name, *(number(one.own) for one in columns)],
            [f"PCA + random rotation, mean ± sd of {draws}", *(one.text for one in columns)],
        ],
    }


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values less those that are null."""
    return {name: value for name, value in values.items() if value is not None}


def metric_rows(metrics: Mapping[str, Any]) -> Rows:
    """The numbers of the report but those that are drawn or have a table of their own.

    Where nothing was measured with labels, what needs them is left out.
    """
    drawn = {"ties", "pr_curve", "pr_curve_by_rank", "conventions", "agreement"}
    if "note" in metrics:
        drawn |= {"note", *(name for name, value in metrics.items() if value is None)}
    return rows_of({name: value for name, value in metrics.items() if name not in drawn})


def training_rows(training: Mapping[str, Any]) -> Rows:
    """How long things took; seconds also as a clock shows them, shares in percent."""
    rows = []
    for name, value in rows_of(training):
        seconds = training.get(name)
        if name == "seconds" and isinstance(seconds, int | float) and seconds >= 60:
            value = f"{value} ({clock(seconds)})"
        if name == "data share" and training["data_share"] is not None:
            name, value = "waiting for data", f"{training['data_share']:.1%}"
        if name == "cached views":
            if training["cached_views"] is None:
                continue
            value = f"{value} fixed views of each image under each random pipeline, encoded once"
        rows.append((name, value))
    return rows


def track(lines: Sequence[Mapping[str, Any]], over: str, name: str) -> list[Point]:
    """The values of one name along the log; what JSON cannot say stands there as text."""
    return [(float(entry[over]), float(entry[name])) for entry in lines if name in entry]


def same(lines: Sequence[Mapping[str, Any]], one: str, other: str) -> bool:
    """Whether two names carry the same values throughout."""
    return all(entry.get(one) == entry.get(other) for entry in lines)
