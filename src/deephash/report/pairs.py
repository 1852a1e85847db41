"""Paired differences between the rows of a section: what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deephash.report.cells import Entry
from deephash.report.formats import signed
from deephash.report.grid import Key, Section

FEW_SEEDS = 5

HEAD = ["row", "less", "points", "95 % interval", "seeds", "queries", "excludes 0"]


@dataclass(frozen=True)
class Pair:
    """By how much a row differs from another one in one column."""

    column: Any
    row: Key
    reference: Key
    mean: float  # mAP of the row less that of the reference
    low: float
    high: float
    seeds: int
    queries: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Refused:
    """Two rows that were not compared in one column."""

    column: Any
    row: Key
    reference: Key
    why: str


@dataclass(frozen=True)
class Pairs:
    """All pairs of a section, and why others were not compared."""

    pairs: tuple[Pair, ...]
    refused: tuple[Refused, ...]
    chosen: bool  # the reference is the best of its column, not named beforehand
    draws: int


def references(
    section: Section, cells: dict[tuple[Key, Any], Entry], compare: str
) -> dict[Any, Key]:
    """For each column the row that the others are compared with, where there is one.

    Args:
        section: of the rows.
        cells: its entries.
        compare: ``best``, or the name of a row.
    """
    found: dict[Any, Key] = {}
    for (row, column), entry in cells.items():
        wanted = entry.rank == 1 if compare == "best" else section.name_of(row) == compare
        if wanted and entry.told:
            found.setdefault(column, row)
    return found


def tables(section: Section, pairs: Pairs) -> list[tuple[str, list[str], list[list[str]]]]:
    """A table for each column: title, head and lines, differences in points of mAP."""
    made = []
    for column in section.columns:
        lines = [
            [
                section.name_of(pair.row),
                section.name_of(pair.reference),
                signed(100 * pair.mean, 2),
                f"{signed(100 * pair.low, 2)} to {signed(100 * pair.high, 2)}",
                str(pair.seeds),
                f"{pair.queries:,}",
                "yes" if pair.certain else "no",
            ]
            for pair in pairs.pairs
            if pair.column == column
        ]
        if lines:
            made.append((section.head_of(column), HEAD, lines))
    return made


def said(section: Section, pairs: Pairs) -> list[str]:
    """What the intervals mean, and which rows were not compared, in sentences."""
    lines = []
    if pairs.pairs:
        lines += _meaning(pairs.pairs, pairs.draws)
        if pairs.chosen:
            lines.append(
                "The reference is the best of its column on the same queries, so chance favours "
                "it; compare=ROW names one beforehand."
            )
    return lines + _refusals(section, pairs.refused)


def _refusals(section: Section, refused: Sequence[Refused]) -> list[str]:
    """A sentence for each reason."""
    rows: dict[str, dict[tuple[Any, Key], list[str]]] = {}
    for one in refused:
        where = rows.setdefault(one.why, {}).setdefault((one.column, one.reference), [])
        where.append(section.name_of(one.row))
    return [
        f"Not compared, because {why}: "
        + "; ".join(
            f"{section.head_of(column)}, {', '.join(names)} with {section.name_of(reference)}"
            for (column, reference), names in places.items()
        )
        + "."
        for why, places in rows.items()
    ]


def _meaning(pairs: Sequence[Pair], draws: int) -> list[str]:
    seeds, many = min(pair.seeds for pair in pairs), len(pairs)
    others = "other queries" if seeds == 1 else "other seeds and queries"
    lines = [
        "Points of mAP, the same seeds and the same queries on both sides; positive where the row "
        f"is better. The interval holds the middle 95 % of {draws:,} bootstrap draws, in which "
        f"seeds and queries are resampled independently. Where it excludes 0, {others} like these "
        "would rarely turn the order around; where it does not, these runs do not tell which of "
        "the two is better."
    ]
    if seeds == 1:
        lines.append(
            "With one seed only queries are resampled: such an interval is about these trained "
            "networks, and does not hold what another seed would change."
        )
    elif seeds < FEW_SEEDS:
        lines.append(
            f"{seeds} seeds are few: resampling them shows less than seeds really vary, and the "
            "intervals are too narrow for it."
        )
    if many > 1:
        lines.append(
            f"These are {many} intervals, not corrected for being so many: if no row differed, "
            "about one in twenty would exclude 0 all the same."
        )
    return lines
