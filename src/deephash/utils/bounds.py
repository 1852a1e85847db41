"""Annotations that limit the value of an option; ``config/validate.py`` checks them.

>>> def step(at: Annotated[float, Interval(0, 1)] = 0.8): ...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

LARGEST = 2**63 - 1
"""The largest whole number of any option, the limit of 64 bits in torch and numpy."""


@dataclass(frozen=True)
class Interval:
    """The numbers from ``low`` to ``high``; None is no bound.

    Args:
        low: the smallest number.
        high: the largest number.
        above: exclude ``low`` itself.
        below: exclude ``high`` itself.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        """Return whether a finite number lies inside."""
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        return self.high is None or not (value > self.high or (self.below and value == self.high))

    def __str__(self) -> str:
        parts = []
        if self.low is not None:
            parts.append(f"{'more than' if self.above else 'at least'} {self.low}")
        if self.high is not None:
            parts.append(f"{'less than' if self.below else 'at most'} {self.high}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Length:
    """The number of items of a list, or with ``least`` the smallest one."""

    items: int
    least: bool = False

    def allows(self, value: Any) -> bool:
        """Return whether a list has the required number of items."""
        return len(value) >= self.items if self.least else len(value) == self.items

    def __str__(self) -> str:
        return f"at least {self.items} of them" if self.least else f"{self.items} of them"


@dataclass(frozen=True)
class NotEmpty:
    """A text with at least one character that is not a blank."""

    def allows(self, value: Any) -> bool:
        """Return whether the text has a character that is not a blank."""
        return not isinstance(value, str) or bool(value.strip())

    def __str__(self) -> str:
        return "not empty"


Bound = Interval | Length | NotEmpty

Positive = Annotated[float, Interval(0, above=True)]
NonNegative = Annotated[float, Interval(0)]
Fraction = Annotated[float, Interval(0, 1)]
Count = Annotated[int, Interval(1)]
CountOrZero = Annotated[int, Interval(0)]
Pixels = Annotated[int, Interval(1, 4096)]
"""A size, shift or padding of images."""
Pair = Annotated[Sequence[Positive], Length(2)]
"""The smallest and the largest number."""
Seed = Annotated[int, Interval(0)]
NumpySeed = Annotated[int, Interval(0, 2**32 - 1)]
"""A seed of numpy's legacy generator, which draws splits as the papers' code did."""
Name = Annotated[str, NotEmpty()]
Place = Annotated[str | Path, NotEmpty()]
"""A file or folder."""
