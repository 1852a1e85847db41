"""The model card of an encoder, made from the report of its run."""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

import deephash
from deephash.config import schema
from deephash.errors import FileError
from deephash.report.reading import TABLE
from deephash.runs.exported_folder import LIBRARY, architecture
from deephash.runs.folder import RunFolder
from deephash.runs.query_precision import NotComparableError, map_interval, query_precision
from deephash.training.code_encoder import CodeEncoder
from deephash.utils.formatting import number, typed

TIES = {
    "expected": "the mean over all orders of equally distant images (exact)",
    "stable": "in the order of the database, as most published code has it",
    "shuffled": "in a random order of the database",
    "best": "relevant images first: an upper bound",
    "worst": "relevant images last: a lower bound",
}
"""Descriptions of the orders of ties."""

SELECTION = {
    "query": "selected by its mAP on these queries, as in most papers: an optimistic number",
    "val": "selected on held-out validation images",
    "agreement": "selected by the agreement of codes and features of validation images",
    "last": "the last epoch; nothing was selected",
}
"""Descriptions of the criteria that select the checkpoint."""


def write_card(
    run: RunFolder,
    ran: schema.Run,
    encoder: CodeEncoder,
    check: str | None = None,
    checkpoint: str = "best",
    license: str | None = None,
) -> str:
    """Return the content of ``README.md``.

    Args:
        run: the run folder. Without a report there are no results on the card.
        ran: its configuration.
        encoder: of the run.
        check: the result of the comparison of an exported encoder with that of the run.
        checkpoint: that was exported; the report is of ``best``.
        license: of the exported weights; None for that of the initial weights.
    """
    try:
        report = run.report((*TABLE, "selection", "protocol"))
    except FileError:
        report = None
    known = weights_license(ran.backbone)
    results, reason = None, "The run has no report, so that nothing is known about its results."
    if checkpoint != "best":
        reason = "This is the last checkpoint of the run; its report is of another one."
    elif report is not None and report["metrics"]["map"] is None:
        reason = "The images have no labels: no mAP can be computed."
    elif report is not None:
        results = _results(run, report)
    title = f"{encoder.dataset} {encoder.method} {encoder.nbit} bits"
    name = architecture(ran.backbone)
    preprocess, width = encoder.preprocess, None
    if preprocess["input"] == "features":
        width = preprocess["width"]
        text = f"features, float32 (N, {width})"
    else:
        size = preprocess["stages"][0]["size"]
        text = (
            f"RGB images, fitted to {size} x {size} ({preprocess['crop_mode']}); the network takes"
            f" {preprocess['input_size'][1]} x {preprocess['input_size'][2]}"
        )
    values = {
        "title": title,
        "version": deephash.__version__,
        "nbit": encoder.nbit,
        "nbytes": -(-encoder.nbit // 8),
        "method": encoder.method,
        "kind": (report or {}).get("kind"),
        "backbone": f"{name}" + (", frozen" if ran.backbone.get("frozen") else ""),
        "weights": weights_text(ran.backbone),
        "weights_license": known or _no_license(ran.backbone),
        "input": text,
        "features": width,
        "fingerprint": encoder.fingerprint,
        "result": results,
        "no_result": reason,
        "ternary": ran.evaluation.ternary,
        "centred": ran.evaluation.centred,
        "check": check,
        "citation": citation(ran.method.name),
    }
    environment = Environment(
        loader=PackageLoader("deephash.runs", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    body = environment.get_template("model_card.md.j2").render(values)
    head = yaml.safe_dump(
        _head(title, encoder, license or known, report if results else None),
        sort_keys=False,
        allow_unicode=True,
    )
    return f"---\n{head}---\n\n{body}"


def _head(
    title: str, encoder: CodeEncoder, license: str | None, report: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the metadata at the top of a model card, with the keys of the Hugging Face Hub."""
    head: dict[str, Any] = {
        "library_name": LIBRARY,
        "license": "other" if license is None else license,
        **({"license_name": "unknown"} if license is None else {}),
        "pipeline_tag": "image-feature-extraction",
        "tags": ["image-retrieval", "hashing", str(encoder.method)],
        "datasets": [str(encoder.dataset)],
        "metrics": ["mean_average_precision"],
    }
    if report is not None:
        metric = {
            "type": "mean_average_precision",
            "name": report["metrics"]["conventions"]["metric"],
            "value": report["metrics"]["map"],
        }
        result = {
            "task": {"type": "image-retrieval", "name": "Image retrieval by Hamming distance"},
            "dataset": {
                "type": report["protocol"]["dataset"],
                "name": f"{report['protocol']['dataset']}, {report['protocol']['protocol']}",
            },
            "metrics": [metric],
        }
        head["model-index"] = [{"name": title, "results": [result]}]
    return head


def _results(run: RunFolder, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the section of results."""
    metrics, protocol = report["metrics"], report["protocol"]
    rule, selection = metrics["conventions"], report["selection"]
    top, size = rule.get("top"), metrics.get("database")
    cut = isinstance(top, int) and isinstance(size, int) and top < size
    parts = [f"the first {top:,} images" if cut else "the whole database"]
    parts += [f"{key} {rule[key]}" for key in ("denominator", "empty", "family") if rule.get(key)]
    chosen = SELECTION.get(str(selection.get("select_on")), "not known")
    epochs = [selection.get(key) for key in ("selected_epoch", "epochs")]
    if all(isinstance(epoch, int) for epoch in epochs) and epochs[1]:
        chosen = f"epoch {epochs[0]} of {epochs[1]}, {chosen}"
    reference = report.get("reference") or {}
    text = None
    if reference.get("map") is not None:
        text = (
            f"{number(reference['map'])} with principal components of the same features, turned"
            " by random rotations, without training"
        )
    return {
        "metric": rule["metric"],
        "value": number(metrics["map"]),
        "interval": _interval(run, report),
        "queries": _count(metrics.get("queries")),
        "database": _count(metrics.get("database")),
        "dataset": protocol["dataset"],
        "protocol": protocol["protocol"],
        "train": _count(protocol.get("num_train")),
        "fingerprint": protocol["fingerprint"],
        "definition": ", ".join(parts),
        "ties": TIES.get(str(rule.get("ties")), typed(rule.get("ties"))),
        "selection": chosen,
        "reference": text,
    }


def _interval(run: RunFolder, report: Mapping[str, Any]) -> str:
    """Return the bootstrap interval of the mAP over its queries, from the codes of the run."""
    try:
        interval = map_interval([query_precision(run.path, report)])
    except NotComparableError as error:
        return f" (no interval: {error})"
    if interval is None:
        return ""
    low, high, queries = interval
    return f" (95 % interval {number(low)} to {number(high)}, bootstrap over {queries:,} queries)"


def weights_text(backbone: Mapping[str, Any]) -> str:
    """Return what a backbone started from; of a file, only its name.

    >>> weights_text({"_target_": "deephash.models.backbones.Tiny", "weights": "none"})
    'random'
    """
    weights = backbone.get("weights")
    if architecture(backbone) == "identity":
        return "no backbone: the inputs are features"
    if weights in (None, "none"):
        return "random"
    if weights == "imagenet":
        return "torchvision's IMAGENET1K_V1"
    if weights == "pretrained":
        return f"timm's {backbone.get('name')}"
    return f"the file {Path(str(weights)).name}"


def weights_license(backbone: Mapping[str, Any]) -> str | None:
    """Return the licence of the weights that a backbone started from; None if it is not known.

    That of torchvision is of the code and the weights, not of ImageNet's images.

    >>> weights_license({"_target_": "deephash.models.backbones.Torchvision",
    ...                  "weights": "imagenet"})
    'bsd-3-clause'
    """
    weights = backbone.get("weights")
    if weights == "imagenet":
        return "bsd-3-clause"
    if weights == "pretrained":
        from deephash.models.timm_models import license_of

        return license_of(str(backbone.get("name")))
    return None


def _no_license(backbone: Mapping[str, Any]) -> str:
    nothing = backbone.get("weights", "none") in (None, "none")
    return "none: there were none" if nothing else "not known to deephash"


def citation(method: str) -> str | None:
    """Return the paper of a method, from the docstring of its module; None without one.

    >>> citation("itq")
    'ITQ, CVPR 2011. Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to ...'
    """
    name = f"deephash.methods.{method}"
    if not method.isidentifier() or find_spec(name) is None:
        return None
    text = importlib.import_module(name).__doc__
    return " ".join(text.split()) if text else None


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"
