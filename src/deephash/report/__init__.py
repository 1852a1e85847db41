"""Finished run folders, turned into something to look at."""

from deephash.report.figures.evaluation import CodeSnapshot, Plane, Retrieved
from deephash.report.pages.evaluation import write_comparison, write_evaluation
from deephash.report.pages.run import write_html, write_nearest
from deephash.report.pages.sweep import write_sweeps

__all__ = [
    "CodeSnapshot",
    "Plane",
    "Retrieved",
    "write_comparison",
    "write_evaluation",
    "write_html",
    "write_nearest",
    "write_sweeps",
]
