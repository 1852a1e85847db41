"""Run jobs on a Ray cluster, or on this machine (``pip install ray``)."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.errors import ConfigError
from deephash.sweep.launchers import process
from deephash.sweep.launchers.process import Job, Watch
from deephash.utils.bounds import Count, CountOrZero, Name, NonNegative, Positive
from deephash.utils.extras import import_extra
from deephash.utils.progress import tell
from deephash.utils.run_paths import RunPaths

OBJECTS = 100 * 2**20
"""Bytes of a local Ray's object store, which holds exit statuses only."""

PATIENCE = 30.0
"""Seconds for interrupted jobs to stop, more than in `process.stop_jobs`."""


def run_in_folder(job: Job, folder: Path) -> int:
    """Run a job on a worker of Ray in a working directory; return its exit status.

    The job inherits CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS from Ray.
    """
    os.chdir(folder)
    return process.run_job(job)


class Ray:
    """Run each job as a task of Ray, which assigns the GPUs of one or several machines.

    All machines share the folders of outputs, data, the checkout and the Python environment, at
    the same paths.

    Args:
        address: of a running cluster, such as "10.0.0.1:6379", or "auto" for the cluster of this
            machine. null: Ray is started here, and stopped at the end.
        num_gpus: GPUs of a Ray that is started here. null: all.
        num_cpus: CPU cores of a Ray that is started here. null: all.
        gpus_per_job: GPUs of a job. 0.25: four jobs share one, without limits on its memory.
            0: for machines without GPUs; on others, a job sees all of them.
        cpus_per_job: CPU cores of a job, and its threads (OMP_NUM_THREADS, unless that is set).
        retries: restarts of a job whose worker died, for instance with its machine; it resumes
            after its last whole epoch. A failed run is not restarted.
        runtime_env: the environment that Ray prepares, such as {env_vars: {NAME: value}}.
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
        """Estimate of the jobs at a time: the resources of Ray by those of a job.

        Connects to Ray, until the end of `launch` or of this process.
        """
        total = self._connect().cluster_resources()
        fits = [int(total.get(kind, 0) / need) for kind, need in self.needs.items() if need]
        return max(1, min(fits, default=1))

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Run jobs and wait for them; a failing job does not stop others, Ctrl-C stops all.

        Raises:
            ConfigError: ray is not installed, there is no cluster at the address, or the Ray of
                this machine has less than a job needs.
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
        """Return nothing: tasks of Ray end with the process that launched them."""
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
            ray.init(address=self.address or "local", runtime_env=self.runtime_env, **start)
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster at hydra.launcher.address={self.address}: {error}\n"
                "Start one with `ray start --head`, or leave the address null for this machine."
            ) from None
        return ray

    def _refuse_too_much(self, ray: Any) -> None:
        """Refuse jobs that would wait for ever; warn on a cluster, which may grow."""
        total = ray.cluster_resources()
        for kind, need in self.needs.items():
            if need > (there := total.get(kind, 0)):
                key = f"hydra.launcher.{kind.lower()}s_per_job"
                problem = f"{key}={need:g}, and Ray has found {there:g} {kind}s"
                if self.address is None:
                    raise ConfigError(f"{problem}: type a smaller {key}")
                tell(f"{problem}: jobs wait until the cluster grows, or for Ctrl-C")

    def _run(self, ray: Any, jobs: Sequence[Job], watch: Watch) -> None:
        task = ray.remote(run_in_folder).options(
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
    """Return the size of a job's log, which grows when the job runs on any machine."""
    log = RunPaths(job.folder).job_log
    return log.stat().st_size if log.is_file() else 0


def _status(ray: Any, ref: Any, job: Job) -> int:
    """Return the exit status of a task that has ended; write errors that it could not write."""
    try:
        return int(ray.get(ref))
    except ray.exceptions.RayError as error:
        process.record_failure(job, str(error))
        return 1
