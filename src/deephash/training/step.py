"""One training step: forward pass, backward pass, gradient norm, update of the parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deephash.training.precision import autocast
from deephash.types import Batch, Terms

NORM = "grad_norm"
"""The norm of the whole gradient before clipping."""

SCALE = "loss_scale"
"""The factor of the loss in the backward pass of fp16."""

SKIPPED = "skipped_steps"
"""1 if the gradient of fp16 was not finite, so that the parameters were not updated; else 0."""


@dataclass(frozen=True)
class Scalars:
    """Named scalars of one step, on the device."""

    names: tuple[str, ...]  # loss, its terms, grad_norm; with a scaler also SCALE and SKIPPED
    values: Tensor  # (n,), without a graph


class TrainingStep:
    """Train a method on one batch, operator by operator, without synchronizing the device.

    Args:
        method: ``method(batch) -> Terms``, in training mode.
        optimizer: over the parameters of the method.
        device: of the method and of the batches.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        clip_norm: largest norm of the whole gradient; None does not clip.
        scaler: of the loss, for ``fp16``. It skips updates with a gradient that is not finite.

    Example:
        >>> method = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        >>> step = TrainingStep(
        ...     lambda batch: {"size": method(batch.images).square().mean()},
        ...     optimizer,
        ...     torch.device("cpu"),
        ... )
        >>> step(Batch(torch.ones(3, 1, 2), torch.ones(3, 1), torch.arange(3))).names
        ('loss', 'size', 'grad_norm')
    """

    def __init__(
        self,
        method: Callable[[Batch], Terms],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        precision: str = "fp32",
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.method = method
        self.optimizer = optimizer
        self.device = device
        self.precision = precision
        self.clip_norm = clip_norm
        self.scaler = scaler
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Batch) -> Scalars | None:
        """Update the parameters; return the loss, its terms and the gradient norm."""
        with autocast(self.device, self.precision):
            terms = self.method(batch)
            loss = total(terms)
        self.backward(loss)
        after = self.update()
        values = torch.stack([loss, *terms.values(), *after.values()]).detach()
        return Scalars(("loss", *terms, *after), values)

    def finish(self) -> Scalars | None:
        """Update the parameters with the batches of an epoch since the last update, if any."""
        return None

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to the gradients of the parameters."""
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def update(self) -> dict[str, Tensor]:
        """Update the parameters, and free the gradients.

        Returns:
            The gradient norm, and with a scaler its state.
        """
        if self.scaler is None:
            scalars = {NORM: self.gradient_norm()}
            self.optimizer.step()
        else:
            self.scaler.unscale_(self.optimizer)
            norm = self.gradient_norm()
            scale = self.scaler.scale(norm.new_ones(()))  # reads the scale without waiting for it
            scalars = {NORM: norm, SCALE: scale, SKIPPED: (~torch.isfinite(norm)).float()}
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.forget_gradients()
        return scalars

    @property
    def obstacle(self) -> str:
        """Why the step cannot be recorded as a CUDA graph; empty if no reason is known."""
        if self.scaler is None or getattr(self.optimizer, "_step_supports_amp_scaling", False):
            return ""
        name = type(self.optimizer).__name__
        return f"trainer.precision=fp16 waits for the device before each step of {name}"

    def gradient_norm(self) -> Tensor:
        """Clip the whole gradient, and return its norm before."""
        if self.clip_norm is None:
            return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)

    def forget_gradients(self) -> None:
        """Free the gradients, for the memory of the next forward pass."""
        self.optimizer.zero_grad(set_to_none=True)

    def release(self) -> None:
        """Do nothing; the counterpart of `GraphedStep.release`."""


class AccumulatingStep(TrainingStep):
    """Add the gradients of several batches before each update of the parameters.

    The gradient is the mean over all images of these batches, as in one large batch, if the
    objective is a mean over images. The last update of an epoch has the remaining batches, also
    if there are fewer.

    Args:
        *args: of `TrainingStep`.
        accumulate: batches for an update.
        **kwargs: of `TrainingStep`.
    """

    def __init__(self, *args: Any, accumulate: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accumulate = accumulate
        self._names: tuple[str, ...] = ()
        self._values: list[Tensor] = []  # weighted loss and terms of the batches since the update
        self._sizes: list[int] = []  # their images

    def __call__(self, batch: Batch) -> Scalars | None:
        """Add a batch; after `accumulate` batches, update the parameters."""
        with autocast(self.device, self.precision):
            terms = self.method(batch)
            loss = total(terms)
        self._sizes.append(len(batch.index))
        weight = self._sizes[-1] / self._sizes[0]
        self.backward(loss * weight)
        self._names = ("loss", *terms)
        self._values.append(torch.stack([loss, *terms.values()]).detach() * weight)
        return self.finish() if len(self._sizes) == self.accumulate else None

    def finish(self) -> Scalars | None:
        if not self._sizes:
            return None
        factor = self._sizes[0] / sum(self._sizes)
        torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)
        after = self.update()
        means = torch.stack(self._values).sum(dim=0) * factor
        values = torch.cat([means, torch.stack([*after.values()]).detach()])
        self._sizes, self._values = [], []
        return Scalars((*self._names, *after), values)


def total(terms: Terms) -> Tensor:
    """Return the sum of the terms, with as few operators as possible for the same bits.

    A longer sum has the order of ``torch.sum``, as in earlier versions.
    """
    values = list(terms.values())
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return values[0] + values[1]
    return torch.stack(values).sum()
