"""Weights from files of any origin: find those that a network uses, and fit nothing else."""

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deephash.errors import DataError
from deephash.utils.extras import import_extra
from deephash.utils.files import expand_path
from deephash.utils.torch_files import Unread, described, read_torch

log = logging.getLogger("deephash")

KEY = "backbone.weights"
SHOWN = 4  # names in a message
DEEPEST = 8  # levels of dicts in a checkpoint
COUNTERS = "num_batches_tracked"  # which files from before torch 0.4.1 lack

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_FAMILIES = {
    "conv_stem.": "an EfficientNet or MobileNet of timm",
    "patch_embed.": "a vision transformer of timm or of its authors",
    "visual.": "a model of CLIP",
    "stem.conv": "a model of timm",
}
"""Names that networks of other libraries have."""


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


def read_file(file: str) -> dict[str, Tensor]:
    """Read what ``backbone.weights=FILE`` names, without running any code that it may hold.

    Raises:
        DataError: there is no such file, or `read_weights` refuses it.
    """
    path = expand_path(file)
    if not path.is_file():
        if re.match(r"https?://|www\.", file):
            raise DataError(f"backbone.weights  {file} is a link: download it, and give the file.")
        raise DataError(
            f"backbone.weights  there is no file {path.absolute()}.\n"
            "                  It may be imagenet (timm: pretrained), none, or a file with a state"
            " dict."
        )
    return read_weights(path)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint under dotted names, whatever they are nested in.

    Args:
        file: of torch, any version, or of safetensors. A whole network that was saved without
            ``state_dict()`` is read as data: its parameters and buffers.

    Raises:
        DataError: the file cannot be read, or holds no tensor.
    """
    try:
        found = _safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    except DataError as error:
        reason = str(error)
        if reason.startswith(f"{file} "):
            reason = "it " + reason.removeprefix(f"{file} ")
        raise DataError(f"{KEY}  {file} is not a readable state dict: {reason}.") from error
    tensors: dict[str, Tensor] = {}
    strange: list[Unread] = []
    _collect(found, "", tensors, strange, DEEPEST, set())
    if tensors:
        return tensors
    if strange:
        raise DataError(
            f"{KEY}  {file} is not a readable state dict: it holds no tensor, and"
            f" {described(strange[0])}. Save the network's state_dict()."
        )
    raise DataError(
        f"{KEY}  {file} does not hold a state dict (names to tensors), but {described(found)}."
    )


def _safetensors(file: Path) -> Any:
    package = import_extra(
        "safetensors.torch", str(file), "save the state dict with torch.save", DataError
    )
    try:
        return package.load_file(file)
    except Exception as error:  # safetensors raises kinds of its own
        raise DataError(str(error)) from error


def _collect(
    value: Any,
    name: str,
    tensors: dict[str, Tensor],
    strange: list[Unread],
    deep: int,
    seen: set[int],
) -> None:
    """Put the tensors within a value under their dotted names, in the order of the file.

    A container that stands at several places is walked once, or a small file with lists in lists
    could take for ever.
    """
    if isinstance(value, Mapping | list | tuple):
        if id(value) in seen:
            return
        seen.add(id(value))
    if isinstance(value, Tensor):
        tensors.setdefault(name, value.detach())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and name:
        tensors.setdefault(name, torch.from_numpy(value.copy()))
    elif deep and isinstance(value, Mapping):
        for key, one in value.items():
            _collect(one, f"{name}.{key}" if name else str(key), tensors, strange, deep - 1, seen)
    elif deep and isinstance(value, list | tuple):
        for place, one in enumerate(value):
            _collect(
                one, f"{name}.{place}" if name else str(place), tensors, strange, deep - 1, seen
            )
    elif isinstance(value, Unread):
        state = value.state
        if isinstance(state, Mapping) and {"_parameters", "_modules"} <= set(state):
            for part in ("_parameters", "_buffers"):
                _collect(state.get(part), name, tensors, strange, deep, seen)
            modules = state["_modules"] if isinstance(state["_modules"], Mapping) else {}
            for key, one in modules.items():  # as deep as the network is
                _collect(one, f"{name}.{key}" if name else str(key), tensors, strange, deep, seen)
        else:
            strange.append(value)


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], what: str, file: str, cut: Mapping[str, Any]
) -> None:
    """Fill a network with the tensors of a checkpoint that have its names.

    They may all stand behind one prefix, such as ``module.``, ``state_dict.model.backbone.`` or
    ``encoder.``. Of several, it is the one under which most tensors fit, and the first of these.
    Other tensors are not used; those that are no part of ``cut`` are counted in a warning.

    Args:
        network: all of whose parameters and buffers are filled; on the meta device it is only
            checked that they can be.
        tensors: as of ``read_weights``.
        what: the network, for messages.
        file: of the tensors, for messages.
        cut: names and tensors of layers that the network had, and that are not needed.

    Raises:
        DataError: tensors are missing, or have another shape or type, or are not finite.
    """
    needed = network.state_dict()
    tensors = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}
    prefix, others = _prefix(needed, tensors)
    given = {name: tensors[prefix + name] for name in needed if prefix + name in tensors}
    missing = [name for name in needed if name not in given and not name.endswith(COUNTERS)]
    wrong = [name for name, value in given.items() if not _fits(value, needed[name])]
    if missing or wrong:
        raise DataError(f"{KEY}  {file} does not fit {what}: " + _misfit(
            needed, given, missing, wrong, prefix, tensors))  # fmt: skip
    broken = [name for name, value in given.items() if not _finite(value)]
    if broken:
        raise DataError(
            f"{KEY}  {file} holds NaN or inf in {len(broken)} tensors: {_some(broken)}."
        )
    if others:
        log.warning(
            "%s  %s holds these weights %d times: those of %r are used, not those of %s",
            KEY, file, len(others) + 1, prefix, _some([repr(one) for one in others]),
        )  # fmt: skip
    rest = [name for name in tensors if name.removeprefix(prefix) not in given
            and not _expected(name, prefix, tensors[name], cut, others)]  # fmt: skip
    if rest:
        log.warning("%s  %d of %d tensors in %s are used; not used: %s",
                    KEY, len(given), len(tensors), file, _some(rest))  # fmt: skip
    if not any(value.is_meta for value in needed.values()):
        network.load_state_dict(given, strict=False)


def _prefix(needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[str, list[str]]:
    """The prefix under which most tensors fit, and others under which all do."""
    fits: dict[str, list[int]] = {}
    for name, value in tensors.items():
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        for start in starts:
            wanted = needed.get(name[start:])
            if wanted is not None:
                count = fits.setdefault(name[:start], [0, 0])
                count[0] += _fits(value, wanted)
                count[1] += 1
    if not fits:
        return "", []
    best = max(fits, key=lambda prefix: fits[prefix])
    whole = sum(not name.endswith(COUNTERS) for name in needed)
    others = [one for one, (count, _) in fits.items()
              if one != best and count >= whole and fits[best][0] >= whole]  # fmt: skip
    return best, others


def _fits(value: Tensor, needed: Tensor) -> bool:
    kind = value.is_floating_point() or not needed.is_floating_point()  # counters of any type
    return value.shape == needed.shape and kind


def _expected(
    name: str, prefix: str, value: Tensor, cut: Mapping[str, Any], others: list[str]
) -> bool:
    """Whether a tensor that is not used needs no word: of the last layer, or told already."""
    if any(name.startswith(one) and one for one in others):
        return True
    if not name.startswith(prefix):
        return False
    name = name.removeprefix(prefix)
    known = cut.get(name)
    if known is not None:
        return bool(known.shape == value.shape)
    return name.startswith(("aux", "AuxLogits"))  # heads of GoogLeNet and Inception


def _misfit(
    needed: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    missing: list[str],
    wrong: list[str],
    prefix: str,
    tensors: Mapping[str, Tensor],
) -> str:
    """What of a network a checkpoint lacks, and what it may be instead."""
    good = len(given) - len(wrong)
    behind = f" behind {prefix!r}" if prefix else ""
    told = [f"{good} of its {len(needed)} tensors are in the file{behind}"]
    if missing:
        told.append(f"missing: {_some(missing)}")
    if wrong:
        shapes = [f"{name} is {_kind(given[name])} and should be {_kind(needed[name])}"
                  for name in wrong]  # fmt: skip
        told.append(f"other shapes: {_some(shapes, '; ')}")
    if good < len(needed) / 2:
        known = [what for start, what in _FAMILIES.items() if any(start in one for one in tensors)]
        family = known[0] if known else "another architecture"
        told.append(f"it looks like {family}, with {_some(list(tensors))}")
    return ".\n  ".join(told) + "."


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value.float()).all())


def _kind(value: Tensor) -> str:
    shape = str(tuple(value.shape))
    return shape if value.is_floating_point() else f"{shape} {str(value.dtype)[6:]}"


def _some(names: list[str], between: str = ", ") -> str:
    more = len(names) - SHOWN
    return between.join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
