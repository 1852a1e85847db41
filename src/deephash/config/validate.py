"""Validate plain values against annotations: types, finite numbers, bounds, choices, lists, nodes.

The validator serves the constructors of parts (ours, torch's, torchvision's) and the dataclasses of
``deephash.config.schema``. It is cheap to import and opens no file.
"""

import dataclasses
import difflib
import inspect
import math
import re
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from deephash.config.faults import Fault
from deephash.utils.bounds import LARGEST, Bound, Interval, Length, NotEmpty

UNKNOWN = "there is no such key."
"""The message for a key that a closed node does not have."""

REMOVED = "is missing"
"""The beginning of the message for a key that was deleted."""


class Part(dict[str, Any]):
    """Marker of an annotation: a node with a ``_target_``, whose constructor is its schema."""


def annotation(parameter: inspect.Parameter) -> Any:
    """Return the annotation of an argument; ``Any`` if it has none."""
    return Any if parameter.annotation is parameter.empty else parameter.annotation


def problem(value: Any, kind: Any) -> str | None:
    """Return why a value is invalid, as the end of ``KEY ...``; None if it is valid.

    >>> problem("big", float), problem(-1, Annotated[int, Interval(0)]), problem(3, int)
    ("'big' is not a number.", 'is -1.', None)
    """
    if fits(value, kind):
        return None
    if isinstance(value, float) and not math.isfinite(value) and _takes(kind, float):
        return f"is {value}."
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return f"is a number of {len(str(abs(value)))} digits."
    if fits(value, plain(kind)):
        return f"is {shown(value)}."
    return f"{shown(value)} is not {spell(plain(kind))}."


def fits(value: Any, kind: Any) -> bool:
    """Return whether a plain value satisfies an annotation; unknown annotations accept all."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated and inner[0] is Any:  # typed for us, and open for Hydra
        return fits(value, inner[1])
    if origin is Annotated:
        bounds = [bound for bound in inner[1:] if isinstance(bound, Bound)]
        return fits(value, inner[0]) and all(_allows(bound, value) for bound in bounds)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind is None or kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    if kind is float:
        return (
            _is_number(value) and abs(value) <= LARGEST
            if type(value) is int
            else (type(value) is float and math.isfinite(value))
        )
    if kind is str:
        return isinstance(value, str)
    if (isinstance(origin, type) and issubclass(origin, Mapping)) or kind is dict:
        each = inner[1] if len(inner) == 2 else Any
        return isinstance(value, Mapping) and all(fits(one, each) for one in value.values())
    if origin is tuple and inner and inner[-1] is not ...:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(inner)
            and all(fits(one, each) for one, each in zip(value, inner, strict=True))
        )
    if (isinstance(origin, type) and issubclass(origin, Sequence)) or kind in (list, tuple):
        each = inner[0] if inner else Any
        return isinstance(value, list | tuple) and all(fits(one, each) for one in value)
    if kind is Part:
        return isinstance(value, Mapping) and isinstance(value.get("_target_"), str)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return isinstance(value, str) and value in kind.__members__
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if kind in (Any, object):
        return True
    if isinstance(kind, type) and not inspect.isabstract(kind):
        return isinstance(value, kind) if origin is None else True
    return True


def plain(kind: Any) -> Any:
    """Return an annotation without its bounds, at any depth."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return plain(inner[1] if inner[0] is Any else inner[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(map(plain, inner))]  # noqa: UP007
    if origin is not None and origin is not Literal and inner and hasattr(kind, "copy_with"):
        return kind.copy_with(tuple(one if one is ... else plain(one) for one in inner))
    return kind


def bounds(kind: Any) -> list[Bound]:
    """Return all bounds inside an annotation."""
    inner = get_args(kind)
    result = [bound for bound in inner if isinstance(bound, Bound)]
    for each in inner:
        if not isinstance(each, Bound):
            result += bounds(each)
    return result


def _allows(bound: Bound, value: Any) -> bool:
    if isinstance(bound, Interval):
        return bound.allows(value) if _is_number(value) else True
    if isinstance(bound, Length):
        return bound.allows(value) if isinstance(value, list | tuple) else True
    return bound.allows(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _takes(kind: Any, wanted: type) -> bool:
    return kind is wanted or any(_takes(one, wanted) for one in get_args(kind))


def spell(kind: Any) -> str:
    """Describe the values that an annotation takes.

    >>> spell(float | Literal["a", "b"] | None)
    'a number or one of a, b or null'
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return spell(inner[0])
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        kinds = [spell(one) for one in inner if not _is_foreign(one)]
        return " or ".join(dict.fromkeys(kinds))
    if (isinstance(origin, type) and issubclass(origin, Mapping)) or kind is dict:
        return "a group of keys and values"
    if origin is tuple and inner and inner[-1] is not ...:
        return f"a list of {len(inner)}, each {spell(inner[0])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {spell(inner[0])}"
    names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list: "a list",
        Part: "a part with a _target_",
        type(None): "null",
    }
    if kind in names:
        return names[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(kind.__members__)
    if dataclasses.is_dataclass(kind):
        return "a group of keys and values"
    return getattr(kind, "__name__", str(kind))


def _is_foreign(kind: Any) -> bool:
    """Return whether no configuration value can be of this class, such as a tensor."""
    known = (int, float, bool, str, list, tuple, dict, Part, type(None))
    return isinstance(kind, type) and kind not in known and not issubclass(kind, Enum)


def advice(key: str, kind: Any, default: Any = inspect.Parameter.empty, value: Any = None) -> str:
    """Return what to type instead of an invalid value.

    Args:
        key: as it is typed.
        kind: what it takes.
        default: of its constructor, if there is one.
        value: what was given.
    """
    prefix = ""
    limits = [bound for bound in bounds(kind) if not isinstance(bound, NotEmpty)]
    if limits and fits(value, plain(kind)):
        pieces = [str(bound) for bound in limits]
        if _is_number(value):
            return f"It must be {' or '.join(dict.fromkeys(pieces))}."
        prefix = f"It must be {spell(plain(kind))}: {', '.join(dict.fromkeys(pieces))}. "
    if isinstance(value, str) and (near := difflib.get_close_matches(value, choices(kind), n=1)):
        return f"{prefix}Did you mean {assignment(key, near[0])}?"
    example = default
    if isinstance(example, tuple):
        example = list(example)
    if example is inspect.Parameter.empty or not fits(example, kind):
        example = an_example(kind)
    if example is inspect.Parameter.empty:
        return prefix.strip() or "Leave it as it was: --cfg job shows the defaults."
    return f"{prefix}Type for example {assignment(key, example)}."


def choices(kind: Any) -> list[str]:
    """Return the texts that an annotation takes by name.

    >>> choices(Literal["auto", "none"] | int | None)
    ['auto', 'none']
    """
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind.__members__)
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return [one for one in inner if isinstance(one, str)]
    if get_origin(kind) in (Annotated, Union, types.UnionType):
        return [name for one in inner for name in choices(one)]
    return []


def an_example(kind: Any) -> Any:
    """Return a valid value; ``Parameter.empty`` if none is known."""
    origin, inner = get_origin(kind), get_args(kind)
    candidates: list[Any] = []
    if origin is Literal:
        candidates = list(inner)
    elif origin in (Union, types.UnionType):
        candidates = [an_example(one) for one in inner]
    elif isinstance(kind, type) and issubclass(kind, Enum):
        candidates = list(kind.__members__)
    elif origin is Annotated:
        lows = [bound.low for bound in inner[1:] if isinstance(bound, Interval)]
        candidates = [an_example(inner[0]), 1, 0.5, 0.1, *(low for low in lows if low is not None)]
        for bound in inner[1:]:
            if isinstance(bound, Length) and get_args(inner[0]):
                candidates.append([an_example(get_args(inner[0])[0])] * bound.items)
    elif origin is tuple and inner and inner[-1] is not ...:
        candidates = [[an_example(one) for one in inner]]
    else:
        candidates = [True, 1, 0.5, None] if kind in (bool, int, float, type(None)) else []
    return next(
        (one for one in candidates if one is not inspect.Parameter.empty and fits(one, kind)),
        inspect.Parameter.empty,
    )


def assignment(key: str, value: Any) -> str:
    """Return ``key=value`` for a shell, quoted if necessary.

    >>> assignment("optimizer.betas", [0.9, 0.999]), assignment("a", None)
    ('optimizer.betas=[0.9,0.999]', 'a=null')
    """
    text = f"{key}={literal(value)}"
    if re.fullmatch(r"[\w./=:+\-,\[\]]*", text) and text.isascii():
        return text
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'


PLAIN = re.compile(r"[A-Za-z_/.][\w/.\-+%]*")
"""Text that needs no quotes."""


def literal(value: Any) -> str:
    """Return a plain value in the syntax of Hydra's command line.

    >>> literal(True), literal([1, "a b"]), literal({"x": None}), literal("true")
    ('true', "[1,'a b']", '{x:null}', "'true'")
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        special = value.lower() in ("null", "true", "false", "nan", "inf")
        known = PLAIN.fullmatch(value) and value.isascii() and not special
        return value if known or not value else quoted(value)
    return str(value)


def quoted(text: str) -> str:
    """Return a text in single quotes, escaped for Hydra's grammar."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def shown(value: Any) -> str:
    """Return a value for a message: texts in quotes, long values cut.

    >>> shown("a"), shown(None), shown([1, 2])
    ("'a'", 'null', '[1, 2]')
    """
    text = "null" if value is None else repr(value)
    if isinstance(value, bool):
        text = str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


def check_fields(
    node: Mapping[str, Any],
    schema: type,
    path: str = "",
    closed: bool = False,
) -> list[Fault]:
    """Return the faults of a node according to a dataclass: missing keys and invalid values.

    Args:
        node: plain values.
        schema: the dataclass.
        path: of the node, put before each key.
        closed: whether keys that the dataclass does not have are refused.
    """
    faults: list[Fault] = []
    annotations = hints(schema)
    for field in dataclasses.fields(schema):
        key = f"{path}.{field.name}" if path else field.name
        default = _default(field)
        if field.name not in node:
            if field.metadata.get("optional"):
                continue
            known = default is not dataclasses.MISSING and default != "???"
            known = known and not dataclasses.is_dataclass(default)
            removed = (
                f"Leave out ~{key}"
                + (f": its default is {assignment(key, default)}" if known else "")
                + "."
            )
            faults.append(Fault(key, f"{REMOVED}.", removed))
            continue
        faults += check_value(node[field.name], annotations[field.name], key, default)
    if closed:
        faults += [
            Fault(f"{path}.{key}" if path else str(key), UNKNOWN, "See all keys with --cfg job.")
            for key in node
            if key not in annotations
        ]
    return faults


@lru_cache
def hints(schema: type) -> dict[str, Any]:
    """Return the annotations of a dataclass, with their bounds."""
    return get_type_hints(schema, include_extras=True)


def check_value(
    value: Any, kind: Any, key: str, default: Any = inspect.Parameter.empty
) -> list[Fault]:
    """Return the faults of one value, or of the values inside it."""
    if default in (dataclasses.MISSING, "???") and not isinstance(default, list | dict):
        default = inspect.Parameter.empty
    declared = kind
    if get_origin(kind) is Annotated and get_args(kind)[0] is Any:  # open for Hydra
        kind = get_args(kind)[1]
    for one in (kind, *(get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ())):
        if dataclasses.is_dataclass(one) and isinstance(one, type) and isinstance(value, Mapping):
            return check_fields(value, one, key, closed=one is declared)
        if isinstance(value, Mapping) and get_origin(one) in (dict, Mapping):
            each = get_args(one)[1]
            return [
                it
                for name, inner in value.items()
                for it in check_value(inner, each, f"{key}.{name}")
            ]
    if isinstance(value, list) and get_origin(kind) is list and get_args(kind)[0] is Part:
        return [
            it for at, inner in enumerate(value) for it in check_value(inner, Part, f"{key}.{at}")
        ]
    what = problem(value, kind)
    if what is None:
        return []
    if kind is Part:
        return [_no_part(value, key)]
    return [Fault(key, what, advice(key, kind, default, value))]


def _no_part(value: Any, key: str) -> Fault:
    """Return the fault of a value that should be a node with a ``_target_``."""
    group = key.removeprefix("method.")
    choose = "Leave it as it was."
    if "." not in group:
        choose = f"Choose one by its name: {group}=NAME."
    if isinstance(value, Mapping):
        what = f"has no _target_{'' if '_target_' not in value else ' that is a name'}."
        return Fault(key, what, f"Leave out ~{key}._target_." if value else choose)
    return Fault(key, f"{shown(value)} is not a part with a _target_.", choose)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING
