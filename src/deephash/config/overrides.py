"""Parse a command line into flags of Hydra, overrides, and arguments that are neither.

Hydra's grammar reads ``~``, ``(``, ``=``, ``,``, ``#``, letters beyond ASCII and more in a value as
syntax. Here any value that is neither a list nor a sweep is a text.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from deephash.config.validate import literal, quoted

KEY = re.compile(r"(\+\+|\+)?[A-Za-z_][\w./@-]*")

MANY = {"-m", "--multirun"}
"""The flags of a grid."""

ALONE = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "-r",
    *MANY,
}
"""Hydra's flags without a value."""

VALUED = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--shell-completion", "-sc",
          "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun"}  # fmt: skip
"""Hydra's flags that take a value, or may take one."""

TEXTS = {"run", "runs", "init", "extend", "out", "group", "sweep", "search", "compare", "prefix",
         "checkpoint", "device",
         "dataset.root", "dataset.lists", "dataset.name", "dataset.protocol", "backbone.weights",
         "backbone.name", "method.name", "paths.outputs", "paths.data", "paths.cache",
         "trainer.device", "evaluation.convention", "logger.wandb.project", "logger.wandb.entity",
         "hydra.launcher.folder", "hydra.launcher.partition", "hydra.launcher.account",
         "hydra.launcher.qos", "hydra.launcher.constraint", "hydra.launcher.address"}  # fmt: skip
"""Keys that take a path or a name: 2024, 1e3 and true are texts there."""

LISTS = {"plugins"}
"""Keys that take a list: one value is a list of one."""

SOURCE_TEXTS = {"root", "lists", "train", "queries", "database", "split", "truth",
                "images", "image_list", "annotations", "file", "path", "label", "role", "name",
                "strip_prefix", "identity", "origin", "cache", "separator", "encoding"}  # fmt: skip
"""The same below ``dataset.source`` and ``dataset.catalog``."""


@dataclass(frozen=True)
class Override:
    """One override of a command line.

    Args:
        text: in Hydra's syntax, with the value quoted if necessary.
        mark: ``""`` sets a key, ``"+"`` adds one, ``"++"`` does either, ``"~"`` deletes one.
        key: the key, or the group, without the mark.
        value: the part of ``text`` after ``=``; None without ``=``.

    >>> one = Override.parse("+loss='a b'")
    >>> one.mark, one.key, one.value, one.plain
    ('+', 'loss', "'a b'", 'a b')
    """

    text: str
    mark: str
    key: str
    value: str | None

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Parse ``key=value``, ``+key=value``, ``++key=value``, ``~key`` or ``~key=value``.

        The value is not validated; see ``parsed``.
        """
        name, equals, value = text.partition("=")
        key = name.lstrip("+~")
        return cls(text, name[: len(name) - len(key)], key, value if equals else None)

    @classmethod
    def of(cls, key: str, value: str, mark: str = "") -> "Override":
        """Make an override from its key and its value as it is typed."""
        return cls.parse(as_text(f"{mark}{key}={value}"))

    @classmethod
    def at(cls, name: str, value: str) -> "Override":
        """Make an override from its ``name`` and its value, which is empty for ``~key``."""
        return cls.parse(name if name.startswith("~") and not value else as_text(f"{name}={value}"))

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The key with its mark."""
        return f"{self.mark}{self.key}"

    @property
    def element(self) -> str:
        """The value in Hydra's own notation.

        Raises:
            Exception: Hydra's, if it cannot read the text.
        """
        return str(OverridesParser.create().parse_override(self.text).get_value_element_as_str())

    @property
    def deletes(self) -> bool:
        """Whether it removes a key."""
        return self.mark == "~"

    @property
    def parsed(self) -> Any | None:
        """Hydra's object; None if Hydra cannot parse it."""
        return parsed(self.text)

    @property
    def is_sweep(self) -> bool:
        """Whether it has several values, as ``seed=0,1`` and ``seed=range(0,3)``."""
        override = self.parsed
        return override is not None and bool(override.is_sweep_override())

    @property
    def is_discrete(self) -> bool:
        """Whether its several values can be listed."""
        return self.is_sweep and bool(self.parsed.is_discrete_sweep())  # type: ignore[union-attr]

    @property
    def single(self) -> tuple["Override", ...]:
        """The override itself; of several values, an override for each.

        Raises:
            Exception: Hydra's, if it cannot read the text.
        """
        override = OverridesParser.create().parse_override(self.text)
        if not override.is_sweep_override():
            return (self,)
        if not override.is_discrete_sweep():
            return (self,)
        return tuple(
            self.parse(f"{self.name}={value}") for value in override.sweep_string_iterator()
        )

    @property
    def plain(self) -> str:
        """The value without quotes; empty if there is none."""
        value = self.value or ""
        if value[:1] not in ("'", '"'):
            return value
        override = parsed(f"key={value}")
        if override is None or override.is_sweep_override():
            return value
        given = override.value()
        return given if isinstance(given, str) else literal(given)

    def within(self, *keys: str) -> bool:
        """Return whether its key is one of the keys or groups, or below one.

        >>> override = Override.parse("dataset.root=x")
        >>> override.within("dataset"), override.within("data")
        (True, False)
        """
        below = tuple(f"{key}{sign}" for key in keys for sign in "./@")
        return self.key in keys or self.key.startswith(below)


def parse_all(texts: Iterable[str]) -> tuple[Override, ...]:
    """Parse several overrides."""
    return tuple(map(Override.parse, texts))


def texts(overrides: Iterable[Override]) -> list[str]:
    """Return overrides in Hydra's syntax."""
    return [override.text for override in overrides]


def last_values(overrides: Iterable[Override]) -> dict[str, str]:
    """Return the value of the last override of each key; deleted keys are left out."""
    return {one.key: one.value for one in overrides if not one.deletes and one.value is not None}


@dataclass(frozen=True)
class Mistyped:
    """Arguments that are not an override, and the override that they seem to mean."""

    typed: str
    meant: Override


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line.

    Args:
        flags: of Hydra, with their values, as in ``("--cfg", "job")``.
        overrides: in their order.
        mistyped: the other arguments.
    """

    flags: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    mistyped: tuple[Mistyped, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The flags without their values."""
        return frozenset(flag.partition("=")[0] for flag in self.flags if flag.startswith("-"))

    @property
    def arguments(self) -> list[str]:
        """Flags and overrides in Hydra's syntax, ``-m`` first as argparse requires."""
        first = sorted(self.flags, key=lambda flag: flag not in MANY) if MANY & self.names else []
        return [*(first or self.flags), *texts(self.overrides)]

    def values_of(self, *flags: str) -> list[str]:
        """Return the values of flags given as ``FLAG VALUE`` or ``FLAG=VALUE``."""
        values = []
        for at, word in enumerate(self.flags):
            flag, equals, value = word.partition("=")
            if flag in flags:
                values.append(value if equals else "".join(self.flags[at + 1 : at + 2]))
        return values

    def without(self, *flags: str) -> "CommandLine":
        """Return the command line without some flags and their values."""
        kept: list[str] = []
        words = list(self.flags)
        while words:
            word = words.pop(0)
            flag, equals, _ = word.partition("=")
            following = words[:1] if not equals and words and not words[0].startswith("-") else []
            del words[: len(following)]
            if flag not in flags:
                kept += [word, *following]
        return CommandLine(tuple(kept), self.overrides, self.mistyped)


@lru_cache(maxsize=4096)
def parsed(text: str) -> Any | None:
    """Return Hydra's object of an override; None if Hydra cannot parse it."""
    try:
        return OverridesParser.create().parse_override(text)
    except Exception:  # ANTLR's errors, and Hydra's own
        return None


def read(arguments: Sequence[str], many: bool = False) -> CommandLine:
    """Parse a command line.

    Args:
        arguments: as passed by the shell.
        many: whether commas separate the values of a grid (``-m``).
    """
    flags: list[str] = []
    good: list[Override] = []
    wrong: list[Mistyped] = []
    words = list(arguments)
    at = 0
    while at < len(words):
        word, rest = words[at], words[at + 1 :]
        at += 1
        flag = word.partition("=")[0]
        if flag in ("--run", "-r") and ("=" in word or (rest and not _begins_anew(rest[0]))):
            typed, meant, used = _flag(word, rest)
            wrong.append(Mistyped(typed, Override.parse(f"run={meant.partition('=')[2]}")))
            at += used
        elif flag in ALONE or flag in VALUED or word == "--":
            flags.append(word)
            if flag in VALUED and "=" not in word and rest and not _begins_anew(rest[0]):
                flags.append(rest[0])
                at += 1
        elif word.startswith("-") and len(word) > 1:
            typed, meant, used = _flag(word, rest)
            wrong.append(Mistyped(typed, Override.parse(meant)))
            at += used
        elif word.startswith("~") or (KEY.fullmatch(flag) and "=" in word and word[-1] != "="):
            good.append(Override.parse(as_text(word, many)))
        else:
            typed, meant, used = _apart(word, rest)
            at += used
            if used == 0 and meant == word and "=" in word and KEY.fullmatch(flag):  # empty
                good.append(Override.parse(word))
            else:
                wrong.append(Mistyped(typed, Override.parse(meant)))
    return CommandLine(tuple(flags), tuple(good), tuple(wrong))


def _begins_anew(word: str) -> bool:
    return word.startswith("-") or ("=" in word and bool(KEY.fullmatch(word.partition("=")[0])))


def _flag(word: str, rest: Sequence[str]) -> tuple[str, str, int]:
    """Parse ``--batch-size 64`` as ``batch_size=64``.

    Returns:
        the text, the override that it means, and the number of arguments used of the rest.
    """
    name, equals, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if equals:
        return word, f"{key}={value}", 0
    if rest and (re.fullmatch(r"-?[\d.]+(e-?\d+)?", rest[0]) or not _begins_anew(rest[0])):
        return f"{word} {rest[0]}", f"{key}={rest[0]}", 1
    return word, f"{key}=true", 0


def _apart(word: str, rest: Sequence[str]) -> tuple[str, str, int]:
    """Parse ``method relahash`` and ``method = relahash`` as ``method=relahash``; see ``_flag``."""
    following = rest[0] if rest else ""
    if following == "=" and len(rest) > 1:
        return f"{word} = {rest[1]}", f"{word}={rest[1]}", 2
    if following.startswith("=") and len(following) > 1 and "=" not in word:
        return f"{word} {following}", f"{word}{following}", 1
    if following and not _begins_anew(following) and not following.startswith("~"):
        if word.endswith("="):
            return f"{word} {following}", f"{word}{following}", 1
        if "=" not in word and KEY.fullmatch(word):
            return f"{word} {following}", f"{word}={following}", 1
    return word, word, 0


def as_text(text: str, many: bool = False) -> str:
    """Return an override with its value quoted if Hydra would misread it."""
    name, equals, value = text.partition("=")
    if not equals or not value or name.startswith("~") or not KEY.fullmatch(name):
        return text
    if name.lstrip("+") in LISTS and value[0] not in "[$'\"" and "," not in value:
        return f"{name}=[{value}]" if value != "null" else text
    override, takes_text = parsed(text), is_text(name.lstrip("+"))
    in_quotes = f"{name}={quoted(value)}"
    if override is not None and value[0] in "'\"":
        return text
    there = takes_text and os.path.lexists(os.path.expanduser(value))
    if override is not None:
        if override.is_sweep_override():
            return in_quotes if there and not many else text
        given = override.value()
        if not takes_text or given is None or (isinstance(given, str) and given == value):
            return text
        if isinstance(given, list | dict) or (isinstance(given, str) and not there):
            return in_quotes if there else text
        return in_quotes
    if there:
        return in_quotes
    if value[0] in "[{" and value[-1] in "]}":
        pieces = value[1:-1].split(",")
        listed = f"{name}=[{','.join(map(_element, pieces))}]"
        return listed if value[0] == "[" and parsed(listed) is not None else text
    if many and "," in value:
        several = f"{name}={','.join(map(_element, value.split(',')))}"
        return several if parsed(several) is not None else in_quotes
    return in_quotes


def _element(piece: str) -> str:
    """Return one of several values, quoted if necessary."""
    return piece if parsed(f"key={piece}") is not None else quoted(piece.strip())


def is_text(key: str) -> bool:
    """Return whether a key takes a path or a name."""
    place, _, leaf = key.rpartition(".")
    return key in TEXTS or (place in ("dataset.source", "dataset.catalog") and leaf in SOURCE_TEXTS)


ORIGINS = ("init", "extend")
"""Keys of ``train`` that take the folder of another run."""

FOLDERS = ("run", "runs", "out", *ORIGINS)
"""Keys that take folders, of all commands."""

SEVERAL = ("runs", "query")
"""Keys that take a path or a list of paths."""


def quote_folders(arguments: Iterable[str], keys: Sequence[str] = FOLDERS) -> list[str]:
    """Quote the folders in ``run=FOLDER``, ``runs=[FOLDER,FOLDER]`` and ``out=FOLDER``.

    The names of run folders hold ``,`` and ``=``, which are syntax for Hydra. Several folders are
    quoted one by one if they exist.

    Args:
        arguments: of the command line.
        keys: whose values are paths.
    """
    return [_with_folders(text, keys) for text in arguments]


def _with_folders(text: str, keys: Sequence[str]) -> str:
    key, _, folder = text.partition("=")
    if key not in keys or folder[:1] in ("'", '"') or folder == "null":
        return text
    if key in SEVERAL and not os.path.exists(folder):
        folders = _parted(folder.removeprefix("[").removesuffix("]").split(","))
        if folders is not None:
            return f"{key}=[{','.join(map(quoted, folders))}]"
    return text if folder.startswith("[") else f"{key}={quoted(folder)}"


def _parted(pieces: Sequence[str]) -> list[str] | None:
    """Join pieces between commas to existing folders, whose names may hold commas.

    Returns:
        the folders; None if the pieces do not form existing folders.
    """
    for end in range(len(pieces), 0, -1):
        folder = ",".join(pieces[:end]).strip()
        rest = _parted(pieces[end:]) if os.path.exists(os.path.expanduser(folder)) else None
        if rest is not None:
            return [folder, *rest]
    return None if pieces else []
