import math

import pytest

from deephash.utils.formatting import clock, number


@pytest.mark.parametrize(
    ("value", "text"), [(0.68412, "0.6841"), (1, "1.0000"), (None, "-"), ("nan", "-")]
)
def test_a_metric_has_four_digits_or_is_a_dash(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (190, "3:10"), (7384, "2:03:04")]
)
def test_seconds_as_a_clock_shows_them(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0000"), (1, "1.0000"), (0.99996, "0.99996"), (1 - 2**-53, "0.9999999999999999"),
     (0.9999, "0.9999"), (-0.0, "0.0000"), (-1e-9, "0.0000"), (-0.25, "-0.2500"),
     (math.nan, "-"), (math.inf, "-"), (True, "-"), (None, "-")],
)  # fmt: skip
def test_a_number_is_not_printed_as_another(value, text):
    """What is below 1 is not 1.0000, and there is neither a negative zero nor nan."""
    assert number(value) == text
