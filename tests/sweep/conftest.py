"""The strict reader of pages, shared with tests/report."""

from tests.report.conftest import read_page

__all__ = ["read_page"]
