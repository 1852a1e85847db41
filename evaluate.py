"""Measure the codes of a run again, from its folder alone: python evaluate.py --help."""

import sys

if __name__ == "__main__":
    try:
        from deephash.main import script

        sys.exit(script("evaluate"))
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
