"""``python -m deephash``: see ``deephash.entry``."""

import sys

from deephash.entry import module

if __name__ == "__main__":
    sys.exit(module())
