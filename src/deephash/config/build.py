"""Build the parts that a checked configuration names; nothing else builds parts."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from deephash import methods
from deephash.config import grouping, requirements, schema, targets
from deephash.config.injected_arguments import Injected, given
from deephash.data.datamodule import DataModule
from deephash.data.transforms import Pipeline
from deephash.errors import ConfigError
from deephash.loggers import Jsonl, Logger, Loggers
from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.retrieval import Convention, Engine
from deephash.training.evaluation import Evaluation
from deephash.training.param_groups import parameter_groups
from deephash.training.precision import autocast
from deephash.types import derive
from deephash.utils import program

Data = schema.Train | schema.Run | schema.Data
"""Pages with a dataset."""

Trained = schema.Train | schema.Run
"""Pages with an encoder."""


def part(node: Mapping[str, Any], path: str, **offered: Unpack[Injected]) -> Any:
    """Build the object that a ``_target_`` node describes.

    Args:
        node: the target and its options.
        path: its place in the configuration, which decides what the target may be, and which of
            the offered values it may ask for (``injected_arguments.PLACES``).
        **offered: values of the program; the part gets those that its constructor asks for.

    Raises:
        ConfigError: the target may not stand there; see ``targets.locate``.
    """
    options = {key: value for key, value in node.items() if key != "_target_"}
    target = targets.locate(node["_target_"], path)
    return target(**options, **given(path, targets.arguments(target), offered))


def device(name: str) -> torch.device:
    """Return the device of a run; ``auto`` is CUDA if available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def data_module(cfg: Data) -> DataModule:
    """Build source, protocol and views; no file is opened.

    Pages other than that of ``train`` get one view of each image.
    """
    dataset, trainer = cfg.dataset, cfg.trainer
    transforms = {name: pipeline(steps) for name, steps in dataset.transforms.plain.items()}
    views, streams, labels = ["train"], 1, True
    if isinstance(cfg, schema.Train):
        views, streams = requirements.view_names(cfg.method.plain), cfg.method.streams
        labels = requirements.declared(cfg.method.plain).labels
    return DataModule(
        name=dataset.name,
        source=source(cfg),
        protocol=protocol(cfg),
        protocol_name=dataset.protocol,
        unlabelled=unlabelled(cfg),
        train_transform=transforms["train"],
        test_transform=transforms["test"],
        batch_size=trainer.batch_size,
        eval_batch_size=trainer.eval_batch_size,
        drop_last=trainer.drop_last,
        views=views,
        streams=streams,
        seed=cfg.seed,
        expected=(dataset.expected or {}).get(dataset.protocol),
        classes=dataset.classes,
        more_transforms=transforms,
        labels=labels,
    )


def pipeline(steps: Sequence[Mapping[str, Any]]) -> Pipeline:
    """Build the steps of a transform."""
    return Pipeline([part(step, "dataset.transforms") for step in steps], steps)


def source(cfg: Data) -> Any:
    """Build the source of the images, with the folder of its cache."""
    return part(cfg.dataset.source, "dataset.source", cache=cfg.paths.cache)


def protocol(cfg: Data) -> Any:
    """Build the split protocol of labelled images; see ``unlabelled``."""
    return part(cfg.dataset.protocols[cfg.dataset.protocol], "dataset.protocols")


def unlabelled(cfg: Data) -> tuple[str, Any] | None:
    """Build the protocol of images without labels, with its name; None if it is the same."""
    name = cfg.dataset.unlabelled
    if name is None or name == cfg.dataset.protocol:
        return None
    return name, part(cfg.dataset.protocols[name], "dataset.protocols")


def split_recipe(cfg: Data) -> tuple[Any, Any] | None:
    """Build catalogue and draw of a protocol that ``data prepare`` draws; None for others."""
    dataset = cfg.dataset
    node = (dataset.recipes or {}).get(dataset.protocol)
    if node is None or dataset.catalog is None:
        return None
    return part(dataset.catalog, "dataset.catalog"), part(node, "dataset.recipes")


def backbone(
    described: Mapping[str, Any], width: int | None = None, pretrained: bool = True
) -> nn.Module:
    """Build the backbone alone.

    Args:
        described: its node of the configuration.
        width: D of the data, if these are features.
        pretrained: false if a checkpoint is loaded anyway.

    Raises:
        ConfigError: the backbone takes images and the data are features, or vice versa.
    """
    node = dict(described)
    target = targets.locate(node["_target_"], "backbone")
    if width is not None and "in_features" not in targets.arguments(target):
        name = node.get("name", target.__name__)
        raise ConfigError(
            f"backbone  {name} takes images, and these are {width} features: try backbone=identity."
        )
    if not pretrained and "weights" in targets.arguments(target):
        node["weights"] = "none"  # also where a node leaves it to the default, a download
    trunk: nn.Module = part(node, "backbone", in_features=width)
    return trunk


def check_backbone(cfg: Data, source: Any = None) -> None:
    """Check that weights exist and fit, before data are opened.

    Args:
        cfg: the configuration.
        source: of the data; if these are missing, that is reported first and nothing is checked.

    Raises:
        DeephashError: as the backbone's constructor does.
    """
    node = dict(cfg.backbone)
    check = getattr(targets.locate(node.pop("_target_"), "backbone"), "check", None)
    missing = getattr(source, "missing", None)
    if node.get("weights") == "imagenet" and getattr(source, "download", False):
        node["weights"] = "none"  # images may have to be downloaded as well, and these come first
    if check is not None and (missing is None or missing() is None):
        check(**node)


def encoder(cfg: Trained, width: int | None = None, pretrained: bool = True) -> Encoder:
    """Build backbone and head; see ``backbone``."""
    return network(cfg.backbone, cfg.method.head, cfg.model.nbit, width, pretrained)


def network(
    backbone_node: Mapping[str, Any],
    head_node: Mapping[str, Any],
    nbit: int,
    width: int | None = None,
    pretrained: bool = False,
) -> Encoder:
    """Build an encoder from the nodes of its backbone and head; see ``backbone``."""
    trunk = backbone(backbone_node, width, pretrained)
    features: Any = trunk.out_features
    return Encoder(trunk, part(head_node, "method.head", in_features=features, nbit=nbit))


def method(
    cfg: schema.Train,
    num_classes: int,
    num_train: int,
    width: int | None = None,
    pretrained: bool = True,
) -> Method:
    """Build the whole method. Initial weights depend on the seed; see ``backbone``."""
    torch.manual_seed(derive(cfg.seed, "weights"))
    node = cfg.method
    offered: Injected = {
        "num_classes": num_classes,
        "nbit": cfg.model.nbit,
        "seed": cfg.seed,
        "num_train": num_train,
        "relaxation": None,
        "codebook": None,
        "similarity": None,
        "loss": None,
    }
    # the codebook comes first: in this order random weights have been drawn from the beginning
    if node.codebook is not None:
        offered["codebook"] = part(node.codebook, "method.codebook", **offered)
    if node.similarity is not None:
        offered["similarity"] = part(node.similarity, "method.similarity")
    offered["encoder"] = encoder(cfg, width, pretrained)
    if node.relaxation is not None:
        offered["relaxation"] = part(node.relaxation, "method.relaxation")
    if node.loss is not None:
        offered["loss"] = part(node.loss, "method.loss", **offered)
    own = requirements.options({"_target_": requirements.DEFAULT} | dict(node.plain))
    made: Method = part(own, "method", **offered)
    made.passes = node.passes
    return made


def label_free_methods() -> list[str]:
    """Return the methods that read no labels, by the modules of their loss or class, sorted.

    Modules without a recipe of their name, such as base classes, are left out.
    """
    names = set()
    recipes = {file.stem for file in (program.folder("conf") / "method").glob("*.yaml")}
    for _, name, _ in pkgutil.iter_modules(methods.__path__):
        if name not in recipes:
            continue
        module = importlib.import_module(f"{methods.__name__}.{name}")
        for one in vars(module).values():
            own = isinstance(one, type) and one.__module__ == module.__name__
            if own and vars(one).get("labels") is False:
                names.add(name)
    return sorted(names)


def require_labels(cfg: schema.Train, on: DataModule) -> None:
    """Make the data module refuse unlabelled data if the loss, or early stopping, needs labels.

    Early stopping by agreement with features needs none.
    """
    if on.reads_labels:
        reader = requirements.declared(cfg.method.plain).source
        free = " or ".join(f"method={name}" for name in label_free_methods())
        train = f" Or train a method that reads none: {free}." if free else ""
        on.require_labels(
            f"method={cfg.method.name} reads labels ({reader})",
            "Give labels: a folder for each class, or lists or a table with labels (docs/data.md)."
            + train,
        )
    elif (
        cfg.trainer.patience is not None and cfg.trainer.select_on is not schema.SelectOn.agreement
    ):
        on.require_labels(
            f"trainer.patience={cfg.trainer.patience} stops by a mAP, which needs labels",
            "Try trainer.select_on=agreement with a validation split, or trainer.patience=null.",
        )


def optimizer(cfg: schema.Train, of: Method) -> torch.optim.Optimizer | None:
    """Build the optimizer, with a group for each part of the method that has its own rate.

    Returns:
        None for a method that learns nothing.
    """
    if cfg.optimizer is None:
        return None
    node = dict(cfg.optimizer)
    rates = {key: node.pop(key) for key in requirements.GROUP_OPTIONS if key in node}
    if rates.get("layer_decay") is not None:
        backbone: Any = of.encoder.backbone
        rates["layers"] = backbone.layers()
    groups = parameter_groups(of.param_groups(), node["lr"], **rates)
    made: torch.optim.Optimizer = part(node, "optimizer", params=groups)
    return made


def require_search_engine(node: Mapping[str, Any]) -> None:
    """Check that an engine of ``deephash search`` can be opened, before codes are computed.

    Args:
        node: ``engine``.

    Raises:
        DeephashError: a package is not installed, or a server does not answer.
    """
    options = {key: value for key, value in node.items() if key != "_target_"}
    target: Any = targets.locate(node["_target_"], "engine")
    target.require(options)


def search_engine(node: Mapping[str, Any], nbit: int, folder: Path, store: Any) -> Any:
    """Build the engine of ``deephash search``.

    Args:
        node: ``engine``.
        nbit: K.
        folder: for files of the engine.
        store: the codes of the index.
    """
    return part(node, "engine", nbit=nbit, folder=folder, store=store)


def convention(cfg: Data) -> Convention:
    """Build the definition of mAP; R is the dataset's unless the evaluation gives one."""
    return Convention.configured(cfg.evaluation.plain, cfg.dataset.top)


def evaluation(cfg: Trained, on: torch.device) -> Evaluation:
    """Build the evaluation of encoders."""
    node = cfg.evaluation
    return Evaluation(
        convention(cfg),
        partial(autocast, on, cfg.trainer.precision.value),
        ternary=node.ternary,
        tops=node.tops or (),
        engine=Engine(node.engine.value, device=on),
        centred=node.centred,
        validates_agreement=cfg.trainer.select_on is schema.SelectOn.agreement,
    )


def loggers(
    cfg: schema.Train, folder: Path, run_id: Callable[[], str], name: str, steps: int, done: Any
) -> Loggers:
    """Build the local record and the loggers of the configuration.

    Args:
        cfg: the checked configuration.
        folder: the run folder.
        run_id: returns the id of the run on a server; called if a logger takes it.
        name: name of the run.
        steps: steps of an epoch.
        done: state of the run after an earlier session.
    """
    record = Jsonl(folder / "log.jsonl")
    record.truncate_after(done.step)
    parts = ("query", "val", "agreement")
    best = {which: row[which] for which in parts if (row := done.best(which))}
    offered = for_loggers(cfg.plain, folder, name, "train", record.path)
    offered |= {
        "total_epochs": cfg.trainer.epochs,
        "steps_per_epoch": steps,
        "metric": convention(cfg).name,
        "best": best,
        "eval_every": cfg.trainer.eval_every,
        "evaluation_seconds": done.evaluation_seconds / max(1, len(done.history)) or None,
    }
    return Loggers([record, *_loggers(cfg.logger, offered, run_id)])


def require_loggers(nodes: Mapping[str, Any] | None) -> None:
    """Raise ConfigError if a logger needs a package that is not installed."""
    for kind in _logger_classes(nodes or {}).values():
        kind.require()


def result_loggers(
    nodes: Mapping[str, Any] | None, offered: Injected, run_id: Callable[[], str] | None = None
) -> Loggers:
    """Build the loggers that keep figures, tables and files, for a job after training.

    Args:
        nodes: ``logger``.
        offered: see ``for_loggers``.
        run_id: returns the id of a run, to add to it; None for a run of its own.
    """
    kept = {key: (nodes or {})[key] for key in result_classes(nodes)}
    return Loggers(_loggers(kept, offered, run_id))


def result_classes(nodes: Mapping[str, Any] | None) -> dict[str, type[Logger]]:
    """Return the classes of the loggers that keep figures, tables and files, by key."""
    classes = _logger_classes(nodes or {})
    return {key: kind for key, kind in classes.items() if kind.keeps_results}


def incomplete_loggers(
    nodes: Mapping[str, Any], offered: Injected, run_id: Callable[[], str]
) -> Loggers:
    """Build the loggers that do not have all of a finished run."""
    folder = offered["folder"]
    kept = [
        key for key, kind in _logger_classes(nodes).items() if not kind.is_complete(folder, run_id)
    ]
    return Loggers(_loggers({key: nodes[key] for key in kept}, offered, run_id))


def for_loggers(
    config: Mapping[str, Any], folder: Path, name: str, job_type: str, history: Path | None = None
) -> Injected:
    """Return the values of a run for its loggers.

    Args:
        config: the plain configuration of the run.
        folder: where the files land.
        name: of the run.
        job_type: what it is: ``train`` or ``comparison``.
        history: ``log.jsonl``, to write the whole training; None to add to what was written.
    """
    return {
        "name": name,
        "run_id": None,
        "folder": folder,
        "history": history,
        "config": config,
        "group": config.get("group") or config["method"]["name"],
        "tags": [
            config["dataset"]["name"],
            f"{config['model']['nbit']} bits",
            config["method"]["name"],
        ],
        "job_type": job_type,
        "parameters": grouping.group_values(config),
    }


def _logger_classes(nodes: Mapping[str, Any]) -> dict[str, type[Logger]]:
    return {key: targets.locate(node["_target_"], f"logger.{key}") for key, node in nodes.items()}


def _loggers(
    nodes: Mapping[str, Any], offered: Injected, run_id: Callable[[], str] | None
) -> list[Logger]:
    """Build loggers; the id of the run, which is saved when it is made, only if one takes it."""
    classes = _logger_classes(nodes).values()
    if run_id is not None and any("run_id" in targets.arguments(kind) for kind in classes):
        offered = offered | {"run_id": run_id()}
    return [part(node, f"logger.{key}", **offered) for key, node in nodes.items()]
