"""Measure the codes of a run again, from its folder alone: python evaluate.py --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    try:
        from deephash import cli

        sys.exit(cli.evaluate(Path(__file__).parent / "conf"))
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
