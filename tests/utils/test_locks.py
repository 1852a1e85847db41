"""One process at a time, on every filesystem and with any file in place of the lock file."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deephash.errors import BusyError, WriteError
from deephash.runs import folder as run
from deephash.runs.folder import RunFolder
from deephash.sweep import plan_jobs
from deephash.utils import locks
from deephash.utils.locks import Lock, holder, is_locked, process_name

fcntl = pytest.importorskip("fcntl")

HELD = (
    "from deephash.utils.locks import Lock; import sys; "
    "Lock.acquire(__import__('pathlib').Path({!r}))"
)


@pytest.fixture
def unlockable(monkeypatch):
    """Make ``flock`` fail as on a filesystem that cannot lock files."""

    def fail(number):
        def flock(*args):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(locks, "_warned", False)

    return fail


def test_a_lock_keeps_others_out_and_names_its_holder(tmp_path):
    path = tmp_path / "lock"
    with Lock.acquire(path) as lock:
        assert lock.exclusive and is_locked(path)
        assert holder(path) == process_name() == f"process {os.getpid()} on {os.uname().nodename}"
        assert Lock.acquire(path) is None
        assert holder(path) == process_name()  # the attempt has changed nothing
    assert not path.exists() and not is_locked(path) and holder(path) == ""


def test_a_second_release_does_not_take_the_lock_of_another(tmp_path):
    path = tmp_path / "lock"
    first = Lock.acquire(path)
    first.release()
    with Lock.acquire(path):
        first.release()
        assert is_locked(path)


def test_a_look_changes_nothing(tmp_path):
    path = tmp_path / "lock"
    path.write_text("left by a killed process")
    before = path.stat()
    assert not is_locked(path)
    assert path.read_text() == "left by a killed process"
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert not is_locked(tmp_path / "none") and not (tmp_path / "none").exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "lock"
    code = HELD.format(str(path)).replace("Lock.acquire", "lock = Lock.acquire", 1)
    code += "; print(lock.exclusive, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "True\n"
        assert is_locked(path) and Lock.acquire(path) is None
        name = holder(path)
        process.kill()
    assert name.startswith(f"process {process.pid} on ")
    assert path.exists() and not is_locked(path)
    with Lock.acquire(path):
        assert holder(path) == process_name()


@pytest.mark.parametrize("number", sorted(locks.UNSUPPORTED), ids=errno.errorcode.get)
def test_where_files_cannot_be_locked_a_run_continues_after_one_warning(
    tmp_path, unlockable, caplog, number
):
    unlockable(number)
    (tmp_path / "kept").write_text("")
    with caplog.at_level(logging.WARNING, "deephash"):
        for name in ("a", "b"):
            folder = RunFolder(tmp_path / name)
            folder.lock()
            assert not folder.locked  # unknown, and not "another process is training"
            folder.close()
    (record,) = caplog.records
    assert "locking is off" in record.getMessage() and os.strerror(number) in record.getMessage()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("number", sorted(locks.UNSUPPORTED), ids=errno.errorcode.get)
def test_where_files_cannot_be_locked_a_sweep_is_written(tmp_path, unlockable, number):
    unlockable(number)
    file = plan_jobs.write_manifest(tmp_path, [], command="", axes=[], typed=[], spec={})
    assert file.is_file() and [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_held_is_no_missing_support(tmp_path, unlockable, monkeypatch, number):
    unlockable(number)
    monkeypatch.setattr(run, "LOOK", 0.0)
    with pytest.raises(BusyError, match="another process is training"):
        RunFolder(tmp_path).lock()


def test_another_error_is_neither(tmp_path, unlockable):
    unlockable(errno.EIO)
    with pytest.raises(WriteError, match="input/output error"):
        RunFolder(tmp_path).lock()


def test_the_holder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOOK", 0.05)
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.lock()
    with pytest.raises(BusyError) as caught:
        second.lock()
    assert str(caught.value).endswith(f"in {tmp_path}: {process_name()}")
    assert second.locked
    first.close()
    assert not tmp_path.exists()  # nothing was written


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_is_not_followed(tmp_path, target):
    other = tmp_path / "other"
    if target == "file":
        other.write_text("precious")
    elif target == "folder":
        other.mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(other)
    folder = RunFolder(tmp_path / "run")
    assert not folder.locked
    with pytest.raises(WriteError, match=r"run/\.lock: it is a symbolic link"):
        folder.lock()
    with pytest.raises(WriteError, match="symbolic link"):
        plan_jobs.write_manifest(folder.path, [], command="", axes=[], typed=[], spec={})
    if target == "file":
        assert other.read_text() == "precious"
    assert other.exists() == (target != "nothing")
    assert (tmp_path / "run" / ".lock").is_symlink()


def test_a_second_name_of_another_file_is_not_overwritten(tmp_path):
    (tmp_path / "other").write_text("precious")
    os.link(tmp_path / "other", tmp_path / ".lock")
    with pytest.raises(WriteError, match="hard link"):
        RunFolder(tmp_path).lock()
    assert (tmp_path / "other").read_text() == "precious"


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / ".lock"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(WriteError, match="locks are regular files"):
        RunFolder(tmp_path).lock()
    assert path.exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_in_which_nothing_can_be_made(tmp_path, monkeypatch, number):
    def refuse(path, *args, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WriteError, match=r"cannot write .*\.lock: "):
        RunFolder(tmp_path).lock()


def test_a_file_where_a_run_folder_should_be(tmp_path):
    (tmp_path / "outputs").write_text("")
    with pytest.raises(WriteError, match="a file stands where a folder should be"):
        RunFolder(tmp_path / "outputs" / "digits").lock()


IMPORTS = """
import sys
missing = ("fcntl", "resource", "pwd", "grp", "termios")
import filelock, torch, torchvision, matplotlib, rich.console, sklearn.datasets, scipy.sparse
for name in missing:
    sys.modules[name] = None
import os, signal, mmap
for module, names in {os: ["killpg", "fork", "getppid", "pread", "pwrite", "posix_fallocate",
                           "sched_getaffinity", "uname", "O_NOFOLLOW", "geteuid"],
                      signal: ["SIGPIPE", "SIGKILL", "SIGALRM", "SIGXFSZ"],
                      mmap: ["MAP_PRIVATE", "PROT_READ"]}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import importlib, pkgutil, deephash
for found in pkgutil.walk_packages(deephash.__path__, "deephash."):
    importlib.import_module(found.name)
print("done")
"""


def test_every_module_is_imported_where_a_system_is_not_posix(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_nothing_is_locked_by_hand():
    root = Path(locks.__file__).parents[1]
    assert [path.name for path in root.rglob("*.py") if "flock(" in path.read_text()] == []
