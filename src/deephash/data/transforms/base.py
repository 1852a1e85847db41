"""What every step is, how numbers are drawn for it, and how some images of a batch are changed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from deephash.data.transfer import to_device
from deephash.errors import DataError

CACHED = 2**18
"""Numbers that a CPU works on at a time: about 1 MiB, which stays in its cache."""


class Step(nn.Module):
    """One step of a pipeline: `forward(images, generator)`. Random ones say so."""

    random: bool = False

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        raise NotImplementedError


class Pipeline(Step):
    """uint8 in 0..255 becomes float32 in 0..1, and features float32; then step after step.

    Args:
        steps: in the order they run.
        settings: the configuration of each step, by which pipelines are compared; None if it is
            not known.
    """

    def __init__(self, steps: Sequence[Step], settings: Sequence[Mapping[str, Any]] | None = None):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.settings = None if settings is None else [dict(one) for one in settings]
        self.random = any(step.random for step in steps)

    def equals(self, other: "Pipeline") -> bool:
        """Whether another pipeline is known to do the same."""
        return self is other or (self.settings is not None and self.settings == other.settings)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        pixels = images.dtype == torch.uint8
        images = images.float()  # as it is, if it is float32
        if pixels:
            images = images.div_(255)
        for step in self.steps:
            images = step(images, generator)
        return images


def uniform(
    step: Step,
    shape: tuple[int, ...],
    generator: Generator | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Numbers in [0, 1) from the generator, on the CPU.

    Raises:
        DataError: there is no generator.
    """
    if generator is None:
        raise DataError(f"{type(step).__name__} is random and was given no generator")
    return torch.rand(shape, generator=generator, dtype=dtype)


def whole(drawn: Tensor, last: int | Tensor) -> Tensor:
    """From [0, 1) to whole numbers 0..last, all alike."""
    return (drawn.double() * (last + 1)).long()


def between(drawn: Tensor, low: float, high: float) -> Tensor:
    """From [0, 1) to [low, high)."""
    return low + (high - low) * drawn


def per_image(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def probability(step: Step, p: float) -> float:
    """`p`, which must be one.

    Raises:
        DataError: it is not in 0..1.
    """
    if not 0 <= p <= 1:
        raise DataError(f"{type(step).__name__}: p is {p}; a probability is in 0..1")
    return p


def change(
    images: Tensor,
    chosen: Tensor,
    change_to: Callable[..., Tensor],
    *numbers: Tensor,
    overwrite: bool = False,
) -> Tensor:
    """Change the chosen images and leave the others as they are.

    On an accelerator all images are changed and the chosen results taken: more arithmetic and
    fewer kernels, none of which depends on how many are chosen. On the CPU only the chosen ones
    are, as few at a time as stay in its cache.

    Args:
        images: (B, 3, H, W).
        chosen: (B,) bool on the CPU.
        change_to: from n images, and their numbers as (n, 1, 1, 1) on the same device, to what they
            become. What it does to an image may not depend on the others.
        numbers: (B,) each, all of one type, on the CPU or on the device.
        overwrite: whether the images may be changed where they lie.

    Returns:
        (B, 3, H, W), the images themselves if none is chosen.
    """
    rows = chosen.nonzero().flatten()
    if not len(rows):
        return images
    if images.device.type != "cpu":
        return _change_at_once(images, chosen, change_to, numbers)
    images = images if overwrite else images.clone()
    for part in torch.split(rows, max(1, CACHED // images[0].numel())):
        images[part] = change_to(images[part], *(per_image(number[part]) for number in numbers))
    return images


def _change_at_once(
    images: Tensor, chosen: Tensor, change_to: Callable[..., Tensor], numbers: Sequence[Tensor]
) -> Tensor:
    """The same without a copy to the device for each number."""
    given = [per_image(number) for number in together(numbers, images.device)]
    changed = change_to(images, *given)
    if bool(chosen.all()):
        return changed
    return torch.where(per_image(to_device(chosen, images.device)), changed, images)


def together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one shape and type on a device; those of the host in a single copy."""
    moved = list(tensors)
    host = [at for at, one in enumerate(moved) if one.device != device]
    if host:
        copies = to_device(torch.stack([moved[at] for at in host]), device)
        for at, copy in zip(host, copies.unbind(), strict=True):
            moved[at] = copy
    return moved
