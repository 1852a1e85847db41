"""Profile some training steps: a trace for viewers, and a table of operators."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from deephash.utils.files import make_subfolder, write_atomic, write_text

FOLDER = "profile"
"""Subfolder of a run folder."""

SKIPPED, WARM_UP, STEPS = 3, 2, 10
"""Steps that are not profiled, that are and whose result is dropped, and that are recorded."""

ROWS = 40
"""Operators in the table."""


class StepProfile:
    """Profile the first steps of a session, after some that allocate memory and load kernels.

    Args:
        run: the run folder. It gets ``profile/trace.json``, for Perfetto or ``chrome://tracing``,
            and ``profile/table.txt``, with the operators that take most time.
        device: of the method.
    """

    def __init__(self, run: Path, device: torch.device) -> None:
        self.run = run
        self.device = device
        self.steps = 0
        self._profiler: Any = None

    @property
    def recorded(self) -> int:
        """The number of recorded steps."""
        return min(max(0, self.steps - SKIPPED - WARM_UP), STEPS)

    @property
    def summary(self) -> str:
        """Where the profile is, or why there is none."""
        if self.recorded:
            return f"profile of {self.recorded} steps: {self.run / FOLDER}"
        return (
            f"trainer.profile: no step was recorded, because this session trained {self.steps}, and"
            f" the first {SKIPPED + WARM_UP} are left out. Try more trainer.epochs, or rerun=true."
        )

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Profile inside a context. The files are written after the last recorded step."""
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        else:  # its library prints that there is no GPU, as an error
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        steps = schedule(wait=SKIPPED, warmup=WARM_UP, active=STEPS, repeat=1)
        with profile(
            activities=activities, schedule=steps, on_trace_ready=self._write, profile_memory=True
        ) as self._profiler:
            yield
        self._profiler = None

    def step(self) -> None:
        """Mark the end of a step."""
        self.steps += 1
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        if not self.recorded:  # training has ended
            return
        folder = make_subfolder(self.run / FOLDER)
        write_atomic(folder / "trace.json", lambda file: profiler.export_chrome_trace(str(file)))
        key = f"self_{self.device.type}_time_total"
        averages = profiler.key_averages()
        table = averages.table(sort_by=key, row_limit=ROWS, max_name_column_width=60)
        write_text(folder / "table.txt", f"{table}\n")
