"""The training loop, evaluation, checkpoints and learning-rate schedules."""
