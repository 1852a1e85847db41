"""Running means that stay on the device until somebody reads them."""

import torch
from torch import Tensor

from deephash.errors import TrainingError


class Meter:
    """Means of named scalars since the last reading, and the first step at which one went bad."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.bad: dict[str, Tensor] = {}  # the first step that was not finite, or -1
        self.count = 0

    @torch.no_grad()
    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Takes the values of one step; no transfer, no waiting."""
        for name, tensor in values.items():
            value = tensor.detach().float()
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value)
                self.bad[name] = torch.full_like(value, -1, dtype=torch.int64)
            self.sums[name] += value
            bad = ~value.isfinite() & (self.bad[name] < 0)
            self.bad[name] = torch.where(bad, step, self.bad[name])
        self.count += 1

    def means(self) -> dict[str, float]:
        """The means, after which counting starts again. Waits for the device.

        Raises:
            TrainingError: a value was not finite; it names the first step and the term.
        """
        if not self.count:
            return {}
        names = list(self.sums)
        means = (torch.stack([self.sums[name] for name in names]) / self.count).tolist()
        steps = torch.stack([self.bad[name] for name in names]).tolist()
        self.sums, self.bad, self.count = {}, {}, 0
        went_bad = [(step, name) for name, step in zip(names, steps, strict=True) if step >= 0]
        if went_bad:
            first = min(step for step, _ in went_bad)
            terms = [name for step, name in went_bad if step == first]
            single = [name for name in terms if name not in ("loss", "grad_norm")] or terms
            raise TrainingError(
                f"{' and '.join(single)} is not finite at step {first}.\n"
                "  Try a smaller optimizer.lr, trainer.clip_norm=1, or trainer.precision=fp32."
            )
        return dict(zip(names, means, strict=True))
