"""Format numbers, durations and values for people."""

import math
from typing import Any
from unicodedata import east_asian_width


def number(value: Any) -> str:
    """Format a metric with four digits; a dash if it was not measured or is not finite.

    A value just below 1 gets as many digits as needed to differ from 1.

    >>> number(0.68412), number(None), number(-0.0), number(math.nan), number(0.99998)
    ('0.6841', '-', '0.0000', '-', '0.99998')
    """
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value):
        return "-"
    if 0.9999 < value < 1:
        return next(text for digits in range(4, 18) if (text := f"{value:.{digits}f}")[0] == "0")
    return f"{value:.4f}".replace("-0.0000", "0.0000")


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, or hours, minutes and seconds.

    >>> clock(190), clock(7384)
    ('3:10', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def typed(value: Any) -> str:
    """Format a value as it is typed on the command line.

    >>> typed(0.5), typed(True), typed(None), typed("csq")
    ('0.5', 'true', 'null', 'csq')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def all_typed(value: Any) -> list[str]:
    """Format a value, or each item of a list, as it is typed on the command line.

    >>> all_typed(16), all_typed([16, None])
    (['16'], ['16', 'null'])
    """
    return [typed(item) for item in (value if isinstance(value, list) else [value])]


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error, or the name of its class if it has no message.

    >>> first_line(ValueError("no such key\nSee the manual.")), first_line(MemoryError())
    ('no such key', 'MemoryError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shorten(text: str, most: int) -> str:
    """Return a text of at most ``most`` characters, with its middle left out if it is longer.

    >>> shorten("relahash method.loss.margin=0.5", 16)
    'relahash…gin=0.5'
    """
    text = " ".join(text.split())
    if wide := sum(east_asian_width(letter) in "WF" for letter in text):  # two columns each
        most = max(4, most * len(text) // (len(text) + wide))
    if len(text) <= most:
        return text
    front = most // 2
    return text[:front] + "…" + text[len(text) - (most - 1 - front) :]
