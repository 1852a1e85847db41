"""A command that is killed and repeated leaves the files of an uninterrupted run."""

import os

import pytest

from tests.commands import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks"),
]


def killed(cwd, *arguments):
    return run(cwd, *arguments, script="benchmarks/kill_runs.py", seconds=1800)


def test_a_rerun_can_be_repeated_after_a_kill_at_each_operation(tmp_path):
    """Removing the old run and writing the new one: each prefix of both can be continued."""
    printed = killed(tmp_path, "--every", "--quick", "--only", "rerun=true")
    (row,) = [line for line in printed.splitlines() if line.startswith("| rerun=true |")]
    operations, kills = map(int, row.split("|")[2:4])
    assert operations == kills > 25


def test_commands_can_be_repeated_after_kills_at_random_moments(tmp_path):
    names = ("resumed", "evaluate", "prepare", "encode", "search")
    printed = killed(tmp_path, "--kills", "5", "--quick", "--only", *names)
    assert "5 kills, 0 faults" in printed
