"""What loggers get of a sweep; the records of a real one are in test_report_sweep."""

import pytest

from deephash.loggers.wandb_workspace import SweepView
from deephash.report.results import make_sections
from deephash.sweep.log_sweep import results_table, section_lines, sweep_view
from deephash.sweep.report_sweep import read_sweep
from tests.sweep.test_report_sweep import entry, finish, manifest


@pytest.fixture
def outputs(tmp_path):
    """A sweep of two scales, the first of them with two seeds."""
    jobs = [entry(5, 0), entry(5, 1), entry(50, 0)]
    for job, clean in zip(jobs, (0.4, 0.4, 1.5), strict=True):
        finish(tmp_path, job, clean)
    manifest(tmp_path, "beta", jobs)
    return tmp_path


def test_a_table_with_intervals_and_the_line_of_the_figure(outputs):
    (section,) = make_sections([read_sweep(outputs, "beta")])
    columns, rows = results_table(section, outputs, 200, 0)
    assert columns == [
        "table", "scale", "bits", "map", "low", "high", "sd", "seeds", "published",
    ]  # fmt: skip
    assert [(row[1], row[2], row[7]) for row in rows] == [(5, 8, 2), (50, 8, 1)]
    for row in rows:
        assert row[4] < row[3] < row[5]
    assert rows[0][6] > 0 and rows[1][6] is None  # one seed has no deviation
    lines, title, x_label = section_lines(section)
    assert lines == {"8 bits": [(5.0, rows[0][3]), (50.0, rows[1][3])]}
    assert x_label == "β" and title.endswith("over β, digits, per_class, trainer.epochs=2")


def test_a_run_without_codes_has_no_interval(outputs):
    (outputs / entry(5, 1)["run"] / "codes.npz").unlink()
    (section,) = make_sections([read_sweep(outputs, "beta")])
    _, rows = results_table(section, outputs, 200, 0)
    assert rows[0][4:6] == [None, None] and rows[1][4] is not None


def test_a_view_has_the_values_that_vary(outputs):
    for scale, seed in ((5, 0), (5, 1), (50, 0)):
        folder = outputs / entry(scale, seed)["run"]
        (folder / "config.yaml").write_text(
            f"dataset: {{name: digits}}\nmethod: {{name: relahash, loss: {{scale: {scale}}}}}\n"
            f"model: {{nbit: 8}}\nseed: {seed}\n"
        )
        (folder / "log.jsonl").write_text(
            '{"where": "train", "step": 1, "epoch": 1, "loss": 1, "lmcl": 1, "images_seen": 9}\n'
        )
    view = sweep_view([read_sweep(outputs, "beta")], outputs)
    data = f"`{'f' * 64}`"
    assert view == SweepView(
        name="beta",
        groups=["beta"],
        axes={"scale": "β"},
        choices=[],
        terms=["loss", "lmcl"],
        metric="mAP@all",
        notes=f"## The beta\n\nnowhere\n\n`python train.py -m +sweep=beta`\n\nData: digits {data}",
    )
