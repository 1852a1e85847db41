"""A killed command is repeated, and what it leaves is as if nothing had happened."""

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


def test_a_kill_before_any_operation_of_a_rerun_is_made_good():
    """Removing the old run and writing the new one: each prefix of both can be continued."""
    printed = killed("--every", "--quick", "--only", "rerun=true")
    (row,) = [line for line in printed.splitlines() if line.startswith("| rerun=true |")]
    operations, kills = map(int, row.split("|")[2:4])
    assert operations == kills > 25


def test_kills_at_random_moments_are_made_good():
    printed = killed(
        "--kills", "5", "--quick", "--only", "resumed", "evaluate", "prepare", "encode"
    )
    assert "5 kills, 0 faults" in printed
