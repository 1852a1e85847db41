"""The points of a grid: axes, and values that hang on those of other axes."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from deephash.errors import ConfigError
from deephash.utils.formatting import all_typed, typed

MOST = 100_000
"""Jobs of a grid."""

Point = dict[str, str]
"""The overrides of one job: key to value, as they are typed."""


def points(
    axes: Mapping[str, Sequence[str]],
    where: Sequence[Mapping[str, Any]] = (),
    given: Sequence[str] = (),
) -> list[Point]:
    """All combinations of the axes' values, the last axis fastest, each once.

    Rules may make several of them the same, as for an option that another one makes meaningless.

    Args:
        axes: the values of each key, in the order in which they are to stand.
        where: rules ``{"if": {key: value or values}, "then": {key: value}}``: points that agree
            with all conditions get what follows from them. A later rule beats an earlier one.
        given: keys that no rule may set, because the user has; without ``+`` and ``~``.

    Raises:
        ConfigError: a rule of another form, or more than ``MOST`` combinations.

    >>> points({"dataset": ["a", "b"]}, [{"if": {"dataset": "b"}, "then": {"beta": 80}}])
    [{'dataset': 'a'}, {'dataset': 'b', 'beta': '80'}]
    """
    many = math.prod(map(len, axes.values()))
    if many > MOST:
        several = " x ".join(f"{len(values)} {key}" for key, values in axes.items()
                             if len(values) > 1)  # fmt: skip
        raise ConfigError(f"this grid has {many:,} jobs, more than {MOST:,}: {several}")
    for rule in where:
        if set(rule) != {"if", "then"} or not all(
            isinstance(rule[side], Mapping) for side in ("if", "then")
        ):
            raise ConfigError(
                f"where  {dict(rule)} is no rule of a sweep.\n"
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
