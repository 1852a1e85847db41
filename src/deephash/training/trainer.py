"""The hot loop. It knows terms, time and files; nothing about hashing."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deephash.errors import TrainingError
from deephash.training import checkpoint, compile_options, out_of_memory, restore
from deephash.training.cuda_graphs import Capture, GraphedStep, obstacle_of
from deephash.training.evaluation import Measured, training_features
from deephash.training.inputs import faulty_inputs
from deephash.training.precision import autocast
from deephash.training.running_means import Meter, NotFiniteError
from deephash.training.snapshots import Snapshots
from deephash.training.state import Progress
from deephash.training.step import TrainingStep
from deephash.types import Batch, Terms
from deephash.utils import program
from deephash.utils.files import remove, writing

log = logging.getLogger("deephash")


class Trainable(Protocol):
    """What the loop asks of a method."""

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


class Data(Protocol):
    """What the loop asks of the data."""

    def train(self, epoch: int) -> Iterable[Batch]: ...


Evaluate = Callable[[Any, Any], Measured]
"""``(encoder, data) -> Measured``."""


class Trainer:
    """Trains a method, evaluates it now and then, keeps its best encoder; resumes by itself.

    Args:
        folder: the run folder, for ``last.pt`` and the best encoder.
        optimizer: over the method's parameters; its rates are those of epoch 0. None for a method
            that is fitted in closed form, with no epochs.
        schedule: ``factor(epoch, epochs)`` of the rates; None without an optimizer.
        device: where the batches already are.
        fingerprint: of the data; a checkpoint of other data is refused.
        epochs: all in all.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        select_on: ``query``, ``val``, ``agreement`` or ``last``; one of the last two where the
            images have no labels.
        patience: evaluations without a better value after which training stops, or None.
        precision: ``fp32`` or ``bf16``.
        log_every: steps between two lines of the record.
        clip_norm: largest norm of the whole gradient, or None.
        snapshots: database images whose codes are saved before training and at each evaluation.
        capture: records the training step once in each epoch and replays it
            (``training/cuda_graphs.py``); None runs each step operator by operator.
    """

    def __init__(
        self,
        folder: Path,
        optimizer: torch.optim.Optimizer | None,
        schedule: Any,
        device: torch.device,
        fingerprint: str,
        epochs: int,
        eval_every: int,
        select_on: str = "query",
        patience: int | None = None,
        precision: str = "fp32",
        log_every: int = 50,
        clip_norm: float | None = None,
        snapshots: int = 0,
        capture: Capture | None = None,
    ) -> None:
        self.folder = folder
        self.optimizer = optimizer
        self.schedule = schedule
        self.logger: Any = None
        self.device = device
        self.fingerprint = fingerprint
        self.epochs = epochs
        self.eval_every = eval_every
        self.select_on = select_on
        self.patience = patience
        self.precision = precision
        self.log_every = log_every
        self.clip_norm = clip_norm
        self.autocast = partial(autocast, device, precision)
        self.snapshots = Snapshots(folder, snapshots, self.autocast)
        self.capture = capture
        self._obstacle = compile_options.make_capturable(optimizer) if capture and optimizer else ""
        self.progress = Progress()
        self.meter = Meter()
        self._epoch_start = 0  # steps before this epoch
        self._logged = (0.0, 0, 0.0)  # clock, images, waiting at the last line of the record
        self.rates = [group["lr"] for group in optimizer.param_groups] if optimizer else []
        if optimizer is None and epochs:
            raise ValueError(f"epochs={epochs}, and there is no optimizer to train with")

    @out_of_memory.told()
    def fit(self, method: Trainable, data: Data, evaluate: Evaluate, logger: Any) -> Progress:
        """Trains from the last whole epoch on; returns what was seen.

        Args:
            method: what is trained, after ``start``.
            data: gives the batches of an epoch.
            evaluate: measures the encoder.
            logger: ``scalars(where, values, step, epoch)`` and ``tick()``.

        Raises:
            TrainingError: a term or the gradient is not finite, or the memory is not enough.
        """
        now, self.logger = self.progress, logger
        self._logged = (0.0, now.images, now.data_seconds)
        if not now.epoch:
            self.snapshots.take(0, method, data)
        if self.optimizer is not None:
            self._train(method, data, evaluate, self.optimizer)
        if not now.history:  # epochs=0: prepared, not trained, and yet measured
            self._evaluate(method, data, evaluate, 0)
            self._save(method)
        self._settle()
        return now

    def _train(
        self, method: Trainable, data: Data, evaluate: Evaluate, optimizer: torch.optim.Optimizer
    ) -> None:
        """Train the epochs that are left."""
        now, step = self.progress, self._step(method, optimizer)
        for epoch in range(now.epoch, self.epochs):
            if now.stopped_early:
                break
            began, self._epoch_start = time.perf_counter(), now.step
            method.train()
            method.on_epoch_start(epoch)
            self._set_rates(optimizer, epoch)
            for batch in self._waited_for(data.train(epoch)):
                scalars = step(batch)
                now.step += 1
                now.images += len(batch.index)
                with torch.no_grad():
                    method.after_step(now.step)
                self.meter.add(now.step, scalars)
                self.logger.tick()
                if now.step % self.log_every == 0:
                    self._log(epoch, began, data)  # the one point where we wait for the GPU
            self._log(epoch, began, data)
            step.release()
            now.train_seconds += time.perf_counter() - began
            now.epoch = epoch + 1
            if now.epoch % self.eval_every == 0 or now.epoch == self.epochs:
                self._evaluate(method, data, evaluate, now.epoch)
            now.seconds += time.perf_counter() - began
            self._save(method)

    @out_of_memory.told()
    def start(self, method: Trainable, data: Data) -> int:
        """Prepare and fit a new run, or load an interrupted one.

        Returns:
            The epochs already done.
        """
        last = self.folder / "last.pt"
        if not last.is_file():
            for old in (*self.folder.glob("best.pt"), *self.folder.glob("best-epoch*.pt")):
                remove(old)
            self.snapshots.forget_after(-1)
            began = time.perf_counter()
            method.prepare(data)
            if method.wants_features:
                features = training_features(method.encoder, data, self.autocast)
                with torch.no_grad():
                    method.fit(features)
            self.progress.seconds += time.perf_counter() - began
            return 0
        state = checkpoint.load(last)
        restore.check_last(state, last)
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{last} was trained on other data: its fingerprint is"
                f" {state['fingerprint'][:16]}, that of the data now {self.fingerprint[:16]}.\n"
                "  Bring the data back as it was, or train anew with rerun=true."
            )
        with restore.fitting(last, "this method"):
            restore.load_weights(method, state["method"], "method")
            restore.load_optimizer(self.optimizer, state["optimizer"])
            self.progress = restore.progress_of(state["progress"], last)
            restore.set_generators(state["rng"], self.device)
        self._recover_best(method)
        self.snapshots.forget_after(self.progress.epoch)
        return self.progress.epoch

    def _recover_best(self, method: Trainable) -> None:
        """Check that the selected encoder is there and whole before training goes on.

        If it is the last one, it is saved once more from ``last.pt``. Encoders that a killed
        process has left beside it are removed.

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
                    f" run={self.folder} checkpoint=last"
                )
        for old in self.folder.glob("best-epoch*.pt"):
            if selected is None or old != self._best(selected):
                remove(old)

    def _best_fault(self, selected: int) -> str:
        """What is wrong with the file of the selected encoder; empty if nothing is."""
        best = self._best(selected)
        if not best.is_file():
            best = self.folder / "best.pt"
            if not best.is_file():
                return f"{best} of epoch {selected} is missing"
        try:
            state = checkpoint.load(best)
        except TrainingError:
            return f"{best} of epoch {selected} is damaged"
        epoch = state.get("epoch", selected)
        if type(epoch) is not int or epoch != selected:
            return f"{best} should be of epoch {selected} and is of epoch {state['epoch']}"
        return ""

    def _waited_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; how long the loop waited for them is noted, as its own clock has it."""
        coming = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(coming, None)
            self.progress.data_seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _set_rates(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        factor = self.schedule.factor(epoch, self.epochs)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _step(
        self, method: Trainable, optimizer: torch.optim.Optimizer
    ) -> TrainingStep | GraphedStep:
        """Return what trains on one batch."""
        step = TrainingStep(method, optimizer, self.device, self.precision, self.clip_norm)
        if self.capture is None:
            return step
        return GraphedStep(step, self.capture, self._obstacle or obstacle_of(method))

    def _log(self, epoch: int, began: float, data: Data) -> None:
        try:
            means = self.meter.means()
        except NotFiniteError as error:
            batches = error.step - self._epoch_start  # of this epoch, up to the one that went bad
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
        means["data_share"] = (now.data_seconds - waited) / seconds
        self.logger.scalars("train", means, self.progress.step, epoch + 1)

    def _evaluate(self, method: Trainable, data: Data, evaluate: Evaluate, epoch: int) -> None:
        """Measures the encoder after ``epoch`` whole epochs, and keeps it if it is best."""
        now, began = self.progress, time.perf_counter()
        found = evaluate(method.encoder, data)
        self.snapshots.take(epoch, method, data, found.codes)
        keep = now.add(epoch, found.query, found.val, self.select_on, found.agreement)
        now.evaluation_seconds += time.perf_counter() - began
        now.retrieval_seconds += found.seconds
        if found.query is not None:
            self.logger.scalars("query", {"map": found.query}, now.step, epoch)
        val = {"map": found.val, "agreement": found.agreement}
        if measured := {name: value for name, value in val.items() if value is not None}:
            self.logger.scalars("val", measured, now.step, epoch)
        if keep:
            self._save_best(method, epoch)
        now.stopped_early = self.patience is not None and now.wait >= self.patience

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-epoch{epoch:04d}.pt"

    def _save_best(self, method: Trainable, epoch: int) -> None:
        state = {
            "encoder": method.encoder.state_dict(),
            "epoch": epoch,
            "fingerprint": self.fingerprint,
        }
        checkpoint.save(self._best(epoch), state)

    def _save(self, method: Trainable) -> None:
        """``last.pt``, which names the best encoder; only then the outdated ones go."""
        on_cuda = self.device.type == "cuda"
        state = {
            "method": method.state_dict(),
            "optimizer": restore.state_of(self.optimizer),
            "progress": self.progress.state(),
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
            },
            "fingerprint": self.fingerprint,
        }
        checkpoint.save(self.folder / "last.pt", state)
        for old in self.folder.glob("best-epoch*.pt"):
            if self.progress.selected is None or old != self._best(self.progress.selected):
                remove(old)

    def _settle(self) -> None:
        """Gives the selected encoder its final name, ``best.pt``."""
        assert self.progress.selected is not None
        best = self._best(self.progress.selected)
        if best.is_file():
            with writing(best):
                best.replace(self.folder / "best.pt")
