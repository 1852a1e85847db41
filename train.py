"""Train a deep hashing method and measure its codes: python train.py --help."""

import sys

if __name__ == "__main__":
    try:
        from deephash.main import script

        sys.exit(script("train"))
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
