"""Replay the training step as a CUDA graph: one launch in place of hundreds.

`Capture` is the interface to CUDA; tests on a CPU implement it by calling the function again.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from deephash.training.out_of_memory import first_sentences
from deephash.training.step import Scalars, TrainingStep
from deephash.types import Batch

log = logging.getLogger("deephash")

WARM_UP = 3
"""Steps before the first capture, in which libraries and the optimizer allocate their state."""

ADVICE = "set trainer.graph=false to disable this"

T = TypeVar("T")


class Capture(Protocol):
    """Record the work of a function on a device, and replay it."""

    def warm_up(self, function: Callable[[], T]) -> tuple[T, str]:
        """Call a function in the environment of the recording.

        Returns:
            Its result, and why it cannot be recorded; empty if it can.
        """

    def record(self, function: Callable[[], T]) -> Callable[[], T]:
        """Record a function without executing it.

        Returns:
            A function that executes it and returns the result, with the same tensors each time.

        Raises:
            Exception: it cannot be recorded; nothing was executed.
        """


class CudaCapture:
    """Record CUDA graphs.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._warned: dict[Any, int] = {}

    def warm_up(self, function: Callable[[], T]) -> tuple[T, str]:
        """Call a function on the stream of the capture.

        Operators that synchronize cannot be captured. They are detected here, since a capture that
        fails leaves the random generator and the allocator in an inconsistent state.
        """
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with torch.cuda.stream(self.stream):
                    result = function()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        current.wait_stream(self.stream)
        reason = ""
        for one in caught:
            if "prototype feature" in str(one.message):
                continue  # the debug mode itself
            if "synchronizing CUDA operation" in str(one.message):
                reason = f"the step waits for the device ({one.filename}, line {one.lineno})"
            else:
                place = one.category, one.filename, one.lineno
                warnings.warn_explicit(str(one.message), *place, registry=self._warned)
        return result, reason

    def record(self, function: Callable[[], T]) -> Callable[[], T]:
        """Record a function as a CUDA graph with its own memory pool."""
        current = torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[self.device.index]
        state = generator.get_state()
        graph = torch.cuda.CUDAGraph()
        try:  # other threads may pin memory during the capture
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = function()
        except BaseException:
            torch.cuda.set_stream(current)  # torch leaves another stream after a failed capture
            fresh = torch.Generator(self.device)
            fresh.set_state(state)
            generator.graphsafe_set_state(fresh.graphsafe_get_state())
            raise

        def replay() -> T:
            graph.replay()
            return result

        return replay


class GraphedStep:
    """Replay a training step that is recorded once in each epoch.

    Python numbers in the step (a learning rate, a slope) are constants of the graph, so they may
    change between epochs only. The first steps run without a graph, and so do steps on batches of
    another shape, such as a short last one. If the step cannot be recorded, no graph is used, and a
    warning has the reason.

    Args:
        step: the training step; see `compile_options.make_capturable` for its optimizer.
        capture: records and replays it.
        obstacle: a known reason why it cannot be recorded; empty otherwise.
    """

    def __init__(self, step: TrainingStep, capture: Capture, obstacle: str = "") -> None:
        self.step = step
        self.capture = capture
        self.obstacle = ""
        self._warm_up = WARM_UP
        self._buffers: Batch | None = None
        self._replay: Callable[[], Scalars] | None = None
        if obstacle:
            self._give_up(obstacle)

    def __call__(self, batch: Batch) -> Scalars | None:
        """Train on one batch; see `TrainingStep`."""
        if self.obstacle:
            return self.step(batch)
        if self._buffers is None:
            self._buffers = batch.map(torch.empty_like)
        pairs = list(zip(self._buffers.tensors(), batch.tensors(), strict=True))
        if any(to.shape != new.shape or to.dtype != new.dtype for to, new in pairs):
            return self.step(batch)
        for to, new in pairs:
            to.copy_(new)
        if self._replay is None and self._warm_up:
            self._warm_up -= 1
            scalars, obstacle = self.capture.warm_up(self._on_buffers)
            if obstacle and not self._warm_up:  # the first steps may synchronize during set-up
                self._give_up(obstacle)
            return scalars
        if self._replay is None:
            reason = ""
            try:
                self._replay = self.capture.record(self._on_buffers)
            except Exception as error:  # of CUDA, the optimizer, or memory
                reason = first_sentences(error)
            if self._replay is None:  # after the error has released the memory of the capture
                self.step.forget_gradients()
                self._give_up(reason)
                return self.step(batch)
        scalars = self._replay()
        return Scalars(scalars.names, scalars.values.clone())  # the next replay overwrites them

    def finish(self) -> Scalars | None:
        """Do nothing, since each step updates the parameters; see `TrainingStep.finish`."""
        return None

    def release(self) -> None:
        """Free graph and buffers at the end of an epoch, for the memory of the evaluation."""
        self._replay = self._buffers = None
        self._warm_up = max(self._warm_up, 1)

    def _on_buffers(self) -> Scalars:
        assert self._buffers is not None
        scalars = self.step(self._buffers)
        assert scalars is not None  # each of its steps is an update
        return scalars

    def _give_up(self, obstacle: str) -> None:
        self.obstacle = obstacle
        self.release()
        message = "trainer.graph: the step is not replayed as a graph, because %s; %s"
        log.warning(message, obstacle, ADVICE)


def obstacle_of(method: Any) -> str:
    """Return why the step of a method cannot be recorded; empty if no part declares a reason.

    A part whose Python control flow differs between steps has a class attribute ``uncapturable``
    with the reason.
    """
    modules = method.modules() if isinstance(method, nn.Module) else ()
    return next((str(m.uncapturable) for m in modules if hasattr(m, "uncapturable")), "")
