"""Damage every kind of file that deephash reads, and count what becomes of it.

    python benchmarks/fuzz_files.py                      5,000 inputs, a quarter of an hour
    python benchmarks/fuzz_files.py --count 200 --only report.json config.yaml

Each input is a sound file with something changed: bytes flipped, cut off, zeroed or repeated;
values of JSON and YAML removed, renamed, nested deeply or replaced by others; arrays and tensors
removed, retyped or reshaped, with their checksums made right again. It is given to the functions
that the commands call. They must accept it or refuse it with a ``DeephashError``; anything else
that is raised counts as a traceback and ends the script with status 1. The same seed makes the same
inputs.
"""

import argparse
import contextlib
import copy
import io
import json
import logging
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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from hydra import compose, initialize_config_dir

from deephash.config import build, checks, resolve, schema
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
from deephash.data.splits.split_file import read_split, write_split
from deephash.errors import DeephashError
from deephash.loggers import Jsonl
from deephash.report import write_comparison, write_html
from deephash.report.reading import read_log
from deephash.retrieval import Index
from deephash.runs import evaluate_run
from deephash.runs.folder import RunFolder
from deephash.runs.load_encoder import load_checkpoint
from deephash.runs.status import epochs_done, reason
from deephash.runs.train_run import refuse_another, train
from deephash.sweep import multirun, plan_jobs, report_sweep
from deephash.sweep.paired import NotComparableError, query_precision
from deephash.sweep.spec import SweepSpec
from deephash.training import checkpoint
from deephash.training.snapshots import read_snapshots
from deephash.training.trainer import LoopOptions, Trainer
from deephash.utils.files import write_arrays
from deephash.utils.run_paths import RunPaths

ROOT = Path(__file__).parents[1]
QUIET = ["trainer.device=cpu", "logger=quiet"]
SLOW = 20.0
"""Seconds after which an input is counted as slow."""

ODD: tuple[Any, ...] = (
    None, True, "", "x", "../x", "1e5", "nan", "\0", "\ud800", "é" * 300, -1, 0, 1, 7, 2**31, 2**63,
    10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [1], [[]], ["a", None], {"": 1},
    {"_target_": "os.system"}, {"a": {"b": [1, {"c": None}]}},
)  # fmt: skip
"""What stands in place of a value."""

Mutate = Callable[[Path, random.Random], None]
Use = Callable[[Path], Any]


@dataclass(frozen=True)
class Target:
    """A kind of file: where a sound one lies, how it is damaged, and what reads it."""

    name: str
    folder: Path  # that is copied for each input
    file: str  # that is damaged, below it
    mutate: Sequence[Mutate]
    use: Use  # takes the copy of the folder


class Outcome(NamedTuple):
    """What became of one input."""

    target: str
    kind: str  # accepted, refused or traceback
    said: str
    seconds: float


# Bytes


def bytes_changed(path: Path, rng: random.Random) -> None:
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


def text_changed(path: Path, rng: random.Random) -> None:
    """Change lines or put odd pieces into a text."""
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
    """Every container in nested values with each of its keys."""
    found = []
    if isinstance(values, dict):
        keys: list[Any] = list(values)
    elif isinstance(values, list):
        keys = list(range(len(values)))[:50]
    else:
        return []
    for key in keys:
        found += [(values, key), *places(values[key])]
    return found


def values_changed(values: Any, rng: random.Random, odd: Sequence[Any] = ODD) -> Any:
    """Nested values with one to three of them replaced, removed, renamed or nested deeply."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice([1, 1, 1, 3])):
        there = places(values)
        if not there or rng.random() < 0.03:
            return copy.deepcopy(rng.choice(odd))
        holder, key = rng.choice(there)
        way = rng.randrange(8)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif way == 2:
            holder[key] = [holder[key]]
        elif way == 3:
            other, name = rng.choice(there)
            with contextlib.suppress(KeyError, IndexError):
                holder[key] = copy.deepcopy(other[name])
        else:
            holder[key] = copy.deepcopy(rng.choice(odd))
    return values


def json_changed(path: Path, rng: random.Random) -> None:
    """Change the values of a JSON file."""
    if rng.random() < 0.05:
        depth = rng.choice([60, 500, 100_000])
        path.write_text(rng.choice(["[" * depth, '{"a":' * depth, "[" * depth + "]" * depth]))
        return
    values = values_changed(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(values))


def json_lines_changed(path: Path, rng: random.Random) -> None:
    """Change the values of one line of JSON."""
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(values_changed(json.loads(lines[at]), rng))
    path.write_text("\n".join(lines) + "\n")


def yaml_changed(path: Path, rng: random.Random) -> None:
    """Change the values of a YAML file, or put aliases, tags and deep nesting into it."""
    text = path.read_text()
    if rng.random() < 0.1:
        odd = ["a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)), "x: &x [*x]\n",
               "x: !!python/object/apply:os.system [ls]\n", "x: " + "[" * 200, "? [1]\n: 2\n",
               "<<: {a: 1}\n", "x: 2001-99-99\n", "x: !!set {a, b}\n", "1: 2\n", "x: \t1\n",
               "x: " + "1" + ":1" * 3000 + "\n"]  # fmt: skip
        path.write_text(rng.choice(odd) + text if rng.random() < 0.5 else text + rng.choice(odd))
        return
    values = values_changed(yaml.safe_load(text), rng)
    path.write_text(json.dumps(values) if rng.random() < 0.5 else yaml.safe_dump(values))


# Arrays and tensors


def array_changed(array: np.ndarray, rng: random.Random) -> Any:
    """An array of another type, shape or content."""
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


def arrays_changed(arrays: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Arrays by name with one or two of them removed, renamed, swapped or changed."""
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
            arrays[name] = array_changed(np.asarray(arrays.get(name, 0)), rng)
    return arrays


def npz_changed(path: Path, rng: random.Random) -> None:
    """Change the arrays of an npz file; its checksums fit."""
    with np.load(path) as opened:
        arrays = dict(opened)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_arrays(path, arrays_changed(arrays, rng))


def npz_repacked(path: Path, rng: random.Random) -> None:
    """Damage the bytes of one member of an archive, with a checksum that fits."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    name = rng.choice(list(members))
    beside = path.with_name("member")
    beside.write_bytes(members[name])
    bytes_changed(beside, rng)
    members[name] = beside.read_bytes()
    beside.unlink()
    with zipfile.ZipFile(path, "w", rng.choice([0, 8])) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def npy_changed(path: Path, rng: random.Random) -> None:
    """Change a single array."""
    array = array_changed(np.load(path), rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.save(path, array, allow_pickle=True)


ODD_TENSORS: tuple[Any, ...] = (
    torch.zeros(0), torch.zeros(1), torch.full((2, 3), float("nan")), torch.zeros(3).long(),
    torch.zeros(5, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.complex64),
    torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.bool), torch.empty(3, device="meta"),
)  # fmt: skip


def tensors_changed(path: Path, rng: random.Random) -> None:
    """Change the nested values and tensors of a checkpoint; its checksum fits."""
    state = torch.load(path, weights_only=True)
    plain = [one for one in ODD if one != "\ud800"]
    changed = values_changed(state, rng, (*plain, *ODD_TENSORS, *ODD_TENSORS))
    if path.name.startswith("features"):
        torch.save(changed, path)
    else:
        checkpoint.save(path, changed)


def pickle_changed(path: Path, rng: random.Random) -> None:
    """Change the nested values of a pickle."""
    values = pickle.loads(path.read_bytes())
    odd = (*ODD, np.array([1.5]), np.arange(3), np.array(["a"]), {1, 2}, b"x", 1j, (1, 2), object)
    path.write_bytes(pickle.dumps(values_changed(values, rng, odd), rng.choice([0, 2, 4])))


# Sound files


@contextlib.contextmanager
def pages() -> Any:
    """Compose pages of the configuration in this process."""
    schema.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda name, *words: resolve.resolve(
            compose(name, overrides=list(words)), parse_all(words)
        )


class Sound:
    """Sound files of every kind, made once.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs = folder / "runs" / "outputs"
        words = ["dataset=digits", "trainer.epochs=1", "trainer.snapshots=20", *QUIET,
                 f"paths.outputs={self.outputs}"]  # fmt: skip
        with pages() as page:
            jobs = [["method=csq", "model.nbit=8", f"seed={seed}", *words] for seed in (0, 1)]
            grid = checks.parse_jobs([(parse_all(job), page("train", *job)) for job in jobs])
            self.cfgs = [cfg for _, cfg in grid]
            evaluation = page("evaluate", "run=x", "figures=false", "device=cpu")
            self.evaluation = checks.parse_page(schema.Evaluate, evaluation)
            self.report = checks.parse_page(schema.Report,
                page("report", "sweep=a", "compare=best", "draws=100",
                     f"paths.outputs={self.outputs}")
            )  # fmt: skip
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
        self.parts = self._parts()
        self._data()

    def _parts(self) -> tuple[Any, Any, Any]:
        """Data, method and a fingerprint, to resume with."""
        data = build.data_module(self.cfgs[0])
        data.setup(torch.device("cpu"))
        method = build.method(self.cfgs[0], data.facts.num_classes, data.facts.num_train)
        return data, method, data.facts.fingerprint

    def _data(self) -> None:
        rng = np.random.default_rng(0)
        data = self.folder / "data"
        data.mkdir()
        count = 12
        labels = np.arange(count) % 3
        ids = [f"images/{row:02d}.png" for row in range(count)]
        catalogue = Catalogue(
            ids=tuple(ids),
            labels=np.eye(3, dtype=bool)[labels],
            classes=("a", "b", "c"),
            places=None,
        )
        none, rows = np.zeros(0, np.int64), np.arange(count)
        split = Split(train=rows[:4], queries=rows[4:6], database=rows[6:], validation=none)
        write_split(data / "a.split.xz", catalogue, split, dataset="a", protocol="b")
        (data / "index.txt").write_text(
            "".join(f"{i} {c}\n" for i, c in zip(ids, labels, strict=True))
        )
        hot = [" ".join(map(str, row)) for row in np.eye(3, dtype=int)[labels]]
        text = "".join(f"{i} {row}\n" for i, row in zip(ids, hot, strict=True))
        (data / "hot.txt").write_text(text)
        import lzma

        (data / "hot.txt.xz").write_bytes(lzma.compress(text.encode()))
        (data / "a.csv").write_text("path,label,role\n" + "".join(
            f"{one},{'abc'[c]},{'train' if c else 'query'}\n"
            for one, c in zip(ids, labels, strict=True)
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
        (data / "mine.yaml").write_text(yaml.safe_dump({
            "title": "mine", "params": {"method": ["csq", "relahash"], "model.nbit": [8, 16]},
            "where": [{"if": {"method": "csq"}, "then": {"trainer.epochs": 3}}],
            "report": {"rows": "method", "digits": 3,
                       "figure": {"x": "model.nbit", "scale": "log"}},
        }))  # fmt: skip
        features = {"features": rng.normal(size=(count, 4)).astype(np.float32), "labels": labels,
                    "ids": np.array(ids)}  # fmt: skip
        for kind, write in self._writers().items():
            folder = self.folder / f"features-{kind}"
            folder.mkdir()
            for role in ("train", "test", "database"):
                write(folder / f"features-{role}", features)
        encoded = self.folder / "encoded"
        encoded.mkdir()
        write_split(encoded / "a.split.xz", catalogue, split, dataset="a", protocol="b")
        write_features(
            encoded, count, 4, "float32", {"made": "here"}, _blocks(features["features"])
        )
        self.content = Content(
            Path("/images"), [(one, 9, 5) for one in ids], {"decode": "plain"}, 2
        )
        (self.folder / "cache").mkdir()
        load_pixels(self.content, _decode, folder=self.folder / "cache")

    def _writers(self) -> dict[str, Callable[[Path, Mapping[str, Any]], None]]:
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
                    file["ids"] = [one.encode() for one in arrays["ids"]]

            writers["h5"] = hdf5
        return writers

    # What reads them

    def resume(self, folder: Path) -> None:
        """As ``train.py`` goes on, up to a first step."""
        data, method, fingerprint = self.parts
        before = copy.deepcopy(method.state_dict())
        state = torch.get_rng_state()
        optimizer = build.optimizer(self.cfgs[0], method)
        trainer = Trainer(
            RunPaths(folder), optimizer, None, torch.device("cpu"), fingerprint, LoopOptions(2, 1)
        )
        try:
            trainer.start(method, data)
            for group in optimizer.param_groups:
                group["lr"] = 0.1
                for one in group["params"]:
                    one.grad = torch.zeros_like(one)
            optimizer.step()
            trainer.progress.selection("query", 1, 2)
            trainer.progress.best("val")
        finally:
            method.load_state_dict(before)
            torch.set_rng_state(state)

    def encoder(self, folder: Path) -> None:
        """As ``evaluate.py`` reads ``best.pt``."""
        _, method, fingerprint = self.parts
        before = copy.deepcopy(method.state_dict())
        try:
            load_checkpoint(folder / "best.pt", method.encoder, fingerprint)
        finally:
            method.load_state_dict(before)

    def measured(self, folder: Path) -> None:
        """``evaluate.py run=``."""
        evaluate_run.measure(self.evaluation, RunFolder(folder), folder / "out")

    def configured(self, folder: Path) -> None:
        """As train.py compares it with its own, and evaluate.py builds from it."""
        refuse_another(RunFolder(folder), self.cfgs[0])
        self.measured(folder)

    def compared(self, folder: Path) -> None:
        """``evaluate.py runs=`` and ``report.html``."""
        found = evaluate_run.reported(RunFolder(folder))
        write_html(folder)
        if found is not None:
            write_comparison(folder / "comparison", [found])

    def estimated(self, folder: Path) -> None:
        """``preview=true``, and ``report.html``."""
        from dataclasses import replace

        planned = [replace(job, run=RunFolder(folder)) for job in self.planned]
        plan_jobs.preview_text(planned, 2)
        write_html(folder)

    def reported(self, outputs: Path) -> None:
        """``deephash report sweep=``."""
        paths = self.report.paths.with_values(outputs=str(outputs))
        report_sweep.report_sweeps(self.report.with_values(paths=paths.plain))

    def judged(self, folder: Path) -> None:
        """Paired differences, and a search index from a run."""
        with contextlib.suppress(DeephashError):
            Index.from_run(folder).search(np.zeros((1, 1), np.uint8), 3)
        try:
            query_precision(folder, RunFolder(folder).report())
        except NotComparableError as error:
            raise DeephashError(str(error)) from error

    def logged(self, folder: Path) -> None:
        """The log of a run, read by all who do."""
        run = RunFolder(folder)
        epochs_done(run)
        reason(run)
        read_log(folder / "log.jsonl")
        write_html(folder)
        log = Jsonl(folder / "log.jsonl")
        log.truncate_after(3)
        log.close()

    def swept(self, folder: Path) -> None:
        """A sweep's file, as far as the jobs' command lines."""
        multirun.build_grid(SweepSpec.read(folder, str(folder / "mine.yaml")), [])

    def cached(self, folder: Path) -> None:
        """Decoded images: a damaged entry is made anew."""
        pixels, _ = load_pixels(self.content, _decode, folder=folder)
        assert pixels.shape == self.content.shape

    def encoded(self, folder: Path) -> None:
        """``deephash data encode`` once more, and training on it."""
        write_features(folder, 12, 4, "float32", {"made": "here"}, _blocks(np.zeros((12, 4), "f4")))
        np.asarray(Features(folder).load().inputs[np.arange(12)])

    def targets(self) -> list[Target]:
        """All kinds of files."""
        run = self.outputs / self.runs[0]
        data, runs = self.folder / "data", self.folder / "runs"
        snapshot = f"snapshots/{sorted(path.name for path in (run / 'snapshots').iterdir())[-1]}"
        of_run = f"outputs/{self.runs[0]}"
        jsons, yamls = (json_changed,) * 4 + (bytes_changed, text_changed), (yaml_changed,) * 4 + (
            bytes_changed, text_changed)  # fmt: skip
        npzs = (npz_changed,) * 3 + (npz_repacked, bytes_changed)
        texts, tensors = (text_changed, text_changed, bytes_changed), (tensors_changed,) * 4 + (
            bytes_changed,)  # fmt: skip
        entry = pixel_entries(self.folder / "cache")[0].name

        def loaded(folder: Path) -> None:
            for mmap in (True, False):
                index = Index.load(folder / "a.index", mmap)
                index.search(np.zeros((1, 1), np.uint8), min(3, max(1, len(index))))

        found = [
            Target("codes.npz", run, "codes.npz", npzs, self.judged),
            Target(
                "codes.npz, report",
                runs,
                f"{of_run}/codes.npz",
                npzs,
                lambda f: self.reported(f / "outputs"),
            ),
            Target("last.pt", run, "last.pt", tensors, self.resume),
            Target("best.pt", run, "best.pt", tensors, self.encoder),
            Target("report.json", run, "report.json", jsons, self.estimated),
            Target("report.json, comparison", run, "report.json", jsons, self.compared),
            Target(
                "report.json, report",
                runs,
                f"{of_run}/report.json",
                jsons,
                lambda f: self.reported(f / "outputs"),
            ),
            Target(
                "sweep.json",
                runs,
                "outputs/sweeps/a/sweep.json",
                jsons,
                lambda f: self.reported(f / "outputs"),
            ),
            Target("config.yaml", run, "config.yaml", yamls, self.configured),
            Target("evaluation.json", run, "evaluation.json", jsons, self.measured),
            Target("log.jsonl", run, "log.jsonl", (json_lines_changed, *texts), self.logged),
            Target("snapshot", run, snapshot, npzs, read_snapshots),
            Target("index", data, "a.index", (bytes_changed, index_changed), loaded),
            Target(
                "split file",
                data,
                "a.split.xz",
                (bytes_changed, split_changed, split_changed),
                lambda f: read_split(f / "a.split.xz"),
            ),
            *(
                Target(
                    f"list, {name}",
                    data,
                    name,
                    (xz_changed, bytes_changed) if name.endswith("xz") else texts,
                    lambda f, name=name: read_list(f / name, None, Naming()),
                )
                for name in ("index.txt", "hot.txt", "hot.txt.xz")
            ),
            Target("csv", data, "a.csv", texts, lambda f: Csv(f, "a.csv", role="role").read()),
            Target(
                "ground truth, json",
                data,
                "gnd.json",
                jsons,
                lambda f: read_ground_truth(f / "gnd.json", []),
            ),
            Target(
                "ground truth, pickle",
                data,
                "gnd.pkl",
                (pickle_changed, pickle_changed, bytes_changed),
                lambda f: read_ground_truth(f / "gnd.pkl", []),
            ),
            Target(
                "ground truth, csv",
                data,
                "gnd.csv",
                texts,
                lambda f: read_ground_truth(f / "gnd.csv", ["a", "b"]),
            ),
            Target("sweep, yaml", data, "mine.yaml", yamls, self.swept),
            Target(
                "cache, index", self.folder / "cache", f"{entry}/index.json", jsons, self.cached
            ),
            Target(
                "cache, pixels",
                self.folder / "cache",
                f"{entry}/pixels.npy",
                (bytes_changed, npy_changed),
                self.cached,
            ),
            Target(
                "features, notes", self.folder / "encoded", "features.json", jsons, self.encoded
            ),
            Target(
                "features, array",
                self.folder / "encoded",
                "features.npy",
                (bytes_changed, npy_changed),
                self.encoded,
            ),
        ]
        ways = {"npz": npzs, "npy": (npy_changed, bytes_changed), "pt": tensors}
        for kind in self._writers():
            names = {
                "npy": ["features-test.npy", "features-test_labels.npy", "features-test_ids.npy"]
            }
            for name in names.get(kind, [f"features-test.{kind}"]):
                found.append(Target(f"features, {name.removeprefix('features-test')}",
                                    self.folder / f"features-{kind}", name,
                                    ways.get(kind, (bytes_changed,)), _features))  # fmt: skip
        return found


def _features(folder: Path) -> None:
    names = {"train": "features-train", "queries": "features-test", "database": "features-database"}
    images = Features(folder, **names).load()
    np.asarray(images.inputs[np.arange(min(3, len(images.ids)))])


def _blocks(array: np.ndarray) -> Callable[[int], Any]:
    return lambda first: iter([array[first:]])


def _decode(path: Path) -> np.ndarray:
    return np.full((3, 2, 2), len(path.name), np.uint8)


def index_changed(path: Path, rng: random.Random) -> None:
    """Change bytes of an index behind its header, and make its checksums right."""
    import zlib

    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3])):
        at = rng.choice([8, 12, 13, 16, 24, 28, rng.randrange(64, len(data))])
        data[at] = rng.randrange(256)
    data[32:36] = zlib.crc32(bytes(data[64:])).to_bytes(4, "little")
    data[60:64] = zlib.crc32(bytes(data[:60])).to_bytes(4, "little")
    path.write_bytes(data)


def split_changed(path: Path, rng: random.Random) -> None:
    """Change the values of a split file, and mostly make its checksum right."""
    import lzma

    from deephash.data.splits.split_file import _checksum

    values = values_changed(json.loads(lzma.decompress(path.read_bytes())), rng)
    if isinstance(values, dict) and rng.random() < 0.8:
        values.pop("checksum", None)
        with contextlib.suppress(TypeError, ValueError):
            values["checksum"] = _checksum(values)
    path.write_bytes(lzma.compress(json.dumps(values).encode()))


def xz_changed(path: Path, rng: random.Random) -> None:
    """Change the text of a packed list, or pack a text that is much larger."""
    import lzma

    if rng.random() < 0.1:
        path.write_bytes(
            lzma.compress(rng.choice([b"\n", b"a.jpg 0\n", b"\0"]) * (20 << 20), preset=0)
        )
        return
    path.write_bytes(lzma.decompress(path.read_bytes()))
    text_changed(path, rng)
    path.write_bytes(lzma.compress(path.read_bytes()))


# The run


def tried(target: Target, seed: int, folder: Path) -> Outcome:
    """Damage one file and read it."""
    rng = random.Random(f"{target.name} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(target.folder, folder)
    while True:  # a change that cannot be written down is none
        try:
            rng.choice(target.mutate)(folder / target.file, rng)
            break
        except (ValueError, TypeError, RuntimeError, OSError, NotImplementedError, AttributeError,
                yaml.YAMLError, RecursionError, OverflowError, pickle.PicklingError):  # fmt: skip
            shutil.copyfile(target.folder / target.file, folder / target.file)
    began = time.perf_counter()
    kind, said = "accepted", ""
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            target.use(folder)
    except DeephashError as error:
        kind, said = "refused", str(error)
    except Exception:
        kind, said = "traceback", traceback.format_exc()
    return Outcome(target.name, kind, said, time.perf_counter() - began)


def fuzz(
    targets: Sequence[Target],
    count: int,
    seed: int,
    scratch: Path,
    shown: Callable[[Outcome, int], None],
) -> list[Outcome]:
    """Give inputs to all targets in turn."""
    outcomes = []
    for number in range(count):
        target = targets[number % len(targets)]
        case = seed * 1_000_000 + number
        outcomes.append(tried(target, case, scratch / "copy"))
        shown(outcomes[-1], case)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts of each kind of file."""
    kinds = ("accepted", "refused", "traceback")
    counts = {name: Counter(one.kind for one in outcomes if one.target == name)
              for name in dict.fromkeys(one.target for one in outcomes)}  # fmt: skip
    lines = [f"{'':<26}" + "".join(f"{kind:>11}" for kind in kinds) + "    longest"]
    for name, count in counts.items():
        longest = max(one.seconds for one in outcomes if one.target == name)
        lines.append(
            f"{name:<26}" + "".join(f"{count[k]:>11,}" for k in kinds) + f"{longest:>9.1f} s"
        )
    total = Counter(one.kind for one in outcomes)
    return "\n".join([*lines, f"{'all':<26}" + "".join(f"{total[kind]:>11,}" for kind in kinds)])


def main() -> int:
    """Make sound files, damage them, and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of kinds, or their beginnings")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEEPHASH_CACHE"] = f"{folder}/home"
        with contextlib.redirect_stdout(io.StringIO()):
            sound = Sound(Path(folder) / "sound")
        targets = [one for one in sound.targets()
                   if not options.only or one.name.startswith(tuple(options.only))]  # fmt: skip
        for target in targets:  # sound files must be accepted
            shutil.copytree(target.folder, Path(folder) / "copy")
            with contextlib.redirect_stdout(io.StringIO()):
                target.use(Path(folder) / "copy")
            shutil.rmtree(Path(folder) / "copy")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        failed: Counter[str] = Counter()

        def shown(outcome: Outcome, case: int) -> None:
            if outcome.kind == "traceback":
                last = outcome.said.strip().splitlines()[-1][:200]
                failed[last] += 1
                if failed[last] <= 2:
                    print(f"--- {outcome.target}, seed {case}\n{outcome.said}", flush=True)
            elif outcome.seconds > SLOW:
                print(f"--- {outcome.target}, seed {case}: {outcome.seconds:.0f} s", flush=True)

        outcomes = fuzz(targets, options.count, options.seed, Path(folder), shown)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(table(outcomes))
    print(f"seed {options.seed}; memory rose by {more / 1024:.0f} MB at most")
    return int(any(one.kind == "traceback" for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
