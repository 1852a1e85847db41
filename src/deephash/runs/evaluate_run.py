"""Evaluate a run from its folder, or compare several runs."""

import contextlib
import copy
import os
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, cast, get_args

from deephash.config import (
    backbone_inputs,
    build,
    checks,
    plugins,
    requirements,
    run_identity,
    schema,
)
from deephash.config.faults import raise_faults
from deephash.config.overrides import Override, parse_all
from deephash.errors import ConfigError, DeephashError, FileError, TrainingError, WriteError
from deephash.loggers.console import format_agreement
from deephash.report import Retrieved, write_comparison, write_evaluation, write_html
from deephash.report.tables import reports_markdown
from deephash.report.values import unlabelled_metrics
from deephash.runs import gallery
from deephash.runs.codes import agreement_measurement, encode_and_evaluate, save_codes
from deephash.runs.folder import FIGURES, RunFolder, environment, runs_below, without_latest
from deephash.runs.load_encoder import build_encoder
from deephash.runs.log_results import log_nearest
from deephash.runs.run_data import move_data, without_download
from deephash.training import checkpoint as checkpoints
from deephash.training import out_of_memory
from deephash.training.precision import use_deterministic
from deephash.utils import program
from deephash.utils.filenames import TRUNCATED
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

Result = Mapping[str, Any]

DECIDING = ("metric", "top", "ties", "denominator", "empty", "ternary", "centred", "own", "seed")
"""The conventions that determine a mAP; the seed only with shuffled ties."""


def evaluate(cfg: schema.Evaluate, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """Evaluate a run, or compare several.

    Args:
        cfg: the checked configuration of ``evaluate``.
        overrides: the command line.

    Returns:
        The content of ``evaluation.json``; for several runs, by folder.

    Raises:
        DeephashError: with a message for the user.
    """
    build.require_loggers(cfg.logger)  # before anything is read
    out = None if cfg.out is None else expand_path(cfg.out)
    if cfg.run is not None:
        return measure(cfg, RunFolder(without_latest(expand_path(cfg.run))), out, overrides)
    changes = [*cfg.evaluation.plain.values(), *cfg.dataset.values()]
    again = cfg.checkpoint != "best" or any(value is not None for value in changes)
    runs = runs_of(cfg.runs or [], finished=not again)
    comparison = Path("comparison") if out is None else out
    check_writable(comparison)
    RunFolder(comparison).tidy()
    results, damaged = {}, {}
    for run in runs:
        try:
            result = None if again else reported(run)
            results[str(run.path)] = result or measure(cfg, run, None, overrides)
        except WriteError:  # concerns the output of all runs
            raise
        except DeephashError as error:
            if len(runs) == 1:
                raise
            damaged[str(run.path)] = str(error).splitlines()[0]
            print(f"left out: {run.path}\n  {error}")
    if not results:
        raise TrainingError("runs  none of them can be read: see above")
    made = write_comparison(comparison, list(results.values()), damaged)
    if all(result["name"].count("/") >= 3 for result in results.values()):  # names by training
        print(reports_markdown([{**result, "run": result["name"]} for result in results.values()]))
    print(f"comparison of {len(results)} runs: {comparison / 'comparison.html'}")
    _log_figures(cfg, made, next(run for run in runs if str(run.path) in results), comparison)
    return results


@out_of_memory.explain_memory_errors(
    "Try a smaller trainer.eval_batch_size in the run's config.yaml, device=cpu, or an idle device."
)
def measure(
    cfg: schema.Evaluate,
    run: RunFolder,
    out: Path | None = None,
    overrides: Sequence[Override] = (),
) -> dict[str, Any]:
    """Build a run's encoder and data, and evaluate the codes in full.

    Write ``evaluation.json``, the codes, and with ``figures`` a page with figures.

    Args:
        cfg: the checked configuration of ``evaluate``; null values are those of the run.
        run: its folder.
        out: the output folder; None for the run's folder.
        overrides: the command line.
    """
    changed = _changed(run.config(whole=True), cfg, overrides)
    ran = checks.parse_run(changed, run.config_file)
    file = run.checkpoint(cfg.checkpoint)
    checkpoints.require(file)  # before the data are read
    source = _without_download(ran.dataset.source, cfg)
    ran = ran.with_values(dataset=ran.dataset.with_values(source=source).plain)
    elsewhere = "source" in cfg.dataset
    if out is None:
        out = make_subfolder(run.path / ran.dataset.name) if elsewhere else run.path
    check_writable(out)
    output = RunFolder(out)
    output.tidy()
    device = build.device(cfg.device)
    use_deterministic(ran.trainer.deterministic)
    evaluation = build.evaluation(ran, device)
    data = build.data_module(ran)
    data.setup(device, trains=False)
    evaluation.check(data)
    gallery.check_queries(cfg.gallery.queries, len(data.split.queries))
    fingerprint = None if elsewhere else data.facts.fingerprint
    encoder = build_encoder(ran, data.width, file, device, fingerprint)
    kind = _kind(run, ran)
    agreement = agreement_measurement(kind, encoder, data)
    codes, metrics, _ = encode_and_evaluate(encoder, data, evaluation, agreement)
    result = {
        "run": str(run.path),
        "name": _name(run),
        **_full_name(run),
        "method": ran.method.name,
        "kind": kind,
        "nbit": ran.model.nbit,
        "seed": ran.seed,
        "checkpoint": file.name,
        "metrics": metrics,
        "protocol": data.facts.as_dict(),
        "encode_images_per_second": codes.images_per_second,
        "environment": environment(),
        **plugins.report_entries(),
    }
    if data.truth is None:
        result["classes"] = gallery.results_by_class(evaluation, codes, data)
    make_folder(out)
    if not cfg.figures:
        _remove_outdated_figures(output, result)
    write_json(output.evaluation_file, result)
    save_codes(output.codes(cfg.checkpoint), codes, data, evaluation)
    _print_result(result, None if elsewhere else run)
    if cfg.figures and data.truth is None:
        output.remove("figures/.*.tmp")  # left by a process that was killed
        images: dict[str, list[Retrieved]] = {}
        if data.width is None:
            images = gallery.galleries(evaluation, codes, data, cfg.gallery)
        plane = gallery.plane(codes, data, cfg.tsne)
        snapshots = gallery.snapshots(run.path)
        made = write_evaluation(out, result, gallery=images, plane=plane, snapshots=snapshots)
        if out == run.path and run.report_page.is_file():
            write_html(run.path)  # with a link to the new page
        print(f"figures {output.evaluation_page}")
        _log_figures(cfg, made, run, images=next(iter(images.values()), []))
    return result


def _remove_outdated_figures(output: RunFolder, result: Result) -> None:
    """Remove figures that show another evaluation."""
    page, file = output.evaluation_page, output.evaluation_file
    if not page.is_file():
        return
    try:
        before = read_json(file, "evaluation") if file.is_file() else {}
    except FileError:
        before = {}
    if any(before.get(key) != result[key] for key in ("checkpoint", "metrics")):
        output.remove(*FIGURES)
        print(f"removed {page} and its figures: they showed another measurement")


def reported(run: RunFolder) -> dict[str, Any] | None:
    """Return the report of a run in the form of an evaluation; None if metrics are missing."""
    report = run.report()
    if not report["metrics"].get("codes"):
        print(f"{run.path} is from before reports described codes: measured again")
        return None
    return report | {"run": str(run.path), "name": report["run"], **_full_name(run)}


def _kind(run: RunFolder, ran: schema.Run) -> requirements.Kind | None:
    """Return how the method learned, from the report or its classes; None: unknown.

    Plugins that this command does not name are not imported.
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
    """Return the full name of a run whose folder has a truncated or given name."""
    file, config = run.overrides_file, run.config(whole=True)
    given = config.get("name") is not None
    if not (given or TRUNCATED.search(run.path.name)) or not file.is_file():
        return {}
    overrides = parse_all(read_text(file).splitlines())
    return {"full_name": run_identity.full_name(config, overrides)}


def runs_of(paths: str | Sequence[str], finished: bool) -> list[RunFolder]:
    """Return the run folders in folders and patterns, each once.

    Args:
        paths: folders, or patterns with ``*`` and ``**``.
        finished: only those that are finished.

    Raises:
        TrainingError: a path has no run, or is one that has not finished.
    """
    runs: dict[Path, RunFolder] = {}
    for text in map(os.path.expanduser, [paths] if isinstance(paths, str) else paths):
        run = RunFolder(without_latest(Path(text)))
        if run.config_file.is_file():
            if finished and not run.finished:
                raise TrainingError(
                    f"{text} has not finished: {program.command('train')} goes on with it"
                )
            below = [run]
        else:
            is_folder = run.path.is_dir()
            folders = [text] if is_folder else sorted(glob(text, recursive=True))  # noqa: PTH207 - may be absolute
            below = [RunFolder(path) for folder in folders for path in runs_below(Path(folder))]
            below = [run for run in below if run.finished or not finished]
        if not below:
            kind = "finished run" if finished else "run"
            raise TrainingError(f"runs  there is no {kind} in {text}")
        runs |= {run.path.resolve(): run for run in below}
    return list(runs.values())


def _changed(
    ran: dict[str, Any], cfg: schema.Evaluate, overrides: Sequence[Override]
) -> dict[str, Any]:
    """Return the configuration of a run with the changes of ``evaluate``.

    Raises:
        ConfigError: the backbone does not take the images of another dataset.
    """
    ran["evaluation"] = checks.changed_evaluation(ran["evaluation"], cfg.evaluation.plain)
    if "source" in cfg.dataset:
        ran["dataset"] = copy.deepcopy(dict(cfg.dataset))
        if (images := backbone_inputs.declared_inputs(ran.get("backbone"))) is not None:
            backbone_inputs.adapt(ran["dataset"], images, [one.key for one in overrides])
            raise_faults(backbone_inputs.check_images(ran), overrides)
    else:
        move_data(ran, cfg.dataset)
    ran["trainer"]["device"] = cfg.device
    ran["paths"] = dict(cfg.paths.plain)  # the run folder does not choose the output
    return ran


def _without_download(source: Mapping[str, Any], cfg: schema.Evaluate) -> Mapping[str, Any]:
    """Disable downloads, unless this command line names the folder of the data."""
    if "source" in cfg.dataset or cfg.dataset.get("root") is not None:
        return source
    return without_download(source)


def _print_result(result: Result, run: RunFolder | None) -> None:
    """Print the metrics and their conventions, and compare them with those of training.

    Args:
        result: of the evaluation.
        run: whose training was evaluated on the same data; None for other data.
    """
    metrics = result["metrics"]
    rule = metrics["conventions"]
    labels = [f"ties {rule['ties']}", f"fingerprint {result['protocol']['fingerprint'][:16]}"]
    if rule.get("centred"):
        labels.append("centred")
    if "setups" in metrics:
        _print_setups(metrics, labels)
    else:
        labels += [f"{key} {rule[key]}" for key in ("ternary", "own") if rule[key] is not None]
        if rule["family"] is not None:
            labels.append(f"convention {rule['family']}")
        if result["checkpoint"] != "best.pt":
            labels.append(result["checkpoint"])
        if metrics["map"] is None:
            print(f"{metrics['note']}  ({', '.join(labels)})")
            print(unlabelled_metrics(metrics))
        else:
            _print_map(metrics, labels)
        if "agreement" in metrics:
            print(f"agreement with features: {format_agreement(metrics['agreement'])}")
    if run is not None:
        _compare(result, run)


def _print_map(metrics: Result, labels: Sequence[str]) -> None:
    rule, ball = metrics["conventions"], metrics["precision_within_radius_2"]
    print(f"{rule['metric']} {metrics['map']!r}  ({', '.join(labels)})")
    values = {f"mAP@{top}": value for top, value in metrics["map_at"].items()}
    values |= {"P@H<=2": ball["mean_zero"], "empty balls": ball["empty_fraction"]}
    print("  ".join(f"{name} {number(value)}" for name, value in values.items()))
    for count, reason in (
        (metrics["queries_without_relevant"], "nothing relevant in the database"),
        (metrics["queries_without_hits"], f"nothing relevant among the first {rule['top']}"),
    ):
        if count:
            print(f"{count} of {metrics['queries']} queries have {reason} (empty {rule['empty']})")


def _compare(result: Result, run: RunFolder) -> None:
    """Print whether training reported the same mAP."""
    if not run.finished:
        print("training has not finished: this is the encoder so far")
        return
    if result["checkpoint"] != "best.pt":
        return
    rule, metrics = result["metrics"]["conventions"], result["metrics"]
    try:
        trained = run.report()["metrics"]
    except FileError as error:
        print(f"what training reported cannot be compared: {error}")
        return
    if trained["map"] is None or metrics["map"] is None:
        return  # images without labels
    deciding = DECIDING if rule["ties"] == "shuffled" else DECIDING[:-1]
    if all(trained["conventions"].get(key) == rule.get(key) for key in deciding):
        same = min(trained["map"], 1.0) == metrics["map"]  # older reports: not clipped to 1
        print(f"training reported {trained['map']!r}: {'the same' if same else 'DIFFERENT'}")


def _print_setups(metrics: Result, labels: Sequence[str]) -> None:
    """Print the metrics of each setup of instance retrieval."""
    print(f"{metrics['conventions']['metric']}  ({', '.join(labels)})")
    for name, setup in metrics["setups"].items():
        maps = setup["map"] if isinstance(setup["map"], dict) else {"mAP": setup["map"]}
        cuts = {f"mP@{k}": value for k, value in setup.get("precision_at", {}).items()}
        values = [f"{key} {number(value)}" for key, value in {**maps, **cuts}.items()]
        print(f"  {name}: {'  '.join(values)}  ({setup['queries_counted']} queries)")


def _log_figures(
    cfg: schema.Evaluate,
    made: Sequence[Path],
    run: RunFolder,
    out: Path | None = None,
    images: Sequence[Retrieved] = (),
) -> None:
    """Log the figures with the loggers of this command line that keep figures.

    The logger in the run's configuration is never used: the folder may come from an untrusted
    source, which would choose the account.

    Args:
        cfg: the checked configuration of ``evaluate``.
        made: the figures.
        run: the run they are added to; of several, the first.
        out: folder of a comparison, which is a run of its own.
        images: queries with their nearest images.
    """
    folder = run.path if out is None else out
    if out is None:
        name, job_type, run_id = _name(run), "train", run.run_id
    else:
        name, job_type, run_id = "comparison", "comparison", None
    if not cfg.logger:
        return
    offered = build.for_loggers(run.config(), folder, name, job_type)
    logger = build.result_loggers(cfg.logger, offered, run_id)
    if not logger.loggers:
        return
    logger.figures({path.stem: path for path in made})
    log_nearest(logger, images)
    logger.close()
    logger.summary({}, folder)


def _name(run: RunFolder) -> str:
    with contextlib.suppress(FileError):
        if run.finished:
            return str(run.report()["run"])
    return run.path.name
