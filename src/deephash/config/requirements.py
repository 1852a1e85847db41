"""What the recipe of a method declares, and whether the configuration fits it.

Importing this module costs nothing heavy; its functions import the classes that a recipe names.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from deephash.config.faults import Fault
from deephash.config.overrides import Override
from deephash.config.targets import arguments, locate
from deephash.config.validate import (
    REMOVED,
    Part,
    advice,
    assignment,
    check_value,
    problem,
)
from deephash.utils.bounds import Count, Interval, NonNegative
from deephash.utils.files import expand_path

PARTS = ("relaxation", "codebook", "similarity", "loss")
"""Parts that the constructor of a method may ask for, beside its encoder."""

RESERVED = frozenset({
    "_target_", "name", "paper", "authors", "venue", "year", "views", "cached_views", "passes",
    "streams", "head", *PARTS,
})  # fmt: skip
"""Keys of ``method`` that are no options of the class that ``method._target_`` names."""

DEFAULT = "deephash.methods.composed.Composed"
"""The class of a method without a ``_target_``."""

SPECIAL = frozenset({"bits"})
"""What ``needs`` may name beside the fields of ``Output``."""

LOSS_INPUTS = {
    "relaxation": {"u", "logits"},
    "codebook": {"centers", "logits"},
    "similarity": {"logits"},
}
"""What an objective must read, of the fields of Output, for a part to make a difference."""

Passes = Literal["stacked", "separate"]

Kind = Literal["supervised", "unsupervised", "shallow"]
"""How a method learns; see `kind`."""


@dataclass(frozen=True)
class Declared:
    """What the classes of a recipe declare.

    Attributes:
        source: name of the class that reads what a relaxation makes: the loss, or else the method.
        needs: fields of ``Output`` that are read, and ``bits``.
        views: views of each image; None for any number.
        labels: whether labels are read.
        learns: whether parameters are optimized.
    """

    source: str
    needs: frozenset[str]
    views: int | None
    labels: bool
    learns: bool


def class_of(method: Mapping[str, Any], part: str) -> type | None:
    """Return the class of a part of a method; None where it has none."""
    node = method.get(part)
    return None if node is None else locate(node["_target_"], f"method.{part}")


def method_class(method: Mapping[str, Any]) -> type:
    """Return the class of a method."""
    return locate(method.get("_target_", DEFAULT), "method")


def declared(method: Mapping[str, Any]) -> Declared:
    """Return what the class of a method and that of its loss declare together.

    Args:
        method: the node ``method`` of a folded configuration.
    """
    whole, loss = method_class(method), class_of(method, "loss")
    views = getattr(whole, "views", None)
    if views is None and loss is not None:
        views = getattr(loss, "views", None)
    labels = bool(getattr(whole, "labels", loss is None))
    labels |= loss is not None and bool(getattr(loss, "labels", True))
    return Declared(
        (whole if loss is None else loss).__name__,
        frozenset(getattr(whole, "needs", ())) | frozenset(getattr(loss, "needs", ())),
        views,
        labels,
        bool(getattr(whole, "learns", True)),
    )


def kind(method: Mapping[str, Any]) -> Kind:
    """Return how a method learns.

    Args:
        method: the node ``method`` of a folded configuration.

    Returns:
        ``shallow``: fitted in closed form, nothing is learned by gradients. ``unsupervised``:
        trained without labels. ``supervised``: trained with labels.
    """
    has = declared(method)
    if not has.learns:
        return "shallow"
    return "supervised" if has.labels else "unsupervised"


def options(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a method's own class: its target and the options of its constructor."""
    own = {key: value for key, value in method.items() if key not in RESERVED}
    return {"_target_": method["_target_"], **own}


def problems(cfg: Mapping[str, Any]) -> list[Fault]:
    """Return all that is wrong with a recipe beside the options of its parts.

    Args:
        cfg: a folded configuration whose parts are right, each for itself.
    """
    method = cfg["method"]
    result = _of_views(cfg) + _of_parts(method)
    if result:
        return result
    result += _of_declarations(method) + _of_tokens(cfg)
    if result:
        return result
    has = declared(method)
    if has.views is not None and has.views != (count := num_views(method)):
        key = "method.views" if "views" in method else "+method.views"
        result.append(
            Fault("method.views", f"gives {count} view{'s' if count > 1 else ''} of each image,"
                    f" and {has.source} needs {has.views}.",
                    f"Type {key}={has.views}, or the name of a pipeline for each view.")
        )  # fmt: skip
    return result + _of_cached_views(cfg, has) + _of_learning(cfg, has) + _of_rates(cfg)


def num_views(method: Mapping[str, Any]) -> int:
    """Return V, the views of each image."""
    views = method.get("views", 1)
    return views if isinstance(views, int) else len(views)


def view_names(method: Mapping[str, Any]) -> list[str]:
    """Return the pipeline of each view, by its name in ``dataset.transforms``."""
    views = method.get("views", 1)
    return ["train"] * views if isinstance(views, int) else list(views)


def _of_views(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check number or names of views, the pipelines that they name, and ``method.passes``."""
    method, transforms = cfg["method"], cfg["dataset"]["transforms"]
    result: list[Fault] = []
    for name, steps in transforms.items():
        if name not in ("train", "test"):
            result += check_value(steps, list[Part], f"dataset.transforms.{name}")
    views, key = method.get("views", 1), "method.views"
    if isinstance(views, list) and views and all(isinstance(one, str) for one in views):
        there = ", ".join(map(str, transforms))
        for name in dict.fromkeys(one for one in views if one not in transforms):
            what = f"names {name!r}, and dataset.transforms has no such pipeline."
            result.append(Fault(key, what, f"It has {there}; views=NAME may bring others."))
    elif problem(views, Count) is not None:
        instead = f"Give a number, {key}=2, or a pipeline for each view: {key}=[train,train]."
        result.append(Fault(key, f"is {views!r}.", instead))
    if (wrong := problem(method.get("passes", "stacked"), Passes)) is not None:
        instead = advice("method.passes", Passes, "stacked", method["passes"])
        result.append(Fault("method.passes", wrong, instead))
    return result


def _of_cached_views(cfg: Mapping[str, Any], has: Declared) -> list[Fault]:
    """Check ``method.cached_views``, and that each epoch would encode other views without it."""
    method, backbone, key = cfg["method"], cfg["backbone"], "method.cached_views"
    count = method.get("cached_views")
    if count is None:
        return []
    leave_out = f"Leave it out, or type {key}=null."
    if problem(count, Annotated[int, Interval(2)]) is not None:
        what = f"is {count!r}, not a number of views of at least 2."
        return [Fault(key, what, f"Type {key}=8, or {key}=null for new views in each epoch.")]
    names, transforms = view_names(method), cfg["dataset"]["transforms"]
    kind = locate(backbone["_target_"], "backbone")

    def option(name: str) -> Any:
        parameter = arguments(kind).get(name)
        return backbone.get(name, getattr(parameter, "default", False))

    random = {
        name
        for name in names
        if any(getattr(locate(step["_target_"], "dataset.transforms"), "random", False)
               for step in transforms[name])
    }  # fmt: skip
    most = max((names.count(name) for name in random), default=0)
    whole = method_class(method)
    faults = (
        (
            option("frozen") is not True,
            "the backbone is not frozen: its features differ from step to step.",
            f"Type backbone.frozen=true, or {key}=null.",
        ),
        (
            option("dropout") is True,
            "dropout of the backbone is active: features differ from step to step.",
            f"Type backbone.dropout=false, or {key}=null.",
        ),
        (option("output") == "tokens", "the backbone gives tokens: too many to keep.", leave_out),
        (not has.learns, f"method={method['name']} is fitted in closed form.", leave_out),
        (
            not getattr(whole, "cached_features", False),
            f"{whole.__name__} uses images, not their features alone.",
            leave_out,
        ),
        (not random, "no view is random: features are computed once anyway.", leave_out),
        (
            count < most,
            f"{most} views of an image are of one pipeline: they must differ.",
            f"Type {key}={most} or more.",
        ),
    )
    for wrong, what, instead in faults:
        if wrong:
            return [Fault(key, f"is {count}, and {what}", instead)]
    return []


def _of_parts(method: Mapping[str, Any]) -> list[Fault]:
    """Compare the parts that the recipe has with those that its class asks for."""
    target = method_class(method)
    known, result = arguments(target), []
    if (head := class_of(method, "head")) is not None and hasattr(target, "refused_head"):
        result += [Fault(*fault) for fault in target.refused_head(head, method["head"])]
    for part in PARTS:
        key, parameter = f"method.{part}", known.get(part)
        if parameter is None:
            if method.get(part) is not None:
                what = f"is not used by {target.__name__}, the method here."
                result.append(Fault(key, what, "Leave it out, or choose another method."))
        elif method.get(part) is None and _required(parameter):
            if part in method:
                choose = f"Choose one by its name: {part}=NAME."
                result.append(Fault(key, "null is not a part with a _target_.", choose))
            elif "_target_" in method:
                what = f"is missing: {target.__name__} needs it."
                result.append(Fault(key, what, f"Choose one by its name: {part}=NAME."))
            else:
                result.append(Fault(key, f"{REMOVED}.", f"Leave out ~{key}."))
    return result


def _required(parameter: Any) -> bool:
    """Tell whether an argument of a constructor has to be a part, not None."""
    kind = parameter.annotation
    optional = "None" in kind if isinstance(kind, str) else type(None) in get_args(kind)
    return parameter.default is parameter.empty and not optional


def _of_declarations(method: Mapping[str, Any]) -> list[Fault]:
    """Check what classes declare: a mistake of their author, reported before data are opened."""
    from deephash.types import Output  # late: imports torch

    fields_of_output = [one.name for one in fields(Output)]
    nodes = [("method", method_class(method))]
    loss = class_of(method, "loss")
    if loss is not None:
        nodes.append(("loss", loss))
    result = []
    for key, kind in nodes:
        needs: Any = getattr(kind, "needs", frozenset())
        views: Any = getattr(kind, "views", None)
        if isinstance(needs, str) or not isinstance(needs, Collection):
            what = f"{kind.__name__}.needs is {needs!r}, not a set of names."
            result.append(Fault(key, what, 'Write needs = frozenset({"u"}) in the class.'))
        elif unknown := sorted({*needs} - {*fields_of_output} - SPECIAL):
            what = f"{kind.__name__}.needs names {', '.join(unknown)}, which Output does not have."
            there = ", ".join([*fields_of_output, *sorted(SPECIAL)])
            result.append(Fault(key, what, f"There are {there}: correct it in the class."))
        if views is not None and problem(views, Count) is not None:
            what = f"{kind.__name__}.views is {views!r}, not a number of views."
            result.append(Fault(key, what, "Write views = 2 in the class, or leave it out."))
    return result


def _of_tokens(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check that method, head and backbone agree on tokens (N, T, D) or features (N, D)."""
    method, backbone = cfg["method"], cfg["backbone"]
    whole, head = method_class(method), class_of(method, "head")
    takes = bool(getattr(head, "tokens", False))
    name = whole.__name__ if "_target_" in method else method["name"]
    if getattr(whole, "tokens", False) and not takes and head is not None:
        what = f"{head.__name__} takes features (N, D), and {name} needs a head that takes tokens."
        return [Fault("method.head", what, "Leave it out, or type head=tokens.")]
    trunk = locate(backbone["_target_"], "backbone")
    gives = backbone.get("output", "features") == "tokens"
    if gives == takes:
        return []
    if gives:
        what = f"is tokens (N, T, D), and {name} takes features (N, D)."
        return [Fault("backbone.output", what, "Type backbone.output=features.")]
    needs = f"and {name} needs the tokens (N, T, D) of each image."
    if "output" in arguments(trunk):
        what = f"is features (N, D), {needs}"
        key = "backbone.output" if "output" in backbone else "+backbone.output"
        return [Fault("backbone.output", what, f"Type {key}=tokens.")]
    what = f"{trunk.__name__} gives features alone, {needs}"
    return [Fault("backbone", what, "Try backbone=vit_b_16, or a transformer of timm.")]


def _of_learning(cfg: Mapping[str, Any], has: Declared) -> list[Fault]:
    """Check that there are epochs, optimizer and schedule where something learns, and only there.

    Epochs may be 0 in any case.
    """
    name, epochs = cfg["method"]["name"], cfg["trainer"]["epochs"]
    result = []
    for key, value in (("optimizer", cfg.get("optimizer")), ("scheduler", cfg.get("scheduler"))):
        if has.learns and value is None:
            what = f"is null, and method={name} is trained by one."
            result.append(Fault(key, what, f"Choose one: {_first(key)}."))
        elif not has.learns and value is not None:
            what = f"is given, and method={name} is fitted in closed form: it would do nothing."
            result.append(Fault(key, what, "Leave it out."))
    if not has.learns and epochs:
        what = f"is {epochs}, and method={name} is fitted in closed form, without epochs."
        result.append(Fault("trainer.epochs", what, "Leave it out, or type trainer.epochs=0."))
    return result


def _first(group: str) -> str:
    return {"optimizer": "optimizer=adam", "scheduler": "scheduler=step"}[group]


def _of_rates(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the factors of learning rates; which parts learn is known once they are built."""
    key, method = "optimizer.lr_scale", cfg["method"]
    node = cfg.get("optimizer")
    scales = None if node is None else node.get("lr_scale")
    if scales is None:
        return []
    if not isinstance(scales, Mapping):
        return [Fault(key, f"is {scales!r}.", f"Give factors by part: {key}={{head:10}}.")]
    result = check_value(scales, dict[str, NonNegative], key)
    if "backbone" in scales:
        instead = assignment("optimizer.backbone_scale", scales["backbone"])
        result.append(Fault(f"{key}.backbone", "has a key of its own.", f"Type {instead}."))
    if "_target_" in method:  # which may have further parts
        return result
    there = ["head", *(part for part in PARTS if method.get(part) is not None)]
    for name in scales:
        if name not in ("backbone", *there):
            what = f"method={method['name']} has no {name}."
            result.append(Fault(f"{key}.{name}", what, f"It has {', '.join(there)}."))
    return result


def check_recipe(cfg: Mapping[str, Any]) -> list[Fault]:
    """Whether the parts of the method can work together."""
    method, trainer = cfg["method"], cfg["trainer"]
    name = method["name"]
    faults = []
    for key in sorted(set() if "_target_" in method else set(method) - RESERVED):
        faults.append(Fault(f"method.{key}", "no method has such a part.", "Leave it out."))
    has = {
        "logits": method.get("similarity") is not None,
        "centers": method.get("codebook") is not None,
        "bits": getattr(class_of(method, "relaxation"), "bits", False),
    }
    if has["logits"] and not has["centers"]:
        faults.append(
            Fault("similarity", f"compares codes with class centers; method={name} has none.",
                  "Try codebook=max_hamming with it.")
        )  # fmt: skip
    loss = class_of(method, "loss")
    has_declared = declared(method)
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
        class_of(method, "codebook"), "learned", False
    ):
        faults.append(
            Fault("codebook", f"learns, and {has_declared.source} takes centers that do not.",
                  "Try codebook=hadamard, max_hamming, balanced or bernoulli.")
        )  # fmt: skip
    if getattr(class_of(method, "similarity"), "batch_coupled", False) and not trainer["drop_last"]:
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
    head = class_of(method, "head")
    smallest: int = getattr(head, "smallest_batch", 1)
    if (by_options := getattr(head, "smallest_batch_of", None)) is not None:
        smallest = by_options(method["head"])
    if head is not None and trainer["batch_size"] < smallest:
        faults.append(
            Fault("trainer.batch_size", f"is {trainer['batch_size']}, and {head.__name__}, the"
                  f" head here, needs a batch of {smallest}.",
                  "Try trainer.batch_size=16, or head=linear.")
        )  # fmt: skip
    whole = method_class(method)
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


def check_swaps(cfg: Mapping[str, Any], overrides: Iterable[Override]) -> list[Fault]:
    """Whether a part that was put in on the command line is read at all."""
    method, faults = cfg["method"], []
    given = {one.key: one.value or "" for one in overrides}
    for slot, inputs in LOSS_INPUTS.items():
        has = declared(method)
        if given.get(slot, "null") == "null" or inputs & has.needs:
            continue
        faults.append(
            Fault(slot, f"is not read by {has.source}, the loss here: it would change nothing.",
                  "Leave it out, or swap the loss as well: loss=lmcl.")
        )  # fmt: skip
    return faults
