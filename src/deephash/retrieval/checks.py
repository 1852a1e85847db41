"""Checks of arguments."""

from collections.abc import Iterable

import numpy as np

from deephash.errors import DataError


def is_integer(value: object, least: int) -> bool:
    """Return whether a value is an integer of at least ``least``; True and False are not."""
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return number and int(value) >= least  # type: ignore[call-overload]


def check_integer(name: str, value: int, least: int, otherwise: str = "") -> int:
    """Return a value, or raise DataError if it is no integer of at least ``least``."""
    if not is_integer(value, least):
        raise DataError(f"{name}={value!r} must be a whole number of at least {least}{otherwise}")
    return int(value)


def check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise DataError if a value is not one of the allowed ones."""
    if value not in allowed:
        raise DataError(f"{name}={value!r} is unknown; allowed: {', '.join(allowed)}")
