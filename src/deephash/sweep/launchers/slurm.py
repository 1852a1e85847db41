"""Run jobs as an array of SLURM, with submitit (``pip install submitit``)."""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from deephash.errors import ConfigError, FileError
from deephash.sweep.launchers.process import Job, Watch
from deephash.sweep.launchers.submitted import MARK, Queue, Submitted, SubmittedRun, queued
from deephash.utils.bounds import Count, CountOrZero, Place, Positive
from deephash.utils.extras import import_extra
from deephash.utils.files import expand_path, expect, make_folder, read_json, write_json
from deephash.utils.progress import tell

POLL = {"slurm": 10.0, "local": 0.5}
"""Seconds between two checks for results."""


class Slurm:
    """Run all jobs as one array of SLURM.

    Nodes share the Python environment, the checkout, data and outputs with this machine, at the
    same paths.

    A job that reaches its time limit, or is preempted by signal USR2, stops its run and is queued
    again; the run resumes after its last whole epoch. SLURM requeues jobs after a node failure.

    Args:
        folder: of submitit's scripts, logs and results, with a subfolder for each launch.
        cluster: "slurm"; or "local", to try this launcher on this machine. submitit's local
            executor limits time only, and gives *every* job the GPUs 0 .. gpus_per_node - 1 (none
            for 0 or null), so that jobs share GPUs. hydra/launcher=pool assigns GPUs.
        timeout_min: minutes until a job is stopped and queued again.
        array_parallelism: limit on the jobs at a time.
        gpus_per_node: GPUs of a job. null: not requested in this way (see `additional`).
        cpus_per_task: CPU cores of a job.
        mem_gb: memory of a job in GB; null: the default of the cluster.
        partition: as in sbatch; null: the default of the cluster, also for the next three.
        account: as in sbatch.
        qos: quality of service.
        constraint: on the node.
        setup: shell commands before each job, such as "module load cuda".
        additional: other parameters of sbatch by name, such as {gres: "gpu:a100:1"}.
        requeues: limit on the requeues for the time limit; preempted jobs are always requeued.
        wait: whether `launch` waits for the jobs, or returns after the submission. "local" always
            waits.
    """

    def __init__(
        self,
        folder: Place,
        cluster: Literal["slurm", "local"] = "slurm",
        timeout_min: Count = 24 * 60,
        array_parallelism: Count = 8,
        gpus_per_node: CountOrZero | None = 1,
        cpus_per_task: Count = 8,
        mem_gb: Positive | None = 32,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        setup: Sequence[str] = (),
        additional: Mapping[str, Any] | None = None,
        requeues: CountOrZero = 10,
        wait: bool = True,
    ) -> None:
        if cluster not in POLL:
            raise ConfigError(f"hydra.launcher.cluster={cluster} is none of: {', '.join(POLL)}")
        self.folder = expand_path(folder)
        self.cluster = cluster
        self.slots = array_parallelism
        self.requeues = requeues
        self.waits = wait or cluster == "local"
        self.parameters = {  # names of submitit; null is left out
            "name": "deephash",
            "timeout_min": timeout_min,
            "gpus_per_node": gpus_per_node,
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "slurm_array_parallelism": array_parallelism,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            f"{cluster}_setup": list(setup) or None,
            "slurm_additional_parameters": {"requeue": True} | dict(additional or {}),
        }

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Submit jobs, and wait for them if ``waits``; a failing job does not stop others.

        Ctrl-C leaves the jobs of SLURM in its queue, and stops those of "local".

        Raises:
            ConfigError: submitit or SLURM is missing, or SLURM refuses the jobs.
        """
        if not jobs:
            return
        slurm = self.cluster == "slurm"
        executor = self._executor()
        queue = Queue() if slurm else None
        room = len(jobs) if slurm else self.slots
        waiting, running = list(enumerate(jobs)), dict[int, Submitted]()
        try:
            while waiting or running:
                free = room - len(running)
                running |= self._submit(executor, waiting[:free])
                del waiting[:free]
                if not self.waits:
                    return
                self._pause(watch)
                for at, submitted in list(running.items()):
                    if not submitted.started and submitted.begun():
                        submitted.started = True
                        watch.started(at)
                    if submitted.over(queue):
                        del running[at]
                        watch.ended(at, submitted.status())
        except KeyboardInterrupt:
            self._leave(list(running.values()))
            raise

    def busy(self, jobs: Sequence[Job]) -> set[int]:
        """Return the indices of jobs that an earlier launch has in SLURM's queue.

        Raises:
            ConfigError: SLURM does not answer.
        """
        numbers = {}
        for at, job in enumerate(jobs):
            with contextlib.suppress(FileError):  # missing or damaged: submitted again
                mark = read_json(job.folder / MARK, "mark of SLURM")
                expect(mark, {"job_id": str}, job.folder / MARK)
                numbers[at] = mark
        if not numbers or shutil.which("squeue") is None:
            return set()
        there = queued()
        return {at for at, number in numbers.items() if number["job_id"] in there}

    def _executor(self) -> Any:
        submitit = import_extra("submitit", "hydra/launcher=slurm", "hydra/launcher=pool")
        for tool in ("sbatch", "srun") if self.cluster == "slurm" else ():
            if shutil.which(tool) is None:
                raise ConfigError(
                    f"hydra/launcher=slurm: there is no {tool} on this machine, so no SLURM. Try\n"
                    "  hydra/launcher=pool            for the GPUs of this machine\n"
                    "  hydra.launcher.cluster=local   to try this launcher without SLURM"
                )
        # a new folder, since local jobs have the same numbers each time
        now = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
        limits = {"slurm_max_num_timeout": self.requeues, "local_max_num_timeout": self.requeues}
        executor = submitit.AutoExecutor(self.folder / now, cluster=self.cluster, **limits)
        executor.update_parameters(**self.parameters)
        return executor

    def _submit(self, executor: Any, jobs: Sequence[tuple[int, Job]]) -> dict[int, Submitted]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not jobs:
            return {}
        tickets = []
        try:
            with executor.batch():
                tickets += [executor.submit(SubmittedRun(job)) for _, job in jobs]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"sbatch did not take the jobs: {error}") from None
        submitted = {at: Submitted(job, t) for (at, job), t in zip(jobs, tickets, strict=True)}
        if self.cluster == "slurm":
            for item in submitted.values():
                make_folder(item.job.folder)
                mark = {"launcher": "slurm", "job_id": item.ticket.job_id}
                write_json(item.job.folder / MARK, mark | {"folder": str(executor.folder)})
            number = tickets[0].job_id.partition("_")[0]
            tell(f"SLURM has {len(jobs)} jobs as {number}: squeue --jobs={number}")
            if not self.waits:
                tell("They run without this command. With preview=true it shows their progress,")
                tell(f"without it submits missing jobs; scancel {number} ends them all.")
        return submitted

    def _pause(self, watch: Watch) -> None:
        until = time.monotonic() + POLL[self.cluster]
        while (left := until - time.monotonic()) > 0:
            watch.tick()
            time.sleep(min(left, 1.0))

    def _leave(self, running: Sequence[Submitted]) -> None:
        if self.cluster == "local":
            for item in running:
                item.ticket.cancel()
        elif running:
            numbers = " ".join({item.ticket.job_id.partition("_")[0]: 0 for item in running})
            tell(f"{len(running)} jobs stay with SLURM; to end them: scancel {numbers}")
