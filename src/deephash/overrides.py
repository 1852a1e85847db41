"""Read the words of a command line: values that Hydra takes for syntax, words without ``=``.

Hydra's grammar reads ``~``, ``(``, ``=``, ``,``, ``#``, letters beyond ASCII and more in a value as
syntax. A value that is no list and no sweep is a text here, whatever it holds.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from deephash.validate import quoted

KEY = re.compile(r"(\+\+|\+)?[A-Za-z_][\w./@-]*")

ALONE = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "-r",
    "--multirun",
    "-m",
}
"""Hydra's flags without a value."""

VALUED = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--shell-completion", "-sc",
          "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun"}  # fmt: skip
"""Hydra's flags that a value follows, or may follow."""

TEXTS = {"run", "runs", "out", "group", "sweep", "compare", "prefix", "checkpoint", "device",
         "dataset.root", "dataset.lists", "dataset.name", "dataset.protocol", "backbone.weights",
         "backbone.name", "method.name", "paths.outputs", "paths.data", "paths.cache",
         "trainer.device", "evaluation.convention", "logger.wandb.project", "logger.wandb.entity",
         "hydra.launcher.folder", "hydra.launcher.partition", "hydra.launcher.account",
         "hydra.launcher.qos", "hydra.launcher.constraint", "hydra.launcher.address"}  # fmt: skip
"""Keys that take a path or a name: 2024, 1e3 and true are texts there."""

SOURCE_TEXTS = {"root", "lists", "train", "queries", "database", "split", "truth", "labels",
                "images", "image_list", "annotations", "file", "path", "label", "role", "name",
                "strip_prefix", "identity", "origin", "cache", "separator", "encoding"}  # fmt: skip
"""The same below ``dataset.source`` and ``dataset.catalog``."""


@dataclass(frozen=True)
class Mistyped:
    """Words of a command line that are no override, and the one that they seem to mean."""

    typed: str
    meant: str


def parsed(text: str) -> Any | None:
    """An override as Hydra reads it; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(text)
    except Exception:  # ANTLR's errors, and Hydra's own
        return None


def read(arguments: Sequence[str], many: bool = False) -> tuple[list[str], list[Mistyped]]:
    """Sort out a command line.

    Args:
        arguments: as the shell gives them.
        many: whether commas separate the values of a grid (``-m``).

    Returns:
        the arguments that Hydra may read, values quoted where they must be; and the others.
    """
    good: list[str] = []
    wrong: list[Mistyped] = []
    words = list(arguments)
    at = 0
    while at < len(words):
        word, rest = words[at], words[at + 1 :]
        at += 1
        flag = word.partition("=")[0]
        if flag in ("--run", "-r") and ("=" in word or (rest and not _begins_anew(rest[0]))):
            typed, meant, used = _flag(word, rest)
            wrong.append(Mistyped(typed, f"run={meant.partition('=')[2]}"))
            at += used
        elif flag in ALONE or flag in VALUED or word == "--":
            good.append(word)
            if flag in VALUED and "=" not in word and rest and not _begins_anew(rest[0]):
                good.append(rest[0])
                at += 1
        elif word.startswith("-") and len(word) > 1:
            typed, meant, used = _flag(word, rest)
            wrong.append(Mistyped(typed, meant))
            at += used
        elif word.startswith("~") or (KEY.fullmatch(flag) and "=" in word and word[-1] != "="):
            good.append(as_text(word, many))
        else:
            typed, meant, used = _apart(word, rest)
            at += used
            if used == 0 and meant == word and "=" in word and KEY.fullmatch(flag):  # empty
                good.append(word)
            else:
                wrong.append(Mistyped(typed, meant))
    return good, wrong


def _begins_anew(word: str) -> bool:
    return word.startswith("-") or ("=" in word and bool(KEY.fullmatch(word.partition("=")[0])))


def _flag(word: str, rest: Sequence[str]) -> tuple[str, str, int]:
    """``--batch-size 64`` as ``batch_size=64``; how many words of the rest belong to it."""
    name, equals, value = word.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if equals:
        return word, f"{key}={value}", 0
    if rest and (re.fullmatch(r"-?[\d.]+(e-?\d+)?", rest[0]) or not _begins_anew(rest[0])):
        return f"{word} {rest[0]}", f"{key}={rest[0]}", 1
    return word, f"{key}=true", 0


def _apart(word: str, rest: Sequence[str]) -> tuple[str, str, int]:
    """``method relahash`` and ``method = relahash`` as ``method=relahash``."""
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
    """An override with its value in quotes where Hydra would take it for something else."""
    key, equals, value = text.partition("=")
    if not equals or not value or key.startswith("~") or not KEY.fullmatch(key):
        return text
    override, takes_text = parsed(text), is_text(key.lstrip("+"))
    in_quotes = f"{key}={quoted(value)}"
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
        listed = f"{key}=[{','.join(map(_element, pieces))}]"
        return listed if value[0] == "[" and parsed(listed) is not None else text
    if many and "," in value:
        several = f"{key}={','.join(map(_element, value.split(',')))}"
        return several if parsed(several) is not None else in_quotes
    return in_quotes


def _element(piece: str) -> str:
    """One of several values, in quotes if it must be."""
    return piece if parsed(f"key={piece}") is not None else quoted(piece.strip())


def is_text(key: str) -> bool:
    """Whether a key takes a path or a name."""
    place, _, leaf = key.rpartition(".")
    return key in TEXTS or (place in ("dataset.source", "dataset.catalog") and leaf in SOURCE_TEXTS)


def values(text: str) -> list[str]:
    """An override as it is; of a sweep, one override for each of its values.

    Raises:
        Exception: of Hydra's, if it is none.
    """
    override = OverridesParser.create().parse_override(text)
    if not override.is_sweep_override():
        return [text]
    key = text.partition("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
