"""Paired differences between the rows of a section: data, tables and notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deephash.report.results import Key, Section
from deephash.report.tables import format_difference

FEW_SEEDS = 5

PAIR_COLUMNS = ["row", "less", "points", "95 % interval", "seeds", "queries", "excludes 0"]


@dataclass(frozen=True)
class Pair:
    """Difference between a row and the reference row in one column."""

    column: Any
    row: Key
    reference: Key
    mean: float  # mAP of the row minus that of the reference
    low: float
    high: float
    seeds: int
    queries: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class NotCompared:
    """Two rows that could not be compared in one column."""

    column: Any
    row: Key
    reference: Key
    reason: str


@dataclass(frozen=True)
class PairedResults:
    """All paired differences of a section, and the rows that could not be compared."""

    pairs: tuple[Pair, ...]
    not_compared: tuple[NotCompared, ...]
    best_chosen: bool  # the reference is the best of its column, not named beforehand
    draws: int


def reference_by_column(section: Section, compare: str) -> dict[Any, Key]:
    """Return for each column the row that the others are compared with, if there is one.

    Args:
        section: of the rows.
        compare: ``best``, or the name of a row.
    """
    references: dict[Any, Key] = {}
    for (row, column), cell in section.cells.items():
        wanted = cell.rank == 1 if compare == "best" else section.row_name(row) == compare
        if wanted and cell.included:
            references.setdefault(column, row)
    return references


def pair_tables(
    section: Section, results: PairedResults
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, head and lines of a table for each column; differences in points of mAP."""
    tables = []
    for column in section.columns:
        lines = []
        for pair in (pair for pair in results.pairs if pair.column == column):
            mean, low, high = (
                format_difference(100 * value, 2) for value in (pair.mean, pair.low, pair.high)
            )
            names = section.row_name(pair.row), section.row_name(pair.reference)
            answer = "yes" if pair.excludes_zero else "no"
            queries = f"{pair.queries:,}"
            lines.append([*names, mean, f"{low} to {high}", str(pair.seeds), queries, answer])
        if lines:
            tables.append((section.column_name(column), PAIR_COLUMNS, lines))
    return tables


def pair_notes(section: Section, results: PairedResults) -> list[str]:
    """Return sentences on the meaning of the intervals, and on rows that were not compared."""
    lines = []
    if results.pairs:
        lines += _interval_notes(results.pairs, results.draws)
        if results.best_chosen:
            lines.append(
                "The reference is the best of its column on the same queries, so chance favours "
                "it; compare=ROW names one beforehand."
            )
    by_reason: dict[str, dict[tuple[Any, Key], list[str]]] = {}
    for item in results.not_compared:
        rows = by_reason.setdefault(item.reason, {})
        rows.setdefault((item.column, item.reference), []).append(section.row_name(item.row))
    for reason, rows in by_reason.items():
        pairs = "; ".join(
            f"{section.column_name(column)}, {', '.join(names)} with {section.row_name(reference)}"
            for (column, reference), names in rows.items()
        )
        lines.append(f"Not compared, because {reason}: {pairs}.")
    return lines


def _interval_notes(pairs: Sequence[Pair], draws: int) -> list[str]:
    seeds = min(pair.seeds for pair in pairs)
    others = "other queries" if seeds == 1 else "other seeds and queries"
    lines = [
        "Points of mAP, for the same seeds and queries on both sides; positive where the row "
        f"is better. The interval contains the middle 95 % of {draws:,} bootstrap draws, in which "
        f"seeds and queries are resampled independently. Where it excludes 0, {others} like these "
        "would rarely reverse the order; where it does not, these runs do not show which of "
        "the two is better."
    ]
    if seeds == 1:
        lines.append(
            "With one seed only queries are resampled: such an interval holds for these trained "
            "networks, and does not include what another seed would change."
        )
    elif seeds < FEW_SEEDS:
        lines.append(
            f"{seeds} seeds are few: resampling them underestimates how much seeds vary, so the "
            "intervals are too narrow."
        )
    if len(pairs) > 1:
        lines.append(
            f"These are {len(pairs)} intervals, not corrected for multiple comparisons: if no row "
            "differed, about one in twenty would still exclude 0."
        )
    return lines
