"""Learning-rate schedules as functions of the epoch, without state.

A class with ``by_step = True`` has a rate for each step: its ``factor`` is called with the epochs
trained so far as a fraction, such as 2.5 in the middle of the third epoch.
"""

import math
from typing import Annotated, ClassVar

from deephash.utils.bounds import Count, Fraction, Interval, Positive


class Constant:
    """A constant rate."""

    def factor(self, epoch: int, epochs: int) -> float:
        return 1.0


class StepDecay:
    """Multiply the rate by ``gamma`` after every ``int(at * epochs)`` epochs.

    Args:
        at: fraction of all epochs, in (0, 1].
        gamma: the factor.
    """

    def __init__(
        self, at: Annotated[float, Interval(0, 1, above=True)] = 0.8, gamma: Positive = 0.1
    ) -> None:
        self.at = at
        self.gamma = gamma

    def factor(self, epoch: int, epochs: int) -> float:
        return self.gamma ** (epoch // max(1, int(self.at * epochs)))


class Every:
    """Multiply the rate by ``gamma`` after every ``epochs`` epochs.

    Args:
        epochs: between two decreases.
        gamma: the factor.
    """

    def __init__(self, epochs: Count = 30, gamma: Positive = 0.1) -> None:
        self.epochs = epochs
        self.gamma = gamma

    def factor(self, epoch: int, epochs: int) -> float:
        return self.gamma ** (epoch // self.epochs)


class CosineDecay:
    """Decrease the rate along half a cosine to a fraction of it.

    Args:
        floor: the final fraction.
    """

    def __init__(self, floor: Fraction = 0.0) -> None:
        self.floor = floor

    def factor(self, epoch: int, epochs: int) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


class WarmupCosine:
    """Increase the rate linearly from a fraction of it, then decrease it along half a cosine.

    Args:
        warmup: fraction of all epochs in which the rate increases, in [0, 1).
        start: the fraction of the rate at the first step.
        floor: the final fraction.

    Example:
        >>> schedule = WarmupCosine(warmup=0.2, start=0.0)
        >>> [round(schedule.factor(epoch, 10), 3) for epoch in (0, 0.5, 2, 6, 10)]
        [0.0, 0.25, 1.0, 0.5, 0.0]
    """

    by_step: ClassVar[bool] = True

    def __init__(
        self,
        warmup: Annotated[float, Interval(0, 1, below=True)] = 0.05,
        start: Fraction = 0.01,
        floor: Fraction = 0.0,
    ) -> None:
        self.warmup = warmup
        self.start = start
        self.floor = floor

    def factor(self, epoch: float, epochs: int) -> float:
        warmup = self.warmup * epochs
        if epoch < warmup:
            return self.start + (1 - self.start) * epoch / warmup
        progress = (epoch - warmup) / (epochs - warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
