"""Requirements that the recipe of a method declares, and checks of a configuration against them.

The module is cheap to import; its functions import the classes that a recipe names.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from deephash.config import backbone_inputs
from deephash.config.faults import Fault
from deephash.config.overrides import Override
from deephash.config.targets import arguments, locate
from deephash.config.validate import (
    REMOVED,
    Part,
    assignment,
    check_value,
    problem,
)
from deephash.utils.bounds import Count, Interval, NonNegative
from deephash.utils.files import expand_path
from deephash.utils.nested import get_nested

PARTS = ("relaxation", "codebook", "similarity", "loss")
"""Parts that may be arguments of the constructor of a method, beside its encoder."""

RESERVED = frozenset({
    "_target_", "name", "paper", "authors", "venue", "year", "views", "cached_views", "passes",
    "streams", "head", *PARTS,
})  # fmt: skip
"""Keys of ``method`` that are no options of the class that ``method._target_`` names."""

DEFAULT = "deephash.methods.composed.Composed"
"""The class of a method without a ``_target_``."""

GROUP_OPTIONS = frozenset({"backbone_scale", "lr_scale", "layer_decay", "decay_1d"})
"""Keys of ``optimizer`` that divide the parameters into groups; see ``parameter_groups``."""

SPECIAL = frozenset({"bits"})
"""Further names that ``needs`` may contain, beside the fields of ``Output``."""

LOSS_INPUTS = {
    "relaxation": {"u", "logits"},
    "codebook": {"centers", "logits"},
    "similarity": {"logits"},
}
"""The fields of ``Output`` that depend on a part, which has no effect if the loss reads none."""

LayerDecay = Annotated[float, Interval(0, 1, above=True)]

Kind = Literal["supervised", "unsupervised", "shallow"]
"""How a method learns; see `kind`."""


@dataclass(frozen=True)
class Declared:
    """Declarations of the classes of a recipe.

    Attributes:
        source: name of the class that reads relaxed codes: the loss, or else the method.
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
    """Return the combined declarations of the class of a method and that of its loss.

    Args:
        method: the node ``method`` of a resolved configuration.
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
        method: the node ``method`` of a resolved configuration.

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


def check_recipe(cfg: Mapping[str, Any], overrides: Iterable[Override] = ()) -> list[Fault]:
    """Return all faults of a recipe beside those of the options of its parts.

    Args:
        cfg: a resolved page whose parts have no fault of their own.
        overrides: the command line; a part that was replaced there must make a difference.
    """
    method = cfg["method"]
    faults = (
        _check_views(cfg) + _check_parts(method)
        or _check_declarations(method) + _check_tokens(cfg)
        or _check_learning(cfg)
    )
    return faults or [
        *_check_combination(cfg),
        *_check_batch_size(cfg),
        *_check_weights(cfg["backbone"]),
        *_check_replaced(method, overrides),
        *backbone_inputs.check_images(cfg, ["test", *view_names(method)]),
    ]


def num_views(method: Mapping[str, Any]) -> int:
    """Return V, the views of each image."""
    views = method.get("views", 1)
    return views if isinstance(views, int) else len(views)


def view_names(method: Mapping[str, Any]) -> list[str]:
    """Return the pipeline of each view, by its name in ``dataset.transforms``."""
    views = method.get("views", 1)
    return ["train"] * views if isinstance(views, int) else list(views)


def _check_views(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the pipelines that views may name."""
    views, transforms = cfg["method"].get("views", 1), cfg["dataset"]["transforms"]
    faults: list[Fault] = []
    for name, steps in transforms.items():
        if name not in ("train", "test"):
            faults += check_value(steps, list[Part], f"dataset.transforms.{name}")
    for name in dict.fromkeys(views) if isinstance(views, list) else ():
        if name not in transforms:
            message = f"names {name!r}, and dataset.transforms has no such pipeline."
            hint = f"It has {', '.join(map(str, transforms))}; views=NAME may bring others."
            faults.append(Fault("method.views", message, hint))
    return faults


def _check_cached_views(cfg: Mapping[str, Any], recipe: Declared) -> list[Fault]:
    """Check that features can be cached, and that each epoch would encode other views without."""
    method, backbone, key = cfg["method"], cfg["backbone"], "method.cached_views"
    count = method.get("cached_views")
    if count is None:
        return []
    leave_out = f"Leave it out, or type {key}=null."
    names, transforms = view_names(method), cfg["dataset"]["transforms"]
    known = arguments(locate(backbone["_target_"], "backbone"))

    def option(name: str) -> Any:
        return backbone.get(name, getattr(known.get(name), "default", False))

    def is_random(name: str) -> bool:
        steps = (locate(step["_target_"], "dataset.transforms") for step in transforms[name])
        return any(getattr(step, "random", False) for step in steps)

    most = max((names.count(name) for name in set(names) if is_random(name)), default=0)
    whole = method_class(method)
    if option("frozen") is not True:
        message = "the backbone is not frozen: its features differ from step to step."
        hint = f"Type backbone.frozen=true, or {key}=null."
    elif option("dropout") is True:
        message = "dropout of the backbone is active: features differ from step to step."
        hint = f"Type backbone.dropout=false, or {key}=null."
    elif option("output") == "tokens":
        message, hint = "the backbone gives tokens: too many to keep.", leave_out
    elif not recipe.learns:
        message, hint = f"method={method['name']} is fitted in closed form.", leave_out
    elif not getattr(whole, "cached_features", False):
        message, hint = f"{whole.__name__} uses images, not their features alone.", leave_out
    elif not most:
        message, hint = "no view is random: features are computed once anyway.", leave_out
    elif count < most:
        message = f"{most} views of an image are of one pipeline: they must differ."
        hint = f"Type {key}={most} or more."
    else:
        return []
    return [Fault(key, f"is {count}, and {message}", hint)]


def _check_parts(method: Mapping[str, Any]) -> list[Fault]:
    """Compare the parts of the recipe with the arguments of its class."""
    target = method_class(method)
    known, result = arguments(target), []
    if (head := class_of(method, "head")) is not None and hasattr(target, "refused_head"):
        result += [Fault(*fault) for fault in target.refused_head(head, method["head"])]
    for part in PARTS:
        key, parameter = f"method.{part}", known.get(part)
        if parameter is None:
            if method.get(part) is not None:
                message = f"is not used by {target.__name__}, the method here."
                result.append(Fault(key, message, "Leave it out, or choose another method."))
        elif method.get(part) is None and _required(parameter):
            if part in method:
                choose = f"Choose one by its name: {part}=NAME."
                result.append(Fault(key, "null is not a part with a _target_.", choose))
            elif "_target_" in method:
                message = f"is missing: {target.__name__} needs it."
                result.append(Fault(key, message, f"Choose one by its name: {part}=NAME."))
            else:
                result.append(Fault(key, f"{REMOVED}.", f"Leave out ~{key}."))
    return result


def _required(parameter: Any) -> bool:
    """Return whether an argument of a constructor must be a part, not None."""
    kind = parameter.annotation
    optional = "None" in kind if isinstance(kind, str) else type(None) in get_args(kind)
    return parameter.default is parameter.empty and not optional


def _check_declarations(method: Mapping[str, Any]) -> list[Fault]:
    """Check what classes declare, so that mistakes of their authors are reported early."""
    from deephash.types import Output  # late: imports torch

    fields_of_output = [field.name for field in fields(Output)]
    classes = {"method": method_class(method), "loss": class_of(method, "loss")}
    result = []
    for key, kind in classes.items():
        if kind is None:
            continue
        needs: Any = getattr(kind, "needs", frozenset())
        views: Any = getattr(kind, "views", None)
        if isinstance(needs, str) or not isinstance(needs, Collection):
            message = f"{kind.__name__}.needs is {needs!r}, not a set of names."
            result.append(Fault(key, message, 'Write needs = frozenset({"u"}) in the class.'))
        elif unknown := sorted({*needs} - {*fields_of_output} - SPECIAL):
            message = (
                f"{kind.__name__}.needs names {', '.join(unknown)}, which Output does not have."
            )
            there = ", ".join([*fields_of_output, *sorted(SPECIAL)])
            result.append(Fault(key, message, f"There are {there}: correct it in the class."))
        if views is not None and problem(views, Count) is not None:
            message = f"{kind.__name__}.views is {views!r}, not a number of views."
            result.append(Fault(key, message, "Write views = 2 in the class, or leave it out."))
    return result


def _check_tokens(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check that method, head and backbone agree on tokens (N, T, D) or features (N, D)."""
    method, backbone = cfg["method"], cfg["backbone"]
    whole, head = method_class(method), class_of(method, "head")
    takes = bool(getattr(head, "tokens", False))
    name = whole.__name__ if "_target_" in method else method["name"]
    if getattr(whole, "tokens", False) and not takes and head is not None:
        message = (
            f"{head.__name__} takes features (N, D), and {name} needs a head that takes tokens."
        )
        return [Fault("method.head", message, "Leave it out, or type head=tokens.")]
    trunk = locate(backbone["_target_"], "backbone")
    gives = backbone.get("output", "features") == "tokens"
    if gives == takes:
        return []
    if gives:
        message = f"is tokens (N, T, D), and {name} takes features (N, D)."
        return [Fault("backbone.output", message, "Type backbone.output=features.")]
    needs = f"and {name} needs the tokens (N, T, D) of each image."
    if "output" in arguments(trunk):
        message = f"is features (N, D), {needs}"
        key = "backbone.output" if "output" in backbone else "+backbone.output"
        return [Fault("backbone.output", message, f"Type {key}=tokens.")]
    message = f"{trunk.__name__} gives features alone, {needs}"
    return [Fault("backbone", message, "Try backbone=vit_b_16, or a transformer of timm.")]


def _check_learning(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the number of views, cached views, epochs, optimizer, schedule and learning rates.

    Epochs may be 0 in any case; an optimizer and a schedule are there where parameters are learned,
    and only there.
    """
    method, recipe = cfg["method"], declared(cfg["method"])
    name, epochs = method["name"], cfg["trainer"]["epochs"]
    faults = []
    if recipe.views is not None and recipe.views != (count := num_views(method)):
        key = "method.views" if "views" in method else "+method.views"
        message = (
            f"gives {count} view{'s' if count > 1 else ''} of each image, and {recipe.source}"
            f" needs {recipe.views}."
        )
        hint = f"Type {key}={recipe.views}, or the name of a pipeline for each view."
        faults.append(Fault("method.views", message, hint))
    faults += _check_cached_views(cfg, recipe)
    for key, example in (("optimizer", "adam"), ("scheduler", "step")):
        if recipe.learns and cfg.get(key) is None:
            message = f"is null, and method={name} is trained by one."
            faults.append(Fault(key, message, f"Choose one: {key}={example}."))
        elif not recipe.learns and cfg.get(key) is not None:
            message = f"is given, and method={name} is fitted in closed form: it would do nothing."
            faults.append(Fault(key, message, "Leave it out."))
    if not recipe.learns and epochs:
        message = f"is {epochs}, and method={name} is fitted in closed form, without epochs."
        faults.append(Fault("trainer.epochs", message, "Leave it out, or type trainer.epochs=0."))
    if not recipe.learns:
        faults += [
            Fault(
                f"trainer.{key}",
                f"is {value}, and method={name} is fitted in closed form, without steps.",
                "Leave it out.",
            )
            for key, off in (
                ("accumulate", 1), ("ema", None), ("profile", False),
                ("gradient_checkpointing", False),
            )
            if (value := cfg["trainer"].get(key, off)) != off
        ]  # fmt: skip
    elif cfg["trainer"].get("gradient_checkpointing"):
        key = "trainer.gradient_checkpointing"
        faults += _check_backbone_layers(cfg, key, "checkpoint_gradients")
        if cfg["trainer"].get("compile"):
            message = "is true, and trainer.compile=true chooses what to compute again."
            faults.append(Fault(key, message, "Type one of them."))
    return faults + _check_rates(cfg)


def _check_rates(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check the factors of learning rates; a custom method may have further parts."""
    key, method, optimizer = "optimizer.lr_scale", cfg["method"], cfg.get("optimizer") or {}
    kinds: dict[str, Any] = {"layer_decay": LayerDecay | None, "decay_1d": bool}
    faults = [
        fault
        for name, kind in kinds.items()
        if name in optimizer
        for fault in check_value(optimizer[name], kind, f"optimizer.{name}")
    ]
    if optimizer.get("layer_decay") is not None:
        faults += _check_backbone_layers(cfg, "optimizer.layer_decay", "layers")
    scales = optimizer.get("lr_scale")
    if scales is None:
        return faults
    if not isinstance(scales, Mapping):
        return [Fault(key, f"is {scales!r}.", f"Give factors by part: {key}={{head:10}}.")]
    faults += check_value(scales, dict[str, NonNegative], key)
    if "backbone" in scales:
        hint = f"Type {assignment('optimizer.backbone_scale', scales['backbone'])}."
        faults.append(Fault(f"{key}.backbone", "has a key of its own.", hint))
    known = ["head", *(part for part in PARTS if method.get(part) is not None)]
    for name in scales:
        if "_target_" not in method and name not in ("backbone", *known):
            message = f"method={method['name']} has no {name}."
            faults.append(Fault(f"{key}.{name}", message, f"It has {', '.join(known)}."))
    return faults


def _check_backbone_layers(cfg: Mapping[str, Any], key: str, function: str) -> list[Fault]:
    """Check that an option of the layers of the backbone has layers that are trained."""
    backbone = cfg["backbone"]
    target = locate(backbone["_target_"], "backbone")
    value = get_nested(cfg, *key.split("."))
    if not hasattr(target, function):
        message = f"is {value}, and {target.__name__} has no function {function}()."
        return [Fault(key, message, "Leave it out, or choose another backbone.")]
    if backbone.get("frozen") is True:
        message = f"is {value}, and the backbone is frozen."
        return [Fault(key, message, "Leave it out, or type backbone.frozen=false.")]
    return []


def _check_combination(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check that the parts of the method can work together."""
    method, recipe, name = cfg["method"], declared(cfg["method"]), cfg["method"]["name"]
    faults = []
    if "_target_" not in method:
        faults += [
            Fault(f"method.{key}", "no method has such a part.", "Leave it out.")
            for key in sorted(set(method) - RESERVED)
        ]
    classes = {part: class_of(method, part) for part in PARTS}
    if method.get("similarity") is not None and method.get("codebook") is None:
        message = f"compares codes with class centers; method={name} has none."
        faults.append(Fault("similarity", message, "Try codebook=max_hamming with it."))
    needed = {
        "logits": (
            method.get("similarity") is not None,
            "similarities to class centers",
            "similarity=cosine codebook=max_hamming",
        ),
        "centers": (method.get("codebook") is not None, "class centers", "codebook=max_hamming"),
        "bits": (
            getattr(classes["relaxation"], "bits", False),
            "bits, not real values",
            "relaxation=sign, or relaxation=stochastic_sign",
        ),
    }
    for field in sorted(recipe.needs & set(needed)):
        available, description, options = needed[field]
        if not available:
            message = f"{recipe.source} reads {description}; method={name} here has none."
            faults.append(Fault("loss", message, f"Try {options} with it."))
    learned = getattr(classes["codebook"], "learned", False)
    if learned and getattr(classes["loss"], "fixed_centers", False):
        message = f"learns, and {recipe.source} takes centers that do not."
        hint = "Try codebook=hadamard, max_hamming, balanced or bernoulli."
        faults.append(Fault("codebook", message, hint))
    if cfg["trainer"].get("accumulate", 1) > 1 and (part := _coupled_part(method)) is not None:
        message = (
            f"is {cfg['trainer']['accumulate']}, and {part} compares the images of a batch with"
            " each other: the sum over small batches is another objective."
        )
        hint = (
            "Leave it out. Methods with a loss of single images: ce, csq, orthohash, dpn,"
            " greedyhash, jmlh."
        )
        faults.append(Fault("trainer.accumulate", message, hint))
    coupled = getattr(classes["similarity"], "batch_coupled", False)
    if coupled and not cfg["trainer"]["drop_last"]:
        message = f"is false, and the similarity of {name} depends on the batch size."
        faults.append(Fault("trainer.drop_last", message, "Leave it true."))
    return faults


def _coupled_part(method: Mapping[str, Any]) -> str | None:
    """Return the part whose result for an image depends on the others of its batch.

    A loss does unless it declares ``batch_coupled = False``; batch norm is not considered. A loss
    that depends on an option has a function ``batch_coupled_of(options)`` instead.
    """
    whole = method_class(method)
    if getattr(whole, "batch_coupled", True):
        return f"the method {whole.__name__}"
    for part, default in (("loss", True), ("similarity", False), ("relaxation", False)):
        if (kind := class_of(method, part)) is None:
            continue
        coupled = getattr(kind, "batch_coupled", default)
        if hasattr(kind, "batch_coupled_of"):
            coupled = kind.batch_coupled_of(method[part])
        if coupled:
            return f"the {part} {kind.__name__}"
    return None


def _check_batch_size(cfg: Mapping[str, Any]) -> list[Fault]:
    """Check that the batch is large enough for head and method, and a multiple of the streams."""
    method, size = cfg["method"], cfg["trainer"]["batch_size"]
    streams, faults = method.get("streams", 1), []
    if size % streams:
        message = f"is {streams}, and trainer.batch_size={size} is no multiple of it."
        hint = "Try trainer.batch_size=72 method.streams=2."
        faults.append(Fault("method.streams", message, hint))
    head: Any = class_of(method, "head")
    whole = method_class(method)
    smallest = getattr(head, "smallest_batch", 1)
    if hasattr(head, "smallest_batch_of"):
        smallest = head.smallest_batch_of(method["head"])
    if head is not None and size < smallest:
        message = f"is {size}, and {head.__name__}, the head here, needs a batch of {smallest}."
        hint = "Try trainer.batch_size=16, or head=linear."
        faults.append(Fault("trainer.batch_size", message, hint))
    least = whole.smallest_batch_of(method) if hasattr(whole, "smallest_batch_of") else 1
    if size < least:
        message = (
            f"is {size}, and {whole.__name__}, the method here, needs a batch of {least} images."
        )
        hint = f"Type trainer.batch_size={max(least, 32)}."
        faults.append(Fault("trainer.batch_size", message, hint))
    return faults


def _check_weights(backbone: Mapping[str, Any]) -> list[Fault]:
    """Check that the weights of a backbone are a known name or an existing file."""
    weights = backbone.get("weights")
    if weights in (None, "none", "imagenet", "pretrained") or expand_path(weights).is_file():
        return []
    hint = "It may be imagenet (timm: pretrained), none, or a file with a state dict."
    if re.match(r"(https?|ftp)://|www\.", str(weights)):
        hint = "Download it, and give the file."
    return [Fault("backbone.weights", f"there is no file {expand_path(weights)}.", hint)]


def _check_replaced(method: Mapping[str, Any], overrides: Iterable[Override]) -> list[Fault]:
    """Check that the loss depends on each part that was replaced on the command line."""
    given = {override.key: override.value or "" for override in overrides}
    recipe, faults = declared(method), []
    for slot, inputs in LOSS_INPUTS.items():
        if given.get(slot, "null") != "null" and not inputs & recipe.needs:
            message = f"is not read by {recipe.source}, the loss here: it would change nothing."
            hint = "Leave it out, or swap the loss as well: loss=lmcl."
            faults.append(Fault(slot, message, hint))
    return faults
