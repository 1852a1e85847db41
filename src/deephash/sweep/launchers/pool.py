"""Run jobs on this machine, each in a new process on a GPU slot."""

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
from deephash.utils.processors import usable_cores

MEMORY = 2.0
"""GiB of memory per job on the CPU."""


class Pool:
    """Run a fixed number of jobs at a time.

    A slot is a share of a GPU, which the job sees as its only one, or a share of the cores.

    Args:
        gpus: ``auto``: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists. Or a list of
            their numbers; an empty list is the CPU.
        jobs_per_gpu: slots on each GPU.
        jobs: slots without GPUs. None: one per core, if there are 2 GiB of memory for each.
        threads: of each job on the CPU. None: the cores are divided among the slots, unless
            OMP_NUM_THREADS is set.
        retries: restarts of a failed job, which resumes after its last epoch.
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
        devices = visible_gpus() if gpus == "auto" else [str(gpu) for gpu in gpus]
        if gpus != "auto" and devices:
            _refuse_missing(devices)
        slots = devices * jobs_per_gpu or [""] * (jobs or _jobs_by_memory())
        self.environments = [{"CUDA_VISIBLE_DEVICES": device} for device in slots]
        if threads is not None or "OMP_NUM_THREADS" not in os.environ:
            each = threads or max(1, usable_cores() // self.slots)
            for environment in self.environments:
                environment["OMP_NUM_THREADS"] = str(each)
        self.retries = retries

    @property
    def slots(self) -> int:
        """Number of jobs at a time."""
        return len(self.environments)

    def busy(self, jobs: Sequence[Job]) -> set[int]:
        """Return nothing: running jobs of an earlier pool hold the locks of their folders."""
        return set()

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Run all jobs; an interruption stops the running ones."""
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
                        running[at] = slot, process.start_job(jobs[at], self.environments[slot])
                    except OSError as error:  # its folder cannot be made; others continue
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
                    process.record_end(jobs[at], status)
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
            process.stop_jobs([job for _, job in running.values()])


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that this process may use, without initializing them."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu not in ("", "-1")]
    return installed_gpus()


def installed_gpus() -> list[str]:
    """Return the numbers of all GPUs of this machine."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def _refuse_missing(gpus: Sequence[str]) -> None:
    installed = installed_gpus()
    if missing := [gpu for gpu in gpus if gpu.isdecimal() and gpu not in installed]:
        have = f"there are {', '.join(installed)}" if installed else "nvidia-smi finds none"
        raise ConfigError(f"hydra.launcher.gpus  there is no GPU {', '.join(missing)}: {have}.")


def _jobs_by_memory() -> int:
    """Return the number of jobs for which there are cores and memory."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return usable_cores()
    free = int(text.partition("MemAvailable:")[2].split()[0]) / 2**20  # kB to GiB
    return max(1, min(usable_cores(), int(free / MEMORY)))
