"""Chromium for tests of pages; they are skipped without the package playwright or Chromium."""

import contextlib
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
"""Marks of such a module."""


def driver():
    """The module that starts a browser; without it, the calling module is skipped."""
    return pytest.importorskip("playwright.sync_api", reason="the extra test-browser")


@contextlib.contextmanager
def started():
    """A browser."""
    with driver().sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
