"""Deprecated: type ``deephash data`` or ``python -m deephash data`` instead."""

import sys

if __name__ == "__main__":
    try:
        from deephash.main import script

        sys.exit(script("data"))
    except KeyboardInterrupt:  # so early that nothing has begun
        sys.exit(130)
