"""Running means that stay on the device until somebody reads them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deephash.errors import TrainingError
from deephash.training.step import Scalars


class NotFiniteError(TrainingError):
    """A term of the loss, or the gradient, is NaN or infinite.

    Args:
        terms: their names.
        step: the first one at which they are not finite.
        cause: what is known to be the cause, and what to do; None if training has diverged.
    """

    def __init__(self, terms: Sequence[str], step: int, cause: str | None = None) -> None:
        self.terms, self.step = terms, step
        if cause is None:
            cause = "Try a smaller optimizer.lr, trainer.clip_norm=1, or trainer.precision=fp32."
        super().__init__(f"{' and '.join(terms)} is not finite at step {step}.\n  {cause}")


class Meter:
    """Means of named scalars since the last reading, and the first step at which one went bad."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, str]] = []  # step and name of each value
        self.rows: list[Tensor] = []  # the values of each step, on the device

    def add(self, step: int, scalars: Scalars) -> None:
        """Keep the values of one step: no operator, no transfer, no waiting."""
        self.keys += [(step, name) for name in scalars.names]
        self.rows.append(scalars.values)

    def means(self) -> dict[str, float]:
        """The means, after which counting starts again. Waits for the device.

        Raises:
            NotFiniteError: a value was not finite; it names the first step and the term.
        """
        if not self.rows:
            return {}
        keys, values = self.keys, torch.cat(self.rows).cpu().double().tolist()
        self.keys, self.rows = [], []
        found: dict[str, list[float]] = {}
        for (_, name), value in zip(keys, values, strict=True):
            found.setdefault(name, []).append(value)
        bad = [key for key, value in zip(keys, values, strict=True) if not math.isfinite(value)]
        if bad:
            first = bad[0][0]
            terms = [name for step, name in bad if step == first]
            single = [name for name in terms if name not in ("loss", "grad_norm")] or terms
            raise NotFiniteError(single, first)
        return {name: math.fsum(those) / len(those) for name, those in found.items()}
