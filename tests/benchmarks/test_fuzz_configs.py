"""The fuzzer of configurations, for a few seconds: no input ends in a traceback."""

import importlib.util

from tests.paths import ROOT

FILE = ROOT / "benchmarks" / "fuzz_configs.py"


def load():
    spec = importlib.util.spec_from_file_location("fuzz_configs", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mistyped_configurations_end_in_a_sentence(capsys):
    fuzz = load()
    assert fuzz.main(["--leaves", "300", "--lines", "8", "--build", "4", "--seed", "7"]) == 0
    told = capsys.readouterr().out
    assert "leaves     300:" in told and " 0 tracebacks" in told


def test_a_traceback_is_counted(capsys):
    fuzz = load()
    outcome = fuzz.Outcome()
    assert not outcome.see("a word", lambda: 1 / 0)
    assert outcome["tracebacks"] == 1 and "TRACEBACK a word" in capsys.readouterr().err
