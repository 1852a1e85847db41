"""Deprecated: type ``deephash report`` or ``python -m deephash report`` instead."""

import sys

if __name__ == "__main__":
    try:
        from deephash.main import script

        sys.exit(script("report"))
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
