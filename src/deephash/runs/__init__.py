"""Train runs, evaluate them, load their encoders, and prepare datasets."""

from deephash.runs.data_command import data
from deephash.runs.evaluate_run import evaluate
from deephash.runs.folder import RunFolder
from deephash.runs.load_encoder import check_loadable, load
from deephash.runs.train_run import train

__all__ = ["RunFolder", "check_loadable", "data", "evaluate", "load", "train"]
