"""Base class of steps, pipelines of steps, and helpers for random and partial changes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from deephash.data.transfer import to_device
from deephash.errors import DataError

CPU_CACHE_NUMBERS = 2**18
"""Numbers that a CPU processes at a time: about 1 MiB, which stays in its cache."""


class Step(nn.Module):
    """One step of a pipeline: `forward(images, generator)`. Random steps set `random = True`."""

    random: bool = False

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the name of the step, its options and its buffers, as plain values."""
        options = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if not key.startswith("_") and key != "training"
            if isinstance(value, bool | int | float | str | tuple | list | None)
        }
        buffers = {key: _shortest(value) for key, value in self.named_buffers()}
        return {"step": type(self).__name__, **options, **buffers}


class Pipeline(Step):
    """Convert uint8 in 0..255 to float32 in 0..1, and features to float32; then apply the steps.

    Args:
        steps: in the order of application.
        settings: the configuration of each step, by which pipelines are compared; None if unknown.
    """

    def __init__(self, steps: Sequence[Step], settings: Sequence[Mapping[str, Any]] | None = None):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.settings = None if settings is None else [dict(step) for step in settings]
        self.random = any(step.random for step in steps)

    def equals(self, other: "Pipeline") -> bool:
        """Return whether another pipeline is known to do the same."""
        return self is other or (self.settings is not None and self.settings == other.settings)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        is_uint8 = images.dtype == torch.uint8
        images = images.float()  # no copy of float32
        if is_uint8:
            images = images.div_(255)
        for step in self.steps:
            images = step(images, generator)
        return images


def _shortest(values: Tensor) -> list[Any]:
    """Return the numbers of a buffer, flattened, with as few digits as its type needs."""
    array = values.detach().cpu().flatten().numpy()
    if array.dtype.kind == "f":
        return [float(str(value)) for value in array]
    return list(array.tolist())


def uniform(
    step: Step,
    shape: tuple[int, ...],
    generator: Generator | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw numbers in [0, 1) on the CPU; raise DataError if there is no generator."""
    if generator is None:
        raise DataError(f"{type(step).__name__} is random and was given no generator")
    return torch.rand(shape, generator=generator, dtype=dtype)


def to_integers(drawn: Tensor, last: int | Tensor) -> Tensor:
    """Map numbers in [0, 1) to equally likely integers 0..last."""
    return (drawn.double() * (last + 1)).long()


def between(drawn: Tensor, low: float, high: float) -> Tensor:
    """Map numbers in [0, 1) to [low, high)."""
    return low + (high - low) * drawn


def per_image(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def probability(step: Step, p: float) -> float:
    """Return `p`; raise DataError if it is not in 0..1."""
    if not 0 <= p <= 1:
        raise DataError(f"{type(step).__name__}: p is {p}; a probability is in 0..1")
    return p


def apply_where(
    images: Tensor,
    selected: Tensor,
    function: Callable[..., Tensor],
    *numbers: Tensor,
    overwrite: bool = False,
) -> Tensor:
    """Apply a function to the selected images and leave the others unchanged.

    On the CPU only the selected images are computed, as few at a time as fit into its cache. On an
    accelerator all are computed and the selected results taken: that is more arithmetic, but fewer
    kernels, none of which depends on the selection.

    Args:
        images: (B, 3, H, W).
        selected: (B,) bool on the CPU.
        function: maps n images and their numbers, (n, 1, 1, 1) each on the same device, to n
            images, each independently of the others.
        numbers: (B,) each, of one type, on the CPU or on the device.
        overwrite: whether `images` may be changed in place.

    Returns:
        (B, 3, H, W); `images` itself if none is selected.
    """
    rows = selected.nonzero().flatten()
    if not len(rows):
        return images
    if images.device.type != "cpu":
        return _apply_to_all(images, selected, function, numbers)
    images = images if overwrite else images.clone()
    for part in torch.split(rows, max(1, CPU_CACHE_NUMBERS // images[0].numel())):
        images[part] = function(images[part], *(per_image(number[part]) for number in numbers))
    return images


def _apply_to_all(
    images: Tensor, selected: Tensor, function: Callable[..., Tensor], numbers: Sequence[Tensor]
) -> Tensor:
    """Compute `apply_where` with one copy to the device for all numbers."""
    changed = function(images, *map(per_image, move_together(numbers, images.device)))
    if bool(selected.all()):
        return changed
    return torch.where(per_image(to_device(selected, images.device)), changed, images)


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one shape and type on a device; those of the host in a single copy."""
    moved = list(tensors)
    host = [position for position, tensor in enumerate(moved) if tensor.device != device]
    if host:
        copies = to_device(torch.stack([moved[position] for position in host]), device)
        for position, copy in zip(host, copies.unbind(), strict=True):
            moved[position] = copy
    return moved
