"""The answer of a section in sentences: the best row of each column, and how far the others are."""

from collections.abc import Sequence

from deephash.report.paired_results import Pair, PairedResults
from deephash.report.results import Key, Section
from deephash.report.values import metric_name

MOST_NAMED = 4
"""Rows that a sentence names; of more, the nearest ones and the last."""


def answer_sentences(section: Section, results: PairedResults | None) -> list[str]:
    """Return a sentence or more for each column: the best row, and the differences to it.

    Args:
        section: of the rows.
        results: paired differences of the section, if they were computed.
    """
    return [
        text for column in section.columns if (text := _column_answer(section, column, results))
    ]


def _column_answer(section: Section, column: object, results: PairedResults | None) -> str:
    ranked = {
        row: cell.mean
        for (row, at), cell in section.cells.items()
        if at == column and cell.included and not cell.state
    }
    best = [row for row in ranked if section.cells[row, column].rank == 1]
    if not best or len(ranked) < 2:
        return ""
    digits, metric = section.layout.digits, metric_name(section.cells[best[0], column].included[0])
    label = section.row_label if len(section.keys) == 1 and section.keys != ("method",) else ""
    value = f"{ranked[best[0]]:.{digits}f}"
    names = _joined([_name(section, row, label if not at else "") for at, row in enumerate(best)])
    verb = "has" if len(best) == 1 else "have"
    parts = [f"{_sentence_start(section, column)}{names} {verb} the highest {metric}, {value}."]
    pairs = [pair for pair in (results.pairs if results else ()) if pair.column == column]
    if not pairs:
        return parts[0]
    reference = pairs[0].reference
    to = "" if reference in best else f" from {_name(section, reference, label)}"
    equal = [pair for pair in pairs if not pair.excludes_zero]
    if equal:
        listed = _joined(_limited([section.row_name(pair.row) for pair in equal]))
        parts.append(f"The interval of the difference{to or ' from it'} contains 0 for {listed}.")
    for word, some in (
        ("lower", [pair for pair in pairs if pair.high < 0]),
        ("higher", [pair for pair in pairs if pair.low > 0]),
    ):
        if some:
            some = sorted(some, key=lambda pair: abs(pair.mean))
            listed = _joined(_limited([_difference(section, pair) for pair in some]))
            than = f" than {_name(section, reference, label)}" if to else ""
            parts.append(f"{word.capitalize()}{than}: {listed}.")
    return " ".join(parts)


def _sentence_start(section: Section, column: object) -> str:
    if len(section.columns) == 1 and section.layout.columns != "model.nbit":
        return ""
    name = section.column_name(column)
    return f"At {name}, " if name.endswith(" bits") else f"With {name}, "


def _name(section: Section, row: Key, label: str) -> str:
    name = section.row_name(row)
    return f"{label} = {name}" if label else name


def _difference(section: Section, pair: Pair) -> str:
    """Return a row with its difference in points and the 95 % interval."""
    low, high = sorted(abs(100 * value) for value in (pair.low, pair.high))
    mean = abs(100 * pair.mean)
    return f"{section.row_name(pair.row)} by {mean:.1f} points ({low:.1f} to {high:.1f})"


def _limited(texts: Sequence[str]) -> list[str]:
    """Return the first texts and the last one, with the number of those between."""
    if len(texts) <= MOST_NAMED:
        return list(texts)
    between = len(texts) - MOST_NAMED
    return [*texts[: MOST_NAMED - 1], f"{between} more", texts[-1]]


def _joined(texts: Sequence[str]) -> str:
    """Return texts as an enumeration.

    >>> _joined(["a"]), _joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
