"""Measure a run again from its folder, or put several side by side."""

import contextlib
import copy
import os
import re
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, cast, get_args

import torch

from deephash.config import (
    backbone_inputs,
    build,
    checks,
    identity,
    plugins,
    requirements,
    schema,
    targets,
)
from deephash.config.faults import raise_faults
from deephash.config.overrides import Override, parse_all
from deephash.data.datamodule import DataModule
from deephash.errors import ConfigError, DeephashError, FileError, TrainingError, WriteError
from deephash.loggers.console import agreement, without_labels
from deephash.loggers.wandb import load_package
from deephash.report import Retrieved, write_comparison, write_evaluation
from deephash.report.table import markdown
from deephash.runs import gallery
from deephash.runs.common import (
    agreement_of,
    check_size,
    deterministic,
    load_encoder,
    save_codes,
)
from deephash.runs.folder import FIGURES, RunFolder, environment, runs_below
from deephash.training import out_of_memory
from deephash.training.evaluation import Codes, Evaluation, encode
from deephash.utils import program
from deephash.utils.files import (
    check_writable,
    expand_path,
    make_folder,
    make_subfolder,
    read_json,
    read_text,
    write_json,
)
from deephash.utils.formatting import number

Found = Mapping[str, Any]

DECIDING = ("metric", "top", "ties", "denominator", "empty", "ternary", "centred", "own", "seed")
"""The conventions that make a mAP; the last only of shuffled ties."""


def evaluate(cfg: schema.Evaluate, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """Measures a run again, or compares several.

    Args:
        cfg: the checked page of ``evaluate.py``.
        overrides: the command line.

    Returns:
        what ``evaluation.json`` of the run's folder holds; of several, by folder.

    Raises:
        DeephashError: with a message for the user.
    """
    if "wandb" in (cfg.logger or {}):
        load_package()  # before anything is read
    out = None if cfg.out is None else expand_path(cfg.out)
    if cfg.run is not None:
        return measure(cfg, RunFolder(expand_path(cfg.run)), out, overrides)
    again = cfg.checkpoint != "best" or any(v is not None for v in cfg.evaluation.plain.values())
    again |= any(v is not None for v in cfg.dataset.values())
    runs = runs_of(cfg.runs or [], finished=not again)
    comparison = Path("comparison") if out is None else out
    check_writable(comparison)
    RunFolder(comparison).tidy()
    found, damaged = {}, {}
    for run in runs:
        try:
            told = None if again else reported(run)
            found[str(run.path)] = measure(cfg, run, None, overrides) if told is None else told
        except WriteError:  # where all of them would be written
            raise
        except DeephashError as error:  # of one run; the others are compared
            if len(runs) == 1:
                raise
            damaged[str(run.path)] = str(error).splitlines()[0]
            print(f"left out: {run.path}\n  {error}")
    if not found:
        raise TrainingError("runs  none of them can be read: see above")
    made = write_comparison(comparison, list(found.values()), damaged)
    if all(one["name"].count("/") >= 3 for one in found.values()):  # as training names runs
        print(markdown([{**one, "run": one["name"]} for one in found.values()]))
    print(f"comparison of {len(found)} runs: {comparison / 'comparison.html'}")
    _show(cfg, made, next(run for run in runs if str(run.path) in found), comparison)
    return found


@out_of_memory.told(
    "Try a smaller trainer.eval_batch_size in the run's config.yaml, device=cpu, or a device\n"
    "  nobody else uses."
)
def measure(
    cfg: schema.Evaluate,
    run: RunFolder,
    out: Path | None = None,
    overrides: Sequence[Override] = (),
) -> dict[str, Any]:
    """Builds a run's encoder and its data, nothing else, and measures the codes in full.

    Writes ``evaluation.json``, the codes, and if figures are wanted the page and its figures.

    Args:
        cfg: the checked page of ``evaluate.py``.
        run: its folder; what is null on the page is as it was there.
        out: where to write; None for the run's folder.
        overrides: the command line.
    """
    changed = _changed(run.config(whole=True), cfg, overrides)
    ran = checks.parse_run(changed, run.path / "config.yaml")
    source = _without_download(ran.dataset.source, cfg)
    ran = ran.with_values(dataset=ran.dataset.with_values(source=source).plain)
    elsewhere = "source" in cfg.dataset
    if out is None:
        out = make_subfolder(run.path / ran.dataset.name) if elsewhere else run.path
    check_writable(out)
    RunFolder(out).tidy()
    device = build.device(cfg.device)
    deterministic(ran.trainer.deterministic)
    evaluation = build.evaluation(ran, device)
    data = build.data(ran)
    data.setup(device, trains=False)
    evaluation.check(data)
    file = f"{cfg.checkpoint}.pt"
    check_size(ran, data.width, run.path / file)
    encoder = build.encoder(ran, data.width, pretrained=False).to(device)
    gallery.check_queries(cfg.gallery.queries, len(data.split.queries))
    load_encoder(run.path / file, encoder, None if elsewhere else data.facts.fingerprint)
    if ran.trainer.channels_last:
        encoder.to(memory_format=torch.channels_last)
    kind, split = _kind(run, ran), data.split
    kept = agreement_of(kind, encoder, data)
    taps = [] if kept is None else [kept]
    codes = encode(encoder, data, evaluation.autocast, taps=taps)
    metrics = evaluation.measure(codes, data, split.queries, split.database, full=True)
    if kept is not None:
        metrics["agreement"] = evaluation.agreement(codes, split.queries, split.database, kept)
    found = {
        "run": str(run.path),
        "name": _name(run),
        **_full_name(run),
        "method": ran.method.name,
        "kind": kind,
        "nbit": ran.model.nbit,
        "seed": ran.seed,
        "checkpoint": file,
        "metrics": metrics,
        "protocol": data.facts.as_dict(),
        "encode_images_per_second": codes.images_per_second,
        "environment": environment(),
        **plugins.report(),
    }
    make_folder(out)
    if not cfg.figures:
        _forget_figures(out, found)
    write_json(out / "evaluation.json", found)
    name = "codes.npz" if cfg.checkpoint == "best" else f"codes-{cfg.checkpoint}.npz"
    save_codes(out / name, codes, data, evaluation)
    _say(found, None if elsewhere else run)
    if cfg.figures and data.truth is None:
        RunFolder(out).forget("figures/.*.tmp")  # of a write that was killed
        made = write_evaluation(
            out,
            found,
            gallery=_gallery(evaluation, codes, data, cfg.gallery) if data.width is None else [],
            plane=gallery.plane(codes, data, cfg.tsne),
            snapshots=gallery.snapshots(run.path),
        )
        print(f"figures {out / 'evaluation.html'}")
        _show(cfg, made, run)
    return found


def _gallery(
    evaluation: Evaluation, codes: Codes, data: DataModule, wanted: schema.Gallery
) -> list[Retrieved]:
    return gallery.gallery(
        evaluation, codes, data, queries=wanted.queries, rows=wanted.rows, top=wanted.top
    )


def _forget_figures(out: Path, found: Found) -> None:
    """Removes figures of another measurement than this one."""
    page, told = out / "evaluation.html", out / "evaluation.json"
    if not page.is_file():
        return
    try:
        before = read_json(told, "evaluation") if told.is_file() else {}
    except FileError:
        before = {}  # damaged: as if it were not there
    if any(before.get(key) != found[key] for key in ("checkpoint", "metrics")):
        RunFolder(out).forget(*FIGURES)
        print(f"removed {page} and its figures: they showed another measurement")


def reported(run: RunFolder) -> dict[str, Any] | None:
    """What a finished run found, as if it had been measured again; None if that was not all."""
    report = run.report()
    if not report["metrics"].get("codes"):
        print(f"{run.path} is from before reports described codes: measured again")
        return None
    return report | {"run": str(run.path), "name": report["run"], **_full_name(run)}


def _kind(run: RunFolder, ran: schema.Run) -> requirements.Kind | None:
    """Return how the method learned, from the report or else from its classes; None: unknown.

    A class of a plugin that this command does not name is not imported for it.
    """
    try:
        kind = run.report().get("kind")
        if kind in get_args(requirements.Kind):
            return cast(requirements.Kind, kind)
    except (TrainingError, FileError):
        pass
    try:
        return requirements.kind(ran.method.plain)
    except ConfigError:
        return None


def _full_name(run: RunFolder) -> dict[str, str]:
    """The whole name of a run whose folder's name was cut: what sets it apart may be cut off."""
    file = run.path / "overrides.txt"
    if not re.search(r"~[0-9a-f]{12}$", run.path.name) or not file.is_file():
        return {}
    overrides = parse_all(read_text(file).splitlines())
    return {"full_name": identity.full_name(run.config(whole=True), overrides)}


def runs_of(given: str | Sequence[str], finished: bool) -> list[RunFolder]:
    """The run folders that folders, folders of folders and patterns stand for, each once.

    Args:
        given: paths; ``*`` and ``**`` in them stand for anything.
        finished: whether those that have not finished are no use.

    Raises:
        TrainingError: one stands for no run, or names one that has not finished.
    """
    found: dict[Path, RunFolder] = {}
    for text in map(os.path.expanduser, [given] if isinstance(given, str) else given):
        named = Path(text)
        if (named / "config.yaml").is_file():
            some = [named]
            if finished and not RunFolder(named).finished:
                raise TrainingError(
                    f"{named} has not finished: {program.command('train')} goes on with it"
                )
        else:
            below = (
                [named] if named.is_dir() else sorted(map(Path, glob(str(named), recursive=True)))
            )
            some = [run for folder in below for run in runs_below(folder)]
            some = [run for run in some if not finished or RunFolder(run).finished]
        if not some:
            raise TrainingError(f"runs  there is no {'finished ' * finished}run in {text}")
        found |= {path.resolve(): RunFolder(path) for path in some}
    return list(found.values())


def _changed(
    ran: dict[str, Any], cfg: schema.Evaluate, overrides: Sequence[Override]
) -> dict[str, Any]:
    """Return the configuration of a run, changed as the page of ``evaluate.py`` says.

    Raises:
        ConfigError: the backbone does not take the images of another dataset.
    """
    ran["evaluation"] = checks.changed_evaluation(ran["evaluation"], cfg.evaluation.plain)
    if "source" in cfg.dataset:
        ran["dataset"] = copy.deepcopy(dict(cfg.dataset))
        if (images := backbone_inputs.declared(ran.get("backbone"))) is not None:
            backbone_inputs.adapt(ran["dataset"], images, [one.key for one in overrides])
            raise_faults(checks.check_images(ran, ["test"]), overrides)
    else:
        for key, place in cfg.dataset.items():
            if place is None:
                continue
            if key not in ran["dataset"]["source"]:
                what = {"root": "folder", "lists": "lists"}[key]
                name = ran["dataset"]["name"]
                raise ConfigError(f"dataset.{key}  {name} reads no {what}. Leave it out.")
            ran["dataset"][key] = ran["dataset"]["source"][key] = place
    ran["trainer"]["device"] = cfg.device
    ran["paths"] = dict(cfg.paths.plain)  # where this command writes is not the run folder's
    return ran


def _without_download(source: Mapping[str, Any], cfg: schema.Evaluate) -> Mapping[str, Any]:
    """Keep a run's source from downloading into a folder that only the run folder names."""
    if "source" in cfg.dataset or cfg.dataset.get("root") is not None:
        return source
    target = targets.locate(source["_target_"], "dataset.source")
    known = targets.arguments(target)
    return {**source, "download": False} if "download" in known else source


def _say(found: Found, run: RunFolder | None) -> None:
    """The numbers, what they are, and whether training found the same.

    Args:
        found: what was measured.
        run: whose training measured the same data; None for other data.
    """
    metrics = found["metrics"]
    told = metrics["conventions"]
    of = [f"ties {told['ties']}", f"fingerprint {found['protocol']['fingerprint'][:16]}"]
    of += ["centred"] * told.get("centred", False)
    if "setups" in metrics:
        _say_setups(metrics, of)
        _compare(found, run)
        return
    of += [f"{key} {told[key]}" for key in ("ternary", "own") if told[key] is not None]
    of += [f"convention {told['family']}"] * (told["family"] is not None)
    of += [found["checkpoint"]] * (found["checkpoint"] != "best.pt")
    if metrics["map"] is None:
        print(f"{metrics['note']}  ({', '.join(of)})")
        print(without_labels(metrics))
        _say_agreement(metrics)
        _compare(found, run)
        return
    print(f"{told['metric']} {metrics['map']!r}  ({', '.join(of)})")
    ball = metrics["precision_within_radius_2"]
    more = {f"mAP@{top}": value for top, value in metrics["map_at"].items()}
    more |= {"P@H<=2": ball["mean_zero"], "empty balls": ball["empty_fraction"]}
    print("  ".join(f"{name} {number(value)}" for name, value in more.items()))
    for queries, what in (
        (metrics["queries_without_relevant"], "nothing relevant in the database"),
        (metrics["queries_without_hits"], f"nothing relevant among the first {told['top']}"),
    ):
        if queries:
            print(f"{queries} of {metrics['queries']} queries have {what} (empty {told['empty']})")
    _say_agreement(metrics)
    _compare(found, run)


def _say_agreement(metrics: Found) -> None:
    """How well the codes agree with features, where that was measured."""
    if "agreement" in metrics:
        print(f"agreement with features: {agreement(metrics['agreement'])}")


def _compare(found: Found, run: RunFolder | None) -> None:
    """Says whether training found the same; nothing of other data."""
    if run is None:
        return
    if not run.finished:
        print("training has not finished: this is the encoder so far")
    elif found["checkpoint"] == "best.pt":
        told, metrics = found["metrics"]["conventions"], found["metrics"]
        try:
            trained = run.report()["metrics"]
        except FileError as error:
            print(f"what training reported cannot be compared: {error}")
            return
        deciding = DECIDING if told["ties"] == "shuffled" else DECIDING[:-1]
        if trained["map"] is None or metrics["map"] is None:
            return  # of images without labels there is nothing to compare
        if all(trained["conventions"].get(key) == told.get(key) for key in deciding):
            same = min(trained["map"], 1.0) == metrics["map"]  # older reports: not clipped to 1
            print(f"training reported {trained['map']!r}: {'the same' if same else 'DIFFERENT'}")


def _say_setups(metrics: Found, of: Sequence[str]) -> None:
    """What lists of instances gave, setup by setup."""
    print(f"{metrics['conventions']['metric']}  ({', '.join(of)})")
    for name, found in metrics["setups"].items():
        maps = found["map"] if isinstance(found["map"], dict) else {"mAP": found["map"]}
        cuts = {f"mP@{k}": value for k, value in found.get("precision_at", {}).items()}
        told = [f"{key} {number(value)}" for key, value in {**maps, **cuts}.items()]
        print(f"  {name}: {'  '.join(told)}  ({found['queries_counted']} queries)")


def _show(
    cfg: schema.Evaluate, made: Sequence[Path], run: RunFolder, out: Path | None = None
) -> None:
    """Add the figures to W&B if this command line asks for it with ``logger=wandb``.

    The logger of the run's own configuration is never used: the folder may be a stranger's, and
    so would be the account that it names.

    Args:
        cfg: the checked page of ``evaluate.py``.
        made: the figures.
        run: the run they are added to; of several, the first.
        out: of a comparison, which is a run of its own: its folder.
    """
    node = (cfg.logger or {}).get("wandb")
    if node is None:
        return
    ran = run.config()
    if out is None:
        logger = build.wandb(node, ran, run.path, _name(run), run.run_id(), "train")
    else:
        logger = build.wandb(node, ran, out, "comparison", None, "comparison")
    logger.figures({path.stem: path for path in made})
    logger.close()
    print(f"figures to W&B: {(run.path if out is None else out) / 'wandb'}")
    logger.summary({}, run.path)


def _name(run: RunFolder) -> str:
    with contextlib.suppress(FileError):
        if run.finished:
            return str(run.report()["run"])
    return run.path.name
