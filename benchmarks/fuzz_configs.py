"""Mistype configurations at random, and check that each is accepted or refused with a message.

Two kinds of inputs, both in one process and from one seed:

- leaves: values of composed configurations are replaced by values of ``NASTY``, and keys are
  deleted, added and renamed. ``checks.check_train`` checks the result as any other configuration,
  and builds its cheap parts on dummy sizes.
- lines: command lines of keys, overrides and values with typing mistakes, for all four commands.

A sample of the accepted configurations is built completely on the digits and trained for two steps.
Any exception that is not a ``DeephashError`` is printed with its traceback; the exit status is then
1.

    python benchmarks/fuzz_configs.py --leaves 4000 --lines 1000 --build 40 --seed 0
"""

import argparse
import copy
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, configuration

from deephash.config import build, checks, composition, overrides, schema
from deephash.config.faults import raise_faults
from deephash.config.synonyms import BY_WORD
from deephash.errors import DeephashError

COMPOSED = (
    [],
    ["method=dpn", "method.loss.update_every=1", "scheduler=every", "optimizer=sgd"],
    ["method=hashnet", "scheduler=cosine", "optimizer=rmsprop", "head=mlp"],
    ["method=csq", "codebook=hadamard", "relaxation=tanh"],
    ["method=dtsh", "trainer=early_stop", "logger=wandb"],
    ["method=jmlh", "codebook=balanced", "trainer.device=cpu", "logger=quiet"],
    ["method=greedyhash", "codebook=learned", "evaluation.convention=hashnet"],
    ["dataset=folder", "dataset.root=x", "backbone=resnet18", "views=csq"],
    ["dataset=cifar10", "backbone=alexnet", "method=orthohash_arc", "views=fire"],
    ["dataset=features", "dataset.root=x", "method=ce"],
    ["dataset=lists", "dataset.root=x", "backbone=vit_b_16", "method=dpsh"],
    ["dataset=coco", "dataset.root=x", "method=dhn"],
)
"""Correct command lines; mistyped configurations are derived from them."""

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 40_000, 2**31, 2**32, 2**63, -(2**63), 10**23,
    0.0, 0.5, -0.5, 1.5, 1e-9, 1e300, float("nan"), float("inf"), float("-inf"),
    "", " ", "fast", "none", "null", "auto", "nan", "1e3", "-1", "0x10", "../x", "/", "~", "~x/y",
    "Ünïcode 数", "a b", "a,b", "[1,2]", "{a:1}", "it's", '"', "\\", "$HOME", "a" * 300,
    "deephash.losses.lmcl.LMCL", "torch.optim.SGD", "os.system",
    [], [0], [1, 2], [2, 2], [-1, 0.5], ["a"], [None], [[1]], [1, 2, 3, 4], [float("nan"), 1],
    {}, {"a": 1}, {"_target_": "deephash.losses.lmcl.LMCL"}, {"_target_": 3}, {"_target_": None},
)  # fmt: skip
"""Values that some key cannot have."""

TYPED = (
    "", "3", "-1", "0", "1e400", "nan", "inf", "64", "abc", "null", "none", "true", "yes", "0.1",
    "1,2", "[1,2]", "[1,2", "{a:1}", "{a", "'x", '"x"', "a b", "~", "~/x y", "Ü(1)", "x=y", "a#b",
    "$x", "${seed}", "${no.such}", "???", "../..", "range(0,3)", "choice(a,b)", "choice(", "int(x)",
    "cifar", "relahash", "resnet-50", "9" * 30, "1_000", "0x1F", "*", "a\\", "\t", "[]", "{}",
)  # fmt: skip
"""Values on command lines."""


PAGES: dict[str, tuple[str, ...]] = {
    "train": (), "data": ("do=verify",), "evaluate": ("run=x",), "report": ("sweep=x",),
}  # fmt: skip
"""The commands, each with the overrides that it requires."""


class Outcomes(Counter[str]):
    """Numbers of inputs that were accepted, refused, or ended in a traceback."""

    def run(self, name: str, job: Callable[[], Any]) -> bool:
        """Run a job; return whether its input was accepted."""
        try:
            job()
        except DeephashError:
            self["refused"] += 1
            return False
        except Exception:
            self["tracebacks"] += 1
            print(f"TRACEBACK {name}\n{traceback.format_exc()}", file=sys.stderr)
            return False
        self["accepted"] += 1
        return True


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values, including nodes."""
    if path:
        yield path
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))


def mutate(cfg: Mapping[str, Any], rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a configuration with one to three changes, and a description of them."""
    result, changes = copy.deepcopy(dict(cfg)), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(leaves(result)))
        container: Any = result
        for key in path[:-1]:
            container = container[key]
        kind, name = rng.random(), ".".join(map(str, path))
        if kind < 0.8:
            container[path[-1]] = copy.deepcopy(rng.choice(NASTY))
            changes.append(f"{name}={container[path[-1]]!r}")
        elif kind < 0.9:
            del container[path[-1]]
            changes.append(f"~{name}")
        elif isinstance(container, dict):
            new = rng.choice((f"{path[-1]}x", "a", "_target_", "_args_", "_partial_"))
            container[new] = copy.deepcopy(rng.choice(NASTY))
            changes.append(f"+{name} as {new}={container[new]!r}")
    return " ".join(changes), result


def command_line(keys: list[str], rng: random.Random) -> list[str]:
    """Return a command line with typing mistakes."""
    arguments = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice([rng.choice(keys), rng.choice(list(BY_WORD))])
        value = rng.choice(TYPED)
        if rng.random() < 0.15:
            key = key[: rng.randrange(len(key) + 1)] + rng.choice("._-x9/@") + key[1:]
        forms = [f"{key}={value}"] * 8 + [f"+{key}={value}", f"++{key}={value}", f"~{key}", key,
                 f"--{key}={value}", f"{key}= {value}"]  # fmt: skip
        form = rng.choice(forms)
        arguments += [key, "=", value] if rng.random() < 0.1 else [form]
        if rng.random() < 0.05:
            arguments += [f"--{key}", value]
    return arguments


def fuzz_leaves(count: int, rng: random.Random, outcomes: Outcomes) -> list[dict[str, Any]]:
    """Check mutated configurations; return the accepted ones of ``train``."""
    correct = [configuration(*line) for line in COMPOSED]
    pages = {page: configuration(*line, page=page) for page, line in PAGES.items() if line}
    check_of: dict[str, Any] = {"train": checks.check_train, "data": checks.check_data,
                "evaluate": checks.check_evaluate, "report": checks.check_report}  # fmt: skip
    accepted = []
    for _ in range(count):
        page = "train"
        if rng.random() < 0.2:
            page = rng.choice(list(pages))
        changes, cfg = mutate(rng.choice(correct) if page == "train" else pages[page], rng)

        def job(page: str = page, cfg: dict[str, Any] = cfg) -> None:
            raise_faults(check_of[page](cfg))

        if outcomes.run(f"{page} {changes}", job) and page == "train":
            accepted.append(cfg)
    return accepted


def fuzz_lines(count: int, rng: random.Random, outcomes: Outcomes) -> None:
    """Check command lines, up to where Hydra's main function would start."""
    keys = {page: [".".join(map(str, path)) for path in leaves(configuration(*line, page=page))]
            for page, line in PAGES.items()}  # fmt: skip
    for _ in range(count):
        page = rng.choice(("train", "train", "train", "data", "evaluate", "report"))
        arguments = command_line(keys[page], rng)

        def job(page: str = page, arguments: list[str] = arguments) -> None:
            sys.argv = [f"{page}.py", *arguments]
            composition.checked(ROOT / "conf", page, overrides.read(arguments), many=True)

        outcomes.run(f"{page} {arguments}", job)


def train(resolved: dict[str, Any]) -> None:
    """Build a method on the digits and take two steps."""
    trainer = {**resolved["trainer"], "device": "cpu"}
    cfg = schema.parse(schema.Train, {**resolved, "trainer": trainer})
    if cfg.dataset.name != "digits" or cfg.model.nbit > 256 or cfg.backbone.get("width", 0) > 64:
        return
    data = build.data_module(cfg)
    data.setup(torch.device("cpu"))
    build.evaluation(cfg, torch.device("cpu")).check(data)
    method = build.method(cfg, data.facts.num_classes, data.facts.num_train, data.width, False)
    optimizer = build.optimizer(cfg, method)
    build.part(cfg.scheduler, "scheduler").factor(0, cfg.trainer.epochs or 1)
    method.prepare(data)
    method.on_epoch_start(0)
    for _, batch in zip(range(2), data.train(0), strict=False):
        optimizer.zero_grad()
        sum(method(batch).values()).backward()
        optimizer.step()


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("leaves", 4000), ("lines", 1000), ("build", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    schema.register()
    rng, began = random.Random(options.seed), time.perf_counter()
    counts = {"leaves": Outcomes(), "lines": Outcomes(), "builds": Outcomes()}
    directory, argv = Path.cwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            accepted = fuzz_leaves(options.leaves, rng, counts["leaves"])
            fuzz_lines(options.lines, rng, counts["lines"])
            for cfg in rng.sample(accepted, min(options.build, len(accepted))):
                name = json.dumps(cfg, default=str)[:3000]
                counts["builds"].run(name, lambda cfg=cfg: train(cfg))
            left = sorted(path.name for path in Path(folder).iterdir())
        finally:
            os.chdir(directory)
            sys.argv = argv
    for name, outcomes in counts.items():
        kinds = [f"{outcomes[kind]:,} {kind}" for kind in ("accepted", "refused", "tracebacks")]
        print(f"{name:<7} {outcomes.total():6,}: {', '.join(kinds)}")
    print(f"left behind: {', '.join(left) or 'nothing'}; {time.perf_counter() - began:.0f} s")
    return int(bool(left) or any(outcomes["tracebacks"] for outcomes in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
