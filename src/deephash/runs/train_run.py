"""Train a run."""

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import deephash
from deephash.config import build, plugins, requirements, run_identity, schema
from deephash.config.overrides import Override, texts
from deephash.data.cache_folder import cache_folder
from deephash.data.datamodule import DataModule
from deephash.data.feature_store import FeatureStore
from deephash.data.precomputed_features import precompute_features
from deephash.errors import ConfigError, TrainingError
from deephash.methods.base import Method
from deephash.models.codebooks import spread
from deephash.models.encoder import Encoder
from deephash.models.weights import digest
from deephash.report import Retrieved, write_html, write_nearest
from deephash.runs import gallery, start_from
from deephash.runs.codes import agreement_measurement, encode_and_evaluate, save_codes
from deephash.runs.folder import RunFolder, environment, git
from deephash.runs.load_encoder import load_checkpoint
from deephash.runs.log_results import log_nearest, log_results
from deephash.runs.outputs_index import refresh_index
from deephash.training import compile_options, cuda_graphs, out_of_memory
from deephash.training.evaluation import Codes, Evaluation
from deephash.training.feature_agreement import constant_features
from deephash.training.pca_reference import PCAReference, obstacle
from deephash.training.precision import use_deterministic
from deephash.training.trainer import LoopOptions, Trainer
from deephash.utils import progress
from deephash.utils.attempt import attempt
from deephash.utils.files import expand_path, write_json
from deephash.utils.formatting import number

log = logging.getLogger("deephash")

SLOW_FP16 = (
    "trainer.precision=fp16 is for tests on a CPU: the backward pass of a convolution takes about"
    " 100 times as long as in float32. Try fp32 or bf16."
)

REFERENCE = "pca_rr"
"""The reference of runs on frozen features: see ``training/pca_reference.py``."""


@out_of_memory.explain_memory_errors()
def train(cfg: schema.Train, overrides: Sequence[Override], launch: str = "") -> dict[str, Any]:
    """Train the run that a configuration describes, or skip it if it is finished.

    Args:
        cfg: the checked configuration; see ``config.train_page``.
        overrides: its command line.
        launch: id of the launch of a sweep: with ``rerun`` the run is restarted once in each.

    Returns:
        The report, as in ``report.json``.

    Raises:
        DeephashError: with a message for the user.
    """
    build.require_loggers(cfg.logger)  # before data is opened
    name = run_identity.run_name(cfg.plain, overrides)
    run = RunFolder.of(cfg, overrides)
    fresh = cfg.rerun and not run.begun_in(launch)
    if not fresh:
        refuse_another(run, cfg)
        start_from.check_origin(cfg, run)
        if run.finished:
            return _skip(cfg, run, name)
    console = cfg.logger.get("console")
    progress.quiet(console is not None and bool(console.get("quiet")))
    device = build.device(cfg.trainer.device)
    use_deterministic(cfg.trainer.deterministic)
    learns = cfg.optimizer is not None
    if learns and device.type == "cpu" and cfg.trainer.precision is schema.Precision.fp16:
        log.warning(SLOW_FP16)
    run.lock()
    try:  # faults of data and parts are found before anything is written
        resumes = run.resumable and not fresh
        source = None if resumes else start_from.find_source(cfg, run)
        given = resumes or source is not None  # the weights
        evaluation = build.evaluation(cfg, device)
        data = build.data_module(cfg)
        build.require_labels(cfg, data)
        if not given:
            build.check_backbone(cfg, data.source)
        data.setup(device, epochs=learns)
        evaluation.check(data)
        _check_validation(cfg, data)
        if not data.has_labels:
            _warn_unlabelled(cfg)
        elif data.reads_labels and (unlabelled := data.facts.num_train_unlabelled):
            log.warning("%d training images have no label and are left out", unlabelled)
        facts = data.facts
        method = build.method(
            cfg, facts.num_classes, facts.num_train, data.width, pretrained=not given
        ).to(device)
        if source is not None and cfg.init is not None:
            start_from.initialize(method.encoder, cfg, source)
        _check_image_size(method, data, cfg)
        _check_single_image(method, data, cfg)
        build.optimizer(cfg, method)  # refuses rate factors of parts without parameters
        if cfg.trainer.gradient_checkpointing:
            _checkpoint_gradients(cfg, method)
        run.begin(cfg.plain, texts(overrides), fresh, launch)
        if source is not None:
            start_from.record("extend" if cfg.init is None else "init", source, run)
        if source is not None and cfg.init is None:
            start_from.extend(source, run)
        run.mark_latest(expand_path(cfg.paths.outputs))
        report = _train(cfg, overrides, run, name, data, method, evaluation)
    finally:
        run.close()
    if not launch:  # a sweep writes the index once, at its end
        refresh_index(expand_path(cfg.paths.outputs))  # the lock is released: the run has finished
    return report


def _skip(cfg: schema.Train, run: RunFolder, name: str) -> dict[str, Any]:
    """Return the report of a finished run, and complete what a killed process has left out."""
    report = run.report()
    run.tidy()
    if not run.report_page.is_file():  # killed between the two
        with attempt("the page of the run"):
            write_html(run.path)
    refresh_index(expand_path(cfg.paths.outputs))
    _complete_loggers(cfg, run, name, report)
    print(
        f"finished already, skipped (rerun=true trains anew): {run.path}"
        f"  {report['metrics']['conventions']['metric']} {number(report['metrics']['map'])}"
    )
    return report


def _check_validation(cfg: schema.Train, data: DataModule) -> None:
    """Refuse to select an epoch on a validation split that the data do not have."""
    select_on = cfg.trainer.select_on.value
    if select_on not in ("val", "agreement") or len(data.split.validation):
        return
    name = data.facts.protocol
    last = "last" if select_on == "agreement" or not data.has_labels else "query"
    raise ConfigError(
        f"trainer.select_on  is {select_on}, and protocol {name} has no validation split.\n"
        f"                   Try dataset.protocols.{name}.validation=100, or"
        f" trainer.select_on={last}."
    )


def _checkpoint_gradients(cfg: schema.Train, method: Method) -> None:
    """Let the backbone compute activations again, or refuse one that has none to compute again."""
    backbone: Any = method.encoder.backbone
    if backbone.checkpoint_gradients() == 0:
        name = cfg.backbone.get("name", type(backbone).__name__)
        raise ConfigError(
            f"trainer.gradient_checkpointing  would save no memory: {name} is a sequence of single"
            " operators, without blocks.\n"
            "                                Leave it out, or choose another backbone."
        )


def _warn_unlabelled(cfg: schema.Train) -> None:
    """Warn about the effect of images without labels on the selection of an epoch."""
    if not cfg.trainer.epochs:
        log.warning("the images have no labels: there is no mAP")
        return
    kept = "the last epoch's encoder is kept"
    if (select_on := cfg.trainer.select_on.value) == "agreement":
        kept = "the encoder whose codes of validation images agree best with features is kept"
    elif select_on != "last":
        kept = f"there is no mAP for trainer.select_on={select_on}, and {kept}"
    log.warning("the images have no labels: %s", kept)


def _complete_loggers(
    cfg: schema.Train, run: RunFolder, name: str, report: Mapping[str, Any]
) -> None:
    """Write a finished run to the loggers of the command line that do not have all of it.

    The run may have been killed during an upload, may have been trained without this logger, or may
    belong to a sweep of W&B.
    """
    offered = build.for_loggers(cfg.plain, run.path, name, "train", run.history)
    logger = build.incomplete_loggers(cfg.logger, offered, run.run_id)
    if not logger.loggers:
        return
    with attempt("what loggers get of the result"):
        log_results(logger, run, report)
    logger.summary(report, run.path)
    logger.report(report, report["training"]["steps"])
    logger.close()


@torch.inference_mode()
def _check_image_size(method: Method, data: DataModule, cfg: schema.Train) -> None:
    """Make a training batch and encode two images: views or networks may refuse their size."""
    if cfg.optimizer is not None:
        next(iter(data.train(0)))
    images = next(iter(data.eval_batches(data.split.queries[:2]))).flat()
    try:
        with out_of_memory.explain_memory_errors():
            method.encoder.eval().encode(images)
    except RuntimeError as error:
        if out_of_memory.is_device_error(error):
            raise TrainingError(
                "the device failed at the first two images:"
                f" {out_of_memory.first_sentences(error)}\n"
                f"  If its memory may be full (nvidia-smi shows it): {out_of_memory.ADVICE}"
            ) from error
        size = "x".join(map(str, images.shape[2:]))
        raise ConfigError(
            f"backbone  {cfg.backbone.get('name', 'the backbone')} cannot take images of {size}:"
            f" {error}\n          Try larger images (dataset.size=224), or another backbone."
        ) from error


def _check_single_image(method: Method, data: DataModule, cfg: schema.Train) -> None:
    """Refuse a training batch of one image where batch normalisation needs two values.

    Networks whose maps have several positions accept it.
    """
    passes = data.views if method.passes == "separate" else 1
    if not cfg.trainer.epochs or data.smallest_batch // passes > 1:
        return
    image = next(iter(data.eval_batches(data.split.train[:1]))).flat()
    with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []), torch.no_grad():
        try:  # a copy, to keep the running statistics
            copy.deepcopy(method.encoder).train().encode(image)
        except ValueError as error:
            count, size = data.num_trainable, data.batch_size
            other = next((n for n in range(size + 1, size + count) if n > 1 and count % n != 1), 2)
            fault, instead = "is 1", "trainer.batch_size=16"
            if size > 1:
                fault = f"{size} leaves a training batch of one image, of {count} in all"
                instead = f"trainer.drop_last=true, or trainer.batch_size={other}"
            raise ConfigError(
                f"trainer.batch_size  {fault}, and batch normalisation needs two.\n"
                f"                    Try {instead}."
            ) from error


def refuse_another(run: RunFolder, cfg: schema.Train) -> None:
    """Raise ConfigError if the folder holds a run with another configuration."""
    if not run.finished and not run.resumable:
        return
    changed = run_identity.changed_keys(run.config(whole=True), cfg.plain)
    if changed:
        other = "" if cfg.name is None else f"Give this run another name than name={cfg.name}. "
        raise ConfigError(
            f"{run.path} holds a run with another configuration:\n  "
            + "\n  ".join(changed[:8])
            + f"\n{other}Train anew with rerun=true, or elsewhere with paths.outputs=FOLDER"
            + " (images of your own: dataset.name=NAME)."
        )


def _precompute_features(
    cfg: schema.Train, method: Method, data: DataModule, evaluation: Evaluation
) -> float:
    """Compute features of a frozen backbone once, and let the data serve them.

    Evaluations always use them, with means of tokens in place of tokens. Training uses them if the
    method accepts features, no dropout is active, and no view is random (or random views are drawn
    from fixed ones).

    Returns:
        The seconds spent.
    """
    encoder, learns = method.encoder, cfg.optimizer is not None
    if not getattr(encoder.backbone, "frozen", False) or data.width is not None:
        return 0.0
    backbone: Any = encoder.backbone
    constant = getattr(backbone, "output", "features") == "features" and not getattr(
        backbone, "stochastic", False
    )
    encoder.eval()
    fixed = cfg.method.cached_views
    train = (
        learns and method.cached_features and constant and (fixed is not None or not data.random)
    )

    def compute(images: Tensor) -> Tensor:
        with evaluation.autocast():
            return encoder.features(images)

    width: int = backbone.out_features
    store = feature_store(cfg, encoder.backbone, data) if cfg.trainer.feature_store else None
    served = precompute_features(data, compute, width, train=train, store=store, draws=fixed)
    if served is None:  # the reason is logged
        return 0.0
    encoder.takes_features = True
    why = "the backbone is frozen"
    if train:
        why += f" and views are drawn from {fixed}" if fixed else " and no view is random"
    uses = "all epochs and evaluations" if train else "all evaluations"
    message = f"{served.count:,} features for {uses} were read from the cache"
    if served.computed:
        message = f"{served.computed:,} features were computed once, in {served.seconds:.1f} s,"
        message += f" for {uses}"
    print(f"{why}: {message}")
    return served.seconds


def feature_store(cfg: schema.Train, backbone: torch.nn.Module, data: DataModule) -> FeatureStore:
    """Return the store of a frozen backbone's features, below ``paths.cache``."""
    settings, device = cfg.trainer, data.device
    # The digest identifies the weights; dropout is inactive in evaluation mode.
    left_out = {"weights", "frozen", "dropout", *getattr(backbone, "not_in_features", ())}
    pipelines = [data.test_transform, *(pipeline for _, pipeline in data.view_transforms)]
    code = [module for part in (backbone, *pipelines) for module in part.modules()]
    notes = {
        "backbone": {key: value for key, value in cfg.backbone.items() if key not in left_out},
        "weights": digest(backbone),
        "precision": settings.precision.value,
        "device": device.type,
        "channels_last": settings.channels_last,
        "compile": settings.compile,
        "packages": plugins.packages(code),
    }
    if device.type == "cuda":  # both affect the choice of convolution algorithms
        notes["gpu"] = torch.cuda.get_device_name(device)
        notes["deterministic"] = settings.deterministic
    return FeatureStore(cache_folder(cfg.paths.cache), notes)


@compile_options.explain_compile_errors()
def _train(
    cfg: schema.Train,
    overrides: Sequence[Override],
    run: RunFolder,
    name: str,
    data: DataModule,
    method: Method,
    evaluation: Evaluation,
) -> dict[str, Any]:
    settings, device = cfg.trainer, data.device
    if settings.channels_last:
        method.encoder.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_options.compile_in_place(method, device)
    optimizer = build.optimizer(cfg, method)
    updates = max(1, math.ceil(data.steps / settings.accumulate))
    if optimizer is not None:
        compile_options.fuse(optimizer, device)
    torch.manual_seed(cfg.seed)
    trainer = Trainer(
        run,
        optimizer,
        None if cfg.scheduler is None else build.part(cfg.scheduler, "scheduler"),
        device,
        data.facts.fingerprint,
        LoopOptions(
            epochs=settings.epochs,
            eval_every=settings.eval_every,
            select_on=_select_on(cfg, data),
            patience=settings.patience,
            precision=settings.precision.value,
            log_every=settings.log_every,
            clip_norm=settings.clip_norm,
            snapshots=settings.snapshots,
            accumulate=settings.accumulate,
            ema=settings.ema,
            updates=updates,
            profile=settings.profile,
        ),
        cuda_graphs.CudaCapture(device) if settings.graph else None,
    )
    if run.resumable:  # the checkpoint has the weights of the backbone
        done = trainer.start(method, data.for_training)
        spent = _precompute_features(cfg, method, data, evaluation)
    else:
        spent = _precompute_features(cfg, method, data, evaluation)
        done = trainer.start(method, data.for_training)
    trainer.progress.seconds += spent
    if done:
        print(f"resumed after epoch {done}: {run.path}")
    logger = build.loggers(cfg, run.path, run.run_id, name, updates, trainer.progress)
    failed = True
    try:
        trainer.fit(method, data, evaluation, logger)
        if trainer.profile is not None:
            print(trainer.profile.summary)
        report, codes = _report(cfg, overrides, name, run, data, method, evaluation, trainer)
        save_codes(run.codes(), codes, data, evaluation)
        images: list[Retrieved] = []
        with attempt("nearest images"):
            shown = not data.has_labels or logger.keep_results
            if shown and data.width is None and data.truth is None:
                images = gallery.nearest_images(evaluation, codes, data, schema.Gallery())
            if not data.has_labels:  # in place of mAP
                write_nearest(run.path, images)
        write_json(run.report_file, report)
        with attempt("the page of the run"):
            write_html(run.path)
        with attempt("what loggers get of the result"):
            log_nearest(logger, images)
            log_results(logger, run, report, data.images.classes)
        logger.summary(report, run.path)
        logger.report(report, trainer.progress.step)  # may upload files
        failed = False
    finally:
        logger.close(failed)
    return report


def _select_on(cfg: schema.Train, data: DataModule) -> str:
    """Return the measure that selects an epoch; without labels there is no mAP."""
    select_on = cfg.trainer.select_on.value
    return select_on if data.has_labels or select_on == "agreement" else "last"


def _reference(
    cfg: schema.Train, data: DataModule, encoder: Encoder, evaluation: Evaluation
) -> tuple[PCAReference | None, dict[str, Any] | None]:
    """Fit the reference of a run on features that training does not change.

    Returns:
        The reference, or its entry in the report if there is none: None if features were trained or
        ``evaluation.reference`` is false.
    """
    shallow = requirements.kind(cfg.method.plain) == "shallow"
    if not cfg.evaluation.reference or not (shallow or constant_features(encoder, data)):
        return None, None
    nbit, width = cfg.model.nbit, int(encoder.backbone.out_features)  # type: ignore[arg-type]
    if reason := obstacle(data, nbit, width, evaluation.ternary):
        return None, {"method": REFERENCE, "skipped": reason}
    return PCAReference(encoder, data, evaluation.autocast, nbit), None


def _report(
    cfg: schema.Train,
    overrides: Sequence[Override],
    name: str,
    run: RunFolder,
    data: DataModule,
    method: Method,
    evaluation: Evaluation,
    trainer: Trainer,
) -> tuple[dict[str, Any], Codes]:
    """Load the selected encoder and evaluate it in full."""
    began = time.perf_counter()
    encoder = method.encoder
    load_checkpoint(run.best, encoder, data.facts.fingerprint)
    now, settings = trainer.progress, cfg.trainer
    kind = requirements.kind(cfg.method.plain)
    reference, reference_report = _reference(cfg, data, encoder, evaluation)
    agreement = agreement_measurement(kind, encoder, data)
    taps = [] if reference is None else [reference]
    codes, metrics, seconds = encode_and_evaluate(encoder, data, evaluation, agreement, taps)
    now.retrieval_seconds += seconds
    total = time.perf_counter() - began - (0.0 if reference is None else reference.seconds)
    now.evaluation_seconds += total
    now.seconds += total
    if reference is not None:
        measured = reference.measure(codes, data, evaluation, agreement)
        reference_report = {"method": REFERENCE, **measured}
    rate: float | None = codes.images_per_second
    if (served := data.features) is not None:  # codes were made of features
        rate = served.computed / served.seconds if served.computed else None
    report = {
        "schema": 1,
        "deephash": deephash.__version__,
        "run": name,
        **_full_name(cfg, name, overrides),
        "method": cfg.method.name,
        "kind": kind,
        "nbit": cfg.model.nbit,
        "seed": cfg.seed,
        "metrics": metrics,
        "reference": reference_report,
        "selection": now.selection(trainer.options.select_on, settings.eval_every, settings.epochs),
        "protocol": data.facts.as_dict(),
        "codebook": _distances(method, now.epoch),
        "training": {
            "seconds": now.seconds,
            "evaluation_seconds": now.evaluation_seconds,
            "retrieval_seconds": now.retrieval_seconds,
            "steps": now.step,
            "images_per_second": now.images / now.train_seconds if now.train_seconds else None,
            "data_share": now.data_seconds / now.train_seconds if now.train_seconds else None,
            "encode_images_per_second": rate,
            "batch_size": settings.batch_size,
            "cached_views": cfg.method.cached_views,
            "precision": settings.precision.value,
            "accumulate": settings.accumulate,
            "ema": settings.ema,
            "compile": settings.compile,
            "graph": settings.graph,
            "gradient_checkpointing": settings.gradient_checkpointing,
            "device": str(trainer.device),
            "parameters": sum(p.numel() for p in encoder.parameters()),
        },
        "environment": environment(),
        **plugins.report_entries(),
        "git": git(),
        "checkpoint": "best.pt",
    }
    if (origin := start_from.recorded(run)) is not None:
        report["origin"] = origin
    return report, codes


def _full_name(cfg: schema.Train, name: str, overrides: Sequence[Override]) -> dict[str, str]:
    """Return the full name of a run, if its folder has another one."""
    full = run_identity.full_name(cfg.plain, overrides)
    return {} if full == name else {"full_name": full}


def _distances(method: Method, epoch: int) -> dict[str, Any] | None:
    """Return the Hamming distances between the class centers after the last epoch."""
    centers = method.centers()
    if centers is None:
        return None
    rows = centers.detach().cpu()
    smallest, mean = spread(rows)
    return {
        "classes": len(rows),
        "bits": rows.shape[1],
        "min_distance": smallest,
        "mean_distance": mean,
        "after_epoch": epoch,
    }
