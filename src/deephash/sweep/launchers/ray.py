"""Jobs on the machines of a Ray cluster, or on this one (``pip install ray``)."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.errors import ConfigError
from deephash.sweep.launchers import process
from deephash.sweep.launchers.process import Job, Watch
from deephash.utils.bounds import Count, CountOrZero, Name, NonNegative, Positive
from deephash.utils.extras import import_extra
from deephash.utils.run_paths import JOB_LOG as LOG

OBJECTS = 100 * 2**20
"""Bytes of a local Ray's object store; all that goes through it are exit statuses."""

PATIENCE = 30.0
"""Seconds that interrupted jobs have to stop; longer than `process.stop` takes."""


def run(job: Job, folder: Path) -> int:
    """What a worker of Ray does: runs one job in a working directory, returns its exit status.

    Ray has set CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS; the job inherits them.
    """
    os.chdir(folder)
    return process.run(job)


class Ray:
    """Each job is a task of Ray, which deals out the GPUs of one machine or of many.

    All machines share the folders of outputs, data, the checkout and the Python environment, at
    the same paths.

    Args:
        address: of a running cluster, such as "10.0.0.1:6379", or "auto" for the one that this
            machine is part of. null: Ray is started here, and stopped at the end.
        num_gpus: GPUs of the Ray that is started here. null: those it finds.
        num_cpus: CPU cores of the Ray that is started here. null: those it finds.
        gpus_per_job: GPUs of a job. 0.25: four jobs share one, and nobody watches its memory.
            0: for machines without; where there are GPUs, a job sees them all.
        cpus_per_job: CPU cores of a job, and its threads (OMP_NUM_THREADS, unless that is set).
        retries: how often a job is run again whose worker died, for instance with its machine; it
            goes on from its last whole epoch. A failed run is not run again.
        runtime_env: what Ray is to prepare on the machines, such as {env_vars: {NAME: value}}.
    """

    waits = True

    def __init__(
        self,
        address: Name | None = None,
        num_gpus: CountOrZero | None = None,
        num_cpus: Count | None = None,
        gpus_per_job: NonNegative = 1,
        cpus_per_job: Positive = 2,
        retries: CountOrZero = 0,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        self.address = address
        self.local = {"num_gpus": num_gpus, "num_cpus": num_cpus, "object_store_memory": OBJECTS}
        self.needs = {"GPU": gpus_per_job, "CPU": cpus_per_job}
        self.retries = retries
        self.runtime_env = dict(runtime_env or {})

    @property
    def slots(self) -> int:
        """Jobs that run at a time, as far as sums tell: what Ray has by what a job needs.

        Connects to Ray, which stays connected until `launch` is over or this process ends.
        """
        there = self._connect().cluster_resources()
        room = [int(there.get(what, 0) / asked) for what, asked in self.needs.items() if asked]
        return max(1, min(room, default=1))

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Runs jobs and waits for them; a failed one stops no other. Ctrl-C stops them all.

        Raises:
            ConfigError: ray is not installed, there is no cluster at the address, or the Ray of
                this machine has less than one job needs.
        """
        if not jobs:
            return
        ray = self._connect()
        try:
            self._refuse_too_much(ray)
            self._run(ray, jobs, watch)
        finally:
            ray.shutdown()

    def busy(self, jobs: Sequence[Job]) -> set[int]:
        """None: the tasks of Ray end with the process that launched them."""
        return set()

    def _connect(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = import_extra("ray", "hydra/launcher=ray", "hydra/launcher=pool")
        if ray.is_initialized():
            return ray
        start: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            start |= {"include_dashboard": False, **self.local}
        try:
            ray.init(
                address=self.address or "local",
                runtime_env=self.runtime_env,
                **start,
            )
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster at hydra.launcher.address={self.address}: {error}\n"
                "Start one with `ray start --head`, or leave the address null for this machine."
            ) from None
        return ray

    def _refuse_too_much(self, ray: Any) -> None:
        """A job that asks for more than there is would wait for ever; a cluster may still grow."""
        there = ray.cluster_resources()
        for what, asked in self.needs.items():
            if asked > (found := there.get(what, 0)):
                key = f"hydra.launcher.{what.lower()}s_per_job"
                problem = f"{key}={asked:g}, and Ray has found {found:g} {what}s"
                if self.address is None:
                    raise ConfigError(f"{problem}: type a smaller {key}")
                print(
                    f"{problem}: jobs wait until the cluster grows, or for Ctrl-C", file=sys.stderr
                )

    def _run(self, ray: Any, jobs: Sequence[Job], watch: Watch) -> None:
        task = ray.remote(run).options(
            num_gpus=self.needs["GPU"], num_cpus=self.needs["CPU"], max_retries=self.retries
        )
        logs = [_size(job) for job in jobs]
        places = {task.remote(job, Path.cwd()): at for at, job in enumerate(jobs)}
        unseen = set(range(len(jobs)))
        left = list(places)
        try:
            while left:
                over, left = ray.wait(left, timeout=0.5)
                for at in [at for at in unseen if _size(jobs[at]) > logs[at]]:
                    unseen.remove(at)
                    watch.started(at)
                for ref in over:
                    watch.ended(places[ref], _status(ray, ref, jobs[places[ref]]))
                watch.tick()
        except BaseException:
            for ref in left:
                ray.cancel(ref)
            ray.wait(left, num_returns=len(left), timeout=PATIENCE)
            raise


def _size(job: Job) -> int:
    """Bytes of a job's log: more of them say that it runs, wherever that is."""
    log = job.folder / LOG
    return log.stat().st_size if log.is_file() else 0


def _status(ray: Any, ref: Any, job: Job) -> int:
    """Exit status of a task that is over; what it could not tell itself goes to its folder."""
    try:
        return int(ray.get(ref))
    except ray.exceptions.RayError as error:
        process.fail(job, str(error))
        return 1
