"""The jobs: train a run, measure a run again, compare several, report a sweep; ready a dataset."""

from deephash.jobs.datasets import data
from deephash.jobs.evaluating import evaluate
from deephash.jobs.loading import load
from deephash.jobs.reporting import report
from deephash.jobs.shared import run_folder
from deephash.jobs.sweeping import missing_data, noting, plan, preview
from deephash.jobs.training import train

__all__ = [
    "data",
    "evaluate",
    "load",
    "missing_data",
    "noting",
    "plan",
    "preview",
    "report",
    "run_folder",
    "train",
]
