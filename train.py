"""Train a deep hashing method and measure its codes: python train.py --help."""

import sys
from pathlib import Path

from deephash import cli

if __name__ == "__main__":
    sys.exit(cli.train(Path(__file__).parent / "conf"))
