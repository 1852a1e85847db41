"""Count the operators of a step, and time it beside a bare loop: python benchmarks/step.py.

Counting. One training step runs on torch's device ``meta``, which computes shapes and no numbers,
and every operator that is dispatched to it is recorded. Each counts as one, except views, metadata
and allocations: on a CUDA device it would launch a kernel or start a copy. Multi-tensor and fused
operators of an optimizer count once. A few operators take more kernels than one (the backward of a
convolution takes two or more), so the counts are no launches; what two versions of the step differ
by is nearly that. Random numbers of the augmentation are drawn on the CPU on every device and do
not count; their copies to the device do. An operator that waits for the device fails on ``meta``.

Sections: ``data`` makes a batch (order, gather, augmentation, labels), ``forward`` is the network
and the objective, ``norm`` the norm of the gradient, ``record`` what is kept for the log. ``fills``
is what ``torch.utils.deterministic.fill_uninitialized_memory`` would add, counted on the CPU.

Timing. The same network, objective, batches and optimizer in the trainer and in a bare torch loop,
in turn, block by block; CPU seconds of the process, medians, the median of the ratios, and the
ratio of the smallest times, on which other jobs of the machine have the least influence.
"""

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deephash.config import build, resolve, schema
from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.splits.protocols import PerClass
from deephash.data.transforms import Pipeline
from deephash.training import checkpoint, compile_options, trainer
from deephash.training.evaluation import Measured
from deephash.training.step import TrainingStep
from deephash.types import Batch
from deephash.utils.run_paths import RunPaths

CONF = Path(__file__).parents[1] / "conf"
CLASSES, SIDE = 10, 32
SECTIONS = ("data", "forward", "backward", "norm", "optimizer", "record")
CPU, META = torch.device("cpu"), torch.device("meta")

CASES = {
    "relahash, alexnet": ["method=relahash", "backbone=alexnet"],
    "relahash, squeezenet": ["method=relahash", "backbone=squeezenet1_0"],
    "relahash, resnet50": ["method=relahash", "backbone=resnet50"],
    "hashnet with a memory, squeezenet": [
        "method=hashnet", "method.loss.pairs=memory", "backbone=squeezenet1_0",
    ],
    "relahash, tiny": ["method=relahash", "backbone=tiny"],
    "relahash, tiny, RandomResizedCrop": ["method=relahash", "backbone=tiny", "views=relahash_rrc"],
}  # fmt: skip


# Parts


class Noise:
    """Images of noise as large as CIFAR-10's."""

    def __init__(self, count: int) -> None:
        self.count = count

    def load(self) -> ImageSet:
        rng = np.random.default_rng(0)
        return ImageSet(
            inputs=rng.integers(0, 256, (self.count, 3, SIDE, SIDE), dtype=np.uint8),
            labels=one_hot(np.arange(self.count) % CLASSES, CLASSES),
            ids=tuple(map(str, range(self.count))),
            classes=tuple(map(str, range(CLASSES))),
        )


def composed(words: Sequence[str], size: int, batch: int) -> schema.Train:
    """The configuration of a case, on images like CIFAR-10's."""
    schema.register()
    given = ["dataset=cifar10", f"dataset.size={size}", "trainer.device=cpu",
             f"trainer.batch_size={batch}"]  # fmt: skip
    weights = [] if "backbone=tiny" in words else ["backbone.weights=none"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        folded = resolve.resolve(compose("train", overrides=[*given, *words, *weights]))
    return schema.parse(schema.Train, folded)


def module(cfg: schema.Train, steps: int, device: torch.device) -> DataModule:
    """Batches of noise, augmented as the configuration says."""
    train, test = (
        Pipeline([build.part(step, "dataset.transforms") for step in steps])
        for steps in (cfg.dataset.transforms.train, cfg.dataset.transforms.test)
    )
    batch = cfg.trainer.batch_size
    data = DataModule(
        "noise", Noise(batch * steps + 2 * CLASSES), PerClass(queries=1, train=None), "all",
        train, test, batch_size=batch, seed=cfg.seed,
    )  # fmt: skip
    data.setup(device)
    return data


class Case:
    """A method, its data and its optimizer, and ways to train them."""

    def __init__(self, cfg: schema.Train, steps: int, device: torch.device = CPU) -> None:
        self.cfg, self.device = cfg, device
        self.data = module(cfg, steps, device)
        count = self.data.facts.num_train
        self.method = build.method(cfg, CLASSES, count, pretrained=False).to(device)
        self.method.encoder.to(memory_format=torch.channels_last)
        self.optimizer = build.optimizer(cfg, self.method)
        compile_options.fuse(self.optimizer, CPU)

    def fit(self, batches: Any) -> None:
        """An epoch of the trainer, without its files."""
        loop = trainer.Trainer(
            RunPaths(Path(os.devnull)),
            self.optimizer,
            build.part(self.cfg.scheduler, "scheduler"),
            self.device,
            "",
            trainer.LoopOptions(epochs=1, eval_every=1, log_every=10**9),
        )
        with mock.patch.object(checkpoint, "save"):
            loop.fit(self.method, batches, lambda *_: Measured(0.0, None, None), Silent())  # type: ignore[arg-type]


class Silent:
    """A logger that keeps nothing."""

    def scalars(self, *_: Any) -> None: ...

    def tick(self) -> None: ...


# Counting


class Operators(TorchDispatchMode):
    """The operators that are dispatched to the device ``meta``, by section."""

    def __init__(self) -> None:
        super().__init__()
        self.section = SECTIONS[0]
        self.found: dict[str, Counter[str]] = {name: Counter() for name in SECTIONS}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = operator(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
        if any(one.device == META for one in tensors) and computes(operator):
            self.found[self.section][operator._schema.name.removeprefix("aten::")] += 1
        return out

    def within(self, section: str, function: Any) -> Any:
        """Return a function whose operators are of a section; after it the forward pass goes on."""

        def call(*args: Any, **options: Any) -> Any:
            self.section = section
            try:
                return function(*args, **options)
            finally:
                self.section = "record" if section == "optimizer" else "forward"

        return call


def computes(operator: Any) -> bool:
    """Whether an operator is more than a view, metadata or an allocation."""
    schema = operator._schema
    name = schema.name.removeprefix("aten::")
    if not schema.name.startswith("aten::") or name.startswith(
        ("empty", "new_empty", "lift", "_unsafe_view")
    ):
        return False
    aliases = [one.alias_info for one in schema.returns if one.alias_info is not None]
    return schema.is_mutable or not aliases  # a view shares memory and writes none


def operators(cfg: schema.Train) -> dict[str, Counter[str]]:
    """The operators of one step, by section."""
    case = Case(cfg, 4, META)
    step, counting = TrainingStep(case.method, case.optimizer, META), Operators()
    patch = mock.patch.object
    case.method.train()
    with (
        mock.patch("torch.optim.adam._device_dtype_check_for_fused"),  # which do not know meta
        mock.patch("torch.nn.utils.clip_grad._has_foreach_support", lambda *_: True),
        mock.patch("torch.autocast", lambda *_, **__: nullcontext()),
        patch(torch.autograd, "backward", counting.within("backward", torch.autograd.backward)),
        patch(step, "gradient_norm", counting.within("norm", step.gradient_norm)),
        patch(case.optimizer, "step", counting.within("optimizer", case.optimizer.step)),
    ):
        coming = iter(case.data.train(0))
        step(next(coming))  # makes the state of the optimizer
        with counting:
            step(counting.within("data", next)(coming))
    return counting.found


def fills(cfg: schema.Train) -> int:
    """How many new tensors of a step deterministic algorithms would fill."""
    case = Case(cfg, 4)
    step, coming = TrainingStep(case.method, case.optimizer, case.device), iter(case.data.train(0))
    case.method.train()
    step(next(coming))
    flag, batch = torch.utils.deterministic, next(coming)
    torch.use_deterministic_algorithms(True, warn_only=True)
    flag.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step(batch)
    finally:
        torch.use_deterministic_algorithms(False)
        flag.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return sum(
        event.name == "aten::fill_" and str(event.cpu_parent and event.cpu_parent.name)
        in ("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_")
        for event in profiled.events()
    )  # fmt: skip


def show_counts(names: Sequence[str], options: argparse.Namespace) -> list[list[str]]:
    """A row for each case."""
    rows = [["operators of a step", *SECTIONS, "all", "fills"]]
    for name in names:
        cfg = composed(CASES[name], options.size, options.batch_size)
        found = operators(cfg)
        counts = [sum(found[section].values()) for section in SECTIONS]
        rows.append([name, *map(str, counts), str(sum(counts)), str(fills(cfg))])
        if options.verbose:
            for section in SECTIONS:
                some = ", ".join(f"{op} {count}" for op, count in found[section].most_common())
                print(f"  {name}: {section}: {some}", flush=True)
    return rows


# Timing


def bare(case: Case, batches: Iterable[Batch]) -> None:
    """Train with a bare PyTorch loop."""
    case.method.train()
    for batch in batches:
        loss = sum(case.method(batch).values())
        case.optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        case.optimizer.step()


class Kept:
    """Batches made before."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def train(self, epoch: int) -> list[Batch]:
        return self.batches


def show_times(names: Sequence[str], options: argparse.Namespace) -> list[list[str]]:
    """A row for each case: ms of the processor per step."""
    rows = [["ms a step", "bare loop", "trainer", "ratio", "ratio of the least"]]
    for name in names:
        case = Case(composed(CASES[name], options.time_size, options.batch_size), options.steps)
        kept = Kept(list(case.data.train(0)))
        pairs = []
        for number in range(options.rounds + 1):
            took = {}
            for loop in ("bare", "trainer") if number % 2 else ("trainer", "bare"):
                began = time.process_time()
                if loop == "bare":
                    bare(case, kept.batches)
                else:
                    case.fit(kept)
                took[loop] = (time.process_time() - began) / len(kept.batches)
            pairs.append((took["bare"], took["trainer"]))
        medians = [statistics.median(one) for one in zip(*pairs[1:], strict=True)]
        ratio = statistics.median(b / a for a, b in pairs[1:])
        least = min(b for _, b in pairs[1:]) / min(a for a, _ in pairs[1:])
        times = [f"{1000 * one:.1f}" for one in medians]
        rows.append([name, *times, f"{ratio:.3f}", f"{least:.3f}"])
    return rows


def laid_out(rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--work", nargs="+", choices=["operators", "times"], default=["operators", "times"])
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--timed", nargs="+", choices=CASES, default=["relahash, alexnet", "relahash, squeezenet"])
    add("--batch-size", type=int, default=16)
    add("--size", type=int, default=64, help="side of the images when operators are counted")
    add("--time-size", type=int, default=96, help="side of the images when steps are timed")
    add("--steps", type=int, default=6, help="in a block")
    add("--rounds", type=int, default=5)
    add("--verbose", action="store_true", help="print the operators of each section")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    options = parsed(arguments)
    command = shlex.join(["python", "benchmarks/step.py", *arguments])
    threads = f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {threads}")
    print(f"Command: {command}\n")
    if "operators" in options.work:
        print(laid_out(show_counts(options.cases, options)) + "\n", flush=True)
    if "times" in options.work:
        print(laid_out(show_times(options.timed, options)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
