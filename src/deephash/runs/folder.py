"""The run folder: what ran, with what, and whether it is finished."""

import contextlib
import errno
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from deephash.errors import BusyError, TrainingError, WriteError
from deephash.report.reading import TABLE, read_report
from deephash.utils import program
from deephash.utils.files import (
    Kind,
    expect,
    finite,
    make_folder,
    read_text,
    read_yaml,
    remove,
    write_text,
)
from deephash.utils.locks import Lock, holder, is_locked
from deephash.utils.run_paths import ERROR

LOOK = 2.0
"""Seconds to wait for a lock that may be held by somebody who only looks whether it is."""

LOCK = ".lock"
"""The file that a training process keeps locked in its run folder."""

UNFINISHED = (".*.tmp", "snapshots/.*.tmp", "figures/.*.tmp")
"""What a killed process may leave of files that it was writing."""

MOST_FOLDERS = 2000
"""That many are looked at in search of runs: somebody may have named the root of a disk."""

FIGURES = ("evaluation.html", "figures/*.svg", "figures/*.png")
EVALUATED = ("evaluation.json", "codes*.npz", *FIGURES)
"""What an evaluation leaves in a run folder."""

CONFIG: dict[str, Kind] = {
    "dataset": dict,
    "dataset.name": str,
    "dataset.source": dict,
    "dataset.source._target_": str,
    "dataset.protocol": str,
    "dataset.protocols": dict,
    "dataset.protocols.*": dict,
    "dataset.transforms.train": [dict],
    "dataset.transforms.test": [dict],
    "dataset.expected?": (dict, None),
    "dataset.expected.*?": (dict, None),
    "dataset.expected.*.*?": (int, None),
    "dataset.top?": (int, None),
    "backbone": dict,
    "backbone._target_": str,
    "method": dict,
    "method.name": str,
    "method.head": dict,
    "method.head._target_": str,
    "method.relaxation?": (dict, None),
    "method.loss?": (dict, None),
    "method.codebook?": (dict, None),
    "method.similarity?": (dict, None),
    "method.views?": (int, [str]),
    "method.streams?": int,
    "model.nbit": int,
    "seed": int,
    "trainer": dict,
    "trainer.epochs": int,
    "trainer.batch_size": int,
    "trainer.eval_batch_size": int,
    "trainer.precision": str,
    "trainer.device": str,
    **{f"trainer.{name}": bool for name in ("drop_last", "deterministic", "channels_last")},
    "evaluation": dict,
    "evaluation.*": (str, finite, bool, None, [finite, str]),  # tops: [100, all]
    "logger.*": dict,
    "paths.*": (str, None),
    "group?": (str, None),
}
"""What ``config.yaml`` of a run holds, as far as the program itself reads it; what the parts named
in it take is for ``config.check_part``."""


class RunFolder:
    """One experiment's folder. Finished means that ``report.json`` exists.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Lock | None = None

    @property
    def finished(self) -> bool:
        return (self.path / "report.json").is_file()

    def config(self, whole: bool = False) -> dict[str, Any]:
        """The configuration that ran here.

        Args:
            whole: whether all of ``CONFIG`` must be there; else what is there must be of its kind.

        Raises:
            TrainingError: this is not a run folder.
            FileError: its configuration is damaged.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            why = "it has no config.yaml" if self.path.is_dir() else "it does not exist"
            raise TrainingError(f"{self.path} is not a run folder: {why}{_offer(self.path)}")
        advice = "Bring back a copy of it, or train anew with rerun=true."
        config: dict[str, Any] = read_yaml(file, "configuration of a run", advice=advice)
        expect(config, {"dataset": dict}, file, "configuration of a run", advice)
        kinds = CONFIG if whole else {f"{key.rstrip('?')}?": kind for key, kind in CONFIG.items()}
        expect(config, kinds, file, "configuration of a run", advice)
        return config

    def report(self, required: Iterable[str] = TABLE) -> dict[str, Any]:
        """What training found.

        Args:
            required: keys that must be there.

        Raises:
            FileError: it is missing or damaged.
        """
        return read_report(self.path / "report.json", required)

    def lock(self) -> None:
        """Take the folder for this process; the system releases it when the process ends.

        Raises:
            BusyError: another process is training here.
            WriteError: the folder cannot be made or written.
        """
        until = time.monotonic() + LOOK
        while (lock := self._acquire(time.monotonic() > until)) is None:
            if time.monotonic() > until:
                name = holder(self.path / LOCK)
                raise BusyError(
                    f"another process is training in {self.path}" + (f": {name}" if name else "")
                )
            time.sleep(0.02)
        self._lock = lock
        # What is left of a write that was killed, and why an earlier try failed.
        self.forget(*UNFINISHED, ERROR)

    def _acquire(self, last: bool) -> Lock | None:
        make_folder(self.path)
        try:
            return Lock.acquire(self.path / LOCK)
        except WriteError as error:
            if error.errno != errno.ENOENT or last:
                raise
            return None  # the previous holder has just removed the empty folder

    @property
    def locked(self) -> bool:
        """Whether a process is training here; False where files cannot be locked."""
        return is_locked(self.path / LOCK)

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
        # In this order, a process that is killed in between leaves a finished run, or one that can
        # be resumed, or one that has not begun: last.pt never stands without what it needs.
        if fresh:
            self.forget("report.json", "report.*", "run_id.txt", "last.pt", "*.pt")
        if fresh or not (self.path / "last.pt").is_file():
            self.forget("best.pt", "best-epoch*.pt", "log.jsonl", *EVALUATED)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        write_text(self.path / "overrides.txt", "".join(f"{text}\n" for text in overrides))
        if launch:
            write_text(self.path / "launch.txt", launch)

    def begun_in(self, launch: str) -> bool:
        """Whether a launch of a sweep has begun this run already."""
        file = self.path / "launch.txt"
        return bool(launch) and file.is_file() and read_text(file, errors="replace") == launch

    def forget(self, *patterns: str) -> None:
        """Remove files of these names, in this order; what lies behind a link stays."""
        for file in (file for pattern in patterns for file in self.path.glob(pattern)):
            if file.parent == self.path or not file.parent.is_symlink():
                remove(file)

    def close(self) -> None:
        """Lets the folder go; one in which nothing was written disappears."""
        if self._lock is None:
            return
        self._lock.release()
        with contextlib.suppress(OSError):  # up to the first folder that holds something
            for folder in (self.path, *self.path.parents[:3]):  # the pieces of a run's name
                folder.rmdir()
        self._lock = None

    def tidy(self) -> None:
        """Remove what a killed process has left of a finished run: its lock, half a file."""
        if (self.path / LOCK).is_symlink() or not any(
            next(self.path.glob(name), None) for name in (LOCK, *UNFINISHED)
        ):
            return
        with contextlib.suppress(WriteError):  # read by somebody who may not write
            if (lock := Lock.acquire(self.path / LOCK)) is not None:
                if lock.exclusive:
                    self.forget(*UNFINISHED)
                lock.release()

    def run_id(self) -> str:
        """Return a name for this run, and no other, to a server; a resumed run keeps it.

        Raises:
            TrainingError: The file holds something else: it may be a stranger's or damaged.
        """
        file = self.path / "run_id.txt"
        if not file.is_file():
            write_text(file, uuid.uuid4().hex)
        text = read_text(file).strip()
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
            raise TrainingError(
                f"{file} holds {text[:40]!r}, which is no id: 1 to 64 of A-Z a-z 0-9 _ -\n"
                "  Delete the file, and the run gets a new id."
            )
        return text


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
    """Return the commit of the source tree and whether it has changes.

    None where the package is not run from a repository of its own: what a virtual environment may
    lie in is another one.
    """
    here = program.checkout()
    if here is None:
        return {"commit": None, "dirty": None}

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
        **({"timm": sys.modules["timm"].__version__} if "timm" in sys.modules else {}),
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
