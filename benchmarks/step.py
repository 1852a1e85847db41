"""Count the operators of a training step, and time it beside a minimal loop.

Counting. One training step runs on torch's device ``meta``, which computes shapes and no numbers,
and every operator that is dispatched to it is recorded. Each counts as one, except views, metadata
and allocations: on a CUDA device it would launch a kernel or start a copy. Multi-tensor and fused
operators of an optimizer count once. A few operators launch more than one kernel (the backward pass
of a convolution launches two or more), so the counts are no launches; the difference between two
versions of the step is nearly that. Random numbers of the augmentation are drawn on the CPU on
every device and do not count; their copies to the device do. An operator that waits for the device
fails on ``meta``.

Sections: ``data`` makes a batch (order, gather, augmentation, labels), ``forward`` is the network
and the objective, ``norm`` the norm of the gradient, ``record`` what is kept for the log. ``fills``
is what ``torch.utils.deterministic.fill_uninitialized_memory`` would add, counted on the CPU.

Timing. The same network, objective, batches and optimizer in the trainer and in a minimal torch
loop alternate in blocks of steps. The table contains CPU milliseconds as medians, the median of the
ratios, and the ratio of the smallest times, which other programs affect least.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from harness import Report, Series, Stopwatch, Values, alternate, parser, table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from workloads import CLASSES, Enough, Learner, cifar, noise_data

from deephash.types import Batch

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


def case_of(
    name: str, side: int, batch_size: int, steps: int = 4, device: torch.device = CPU
) -> tuple[Learner, list[Batch] | Iterator[Batch]]:
    """Return a method in training mode, and the batches of an epoch of noise."""
    cfg = cifar(side, "trainer.device=cpu", *CASES[name])
    data = noise_data(cfg, batch_size * steps + 2 * CLASSES, device, batch_size)
    learner = Learner(cfg, device, num_train=data.facts.num_train)
    learner.method.train()
    return learner, iter(data.train(0))


# Counting


class Operators(TorchDispatchMode):
    """Counts of the operators that are dispatched to the device ``meta``, by section."""

    def __init__(self) -> None:
        super().__init__()
        self.section = SECTIONS[0]
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in SECTIONS}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        values = tree_leaves((args, kwargs, result))
        on_meta = any(isinstance(value, Tensor) and value.device == META for value in values)
        if on_meta and computes(operator):
            self.counts[self.section][operator._schema.name.removeprefix("aten::")] += 1
        return result

    def within(self, section: str, function: Any) -> Any:
        """Return a function whose operators count in a section; the forward pass follows."""

        def call(*args: Any, **options: Any) -> Any:
            self.section = section
            try:
                return function(*args, **options)
            finally:
                self.section = "record" if section == "optimizer" else "forward"

        return call


def computes(operator: Any) -> bool:
    """Return whether an operator is more than a view, metadata or an allocation."""
    schema = operator._schema
    name = schema.name.removeprefix("aten::")
    if not schema.name.startswith("aten::") or name.startswith(
        ("empty", "new_empty", "lift", "_unsafe_view")
    ):
        return False
    aliases = any(value.alias_info is not None for value in schema.returns)
    return schema.is_mutable or not aliases  # a view shares memory and writes none


def operators(name: str, side: int, batch_size: int) -> dict[str, Counter[str]]:
    """Return the operators of one step of a case, by section."""
    learner, batches = case_of(name, side, batch_size, device=META)
    step, counting = learner.step, Operators()
    patch = mock.patch.object
    with (
        mock.patch("torch.optim.adam._device_dtype_check_for_fused"),  # does not know meta
        mock.patch("torch.nn.utils.clip_grad._has_foreach_support", return_value=True),
        mock.patch("torch.autocast", return_value=nullcontext()),
        patch(torch.autograd, "backward", counting.within("backward", torch.autograd.backward)),
        patch(step, "gradient_norm", counting.within("norm", step.gradient_norm)),
        patch(learner.optimizer, "step", counting.within("optimizer", learner.optimizer.step)),
    ):
        step(next(batches))  # creates the state of the optimizer
        with counting:
            step(counting.within("data", next)(batches))
    return counting.counts


def fills(name: str, side: int, batch_size: int) -> int:
    """Return the number of new tensors of a step that deterministic algorithms would fill."""
    learner, batches = case_of(name, side, batch_size)
    learner.step(next(batches))
    flag, batch = torch.utils.deterministic, next(batches)
    torch.use_deterministic_algorithms(True, warn_only=True)
    flag.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            learner.step(batch)
    finally:
        torch.use_deterministic_algorithms(False)
        flag.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return sum(
        event.name == "aten::fill_"
        and str(event.cpu_parent and event.cpu_parent.name)
        in ("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_")
        for event in profiled.events()
    )


def count_table(options: argparse.Namespace) -> list[list[str]]:
    """Count the operators of each case."""
    rows = [["operators of a step", *SECTIONS, "all", "fills"]]
    for name in options.cases:
        case = (name, options.size, options.batch_size)
        counts = operators(*case)
        sums = [sum(counts[section].values()) for section in SECTIONS]
        rows.append([name, *map(str, sums), str(sum(sums)), str(fills(*case))])
        if options.verbose:
            for section in SECTIONS:
                names = ", ".join(f"{op} {count}" for op, count in counts[section].most_common())
                print(f"  {name}: {section}: {names}", flush=True)
    return rows


# Timing


def minimal_loop(learner: Learner, batches: Iterable[Batch]) -> None:
    """Train with a minimal PyTorch loop."""
    for batch in batches:
        loss = sum(learner.method(batch).values())
        learner.optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        learner.optimizer.step()


class ReadyBatches:
    """Batches in memory, used as the data of the trainer; they end its loop.

    Args:
        batches: of an epoch.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.result = batches, {}

    def train(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches."""
        yield from self.batches
        raise Enough


def time_table(options: argparse.Namespace) -> list[list[str]]:
    """Measure the CPU milliseconds of a step in both loops."""
    rows = [["ms a step", "bare loop", "trainer", "ratio", "ratio of the least"]]
    for name in options.timed:
        learner, iterator = case_of(name, options.time_size, options.batch_size, options.steps)
        batches = list(iterator)
        loops = {
            "bare": lambda: minimal_loop(learner, batches),  # noqa: B023
            "trainer": lambda: learner.train(ReadyBatches(batches)),  # noqa: B023
        }

        def block(series: Series) -> Values:
            with Stopwatch() as watch:
                loops[series.name]()  # noqa: B023
            return {"ms": 1000 * watch.cpu / len(batches)}  # noqa: B023

        pair = [Series("bare"), Series("trainer")]
        alternate(pair, block, options.rounds, warm_up=1, swap=True)
        minimal, trainer = (series.values("ms") for series in pair)
        ratio = statistics.median(b / a for a, b in zip(minimal, trainer, strict=True))
        medians = [f"{series.median('ms'):.1f}" for series in pair]
        rows.append([name, *medians, f"{ratio:.3f}", f"{min(trainer) / min(minimal):.3f}"])
    return rows


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    command_line = parser(__doc__, rounds=5)
    add = command_line.add_argument
    add("--work", nargs="+", choices=["operators", "times"], default=["operators", "times"])
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--timed", nargs="+", choices=CASES, default=["relahash, alexnet", "relahash, squeezenet"])
    add("--batch-size", type=int, default=16)
    add("--size", type=int, default=64, help="side of the images when operators are counted")
    add("--time-size", type=int, default=96, help="side of the images when steps are timed")
    add("--steps", type=int, default=6, help="steps in a block")
    add("--verbose", action="store_true", help="print the operators of each section")
    options = command_line.parse_args(arguments)
    report = Report(__file__, arguments, options)
    report.add(f"{torch.get_num_threads()} threads")
    if "operators" in options.work:
        report.add(table(count_table(options)))
    if "times" in options.work:
        report.add(table(time_table(options)))
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
