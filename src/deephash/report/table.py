"""Several runs as one table: a row for each method, a column for each number of bits."""

import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from deephash.utils.formatting import number

Report = Mapping[str, Any]


def markdown(reports: Sequence[Report], names: Mapping[str, str] | None = None) -> str:
    """The mAP of runs, mean and standard deviation over their seeds, as Markdown tables.

    One table for each dataset and protocol; runs that differ in more than method, bits and seed
    have rows of their own. The deviation is that of a sample (n - 1). A cell whose runs were
    measured under another convention, or on other data, than the first of the table is marked.

    Args:
        reports: as in ``report.json``.
        names: of rows, by the run; without one a run's own name tells in what it differs.
    """
    tables: dict[tuple[str, str], list[Report]] = defaultdict(list)
    for report in reports:
        protocol = report["protocol"]
        tables[protocol["dataset"], protocol["protocol"]].append(report)
    rows = {report["run"]: label(report["run"]) for report in reports} | dict(names or {})
    return "\n\n".join(_table(*where, some, rows) for where, some in tables.items())


def _table(dataset: str, protocol: str, reports: Sequence[Report], rows: Mapping[str, str]) -> str:
    first = measured(reports[0])
    bits = sorted({report["nbit"] for report in reports})
    cells: dict[str, dict[int, list[Report]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        cells[rows[report["run"]]][report["nbit"]].append(report)
    seeds = ", ".join(str(seed) for seed in sorted({report["seed"] for report in reports}))
    lines = [
        f"{reports[0]['metrics']['conventions']['metric']}, {dataset}, protocol {protocol},"
        f" fingerprint {reports[0]['protocol']['fingerprint'][:16]}; mean ± sd over seeds {seeds}",
        "",
        "| method | " + " | ".join(f"{nbit} bits" for nbit in bits) + " |",
        "|---" * (len(bits) + 1) + "|",
    ]
    for name, row in cells.items():
        found = [_cell(row.get(nbit, []), first) for nbit in bits]
        lines.append(f"| {name} | " + " | ".join(found) + " |")
    if any("*" in line for line in lines[4:]):
        lines += ["", "\\* measured under another convention, or on other data"]
    if any("—" in line for line in lines[4:]):
        lines += ["", "— images without labels: there is no mAP"]
    return "\n".join(lines)


def _cell(reports: Sequence[Report], first: Any) -> str:
    if not reports:
        return ""
    values = [value for report in reports if (value := report["metrics"]["map"]) is not None]
    if not values:
        return "—"
    text = number(statistics.fmean(values))
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.4f}"
    mark = any(measured(report) != first for report in reports)
    return text + (" \\*" if mark else "")


def measured(report: Report) -> tuple[str, str]:
    """On what a run was measured, and how: numbers that differ in it do not compare."""
    conventions = (report.get("metrics") or {}).get("conventions") or {}
    told = {
        key: value for key, value in conventions.items() if value is not None and key != "family"
    }
    fingerprint = (report.get("protocol") or {}).get("fingerprint")
    return str(fingerprint or ""), repr(sorted(told.items()))


def label(name: str) -> str:
    """What a run's name says beside its dataset, bits and seed.

    >>> label("cifar10/csq+lmcl/32bit/seed0,loss.margin=0.5")
    'csq+lmcl loss.margin=0.5'
    """
    pieces = name.split("/", 3)
    if len(pieces) < 4:
        return name
    return pieces[1] + re.sub(r"^seed-?\d+", "", pieces[3]).replace(",", " ")
