import pytest

from deephash.words import clock, number


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
