"""Damage every kind of file that deephash reads, and check how it is handled.

    python benchmarks/fuzz_files.py                      5,000 inputs, a quarter of an hour
    python benchmarks/fuzz_files.py --count 200 --only report.json config.yaml

Each input is an intact file with something changed: bytes flipped, cut off, zeroed or repeated;
values of JSON and YAML removed, renamed, nested deeply or replaced; arrays and tensors removed,
retyped or reshaped, with their checksums recomputed. It is given to the functions that the commands
call. They must accept it or refuse it with a ``DeephashError``; any other exception counts as a
traceback, and the exit status is then 1. The same seed makes the same inputs.
"""

import argparse
import contextlib
import copy
import io
import json
import logging
import lzma
import os
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from harness import configuration

from deephash.config import build, checks, schema
from deephash.config.overrides import parse_all
from deephash.data.archives.csvfile import Csv
from deephash.data.catalogue import Catalogue
from deephash.data.ground_truth import read_ground_truth
from deephash.data.image_cache.cache import load_pixels, pixel_entries
from deephash.data.image_cache.entries import Content
from deephash.data.sources.feature_formats import write_features
from deephash.data.sources.features import Features
from deephash.data.sources.list_parser import Naming, read_list
from deephash.data.splits.protocols import Split
from deephash.data.splits.split_file import _checksum, read_split, write_split
from deephash.errors import DeephashError
from deephash.loggers import Jsonl
from deephash.report import write_comparison, write_html
from deephash.report.reading import read_log
from deephash.retrieval import Index
from deephash.runs import evaluate_run
from deephash.runs.folder import RunFolder
from deephash.runs.load_encoder import load_checkpoint
from deephash.runs.query_precision import NotComparableError, query_precision
from deephash.runs.status import epochs_done, reason
from deephash.runs.train_run import refuse_another, train
from deephash.search.store import CodeStore
from deephash.search.store_files import MANIFEST, file_name
from deephash.sweep import multirun, plan_jobs, report_sweep
from deephash.sweep.spec import SweepSpec
from deephash.training import checkpoint
from deephash.training.snapshots import read_snapshots
from deephash.training.trainer import LoopOptions, Trainer
from deephash.utils.files import write_arrays
from deephash.utils.run_paths import RunPaths

QUIET = ["trainer.device=cpu", "logger=quiet"]
SLOW = 20.0
"""Seconds after which an input is counted as slow."""

ODD: tuple[Any, ...] = (
    None, True, "", "x", "../x", "1e5", "nan", "\0", "\ud800", "é" * 300, -1, 0, 1, 7, 2**31, 2**63,
    10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [1], [[]], ["a", None], {"": 1},
    {"_target_": "os.system"}, {"a": {"b": [1, {"c": None}]}},
)  # fmt: skip
"""Values that replace others."""

Mutate = Callable[[Path, random.Random], None]
Use = Callable[[Path], Any]


@dataclass(frozen=True)
class Target:
    """A kind of file: an intact one, how it is damaged, and what reads it."""

    name: str
    folder: Path  # is copied for each input
    file: str  # is damaged, relative to the folder
    mutate: Sequence[Mutate]
    use: Use  # takes the copy of the folder


class Outcome(NamedTuple):
    """The outcome of one input."""

    target: str
    kind: str  # accepted, refused or traceback
    message: str
    seconds: float


# Bytes


def mutate_bytes(path: Path, rng: random.Random) -> None:
    """Flip, cut off, add, zero, repeat or replace bytes."""
    data = bytearray(path.read_bytes())
    size = len(data)
    way = rng.randrange(8)
    if way == 0 or not size:
        data = bytearray(rng.randbytes(rng.choice([0, 1, 7, 300])))
    elif way <= 2:
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif way == 3:
        del data[rng.randrange(size) :]
    elif way == 4:
        data += rng.randbytes(rng.choice([1, 4, 100]))
    else:
        at, many = rng.randrange(size), rng.choice([1, 4, 16, 64, 512])
        piece = data[at : at + many]
        new = {5: bytes(len(piece)), 6: piece * 2, 7: rng.randbytes(len(piece))}[way]
        data[at : at + many] = new
    path.write_bytes(data)


def mutate_text(path: Path, rng: random.Random) -> None:
    """Change lines of a text, or insert unusual characters."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    odd = [",", "\t", '"', "'", "\r", "\0", "[" * 2000, "{", "}", ":", "&a *a", "!!int x", "\ufeff",
           "\x85", "\u2028", " 1 0", "9" * 30, "-1", "../", "é", "\\ud800", "x" * 3000]  # fmt: skip
    way = rng.randrange(5)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif way == 2:
        rng.shuffle(lines)
    else:
        line, where = lines[at], rng.randrange(len(lines[at]) + 1)
        lines[at] = line[:where] + rng.choice(odd) + line[where + rng.choice([0, 0, 1, 5]) :]
    path.write_bytes("\n".join(lines).encode("utf-8", rng.choice(["replace", "surrogatepass"])))


# Nested values


def places(values: Any) -> list[tuple[Any, Any]]:
    """Return every container in nested values with each of its keys."""
    result = []
    if isinstance(values, dict):
        keys: list[Any] = list(values)
    elif isinstance(values, list):
        keys = list(range(len(values)))[:50]
    else:
        return []
    for key in keys:
        result += [(values, key), *places(values[key])]
    return result


def mutate_values(values: Any, rng: random.Random, odd: Sequence[Any] = ODD) -> Any:
    """Return nested values with one to three replaced, removed, renamed or nested deeply."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice([1, 1, 1, 3])):
        candidates = places(values)
        if not candidates or rng.random() < 0.03:
            return copy.deepcopy(rng.choice(odd))
        container, key = rng.choice(candidates)
        way = rng.randrange(8)
        if way == 0:
            del container[key]
        elif way == 1 and isinstance(container, dict):
            container[f"{key}x"] = container.pop(key)
        elif way == 2:
            container[key] = [container[key]]
        elif way == 3:
            other, name = rng.choice(candidates)
            with contextlib.suppress(KeyError, IndexError):
                container[key] = copy.deepcopy(other[name])
        else:
            container[key] = copy.deepcopy(rng.choice(odd))
    return values


def mutate_json(path: Path, rng: random.Random) -> None:
    """Change the values of a JSON file."""
    if rng.random() < 0.05:
        depth = rng.choice([60, 500, 100_000])
        path.write_text(rng.choice(["[" * depth, '{"a":' * depth, "[" * depth + "]" * depth]))
        return
    values = mutate_values(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(values))


def mutate_json_lines(path: Path, rng: random.Random) -> None:
    """Change the values of one line of JSON."""
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutate_values(json.loads(lines[at]), rng))
    path.write_text("\n".join(lines) + "\n")


def mutate_yaml(path: Path, rng: random.Random) -> None:
    """Change the values of a YAML file, or insert aliases, tags and deep nesting."""
    text = path.read_text()
    if rng.random() < 0.1:
        odd = ["a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)), "x: &x [*x]\n",
               "x: !!python/object/apply:os.system [ls]\n", "x: " + "[" * 200, "? [1]\n: 2\n",
               "<<: {a: 1}\n", "x: 2001-99-99\n", "x: !!set {a, b}\n", "1: 2\n", "x: \t1\n",
               "x: " + "1" + ":1" * 3000 + "\n"]  # fmt: skip
        path.write_text(rng.choice(odd) + text if rng.random() < 0.5 else text + rng.choice(odd))
        return
    values = mutate_values(yaml.safe_load(text), rng)
    path.write_text(json.dumps(values) if rng.random() < 0.5 else yaml.safe_dump(values))


# Arrays and tensors


def mutate_array(array: np.ndarray, rng: random.Random) -> Any:
    """Return an array of another type, shape or content."""
    ways: list[Callable[[], Any]] = [
        lambda: array.astype(rng.choice(["f8", "f4", "u1", "i8", "?", "U3", "S2", "c8", "O"])),
        lambda: array[:0] if array.ndim else array.reshape(1),
        lambda: array[:-1] if array.ndim else array.reshape(1, 1),
        lambda: array.reshape(-1),
        lambda: array[None],
        lambda: array[..., :1] if array.ndim else array,
        lambda: np.concatenate([array, array]) if array.ndim else array,
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, 255, np.uint8),
        lambda: np.zeros_like(array),
        lambda: np.array(rng.choice([-1, 0, 7, 2**40, 0.5, "x", b"\xff"])),
        lambda: np.array([0x110000, 5], np.uint32).view("U1"),
        lambda: np.array([{}, 1], object),
        lambda: np.zeros((2, 0)),
        lambda: array[::-1] if array.ndim else array,
    ]
    try:
        return rng.choice(ways)()
    except (ValueError, TypeError):
        return np.array([])


def mutate_arrays(arrays: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return arrays by name with one or two removed, renamed, swapped or changed."""
    arrays = dict(arrays)
    for _ in range(rng.choice([1, 1, 2])):
        names = list(arrays) or ["a"]
        name, other = rng.choice(names), rng.choice(names)
        way = rng.randrange(6)
        if way == 0:
            arrays.pop(name, None)
        elif way == 1:
            arrays[f"{name}x"] = arrays.pop(name, np.array(1))
        elif way == 2:
            arrays[name] = arrays.get(other, np.array(1))
        else:
            arrays[name] = mutate_array(np.asarray(arrays.get(name, 0)), rng)
    return arrays


def mutate_npz(path: Path, rng: random.Random) -> None:
    """Change the arrays of an npz file; its checksums are valid."""
    with np.load(path) as opened:
        arrays = dict(opened)
    with warnings.catch_warnings(action="ignore"):
        write_arrays(path, mutate_arrays(arrays, rng))


def mutate_npz_member(path: Path, rng: random.Random) -> None:
    """Damage the bytes of one member of an archive; its checksum is valid."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(list(members))
    member = path.with_name("member")
    member.write_bytes(members[name])
    mutate_bytes(member, rng)
    members[name] = member.read_bytes()
    member.unlink()
    with zipfile.ZipFile(path, "w", rng.choice([0, 8])) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def mutate_npy(path: Path, rng: random.Random) -> None:
    """Change a single array."""
    array = mutate_array(np.load(path), rng)
    with warnings.catch_warnings(action="ignore"):
        np.save(path, array, allow_pickle=True)


ODD_TENSORS: tuple[Any, ...] = (
    torch.zeros(0), torch.zeros(1), torch.full((2, 3), float("nan")), torch.zeros(3).long(),
    torch.zeros(5, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.complex64),
    torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.bool), torch.empty(3, device="meta"),
)  # fmt: skip


def mutate_tensors(path: Path, rng: random.Random) -> None:
    """Change the nested values and tensors of a checkpoint; its checksum is valid."""
    state = torch.load(path, weights_only=True)
    plain = [value for value in ODD if value != "\ud800"]
    changed = mutate_values(state, rng, (*plain, *ODD_TENSORS, *ODD_TENSORS))
    if path.name.startswith("features"):
        torch.save(changed, path)
    else:
        checkpoint.save(path, changed)


def mutate_pickle(path: Path, rng: random.Random) -> None:
    """Change the nested values of a pickle."""
    values = pickle.loads(path.read_bytes())
    odd = (*ODD, np.array([1.5]), np.arange(3), np.array(["a"]), {1, 2}, b"x", 1j, (1, 2), object)
    path.write_bytes(pickle.dumps(mutate_values(values, rng, odd), rng.choice([0, 2, 4])))


# Intact files


class IntactFiles:
    """Intact files of every kind, made once, and what reads them.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs = folder / "runs" / "outputs"
        common = ["dataset=digits", "trainer.epochs=1", "trainer.snapshots=20", *QUIET,
                  f"paths.outputs={self.outputs}"]  # fmt: skip
        jobs = [["method=csq", "model.nbit=8", f"seed={seed}", *common] for seed in (0, 1)]
        grid = checks.parse_jobs([(parse_all(job), configuration(*job)) for job in jobs])
        self.cfgs = [cfg for _, cfg in grid]
        evaluation = configuration("run=x", "figures=false", "device=cpu", page="evaluate")
        self.evaluation = checks.parse_page(schema.Evaluate, evaluation)
        report = configuration(
            "sweep=a", "compare=best", "draws=100", f"paths.outputs={self.outputs}", page="report"
        )
        self.report = checks.parse_page(schema.Report, report)
        for job, cfg in grid:
            train(cfg, job)
        self.planned = plan_jobs.plan_sweep(grid)
        self.runs = [job.name for job in self.planned]
        plan_jobs.write_manifest(
            self.outputs / "sweeps" / "a", self.planned, command="python train.py",
            axes=["dataset", "dataset.protocol", "method", "model.nbit", "seed"], typed=[],
            spec={"report": {"rows": "method", "digits": 3, "figure": {"x": "seed"}}},
        )  # fmt: skip
        evaluate_run.measure(self.evaluation, RunFolder(self.outputs / self.runs[0]))
        self.data = build.data_module(self.cfgs[0])
        self.data.setup(torch.device("cpu"))
        facts = self.data.facts
        self.method = build.method(self.cfgs[0], facts.num_classes, facts.num_train)
        self.write_data()

    def write_data(self) -> None:
        """Write lists, splits, ground truth, features, an index and a cache."""
        rng = np.random.default_rng(0)
        data = self.folder / "data"
        data.mkdir()
        count = 12
        labels = np.arange(count) % 3
        ids = [f"images/{row:02d}.png" for row in range(count)]
        hot = np.eye(3, dtype=int)[labels]
        catalogue = Catalogue(ids=tuple(ids), labels=hot.astype(bool), classes=("a", "b", "c"))
        none, rows = np.zeros(0, np.int64), np.arange(count)
        split = Split(train=rows[:4], queries=rows[4:6], database=rows[6:], validation=none)
        write_split(data / "a.split.xz", catalogue, split, dataset="a", protocol="b")
        (data / "index.txt").write_text(
            "".join(f"{i} {c}\n" for i, c in zip(ids, labels, strict=True))
        )
        text = "".join(f"{i} {' '.join(map(str, row))}\n" for i, row in zip(ids, hot, strict=True))
        (data / "hot.txt").write_text(text)
        (data / "hot.txt.xz").write_bytes(lzma.compress(text.encode()))
        (data / "a.csv").write_text("path,label,role\n" + "".join(
            f"{i},{'abc'[c]},{'train' if c else 'query'}\n"
            for i, c in zip(ids, labels, strict=True)
        ))  # fmt: skip
        gnd = {"imlist": ["a", "b", "c"], "qimlist": ["q"],
               "gnd": [{"bbx": [0, 0, 5, 5], "easy": [0], "hard": [1], "junk": []}]}  # fmt: skip
        (data / "gnd.json").write_text(json.dumps(gnd))
        gnd["gnd"][0]["easy"] = np.array([0])  # type: ignore[index]
        (data / "gnd.pkl").write_bytes(pickle.dumps(gnd))
        (data / "gnd.csv").write_text("id,images,Usage\nq1,a b,Public\nq2,None,Ignored\n")
        index = Index(8)
        index.add(rng.integers(0, 256, (count, 1), dtype=np.uint8), ids)
        index.save(data / "a.index")
        with CodeStore.create(self.folder / "store", 8, {"fingerprint": "x"}) as store:
            store.add(index.codes[:4], ["a", "b", "ä/c", "d"], ["1", "2", "", "4"], ["x", None] * 2)
            store.add(index.codes[:2], ["a", "e"], labels=[["x", "y"], "z"])
            store.remove(["b"])
        (data / "mine.yaml").write_text(yaml.safe_dump({
            "title": "mine", "params": {"method": ["csq", "relahash"], "model.nbit": [8, 16]},
            "where": [{"if": {"method": "csq"}, "then": {"trainer.epochs": 3}}],
            "report": {"rows": "method", "digits": 3,
                       "figure": {"x": "model.nbit", "scale": "log"}},
        }))  # fmt: skip
        features = {"features": rng.normal(size=(count, 4)).astype(np.float32), "labels": labels,
                    "ids": np.array(ids)}  # fmt: skip
        for kind, write in feature_writers().items():
            folder = self.folder / f"features-{kind}"
            folder.mkdir()
            for role in ("train", "test", "database"):
                write(folder / f"features-{role}", features)
        encoded = self.folder / "encoded"
        encoded.mkdir()
        write_split(encoded / "a.split.xz", catalogue, split, dataset="a", protocol="b")
        write_features(
            encoded, count, 4, "float32", {"made": "here"}, blocks_of(features["features"])
        )
        self.content = Content(
            Path("/images"), [(name, 9, 5) for name in ids], {"decode": "plain"}, 2
        )
        (self.folder / "cache").mkdir()
        load_pixels(self.content, decode_image, folder=self.folder / "cache")

    # What reads them

    @contextlib.contextmanager
    def kept_weights(self) -> Iterator[None]:
        """Restore the weights of the method afterwards."""
        before = copy.deepcopy(self.method.state_dict())
        try:
            yield
        finally:
            self.method.load_state_dict(before)

    def resume(self, folder: Path) -> None:
        """Resume a run as ``train.py`` does, up to a first step."""
        state = torch.get_rng_state()
        optimizer = build.optimizer(self.cfgs[0], self.method)
        trainer = Trainer(
            RunPaths(folder), optimizer, None, torch.device("cpu"), self.data.facts.fingerprint,
            LoopOptions(2, 1),
        )  # fmt: skip
        try:
            with self.kept_weights():
                trainer.start(self.method, self.data)
                for group in optimizer.param_groups:
                    group["lr"] = 0.1
                    for parameter in group["params"]:
                        parameter.grad = torch.zeros_like(parameter)
                optimizer.step()
                trainer.progress.selection("query", 1, 2)
                trainer.progress.best("val")
        finally:
            torch.set_rng_state(state)

    def load_encoder(self, folder: Path) -> None:
        """Read ``best.pt`` as ``evaluate.py`` does."""
        with self.kept_weights():
            load_checkpoint(folder / "best.pt", self.method.encoder, self.data.facts.fingerprint)

    def evaluate(self, folder: Path) -> None:
        """Run ``evaluate.py run=``."""
        evaluate_run.measure(self.evaluation, RunFolder(folder), folder / "out")

    def read_configuration(self, folder: Path) -> None:
        """Compare a configuration as train.py does, and build from it as evaluate.py does."""
        refuse_another(RunFolder(folder), self.cfgs[0])
        self.evaluate(folder)

    def compare(self, folder: Path) -> None:
        """Run ``evaluate.py runs=``, and write ``report.html``."""
        entry = evaluate_run.reported(RunFolder(folder))
        write_html(folder)
        if entry is not None:
            write_comparison(folder / "comparison", [entry])

    def preview(self, folder: Path) -> None:
        """Estimate times as ``preview=true`` does, and write ``report.html``."""
        planned = [replace(job, run=RunFolder(folder)) for job in self.planned]
        plan_jobs.preview_text(planned, 2)
        write_html(folder)

    def report_sweep(self, folder: Path) -> None:
        """Run ``deephash report sweep=``."""
        paths = self.report.paths.with_values(outputs=str(folder / "outputs"))
        report_sweep.report_sweeps(self.report.with_values(paths=paths.plain))

    def read_codes(self, folder: Path) -> None:
        """Compute paired differences, and a search index from a run."""
        with contextlib.suppress(DeephashError):
            Index.from_run(folder).search(np.zeros((1, 1), np.uint8), 3)
        try:
            query_precision(folder, RunFolder(folder).report())
        except NotComparableError as error:
            raise DeephashError(str(error)) from error

    def read_log(self, folder: Path) -> None:
        """Read the log of a run in all places that do."""
        run = RunFolder(folder)
        epochs_done(run)
        reason(run)
        read_log(folder / "log.jsonl")
        write_html(folder)
        log = Jsonl(folder / "log.jsonl")
        log.truncate_after(3)
        log.close()

    def read_sweep(self, folder: Path) -> None:
        """Read the file of a sweep, up to the command lines of its jobs."""
        multirun.build_grid(SweepSpec.read(folder, str(folder / "mine.yaml")), [])

    def read_cache(self, folder: Path) -> None:
        """Read decoded images; a damaged entry is made again."""
        pixels, _ = load_pixels(self.content, decode_image, folder=folder)
        assert pixels.shape == self.content.shape

    def read_encoded(self, folder: Path) -> None:
        """Resume ``deephash data encode``, and read the features."""
        write_features(
            folder, 12, 4, "float32", {"made": "here"}, blocks_of(np.zeros((12, 4), "f4"))
        )
        np.asarray(Features(folder).load().inputs[np.arange(12)])

    def targets(self) -> list[Target]:
        """Return all kinds of files."""
        first = self.runs[0]
        run, runs, data = self.outputs / first, self.folder / "runs", self.folder / "data"
        cache, encoded = self.folder / "cache", self.folder / "encoded"
        store = self.folder / "store"
        snapshot = max(path.name for path in (run / "snapshots").iterdir())
        entry = pixel_entries(cache)[0].name
        jsons = (mutate_json,) * 4 + (mutate_bytes, mutate_text)
        yamls = (mutate_yaml,) * 4 + (mutate_bytes, mutate_text)
        npzs = (mutate_npz,) * 3 + (mutate_npz_member, mutate_bytes)
        texts = (mutate_text, mutate_text, mutate_bytes)
        tensors = (mutate_tensors,) * 4 + (mutate_bytes,)
        xz, arrays = (mutate_xz, mutate_bytes), (mutate_bytes, mutate_npy)
        splits = (mutate_bytes, mutate_split, mutate_split)
        pickles = (mutate_pickle, mutate_pickle, mutate_bytes)

        def read_split_file(folder: Path) -> None:
            read_split(folder / "a.split.xz")

        def read_csv(folder: Path) -> None:
            Csv(folder, "a.csv", role="role").read()

        result = [
            Target("codes.npz", run, "codes.npz", npzs, self.read_codes),
            Target("codes.npz, report", runs, f"outputs/{first}/codes.npz", npzs,
                   self.report_sweep),
            Target("last.pt", run, "last.pt", tensors, self.resume),
            Target("best.pt", run, "best.pt", tensors, self.load_encoder),
            Target("report.json", run, "report.json", jsons, self.preview),
            Target("report.json, comparison", run, "report.json", jsons, self.compare),
            Target("report.json, report", runs, f"outputs/{first}/report.json", jsons,
                   self.report_sweep),
            Target("sweep.json", runs, "outputs/sweeps/a/sweep.json", jsons, self.report_sweep),
            Target("config.yaml", run, "config.yaml", yamls, self.read_configuration),
            Target("evaluation.json", run, "evaluation.json", jsons, self.evaluate),
            Target("log.jsonl", run, "log.jsonl", (mutate_json_lines, *texts), self.read_log),
            Target("snapshot", run, f"snapshots/{snapshot}", npzs, read_snapshots),
            Target("index", data, "a.index", (mutate_bytes, mutate_index), read_index),
            Target("store, manifest", store, MANIFEST, jsons, read_store),
            *(Target(f"store, {name}", store, file_name(name, 1), mutate, read_store)
              for name, mutate in (("commits", (mutate_bytes, mutate_log)),
                                   ("items", (mutate_bytes,)), ("texts", (mutate_bytes,)))),
            Target("split file", data, "a.split.xz", splits, read_split_file),
            *(Target(f"list, {name}", data, name, xz if name.endswith("xz") else texts,
                     partial(read_list_file, name))
              for name in ("index.txt", "hot.txt", "hot.txt.xz")),
            Target("csv", data, "a.csv", texts, read_csv),
            *(Target(f"ground truth, {kind}", data, name, mutate,
                     partial(read_ground_truth_file, name, ids))
              for kind, name, mutate, ids in (("json", "gnd.json", jsons, []),
                                              ("pickle", "gnd.pkl", pickles, []),
                                              ("csv", "gnd.csv", texts, ["a", "b"]))),
            Target("sweep, yaml", data, "mine.yaml", yamls, self.read_sweep),
            Target("cache, index", cache, f"{entry}/index.json", jsons, self.read_cache),
            Target("cache, pixels", cache, f"{entry}/pixels.npy", arrays, self.read_cache),
            Target("features, notes", encoded, "features.json", jsons, self.read_encoded),
            Target("features, array", encoded, "features.npy", arrays, self.read_encoded),
        ]  # fmt: skip
        mutations = {"npz": npzs, "npy": (mutate_npy, mutate_bytes), "pt": tensors}
        for kind in feature_writers():
            mutate, folder = mutations.get(kind, (mutate_bytes,)), self.folder / f"features-{kind}"
            ends = (".npy", "_labels.npy", "_ids.npy") if kind == "npy" else (f".{kind}",)
            result += [Target(f"features, {end}", folder, f"features-test{end}", mutate,
                              read_features) for end in ends]  # fmt: skip
        return result


def read_index(folder: Path) -> None:
    """Load and search an index, memory-mapped and not."""
    for mmap in (True, False):
        index = Index.load(folder / "a.index", mmap)
        index.search(np.zeros((1, 1), np.uint8), min(3, max(1, len(index))))


def read_store(folder: Path) -> None:
    """Open, read, search and change a store of codes, without comparing checksums of columns."""
    with CodeStore.open(folder, write=True, verify=False) as store:
        snapshot = store.snapshot()
        snapshot.signatures_at(range(len(snapshot)))
        len(snapshot.labels), len(snapshot.codes)
        store.index().search(np.zeros((1, 1), np.uint8), min(3, max(1, len(store))))
        store.add(np.zeros((1, 1), np.uint8), ["new"], labels=["x"])
        store.compact()


def read_list_file(name: str, folder: Path) -> None:
    """Read a list of images."""
    read_list(folder / name, None, Naming())


def read_ground_truth_file(name: str, ids: list[str], folder: Path) -> None:
    """Read ground truth."""
    read_ground_truth(folder / name, ids)


def read_features(folder: Path) -> None:
    """Read features from files by role."""
    names = {"train": "features-train", "queries": "features-test", "database": "features-database"}
    images = Features(folder, **names).load()
    np.asarray(images.inputs[np.arange(min(3, len(images.ids)))])


def blocks_of(array: np.ndarray) -> Callable[[int], Any]:
    """Return a function that yields features from a row on."""
    return lambda first: iter([array[first:]])


def decode_image(path: Path) -> np.ndarray:
    """Return pixels in place of a decoded file."""
    return np.full((3, 2, 2), len(path.name), np.uint8)


def feature_writers() -> dict[str, Callable[[Path, Mapping[str, Any]], None]]:
    """Return functions that write features, by the kind of file; missing packages are left out."""

    def npy(path: Path, arrays: Mapping[str, Any]) -> None:
        np.save(path.with_suffix(".npy"), arrays["features"])
        for name in ("labels", "ids"):
            np.save(path.with_name(f"{path.name}_{name}.npy"), arrays[name])

    def pt(path: Path, arrays: Mapping[str, Any]) -> None:
        numbers = {name: torch.tensor(arrays[name]) for name in ("features", "labels")}
        torch.save({**numbers, "ids": arrays["ids"].tolist()}, path.with_suffix(".pt"))

    writers: dict[str, Any] = {
        "npz": lambda path, arrays: write_arrays(path.with_suffix(".npz"), arrays),
        "npy": npy,
        "pt": pt,
    }
    with contextlib.suppress(ImportError):
        from safetensors.numpy import save_file

        writers["safetensors"] = lambda path, arrays: save_file(
            {name: arrays[name] for name in ("features", "labels")},
            str(path.with_suffix(".safetensors")),
        )
    with contextlib.suppress(ImportError):
        import h5py

        def hdf5(path: Path, arrays: Mapping[str, Any]) -> None:
            with h5py.File(path.with_suffix(".h5"), "w") as file:
                file["features"], file["labels"] = arrays["features"], arrays["labels"]
                file["ids"] = [name.encode() for name in arrays["ids"]]

        writers["h5"] = hdf5
    return writers


def mutate_index(path: Path, rng: random.Random) -> None:
    """Change bytes of an index, and recompute its checksums."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3])):
        at = rng.choice([8, 12, 13, 16, 24, 28, rng.randrange(64, len(data))])
        data[at] = rng.randrange(256)
    data[32:36] = zlib.crc32(bytes(data[64:])).to_bytes(4, "little")
    data[60:64] = zlib.crc32(bytes(data[:60])).to_bytes(4, "little")
    path.write_bytes(data)


def mutate_log(path: Path, rng: random.Random) -> None:
    """Change bytes of the log of a store, and recompute the checksums of its records."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3])):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 255, rng.randrange(256)])
    at = 0
    while at + 64 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        payload = bytes(data[at + 64 : at + 64 + size])
        data[at + 56 : at + 60] = zlib.crc32(payload).to_bytes(4, "little")
        data[at + 60 : at + 64] = zlib.crc32(bytes(data[at : at + 60])).to_bytes(4, "little")
        at += 64 + size
    path.write_bytes(data)


def mutate_split(path: Path, rng: random.Random) -> None:
    """Change the values of a split file; mostly recompute its checksum."""
    values = mutate_values(json.loads(lzma.decompress(path.read_bytes())), rng)
    if isinstance(values, dict) and rng.random() < 0.8:
        values.pop("checksum", None)
        with contextlib.suppress(TypeError, ValueError):
            values["checksum"] = _checksum(values)
    path.write_bytes(lzma.compress(json.dumps(values).encode()))


def mutate_xz(path: Path, rng: random.Random) -> None:
    """Change the text of a compressed list, or compress a much larger text."""
    if rng.random() < 0.1:
        path.write_bytes(
            lzma.compress(rng.choice([b"\n", b"a.jpg 0\n", b"\0"]) * (20 << 20), preset=0)
        )
        return
    path.write_bytes(lzma.decompress(path.read_bytes()))
    mutate_text(path, rng)
    path.write_bytes(lzma.compress(path.read_bytes()))


# The run


def try_input(target: Target, seed: int, folder: Path) -> Outcome:
    """Damage one file and read it."""
    rng = random.Random(f"{target.name} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(target.folder, folder)
    while True:  # a change that cannot be written is drawn again
        try:
            rng.choice(target.mutate)(folder / target.file, rng)
            break
        except (ValueError, TypeError, RuntimeError, OSError, NotImplementedError, AttributeError,
                yaml.YAMLError, RecursionError, OverflowError, pickle.PicklingError):  # fmt: skip
            shutil.copyfile(target.folder / target.file, folder / target.file)
    began = time.perf_counter()
    kind, message = "accepted", ""
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            target.use(folder)
    except DeephashError as error:
        kind, message = "refused", str(error)
    except Exception:
        kind, message = "traceback", traceback.format_exc()
    return Outcome(target.name, kind, message, time.perf_counter() - began)


def fuzz(
    targets: Sequence[Target], count: int, seed: int, scratch: Path,
    show: Callable[[Outcome, int], None],
) -> list[Outcome]:  # fmt: skip
    """Give inputs to all targets in turn."""
    outcomes = []
    for number in range(count):
        case = seed * 1_000_000 + number
        outcomes.append(try_input(targets[number % len(targets)], case, scratch / "copy"))
        show(outcomes[-1], case)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the counts of each kind of file."""
    kinds = ("accepted", "refused", "traceback")
    lines = [f"{'':<26}" + "".join(f"{kind:>11}" for kind in kinds) + "    longest"]
    for name in [*dict.fromkeys(outcome.target for outcome in outcomes), "all"]:
        same = [outcome for outcome in outcomes if name in (outcome.target, "all")]
        counts = Counter(outcome.kind for outcome in same)
        longest = max(outcome.seconds for outcome in same)
        cells = "".join(f"{counts[kind]:>11,}" for kind in kinds)
        lines.append(f"{name:<26}{cells}{longest:>9.1f} s")
    return "\n".join(lines)


def main() -> int:
    """Make intact files, damage them, and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", help="kinds of files, or the beginnings of their names"
    )
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    failures: Counter[str] = Counter()

    def show(outcome: Outcome, case: int) -> None:
        if outcome.kind == "traceback":
            last = outcome.message.strip().splitlines()[-1][:200]
            failures[last] += 1
            if failures[last] <= 2:
                print(f"--- {outcome.target}, seed {case}\n{outcome.message}", flush=True)
        elif outcome.seconds > SLOW:
            print(f"--- {outcome.target}, seed {case}: {outcome.seconds:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEEPHASH_CACHE"] = f"{folder}/home"
        scratch = Path(folder) / "copy"
        with contextlib.redirect_stdout(io.StringIO()):
            targets = IntactFiles(Path(folder) / "sound").targets()
            if options.only:
                beginnings = tuple(options.only)
                targets = [target for target in targets if target.name.startswith(beginnings)]
            for target in targets:  # intact files must be accepted
                shutil.copytree(target.folder, scratch)
                target.use(scratch)
                shutil.rmtree(scratch)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcomes = fuzz(targets, options.count, options.seed, Path(folder), show)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(table(outcomes))
    print(f"seed {options.seed}; memory rose by {more / 1024:.0f} MB at most")
    return int(any(outcome.kind == "traceback" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
