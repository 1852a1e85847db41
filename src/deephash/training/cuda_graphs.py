"""Replay the training step as a CUDA graph: one launch in place of hundreds.

Not measured on CUDA. `Capture` is the interface to CUDA, so that everything else can be tested on a
CPU with an implementation that calls the recorded function again.
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
"""Steps before the first capture: libraries make their handles, the optimizer its state."""

ADVICE = "set trainer.graph=false to disable this"

T = TypeVar("T")


class Capture(Protocol):
    """Record the work that a function gives to a device, and do it again."""

    def warm_up(self, function: Callable[[], T]) -> tuple[T, str]:
        """Call a function where it will be recorded.

        Returns:
            Its result; and why it cannot be recorded, empty if it can.
        """

    def record(self, function: Callable[[], T]) -> Callable[[], T]:
        """Record a function without doing its work.

        Returns:
            Does the work and returns the result, whose tensors are the same each time.

        Raises:
            Exception: it cannot be recorded. None of its work was done.
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

        What waits for the device cannot be captured. It is looked for here, since a capture that
        fails half way leaves the random generator and the allocator in the middle of it.
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
        """Record a function as a CUDA graph with a memory pool of its own."""
        current = torch.cuda.current_stream(self.device)
        generator = torch.cuda.default_generators[self.device.index]
        state = generator.get_state()
        graph = torch.cuda.CUDAGraph()
        try:  # other threads may pin memory meanwhile
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = function()
        except BaseException:
            torch.cuda.set_stream(current)  # torch leaves its own when the capture is invalid
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

    What is a number of Python in the step (a learning rate, a slope) is a constant of the graph, so
    it may change between epochs and not within one. The first steps are ordinary ones, and so are
    those on batches of another shape, such as a short last one. If the step cannot be recorded, all
    that follow are ordinary ones, and one line in the log says why.

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

    def __call__(self, batch: Batch) -> Scalars:
        """Train on one batch; see `TrainingStep`."""
        if self.obstacle:
            return self.step(batch)
        if self._buffers is None:
            self._buffers = batch.map(torch.empty_like)
        pairs = list(zip(self._buffers.tensors(), batch.tensors(), strict=True))
        if any(to.shape != one.shape or to.dtype != one.dtype for to, one in pairs):
            return self.step(batch)
        for to, one in pairs:
            to.copy_(one)
        if self._replay is None and self._warm_up:
            self._warm_up -= 1
            scalars, obstacle = self.capture.warm_up(self._on_buffers)
            if obstacle and not self._warm_up:  # the first steps may wait for what they set up
                self._give_up(obstacle)
            return scalars
        if self._replay is None:
            reason = ""
            try:
                self._replay = self.capture.record(self._on_buffers)
            except Exception as error:  # of CUDA, of the optimizer, or that the memory is short
                reason = first_sentences(error)
            if self._replay is None:  # the error is gone, and with it the memory of the capture
                self.step.forget_gradients()
                self._give_up(reason)
                return self.step(batch)
        scalars = self._replay()
        return Scalars(scalars.names, scalars.values.clone())  # the next replay overwrites them

    def release(self) -> None:
        """Free graph and buffers, at the end of an epoch: an evaluation needs memory too."""
        self._replay = self._buffers = None
        self._warm_up = max(self._warm_up, 1)

    def _on_buffers(self) -> Scalars:
        assert self._buffers is not None
        return self.step(self._buffers)

    def _give_up(self, obstacle: str) -> None:
        self.obstacle = obstacle
        self.release()
        log.warning("trainer.graph: the step is not replayed as a graph, because %s; %s",
                    obstacle, ADVICE)  # fmt: skip


def obstacle_of(method: Any) -> str:
    """Return why the step of a method cannot be recorded; empty if no part of it says so.

    A part with control flow in Python that differs from step to step has a class attribute
    ``uncapturable`` that says what differs.
    """
    modules = method.modules() if isinstance(method, nn.Module) else ()
    return next((str(one.uncapturable) for one in modules if hasattr(one, "uncapturable")), "")
