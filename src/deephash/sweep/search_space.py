"""Files that define a search over values: ranges, the number of trials, the metric."""

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
            raise ConfigError(f"{file} is no search: {error.reason}") from error
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
            hint = "Write {low: 1.0e-4, high: 1.0e-2, log: true}, or a list of two values or more."
            if isinstance(values, Mapping):
                if set(values) - {"low", "high", "log", "step"}:
                    faults.append(Fault(key, f"has the keys {', '.join(map(str, values))}.", hint))
                elif values["low"] >= values["high"]:
                    faults.append(Fault(key, "low is not less than high.", hint))
                elif values.get("log") and (values["low"] <= 0 or "step" in values):
                    message = "log: true needs a positive low, and has no step."
                    faults.append(Fault(key, message, hint))
            elif len(values) < 2:
                faults.append(Fault(key, "has fewer than two values.", hint))
        if not self.params:
            faults.append(Fault("params", "is empty.", "Give a range for at least one key."))
        return faults

    def identity(self) -> dict[str, Any]:
        """Return what must stay the same while a study goes on; trials may be added."""
        return {key: value for key, value in asdict(self).items()
                if key not in ("name", "title", "trials", "batch")}  # fmt: skip


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
