"""``python -m deephash``: see ``deephash.main``."""

import sys

from deephash.main import module

if __name__ == "__main__":
    sys.exit(module())
