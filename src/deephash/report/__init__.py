"""Finished run folders, turned into something to look at."""

from deephash.report.run import write_html

__all__ = ["write_html"]
