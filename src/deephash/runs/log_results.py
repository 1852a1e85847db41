"""Log the results of a finished run: tables, and its files with the data that it used."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from deephash.config import checks
from deephash.loggers import Loggers, Picture
from deephash.report import Retrieved
from deephash.runs.folder import RunFolder
from deephash.runs.load_encoder import load
from deephash.runs.model_card import write_card
from deephash.runs.query_precision import NotComparableError, query_precision
from deephash.utils.files import write_text

CARD = "README.md"


def log_results(
    logger: Loggers, run: RunFolder, report: Mapping[str, Any], classes: Sequence[str] = ()
) -> None:
    """Log a table of the mAP by class, the data as a reference, and the run as a model.

    The model has all files that ``deephash.load`` and ``deephash evaluate`` need, and a card, which
    is written into the run folder.

    Args:
        logger: of the run.
        run: its folder, with its report.
        report: as in ``report.json``.
        classes: names of the classes, where they are known.
    """
    if not logger.keep_results:
        return
    try:
        rows = query_precision(run.path, report).by_class()
    except NotComparableError:  # no labels, or relevance is given by lists
        rows = []
    if rows:
        named = [(classes[c] if classes else str(c), count, mean) for c, count, mean in rows]
        logger.table("per_class", ("class", "queries", "map"), named)
    facts = report["protocol"]
    dataset, protocol = str(facts["dataset"]), str(facts["protocol"])
    uri = f"deephash://{quote(dataset)}/{quote(protocol)}?fingerprint={facts['fingerprint']}"
    plain = {key: value for key, value in facts.items() if isinstance(value, str | int | float)}
    logger.uses_data(f"{dataset}-{protocol}", uri, plain)
    ran = checks.parse_run(run.config(whole=True), run.config_file)
    write_text(run.path / CARD, write_card(run, ran, load(run.path, device="cpu")))
    files = [run.best, run.codes(), run.config_file, run.overrides_file, run.report_file]
    files = [*files, run.path / CARD]
    name = str(report["run"]).replace("/", "-")
    logger.artifact(name, "model", {file.name: file for file in files if file.is_file()})


def log_nearest(logger: Loggers, images: Sequence[Retrieved]) -> None:
    """Log queries and their nearest images as a table with a row for each query."""
    if not images or not logger.keep_results:
        return
    most = max(len(shown.images) for shown in images)
    rows = []
    for shown in images:
        captions = shown.captions
        if shown.right is not None:
            marks = ("relevant" if right else "not relevant" for right in shown.right)
            captions = [f"{text}, {mark}" for text, mark in zip(captions, marks, strict=True)]
        cells = [Picture(*item) for item in zip(shown.images, captions, strict=True)]
        rows.append([Picture(shown.query), shown.title, *cells, *[None] * (most - len(cells))])
    logger.table("nearest_images", ("query", "description", *map(str, range(1, most + 1))), rows)
