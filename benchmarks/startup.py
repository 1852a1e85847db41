"""Measure how long commands and imports take to start, side by side with another checkout.

    python benchmarks/startup.py --repeat 10
    git worktree add /tmp/before v0.1.0 && python benchmarks/startup.py --before /tmp/before

Each command runs in a new process. The checkouts alternate; the table contains medians of seconds.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import ROOT, Report, Series, Stopwatch, Values, alternate, parser, table

COMMANDS = {
    "train.py --help": ["train.py", "--help"],
    "train.py --cfg job": ["train.py", "--cfg", "job"],
    "train.py preview=true": ["train.py", "preview=true"],
    "deephash --help": ["-m", "deephash", "--help"],
    "import deephash": ["-c", "import deephash"],
    "import deephash.retrieval": ["-c", "import deephash.retrieval"],
}
"""Arguments of Python; scripts are relative to the checkout."""


def run(checkout: Path, arguments: Sequence[str]) -> Values:
    """Run a command in a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *arguments]
    with Stopwatch() as watch:
        done = subprocess.run(line, cwd=checkout, env=environment, capture_output=True, check=False)
    return {"failed": f"status {done.returncode}"} if done.returncode else {"wall": watch.wall}


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--before", type=Path, help="another checkout to compare with")
    options.add_argument("--repeat", type=int, default=10, help="runs of each command")
    given = options.parse_args(arguments)
    report = Report(__file__, arguments, given)
    checkouts = {"now": ROOT}
    if given.before is not None:
        checkouts = {"before": given.before.resolve(), **checkouts}
    rows = [[f"seconds, median of {given.repeat}", *checkouts]]
    for name, command in COMMANDS.items():
        pair = [Series(key, {"checkout": checkout}) for key, checkout in checkouts.items()]
        alternate(
            pair,
            lambda series, command=command: run(series.request["checkout"], command),
            given.repeat,
            warm_up=1,  # fills the file cache of the system
            label=name,
        )
        medians = ["-" if series.failed else f"{series.median('wall'):.2f}" for series in pair]
        rows.append([f"`{name}`", *medians])
    report.add(table(rows))
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
