import pytest

from deephash.errors import TrainingError
from deephash.runs import folder as run
from deephash.runs.folder import RunFolder, runs_below, without_latest


def make(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_text("")


def refusal(folder):
    with pytest.raises(TrainingError) as caught:
        RunFolder(folder).config()
    return str(caught.value)


def test_a_folder_of_runs_lists_them_to_copy_from(tmp_path):
    for bits in (32, 16):
        name = f"relahash/{bits}bit/seed0,trainer.epochs=3"
        make(tmp_path / "digits" / name, "config.yaml", "best.pt", "last.pt")
    lines = refusal(tmp_path / "digits").splitlines()
    assert lines[0].endswith("digits is not a run folder: it has no config.yaml")
    assert lines[2:] == [
        f"  run={tmp_path}/digits/relahash/{bits}bit/seed0,trainer.epochs=3" for bits in (16, 32)
    ]


def test_ten_are_enough(tmp_path):
    for seed in range(12):
        make(tmp_path / f"seed{seed:02d}", "config.yaml", "last.pt")
    lines = refusal(tmp_path).splitlines()
    assert len(lines) == 13 and lines[2].endswith("seed00") and lines[-2].endswith("seed09")
    assert lines[-1] == "  ..."


def test_only_what_can_be_measured_is_listed(tmp_path):
    make(tmp_path / "begun", "config.yaml", "log.jsonl")
    make(tmp_path / "foreign", "best.pt")
    make(tmp_path / ".hidden", "config.yaml", "best.pt")
    make(tmp_path / "a run", "config.yaml", "best.pt")
    make(tmp_path / "a run" / "wandb" / "files", "config.yaml", "best.pt")
    assert list(runs_below(tmp_path)) == [tmp_path / "a run"]
    assert refusal(tmp_path).endswith(f"run='{tmp_path}/a run'")  # as a shell takes it


def test_a_folder_without_runs_lists_none(tmp_path):
    assert refusal(tmp_path).endswith("is not a run folder: it has no config.yaml")
    assert refusal(tmp_path / "none").endswith("none is not a run folder: it does not exist")


def test_a_whole_disk_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MOST_FOLDERS", 3)
    for name in ("a", "b", "c"):
        make(tmp_path / name, "config.yaml", "best.pt")
    assert list(runs_below(tmp_path)) == [tmp_path / "a", tmp_path / "b"]


def test_a_run_from_scratch_forgets_what_an_earlier_one_left(tmp_path):
    left = ("report.json", "evaluation.json", "evaluation.html", "codes.npz", "codes-last.npz",
            "best.pt", "log.jsonl", "run_id.txt", "origin.json")  # fmt: skip
    make(tmp_path, *left)
    make(tmp_path / "figures", "tsne.png", "tsne.svg", "mine.txt")
    make(tmp_path, "notes.md")
    RunFolder(tmp_path).begin({"seed": 1}, ["seed=1"], fresh=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.yaml", "overrides.txt", "figures", "notes.md"
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.txt"]


def test_latest_is_a_link_to_the_run_that_began_last_and_keeps_a_folder_of_that_name(tmp_path):
    for name in ("digits/csq/8bit/seed0", "digits/csq/8bit/seed1"):
        run = RunFolder(tmp_path / name)
        run.path.mkdir(parents=True)
        run.mark_latest(tmp_path)
        assert (tmp_path / "latest").resolve() == run.path.resolve()
    assert not (tmp_path / "latest").readlink().is_absolute()
    assert without_latest(tmp_path / "latest") == run.path
    assert without_latest(run.path) == run.path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "latest"]
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    run.mark_latest(tmp_path)
    assert not (tmp_path / "latest").is_symlink()


def test_a_copy_of_latest_is_not_another_run(tmp_path):
    for name in ("digits/csq/8bit/seed0", "latest"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
        (tmp_path / name / "best.pt").touch()
    assert [path.name for path in runs_below(tmp_path)] == ["seed0"]
