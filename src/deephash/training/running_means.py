"""Running means that stay on the device until they are read."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deephash.errors import TrainingError
from deephash.training.step import NORM, SCALE, SKIPPED, Scalars


class NotFiniteError(TrainingError):
    """A term of the loss, or the gradient, is NaN or infinite.

    Args:
        terms: their names.
        step: the first step with such a value.
        cause: the known cause and a remedy; None if training has diverged.
    """

    def __init__(self, terms: Sequence[str], step: int, cause: str | None = None) -> None:
        self.terms, self.step = terms, step
        if cause is None:
            cause = "Try a smaller optimizer.lr, trainer.clip_norm=1, or trainer.precision=fp32."
        super().__init__(f"{' and '.join(terms)} is not finite at step {step}.\n  {cause}")


class RunningMeans:
    """Means of named scalars since the last reading."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, str]] = []  # step and name of each value
        self.rows: list[Tensor] = []  # the values of each step, on the device

    def add(self, step: int, scalars: Scalars) -> None:
        """Keep the values of one step, without an operator or a transfer."""
        self.keys += [(step, name) for name in scalars.names]
        self.rows.append(scalars.values)

    def read(self) -> dict[str, float]:
        """Return the means and start again; waits for the device.

        Raises:
            NotFiniteError: a value was not finite; the error has the first step and the term.
                A gradient of fp16 that is not finite is no fault, since the scaler skips the step
                and reduces the scale, but one at a scale of 1 or less is.
        """
        if not self.rows:
            return {}
        keys, values = self.keys, torch.cat(self.rows).cpu().double().tolist()
        self.keys, self.rows = [], []
        by_key = dict(zip(keys, values, strict=True))
        for step in [step for (step, name), value in by_key.items() if name == SKIPPED and value]:
            if by_key[step, SCALE] > 1:
                del by_key[step, NORM]
        by_name: dict[str, list[float]] = {}
        for (_, name), value in by_key.items():
            by_name.setdefault(name, []).append(value)
        faults = [key for key, value in by_key.items() if not math.isfinite(value)]
        if faults:
            first = faults[0][0]
            terms = [name for step, name in faults if step == first]
            single = [name for name in terms if name not in ("loss", NORM)] or terms
            raise NotFiniteError(single, first)
        return {name: math.fsum(items) / len(items) for name, items in by_name.items()}
