import re
from pathlib import Path

import pytest

from deephash.loggers import Console

TRAIN = {"loss": 2.8142, "lmcl": 2.8142, "lr": 1e-4, "images_per_second": 411.7}
REPORT = {
    "method": "relahash",
    "nbit": 32,
    "metrics": {"map": 0.6843, "conventions": {"ties": "all [R]"}},
    "protocol": {"dataset": "digits", "protocol": "half", "fingerprint": "3f9a0b7c"},
    "selection": {
        "map_best_on_query": 0.69,
        "epoch_best_on_query": 90,
        "map_at_val_epoch": None,
        "map_last": 0.682,
        "epoch_last": 100,
    },
    "training": {"seconds": 190.2},
}


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_an_epoch_is_one_plain_line(capsys):
    console = Console(100, 10, metric="mAP@all")
    console.scalars("train", TRAIN, step=400, epoch=40)
    console.scalars("query", {"map": 0.684}, step=400, epoch=40)
    console.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "epoch   40/100  lmcl 2.814  lr 1.0e-04  412 img/s |  mAP@all 0.684 (best 0.684)\n"
    )


def test_the_remaining_time_is_estimated_from_the_steps_so_far(capsys, monkeypatch):
    """20 steps took 10 seconds, 380 are left: 190 seconds."""
    now = iter([0.0, 100.0, *[110.0] * 9])
    monkeypatch.setattr("deephash.loggers.console.time.monotonic", lambda: next(now))
    console = Console(40, 10)
    for _ in range(20):
        console.tick()
    console.scalars("train", TRAIN, step=20, epoch=2)
    console.scalars("eval", {"map": 0.5}, step=20, epoch=2)
    assert "eta 3:10 |  mAP 0.500 (best 0.500)" in capsys.readouterr().err


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("deephash.loggers.console.time.monotonic", lambda: self.now)

    def train(self, console, steps, seconds):
        for _ in range(steps):
            self.now += seconds
            console.tick()

    def evaluate(self, console, epoch, seconds, steps=10):
        """The training values of an epoch, and an evaluation on two parts after it."""
        console.scalars("train", TRAIN, step=epoch * steps, epoch=epoch)
        self.now += seconds
        console.scalars("query", {"map": 0.5}, step=epoch * steps, epoch=epoch)
        console.scalars("val", {"map": 0.5}, step=epoch * steps, epoch=epoch)


def etas(capsys):
    return re.findall(r"eta (>?[\d:]+)", capsys.readouterr().err)


def test_the_time_left_includes_evaluations_and_the_report(capsys, monkeypatch):
    """A step takes a second, an evaluation after every second of 6 epochs 100 seconds."""
    clock = Clock(monkeypatch)
    console = Console(6, 10, eval_every=2)
    console.tick()
    clock.train(console, 9, 10 / 9)
    console.scalars("train", TRAIN, step=10, epoch=1)
    clock.train(console, 10, 1)
    clock.evaluate(console, 2, 100)
    # after the first epoch nothing is known of evaluations, and then two and the report are left
    assert etas(capsys)[:2] == [">0:40", "5:40"]
    clock.train(console, 20, 1)
    clock.evaluate(console, 4, 300)  # 200 on average
    assert etas(capsys)[-1] == "7:00"  # 20 steps, one evaluation, the report


def test_the_last_epoch_is_evaluated_in_any_case(capsys, monkeypatch):
    """5 epochs, every 2: after 2, 4 and 5."""
    clock = Clock(monkeypatch)
    console = Console(5, 10, eval_every=2)
    console.tick()
    clock.train(console, 19, 20 / 19)
    clock.evaluate(console, 2, 60)
    assert etas(capsys)[0] == "3:30"


def test_a_resumed_run_uses_the_time_of_past_evaluations(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    console = Console(4, 10, eval_every=1, evaluation_seconds=30)
    console.scalars("train", {}, step=20, epoch=2)
    console.tick()
    clock.train(console, 9, 10 / 9)
    console.scalars("train", TRAIN, step=30, epoch=3)
    console.close()
    assert etas(capsys)[-1] == "1:40"  # 10 steps, those of epochs 3 and 4, the report


def test_the_best_of_each_part_is_kept_and_validation_stands_below(capsys):
    console = Console(9, 10, best={"query": 0.7})
    for epoch, value in enumerate([0.5, 0.4], start=1):
        console.scalars("train", TRAIN, epoch * 10, epoch)
        console.scalars("query", {"map": value}, epoch * 10, epoch)
        console.scalars("val", {"map": value}, epoch * 10, epoch)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [
        "mAP 0.500 (best 0.700)",
        "val mAP 0.500 (best 0.500)",
        "mAP 0.400 (best 0.700)",
        "val mAP 0.400 (best 0.500)",
    ]
    assert [line.startswith("epoch") for line in lines] == [True, False, True, False]


def test_an_epoch_without_evaluation_has_its_line_too(capsys):
    console = Console(3, 10)
    for epoch in (1, 2, 3):
        console.scalars("train", TRAIN, epoch * 10, epoch)
    console.summary({}, Path("run"))  # below the line of the last epoch
    assert [line[:10] for line in capsys.readouterr().err.splitlines()] == [
        "epoch  1/3",
        "epoch  2/3",
        "epoch  3/3",
    ]


def test_at_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(2, 10)
    console.tick()
    console.scalars("train", TRAIN, step=1, epoch=1)
    console.scalars("query", {"map": 0.25}, step=10, epoch=1)
    console.close(failed=True)
    console.close()
    err = capsys.readouterr().err
    assert "━" in err
    assert "mAP 0.250 (best 0.250)" in err


def test_the_summary_contains_results_and_paths(capsys, tmp_path):
    folder = tmp_path / ("a_rather_long_name_" * 8)
    folder.mkdir()
    (folder / "report.html").touch()
    Console(1, 1, metric="mAP@all").summary(REPORT, folder)
    out, err = capsys.readouterr()
    assert err == ""
    for text in (
        "relahash, 32 bits",
        "digits / half",
        "3f9a0b7c",
        "0.6843",
        "ties all [R]",
        "3:10",
    ):
        assert text in out
    assert "0.6900  epoch 90" in out
    assert "validation" not in out  # none was held out
    assert str(folder / "report.html") in out  # on one line, however narrow the screen


def test_the_summary_of_an_empty_report(capsys, tmp_path):
    Console(1, 1).summary({}, tmp_path)
    assert str(tmp_path) in capsys.readouterr().out


def test_without_labels_the_summary_notes_it_and_shows_the_measurements(capsys, tmp_path):
    metrics = {
        "map": None,
        "note": "The images have no labels.",
        "database": 40,
        "conventions": {},
        "precision_within_radius_2": {"mean_zero": None, "empty_fraction": 0.25},
        "codes": {
            "bits": {"entropy": 0.9, "dead_bits": 1, "distinct_codes": 38},
            "quantization": {"degrees": 34.04},
        },
        "distances": {"mean_nearest": 3.5},
    }
    Console(1, 10).summary({**REPORT, "metrics": metrics}, tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "mAP - The images have no labels." in shown
    assert "bit entropy 0.9000, dead bits 1, distinct codes 38 of 40" in shown
    assert "quantization error 34.0 degrees, empty balls of radius 2 0.2500" in shown
    assert "bits to the nearest 3.5000" in shown
    Console(1, 10, quiet=True).summary({**REPORT, "metrics": metrics}, tmp_path)
    assert capsys.readouterr().out.endswith("mAP -  (images without labels)\n")


def test_quiet_is_a_single_line(capsys, tmp_path):
    console = Console(1, 10, quiet=True)
    console.tick(10)
    console.scalars("train", TRAIN, step=10, epoch=1)
    console.scalars("query", {"map": 0.684}, step=10, epoch=1)
    console.summary(REPORT, tmp_path)
    console.close()
    out, err = capsys.readouterr()
    assert out == f"done   {tmp_path}  mAP 0.6843\n"
    assert err == ""
