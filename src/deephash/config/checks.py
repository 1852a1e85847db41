"""Check resolved pages and report all their faults at once, before any data is opened.

The module is cheap to import; its functions import the classes of the parts, and so torch.
"""

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deephash.config import backbone_inputs, injected_arguments, requirements, schema, validate
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import ORIGINS, Override
from deephash.config.resolve import SLOTS
from deephash.config.targets import arguments, foreign_package, locate, parts
from deephash.config.validate import (
    REMOVED,
    advice,
    annotation,
    assignment,
    check_value,
    problem,
)
from deephash.errors import ConfigError, DeephashError
from deephash.utils import filenames
from deephash.utils.bounds import Name, NonNegative, Seed
from deephash.utils.files import expand_path
from deephash.utils.run_paths import LATEST

OWN_KEYS: dict[str, dict[str, Any]] = {
    "optimizer": {"lr": NonNegative, "backbone_scale": NonNegative},
}
"""Required keys of a part that the program itself reads, and their types."""


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
        schema.Encode: check_encode,
        schema.Search: check_search,
        schema.Export: check_export,
        schema.Serve: check_serve,
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


def changed_evaluation(evaluation: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conventions of a run with some of them changed.

    A convention given by name replaces all of its fields, except those given beside it.

    Args:
        evaluation: the node ``evaluation`` of the run.
        change: new values; null keeps that of the run.
    """
    given = {key: value for key, value in change.items() if value is not None}
    kept = dict(evaluation)
    if "convention" in given:
        kept |= dict.fromkeys(("ties", "denominator", "empty", "drop_last"))
    return kept | given


def check_train(cfg: Mapping[str, Any], overrides: Sequence[Override] = ()) -> list[Fault]:
    """Return all faults of a resolved page of ``train``, before any data is opened.

    Args:
        cfg: the page.
        overrides: the command line; a part that was replaced there must make a difference.
    """
    method = cfg.get("method")
    for slot in SLOTS:
        if isinstance(method, Mapping) and isinstance(name := method.get(slot), str):
            message = f"is the name {name!r}; a part is chosen by its group."
            return [Fault(f"method.{slot}", message, f"Type {slot}={name}.")]
    faults = _check_fields(cfg, schema.Train, closed=True)
    broken = {fault.key for fault in faults}
    faults += _check_parts(cfg)
    if not broken & {"dataset", "dataset.protocols", "dataset.unlabelled", "trainer"}:
        faults += _check_protocol(cfg) + _check_classes(cfg["dataset"])
    if not broken & {"trainer", "trainer.device"}:
        faults += check_device("trainer.device", cfg["trainer"]["device"]) or [
            *_check_graph(cfg["trainer"]),
            *_check_precision(cfg["trainer"]),
            *_check_compile(cfg["trainer"]),
        ]
    faults += _check_run_name(cfg)
    faults += [fault for fault in check_names(cfg) if fault.key not in broken]
    if not broken:
        faults += _check_convention(cfg) + _check_origins(cfg)
    faults = faults or requirements.check_recipe(cfg, overrides)
    return [_as_typed(fault, overrides) for fault in faults + _check_builds(cfg, faults)]


RUN_NAME = re.compile(r"[^\W_][\w.+ -]{0,79}")
"""Names of run folders. Without ``,`` and ``=`` they are distinct from folders of overrides."""


def _check_run_name(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the short name of a run."""
    name = cfg.get("name")
    if not isinstance(name, str) or (RUN_NAME.fullmatch(name) and name == name.strip()):
        return []
    message = f"{name!r} is not a name of a run: up to 80 letters, digits, blanks and . _ + -"
    return [Fault("name", f"{message}, the first a letter or digit.", "Try name=first.")]


def check_evaluate(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``evaluate``."""
    faults = _check_fields(cfg, schema.Evaluate, closed=True) or _check_other_dataset(
        cfg["dataset"]
    )
    if faults:
        return faults
    faults = _check_convention(cfg) + check_device("device", cfg["device"])
    faults += _check_parts(cfg["dataset"], "dataset")
    if (cfg["run"] is None) == (cfg["runs"] is None):
        message = "must be given, or runs, and not both."
        hint = "Try run=FOLDER, or runs=[FOLDER,FOLDER] to compare several."
        faults.append(Fault("run", message, hint))
    return faults + _check_parts(cfg["logger"] or {}, "logger")


def check_data(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``data``."""
    faults = _check_fields(cfg, schema.Data, closed=True)
    if cfg.get("remove") is not None and cfg.get("do") != "cache":
        faults.append(Fault("remove", "is an option of data cache alone.", "Leave it out."))
    if faults:
        return faults
    encodes = cfg["do"] == "encode"
    if cfg["do"] in ("export", "encode") and cfg["out"] is None:
        faults.append(Fault("out", f"{cfg['do']} needs it.", "Give a folder: out=FOLDER."))
    faults += _check_parts(cfg if encodes else {"dataset": cfg["dataset"]})
    faults += check_device("trainer.device", cfg["trainer"]["device"])
    faults += _check_convention(cfg) + check_names(cfg)
    faults += _check_protocol(cfg) + _check_classes(cfg["dataset"])
    if not faults and encodes:
        if cfg["backbone"].get("output") == "tokens":
            message = "is tokens (N, T, D), and features are written as (N, D)."
            faults.append(Fault("backbone.output", message, "Type backbone.output=features."))
        faults += backbone_inputs.check_images(cfg, ["test"])
    return faults + _check_builds(cfg, faults)


def check_report(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``report``."""
    faults = _check_fields(cfg, schema.Report, closed=True)
    if faults:
        return faults
    if cfg["sweep"] is None:
        message = "has no use without a sweep: the page of all runs has filters."
        hint = "Give the name of one: sweep=NAME."
        given = [key for key in ("only", "logger", "wandb") if cfg.get(key)]
        return [Fault(key, message if key == "only" else "logs sweeps.", hint) for key in given]
    for name in [cfg["sweep"]] if isinstance(cfg["sweep"], str) else cfg["sweep"]:
        reason = filenames.name_fault(name)
        if reason is not None:
            hint = "Give its name; paths.outputs=FOLDER selects the folder of its runs."
            faults.append(Fault("sweep", f"{name!r} {reason}.", hint))
    return faults + _check_parts(cfg["logger"] or {}, "logger")


def check_encode(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``encode``."""
    faults = _check_fields(cfg, schema.Encode, closed=True)
    faults += _check_given(cfg, run="FOLDER", images="FOLDER", out="codes.npz")
    if faults:
        return faults
    if not cfg["out"].lower().endswith(CODE_FILES):
        example = assignment("out", str(Path(cfg["out"]).with_suffix(".npz")))
        hint = f"Give a file such as {example} ({', '.join(CODE_FILES)})."
        faults.append(Fault("out", f"{cfg['out']} has no ending of a code file.", hint))
    return faults + check_device("device", cfg["device"])


def check_search(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``search``."""
    faults = _check_fields(cfg, schema.Search, closed=True)
    faults += _check_given(cfg, run="FOLDER", images="FOLDER")
    if faults:
        return faults
    if (cfg["query"] is None) != bool(cfg["duplicates"]):
        message = "must be given, or duplicates=true, and not both."
        hint = "Try query=PHOTO.jpg, query=FOLDER, or duplicates=true."
        if cfg["duplicates"]:
            hint = "Leave one of them out."
        faults.append(Fault("query", message, hint))
    if cfg["duplicates"] and cfg["top"] is not None:
        message = "has no use for duplicates: all groups are listed."
        faults.append(Fault("top", message, "Leave it out."))
    faults += _check_parts(cfg["engine"], "engine") or _check_engine(cfg)
    return faults + check_device("device", cfg["device"])


CODE_FILES = (".npz", ".parquet", ".jsonl")
"""Endings of the files that ``encode`` writes, one for each format."""

GRAPH_FILES = {"onnx": ".onnx", "torch_export": ".pt2"}
"""Endings of the graphs that ``export`` writes, by format."""

EXACT_ENGINE = "deephash.search.engines.exact.ExactEngine"
"""The engine that searches the codes where the index keeps them, also within a radius."""


def _check_engine(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check what only the exact search of ``search`` can do."""
    exact = cfg["engine"]["_target_"] == EXACT_ENGINE
    if exact and cfg["check_recall"]:
        message = "compares other engines with engine=exact, which was chosen."
        return [Fault("check_recall", message, "Try engine=faiss_ivf, or leave it out.")]
    if exact:
        return []
    message = "searches the nearest images alone, and {} needs all images within a distance."
    return [
        Fault("engine", message.format(key), "Leave the engine out.")
        for key in ("radius", "duplicates")
        if cfg[key] not in (None, False)
    ][:1]


def check_serve(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``serve``."""
    faults = _check_fields(cfg, schema.Serve, closed=True)
    faults += _check_given(cfg, run="FOLDER", images="FOLDER")
    token = cfg["token"]
    if isinstance(token, str) and not re.fullmatch(r"[\w-]{16,}", token, re.ASCII):
        message = "must have at least 16 letters, digits, - and _."
        faults.append(Fault("token", message, "Leave it out for a random one."))
    faults += _check_parts(cfg["engine"], "engine") if "engine" in cfg else []
    return faults or check_device("device", cfg["device"])


def _check_given(cfg: Mapping[str, Any], **examples: str) -> list[Fault]:
    """Return a fault for each key that is null and must be given."""
    return [
        Fault(key, "must be given.", f"Type {key}={example}.")
        for key, example in examples.items()
        if cfg.get(key) is None
    ]


def check_export(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of a resolved page of ``export``."""
    faults = _check_fields(cfg, schema.Export, closed=True)
    faults += _check_given(cfg, run="FOLDER", to="onnx")
    if not isinstance(cfg.get("dataset"), Mapping):
        faults.append(Fault("dataset", "is the run's.", "Type dataset.root=FOLDER, if it moved."))
    else:
        faults += _check_places(cfg["dataset"])
    if faults:
        return faults
    out, ending = Path(cfg["out"] or ""), GRAPH_FILES.get(cfg["to"])
    if out.suffix in {*GRAPH_FILES.values(), ".safetensors"} - {ending}:
        message = f"is {out}, and to={cfg['to']} writes "
        message += "a folder." if ending is None else f"a {ending} file."
        example = out.with_suffix("") if ending is None else out.with_suffix(ending)
        faults.append(Fault("out", message, f"Type {assignment('out', str(example))}."))
    if cfg["to"] == "safetensors" and cfg["size"] != "stored":
        message = "is of onnx and torch_export; to=safetensors has no graph."
        faults.append(Fault("size", message, "Leave it out."))
    if cfg["to"] != "safetensors" and cfg["license"] is not None:
        message = f"is written into a model card, and to={cfg['to']} has none."
        faults.append(Fault("license", message, "Leave it out."))
    return faults


def check_run(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return the faults of a run folder's configuration that matter when the run is evaluated.

    The folder may be untrusted, and may be older than a part that only training needs: of the
    method, only the head is checked.

    Args:
        cfg: the whole of ``config.yaml``.
    """
    kinds = {
        "dataset": schema.Dataset,
        "model": schema.Model,
        "trainer": schema.TrainerConfig,
        "evaluation": schema.EvaluationConfig,
    }
    if missing := [key for key in kinds if not isinstance(cfg.get(key), Mapping)]:
        return [Fault(key, "is not a group of keys and values.", "Restore it.") for key in missing]
    faults = [fault for key, kind in kinds.items() for fault in _check_fields(cfg[key], kind, key)]
    faults += check_value(cfg["seed"], Seed, "seed")
    # an older run lacks newer keys
    faults = [fault for fault in faults if not fault.message.startswith(REMOVED)]
    if faults:
        return faults
    dataset, protocol = cfg["dataset"], f"dataset.protocols.{cfg['dataset']['protocol']}"
    faults = _check_membership(dataset) + _check_classes(dataset)
    built = ("dataset.source", "dataset.transforms", "backbone", "method.head", protocol)
    for path, node in parts({key: cfg.get(key) for key in ("dataset", "backbone", "method")}):
        if any(path == place or path.startswith(f"{place}.") for place in built):
            faults += check_part(path, node)
    return faults


def _check_fields(
    node: Mapping[str, Any], kind: type[schema.Node], path: str = "", closed: bool = False
) -> list[Fault]:
    """Return the faults of ``validate.check_fields``, with the hints of the schema."""
    return [
        fault
        if fault.message.startswith(REMOVED)
        else replace(fault, hint=schema.HINTS.get(fault.key, fault.hint))
        for fault in validate.check_fields(node, kind, path, closed)
    ]


def _check_other_dataset(dataset: Any) -> list[Fault]:
    """Check ``dataset`` of ``evaluate``: the present place of the run's data, or another dataset.

    Another dataset is a whole node with a source.
    """
    if not isinstance(dataset, Mapping):
        return [Fault("dataset", f"is {dataset!r}.", "Choose one by its name: dataset=roxford5k.")]
    if "source" in dataset:
        faults = _check_fields(dataset, schema.Dataset, "dataset")
        return faults or check_names({"dataset": dataset}) + _check_membership(dataset)
    return _check_places(dataset)


def _check_places(dataset: Mapping[str, Any]) -> list[Fault]:
    """Check ``dataset`` of a command that takes nothing of it but the place of the run's data."""
    faults = []
    for key, value in dataset.items():
        if key in ("root", "lists"):
            invalid = check_value(value, Name | None, f"dataset.{key}", None)
            if key == "root" and value and not invalid and not expand_path(value).exists():
                hint = "Give the place where the data of the run are now."
                invalid = [Fault("dataset.root", f"there is no {value}.", hint)]
            faults += invalid
        else:
            message = "is the run's, and cannot be changed here."
            hint = "dataset.root and dataset.lists can: where its data are now."
            faults.append(Fault(f"dataset.{key}", message, hint))
    return faults


def _check_parts(node: Any, path: str = "") -> list[Fault]:
    """Return all faults of the parts inside a node."""
    return [fault for place, part in parts(node, path) for fault in check_part(place, part)]


def check_part(path: str, node: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of the options of one part, according to its constructor.

    Args:
        path: the place of the part in the configuration.
        node: the part.
    """
    message: str | None
    if package := foreign_package(node["_target_"]):
        message = f"is {node['_target_']}, of a package that this command does not name."
        return [Fault(path, message, f"If you trust {package}, type plugins=[{package}].")]
    try:
        target = locate(node["_target_"], path)
    except ConfigError as error:
        return [Fault(path, str(error).splitlines()[0], "Choose a part by its group's name.")]
    given, own = injected_arguments.names(path), OWN_KEYS.get(path, {})
    known = arguments(target)
    kinds = {name: annotation(parameter) for name, parameter in known.items()} | own
    defaults = {name: parameter.default for name, parameter in known.items()}
    defaults = dict.fromkeys(own, 1.0) | defaults
    free = sorted(set(known) - given)
    if path == "method":
        node = requirements.options(node)
    ignored = {"_target_"}
    if path == "optimizer":
        ignored |= requirements.GROUP_OPTIONS - set(own)  # checked there
    faults = []
    for key, value in node.items():
        place = f"{path}.{key}"
        if key in ignored:
            continue
        if key in given and key in known:
            faults.append(Fault(place, "is set by the program.", "Leave it out."))
        elif key not in kinds:
            hint = f"It takes {', '.join(free) or 'none'}."
            if near := difflib.get_close_matches(str(key), free, n=1):
                hint = f"Did you mean {assignment(f'{path}.{near[0]}', value)}?"
            faults.append(Fault(place, f"{target.__name__} has no such option.", hint))
        elif (message := problem(value, kinds[key])) is not None:
            faults.append(Fault(place, message, advice(place, kinds[key], defaults[key], value)))
    for name, kind in kinds.items():
        needed = name in own or (defaults[name] is inspect.Parameter.empty and name not in given)
        if name not in node and needed:
            message = f"{target.__name__} needs it." if name in known else "is missing."
            hint = advice(f"+{path}.{name}", kind, defaults[name])
            faults.append(Fault(f"{path}.{name}", message, hint))
    if not faults and hasattr(target, "refused"):  # a class may check combinations of its options
        faults = [Fault(f"{path}.{key}", *rest) for key, *rest in target.refused(node)]
    return faults


def _check_builds(cfg: Mapping[str, Any], faults: Sequence[Fault]) -> list[Fault]:
    """Return what the constructors of cheap parts refuse, in addition to ``faults``."""
    from deephash.config import trial_builds  # late: imports torch

    return trial_builds.check_builds(cfg, {fault.key for fault in faults})


def check_names(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the values that become part of a path: dataset, protocol, method and group."""
    faults = []
    for key in ("dataset.name", "dataset.protocol", "method.name"):
        group, _, name = key.partition(".")
        if not isinstance(cfg.get(group), Mapping):
            continue
        if (reason := filenames.name_fault(cfg[group].get(name))) is not None:
            hint = f"It becomes part of a path. Give a plain name: {key}=NAME."
            faults.append(Fault(key, f"{reason}.", hint))
    folder = cfg.get("group")
    if folder is not None and (
        filenames.name_fault(folder) or not re.fullmatch(r"\w[\w.,=+-]*", str(folder))
    ):
        hint = "Use letters, digits and . , = + - _; it becomes the name of a folder."
        faults.append(Fault("group", f"{folder!r} is not a plain name.", hint))
    return faults


def check_device(key: str, device: Any) -> list[Fault]:
    """Check that a device has a valid name and exists on this machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", str(device)):
        hint = "Try auto, cpu, cuda, or for the second GPU cuda:1."
        return [Fault(key, f"there is no {device!r}.", hint)]
    if str(device).startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            message = f"is {device}; torch sees {count} CUDA devices."
            return [Fault(key, message, f"Try {key}=cpu, or auto.")]
    return []


def _check_origins(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check that a run starts from one other run at most, and not from a link that it changes."""
    if cfg.get("init") is not None and cfg.get("extend") is not None:
        message = "is given, and extend continues with the weights of its own run."
        return [Fault("init", message, "Type one of them.")]
    for key in ORIGINS:
        if cfg.get(key) is None or not (link := expand_path(cfg[key])).is_symlink():
            continue
        if link.name == LATEST:
            message = f"is {cfg[key]}, a link to the run that began last, which this run changes."
            hint = f"Type {assignment(key, os.path.normpath(link.parent / link.readlink()))}."
            return [Fault(key, message, hint)]
    return []


def _check_graph(trainer: Mapping[str, Any]) -> list[Fault]:
    """Check that the training step can be replayed as a CUDA graph."""
    if not trainer.get("graph"):
        return []
    if trainer.get("accumulate", 1) > 1:
        message = "is true, and trainer.accumulate updates the parameters after several batches."
        return [Fault("trainer.graph", message, "Type one of them.")]
    if trainer.get("compile"):
        message = "is true, and trainer.compile=true replays CUDA graphs of its own."
        return [Fault("trainer.graph", message, "Type one of them.")]
    if _on_cpu(trainer):
        message = f"is true, and trainer.device={trainer['device']} is a CPU here."
        return [Fault("trainer.graph", message, "Leave it out, or train on a CUDA device.")]
    return []


def _check_compile(trainer: Mapping[str, Any]) -> list[Fault]:
    """Check that compiled steps, on CUDA replayed as CUDA graphs, can add gradients."""
    if not trainer.get("compile") or trainer.get("accumulate", 1) == 1 or _on_cpu(trainer):
        return []
    message = "is true, and its CUDA graphs overwrite the gradients that trainer.accumulate adds."
    return [Fault("trainer.compile", message, "Type one of them.")]


def _check_precision(trainer: Mapping[str, Any]) -> list[Fault]:
    """Check that the device can train in the number format."""
    if trainer.get("precision") != "fp16" or not _on_cpu(trainer):
        return []
    from deephash.config.trial_builds import cpu_fp16_fault  # late: imports torch

    if not (reason := cpu_fp16_fault()):
        return []
    message = f"is fp16, and this CPU cannot train in it: {reason}."
    return [Fault("trainer.precision", message, "Type trainer.precision=bf16, or fp32.")]


def _on_cpu(trainer: Mapping[str, Any]) -> bool:
    """Return whether a run would train on a CPU of this machine."""
    import torch

    device = trainer["device"]
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def _check_convention(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check that the named convention exists, and that its fields are compatible."""
    from deephash.retrieval import NAMED, Convention  # late: imports numpy and torch

    name, key = cfg["evaluation"].get("convention"), "evaluation.convention"
    if name is not None and name not in NAMED:
        hint = f"There are {', '.join(NAMED)}."
        if near := difflib.get_close_matches(str(name).lower(), NAMED, n=1):
            hint = f"Did you mean {key}={near[0]}? {hint}"
        return [Fault(key, f"there is no {name!r}.", hint)]
    if "protocols" not in cfg["dataset"]:  # of the run, whose other fields are not known yet
        return []
    try:
        Convention.configured(cfg["evaluation"], cfg["dataset"].get("top"))
    except DeephashError as error:
        return [Fault("evaluation", f"{error}.", "See docs/evaluation.md.")]
    return []


def _check_membership(dataset: Mapping[str, Any]) -> list[Fault]:
    """Check that the dataset has the protocols that it names."""
    known, name = dataset.get("protocols", {}), str(dataset.get("protocol"))
    hint, unlabelled = f"It has {', '.join(known)}.", dataset.get("unlabelled")
    if isinstance(unlabelled, str) and unlabelled not in known:
        message = f"is {unlabelled!r}, and {dataset['name']} has no such protocol."
        return [Fault("dataset.unlabelled", message, hint)]
    if name not in known:
        return [Fault("dataset.protocol", f"{dataset['name']} has no protocol {name!r}.", hint)]
    return []


def _check_protocol(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the protocol, and that there is a validation split where one is needed."""
    dataset, trainer = cfg["dataset"], cfg["trainer"]
    if faults := _check_membership(dataset):
        return faults
    name, select_on = str(dataset["protocol"]), trainer.get("select_on")
    protocol, key = dataset["protocols"][name], f"dataset.protocols.{name}"
    if not isinstance(protocol, Mapping):  # a fault of its own
        return []
    if select_on in ("val", "agreement") and not validates(dataset, select_on):
        validation = f"{key}.validation=50"
        if not name.isidentifier():  # Hydra's grammar takes a key such as 54k in braces only
            validation = f"'dataset.protocols={{{name}:{{validation:50}}}}'"
        unit = _class_attribute(protocol, key, "validation_unit", "of each class")
        unlabelled = dataset.get("unlabelled")
        hint = f"Try {validation} (images {unit})"
        if select_on == "agreement" and unlabelled not in (None, name):
            hint += f", of images without labels dataset.protocols.{unlabelled}.validation=100"
        hint += f", or trainer.select_on={'query' if select_on == 'val' else 'last'}."
        message = f"is {select_on}, and protocol {name} has no validation split."
        faults.append(Fault("trainer.select_on", message, hint))
    if select_on == "last" and trainer.get("patience") is not None:
        message = "stops by a mAP, and trainer.select_on=last looks at none."
        hint = "Try trainer.select_on=val, or trainer.patience=null."
        faults.append(Fault("trainer.patience", message, hint))
    return faults


def validates(dataset: Mapping[str, Any], select_on: str) -> bool:
    """Return whether there may be a validation split, which may depend on the data.

    A folder may have an official validation part, and images without labels a protocol of their
    own, which selection by agreement can use.
    """
    names = [str(dataset["protocol"])]
    if select_on == "agreement" and dataset.get("unlabelled") is not None:
        names.append(dataset["unlabelled"])
    protocols = {name: dataset["protocols"].get(name) for name in names}
    if any(isinstance(node, Mapping) and node.get("validation") for node in protocols.values()):
        return True
    if not _class_attribute(dataset["source"], "dataset.source", "may_have_validation", False):
        return False
    return any(
        _class_attribute(node, f"dataset.protocols.{name}", "official_validation", False)
        for name, node in protocols.items()
    )


def _class_attribute(node: Any, path: str, name: str, default: Any) -> Any:
    """Return an attribute of the class of a part; ``default`` if there is none."""
    if not isinstance(node, Mapping):
        return default
    try:
        return getattr(locate(str(node.get("_target_")), path), name, default)
    except ConfigError:  # reported by the check of the part
        return default


def _check_classes(dataset: Mapping[str, Any]) -> list[Fault]:
    """Check that ``dataset.classes`` names no class twice."""
    classes = dataset.get("classes")
    if not isinstance(classes, list):
        return []
    twice = sorted({str(name) for name in classes if classes.count(name) > 1})
    message = f"names {', '.join(twice)} twice."
    return [Fault("dataset.classes", message, "Name each class once.")] if twice else []


def _as_typed(fault: Fault, overrides: Iterable[Override]) -> Fault:
    """Return a fault under the key that was typed, for a part that was chosen by its slot.

    For an option that was not typed, the hint names the file that sets it and how to remove it.
    """
    given = {override.key: override.value or "" for override in overrides}
    if fault.key not in given and fault.message.endswith("has no such option."):
        overlay = given.get("experiment", "null")
        removal = f"sets it; take it out with '~{fault.key}'."
        if overlay != "null":
            return replace(fault, hint=f"experiment={overlay} {removal}")
        if not fault.key.startswith("method."):
            hint = f"{fault.hint} If it was not typed, the recipe of the method {removal}"
            return replace(fault, hint=hint)
    for slot in SLOTS:
        inside = f"method.{slot}."
        if given.get(slot, "null") != "null" and fault.key.startswith(inside):
            key = f"{slot}.{fault.key.removeprefix(inside)}"
            return Fault(key, fault.message, fault.hint.replace(inside, f"{slot}."))
    return fault
