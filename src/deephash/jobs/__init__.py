"""The jobs: train a run, measure a run again, compare several."""

from deephash.jobs.evaluating import evaluate
from deephash.jobs.training import train

__all__ = ["evaluate", "train"]
