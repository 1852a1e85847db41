"""Check resolved pages: all that is wrong with one, before any data is opened.

The module is cheap to import; its functions import the classes of the parts, and so torch.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deephash.config import backbone_inputs, injected, requirements, schema
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import Override
from deephash.config.resolve import SLOTS
from deephash.config.targets import arguments, foreign_package, locate, parts
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

OWN_KEYS: dict[str, dict[str, Any]] = {
    "optimizer": {"lr": NonNegative, "backbone_scale": NonNegative},
}
"""Keys of a part that the program itself reads, and what they may be; all must be there."""

ACTIONS = ("prepare", "verify", "describe", "export", "encode", "cache")
"""What ``data.py`` does."""


def parse_page(
    kind: type[schema.N], cfg: Mapping[str, Any], overrides: Sequence[Override] = ()
) -> schema.N:
    """Check a resolved page and return it typed.

    Args:
        kind: the type of the page, such as ``schema.Train``.
        cfg: the page.
        overrides: its command line.

    Raises:
        ConfigError: all faults of the page.
    """
    raise_faults(check_page(kind, cfg, overrides), overrides)
    return schema.parse(kind, cfg)


def check_page(
    kind: type[schema.Node], cfg: Mapping[str, Any], overrides: Sequence[Override] = ()
) -> list[Fault]:
    """Return all faults of a resolved page; see ``parse_page``."""
    if kind is schema.Train:
        return check_train(cfg, overrides)
    checks: dict[type, Callable[[Mapping[str, Any]], list[Fault]]] = {
        schema.Evaluate: check_evaluate,
        schema.Data: check_data,
        schema.Report: check_report,
    }
    return checks[kind](cfg)


def parse_jobs(
    jobs: Sequence[tuple[Sequence[Override], Mapping[str, Any]]],
) -> list[tuple[Sequence[Override], schema.Train]]:
    """Check the pages of all jobs of a sweep, and return them typed.

    Args:
        jobs: command line and resolved page of each.

    Raises:
        ConfigError: each fault once, with the number of jobs that have it.
    """
    jobs_of: dict[Fault, list[Sequence[Override]]] = {}
    for overrides, cfg in jobs:
        for fault in check_train(cfg, overrides):
            jobs_of.setdefault(fault, []).append(overrides)
    faults = []
    for fault, lines in jobs_of.items():
        if len(lines) < len(jobs):
            example = " ".join(map(str, lines[0]))
            share = f" ({len(lines)} of {len(jobs)} jobs, such as: {example})"
            fault = replace(fault, message=fault.message + share)
        faults.append(fault)
    raise_faults(faults, [f"a grid of {len(jobs)} jobs"])
    return [(overrides, schema.parse(schema.Train, cfg)) for overrides, cfg in jobs]


def parse_run(cfg: Mapping[str, Any], file: Path) -> schema.Run:
    """Check the configuration of a run folder and return it typed.

    Args:
        cfg: the whole of ``config.yaml``; keys that an older run lacks have their former values.
        file: the path of ``config.yaml``, for messages.

    Raises:
        ConfigError: all faults of the configuration.
    """
    raise_faults(check_run(cfg), [str(file)])
    trainer = {"eval_every": 1, **cfg["trainer"]}  # missing only in runs of the first versions
    return schema.parse(schema.Run, {**cfg, "trainer": trainer})


def changed_evaluation(evaluation: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
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


def check_evaluate(cfg: Mapping[str, Any]) -> list[Fault]:
    """All that is wrong with a resolved page of ``evaluate.py``."""
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
        cfg: resolved, as ``config.yaml`` of the folder has it.
    """
    kinds = {"dataset": schema.Dataset, "model": schema.Model, "trainer": schema.Trainer,
             "evaluation": schema.Evaluation}  # fmt: skip
    if nodes := [key for key in kinds if not isinstance(cfg.get(key), Mapping)]:
        return [Fault(key, "is not a group of keys and values.", "Restore it.") for key in nodes]
    problems = [one for key, kind in kinds.items() for one in check_fields(cfg[key], kind, key)]
    problems += check_value(cfg["seed"], Seed, "seed")
    faults = [one for one in problems if not one.message.startswith(REMOVED)]  # an older run
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
    """All that is wrong with a resolved page of ``data.py``."""
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
    """All that is wrong with a resolved page of ``report.py``."""
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
    return check_fields(cfg, page, closed=True)


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
        return found or [*check_names({"dataset": dataset}), *_check_membership(dataset)]
    known = ("root", "lists")
    faults = [
        Fault(f"dataset.{key}", "is the run's, and cannot be changed here.",
              "dataset.root and dataset.lists can: where its data are now.")
        for key in dataset if key not in known
    ]  # fmt: skip
    for key in known:
        found = check_value(dataset.get(key), Name | None, f"dataset.{key}", None)
        faults += found
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


def check_train(cfg: Mapping[str, Any], overrides: Sequence[Override] = ()) -> list[Fault]:
    """All that is wrong with a resolved configuration, before any data is opened.

    Args:
        cfg: resolved.
        overrides: the command line; a part swapped there must make a difference.
    """
    method = cfg.get("method")
    faults = [
        Fault(f"method.{seat}", f"is the name {name!r}; a part is chosen by its group.",
              f"Type {seat}={name}.")
        for seat in SLOTS
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
        faults += requirements.problems(cfg)
    if not faults:
        faults += requirements.check_recipe(cfg) + requirements.check_swaps(cfg, overrides)
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
    return trial_builds.check_builds(cfg, wrong)


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


def _as_typed(fault: Fault, overrides: Iterable[Override]) -> Fault:
    """Put a fault of a part in a seat under the key at which it was typed.

    For an option that was not typed, say which file sets it, and how to leave it out.
    """
    given = {one.key: one.value or "" for one in overrides}
    if fault.key not in given and fault.message.endswith("has no such option."):
        overlay = given.get("experiment", "null")
        way = f"sets it; take it out with '~{fault.key}'."
        if overlay != "null":
            return Fault(fault.key, fault.message, f"experiment={overlay} {way}")
        if not fault.key.startswith("method."):
            instead = f"{fault.hint} If it was not typed, the recipe of the method {way}"
            return Fault(fault.key, fault.message, instead)
    for seat, option in given.items():
        if seat in SLOTS and option != "null":
            inside = f"method.{seat}."
            instead = fault.hint.replace(inside, f"{seat}.")
            key = f"{seat}." + fault.key.removeprefix(inside)
            if fault.key.startswith(inside):
                return Fault(key, fault.message, instead)
    return fault
