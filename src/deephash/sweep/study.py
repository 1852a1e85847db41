"""A study of Optuna on disk: it chooses trials and stores their results (extra ``optuna``)."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deephash.errors import ConfigError, from_os_error
from deephash.sweep.search_space import SearchSpace, is_whole
from deephash.types import derive
from deephash.utils.extras import import_extra

SPACE, BATCH, RUN = "space", "batch", "run"
"""Attributes of the study."""


@dataclass(frozen=True)
class Trial:
    """A trial: its number and the value of each key."""

    number: int
    params: Mapping[str, Any]
    value: float | None = None  # of the metric; None: not finished, or failed


class Study:
    """The trials of a search, of this launch and of earlier ones.

    The sampler of trial n is seeded by n, so a study that was killed chooses the same trials as
    one that was not.

    Args:
        file: the database; it is created if it does not exist.
        space: ranges and options.
        batch: trials at a time; of a study that exists its own.
        run: name of the run that a trial would be without its values.

    Raises:
        ConfigError: Optuna is not installed, or the study was begun with other ranges, options or
            runs.
    """

    def __init__(self, file: Path, space: SearchSpace, batch: int, run: str) -> None:
        self.optuna = import_extra("optuna", "+search")
        self.optuna.logging.set_verbosity(logging.WARNING)
        self.space = space
        self.study = self._open(file)
        before = self.study.user_attrs
        if (known := before.get(SPACE)) is not None and known != space.identity():
            keys = [key for key, value in space.identity().items() if known.get(key) != value]
            raise ConfigError(
                f"search  the study in {file} was begun with other {', '.join(keys)}.\n"
                "        Restore them, or begin another study: group=NAME"
            )
        if before.get(RUN, run) != run:
            raise ConfigError(
                f"search  the study in {file} is of other runs:\n"
                f"        {before[RUN]} -> {run}\n"
                "        Restore the command line, or begin another study: group=NAME"
            )
        self.study.set_user_attr(RUN, run)
        if known is None:
            self.study.set_user_attr(BATCH, batch)
            self.study.set_user_attr(SPACE, space.identity())
        self.batch: int = self.study.user_attrs[BATCH]
        self._distributions = {key: self._range(values) for key, values in space.params.items()}

    def trials(self) -> list[Trial]:
        """Return all trials by number."""
        trials = self.study.get_trials(deepcopy=False)
        return [Trial(trial.number, trial.params, trial.value) for trial in trials]

    def open_trials(self) -> list[Trial]:
        """Return the trials without a result: of this batch, or of a launch that was killed."""
        running = self.study.get_trials(states=(self.optuna.trial.TrialState.RUNNING,))
        return [Trial(trial.number, trial.params) for trial in running]

    def next_batch(self) -> list[Trial]:
        """Return the trials to run next: the open ones, filled up to a whole batch; then none."""
        count = len(self.trials())
        opened = len(self.open_trials())
        while count < self.space.trials and (not opened or count % self.batch):
            self._ask(count)
            count, opened = count + 1, opened + 1
        return self.open_trials()

    def tell(self, trial: Trial, value: float | None) -> None:
        """Store the result of a trial; None for one that failed."""
        state = self.optuna.trial.TrialState
        if value is None:
            self.study.tell(trial.number, state=state.FAIL)
        else:
            self.study.tell(trial.number, value)

    def _open(self, file: Path) -> Any:
        """Open the study of a file, whatever the search was called, or create it."""
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import DatabaseError

        url = URL.create("sqlite", database=str(file.absolute()))
        try:
            storage = self.optuna.storages.RDBStorage(url.render_as_string())
            names = self.optuna.get_all_study_names(storage)
            return self.optuna.create_study(
                storage=storage,
                study_name=names[0] if names else self.space.name,
                direction="maximize",
                load_if_exists=True,
            )
        except OSError as error:
            raise from_os_error(error) from error
        except DatabaseError as error:
            raise ConfigError(
                f"search  the study in {file} could not be read: {error.orig}\n"
                "        Bring back a copy of it, or begin another study: group=NAME"
            ) from error

    def _ask(self, number: int) -> None:
        samplers, seed = self.optuna.samplers, derive(self.space.seed, "search", number) % 2**32
        if self.space.sampler == "random":
            self.study.sampler = samplers.RandomSampler(seed=seed)
        else:
            self.study.sampler = samplers.TPESampler(
                seed=seed, n_startup_trials=self.space.startup, constant_liar=self.batch > 1
            )
        self.study.ask(self._distributions)

    def _range(self, values: Any) -> Any:
        distributions = self.optuna.distributions
        if not isinstance(values, Mapping):
            with warnings.catch_warnings():  # on lists, which are saved as JSON
                warnings.simplefilter("ignore", UserWarning)
                return distributions.CategoricalDistribution(values)
        options = {key: value for key, value in values.items() if key != "step"}
        if is_whole([value for key, value in values.items() if key != "log"]):
            return distributions.IntDistribution(**options, step=values.get("step", 1))
        return distributions.FloatDistribution(**options, step=values.get("step"))
