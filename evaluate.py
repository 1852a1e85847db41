"""Measure the codes of a run again, from its folder alone: python evaluate.py --help."""

import sys
from pathlib import Path

from deephash import cli

if __name__ == "__main__":
    sys.exit(cli.evaluate(Path(__file__).parent / "conf"))
