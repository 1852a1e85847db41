"""Weights of backbones from files of any origin."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deephash.errors import DataError
from deephash.utils.extras import import_extra
from deephash.utils.files import expand_path
from deephash.utils.formatting import first_line
from deephash.utils.torch_files import Unread, described, read_torch

log = logging.getLogger("deephash")

KEY = "backbone.weights"
SHOWN = 4  # names in a message
DEEPEST = 8  # levels of containers in a checkpoint
COUNTERS = "num_batches_tracked"  # missing in files of torch before 0.4.1

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_FAMILIES = {
    "conv_stem.": "an EfficientNet or MobileNet of timm",
    "patch_embed.": "a vision transformer of timm or of its authors",
    "visual.": "a model of CLIP",
    "stem.conv": "a model of timm",
}
"""Names of tensors that identify networks of other libraries."""


def digest(network: nn.Module) -> str:
    """Return a digest of all weights and buffers of a network: 16 hex digits.

    Example:
        >>> len(digest(nn.Linear(2, 3)))
        16
    """
    result = hashlib.sha256()
    for name, value in network.state_dict().items():
        result.update(name.encode())
        result.update(value.cpu().contiguous().numpy().tobytes())
    return result.hexdigest()[:16]


def load_weights(
    network: nn.Module, file: str, model: str, uncut: Mapping[str, Tensor] | None = None
) -> None:
    """Load the weights of a network from a checkpoint of any nesting.

    The names may have a common prefix, such as ``module.``, ``state_dict.model.backbone.`` or
    ``encoder.``. With several prefixes, the first of those with the most matching tensors is used.
    Other tensors are ignored; a warning counts them, unless they belong to ``uncut``.

    Args:
        network: all of its parameters and buffers are loaded; on the meta device they are only
            compared with the file.
        file: path of the checkpoint.
        model: description of the network, for messages.
        uncut: state dict of the network before layers were removed from it.

    Raises:
        DataError: the file is missing or unreadable, or tensors are missing, have another shape or
            type, or are not finite.
    """
    needed = network.state_dict()
    tensors = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in _read_path(file).items()}
    prefix, other_prefixes = _find_prefix(needed, tensors)
    given = {name: tensors[prefix + name] for name in needed if prefix + name in tensors}
    if mismatch := _describe_mismatch(needed, given, prefix, tensors):
        raise DataError(f"{KEY}  {file} does not fit {model}: {mismatch}")
    not_finite = [name for name, value in given.items() if not _is_finite(value)]
    if not_finite:
        raise DataError(
            f"{KEY}  {file} holds NaN or inf in {len(not_finite)} tensors: {_join(not_finite)}."
        )
    if other_prefixes:
        names = _join([repr(other) for other in other_prefixes])
        message = "%s  %s contains these weights %d times: the ones of %r are used, not those of %s"
        log.warning(message, KEY, file, len(other_prefixes) + 1, prefix, names)
    unused = [
        name
        for name, value in tensors.items()
        if name.removeprefix(prefix) not in given
        and not name.startswith(tuple(filter(None, other_prefixes)))
        and not (name.startswith(prefix) and _is_removed(name, prefix, value, uncut or {}))
    ]
    if unused:
        message = "%s  %d of %d tensors in %s are used; not used: %s"
        log.warning(message, KEY, len(given), len(tensors), file, _join(unused))
    if not any(value.is_meta for value in needed.values()):
        network.load_state_dict(given, strict=False)


def download_error(what: str, error: Exception, searched: str, action: str) -> DataError:
    """Return the error of weights that are not stored and could not be downloaded.

    Args:
        what: description of the weights.
        error: the error of the download.
        searched: where the weights were searched.
        action: how to get them otherwise.
    """
    return DataError(
        f"{KEY}  {what} are not stored and could not be downloaded: {first_line(error)}\n"
        f"  looked for  {searched}\n"
        f"  either      {action}\n"
        f"  or          give a state dict of the model: {KEY}=FILE\n"
        f"  (or start from random weights: {KEY}=none)"
    )


def _read_path(file: str) -> dict[str, Tensor]:
    """Read the file of ``backbone.weights=FILE``."""
    path = expand_path(file)
    if path.is_file():
        return read_weights(path)
    if re.match(r"https?://|www\.", file):
        raise DataError(f"{KEY}  {file} is a link: download it and give the file.")
    raise DataError(
        f"{KEY}  there is no file {path.absolute()}.\n"
        f"{'':<{len(KEY)}}  The value is imagenet (timm: pretrained), none, or a file with a state"
        " dict."
    )


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint under dotted names, at any nesting, without running code.

    Args:
        file: of torch, any version, or of safetensors. If a whole network was saved instead of its
            ``state_dict()``, its parameters and buffers are read.

    Raises:
        DataError: the file cannot be read or contains no tensor.
    """
    try:
        content = _read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    except DataError as error:
        reason = str(error)
        if reason.startswith(f"{file} "):
            reason = "it " + reason.removeprefix(f"{file} ")
        raise DataError(f"{KEY}  {file} is not a readable state dict: {reason}.") from error
    tensors: dict[str, Tensor] = {}
    unread: list[Unread] = []
    for name, value in _collect(content, "", DEEPEST, set(), unread):
        tensors.setdefault(name, value)
    if tensors:
        return tensors
    if unread:
        raise DataError(
            f"{KEY}  {file} is not a readable state dict: it contains no tensor, but"
            f" {described(unread[0])}. Save the network's state_dict()."
        )
    raise DataError(
        f"{KEY}  {file} does not hold a state dict (names to tensors), but {described(content)}."
    )


def _read_safetensors(file: Path) -> Any:
    package = import_extra(
        "safetensors.torch", str(file), "save the state dict with torch.save", DataError
    )
    try:
        return package.load_file(file)
    except Exception as error:  # safetensors has exceptions of its own
        raise DataError(str(error)) from error


def _collect(
    value: Any, name: str, depth: int, seen: set[int], unread: list[Unread]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors within a value with their dotted names, in the order of the file.

    A container is visited only once, because a small file can contain exponentially many references
    to nested lists.
    """
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping | list | tuple):
        if id(value) in seen:
            return
        seen.add(id(value))
        if depth:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            depth -= 1
    elif isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and name:
        yield name, torch.from_numpy(value.copy())
    elif isinstance(value, Unread):
        state = value.state
        if isinstance(state, Mapping) and {"_parameters", "_modules"} <= set(state):
            for part in ("_parameters", "_buffers"):
                yield from _collect(state.get(part), name, depth, seen, unread)
            if isinstance(state["_modules"], Mapping):  # networks may be nested at any depth
                items = state["_modules"].items()
        else:
            unread.append(value)
    for key, child in items:
        yield from _collect(child, f"{name}.{key}" if name else str(key), depth, seen, unread)


def _find_prefix(
    needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[str, list[str]]:
    """Return the prefix with the most matching tensors, and others with which all tensors match."""
    fits: dict[str, list[int]] = {}  # prefix -> tensors of the same name and shape, and name
    for name, value in tensors.items():
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            wanted = needed.get(name[start:])
            if wanted is not None:
                count = fits.setdefault(name[:start], [0, 0])
                count[0] += _fits(value, wanted)
                count[1] += 1
    if not fits:
        return "", []
    best = max(fits, key=lambda prefix: fits[prefix])
    total = sum(not name.endswith(COUNTERS) for name in needed)
    if fits[best][0] < total:
        return best, []
    return best, [name for name, (count, _) in fits.items() if name != best and count >= total]


def _fits(value: Tensor, needed: Tensor) -> bool:
    """Return whether shape and type fit; counters may have any type."""
    return value.shape == needed.shape and (
        value.is_floating_point() or not needed.is_floating_point()
    )


def _is_removed(name: str, prefix: str, value: Tensor, uncut: Mapping[str, Tensor]) -> bool:
    """Return whether a tensor belongs to a layer that was removed, with the same shape."""
    name = name.removeprefix(prefix)
    if name in uncut:
        return uncut[name].shape == value.shape
    return name.startswith(("aux", "AuxLogits"))  # heads of GoogLeNet and Inception


def _describe_mismatch(
    needed: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    prefix: str,
    tensors: Mapping[str, Tensor],
) -> str | None:
    """Describe the tensors that are missing or do not fit, and the probable network of the file."""
    missing = [name for name in needed if name not in given and not name.endswith(COUNTERS)]
    wrong = [name for name, value in given.items() if not _fits(value, needed[name])]
    if not missing and not wrong:
        return None
    fitting = len(given) - len(wrong)
    behind = f" behind {prefix!r}" if prefix else ""
    reasons = [f"{fitting} of its {len(needed)} tensors are in the file{behind}"]
    if missing:
        reasons.append(f"missing: {_join(missing)}")
    if wrong:
        shapes = [
            f"{name} is {_shape(given[name])} and should be {_shape(needed[name])}"
            for name in wrong
        ]
        reasons.append(f"other shapes: {_join(shapes, '; ')}")
    if fitting < len(needed) / 2:
        known = (
            family for start, family in _FAMILIES.items() if any(start in name for name in tensors)
        )
        family = next(known, "another architecture")
        reasons.append(f"it looks like {family}, with {_join(list(tensors))}")
    return ".\n  ".join(reasons) + "."


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value.float()).all())


def _shape(value: Tensor) -> str:
    """Return the shape, with the type if it is not floating-point."""
    shape = str(tuple(value.shape))
    return shape if value.is_floating_point() else f"{shape} {str(value.dtype)[6:]}"


def _join(names: list[str], separator: str = ", ") -> str:
    """Join the first names."""
    more = len(names) - SHOWN
    return separator.join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
