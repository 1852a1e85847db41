"""From the composed configuration to the one that runs: folded, checked, named.

Importing this module costs nothing heavy; ``check`` looks at the constructors of the parts, and so
imports torch.
"""

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deephash.config import backbone_inputs, injected, requirements, schema
from deephash.config.overrides import Override, last_values
from deephash.config.targets import arguments, current, foreign_package, locate, parts
from deephash.config.validate import (
    REMOVED,
    advice,
    annotation,
    assignment,
    check_fields,
    check_value,
    fits,
    problem,
)
from deephash.errors import ConfigError, DeephashError
from deephash.utils import filenames
from deephash.utils.bounds import Name, NonNegative, Seed
from deephash.utils.files import expand_path

SEATS = ("head", "relaxation", "codebook", "similarity", "loss")
"""The parts of a method that a group of the same name replaces."""

FEEDS = {
    "relaxation": {"u", "logits"},
    "codebook": {"centers", "logits"},
    "similarity": {"logits"},
}
"""What an objective must read, of the fields of Output, for a part to make a difference."""

OWN_KEYS: dict[str, dict[str, Any]] = {
    "optimizer": {"lr": NonNegative, "backbone_scale": NonNegative},
}
"""Keys of a part that the program itself reads, and what they may be; all must be there."""

ELSEWHERE = (
    "logger",
    "paths",
    "plugins",
    "group",
    "rerun",
    "preview",
    "trainer.device",
    "trainer.log_every",
    "trainer.eval_batch_size",
    "trainer.feature_store",
    "trainer.snapshots",
    "trainer.compile",
    "trainer.graph",
    "evaluation.engine",
    "evaluation.reference",
    "evaluation.tops",
    "dataset.source.download",
    "dataset.source.origin",
    "dataset.source.find",
    "dataset.source.cached",
    "dataset.catalog",
    "dataset.recipes",
    "dataset.known",
    "dataset.expected",
    "dataset.unlabelled",
)
"""Keys that do not change a result: where things lie, and what is told meanwhile."""

SINCE = {"evaluation.centred": False, "trainer.compile": False, "trainer.graph": False}
"""Keys that older runs do not have, and what they did.

Of the options of parts (nodes with a ``_target_``) the default of the constructor says that: a new
option must have the default that keeps what was done before.
"""

ABSENT = {"optimizer.lr_scale": None, "method.passes": "stacked", "method.cached_views": None}
"""Keys that a configuration may lack, and the value that means the same."""

DRAWN = {
    "_target_": "deephash.data.splits.Drawn",
    "queries": 100,
    "train": None,
    "train_in_database": True,
    "unlabelled": "keep",
    "validation": 0,
    "seed": 0,
}
"""The protocol of images without labels in runs whose configuration names none.

It is that of ``dataset=folder``. Another one is part of the identity of a run.
"""

UNNAMED = (
    *ELSEWHERE,
    "dataset.root",
    "dataset.source.root",
    "dataset.lists",
    "dataset.source.lists",
    "dataset.name",
)
"""Keys that do not stand in the name of a run; other images under one name are refused."""

ACTIONS = ("prepare", "verify", "describe", "export", "encode", "cache")
"""What ``data.py`` does."""

NAMING = ("dataset", "method", "model.nbit", "seed")
"""Keys whose values have pieces of their own in the name of a run."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the configuration: where, what, and what to type instead."""

    key: str
    what: str
    instead: str


def refuse(faults: Sequence[Fault], composed_from: Iterable[Override | str] = ()) -> None:
    """Raises one ConfigError that tells all faults; does nothing when there are none."""
    if not faults:
        return
    width = max(len(fault.key) for fault in faults)
    lines = [f"config: {len(faults)} problem{'s' if len(faults) > 1 else ''}", ""]
    for fault in faults:
        lines.append(f"  {fault.key:<{width}}  {fault.what}")
        lines.append(f"  {'':<{width}}  {fault.instead}")
    lines += ["", f"composed from: {' '.join(map(str, composed_from)) or 'the defaults'}"]
    raise ConfigError("\n".join([*lines, "nothing was loaded or written"]))


def fold(cfg: DictConfig, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """The configuration as plain values, with what sits in a seat moved into the method, whole.

    The counts that a dataset's yaml expects are those of its protocols as they stand there: once a
    protocol's or a recipe's numbers are given on the command line, none are expected. A backbone
    that declares its images (``preprocessing: model``) decides the image size and the statistics of
    the transforms, except those given on the command line.
    Once a protocol is given there, it is used for images without labels as well.

    Args:
        cfg: as Hydra composed it; it is not changed.
        overrides: the command line.

    Raises:
        ConfigError: a value that was left open, or refers to one that does not exist.
    """
    try:
        missing = _open_keys(OmegaConf.to_container(cfg, enum_to_str=True))
        refuse(
            [Fault(key, "has no value.", _value_for(key, overrides)) for key in missing],
            overrides,
        )
        typed = [one.key for one in overrides]
        images = backbone_inputs.declared(_resolved(cfg, "backbone"))
        size = None if images is None else backbone_inputs.size_of(_unresolved(cfg), images, typed)
        if size is not None:  # before values that refer to it are resolved
            cfg = copy.deepcopy(cfg)
            cfg.dataset.size = size
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:  # its text names the key
        refuse([Fault("interpolation", str(error).splitlines()[0], "See --cfg job.")], overrides)
    assert isinstance(plain, dict)
    folded: dict[str, Any] = {str(key): value for key, value in plain.items()}
    for seat in SEATS:
        part = folded.pop(seat, None)
        if part is not None:
            folded["method"][seat] = part
    if any(one.within("dataset.protocols", "dataset.recipes") for one in overrides):
        folded["dataset"]["expected"] = {}
    if images is not None and isinstance(folded.get("dataset"), dict):
        backbone_inputs.adapt(folded["dataset"], images, typed)
    dataset = folded.get("dataset") or {}
    if "unlabelled" in dataset and any(one.key == "dataset.protocol" for one in overrides):
        dataset["unlabelled"] = None
    return folded


def _resolved(cfg: DictConfig, key: str) -> Any:
    """A node of the configuration as plain values; None where there is none."""
    node = cfg.get(key)
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else None


def _unresolved(cfg: DictConfig) -> Any:
    """The dataset as it was composed; None where there is none."""
    node = cfg.get("dataset")
    return OmegaConf.to_container(node) if isinstance(node, DictConfig) else None


def train_page(folded: Mapping[str, Any], overrides: Sequence[Override] = ()) -> schema.Train:
    """Check a page of ``train.py`` and return it typed.

    Args:
        folded: the page.
        overrides: its command line.

    Raises:
        ConfigError: all that is wrong with it.
    """
    refuse(check(folded, overrides), overrides)
    return schema.parse(schema.Train, folded)


def train_pages(
    jobs: Sequence[tuple[Sequence[Override], Mapping[str, Any]]],
) -> list[tuple[Sequence[Override], schema.Train]]:
    """Check the pages of all jobs of a sweep, and return them typed.

    Args:
        jobs: command line and folded page of each.

    Raises:
        ConfigError: each fault once, with how many jobs have it.
    """
    having: dict[Fault, list[Sequence[Override]]] = {}
    for overrides, folded in jobs:
        for fault in check(folded, overrides):
            having.setdefault(fault, []).append(overrides)
    faults = []
    for fault, some in having.items():
        count = f" ({len(some)} of {len(jobs)} jobs, such as: {' '.join(map(str, some[0]))})"
        what = fault.what + ("" if len(some) == len(jobs) else count)
        faults.append(replace(fault, what=what))
    refuse(faults, [f"a grid of {len(jobs)} jobs"])
    return [(overrides, schema.parse(schema.Train, folded)) for overrides, folded in jobs]


def evaluate_page(folded: Mapping[str, Any], overrides: Sequence[Override] = ()) -> schema.Evaluate:
    """Check a page of ``evaluate.py`` and return it typed; see ``train_page``."""
    refuse(check_evaluation(folded), overrides)
    return schema.parse(schema.Evaluate, folded)


def data_page(folded: Mapping[str, Any], overrides: Sequence[Override] = ()) -> schema.Data:
    """Check a page of ``data.py`` and return it typed; see ``train_page``."""
    refuse(check_data(folded), overrides)
    return schema.parse(schema.Data, folded)


def report_page(folded: Mapping[str, Any], overrides: Sequence[Override] = ()) -> schema.Report:
    """Check a page of ``report.py`` and return it typed; see ``train_page``."""
    refuse(check_report(folded), overrides)
    return schema.parse(schema.Report, folded)


def run_config(folded: Mapping[str, Any], file: Path) -> schema.Run:
    """Check the configuration of a run folder and return it typed.

    Args:
        folded: as ``config.yaml`` of the folder has it, whole; what older runs lack is as it was.
        file: where it stands.

    Raises:
        ConfigError: all that is wrong with it.
    """
    refuse(check_run(folded), [str(file)])
    trainer = {"eval_every": 1, **folded["trainer"]}  # no run is without it that is not older
    return schema.parse(schema.Run, {**folded, "trainer": trainer})


def _value_for(key: str, overrides: Iterable[Override]) -> str:
    """What to type for a key that has no value."""
    for one in overrides:
        if one.deletes and (key == one.key or key.startswith(f"{one.key}.")):
            return f"Leave out {one}."
    return f"Give it one: {key}=..."


def changed(evaluation: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """``evaluation`` of a run, measured under something else.

    A convention that is named stands for all of its fields, save those given beside it.

    Args:
        evaluation: the run's.
        wanted: what to change; null for what is to stay.
    """
    given = {key: value for key, value in wanted.items() if value is not None}
    left = dict(evaluation)
    if "convention" in given:
        left |= dict.fromkeys(("ties", "denominator", "empty", "drop_last"))
    return left | given


def check_evaluation(cfg: Mapping[str, Any]) -> list[Fault]:
    """All that is wrong with a folded page of ``evaluate.py``."""
    faults = _check_page(cfg, schema.Evaluate)
    if not faults:
        faults = _check_other_dataset(cfg["dataset"])
    if faults:
        return faults
    faults += _check_tops(cfg["evaluation"]) + _check_convention(cfg)
    faults += check_device("device", cfg["device"])
    for path, node in parts(cfg["dataset"], "dataset"):
        faults += check_part(path, node)
    if (cfg["run"] is None) == (cfg["runs"] is None):
        faults.append(
            Fault("run", "must be given, or runs, and not both.",
                  "Try run=FOLDER, or runs=[FOLDER,FOLDER] to compare several.")
        )  # fmt: skip
    runs = [cfg["runs"]] if isinstance(cfg["runs"], str) else cfg["runs"] or []
    if not isinstance(runs, list) or not all(isinstance(run, str) and run for run in runs):
        faults.append(
            Fault(
                "runs", f"is {cfg['runs']!r}.", "Name a folder, or several: runs=[FOLDER,FOLDER]."
            )
        )
    faults += check_checkpoint(cfg["checkpoint"])
    queries = cfg["gallery"]["queries"]
    listed = isinstance(queries, list) and all(type(q) is int and q >= 0 for q in queries)
    if queries not in ("spread", "hardest", "easiest") and not listed:
        faults.append(
            Fault("gallery.queries", f"is {queries!r}.",
                  "Try spread, hardest, easiest, or a list of places such as [0,5].")
        )  # fmt: skip
    return faults + _check_own_logger(cfg)


def check_run(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the parts of a run folder's configuration that are built to evaluate it.

    The folder may come from a stranger, and may be older than a part that only training needs, so
    the loss and its company are not looked at.

    Args:
        cfg: folded, as ``config.yaml`` of the folder has it.
    """
    kinds = {"dataset": schema.Dataset, "model": schema.Model, "trainer": schema.Trainer,
             "evaluation": schema.Evaluation}  # fmt: skip
    if nodes := [key for key in kinds if not isinstance(cfg.get(key), Mapping)]:
        return [Fault(key, "is not a group of keys and values.", "Restore it.") for key in nodes]
    problems = [one for key, kind in kinds.items() for one in check_fields(cfg[key], kind, key)]
    problems += check_value(cfg["seed"], Seed, "seed")
    faults = [
        Fault(one.path, one.what, one.instead)
        for one in problems
        if not one.what.startswith(REMOVED)  # an older run lacks newer keys
    ]
    if faults:
        return faults
    dataset, protocol = cfg["dataset"], f"dataset.protocols.{cfg['dataset']['protocol']}"
    faults = _check_membership(dataset) + _check_tops(cfg["evaluation"])
    faults += _check_classes(dataset.get("classes"))
    built = ("dataset.source", "dataset.transforms", "backbone", "method.head", protocol)
    for path, node in parts({key: cfg.get(key) for key in ("dataset", "backbone", "method")}):
        if any(path == one or path.startswith(f"{one}.") for one in built):
            faults += check_part(path, node)
    return faults


def _check_membership(dataset: Mapping[str, Any]) -> list[Fault]:
    """Check that the dataset has the protocol that it names."""
    known, name = dataset.get("protocols", {}), str(dataset.get("protocol"))
    other = dataset.get("unlabelled")
    if other is not None and (not isinstance(other, str) or other not in known):
        what = f"is {other!r}, and {dataset['name']} has no such protocol."
        return [Fault("dataset.unlabelled", what, f"It has {', '.join(known)}.")]
    if name in known:
        return []
    what = f"{dataset['name']} has no protocol {name!r}."
    return [Fault("dataset.protocol", what, f"It has {', '.join(known)}.")]


def check_data(cfg: Mapping[str, Any]) -> list[Fault]:
    """All that is wrong with a folded page of ``data.py``."""
    faults = _check_page(cfg, schema.Data)
    if cfg.get("do") not in ACTIONS:
        faults.append(Fault("do", f"is {cfg.get('do')!r}.", f"Give one of {', '.join(ACTIONS)}."))
    if cfg.get("remove") is not None and cfg.get("do") != "cache":
        faults.append(Fault("remove", "is of data.py cache alone.", "Leave it out."))
    if faults:
        return faults
    if cfg["do"] in ("export", "encode") and cfg["out"] is None:
        faults.append(Fault("out", f"{cfg['do']} needs it.", "Give a folder: out=FOLDER."))
    wanted = [(path, node) for path, node in parts(cfg)
              if path.startswith("dataset") or cfg["do"] == "encode"]  # fmt: skip
    for path, node in wanted:
        faults += check_part(path, node)
    faults += check_device("trainer.device", cfg["trainer"]["device"])
    faults += _check_tops(cfg["evaluation"]) + _check_convention(cfg) + check_names(cfg)
    faults += _check_protocol(cfg) + _check_classes(cfg["dataset"].get("classes"))
    if not faults and cfg["do"] == "encode":
        if cfg["backbone"].get("output") == "tokens":
            what = "is tokens (N, T, D), and features are written as (N, D)."
            faults.append(Fault("backbone.output", what, "Type backbone.output=features."))
        faults += check_images(cfg, ["test"])
    return faults + _check_by_building(cfg, faults)


def check_report(cfg: Mapping[str, Any]) -> list[Fault]:
    """All that is wrong with a folded page of ``report.py``."""
    faults = _check_page(cfg, schema.Report)
    if faults:
        return faults
    some = [cfg["sweep"]] if isinstance(cfg["sweep"], str) else cfg["sweep"]
    if not isinstance(some, list) or not all(isinstance(one, str) and one for one in some):
        instead = "Give one, or several: [table2_beta,fig8_beta]."
        faults.append(Fault("sweep", f"is {cfg['sweep']!r}.", instead))
        some = []
    for name in some:
        if (what := filenames.name_fault(name)) is not None:
            instead = "Give its name; paths.outputs=FOLDER selects the folder of its runs."
            faults.append(Fault("sweep", f"{name!r} {what}.", instead))
    if not isinstance(cfg["only"], dict | None):
        instead = "Give keys and values: {dataset:cifar10,model.nbit:64}."
        faults.append(Fault("only", f"is {cfg['only']!r}.", instead))
    return faults + _check_own_logger(cfg)


def _check_page(cfg: Mapping[str, Any], page: type) -> list[Fault]:
    """What is missing from a page, and which values are not what its schema says."""
    return [
        Fault(found.path, found.what, found.instead)
        for found in check_fields(cfg, page, closed=True)
    ]


def _check_convention(cfg: Mapping[str, Any]) -> list[Fault]:
    """Whether there is such a convention, and whether its fields go together."""
    from deephash.retrieval import NAMED, Convention  # late: numpy and torch come with it

    node, name = cfg["evaluation"], cfg["evaluation"].get("convention")
    key = "evaluation.convention"
    if name is not None and name not in NAMED:
        near = difflib.get_close_matches(str(name).lower(), NAMED, n=1)
        there = f"There are {', '.join(NAMED)}."
        meant = f"Did you mean {key}={near[0]}? {there}" if near else there
        return [Fault(key, f"there is no {name!r}.", meant)]
    if "protocols" not in cfg["dataset"]:  # the run's, which is not known yet
        return []
    try:
        Convention.configured(node, cfg["dataset"].get("top"))
    except DeephashError as error:
        return [Fault("evaluation", f"{error}.", "See docs/evaluation.md.")]
    return []


def _check_other_dataset(dataset: Any) -> list[Fault]:
    """Of ``evaluate.py``: where the run's data are now, or another dataset, whole."""
    if not isinstance(dataset, Mapping):
        instead = "Choose one by its name: dataset=roxford5k."
        return [Fault("dataset", f"is {dataset!r}.", instead)]
    if "source" in dataset:
        found = check_fields(dataset, schema.Dataset, "dataset")
        faults = [Fault(one.path, one.what, one.instead) for one in found]
        return faults or [*check_names({"dataset": dataset}), *_check_membership(dataset)]
    known = ("root", "lists")
    faults = [
        Fault(f"dataset.{key}", "is the run's, and cannot be changed here.",
              "dataset.root and dataset.lists can: where its data are now.")
        for key in dataset if key not in known
    ]  # fmt: skip
    for key in known:
        found = check_value(dataset.get(key), Name | None, f"dataset.{key}", None)
        faults += [Fault(one.path, one.what, one.instead) for one in found]
    return faults


def _check_own_logger(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all that is wrong with the logger of ``evaluate.py`` or ``report.py``."""
    nodes = parts(cfg.get("logger") or {}, "logger")
    return [fault for path, node in nodes for fault in check_part(path, node)]


def _check_tops(evaluation: Mapping[str, Any]) -> list[Fault]:
    tops = evaluation.get("tops")
    if tops is None or (
        isinstance(tops, list) and all(R == "all" or (type(R) is int and R > 0) for R in tops)
    ):
        return []
    said = "It is a list of whole numbers of at least 1 and `all`, such as [100,1000,all]."
    return [Fault("evaluation.tops", f"is {tops!r}.", said)]


def _open_keys(node: Any, path: str = "") -> list[str]:
    """The keys whose value is still ``???``, of an unresolved configuration."""
    if isinstance(node, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        return [found for key, value in pairs for found in _open_keys(value, key)]
    return [path] if node == "???" else []


def check(cfg: Mapping[str, Any], overrides: Sequence[Override] = ()) -> list[Fault]:
    """All that is wrong with a folded configuration, before any data is opened.

    Args:
        cfg: folded.
        overrides: the command line; a part swapped there must make a difference.
    """
    method = cfg.get("method")
    faults = [
        Fault(f"method.{seat}", f"is the name {name!r}; a part is chosen by its group.",
              f"Type {seat}={name}.")
        for seat in SEATS
        if isinstance(method, Mapping) and isinstance(name := method.get(seat), str)
    ]  # fmt: skip
    if faults:
        return faults
    faults = _check_page(cfg, schema.Train)
    broken = tuple(fault.key for fault in faults)
    for path, node in parts(cfg):
        faults += check_part(path, node)
    if "dataset.protocols" not in broken and not any(
        "dataset".startswith(key) or "trainer".startswith(key) for key in broken
    ):
        faults += _check_protocol(cfg) + _check_classes(cfg["dataset"].get("classes"))
    if not any("evaluation".startswith(key) for key in broken):
        faults += _check_tops(cfg["evaluation"])
    if not any("trainer".startswith(key) or key == "trainer.device" for key in broken):
        faults += check_device("trainer.device", cfg["trainer"]["device"])
        if not any(fault.key == "trainer.device" for fault in faults):
            faults += _check_graph(cfg["trainer"])
    faults += [fault for fault in check_names(cfg) if fault.key not in broken]
    if not broken:
        faults += _check_convention(cfg)
    if not faults:
        faults += [Fault(one.path, one.what, one.instead) for one in requirements.problems(cfg)]
    if not faults:
        faults += _check_recipe(cfg) + _check_swaps(cfg, overrides)
        faults += check_images(cfg, ["test", *requirements.view_names(cfg["method"])])
    faults += _check_by_building(cfg, faults)
    return [_as_typed(fault, overrides) for fault in faults]


def check_images(cfg: Mapping[str, Any], pipelines: Sequence[str]) -> list[Fault]:
    """Whether the backbone takes images as these pipelines make them."""
    misfits = backbone_inputs.faults(cfg["backbone"], cfg["dataset"], pipelines)
    return [Fault(key, what, instead) for key, what, instead in misfits]


def check_names(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the values that become pieces of a path: dataset, protocol, method and group."""
    faults = []
    for key in ("dataset.name", "dataset.protocol", "method.name"):
        group = key.partition(".")[0]
        if not isinstance(cfg.get(group), Mapping):
            continue
        if (what := filenames.name_fault(cfg[group].get(key.partition(".")[2]))) is not None:
            instead = f"It becomes part of a path. Give a plain name: {key}=NAME."
            faults.append(Fault(key, f"{what}.", instead))
    group_name = cfg.get("group")
    if group_name is not None and (
        filenames.name_fault(group_name) or not re.fullmatch(r"\w[\w.,=+-]*", str(group_name))
    ):
        instead = "Letters, digits and . , = + - _ make one; it becomes a folder."
        faults.append(Fault("group", f"{group_name!r} is not a plain name.", instead))
    return faults


def _check_by_building(cfg: Mapping[str, Any], faults: Sequence[Fault]) -> list[Fault]:
    """What the constructors of cheap parts refuse by themselves, beside the faults so far."""
    from deephash.config import trial_builds

    wrong = {fault.key for fault in faults}
    return [
        Fault(found.path, found.what, found.instead) for found in trial_builds.refused(cfg, wrong)
    ]


def check_part(path: str, node: Mapping[str, Any]) -> list[Fault]:
    """All that is wrong with the options of one part, as its constructor takes them."""
    if package := foreign_package(node["_target_"]):
        foreign = f"is {node['_target_']}, of a package that this command does not name."
        return [Fault(path, foreign, f"If you trust {package}, type plugins=[{package}].")]
    try:
        target = locate(node["_target_"], path)
    except ConfigError as error:
        return [Fault(path, str(error).splitlines()[0], "Choose a part by its group's name.")]
    given, own = injected.names(path), OWN_KEYS.get(path, {})
    known = arguments(target)
    faults = []
    if path == "method":
        node = requirements.options(node)
    if path == "optimizer":
        node = {key: value for key, value in node.items() if key != "lr_scale"}
    free = sorted(set(known) - given)
    for key, value in node.items():
        here = f"{path}.{key}"
        if key == "_target_":
            continue
        kind = own.get(str(key)) or (annotation(known[key]) if key in known else None)
        if key in given and key in known:
            faults.append(Fault(here, "is set by the program.", "Leave it out."))
        elif kind is None:
            near = difflib.get_close_matches(str(key), free, n=1)
            instead = f"It takes {', '.join(free) or 'none'}."
            if near:
                instead = f"Did you mean {assignment(f'{path}.{near[0]}', value)}?"
            faults.append(Fault(here, f"{target.__name__} has no such option.", instead))
        elif (what := problem(value, kind)) is not None:
            default = known[key].default if key in known else 1.0
            faults.append(Fault(here, what, advice(here, kind, default, value)))
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and name not in given
        if name not in node and (needed or name in own):
            kind = own.get(name, annotation(parameter))
            instead = advice(f"+{path}.{name}", kind, parameter.default)
            faults.append(Fault(f"{path}.{name}", f"{target.__name__} needs it.", instead))
    for name in own:
        if name not in node and name not in known:
            instead = advice(f"+{path}.{name}", own[name], 1.0)
            faults.append(Fault(f"{path}.{name}", "is missing.", instead))
    if not faults and hasattr(target, "refused"):  # a part may know which values cannot be right
        wrong = target.refused(node)
        faults = [Fault(f"{path}.{key}", what, instead) for key, what, instead in wrong]
    return faults


def check_checkpoint(name: Any) -> list[Fault]:
    """Whether a run folder has checkpoints of this name."""
    if name in ("best", "last"):
        return []
    return [Fault("checkpoint", f"there is no {name!r}.", "Try best or last.")]


def check_device(key: str, device: Any) -> list[Fault]:
    """Whether there is such a device here."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", str(device)):
        what = f"there is no {device!r}."
        return [Fault(key, what, "Try auto, cpu, cuda, or for the second GPU cuda:1.")]
    if str(device).startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            what = f"is {device}; torch sees {count} CUDA devices."
            return [Fault(key, what, f"Try {key}=cpu, or auto.")]
    return []


def _check_graph(trainer: Mapping[str, Any]) -> list[Fault]:
    """Whether the training step can be replayed as a CUDA graph."""
    if not trainer.get("graph"):
        return []
    if trainer.get("compile"):
        what = "is true, and trainer.compile=true replays CUDA graphs of its own."
        return [Fault("trainer.graph", what, "Type one of them.")]
    import torch

    if trainer["device"] == "cpu" or (
        trainer["device"] == "auto" and not torch.cuda.is_available()
    ):
        what = f"is true, and trainer.device={trainer['device']} is a CPU here."
        return [Fault("trainer.graph", what, "Leave it out, or train on a CUDA device.")]
    return []


def _check_protocol(cfg: Mapping[str, Any]) -> list[Fault]:
    dataset = cfg["dataset"]
    if faults := _check_membership(dataset):
        return faults
    name = str(dataset["protocol"])
    protocol = dataset["protocols"][name]
    if not isinstance(protocol, Mapping):  # a fault of its own
        return faults
    key = f"dataset.protocols.{name}"
    trainer = cfg["trainer"]
    validation = f"{key}.validation=50"
    if not name.isidentifier():  # Hydra's grammar takes 54k as a key in braces only
        validation = f"'dataset.protocols={{{name}:{{validation:50}}}}'"
    other = dataset.get("unlabelled")  # the protocol of images without labels
    select_on = trainer.get("select_on")
    unit = _class_attribute(protocol, key, "validation_unit", "of each class")
    if select_on in ("val", "agreement") and not _validates(dataset, select_on):
        instead = f"Try {validation} (images {unit})"
        if select_on == "agreement" and other is not None and other != name:
            instead += f", of images without labels dataset.protocols.{other}.validation=100"
        instead += f", or trainer.select_on={'query' if select_on == 'val' else 'last'}."
        what = f"is {select_on}, and protocol {name} has no validation split."
        faults.append(Fault("trainer.select_on", what, instead))
    if trainer.get("select_on") == "last" and trainer.get("patience") is not None:
        faults.append(
            Fault("trainer.patience", "stops by a mAP, and trainer.select_on=last looks at none.",
                  "Try trainer.select_on=val, or trainer.patience=null.")
        )  # fmt: skip
    return faults


def _validates(dataset: Mapping[str, Any], select_on: str) -> bool:
    """Tell whether there may be a validation split; sometimes only the data know.

    A folder may have an official validation part, and images without labels a protocol of their
    own, which selection by agreement can use.
    """
    names = [str(dataset["protocol"])]
    if select_on == "agreement" and dataset.get("unlabelled") is not None:
        names.append(dataset["unlabelled"])
    protocols = [dataset["protocols"].get(name) for name in names]
    if any(one.get("validation") for one in protocols if isinstance(one, Mapping)):
        return True
    if not _class_attribute(dataset["source"], "dataset.source", "may_have_validation", False):
        return False
    return any(
        _class_attribute(one, f"dataset.protocols.{name}", "official_validation", False)
        for name, one in zip(names, protocols, strict=True)
    )


def _class_attribute(node: Any, path: str, name: str, default: Any) -> Any:
    """Return an attribute of the class of a part; ``default`` where it has none, or is no part."""
    if not isinstance(node, Mapping):
        return default
    try:
        return getattr(locate(str(node.get("_target_")), path), name, default)
    except ConfigError:  # reported by the check of the part
        return default


def _check_classes(classes: Any) -> list[Fault]:
    """Whether ``dataset.classes`` is a list of classes; which there are, only the data know."""
    if classes is None:
        return []
    key, listed = "dataset.classes", isinstance(classes, list)
    if not listed or any(isinstance(one, bool) or not fits(one, int | str) for one in classes):
        return [Fault(key, f"is {classes!r}.", f"Give indices or names in a list: {key}=[0,1,2].")]
    if len(classes) < 2:
        return [Fault(key, f"is {classes!r}.", f"Give at least two classes: {key}=[0,1].")]
    if twice := sorted({str(one) for one in classes if classes.count(one) > 1}):
        return [Fault(key, f"names {', '.join(twice)} twice.", "Name each class once.")]
    return []


def _check_recipe(cfg: Mapping[str, Any]) -> list[Fault]:
    """Whether the parts of the method can work together."""
    method, trainer = cfg["method"], cfg["trainer"]
    name = method["name"]
    faults = []
    for key in sorted(set() if "_target_" in method else set(method) - requirements.RESERVED):
        faults.append(Fault(f"method.{key}", "no method has such a part.", "Leave it out."))
    has = {
        "logits": method.get("similarity") is not None,
        "centers": method.get("codebook") is not None,
        "bits": getattr(requirements.class_of(method, "relaxation"), "bits", False),
    }
    if has["logits"] and not has["centers"]:
        faults.append(
            Fault("similarity", f"compares codes with class centers; method={name} has none.",
                  "Try codebook=max_hamming with it.")
        )  # fmt: skip
    loss = requirements.class_of(method, "loss")
    has_declared = requirements.declared(method)
    wanted = {
        "logits": ("similarities to class centers", "similarity=cosine codebook=max_hamming"),
        "centers": ("class centers", "codebook=max_hamming"),
        "bits": ("bits, not real values", "relaxation=sign, or relaxation=stochastic_sign"),
    }
    for need in sorted(has_declared.needs):
        if not has.get(need, True):
            what, instead = wanted[need]
            faults.append(
                Fault("loss", f"{has_declared.source} reads {what}; method={name} here has none.",
                      f"Try {instead} with it.")
            )  # fmt: skip
    if getattr(loss, "fixed_centers", False) and getattr(
        requirements.class_of(method, "codebook"), "learned", False
    ):
        faults.append(
            Fault("codebook", f"learns, and {has_declared.source} takes centers that do not.",
                  "Try codebook=hadamard, max_hamming, balanced or bernoulli.")
        )  # fmt: skip
    if (
        getattr(requirements.class_of(method, "similarity"), "batch_coupled", False)
        and not trainer["drop_last"]
    ):
        faults.append(
            Fault("trainer.drop_last", f"is false, and the similarity of {name} depends on the"
                  " batch size.", "Leave it true.")
        )  # fmt: skip
    streams = method.get("streams", 1)
    if not isinstance(streams, int) or streams < 1 or trainer["batch_size"] % streams:
        faults.append(
            Fault("method.streams", f"is {streams}, and trainer.batch_size={trainer['batch_size']}"
                  " is no multiple of it.", "Try trainer.batch_size=72 method.streams=2.")
        )  # fmt: skip
    head = requirements.class_of(method, "head")
    smallest: int = getattr(head, "smallest_batch", 1)
    if (by_options := getattr(head, "smallest_batch_of", None)) is not None:
        smallest = by_options(method["head"])
    if head is not None and trainer["batch_size"] < smallest:
        faults.append(
            Fault("trainer.batch_size", f"is {trainer['batch_size']}, and {head.__name__}, the"
                  f" head here, needs a batch of {smallest}.",
                  "Try trainer.batch_size=16, or head=linear.")
        )  # fmt: skip
    whole = requirements.method_class(method)
    least = whole.smallest_batch_of(method) if hasattr(whole, "smallest_batch_of") else 1
    if trainer["batch_size"] < least:
        faults.append(
            Fault("trainer.batch_size", f"is {trainer['batch_size']}, and {whole.__name__}, the"
                  f" method here, needs a batch of {least} images.",
                  f"Type trainer.batch_size={max(least, 32)}.")
        )  # fmt: skip
    if cfg["backbone"].get("weights") not in (
        None, "none", "imagenet", "pretrained"
    ):  # fmt: skip
        file = expand_path(cfg["backbone"]["weights"])
        link = re.match(r"(https?|ftp)://|www\.", str(cfg["backbone"]["weights"]))
        if not file.is_file():
            faults.append(
                Fault("backbone.weights", f"there is no file {file}.",
                      "Download it, and give the file." if link
                      else "It may be imagenet (timm: pretrained), none, or a file with a state"
                           " dict.")
            )  # fmt: skip
    return faults


def _check_swaps(cfg: Mapping[str, Any], overrides: Iterable[Override]) -> list[Fault]:
    """Whether a part that was put in on the command line is read at all."""
    method, faults = cfg["method"], []
    given = {one.key: one.value or "" for one in overrides}
    for seat, fields in FEEDS.items():
        has = requirements.declared(method)
        if given.get(seat, "null") == "null" or fields & has.needs:
            continue
        faults.append(
            Fault(seat, f"is not read by {has.source}, the loss here: it would change nothing.",
                  "Leave it out, or swap the loss as well: loss=lmcl.")
        )  # fmt: skip
    return faults


def _as_typed(fault: Fault, overrides: Iterable[Override]) -> Fault:
    """Put a fault of a part in a seat under the key at which it was typed.

    For an option that was not typed, say which file sets it, and how to leave it out.
    """
    given = {one.key: one.value or "" for one in overrides}
    if fault.key not in given and fault.what.endswith("has no such option."):
        overlay = given.get("experiment", "null")
        way = f"sets it; take it out with '~{fault.key}'."
        if overlay != "null":
            return Fault(fault.key, fault.what, f"experiment={overlay} {way}")
        if not fault.key.startswith("method."):
            instead = f"{fault.instead} If it was not typed, the recipe of the method {way}"
            return Fault(fault.key, fault.what, instead)
    for seat, option in given.items():
        if seat in SEATS and option != "null":
            inside = f"method.{seat}."
            instead = fault.instead.replace(inside, f"{seat}.")
            key = f"{seat}." + fault.key.removeprefix(inside)
            if fault.key.startswith(inside):
                return Fault(key, fault.what, instead)
    return fault


def run_name(cfg: Mapping[str, Any], overrides: Sequence[Override]) -> str:
    """The folder of a run: its full name, the last piece cut to what a file name may hold."""
    front, _, last = full_name(cfg, overrides).rpartition("/")
    mark = "~" + hashlib.sha256(last.encode()).hexdigest()[:12]
    return f"{front}/{filenames.shorten(last, mark, most=160, head=140)}"


def full_name(cfg: Mapping[str, Any], overrides: Sequence[Override]) -> str:
    """The name of a run: the same experiment has the same one.

    ``<dataset>/<method>[+part...]/<bits>bit/seed<seed>[,key=value...]``: what was given on the
    command line beside dataset, method, bits and seed stands in the last piece, unless it cannot
    change the result.
    """
    given = dict(sorted(last_values(overrides).items()))
    swaps = [given.pop(seat).strip("'\"") for seat in SEATS if seat in given]
    swaps = [swap.replace("/", "-") for swap in swaps if swap != "null"]
    rest = []
    for key, value in given.items():
        if names(key):
            rest.append(spelled(key, value))
    rest += sorted(one.name for one in overrides if one.deletes)
    last = ",".join([f"seed{cfg['seed']}", *rest]).replace("/", "-")
    method = "+".join([cfg["method"]["name"], *swaps])
    return "/".join([cfg["dataset"]["name"], method, f"{cfg['model']['nbit']}bit", last])


def names(key: str) -> bool:
    """Whether what was given for a key stands in the last piece of a run's name."""
    if key in NAMING or key.startswith("hydra"):
        return False
    return not any(key == e or key.startswith(e + ".") for e in UNNAMED)


def spelled(key: str, value: str) -> str:
    """An override as it stands in the name of a run."""
    return f"{key}={_short(value)}"


def _short(value: str) -> str:
    """A value as part of a file name: a path keeps its stem, odd characters become ``-``."""
    value = value.strip("'\"")
    is_path = value.startswith(("/", "~", ".")) or Path(value).suffix
    if "/" in value and is_path and not value.startswith(("{", "[")):
        value = Path(value).stem  # and 10/nbit is none
    return re.sub(r"[^\w.+=-]+", "-", value)


def essence(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration less what cannot change a result: such keys, and other protocols.

    Of protocols there remain the one in use, and as ``dataset.unlabelled`` that of images without
    labels where it is another one, unless it is `DRAWN`: which of the two is used, only the data
    know.
    """
    plain: dict[str, Any] = json.loads(json.dumps(cfg))
    unlabelled = (plain.get("dataset") or {}).get("unlabelled")
    for key in ELSEWHERE:
        *path, last = key.split(".")
        node: Any = plain
        for part in path:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node.pop(last, None)
    for key, default in ABSENT.items():
        group, last = key.split(".")
        if isinstance(node := plain.get(group), dict) and node.get(last) == default:
            node.pop(last, None)
    dataset = plain.get("dataset", {})
    if "protocols" in dataset:  # the others of its page grow in number
        protocols = dataset["protocols"]
        dataset["protocols"] = protocols.get(dataset.get("protocol"))
        if unlabelled not in (None, dataset.get("protocol")):
            dataset["unlabelled"] = protocols.get(unlabelled)
    for key, before in SINCE.items():
        *path, last = key.split(".")
        if path[0] in plain:
            plain[path[0]].setdefault(last, before)
    for where, part_node in parts(plain):
        part_node["_target_"] = current(part_node["_target_"])  # type: ignore[index]
        protocol = where == "dataset.unlabelled"
        _fill_defaults("dataset.protocols" if protocol else where, part_node)
    if dataset.get("unlabelled") == DRAWN:
        del dataset["unlabelled"]
    return plain


def _fill_defaults(path: str, node: Mapping[str, Any]) -> None:
    """Give a part the options that its constructor has and its node lacks, with their defaults.

    A run of before an option was added and one that spells its default are then the same.
    """
    try:
        known = arguments(locate(str(node["_target_"]), path))
    except (ConfigError, TypeError, ValueError):  # older or foreign: compared as it is written
        return
    taken = {*injected.names(path), *node}
    for name, parameter in known.items():
        default = parameter.default
        if name not in taken and isinstance(default, bool | int | float | str | tuple | None):
            node[name] = list(default) if isinstance(default, tuple) else default  # type: ignore[index]


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The keys at which two configurations differ, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        found = []
        for key in sorted({*a, *b}):
            here = f"{path}.{key}" if path else str(key)
            found += differences(a.get(key), b.get(key), here)
        return found
    return [] if a == b else [f"{path}: {a!r} -> {b!r}"]
