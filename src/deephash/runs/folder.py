"""The run folder: its configuration, report, lock and state."""

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml

from deephash.config import run_identity, schema
from deephash.config.overrides import Override
from deephash.errors import BusyError, TrainingError, WriteError
from deephash.report.reading import TABLE, read_report
from deephash.utils import program
from deephash.utils.files import (
    Kind,
    expand_path,
    expect,
    finite,
    make_folder,
    read_text,
    read_yaml,
    remove,
    remove_temporaries,
    write_text,
)
from deephash.utils.locks import Lock, holder, is_locked
from deephash.utils.run_paths import ERROR, LATEST, NAME_PARTS, RunPaths

LOOK = 2.0
"""Seconds to wait for a lock, which ``is_locked`` of another process may hold briefly."""

LOCK = ".lock"
"""The file that a training process keeps locked in its run folder."""

UNFINISHED = (".*.tmp", "snapshots/.*.tmp", "figures/.*.tmp", "profile/.*.tmp")
"""Temporary files that a killed process may leave."""

MOST_FOLDERS = 2000
"""Limit on the folders that are searched for runs, such as below the root of a disk."""

FIGURES = ("evaluation.html", "figures/*.svg", "figures/*.png")
EVALUATED = ("evaluation.json", "codes*.npz", *FIGURES)
"""The files that an evaluation writes into a run folder."""

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
    "name?": (str, None),
    "group?": (str, None),
}
"""The keys of ``config.yaml`` that are read outside of the parts; ``config`` checks the parts."""


class RunFolder(RunPaths):
    """The folder of a run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: Lock | None = None

    @classmethod
    def of(cls, cfg: schema.Train, overrides: Sequence[Override]) -> Self:
        """Return the folder of the run that a configuration and its command line describe."""
        return cls(expand_path(cfg.paths.outputs) / run_identity.run_name(cfg.plain, overrides))

    @property
    def finished(self) -> bool:
        """Whether the run has a report."""
        return self.report_file.is_file()

    @property
    def resumable(self) -> bool:
        """Whether the run has a checkpoint of its last epoch."""
        return self.last.is_file()

    def config(self, whole: bool = False) -> dict[str, Any]:
        """Read the configuration of the run.

        Args:
            whole: require all keys of ``CONFIG``, not only that those present are of their kind.

        Raises:
            TrainingError: this is not a run folder.
            FileError: its configuration is damaged.
        """
        file = self.config_file
        if not file.is_file():
            why = "it has no config.yaml" if self.path.is_dir() else "it does not exist"
            if self.path.is_file():
                why = "it is a file"
                if self.path.suffix in (".onnx", ".pt2"):
                    why = "it is an exported graph, which onnxruntime or torch runs"
            elif (self.path / "model.safetensors").is_file():
                why = "it is an exported encoder, for deephash encode, search, serve and export"
            raise TrainingError(f"{self.path} is not a run folder: {why}{_runs_to_copy(self.path)}")
        advice = "Bring back a copy of it, or train anew with rerun=true."
        config: dict[str, Any] = read_yaml(file, "configuration of a run", advice=advice)
        expect(config, {"dataset": dict}, file, "configuration of a run", advice)
        kinds = CONFIG if whole else {f"{key.rstrip('?')}?": kind for key, kind in CONFIG.items()}
        expect(config, kinds, file, "configuration of a run", advice)
        return config

    def report(self, required: Iterable[str] = TABLE) -> dict[str, Any]:
        """Read the report of training, which must have the ``required`` keys.

        Raises:
            FileError: it is missing or damaged.
        """
        return read_report(self.report_file, required)

    def lock(self) -> None:
        """Lock the folder for this process; the system releases it when the process ends.

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
        self.remove(*UNFINISHED, ERROR)

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
        """Whether a process is training here; False on filesystems without locks."""
        return is_locked(self.path / LOCK)

    def begin(
        self, config: Mapping[str, Any], overrides: list[str], fresh: bool, launch: str = ""
    ) -> None:
        """Write the configuration, before anything else is written.

        Args:
            config: resolved.
            overrides: the command line.
            fresh: remove the files of an earlier run.
            launch: id of the launch of a sweep, if the run is part of one.
        """
        # The order matters: a process that is killed in between leaves a finished, a resumable or
        # an empty run, and last.pt never remains without the files that it needs.
        if fresh:
            self.remove("report.json", "report.*", "README.md", "run_id.txt", "last.pt", "*.pt")
        if fresh or not self.resumable:
            self.remove("best.pt", "best-epoch*.pt", "log.jsonl", "origin.json", "nearest.json")
            self.remove("profile/trace.json", "profile/table.txt", *EVALUATED)
        write_text(self.config_file, yaml.safe_dump(dict(config), sort_keys=False))
        write_text(self.overrides_file, "".join(f"{text}\n" for text in overrides))
        if launch:
            write_text(self.launch_file, launch)

    def mark_latest(self, outputs: Path) -> None:
        """Make ``latest`` in the folder of outputs a link to this run, where links are possible.

        A file or folder of that name is kept.
        """
        link, new = outputs / LATEST, outputs / f".{LATEST}.{os.getpid()}.tmp"
        if link.exists() and not link.is_symlink():
            return
        remove_temporaries(link)
        with contextlib.suppress(OSError, NotImplementedError):  # a filesystem without links
            new.unlink(missing_ok=True)
            new.symlink_to(os.path.relpath(self.path, outputs), target_is_directory=True)
            new.replace(link)

    def begun_in(self, launch: str) -> bool:
        """Return whether a launch of a sweep has begun this run already."""
        file = self.launch_file
        return bool(launch) and file.is_file() and read_text(file, errors="replace") == launch

    def remove(self, *patterns: str) -> None:
        """Remove matching files, in this order; files behind a link are kept."""
        for file in (file for pattern in patterns for file in self.path.glob(pattern)):
            if file.parent == self.path or not file.parent.is_symlink():
                remove(file)

    def close(self) -> None:
        """Release the lock; remove the folder and its parents where they are empty."""
        if self._lock is None:
            return
        self._lock.release()
        with contextlib.suppress(OSError):  # until a folder is not empty
            for folder in (self.path, *self.path.parents[: NAME_PARTS - 1]):
                folder.rmdir()
        self._lock = None

    def tidy(self) -> None:
        """Remove the lock and temporary files that a killed process has left in a finished run."""
        if (self.path / LOCK).is_symlink() or not any(
            next(self.path.glob(name), None) for name in (LOCK, *UNFINISHED)
        ):
            return
        with contextlib.suppress(WriteError):  # the reader may have no right to write
            if (lock := Lock.acquire(self.path / LOCK)) is not None:
                if lock.exclusive:
                    self.remove(*UNFINISHED)
                lock.release()

    def run_id(self) -> str:
        """Return the unique id of this run on a server, which a resumed run keeps.

        Raises:
            TrainingError: the file is damaged.
        """
        file = self.id_file
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
    """Yield the run folders with a checkpoint below a folder, sorted by name."""
    for here, inner, files in islice(os.walk(folder), MOST_FOLDERS):
        if "config.yaml" in files:
            inner.clear()
            if {"best.pt", "last.pt"} & set(files):
                yield Path(here)
        inner[:] = sorted(
            name for name in inner if not name.startswith(".") and not _is_copied_link(here, name)
        )


def without_latest(folder: Path) -> Path:
    """Return the run to which ``latest`` points, which a later run changes; else the folder."""
    if folder.name == LATEST and folder.is_symlink():
        return folder.parent / folder.readlink()
    return folder


def _is_copied_link(folder: str, name: str) -> bool:
    """Return whether a folder is ``latest`` that was copied as a folder: a run without parents."""
    return name == LATEST and (Path(folder) / name / "config.yaml").is_file()


def _runs_to_copy(folder: Path) -> str:
    """List the first run folders below a folder, as arguments to copy."""
    runs = list(islice(runs_below(folder), 11))
    if not runs:
        return ""
    lines = [f"run={shlex.quote(str(path))}" for path in runs[:10]]
    if len(runs) > 10:
        lines.append("...")
    return "\n  ".join(["\nThere are runs in it:", *lines])


def git() -> dict[str, Any]:
    """Return the commit of the source tree and whether it has changes.

    Both are None unless the package runs from its own repository; a virtual environment may lie in
    another one.
    """
    here = program.checkout()
    if here is None:
        return {"commit": None, "dirty": None}

    def output(*arguments: str) -> str | None:
        command = ["git", *arguments]
        try:
            return subprocess.run(
                command, cwd=here, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    commit = output("rev-parse", "HEAD")
    changes = output("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def environment() -> dict[str, Any]:
    """Return versions of packages and the hardware, for reports."""
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
