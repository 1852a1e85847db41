"""Long work at a terminal, in a file, and in silence."""

import os
import pty
import re
import subprocess
import sys

import pytest

from deephash.utils import progress
from deephash.utils.progress import bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_short_work_prints_nothing(capsys, clock):
    with bar("reading 10 files", 10) as shown:
        for _ in range(10):
            clock[0] += 0.4
            shown.advance()
    assert capsys.readouterr() == ("", "")


def test_long_work_has_a_line_at_its_beginning_and_its_end(capsys, clock):
    with bar("reading 10 files", 10) as shown:
        for _ in range(10):
            clock[0] += 3
            shown.advance()
    assert capsys.readouterr().err.splitlines() == [
        "reading 10 files: 20% done, 0:24 left",
        "reading 10 files: done in 0:30",
    ]


def test_what_was_done_before_does_not_count_for_the_time_left(capsys, clock):
    with bar("reading 100 files", 100, done=90) as shown:
        clock[0] += 6
        shown.advance(2)
    assert "92% done, 0:24 left" in capsys.readouterr().err


def test_work_known_to_be_long_is_shown_at_once(capsys, clock):
    with bar("reading", 10, announce=True) as shown:
        assert capsys.readouterr().err == "reading\n"
        clock[0] += 9
        shown.advance(10)
    assert capsys.readouterr().err == "reading: done in 0:09\n"


def test_failed_work_is_not_reported_as_done(capsys, clock):
    with pytest.raises(KeyboardInterrupt), bar("reading", 10):
        clock[0] += 60
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("total", [0, 7])
def test_no_work_at_all(capsys, monkeypatch, total):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bar("reading", total, done=total, announce=True):
        pass
    assert capsys.readouterr().err == ""


SCRIPT = """
import sys, time
from deephash.utils import progress
progress.quiet({quiet})
with progress.bar("reading [all] files", 400, done=100) as shown:
    for _ in range(30):
        time.sleep(0.02)
        shown.advance(10)
print("rich" in sys.modules)
"""


def at_a_terminal(quiet):
    """What a terminal shows on stderr, and stdout."""
    ours, theirs = pty.openpty()
    script = SCRIPT.format(quiet=quiet)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # all was read
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert done.returncode == 0, shown
    return shown.decode(), done.stdout.decode()


def test_a_terminal_shows_a_bar():
    shown, out = at_a_terminal(quiet=False)
    assert shown.startswith("reading [all] files\r\n") and out == "True\n"
    counts = [int(count) for count in re.findall(r"(\d+)/400", shown)]
    assert counts[0] == 100 and counts[-1] == 400 and counts == sorted(counts)
    assert "100%" in shown and "eta" in shown


def test_a_quiet_one_does_not():
    assert at_a_terminal(quiet=True) == ("", "False\n")
