"""What disks do to a run: each ends in a sentence, and what was finished stays whole."""

import errno
import os

import pytest
import torch

from deephash import errors
from deephash.errors import DeephashError, WriteError, from_os_error
from deephash.loggers import Jsonl
from deephash.runs.folder import RunFolder
from deephash.sweep import plan_jobs
from deephash.sweep.launchers import process
from deephash.training import checkpoint
from deephash.training.snapshots import Snapshots
from deephash.utils import files
from deephash.utils.files import check_writable, make_subfolder, write_arrays, write_text, writing

resource = pytest.importorskip("resource")

NUMBERS = sorted(errors._REASONS)


@pytest.fixture
def limit():
    """Limit the size of files that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def to(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield to
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_every_error_of_a_disk_is_a_sentence(number):
    error = OSError(number, os.strerror(number), "some/file")
    for converted in (from_os_error(error), WriteError("some/file", error)):
        assert isinstance(converted, DeephashError)
        first, advice = str(converted).split("\n")
        assert "some/file" in first and os.strerror(number).lower() in first.lower()
        assert advice.startswith("  ") and not first.startswith("[Errno")


def test_an_error_of_a_library_is_reported_by_its_cause(tmp_path):
    full = pytest.raises(WriteError, match=r"cannot write .*a\.npz: the disk is full")
    with full, writing(tmp_path / "a.npz"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise ValueError("Can't close the ZIP file") from None
    with pytest.raises(ValueError, match="a fault"), writing(tmp_path / "a.npz"):
        raise ValueError("a fault")


@pytest.mark.parametrize("kind", ["text", "arrays", "checkpoint"])
def test_a_limit_on_the_size_of_files(tmp_path, limit, kind):
    write = {
        "text": lambda path, n: write_text(path, "x" * n),
        "arrays": lambda path, n: write_arrays(path, {"a": torch.rand(n // 4).numpy()}),
        "checkpoint": lambda path, n: checkpoint.save(path, {"a": torch.zeros(n // 4)}),
    }[kind]
    path = tmp_path / "file"
    write(path, 5_000)
    old = path.read_bytes()
    limit(50_000)
    with pytest.raises(WriteError, match=r"cannot write .*/file: .*File too large") as caught:
        write(path, 500_000)
    assert caught.value.errno == errno.EFBIG and "ulimit" in str(caught.value)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_a_full_log_keeps_whole_lines(tmp_path, limit):
    path = tmp_path / "log.jsonl"
    record = Jsonl(path)
    limit(1_000)
    with pytest.raises(WriteError, match=r"log\.jsonl"):
        for step in range(100):
            record.scalars("train", {"loss": 1.0}, step, 1)
    record.close(failed=True)  # says nothing more
    limit(resource.RLIM_INFINITY)
    Jsonl(path).close()
    lines = path.read_text().splitlines()
    assert len(lines) > 5 and all(line.endswith("}") for line in lines)


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    with pytest.raises(WriteError, match=r"report\.json: its folder does not exist\n.* repeat"):
        write_text(tmp_path / "gone" / "report.json", "{}")
    run = RunFolder(tmp_path / "outputs" / "run")
    run.lock()
    (run.path / ".lock").unlink()
    run.path.rmdir()
    with pytest.raises(WriteError, match="its folder does not exist"):
        run.begin({"a": 1}, [], fresh=True)
    run.close()


@pytest.mark.parametrize("place", ["file/below", "file/below/further"])
def test_a_place_below_a_file_is_refused_early(tmp_path, place):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(WriteError, match="a file stands where a folder should be"):
        check_writable(tmp_path / place)
    with pytest.raises(WriteError, match="a file stands where a folder should be"):
        RunFolder(tmp_path / place).lock()


def test_a_look_whether_a_place_can_be_written_leaves_nothing(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []

    def refuse(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(WriteError, match=r"a/b: the filesystem is read-only"):
        check_writable(tmp_path / "a" / "b")


def test_links_inside_a_run_folder_are_not_followed(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    for name in ("a.svg", "epoch0001.npz", ".x.tmp", "log"):
        (other / name).write_text("precious")
    for name in ("figures", "snapshots"):
        (run / name).symlink_to(other)
        with pytest.raises(WriteError, match="symbolic link"):
            make_subfolder(run / name)
    (run / "log.jsonl").symlink_to(other / "log")
    (run / process.LOG).symlink_to(other / "log")
    folder = RunFolder(run)
    folder.lock()
    folder.remove("figures/*.svg", "snapshots/*")
    with pytest.raises(WriteError, match="symbolic link"):
        Snapshots(run, 1, None).remove_after(-1)
    with pytest.raises(WriteError, match="symbolic link"):
        Jsonl(run / "log.jsonl")
    with pytest.raises(WriteError, match="symbolic link"):
        process.start_job(process.Job("a", run, ("true",)))
    write_text(run / "log.jsonl", "new")  # replaces the link
    folder.close()
    assert {path.read_text() for path in other.iterdir()} == {"precious"}
    assert len(list(other.iterdir())) == 4 and (run / "log.jsonl").read_text() == "new"


def test_a_planted_temporary_file_is_not_written_through(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(tmp_path / "other")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "other").read_text() == "precious" and not (tmp_path / "a").is_symlink()


def test_an_account_of_a_failure_that_cannot_be_written_hides_it_not(tmp_path):
    (tmp_path / "file").write_text("")

    def job():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.pt")

    with pytest.raises(OSError, match="No space left"):
        plan_jobs.run_recording_failure(tmp_path / "file" / "run", job)
    with pytest.raises(OSError, match="No space left"):
        plan_jobs.run_recording_failure(tmp_path / "run", job)
    message = (tmp_path / "run" / "error.txt").read_text()
    assert message.startswith("last.pt: the disk is full") and "Traceback" not in message


def test_what_a_kill_leaves_of_a_finished_run_is_swept_away(tmp_path):
    for name in (".lock", ".report.html.12.tmp", "report.json"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
