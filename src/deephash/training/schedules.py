"""Learning-rate schedules as functions of the epoch, without state."""

import math
from typing import Annotated

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
