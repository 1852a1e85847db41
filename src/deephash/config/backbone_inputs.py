"""Write the input size and statistics that a backbone declares into the dataset's transforms.

A backbone class with ``input_config`` declares mean, standard deviation, interpolation and side of
the images that it was trained on. They replace those of the dataset's transforms before a page is
checked, so that the saved configuration is complete. Values of the command line are kept.
"""

import math
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from deephash.config.faults import Fault
from deephash.config.targets import locate
from deephash.errors import ConfigError

STEPS = "deephash.data.transforms."


def declared_inputs(backbone: Any) -> Any | None:
    """Return the images that a backbone declares; None if it declares none, or has faults.

    Args:
        backbone: the node of the configuration.

    Returns:
        an object with ``mean``, ``std``, ``interpolation``, ``size``, ``fixed`` and ``crop``.
    """
    if not isinstance(backbone, Mapping) or backbone.get("preprocessing") != "model":
        return None
    try:
        target = locate(backbone["_target_"], "backbone")
    except (ConfigError, KeyError):  # reported by the check of the page
        return None
    read = getattr(target, "input_config", None)
    return None if read is None else read(backbone)


def size_of(dataset: Any, images: Any, typed: Collection[str] = ()) -> int | None:
    """Return the image size that a backbone sets; None if it sets none.

    Args:
        dataset: the node, resolved or not.
        images: as ``declared_inputs`` returns it.
        typed: keys of the command line.
    """
    has_size = isinstance(dataset, Mapping) and dataset.get("size") is not None
    if not has_size or is_typed("dataset.size", typed):
        return None
    return int(images.size)


def adapt(dataset: MutableMapping[str, Any], images: Any, typed: Collection[str] = ()) -> None:
    """Write size, statistics and interpolation of a backbone into a dataset, in place.

    Steps that have the size of the dataset get the new one.

    Args:
        dataset: the node, resolved.
        images: as ``declared_inputs`` returns it.
        typed: keys of the command line, which stay.
    """
    before, size = dataset.get("size"), size_of(dataset, images, typed)
    if size is not None:
        dataset["size"] = size
        for key, step in _steps(dataset.get("transforms")):
            given = isinstance(step, dict) and step.get("size") == before
            if given and not is_typed(f"{key}.size", typed):
                step["size"] = size
    fill_transforms(dataset.get("transforms"), images, typed)


def fill_transforms(transforms: Any, images: Any, typed: Collection[str] = ()) -> None:
    """Write the statistics and the interpolation of a backbone into pipelines, in place.

    Args:
        transforms: ``dataset.transforms``.
        images: as ``declared_inputs`` returns it.
        typed: keys of the command line, which stay.
    """
    for key, step in _steps(transforms):
        for option, value in _options(step, images).items():
            if not is_typed(f"{key}.{option}", typed):
                step[option] = value


def _steps(transforms: Any) -> Iterator[tuple[str, Any]]:
    """Yield the steps of all pipelines with their keys."""
    for name, steps in transforms.items() if isinstance(transforms, dict) else ():
        for at, step in enumerate(steps if isinstance(steps, list) else ()):
            yield f"dataset.transforms.{name}.{at}", step


def is_typed(key: str, typed: Collection[str]) -> bool:
    """Return whether a key, or a node above it, was given on the command line.

    The choice of a group (``dataset=cifar10``) gives none of its keys.

    >>> is_typed("dataset.size", ["dataset"]), is_typed("dataset.size", ["dataset.size"])
    (False, True)
    """
    return any(key == one or ("." in one and key.startswith(f"{one}.")) for one in typed)


def _options(step: Any, images: Any) -> dict[str, Any]:
    """Return the options of a step that the backbone sets."""
    kind = _kind(step)
    if kind == "Normalize":
        return {"mean": list(images.mean), "std": list(images.std)}
    if kind in ("Resize", "RandomResizedCrop") and images.interpolation is not None:
        return {"interpolation": images.interpolation}
    return {}


def _kind(step: Any) -> str:
    target = str(step.get("_target_")) if isinstance(step, dict) else ""
    return target.removeprefix(STEPS) if target.startswith(STEPS) else ""


def check_images(cfg: Mapping[str, Any], pipelines: Sequence[str] = ("test",)) -> list[Fault]:
    """Return the faults because of which the backbone cannot take images of some transforms.

    Args:
        cfg: a resolved configuration whose dataset was checked before.
        pipelines: names of the transforms whose images the backbone gets.
    """
    backbone, dataset = cfg["backbone"], cfg["dataset"]
    images = declared_inputs(backbone)
    if images is None:
        return []
    stored = dataset["source"].get("size")
    faults: list[Fault] = []
    for name in dict.fromkeys(pipelines):
        key = f"dataset.transforms.{name}"
        side = stored if isinstance(stored, int) else None
        for at, step in enumerate(dataset["transforms"].get(name) or []):
            side, small = _side(step, side)
            if small and stored:
                need = math.ceil(step["size"] / images.crop)
                message = f"is {stored}, and {key}.{at} crops {step['size']}."
                hint = f"Type dataset.source.size={need}."
                faults.append(Fault("dataset.source.size", message, hint))
                break
        else:
            if images.fixed and side not in (None, stored, images.size):
                faults.append(_wrong_size(backbone, dataset, key, side, images.size))
    return list(dict.fromkeys(faults))


def _wrong_size(backbone: Any, dataset: Mapping[str, Any], key: str, side: Any, size: int) -> Fault:
    hint = f"or for its position embeddings resampled backbone.img_size={side}."
    if dataset.get("size") == side:
        message = f"is {side}, and {backbone['name']} takes images of {size}."
        return Fault("dataset.size", message, f"Type dataset.size={size}, {hint}")
    message = f"makes images of {side}, and {backbone['name']} takes images of {size}."
    return Fault(key, message, f"Choose other views, {hint}")


def _side(step: Any, side: int | None) -> tuple[int | None, bool]:
    """Return the side of square images after a step, and whether they are too small for it."""
    kind = _kind(step)
    if kind in ("Resize", "RandomResizedCrop"):
        return step["size"], False
    if kind in ("CenterCrop", "RandomCrop"):
        padded = None if side is None else side + 2 * step.get("padding", 0)
        return step["size"], padded is not None and padded < step["size"]
    return side, False
