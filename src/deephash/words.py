"""Numbers and durations as a reader sees them."""

from typing import Any


def number(value: Any) -> str:
    """A metric with four digits, or a dash for one that was not measured.

    >>> number(0.68412), number(None)
    ('0.6841', '-')
    """
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def clock(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> clock(190), clock(7384)
    ('3:10', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
