"""The training loop. It handles loss terms, timing and files, and nothing about hashing."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deephash.errors import TrainingError
from deephash.training import checkpoint, compile_options, out_of_memory, restore
from deephash.training.averaging import AveragedEncoder
from deephash.training.cuda_graphs import Capture, GraphedStep, obstacle_of
from deephash.training.evaluation import Measured, training_features
from deephash.training.non_finite import faulty_inputs
from deephash.training.precision import autocast, gradient_scaler
from deephash.training.profiling import StepProfile
from deephash.training.running_means import NotFiniteError, RunningMeans
from deephash.training.snapshots import Snapshots
from deephash.training.state import Progress
from deephash.training.step import AccumulatingStep, Scalars, TrainingStep
from deephash.types import Batch, Terms
from deephash.utils import program
from deephash.utils.files import remove, writing
from deephash.utils.run_paths import RunPaths

log = logging.getLogger("deephash")


class Trainable(Protocol):
    """The interface of a method to the loop."""

    @property
    def encoder(self) -> nn.Module: ...
    def __call__(self, batch: Batch, /) -> Terms: ...
    def centers(self) -> Tensor | None: ...
    @property
    def wants_features(self) -> bool: ...
    def prepare(self, data: Any) -> None: ...
    def fit(self, features: Tensor) -> None: ...
    def on_epoch_start(self, epoch: int) -> None: ...
    def after_step(self, step: int) -> None: ...
    def train(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class TrainingData(Protocol):
    """The interface of the data to the loop."""

    def train(self, epoch: int) -> Iterable[Batch]: ...


Evaluate = Callable[[Any, Any], Measured]
"""``(encoder, data) -> Measured``."""


@dataclass(frozen=True)
class LoopOptions:
    """Options of the training loop.

    Args:
        epochs: in total.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        select_on: ``query``, ``val``, ``agreement`` or ``last``; one of the last two for images
            without labels.
        patience: evaluations without a better value after which training stops; None: never.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        log_every: steps between two lines of the log.
        clip_norm: largest norm of the whole gradient; None: no clipping.
        snapshots: database images whose codes are saved before training and at each evaluation.
        accumulate: batches for each update of the parameters.
        ema: decay of the moving average of the encoder's weights, which is then evaluated and
            saved in its place; None: no average.
        updates: updates of an epoch, for schedules with a rate for each step.
        profile: profile the first steps of the session.
    """

    epochs: int
    eval_every: int
    select_on: str = "query"
    patience: int | None = None
    precision: str = "fp32"
    log_every: int = 50
    clip_norm: float | None = None
    snapshots: int = 0
    accumulate: int = 1
    ema: float | None = None
    updates: int = 1
    profile: bool = False


class Trainer:
    """Train a method, evaluate it, keep its best encoder, and resume interrupted runs.

    Args:
        paths: of the run folder.
        optimizer: over the method's parameters, with the rates of epoch 0. None for a method that
            is fitted in closed form, with no epochs.
        schedule: ``factor(epoch, epochs)`` of the rates; None without an optimizer.
        device: of the batches.
        fingerprint: of the data; a checkpoint of other data is refused.
        options: of the loop.
        capture: records the training step once in each epoch and replays it
            (``training/cuda_graphs.py``); None runs each step operator by operator.
    """

    def __init__(
        self,
        paths: RunPaths,
        optimizer: torch.optim.Optimizer | None,
        schedule: Any,
        device: torch.device,
        fingerprint: str,
        options: LoopOptions,
        capture: Capture | None = None,
    ) -> None:
        self.paths = paths
        self.optimizer = optimizer
        self.schedule = schedule
        self.logger: Any = None
        self.device = device
        self.fingerprint = fingerprint
        self.options = options
        self.autocast = partial(autocast, device, options.precision)
        self.snapshots = Snapshots(paths.path, options.snapshots, self.autocast)
        self.capture = capture
        self._obstacle = compile_options.make_capturable(optimizer) if capture and optimizer else ""
        self.scaler = None if optimizer is None else gradient_scaler(device, options.precision)
        self.by_step: bool = getattr(schedule, "by_step", False)
        self.profile = StepProfile(paths.path, device) if options.profile else None
        self.average: AveragedEncoder | None = None
        self.progress = Progress()
        self.running_means = RunningMeans()
        self._epoch_start = 0  # steps before this epoch
        self._logged = (0.0, 0, 0.0)  # clock, images, waiting at the last line of the log
        self.rates = [group["lr"] for group in optimizer.param_groups] if optimizer else []
        if optimizer is None and options.epochs:
            raise ValueError(f"epochs={options.epochs}, and there is no optimizer to train with")

    @out_of_memory.explain_memory_errors()
    def fit(
        self, method: Trainable, data: TrainingData, evaluate: Evaluate, logger: Any
    ) -> Progress:
        """Train from the last whole epoch on; return the state of the run.

        Args:
            method: prepared by ``start``.
            data: yields the batches of an epoch.
            evaluate: evaluates the encoder.
            logger: with ``scalars(where, values, step, epoch)`` and ``tick()``.

        Raises:
            TrainingError: a term or the gradient is not finite, or memory is exhausted.
        """
        now, self.logger = self.progress, logger
        self._logged = (0.0, now.images, now.data_seconds)
        if not now.epoch:
            self.snapshots.take(0, method, data)
        if self.optimizer is not None:
            with nullcontext() if self.profile is None else self.profile.recording():
                self._train(method, data, evaluate, self.optimizer)
        if not now.history:  # epochs=0: evaluated without training
            self._evaluate(method, data, evaluate, 0)
            self._save(method)
        self._settle()
        return now

    def _train(
        self,
        method: Trainable,
        data: TrainingData,
        evaluate: Evaluate,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Train the remaining epochs."""
        now, step = self.progress, self._step(method, optimizer)
        options = self.options
        for epoch in range(now.epoch, options.epochs):
            if now.stopped_early:
                break
            began, self._epoch_start = time.perf_counter(), now.step
            method.train()
            method.on_epoch_start(epoch)
            self._set_rates(optimizer, epoch)
            for scalars in self._updates(step, data.train(epoch), epoch, optimizer):
                now.step += 1
                with torch.no_grad():
                    method.after_step(now.step)
                if self.average is not None:
                    self.average.update(method.encoder)
                self.running_means.add(now.step, scalars)
                if self.profile is not None:
                    self.profile.step()
                self.logger.tick()
                if now.step % options.log_every == 0:
                    self._log(epoch, began, data)  # the only synchronization with the GPU
            self._log(epoch, began, data)
            step.release()
            now.train_seconds += time.perf_counter() - began
            now.epoch = epoch + 1
            if now.epoch % options.eval_every == 0 or now.epoch == options.epochs:
                self._evaluate(method, data, evaluate, now.epoch)
            now.seconds += time.perf_counter() - began
            self._save(method)

    @out_of_memory.explain_memory_errors()
    def start(self, method: Trainable, data: TrainingData) -> int:
        """Prepare and fit a new run, or load an interrupted one.

        Returns:
            The epochs already done.
        """
        last = self.paths.last
        if not last.is_file():
            for old in (self.paths.best, *self.paths.best_of_epochs()):
                remove(old)
            self.snapshots.remove_after(-1)
            began = time.perf_counter()
            method.prepare(data)
            if method.wants_features:
                features = training_features(method.encoder, data, self.autocast)
                with torch.no_grad():
                    method.fit(features)
            self.progress.seconds += time.perf_counter() - began
            self._begin_average(method)
            return 0
        self._begin_average(method)
        state = checkpoint.load_state(last)
        restore.check_last(state, last)
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{last} was trained on other data: its fingerprint is"
                f" {state['fingerprint'][:16]}, that of the data now {self.fingerprint[:16]}.\n"
                "  Bring the data back as it was, or train anew with rerun=true."
            )
        with restore.fitting(last, "this method"):
            restore.restore_weights(method, state["method"], "method")
            restore.load_optimizer(self.optimizer, state["optimizer"])
            restore.load_scaler(self.scaler, state.get("scaler"))
            restore.load_average(self.average, state.get("ema"))
            self.progress = restore.load_progress(state["progress"], last)
            restore.set_generators(state["rng"], self.device)
        self._recover_best(method)
        self.snapshots.remove_after(self.progress.epoch)
        return self.progress.epoch

    def _begin_average(self, method: Trainable) -> None:
        if self.options.ema is not None:
            self.average = AveragedEncoder(method.encoder, self.options.ema)

    def _recover_best(self, method: Trainable) -> None:
        """Check the file of the selected encoder before training resumes.

        If it is damaged and that of the last epoch, it is saved again from ``last.pt``. Other
        encoders that a killed process has left are removed.

        Raises:
            TrainingError: it is missing or damaged, and cannot be recovered.
        """
        selected = self.progress.selected
        if selected is not None:
            fault = self._best_fault(selected)
            if fault and selected == self.progress.epoch:
                log.warning("%s: saved again from last.pt", fault)
                self._save_best(method, selected)
            elif fault:
                raise TrainingError(
                    f"{fault}; that is the best encoder so far, and last.pt holds that of epoch"
                    f" {self.progress.epoch}.\n  Bring back a copy of it, or train anew with"
                    f" rerun=true.\n  To measure the last encoder: {program.command('evaluate')}"
                    f" run={self.paths.path} checkpoint=last"
                )
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        """Remove the encoders of other epochs than the selected one."""
        selected = self.progress.selected
        for old in self.paths.best_of_epochs():
            if selected is None or old != self.paths.best_of_epoch(selected):
                remove(old)

    def _best_fault(self, selected: int) -> str:
        """Return what is wrong with the file of the selected encoder; empty if nothing is."""
        best = self.paths.best_of_epoch(selected)
        if not best.is_file():
            best = self.paths.best
            if not best.is_file():
                return f"{best} of epoch {selected} is missing"
        try:
            state = checkpoint.load_state(best)
        except TrainingError:
            return f"{best} of epoch {selected} is damaged"
        epoch = state.get("epoch", selected)
        if type(epoch) is not int or epoch != selected:
            return f"{best} should be of epoch {selected} and is of epoch {state['epoch']}"
        return ""

    def _updates(
        self,
        step: TrainingStep | GraphedStep,
        batches: Iterable[Batch],
        epoch: int,
        optimizer: torch.optim.Optimizer,
    ) -> Iterator[Scalars]:
        """Train on the batches of an epoch; yield the scalars of each update."""
        for batch in self._timed(batches):
            if self.by_step:
                done = (self.progress.step - self._epoch_start) / self.options.updates
                self._set_rates(optimizer, epoch + done)
            scalars = step(batch)
            self.progress.images += len(batch.index)
            if scalars is not None:
                yield scalars
        if (scalars := step.finish()) is not None:
            yield scalars

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and count the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            self.progress.data_seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _set_rates(self, optimizer: torch.optim.Optimizer, epoch: float) -> None:
        factor = self.schedule.factor(epoch, self.options.epochs)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _step(
        self, method: Trainable, optimizer: torch.optim.Optimizer
    ) -> TrainingStep | GraphedStep:
        """Return the callable that trains on one batch."""
        options = self.options
        given = (method, optimizer, self.device, options.precision, options.clip_norm, self.scaler)
        if options.accumulate > 1:
            return AccumulatingStep(*given, accumulate=options.accumulate)
        step = TrainingStep(*given)
        if self.capture is None:
            return step
        obstacle = self._obstacle or step.obstacle or obstacle_of(method)
        if self.by_step:
            obstacle = obstacle or f"{type(self.schedule).__name__} changes the rate in each step"
        return GraphedStep(step, self.capture, obstacle)

    def _log(self, epoch: int, began: float, data: TrainingData) -> None:
        try:
            means = self.running_means.read()
        except NotFiniteError as error:
            # of this epoch, up to the first non-finite one
            batches = (error.step - self._epoch_start) * self.options.accumulate
            cause = faulty_inputs(data.train(epoch), getattr(data, "train_ids", None), batches)
            raise NotFiniteError(error.terms, error.step, cause) from None
        if not means:
            return
        now, (clock, images, waited) = self.progress, self._logged
        self._logged = (time.perf_counter(), now.images, now.data_seconds)
        seconds = max(self._logged[0] - max(clock, began), 1e-9)
        assert self.optimizer is not None
        means["lr"] = self.optimizer.param_groups[0]["lr"]
        means["images_per_second"] = (now.images - images) / seconds
        means["images_seen"] = now.images
        means["data_share"] = (now.data_seconds - waited) / seconds
        self.logger.scalars("train", means, self.progress.step, epoch + 1)

    def _evaluate(
        self, method: Trainable, data: TrainingData, evaluate: Evaluate, epoch: int
    ) -> None:
        """Evaluate the encoder after ``epoch`` whole epochs, and save it if it is the best."""
        now, began, options = self.progress, time.perf_counter(), self.options
        with self.averaged(method):
            result = evaluate(method.encoder, data)
        self.snapshots.take(epoch, method, data, result.codes)
        is_best = now.add(epoch, result.query, result.val, options.select_on, result.agreement)
        now.evaluation_seconds += time.perf_counter() - began
        now.retrieval_seconds += result.seconds
        if result.query is not None:
            self.logger.scalars("query", {"map": result.query}, now.step, epoch)
        val = {"map": result.val, "agreement": result.agreement}
        if measured := {name: value for name, value in val.items() if value is not None}:
            self.logger.scalars("val", measured, now.step, epoch)
        if is_best:
            self._save_best(method, epoch)
        now.stopped_early = options.patience is not None and now.wait >= options.patience

    def averaged(self, method: Trainable) -> AbstractContextManager[None]:
        """Return a context in which the encoder has its averaged weights, if there are such."""
        return nullcontext() if self.average is None else self.average.applied(method.encoder)

    def _save_best(self, method: Trainable, epoch: int) -> None:
        average = self.average
        weights = method.encoder.state_dict() if average is None else average.encoder_state()
        state = {
            "encoder": weights,
            "epoch": epoch,
            "fingerprint": self.fingerprint,
        }
        checkpoint.save(self.paths.best_of_epoch(epoch), state)

    def _save(self, method: Trainable) -> None:
        """Save ``last.pt``, which names the best epoch; then remove outdated encoders."""
        on_cuda = self.device.type == "cuda"
        state = {
            "method": method.state_dict(),
            "optimizer": restore.optimizer_state(self.optimizer),
            "progress": self.progress.state(),
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
            },
            "fingerprint": self.fingerprint,
        }
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        if self.average is not None:
            state["ema"] = self.average.model.state_dict()
        checkpoint.save(self.paths.last, state)
        self._remove_outdated()

    def _settle(self) -> None:
        """Rename the selected encoder to ``best.pt``."""
        assert self.progress.selected is not None
        best = self.paths.best_of_epoch(self.progress.selected)
        if best.is_file():
            with writing(best):
                best.replace(self.paths.best)
