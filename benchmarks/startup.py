"""Measure how long commands and imports take to start, side by side with another checkout.

    python benchmarks/startup.py --repeat 10
    git worktree add /tmp/before v0.1.0 && python benchmarks/startup.py --before /tmp/before

Each command runs in a fresh process; checkouts take turns, and the table has medians of seconds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = {
    "train.py --help": ["train.py", "--help"],
    "train.py --cfg job": ["train.py", "--cfg", "job"],
    "train.py preview=true": ["train.py", "preview=true"],
    "deephash --help": ["-m", "deephash", "--help"],
    "import deephash": ["-c", "import deephash"],
    "import deephash.retrieval": ["-c", "import deephash.retrieval"],
}
"""What is started: arguments of Python, a script relative to the checkout."""


def seconds(checkout: Path, arguments: list[str]) -> float | None:
    """Run a command in a checkout and return its seconds; None if it fails there."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=env, capture_output=True, check=False
    )
    return time.perf_counter() - began if done.returncode == 0 else None


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--repeat", type=int, default=10, help="runs of each command")
    options = parser.parse_args()
    checkouts = {"now": ROOT}
    if options.before is not None:
        checkouts = {"before": options.before.resolve(), **checkouts}
    print(f"| seconds, median of {options.repeat} | {' | '.join(checkouts)} |")
    print(f"|---|{'---|' * len(checkouts)}")
    for name, arguments in COMMANDS.items():
        found: dict[str, list[float]] = {key: [] for key in checkouts}
        for turn in range(options.repeat + 1):
            for key, checkout in checkouts.items():
                taken = seconds(checkout, arguments)
                if turn and taken is not None:  # the first one fills the caches of the system
                    found[key].append(taken)
        cells = [f"{statistics.median(one):.2f}" if one else "-" for one in found.values()]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
