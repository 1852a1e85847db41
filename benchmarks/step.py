"""Count the operators of a step, and time it beside a bare loop: python benchmarks/step.py.

Counting. torch.profiler records one step of the real trainer on the CPU. An operator counts if on a
CUDA device it would launch a kernel or start a copy: an ``aten::`` operator below which no other
counted operator runs. Views and metadata (``VIEWS``) do not count. Neither do allocations, except
with --fill, where deterministic algorithms fill each of them with NaN. Operators that are one call
on CUDA and several on a CPU (``WHOLE``: multi-tensor and fused optimizers, convolutions,
normalisation, norms) count once, although the backward of a convolution launches two or more
kernels there. Random numbers of the augmentation are drawn on the CPU on every device and count as
well. So the counts are no launches, but differences between two versions of the step are.

Sections: ``data`` is a batch (order, gather, augmentation, labels), ``forward`` the network and the
objective, ``norm`` the norm of the gradient, ``meter`` what is kept for the record.

Timing. The same network, objective, batches and optimizer in the trainer and in a bare torch
loop, in turn, block by block; CPU seconds of the process, medians, and the median of the ratios.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch.profiler import ProfilerActivity, profile, record_function

from deephash import build, config, schema
from deephash.data.datamodule import DataModule
from deephash.data.images import ImageSet, one_hot
from deephash.data.splits import PerClass
from deephash.data.transforms import Pipeline, RandomResizedCrop
from deephash.engine import checkpoint, forms, meter, trainer
from deephash.engine.evaluate import Measured
from deephash.records import Batch

CONF = Path(__file__).parents[1] / "conf"
CLASSES, SIDE = 10, 32
SECTIONS = ("data", "forward", "backward", "norm", "optimizer", "meter")
SKIPPED = 4
"""Steps before the one that is counted: state is made and memory warm."""

CASES = {
    "relahash, alexnet": ["method=relahash", "backbone=alexnet"],
    "relahash, squeezenet": ["method=relahash", "backbone=squeezenet1_0"],
    "relahash, resnet50": ["method=relahash", "backbone=resnet50"],
    "hashnet with a memory, squeezenet": [
        "method=hashnet", "method.loss.pairs=memory", "backbone=squeezenet1_0",
    ],
    "relahash, tiny, RandomResizedCrop": ["method=relahash", "backbone=tiny", "views=relahash_rrc"],
}  # fmt: skip

VIEWS = """
alias as_strided broadcast_to chunk data detach detach_ diagonal dropout empty empty_like
empty_strided expand expand_as flatten is_nonzero item _local_scalar_dense lift_fresh movedim narrow
new_empty new_empty_strided numpy_T permute _reshape_alias reshape resize_ resolve_conj resolve_neg
result_type select set_ slice split split_with_sizes squeeze squeeze_ swapaxes t to transpose unbind
unflatten unfold unsqueeze unsqueeze_ _unsafe_view view view_as set_data
"""
WHOLE = """
convolution convolution_backward native_batch_norm native_batch_norm_backward native_layer_norm
native_layer_norm_backward linalg_vector_norm max_pool2d_with_indices
max_pool2d_with_indices_backward _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _log_softmax
_log_softmax_backward_data native_dropout native_dropout_backward mean upsample_bilinear2d
_upsample_bilinear2d_aa addmm mm bmm cat stack index _index_put_impl_ sort argmax uniform_ random_
randperm
"""


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


def composed(words: Sequence[str], size: int, batch: int) -> dict[str, Any]:
    """The configuration of a case, on images like CIFAR-10's."""
    schema.register()
    given = ["dataset=cifar10", f"dataset.size={size}", "trainer.device=cpu",
             f"trainer.batch_size={batch}"]  # fmt: skip
    weights = [] if "backbone=tiny" in words else ["backbone.weights=none"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return config.fold(compose("train", overrides=[*given, *words, *weights]))


def module(cfg: dict[str, Any], steps: int) -> DataModule:
    """Batches of noise, augmented as the configuration says; the whole batch at once."""
    transforms = {
        role: Pipeline([build.part(step, "dataset.transforms") for step in steps_of])
        for role, steps_of in cfg["dataset"]["transforms"].items()
    }
    for step in transforms["train"].steps:
        if isinstance(step, RandomResizedCrop):
            step.one_by_one = step.at_once  # as on an accelerator
    batch = cfg["trainer"]["batch_size"]
    data = DataModule(
        "noise", Noise(batch * steps + CLASSES), PerClass(queries=1, train=None), "all",
        transforms["train"], transforms["test"], batch_size=batch, seed=cfg["seed"],
    )  # fmt: skip
    data.setup("cpu")
    return data


class Case:
    """A method, its data and its optimizer, and ways to train them."""

    def __init__(self, cfg: dict[str, Any], steps: int) -> None:
        self.cfg, self.device = cfg, torch.device("cpu")
        self.data = module(cfg, steps)
        facts = self.data.facts
        self.method = build.method(cfg, CLASSES, facts.num_train, pretrained=False)
        self.method.encoder.to(memory_format=torch.channels_last)
        self.optimizer = build.optimizer(cfg, self.method)
        for group in self.optimizer.param_groups:
            if group.get("fused", False) is None:
                group["fused"] = True
        forms.fuse(self.optimizer, self.device)

    def fit(self, batches: Any) -> None:
        """An epoch of the trainer, without its files."""
        loop = trainer.Trainer(
            Path(os.devnull), self.optimizer, build.part(self.cfg["scheduler"], "scheduler"),
            self.device, "", epochs=1, eval_every=1, log_every=10**9,
        )  # fmt: skip
        with mock.patch.object(checkpoint, "save"):
            loop.fit(self.method, batches, lambda *_: Measured(0.0, None, None), Silent())  # type: ignore[arg-type]


class Silent:
    """A logger that keeps nothing."""

    def scalars(self, *_: Any) -> None: ...

    def tick(self) -> None: ...


class Marked:
    """Data whose batches are made below a mark in the profile."""

    def __init__(self, data: DataModule) -> None:
        self.data = data

    def train(self, epoch: int) -> Iterator[Batch]:
        coming = iter(self.data.train(epoch))
        while True:
            with record_function("section:data"):
                batch = next(coming, None)
            if batch is None:
                return
            yield batch


# Counting


def marked(name: str, function: Any) -> Any:
    """A function that leaves a mark in the profile."""

    def call(*args: Any, **options: Any) -> Any:
        with record_function(f"section:{name}"):
            return function(*args, **options)

    return call


def computes(event: Any) -> bool:
    """Whether an operator is one that may count."""
    name = event.name.removeprefix("aten::")
    return event.name.startswith("aten::") and name not in VIEWS.split()


def counted(event: Any) -> Iterator[str]:
    """The operators that count, of an event and those below it."""
    name = event.name.removeprefix("aten::")
    if computes(event) and (name in WHOLE.split() or name.startswith(("_foreach_", "_fused_"))):
        yield name
        return
    below = [one for child in event.cpu_children for one in counted(child)]
    if below:
        yield from below
    elif computes(event):
        yield name


def operators(case: Case) -> dict[str, Counter[str]]:
    """The operators of one step, by section."""
    undo = [
        (torch.Tensor, "backward", "backward"),
        (torch.nn.utils, "get_total_norm", "norm"),
        (torch.nn.utils, "clip_grad_norm_", "norm"),
        (type(case.optimizer), "step", "optimizer"),
        (meter.Meter, "add", "meter"),
    ]
    old = [getattr(owner, name) for owner, name, _ in undo]
    for (owner, name, section), function in zip(undo, old, strict=True):
        setattr(owner, name, marked(section, function))
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            case.fit(Marked(case.data))
    finally:
        for (owner, name, _), function in zip(undo, old, strict=True):
            setattr(owner, name, function)
    return sections(profiled.events())


def sections(events: Iterable[Any]) -> dict[str, Counter[str]]:
    """The operators of the step after those that are skipped."""
    top = sorted(
        (one for one in events if one.cpu_parent is None), key=lambda one: one.time_range.start
    )
    starts = [one.time_range.start for one in top if one.name == "section:data"]
    first, last = starts[SKIPPED], starts[SKIPPED + 1]
    found: dict[str, Counter[str]] = {name: Counter() for name in SECTIONS}
    for event in top:
        if first <= event.time_range.start < last:
            section = event.name.removeprefix("section:")
            found[section if section in found else "forward"].update(counted(event))
    return found


def show_counts(names: Sequence[str], options: argparse.Namespace) -> list[list[str]]:
    """A row for each case."""
    rows = [["operators of a step", *SECTIONS, "all"]]
    for name in names:
        case = Case(composed(CASES[name], options.size, options.batch_size), SKIPPED + 3)
        found = operators(case)
        counts = [sum(found[section].values()) for section in SECTIONS]
        rows.append([name, *map(str, counts), str(sum(counts))])
        if options.verbose:
            for section in SECTIONS:
                some = ", ".join(f"{op} {count}" for op, count in found[section].most_common())
                print(f"  {name}: {section}: {some}", flush=True)
    return rows


# Timing


def bare(case: Case, batches: Iterable[Batch]) -> None:
    """What one writes without a trainer."""
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
    rows = [["ms a step", "bare loop", "trainer", "ratio"]]
    for name in names:
        case = Case(composed(CASES[name], options.time_size, options.batch_size), options.steps)
        kept = Kept(list(case.data.train(0)))
        pairs = []
        for number in range(options.rounds + 1):
            took = {}
            for who in ("bare", "trainer") if number % 2 else ("trainer", "bare"):
                began = time.process_time()
                if who == "bare":
                    bare(case, kept.batches)
                else:
                    case.fit(kept)
                took[who] = (time.process_time() - began) / len(kept.batches)
            pairs.append((took["bare"], took["trainer"]))
        medians = [statistics.median(one) for one in zip(*pairs[1:], strict=True)]
        ratio = statistics.median(b / a for a, b in pairs[1:])
        rows.append([name, *(f"{1000 * one:.1f}" for one in medians), f"{ratio:.3f}"])
    return rows


def laid_out(rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
