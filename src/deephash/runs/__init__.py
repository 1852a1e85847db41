"""Train runs, evaluate them again, load their encoders, and prepare datasets."""

from deephash.runs.common import run_folder
from deephash.runs.data_command import data
from deephash.runs.evaluate_run import evaluate
from deephash.runs.load_encoder import load
from deephash.runs.train_run import train

__all__ = ["data", "evaluate", "load", "run_folder", "train"]
