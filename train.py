"""Train a deep hashing method and measure its codes: python train.py --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    try:
        from deephash import cli

        root = Path(__file__).parent
        sys.exit(cli.train(root / "conf", root / "sweeps"))
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
