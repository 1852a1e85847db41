"""Files that define a search over values: ranges, the number of trials, the metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from deephash.config.faults import Fault, raise_faults
from deephash.errors import ConfigError, FileError
from deephash.utils.files import Kind, expand_path, expect, finite, read_yaml
from deephash.utils.formatting import typed

METRICS = ("val", "query")
SAMPLERS = ("tpe", "random")

KINDS: dict[str, Kind] = {
    "title?": str,
    "params": dict,
    "params.*": (dict, list),
    "trials?": int,
    "metric?": str,
    "sampler?": str,
    "startup?": int,
    "seed?": int,
    "batch?": (int, None),
}
"""Keys of the file of a search."""

RANGE: dict[str, Kind] = {"low": finite, "high": finite, "log?": bool, "step?": finite}
"""Keys of a range."""

EXPONENT = "YAML reads 1e-4 as a text, and 1.0e-4 as a number."

HINT = "Write {low: 1.0e-4, high: 1.0e-2, log: true}, or a list of two values or more."


@dataclass(frozen=True)
class SearchSpace:
    """The file of a search.

    Args:
        name: of the file; of the study, unless ``group`` names it.
        params: for each key ``{low: ..., high: ..., log: ..., step: ...}``, or a list of values. A
            range is of whole numbers if both limits are.
        title: a comment.
        trials: their number, with those of earlier launches.
        metric: ``val``: the best mAP of the validation split over the epochs; ``query``: the mAP of
            the report, which makes the result of the search too optimistic.
        sampler: ``tpe`` (tree-structured Parzen estimator), or ``random``.
        startup: random trials before the estimator is used.
        seed: of the sampler.
        batch: trials that are chosen and run at a time; None: as many as the launcher has slots.
    """

    name: str
    params: Mapping[str, Any]
    title: str = ""
    trials: int = 20
    metric: str = "val"
    sampler: str = "tpe"
    startup: int = 10
    seed: int = 0
    batch: int | None = None

    @classmethod
    def read(cls, folder: Path, name: str, changes: Mapping[str, str]) -> "SearchSpace":
        """Read a search of a folder by its name, or any file by its path, ``mine.yaml``.

        Args:
            folder: of the searches that come with the program.
            name: of one of them, or a path.
            changes: values of the command line for keys other than ``params``.

        Raises:
            ConfigError: it does not exist, or is damaged.
        """
        file = expand_path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
            raise ConfigError(
                f"search  there is no {name!r}.\n        There are {known}.\n"
                "        A file of your own is chosen by its path: +search=FOLDER/mine.yaml"
            )
        keys = [item.name for item in fields(cls)][1:]
        try:
            content = read_yaml(file, "search", None)
            expect(content, {}, file, "search")
            content = {**content, **{key: _number(value) for key, value in changes.items()}}
            if unknown := sorted(map(str, set(content) - set(keys))):
                raise ConfigError(
                    f"{file} has no use for {', '.join(unknown)}; it takes {', '.join(keys)}."
                )
            expect(content, KINDS, file, "search")
            for key, values in content["params"].items():
                if isinstance(values, dict):
                    expect(values, RANGE, file, f"range of {key}")
        except FileError as error:
            advice = "" if "a text, not a number" not in error.reason else f"\n  {EXPONENT}"
            raise ConfigError(f"{file} is no search: {error.reason}{advice}") from error
        space = cls(file.stem, **content)
        raise_faults(space.faults(), [str(file)])
        return space

    def faults(self) -> list[Fault]:
        """Return what is wrong with the values."""
        faults = []
        for key, least in (("trials", 1), ("startup", 0), ("batch", 1)):
            if (value := getattr(self, key)) is not None and value < least:
                faults.append(Fault(f"search.{key}", f"is {value}.", f"It is at least {least}."))
        for key, choices in (("metric", METRICS), ("sampler", SAMPLERS)):
            if (value := getattr(self, key)) not in choices:
                hint = f"Type {' or '.join(choices)}."
                faults.append(Fault(f"search.{key}", f"is {value!r}.", hint))
        for key, values in self.params.items():
            fault = _range_fault(values) if isinstance(values, Mapping) else _list_fault(values)
            if not isinstance(key, str):
                fault = "is a number, not a key."
            if fault:
                faults.append(Fault(str(key), fault, HINT))
        if not self.params:
            faults.append(Fault("params", "is empty.", "Give a range for at least one key."))
        return faults

    def identity(self) -> dict[str, Any]:
        """Return what must stay the same while a study goes on; trials may be added."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("name", "title", "trials", "batch")
        }


def _range_fault(values: Mapping[str, Any]) -> str:
    """Return what is wrong with a range; empty if nothing is."""
    if unknown := set(values) - {key.removesuffix("?") for key in RANGE}:
        return f"has no use for {', '.join(sorted(map(str, unknown)))}."
    low, high, step = values["low"], values["high"], values.get("step")
    if low >= high:
        return "low is not less than high."
    if values.get("log") and (low <= 0 or step is not None):
        return "log: true needs a positive low, and has no step."
    if step is None:
        return ""
    if step <= 0:
        return f"step is {step}, not more than 0."
    if is_whole([low, high]) and not is_whole([step]):
        return f"step is {step}, and the range is of whole numbers."
    count = (high - low) / step
    if round(count) < 1 or not math.isclose(count, round(count), rel_tol=1e-6):
        return f"step {step} does not lead from {low} to {high}."
    return ""


def _list_fault(values: Sequence[Any]) -> str:
    """Return what is wrong with a list of values; empty if nothing is."""
    if len(values) < 2:
        return "has fewer than two values."
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    return f"has {typed(twice[0])} twice." if twice else ""


def as_typed(value: Any) -> str:
    """Return a value of a trial as it is typed; numbers have at most six digits.

    >>> as_typed(0.00123456789), as_typed(16), as_typed("mlp"), as_typed(True)
    ('0.00123457', '16', 'mlp', 'true')
    """
    return f"{value:.6g}" if isinstance(value, float) else typed(value)


def is_whole(values: Sequence[Any]) -> bool:
    """Return whether all values are whole numbers."""
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _number(value: str) -> Any:
    """Return a value of the command line as a number, None or a text."""
    if value == "null":
        return None
    return int(value) if value.lstrip("-").isdecimal() else value
