"""Jobs on this machine: a fresh process for each, one on each GPU slot, the others wait."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from deephash.errors import ConfigError
from deephash.sweep.launchers import process
from deephash.sweep.launchers.process import Job, Watch, failed
from deephash.utils.bounds import Count, CountOrZero

MEMORY = 2.0
"""GiB that a job on the CPU is given room for."""


class Pool:
    """Runs so many jobs at a time.

    A slot is a share of a GPU, which the job sees as its only one, or without GPUs a share of the
    cores. Everything a job leaves in memory ends with its process.

    Args:
        gpus: ``auto``: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi finds. Or a list of
            their numbers; an empty one is for the CPU.
        jobs_per_gpu: slots on each GPU. Several small jobs keep it busier than one.
        jobs: slots without GPUs. None is one for each core, as far as there are 2 GiB for each.
        threads: of each job on the CPU. None shares the cores among the slots, unless
            OMP_NUM_THREADS is set.
        retries: how often a job that failed is begun again; it resumes after its last epoch.
    """

    waits = True

    def __init__(
        self,
        gpus: Literal["auto"] | Sequence[CountOrZero | str] = "auto",
        jobs_per_gpu: Count = 1,
        jobs: Count | None = None,
        threads: Count | None = None,
        retries: CountOrZero = 0,
    ) -> None:
        for key, value in {"jobs_per_gpu": jobs_per_gpu, "jobs": jobs, "threads": threads}.items():
            if value is not None and value < 1:
                raise ConfigError(f"hydra.launcher.{key}  is {value}. It must be at least 1.")
        if gpus != "auto" and (isinstance(gpus, str) or not isinstance(gpus, Sequence)):
            raise ConfigError(
                f"hydra.launcher.gpus  is {gpus!r}. Type auto, or numbers: [0,1]; [] for the CPU."
            )
        found = visible_gpus() if gpus == "auto" else [str(gpu) for gpu in gpus]
        if gpus != "auto" and found:
            _refuse_missing(found)
        self.environments = (
            [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(jobs_per_gpu) for gpu in found]
            if found
            else [{"CUDA_VISIBLE_DEVICES": ""}] * (jobs or _fitting())
        )
        if threads is not None or "OMP_NUM_THREADS" not in os.environ:
            each = threads or max(1, _cores() // self.slots)
            self.environments = [it | {"OMP_NUM_THREADS": str(each)} for it in self.environments]
        self.retries = retries

    @property
    def slots(self) -> int:
        """Jobs that run at a time."""
        return len(self.environments)

    def busy(self, jobs: Sequence[Job]) -> set[int]:
        """None: what an earlier pool left running holds its folder's lock."""
        return set()

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Runs all jobs. Interrupted, it stops those that run, each within its current epoch."""
        waiting = deque(range(len(jobs)))
        free = deque(range(self.slots))
        running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}  # job: slot, process
        tries = [0] * len(jobs)
        try:
            while waiting or running:
                while waiting and free:
                    at, slot = waiting.popleft(), free.popleft()
                    tries[at] += 1
                    try:
                        running[at] = slot, process.start(jobs[at], self.environments[slot])
                    except OSError as error:  # its folder cannot be: the others go on
                        print(f"{jobs[at].name} cannot begin: {error}", file=sys.stderr)
                        watch.ended(at, 1)
                        free.append(slot)
                    else:
                        watch.started(at)
                over = {at for at, (_, job) in running.items() if job.poll() is not None}
                for at in over:
                    slot, job = running.pop(at)
                    free.append(slot)
                    status = job.returncode
                    process.end(jobs[at], status)
                    if failed(status) and tries[at] <= self.retries:
                        print(f"failed, and is tried again: {jobs[at].name}", file=sys.stderr)
                        waiting.append(at)
                    else:
                        watch.ended(at, status)
                if not over:
                    watch.tick()
                    time.sleep(0.1)
        finally:
            if running:
                print(f"stopping {len(running)} that run", file=sys.stderr)
            process.stop([job for _, job in running.values()])


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs this process may use, without a word to them."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu not in ("", "-1")]
    return installed_gpus()


def installed_gpus() -> list[str]:
    """The numbers of all GPUs of this machine."""
    ask = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def _refuse_missing(gpus: Sequence[str]) -> None:
    there = installed_gpus()
    if missing := [gpu for gpu in gpus if gpu.isdecimal() and gpu not in there]:
        have = f"there are {', '.join(there)}" if there else "nvidia-smi finds none"
        raise ConfigError(f"hydra.launcher.gpus  there is no GPU {', '.join(missing)}: {have}.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fitting() -> int:
    """As many jobs as there are cores, and memory for."""
    try:
        told = Path("/proc/meminfo").read_text()
    except OSError:
        return _cores()
    free = int(told.partition("MemAvailable:")[2].split()[0]) / 2**20  # kB to GiB
    return max(1, min(_cores(), int(free / MEMORY)))
