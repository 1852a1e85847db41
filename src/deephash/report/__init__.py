"""Finished run folders, turned into something to look at."""

from deephash.report.figures.evaluation import Plane, Retrieved, Snapshot
from deephash.report.pages.evaluation import write_comparison, write_evaluation
from deephash.report.pages.run import write_html, write_nearest
from deephash.report.pages.sweep import write_sweeps

__all__ = [
    "Plane",
    "Retrieved",
    "Snapshot",
    "write_comparison",
    "write_evaluation",
    "write_html",
    "write_nearest",
    "write_sweeps",
]
