"""The run folder: what ran, with what, and whether it is finished."""

import contextlib
import fcntl
import json
import os
import platform
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml

from deephash.errors import BusyError, TrainingError
from deephash.files import ERROR, write_text

LOOK = 2.0
"""Seconds to wait for a lock that may be held by somebody who only looks whether it is."""

MOST_FOLDERS = 2000
"""That many are looked at in search of runs: somebody may have named the root of a disk."""

FIGURES = ("evaluation.html", "figures/*.svg", "figures/*.png")
EVALUATED = ("evaluation.json", "codes*.npz", *FIGURES)
"""What an evaluation leaves in a run folder."""


class RunFolder:
    """One experiment's folder. Finished means that ``report.json`` exists.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def finished(self) -> bool:
        return (self.path / "report.json").is_file()

    def config(self) -> dict[str, Any]:
        """The configuration that ran here.

        Raises:
            TrainingError: this is not a run folder, or its configuration is damaged.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            why = "it has no config.yaml" if self.path.is_dir() else "it does not exist"
            raise TrainingError(f"{self.path} is not a run folder: {why}{_offer(self.path)}")
        try:
            found = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise TrainingError(f"{file} is not readable: {error}") from error
        if not isinstance(found, dict) or "dataset" not in found:
            raise TrainingError(f"{file} holds no configuration of a run")
        return found

    def report(self) -> dict[str, Any]:
        """What training found.

        Raises:
            TrainingError: it is damaged.
        """
        file = self.path / "report.json"
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise TrainingError(
                f"{file} is not readable: {error}\n  Delete it, and training goes on from last.pt."
            ) from error

    def lock(self) -> None:
        """Takes the folder for this process; the system lets it go when the process ends.

        Raises:
            BusyError: another process is training here.
        """
        until = time.monotonic() + LOOK
        while not self._take():
            if time.monotonic() > until:
                raise BusyError(f"another process is training in {self.path}")
            time.sleep(0.02)
        # What is left of a write that was killed, and why an earlier try failed.
        self.forget(".*.tmp", "snapshots/.*.tmp", ERROR)

    def _take(self) -> bool:
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / ".lock"
        lock = file.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = file.stat().st_ino == os.fstat(lock.fileno()).st_ino  # not one just let go
        except OSError:
            mine = False
        if mine:
            self._lock = lock
        else:
            lock.close()
        return mine

    @property
    def locked(self) -> bool:
        """Whether a process is training here."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def begin(
        self, config: Mapping[str, Any], overrides: list[str], fresh: bool, launch: str = ""
    ) -> None:
        """Writes down what runs.

        Args:
            config: folded and resolved.
            overrides: the command line.
            fresh: forget what an earlier run left here.
            launch: of the sweep that this is part of, if any.
        """
        if fresh:
            self.forget("report.*", "run_id.txt", "log.jsonl", "*.pt", *EVALUATED)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        write_text(self.path / "overrides.txt", "".join(f"{text}\n" for text in overrides))
        if launch:
            write_text(self.path / "launch.txt", launch)

    def begun_in(self, launch: str) -> bool:
        """Whether a launch of a sweep has begun this run already."""
        file = self.path / "launch.txt"
        return bool(launch) and file.is_file() and file.read_text() == launch

    def forget(self, *patterns: str) -> None:
        """Removes files of these names."""
        for file in (file for pattern in patterns for file in self.path.glob(pattern)):
            file.unlink()

    def close(self) -> None:
        """Lets the folder go; one in which nothing was written disappears."""
        if self._lock is None:
            return
        (self.path / ".lock").unlink(missing_ok=True)
        self._lock.close()
        with contextlib.suppress(OSError):  # up to the first folder that holds something
            for folder in (self.path, *self.path.parents[:3]):  # the pieces of a run's name
                folder.rmdir()
        self._lock = None

    def run_id(self) -> str:
        """A name for this run, and no other, to a server; a resumed run keeps it."""
        file = self.path / "run_id.txt"
        if not file.is_file():
            write_text(file, uuid.uuid4().hex)
        return file.read_text()


def runs_below(folder: Path) -> Iterator[Path]:
    """The run folders with a checkpoint in a folder, in the order of their names."""
    for here, inner, files in islice(os.walk(folder), MOST_FOLDERS):
        if "config.yaml" in files:
            inner.clear()
            if {"best.pt", "last.pt"} & set(files):
                yield Path(here)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def _offer(folder: Path) -> str:
    """The first run folders in a folder, to copy from."""
    found = list(islice(runs_below(folder), 11))
    if not found:
        return ""
    lines = [f"run={shlex.quote(str(path))}" for path in found[:10]]
    return "\n  ".join(["\nThere are runs in it:", *lines, *["..."] * (len(found) > 10)])


def git() -> dict[str, Any]:
    """Commit of the source tree and whether it has changes; None where there is no repository."""
    here = Path(__file__).parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
