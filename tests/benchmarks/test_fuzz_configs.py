"""The fuzzer of configurations, for a few seconds: no input ends in a traceback."""

import pytest


@pytest.fixture(scope="module")
def fuzz(script):
    return script("fuzz_configs")


def test_mistyped_configurations_end_in_a_message(fuzz, capsys):
    assert fuzz.main(["--leaves", "300", "--lines", "8", "--build", "4", "--seed", "7"]) == 0
    printed = capsys.readouterr().out
    assert "leaves     300:" in printed
    assert " 0 tracebacks" in printed


def test_a_traceback_is_counted(fuzz, capsys):
    outcomes = fuzz.Outcomes()
    assert not outcomes.run("an override", lambda: 1 / 0)
    assert outcomes["tracebacks"] == 1
    assert "TRACEBACK an override" in capsys.readouterr().err
