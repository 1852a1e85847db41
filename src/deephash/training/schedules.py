"""Learning-rate schedules as functions of the epoch: nothing to save, nothing to restore."""

import math
from typing import Annotated

from deephash.utils.bounds import Count, Fraction, Interval, Positive


class Constant:
    """The same rate throughout."""

    def factor(self, epoch: int, epochs: int) -> float:
        return 1.0


class Step:
    """The rate is multiplied by ``gamma`` after every ``int(at * epochs)`` epochs.

    Args:
        at: part of all epochs, in (0, 1].
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
    """The rate is multiplied by ``gamma`` after every so many epochs.

    Args:
        epochs: between two falls.
        gamma: the factor.
    """

    def __init__(self, epochs: Count = 30, gamma: Positive = 0.1) -> None:
        self.epochs = epochs
        self.gamma = gamma

    def factor(self, epoch: int, epochs: int) -> float:
        return self.gamma ** (epoch // self.epochs)


class Cosine:
    """From the full rate down to a part of it along half a cosine.

    Args:
        floor: that part.
    """

    def __init__(self, floor: Fraction = 0.0) -> None:
        self.floor = floor

    def factor(self, epoch: int, epochs: int) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
