"""Points of a grid: combinations of axes, with rules for values that depend on other axes."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from deephash.errors import ConfigError
from deephash.utils.formatting import all_typed, typed

MOST = 100_000
"""Largest number of jobs of a grid."""

Point = dict[str, str]
"""Overrides of one job: values by key, as they are typed."""


def grid_points(
    axes: Mapping[str, Sequence[str]],
    where: Sequence[Mapping[str, Any]] = (),
    given: Sequence[str] = (),
) -> list[Point]:
    """Return all distinct combinations of the values of the axes, the last axis fastest.

    Rules may make several combinations equal, for example if one option disables another.

    Args:
        axes: the values of each key.
        where: rules ``{"if": {key: value or values}, "then": {key: value}}``: points that match
            all conditions get the values of ``then``. Later rules override earlier ones.
        given: keys that the user has set, so no rule may; without ``+`` and ``~``.

    Raises:
        ConfigError: If a rule has another form, or there are more than ``MOST`` combinations.

    >>> grid_points({"dataset": ["a", "b"]}, [{"if": {"dataset": "b"}, "then": {"beta": 80}}])
    [{'dataset': 'a'}, {'dataset': 'b', 'beta': '80'}]
    """
    count = math.prod(map(len, axes.values()))
    if count > MOST:
        several = " x ".join(
            f"{len(values)} {key}" for key, values in axes.items() if len(values) > 1
        )
        raise ConfigError(f"this grid has {count:,} jobs, more than {MOST:,}: {several}")
    for rule in where:
        if set(rule) != {"if", "then"} or not all(
            isinstance(rule[side], Mapping) for side in ("if", "then")
        ):
            raise ConfigError(
                f"where  {dict(rule)} is not a rule of a sweep.\n"
                "  Write it as {if: {dataset: cifar10}, then: {method.loss.scale: 80}}."
            )
    distinct: dict[tuple[tuple[str, str], ...], Point] = {}
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        for rule in where:
            if all(point.get(key) in all_typed(wanted) for key, wanted in rule["if"].items()):
                point |= {
                    key: typed(value)
                    for key, value in rule["then"].items()
                    if key.lstrip("+~") not in given
                }
        distinct.setdefault(tuple(sorted(point.items())), point)
    return list(distinct.values())
