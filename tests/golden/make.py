"""Compute the golden values, and write them: ``python -m tests.golden.make``, from the root.

``values.json``, ``configurations.json`` and ``runs/`` pin what may not move: run names, the
identity of configurations, fingerprints, losses, metrics, and run folders that later versions must
read. They change only together with an entry in CHANGELOG.md that states what changed and why.
A refactoring adapts the functions of this module, not the values.

``python -m tests.golden.make losses`` writes only the sections that are named.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra

from deephash import runs
from deephash.config import build, checks, overrides, resolve, run_identity
from deephash.config.overrides import Override
from deephash.data.catalogue import Catalogue
from deephash.data.datamodule import DataModule
from deephash.data.splits.multi_label import Drawn, Quota
from deephash.data.splits.protocols import Official, PerClass, fingerprint
from deephash.runs.folder import environment
from deephash.sweep import multirun, plan_jobs
from deephash.sweep.spec import BASE, SweepSpec
from tests.pages import composable, typed
from tests.paths import ROOT

HERE = Path(__file__).parent
VALUES, CONFIGURATIONS, RUNS = (HERE / n for n in ("values.json", "configurations.json", "runs"))

LINES: dict[str, list[str]] = {
    "defaults": [],
    "another method": ["method=csq", "model.nbit=64", "seed=3"],
    "parts swapped": ["method=dpn", "loss=lmcl", "loss.scale=20", "codebook=hadamard",
                      "trainer.batch_size=64"],
    "a list": ["dataset.classes=[0,1,2,3]", "model.nbit=2", "evaluation.tops=[100,1000]"],
    "paths": ["dataset=cifar10", "dataset.root=/data/my photos (2024)", "backbone=squeezenet1_0",
              "backbone.weights=../weights/squeezenet 1.pth", "paths.outputs=elsewhere"],
    "folder": ["dataset=folder", "dataset.root=photos", "dataset.name=birds",
               "dataset.protocols.per_class.queries=5", "trainer.batch_size=16"],
    "lists": ["dataset=lists", "dataset.root=images", "dataset.lists=lists",
              "dataset.protocols.lists.queries_in_database=exclude_self", "dataset.size=64"],
    "features": ["dataset=features", "dataset.root=FEATURES", "method=ce"],
    "experiment": ["experiment=greedyhash_cifar10", "model.nbit=48"],
    "experiment on its own data": ["experiment=codes_2bit", "method=csq"],
    "views": ["dataset=nuswide21", "dataset.root=NUS", "views=hashnet", "method=hashnet",
              "method.loss.pairs=memory"],
    "drawn": ["dataset=imagenet100", "dataset.root=ILSVRC2012", "dataset.protocol=drawn"],
    "protocol": ["dataset=cifar10", "dataset.protocol=54k",
                 "dataset.protocols={54k:{validation:50}}", "trainer.select_on=val"],
    "deleted": ["~dataset.protocols.per_class.validation", "~logger.console", "seed=1"],
    "added": ["+optimizer.fused=false", "trainer=early_stop", "evaluation.convention=hashnet",
              "optimizer.lr=0.01", "scheduler=cosine"],
    "weights and biases": ["logger=wandb", "group=some", "rerun=true", "method=jmlh",
                           "relaxation=stochastic_sign"],
    "long": [f"method.loss.{key}={value}" for key, value in
             (("scale", 12.345678901234567), ("margin", 0.1234567890123456789))]
            + ["optimizer.weight_decay=0.00012345678901234567", "trainer.clip_norm=1.2345678901",
               "+optimizer.betas=[0.912345678,0.99912345678]"],
}  # fmt: skip
"""Command lines of training, by what is special about them."""

SWEEPS: dict[str, tuple[str, list[str]]] = {
    "table2_beta on digits": ("table2_beta", ["dataset=digits"]),
    "table4_lmcl, two seeds": ("table4_lmcl", ["dataset=digits", "seed=0,1"]),
}
"""Sweeps, of which the first and the last job are pinned."""

TRAINED: dict[str, list[str]] = {
    "relahash": ["method=relahash"],
    "hashnet": ["method=hashnet", "method.loss.pairs=memory"],
    "dpn": ["method=dpn", "method.loss.update_every=2", "optimizer.lr=0.01"],
    "greedyhash": ["method=greedyhash"],
}
"""Methods whose losses are pinned: 5 epochs of 10 steps on digits."""

SMALL = ["dataset=digits", "trainer.device=cpu", "trainer.log_every=1", "logger=quiet"]

FROZEN = [
    *SMALL,
    "backbone.width=4",
    "model.nbit=8",
    "trainer.epochs=3",
    "trainer.eval_every=1",
    "group=frozen",
]
"""What the two frozen runs share."""

FINISHED = [*FROZEN, "method=relahash"]
INTERRUPTED = [*FROZEN, "method=dpn", "method.loss.update_every=1", "optimizer.lr=0.01"]
"""The command lines of the frozen runs. The second was interrupted after two epochs of three."""


def platform() -> dict[str, str]:
    """Return what the last bits of a computation on a CPU depend on."""
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": str(environment()["cpu"]),  # MKL and oneDNN choose kernels and blocks by its model
    }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, since sums depend on how they are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def pages() -> Iterator[None]:
    """Make the repository's configuration composable, and forget it afterwards."""
    with composable():
        yield
    GlobalHydra.instance().clear()


def composed(line: Sequence[str]) -> tuple[tuple[Override, ...], dict[str, Any]]:
    """Return the overrides of a command line as Hydra reads them, and the folded configuration."""
    read = overrides.read(line)
    assert not read.mistyped
    given = read.overrides
    return given, resolve.resolve(compose("train", overrides=overrides.texts(given)), given)


def jobs_of(sweep: str, line: Sequence[str]) -> list[list[str]]:
    """Return the command lines of the first and the last job of a sweep."""
    result = multirun.build_grid(
        SweepSpec.read(ROOT / "sweeps", sweep), overrides.parse_all(line)
    ).jobs
    return [overrides.texts(result[0]), overrides.texts(result[-1])]


def lines() -> dict[str, list[str]]:
    """Return all command lines whose names and configurations are pinned."""
    of_sweeps = {
        f"{name}, {which} job": job
        for name, (sweep, line) in SWEEPS.items()
        for which, job in zip(("first", "last"), jobs_of(sweep, line), strict=True)
    }
    return LINES | of_sweeps


def configurations() -> dict[str, dict[str, Any]]:
    """Return run name and folded configuration of each command line."""
    made = {}
    for name, line in lines().items():
        good, cfg = composed(line)
        run = run_identity.run_name(cfg, good)
        made[name] = {"run": run, "config": json.loads(json.dumps(cfg))}
    return made


def multi_label() -> Catalogue:
    """Return 120 images of 4 classes, most with several labels, some with none."""
    rows, columns = np.ogrid[:120, :4]
    labels = (rows * 7 + columns * columns * 13 + rows // 3) % 5 <= columns // 2
    ids = tuple(f"item/{row:03d}" for row in range(120))
    return Catalogue(ids=ids, labels=labels, classes=tuple("abcd"))


def single_label() -> Catalogue:
    """Return 120 images of 5 classes, the last 30 of them the official test part."""
    classes = (np.arange(120) * 3 + np.arange(120) // 7) % 5
    ids = tuple(f"item/{row:03d}" for row in range(120))
    return Catalogue(
        ids=ids,
        labels=np.eye(5, dtype=bool)[classes],
        classes=tuple("abcde"),
        official_query=np.arange(120) >= 90,
    )


def of_data(line: Sequence[str]) -> str:
    """Return the fingerprint of the data of a command line."""
    data: DataModule = build.data_module(typed(composed(line)[1]))
    data.setup("cpu")
    return data.facts.fingerprint


def write_lists(folder: Path) -> None:
    """Write the same images as lists of class indices and of one-hot labels, and the images."""
    from PIL import Image

    roles = {"train": range(8), "test": range(20, 26), "database": range(20)}
    for kind in ("index", "onehot"):
        (folder / kind).mkdir(parents=True)
        for role, rows in roles.items():
            text = ""
            for row in rows:
                label = row * 5 % 3
                hot = " ".join("1" if label == column else "0" for column in range(3))
                text += f"images/{row:02d}.png {label if kind == 'index' else hot}\n"
            (folder / kind / f"{role}.txt").write_text(text)
    (folder / "images").mkdir()
    for row in range(26):
        Image.new("RGB", (8, 8), (row * 9, row * 5, 255 - row)).save(
            folder / "images" / f"{row:02d}.png"
        )


def fingerprints(folder: Path) -> dict[str, str]:
    """Return the fingerprints of splits, by protocol.

    Args:
        folder: an empty one, for lists and images.
    """
    digits = composed(["dataset=digits"])[1]["dataset"]["protocols"]
    made = {
        f"digits, {name}": of_data(["dataset=digits", f"dataset.protocol={name}"])
        for name in digits
    }
    made["digits, four classes"] = of_data(["dataset=digits", "dataset.classes=[0,3,5,9]"])
    per_class = "dataset.protocols.per_class"
    made["digits, train outside"] = of_data(
        ["dataset=digits", f"{per_class}.train_in_database=false", f"{per_class}.seed=7"]
    )
    several, single = multi_label(), single_label()
    drawn = {
        "quota": (several, Quota(5, 3, seed=1)),
        "quota, train outside": (several, Quota(5, 3, False, validation=2, seed=2)),
        "drawn": (several, Drawn(15, 30, seed=3)),
        "drawn, labelled": (several, Drawn(15, None, unlabelled="drop", validation=9, seed=4)),
        "per class": (single, PerClass(4, 10, seed=420)),
        "per class, all": (single, PerClass(4, None, seed=5)),
        "official": (single, Official(None)),
        "official, some": (single, Official(8, validation=3, seed=6)),
    }
    for name, (images, protocol) in drawn.items():
        made[name] = fingerprint(images, protocol.split(images))
    write_lists(folder)
    for kind in ("index", "onehot"):
        made[f"list, {kind}"] = of_data(
            ["dataset=lists", f"dataset.root={folder}", f"dataset.lists={folder / kind}",
             "dataset.source.size=8", "dataset.size=8", "dataset.source.cached=false",
             "trainer.batch_size=4"]
        )  # fmt: skip
    return made


def train(outputs: Path, line: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Train in this process; return the report and the run folder."""
    good, cfg = composed([*line, f"paths.outputs={outputs}"])
    with one_thread():
        report = runs.train(typed(cfg), good)
    return report, outputs / report["run"]


def losses_of(folder: Path) -> dict[str, list[str]]:
    """Return the terms of each step of a run, as hexadecimal numbers."""
    result: dict[str, list[str]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["where"] == "train":
            for term in set(row) - {
                "time",
                "where",
                "step",
                "epoch",
                "lr",
                "images_per_second",
                "images_seen",
                "data_share",
            }:
                result.setdefault(term, []).append(float(row[term]).hex())
    return dict(sorted(result.items()))


def losses(outputs: Path, name: str) -> dict[str, Any]:
    """Train one of ``TRAINED``; return its terms and its mAP."""
    line = [*SMALL, *TRAINED[name], "trainer.epochs=5", "backbone.width=16"]
    report, folder = train(outputs, line)
    return {"terms": losses_of(folder), "map": float(report["metrics"]["map"]).hex()}


class Interrupted(Exception):
    """Stops training in the middle."""


def interrupt_after(epochs: int) -> Any:
    """Return a ``DataModule.train`` that stops after so many epochs."""
    whole = DataModule.train

    def shortened(self: DataModule, epoch: int) -> Any:
        if epoch >= epochs:
            raise Interrupted
        return whole(self, epoch)

    return shortened


def freeze(outputs: Path) -> dict[str, Any]:
    """Make the frozen run folders; return what evaluation and resuming must give.

    Args:
        outputs: relative to the working folder, so that no path of this machine is saved.
    """
    finished, _ = train(outputs, FINISHED)
    whole, folder = train(outputs, INTERRUPTED)
    after = losses_of(folder)
    shutil.rmtree(folder)
    usual, DataModule.train = DataModule.train, interrupt_after(2)  # type: ignore[method-assign]
    try:
        with contextlib.suppress(Interrupted):
            train(outputs, INTERRUPTED)
    finally:
        DataModule.train = usual  # type: ignore[method-assign]
    grid = [composed([*line, f"paths.outputs={outputs}"]) for line in (FINISHED, INTERRUPTED)]
    plan_jobs.write_manifest(
        outputs / "sweeps" / "frozen",
        plan_jobs.plan_sweep(checks.parse_jobs(grid)),
        command="python train.py -m group=frozen method=relahash,dpn",
        axes=[*BASE],
        typed=["trainer.epochs=3"],
        spec={"title": "Frozen", "source": None, "report": {}},
    )
    return {
        "finished": {"run": finished["run"], "map": float(finished["metrics"]["map"]).hex()},
        "interrupted": {
            "run": whole["run"],
            "map": float(whole["metrics"]["map"]).hex(),
            "terms": after,
        },
    }


def portable(runs: Path) -> None:
    """Remove paths of this machine and unused files from run folders."""
    for file in runs.rglob("*"):
        if file.name == "report.json":
            report = json.loads(file.read_text())
            kept = {key: report["environment"][key] for key in ("python", "torch")}
            report["environment"] |= {key: "" for key in report["environment"] if key not in kept}
            report["git"] = dict.fromkeys(report["git"])
            file.write_text(json.dumps(report, indent=1) + "\n")
        elif file.name == "report.html" or file.suffix == ".lock" or file.name == ".lock":
            file.unlink()


def main(sections: Sequence[str]) -> None:
    """Write the golden values."""
    values = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    wanted = set(sections) or {"configurations", "fingerprints", "losses", "frozen"}
    values["platform"] = platform()
    with pages(), tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        if "configurations" in wanted:
            text = json.dumps(configurations(), sort_keys=True, separators=(",", ":"))
            CONFIGURATIONS.write_text(text.replace('},"', '},\n"') + "\n")
        if "fingerprints" in wanted:
            values["fingerprints"] = fingerprints(temporary / "lists")
        if "losses" in wanted:
            values["losses"] = {name: losses(temporary / "losses", name) for name in TRAINED}
        if "frozen" in wanted:
            with contextlib.chdir(temporary):
                values["frozen"] = freeze(Path("outputs"))
            shutil.rmtree(RUNS, ignore_errors=True)
            shutil.copytree(
                temporary / "outputs", RUNS, ignore=shutil.ignore_patterns("latest", "index.html")
            )
            portable(RUNS)
    VALUES.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("DEEPHASH_CACHE", tempfile.mkdtemp())
    main(sys.argv[1:])
