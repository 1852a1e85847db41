"""Figures are drawn in the style of the report."""

import pytest

from deephash.report.figures.style import style


@pytest.fixture(autouse=True)
def drawn_in_style():
    with style():
        yield
