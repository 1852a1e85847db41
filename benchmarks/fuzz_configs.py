"""Mistype configurations at random and see that each is accepted or refused in a sentence.

Two kinds of inputs, both in one process and from one seed:

- leaves: every value of several composed configurations takes values of ``NASTY`` in turn, and keys
  are deleted, added and renamed. ``checks.check_train`` sees the result as it sees any
  configuration, cheap parts are built on dummy sizes, and nothing else is.
- lines: command lines of keys, words and values, as somebody might type them, on all four pages.

A sample of what is accepted is built in full on the digits and trained for two steps. Whatever
ends in an exception that is no ``DeephashError`` is printed with its traceback; the exit status is
then 1.

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from deephash.config import build, checks, composition, overrides, resolve, schema
from deephash.config.faults import raise_faults
from deephash.config.synonyms import BY_WORD
from deephash.errors import DeephashError

CONF = Path(__file__).resolve().parents[1] / "conf"

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
"""Command lines that are right: what is mistyped begins with one of them."""

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 40_000, 2**31, 2**32, 2**63, -(2**63), 10**23,
    0.0, 0.5, -0.5, 1.5, 1e-9, 1e300, float("nan"), float("inf"), float("-inf"),
    "", " ", "fast", "none", "null", "auto", "nan", "1e3", "-1", "0x10", "../x", "/", "~", "~x/y",
    "Ünïcode 数", "a b", "a,b", "[1,2]", "{a:1}", "it's", '"', "\\", "$HOME", "a" * 300,
    "deephash.losses.lmcl.LMCL", "torch.optim.SGD", "os.system",
    [], [0], [1, 2], [2, 2], [-1, 0.5], ["a"], [None], [[1]], [1, 2, 3, 4], [float("nan"), 1],
    {}, {"a": 1}, {"_target_": "deephash.losses.lmcl.LMCL"}, {"_target_": 3}, {"_target_": None},
)  # fmt: skip
"""Values that some place cannot take."""

TYPED = (
    "", "3", "-1", "0", "1e400", "nan", "inf", "64", "abc", "null", "none", "true", "yes", "0.1",
    "1,2", "[1,2]", "[1,2", "{a:1}", "{a", "'x", '"x"', "a b", "~", "~/x y", "Ü(1)", "x=y", "a#b",
    "$x", "${seed}", "${no.such}", "???", "../..", "range(0,3)", "choice(a,b)", "choice(", "int(x)",
    "cifar", "relahash", "resnet-50", "9" * 30, "1_000", "0x1F", "*", "a\\", "\t", "[]", "{}",
)  # fmt: skip
"""Values as they are typed."""


class Outcome(Counter[str]):
    """How many inputs were accepted, refused, or ended in a traceback."""

    def see(self, what: str, job: Any) -> bool:
        """Run a job; whether it was accepted."""
        try:
            job()
        except DeephashError:
            self["refused"] += 1
            return False
        except Exception:
            self["tracebacks"] += 1
            print(f"TRACEBACK {what}\n{traceback.format_exc()}", file=sys.stderr)
            return False
        self["accepted"] += 1
        return True


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values, of nodes too."""
    if path:
        yield path
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from leaves(value, (*path, at))


def mutated(cfg: Mapping[str, Any], draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A configuration with one to three places changed, and what was changed."""
    made, told = copy.deepcopy(dict(cfg)), []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        path = draw.choice(list(leaves(made)))
        holder: Any = made
        for key in path[:-1]:
            holder = holder[key]
        kind, name = draw.random(), ".".join(map(str, path))
        if kind < 0.8:
            holder[path[-1]] = copy.deepcopy(draw.choice(NASTY))
            told.append(f"{name}={holder[path[-1]]!r}")
        elif kind < 0.9:
            del holder[path[-1]]
            told.append(f"~{name}")
        elif isinstance(holder, dict):
            new = draw.choice((f"{path[-1]}x", "a", "_target_", "_args_", "_partial_"))
            holder[new] = copy.deepcopy(draw.choice(NASTY))
            told.append(f"+{name} as {new}={holder[new]!r}")
    return " ".join(told), made


def line(keys: list[str], draw: random.Random) -> list[str]:
    """A command line as somebody might type it."""
    words = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        key, value = (
            draw.choice([draw.choice(keys), draw.choice(list(BY_WORD))]),
            draw.choice(TYPED),
        )
        if draw.random() < 0.15:
            key = key[: draw.randrange(len(key) + 1)] + draw.choice("._-x9/@") + key[1:]
        forms = ([f"{key}={value}"] * 8 + [f"+{key}={value}", f"++{key}={value}", f"~{key}", key,
                 f"--{key}={value}", f"{key}= {value}"])  # fmt: skip
        form = draw.choice(forms)
        pairs = draw.random() < 0.1
        words += [key, "=", value] if pairs else [form]
        if draw.random() < 0.05:
            words += [f"--{key}", value]
    return words


def fuzz_leaves(count: int, draw: random.Random, told: Outcome) -> list[dict[str, Any]]:
    """Check mutated configurations; those that are accepted."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        right = [resolve.resolve(compose("train", overrides=some)) for some in COMPOSED]
        pages = {
            "data": resolve.resolve(compose("data", overrides=["do=verify"])),
            "evaluate": resolve.resolve(compose("evaluate", overrides=["run=x"])),
            "report": resolve.resolve(compose("report", overrides=["sweep=x"])),
        }
    check_of = {"data": checks.check_data, "evaluate": checks.check_evaluate,
              "report": checks.check_report}  # fmt: skip
    good = []
    for _ in range(count):
        if draw.random() < 0.2:
            page = draw.choice(list(pages))
            what, cfg = mutated(pages[page], draw)
            check: Any = check_of[page]
        else:
            what, cfg = mutated(draw.choice(right), draw)
            page, check = "train", checks.check_train
        if told.see(f"{page} {what}", lambda cfg=cfg, check=check: raise_faults(check(cfg))):
            good += [cfg] if page == "train" else []
    return good


def fuzz_lines(count: int, draw: random.Random, told: Outcome) -> None:
    """Check command lines, up to where Hydra would take over."""
    keys: dict[str, list[str]] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for page, some in (("train", []), ("data", ["do=verify"]), ("evaluate", ["run=x"]),
                           ("report", ["sweep=x"])):  # fmt: skip
            cfg = resolve.resolve(compose(page, overrides=list(some)))
            keys[page] = [".".join(map(str, path)) for path in leaves(cfg)]
    for _ in range(count):
        page = draw.choice(("train", "train", "train", "data", "evaluate", "report"))
        words = line(keys[page], draw)

        def job(page: str = page, words: list[str] = words) -> None:
            sys.argv = [f"{page}.py", *words]
            composition.checked(CONF, page, overrides.read(words), f"{page}.py")

        told.see(f"{page} {words}", job)


def train(folded: dict[str, Any]) -> None:
    """Build a method on the digits and take two steps."""
    trainer = {**folded["trainer"], "device": "cpu"}
    cfg = schema.parse(schema.Train, {**folded, "trainer": trainer})
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("leaves", 4000), ("lines", 1000), ("build", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(arguments)
    schema.register()
    draw, began = random.Random(given.seed), time.perf_counter()
    counts = {"leaves": Outcome(), "lines": Outcome(), "builds": Outcome()}
    here, argv = os.getcwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            good = fuzz_leaves(given.leaves, draw, counts["leaves"])
            fuzz_lines(given.lines, draw, counts["lines"])
            for cfg in draw.sample(good, min(given.build, len(good))):
                what = json.dumps(cfg, default=str)[:3000]
                counts["builds"].see(what, lambda cfg=cfg: train(cfg))
            left = sorted(path.name for path in Path(folder).iterdir())
        finally:
            os.chdir(here)
            sys.argv = argv
    for name, found in counts.items():
        kinds = [f"{found[kind]:,} {kind}" for kind in ("accepted", "refused", "tracebacks")]
        print(f"{name:<7} {found.total():6,}: {', '.join(kinds)}")
    print(f"left behind: {', '.join(left) or 'nothing'}; {time.perf_counter() - began:.0f} s")
    return int(bool(left) or any(found["tracebacks"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
