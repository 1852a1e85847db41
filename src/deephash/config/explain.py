"""Explain the faults of a command line, and suggest what to type instead.

Every suggestion was composed and checked before, so it is accepted as it stands.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from deephash.config import overrides as syntax
from deephash.config.faults import Fault
from deephash.config.overrides import Mistyped, Override, parse_all
from deephash.config.resolve import SLOTS, resolve
from deephash.config.synonyms import BY_WORD, CHOICES, Synonym
from deephash.config.validate import UNKNOWN, assignment, quoted
from deephash.errors import ConfigError
from deephash.utils import program
from deephash.utils.files import expand_path
from deephash.utils.nested import get_nested

Compose = Callable[[Sequence[Override]], Any]
Check = Callable[[dict[str, Any]], list[Fault]]

FIRST = ("trainer", "model", "optimizer", "scheduler", "loss", "method.loss", "evaluation",
         "backbone", "dataset", "paths", "logger", "method")  # fmt: skip
"""Nodes in the order in which they are searched for a key of a given name."""

NEVER = ("dataset.schedule", "dataset.expected")
"""Nodes that only other keys refer to; never suggested."""

IDLE = ("trainer.batch_size", "trainer.epochs")
"""Keys that the page of ``data`` has and does not read."""

AVAILABLE = re.compile(r"Available options in '[^']*':\n((?:\t\S+\n?)+)")
"""The options of a group in an error message of Hydra."""

PLACEHOLDER = Override.parse("dataset.root=FOLDER")
"""An override that some datasets need in addition."""


class Suggestions:
    """Find the keys and options that a mistyped override may mean.

    Args:
        compose: ``(overrides) -> config``, raising what Hydra raises.
        check: ``(resolved) -> faults``.
        given: the valid overrides.
    """

    def __init__(self, compose: Compose, check: Check, given: Sequence[Override]) -> None:
        self._compose, self._check, self.given = compose, check, list(given)
        self._page: dict[str, Any] | None = None

    @property
    def page(self) -> dict[str, Any]:
        """The composed page, as plain values."""
        if self._page is None:
            cfg = self._compose(self.given)
            try:
                plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
            except Exception:  # a wrong reference is reported elsewhere
                plain = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
            assert isinstance(plain, dict)
            self._page = {str(key): value for key, value in plain.items()}
        return self._page

    def keys(self) -> list[str]:
        """Return all keys of the page that may be suggested."""
        return [key for key in _keys(self.page) if not key.startswith(NEVER)]

    def accepts(self, some: Sequence[Override]) -> bool:
        """Return whether overrides compose, without faults at their own keys."""
        keys = {one.key for one in some}
        try:
            cfg = self._compose([*self.given, *some])
            if "hydra" in cfg:  # of a launcher: composed, its values are checked later
                return True
            cfg = resolve(cfg, [*self.given, *some])
        except Exception:
            return False
        return not any(_same_place(fault.key, key) for fault in self._check(cfg) for key in keys)

    def first(self, candidates: Iterable[str]) -> str | None:
        """Return the first accepted candidate, if necessary with a root of the data; else None."""
        for candidate in dict.fromkeys(candidates):
            if "do" in self.page and candidate.startswith(IDLE):
                continue
            some = _overrides(candidate)
            if self.accepts(some):
                return _shown(some)
            if candidate.startswith("dataset=") and self.accepts([*some, PLACEHOLDER]):
                return _shown([*some, PLACEHOLDER])
        return None

    def of_key(self, key: str, value: str) -> str:
        """Return what to type instead of ``key=value``, as a sentence."""
        entry = _synonym(key)
        candidates = [*_meant(entry, value), *self._near(key, value)]
        if entry is None:
            candidates = list(self._near(key, value))
        suggestion = self.first(candidates)
        noted = entry or _synonym(key.rpartition(".")[2])
        note = "" if noted is None or not noted.note else f" {noted.note}"
        if suggestion is not None:
            return f"Did you mean {suggestion}?{note}"
        for candidate in candidates if entry is None else _meant(entry, value):  # not this value
            last = _overrides(candidate)[-1].key
            if last in self.keys() and not isinstance(
                default := get_nested(self.page, *last.split(".")), Mapping
            ):
                return f"Did you mean {last}? Its default is {assignment(last, default)}.{note}"
        return note.strip() or "See all keys with --cfg job."

    def _near(self, key: str, value: str) -> Iterator[str]:
        """Yield overrides of similar keys, the most likely first."""
        keys = [
            known
            for known in self.keys()
            if not isinstance(get_nested(self.page, *known.split(".")), Mapping)
        ]
        typed = shlex.quote(value)
        group, _, leaf = key.rpartition(".")
        if group in SLOTS:
            yield f"method.{key}={typed}"
        same = [known for known in keys if known.rpartition(".")[2] == leaf]
        for known in sorted(same, key=_rank):
            yield f"{known}={typed}"
        beside = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == group]
        for near in difflib.get_close_matches(leaf, beside if group else [], n=2, cutoff=0.75):
            yield f"{group}.{near}={typed}"
        if group and (entry := _synonym(leaf)) is not None:
            yield from _meant(entry, value)
        likely = [] if group in _keys(self.page) else sorted(keys, key=_rank)
        for known in difflib.get_close_matches(key, likely, n=2, cutoff=0.7):
            yield f"{known}={typed}"
        leaves: dict[str, str] = {}
        for known in sorted(keys, key=_rank):
            leaves.setdefault(known.rpartition(".")[2], known)
        for near in difflib.get_close_matches(leaf, leaves, n=2, cutoff=0.8):
            yield f"{leaves[near]}={typed}"

    def of_choice(self, group: str, name: str, there: Sequence[str], listed: str = "") -> str:
        """Return what to type instead of an option that a group does not have.

        Args:
            group: the key.
            name: the option.
            there: the options of the group.
            listed: the list that contains the option, as it was typed; empty if it is alone.
        """
        bare = {_bare(one): one for one in there}
        candidates = []
        if (known := CHOICES.get(group, {}).get(_bare(name))) is not None:
            candidates.append(known)
        if _bare(name) in bare:
            candidates.insert(0, bare[_bare(name)])
        if group == "backbone":
            candidates.append(f"torchvision backbone.name={shlex.quote(name)}")
        near = difflib.get_close_matches(_bare(name), bare, n=2, cutoff=0.6)
        candidates += [bare[one] for one in near]
        if group == "backbone":  # last: timm takes seconds to import
            candidates.append(f"timm backbone.name={shlex.quote(name)}")
        if listed:
            candidates = [
                re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", one, listed)
                for one in candidates
            ]
        suggestion = self.first(f"{group}={one}" for one in candidates)
        known = f"There are {', '.join(there)}."
        return known if suggestion is None else f"Did you mean {suggestion}? {known}"


def explain(
    overrides: Sequence[Override],
    compose: Compose,
    check: Check,
    mistyped: Sequence[Mistyped] = (),
) -> list[Fault]:
    """Return the faults of single overrides, and of the configuration without these overrides.

    Args:
        overrides: the command line without its flags.
        compose: ``(overrides) -> config``, raising what Hydra raises.
        check: ``(resolved) -> faults``.
        mistyped: arguments of the command line that are not overrides.

    """
    faults: list[Fault] = []
    good: list[Override] = []
    bad: list[tuple[Override, Override, Exception]] = []
    for override in sorted(overrides, key=lambda one: "." in one.key):  # groups first
        try:
            single = override.single
        except Exception as error:
            faults.append(Fault(override.key, _first_line(error), _in_quotes(override)))
            continue
        for one in single:
            try:
                compose([*good, one])
            except Exception as error:
                bad.append((override, one, error))
                break
        else:
            good.append(single[0])
    suggestions = Suggestions(compose, check, good)
    for override, one, why in bad:
        instead = _instead(override, one, suggestions, why)
        faults.append(Fault(override.key, _first_line(why, override.key), instead))
    faults += [_explain_mistyped(one, suggestions) for one in mistyped]
    try:
        resolved = resolve(compose(good), overrides)
    except ConfigError:
        if not faults:
            raise
        return faults
    known = {fault.key for fault in faults}
    for fault in faults:  # a suggested key is not reported as missing as well
        known |= set(re.findall(r"([\w.]+)=", fault.hint.partition("Did you mean ")[2]))
    given = {one.key: one for one in overrides if not one.deletes}
    for fault in check(resolved):
        if fault.key in known:
            continue
        if fault.message == UNKNOWN and fault.key in given:  # typed with a +
            rest = [one for one in good if one.deletes or one.key != fault.key]
            way = Suggestions(compose, check, rest).of_key(fault.key, given[fault.key].plain)
            fault = Fault(fault.key, fault.message, way)
        faults.append(fault)
    return faults


def several(overrides: Sequence[Override], page: str) -> list[Fault]:
    """Return the faults of overrides with several values on a page that takes one value."""
    faults = []
    for one in overrides:
        if not one.is_sweep:
            continue
        as_one = _shown([Override.parse(f"{one.mark}{one.key}={quoted(one.value or '')}")])
        way = f"Type one of them, or as one text {as_one}."
        if page == "train":
            line = shlex.join(syntax.texts(overrides))
            way = f"Several runs are a grid: {program.command(page)} -m {line}"
            if syntax.is_text(one.key):
                way += f"\n  {'':<{len(one.key)}}  As one text: {as_one}"
        elif one.key in ("sweep", "runs"):
            way = f"Type a list: {_shown([Override.parse(f'{one.key}=[{one.value}]')])}."
        faults.append(Fault(one.key, f"has several values: {one.value}.", way))
    return faults


def _explain_mistyped(one: Mistyped, suggestions: Suggestions) -> Fault:
    key = one.meant.key
    if "run" in suggestions.page and expand_path(one.typed).is_dir():
        way = f"Did you mean {_shown([Override.of('run', one.typed)])}?"
        return Fault(one.typed, "is a folder without its key.", way)
    if one.meant.value is None or not key:
        page = suggestions.page
        groups = [group for group in page if isinstance(page[group], Mapping)]
        way = "Values are given as key=value."
        for group in ("method", "dataset", "backbone", "optimizer", "experiment"):
            if group in groups and suggestions.first([f"{group}={shlex.quote(key)}"]):
                way = f"Did you mean {group}={key}?"
                break
        else:
            texts = (f"{name}={shlex.quote(key)}" for name in ("sweep", "run"))
            suggestion = suggestions.first(texts)
            way = way if suggestion is None else f"Did you mean {suggestion}?"
        return Fault(one.typed, "is no key with a value.", way)
    meant = Override.of(key, one.meant.value, one.meant.mark)
    if suggestions.accepts([meant]):
        way = f"Did you mean {_shown([meant])}?"
        return Fault(one.typed, "is not how values are given.", way)
    try:
        suggestions._compose([*suggestions.given, meant])
    except Exception as error:
        way = _instead(meant, meant, suggestions, error)
    else:
        way = "Values are given as key=value."
    return Fault(one.typed, "is not how values are given.", way)


def _instead(
    typed: Override, given: Override, suggestions: Suggestions, error: BaseException
) -> str:
    """Return what to type instead of an override that Hydra refuses.

    Args:
        typed: the override.
        given: the same override with the value that is refused.
        suggestions: of the page.
        error: Hydra's.
    """
    text = f"{error}\n{error.__cause__ or ''}"
    key, plain = typed.key, given.plain
    loaded = re.search(rf"Could not load '{re.escape(key)}/([^']+)'", text)  # of a list of options
    if loaded and (there := _options(suggestions, key)):
        return suggestions.of_choice(key, loaded.group(1), there, plain)
    if single := AVAILABLE.search(text):
        return suggestions.of_choice(key, plain, single.group(1).split())
    if "group override must be" in text and (there := _options(suggestions, key)):
        return suggestions.of_choice(key, plain, there)
    if options := re.search(r"expected one of \[(.*?)\]", text):
        there = [one.strip() for one in options.group(1).split(",")]
        near = difflib.get_close_matches(_bare(plain), there, n=1)
        meant = f"Did you mean {key}={near[0]}? " if near else ""
        return f"{meant}It is one of {options.group(1)}."
    if typed.deletes:
        return f"Leave out {typed}."
    if "already at" in text:
        return f"Type it without +: {_shown([Override.parse(f'{key}={given.value}')])}."
    keys = _keys(suggestions.page)
    if key in keys and _is_unknown(error):
        return "The default has it; what is chosen here has not."
    if key in keys and not isinstance(
        default := get_nested(suggestions.page, *key.split(".")), Mapping
    ):
        if default == "???":
            return f"Give it a value: {key}=..."
        return f"Its default is {assignment(key, default)}."
    entry = _synonym(key)
    if key in keys and entry and (suggestion := suggestions.first(_meant(entry, plain))):
        return f"Did you mean {suggestion}? {key} has values of its own: --cfg job."
    if key in keys:
        inner = ", ".join(f"{key}.{name}" for name in get_nested(suggestions.page, *key.split(".")))
        return f"It holds {inner}." if inner else "See all keys with --cfg job."
    if key == "dataset.root":
        return "The digits read no folder; choose dataset=folder or dataset=cifar10 with it."
    return suggestions.of_key(key, plain)


def _options(suggestions: Suggestions, group: str) -> list[str]:
    """Return the options of a group, from Hydra's refusal of another; empty if it is no group."""
    try:
        suggestions._compose([*suggestions.given, Override.parse(f"{group}=no_such_option")])
    except Exception as error:
        if match := AVAILABLE.search(f"{error}"):
            return match.group(1).split()
    return []


def _in_quotes(override: Override) -> str:
    """Return what to type instead of an override that cannot be parsed."""
    name = f"{override.mark}{override.key}"
    if override.value is None or syntax.KEY.fullmatch(name) is None:
        return "Write it as key=value."
    return f"If it is a text, type {_shown([Override.parse(f'{name}={quoted(override.value)}')])}"


def _first_line(error: BaseException, key: str = "") -> str:
    text = f"{error}\n{error.__cause__ or ''}"
    if _is_unknown(error):
        return "there is no such key."
    if value := re.search(r"Invalid value '([^']*)'", text):
        return f"{value.group(1)!r} is no choice."
    if options := re.search(r"Could not (?:find|load) '([^']*)'", text):
        return f"there is no {options.group(1)}."
    if value := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        return f"{value.group(1)!r} is not {kind.get(value.group(2), value.group(2))}."
    if "does not support deletion" in text or "Could not delete" in text:
        return "cannot be taken out."
    if "already at" in text:
        return "is there already."
    if "group override must be" in text:
        return "takes a name."
    if "Error merging override" in text and key:
        return "does not take this value."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".") + "."


def _is_unknown(error: BaseException) -> bool:
    return "Could not override" in f"{error}" or "is not in struct" in f"{error.__cause__ or ''}"


def _synonym(key: str) -> Synonym | None:
    return BY_WORD.get(key.lower().replace("-", "_"))


def _meant(entry: Synonym | None, value: str) -> list[str]:
    """Return the overrides that an entry of the table stands for."""
    if entry is None:
        return []
    typed = shlex.quote(value)
    made = [one.format(typed) if isinstance(one, str) else one(value) for one in entry.meant]
    return [one for one in made if one]


def _rank(key: str) -> tuple[int, int, str]:
    """Return the sort key of a suggestion: by node, then from short to long."""
    places = [at for at, node in enumerate(FIRST) if key.startswith(f"{node}.")]
    return (min(places, default=len(FIRST)), key.count("."), key)


def _same_place(fault: str, key: str) -> bool:
    return fault == key or fault.startswith(f"{key}.") or key.startswith(f"{fault}.")


def _overrides(candidate: str) -> tuple[Override, ...]:
    """Parse a suggestion in the syntax of a shell."""
    return parse_all(syntax.as_text(text) for text in shlex.split(candidate))


def _shown(some: Iterable[Override]) -> str:
    """Return overrides in the syntax of a shell."""
    return " ".join(
        text
        if re.fullmatch(r"[\w./=:+\-,%@~]+", text) and text.isascii()
        else ('"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"')
        for text in syntax.texts(some)
    )


def _bare(name: str) -> str:
    return re.sub(r"[\s_.\-]", "", name.lower())


def _keys(node: Any, path: str = "") -> list[str]:
    if not isinstance(node, Mapping):
        return []
    keys = []
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        keys += [here, *_keys(value, here)]
    return keys
