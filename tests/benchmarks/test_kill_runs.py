"""A command that is killed and repeated leaves the files of an uninterrupted run."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "kill_runs.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks"),
]


def killed(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_rerun_can_be_repeated_after_a_kill_at_each_operation():
    """Removing the old run and writing the new one: each prefix of both can be continued."""
    printed = killed("--every", "--quick", "--only", "rerun=true")
    (row,) = [line for line in printed.splitlines() if line.startswith("| rerun=true |")]
    operations, kills = map(int, row.split("|")[2:4])
    assert operations == kills > 25


def test_commands_can_be_repeated_after_kills_at_random_moments():
    printed = killed(
        "--kills", "5", "--quick", "--only", "resumed", "evaluate", "prepare", "encode", "search"
    )
    assert "5 kills, 0 faults" in printed
