import json
import os

import pytest

from deephash.engine.run import RunFolder
from deephash.files import write_atomic, write_json, write_text
from deephash.loggers import Jsonl
from deephash.report import write_html


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def half(beside):
        beside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, half)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def look(beside):
        beside.write_text("new")
        assert beside != file and beside.parent == file.parent  # a rename within one folder
        assert file.read_text() == "old"

    write_atomic(file, look)
    assert file.read_text() == "new"


def test_json_is_readable(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Müller", "n": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "name": "Müller",\n  "n": [\n    1\n  ]\n}\n'


def test_a_name_and_a_text_of_any_script(tmp_path):
    write_text(tmp_path / "seed0,dataset.name=Vögel.txt", "Müller\n")
    assert (tmp_path / "seed0,dataset.name=Vögel.txt").read_bytes() == "Müller\n".encode()


@pytest.mark.parametrize("name", ["a.json", "log.jsonl", "report.html"])
def test_what_a_kill_leaves_is_swept_away_by_the_next_run(tmp_path, monkeypatch, name):
    """Whoever writes, the piece has the name that locking the folder looks for."""
    if name == "a.json":

        def write():
            write_json(tmp_path / name, {})
    elif name == "log.jsonl":
        record = Jsonl(tmp_path / name)
        record.scalars("train", {"loss": 1.0}, 1, 1)

        def write():
            record.truncate_after(0)
    else:
        write_text(tmp_path / "report.json", json.dumps({"run": "a"}))

        def write():
            write_html(tmp_path)

    class Killed(BaseException):
        pass

    def killed(here, there):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr("pathlib.Path.unlink", lambda *args, **options: None)
        with pytest.raises(Killed):
            write()
    assert [path.name for path in tmp_path.glob("*.tmp")] == [f".{name}.{os.getpid()}.tmp"]
    run = RunFolder(tmp_path)
    run.lock()
    assert not list(tmp_path.glob("*.tmp"))
    run.close()
