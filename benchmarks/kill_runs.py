"""Kill commands, repeat them, and compare with uninterrupted runs.

A command runs in a child process that is forked from this one, which has imported everything. It
is killed with SIGKILL at a random time, or just before its k-th operation on a file. Then the same
command runs to its end, and its files are compared with those of an uninterrupted run: all numbers
of reports and logs, all bytes of codes, checkpoints and caches; no file is missing or left over.
Only measured times may differ.

Commands: train.py (started, resumed, rerun=true), train.py -m, evaluate.py, and deephash report,
data prepare (the image cache), data encode, data export, encode, and search of an index some of
whose images were changed. Of stores of codes the items are compared: a command that was repeated
has written them in other parts.

The table contains for each command: kills; repetitions that failed; files that differed; epochs
that had finished before the kill and were trained again; tracebacks.
"""

import argparse
import contextlib
import gc
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import ROOT, configuration, table

CLOCK = {
    "time", "seconds", "evaluation_seconds", "retrieval_seconds", "train_seconds", "data_seconds",
    "images_per_second", "encode_images_per_second", "data_share", "environment", "git", "command",
}  # fmt: skip
"""Keys of reports, logs and checkpoints that depend on the clock or on the machine."""

EXIST = {"report.html", "evaluation.html", "index.html", "launch.txt", "output.log",
         "overrides.txt"}  # fmt: skip
"""Files whose content depends on the clock or on the command line; they only have to exist."""

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
"""Audit events of operations that change a folder, besides ``open`` for writing."""

UNAUDITED = ("pwrite", "ftruncate")
"""Functions of ``os`` that change open files, without an audit event."""

TINY = (
    "dataset=digits", "dataset.classes=[0,1,2]", "model.nbit=8", "trainer.epochs=3",
    "logger=quiet", "trainer.device=cpu", "backbone.width=4",
)  # fmt: skip

RUN = "outputs/digits/relahash/8bit/seed0,backbone.width=4,dataset.classes=-0-1-2-,trainer.epochs=3"
"""The folder of a run of ``TINY``."""

Job = Callable[[], int]


# Jobs in forked processes


def fork(
    job: Job, output: int, setup: Callable[[], Any], cleanup: Callable[[], Any] = lambda: None
) -> int:
    """Run a job in a forked child process, between setup and cleanup; return its process id.

    The child prints to the file descriptor ``output`` and ends with the status of the job.
    """
    with warnings.catch_warnings(action="ignore"):  # about threads: none is active here
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
    if child:
        return child
    status = 70
    try:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, descriptor)
            stream = open(descriptor, "w", buffering=1, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        setup()
        status = job()
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        cleanup()
        os._exit(status)


@dataclass
class Outcome:
    """The outcome of a child process."""

    status: int  # exit status, negative for a signal
    output: str
    operations: int  # on files below the folder, in the child itself
    seconds: float


def run(job: Job, folder: Path, at: int | None = None, after: float | None = None) -> Outcome:
    """Run a job in a forked child process, whose operations on files below a folder are counted.

    Args:
        job: returns an exit status.
        folder: the working folder.
        at: kill the child just before its operation of this number, from 1.
        after: kill the child after this number of seconds.
    """
    operations = itertools.count(1)
    with tempfile.TemporaryDirectory() as notes:
        output, counter = Path(notes) / "output", Path(notes) / "count"
        began = time.monotonic()

        def setup() -> None:
            os.chdir(folder)
            watch(folder, operations, at)

        with output.open("ab") as stream:
            child = fork(job, stream.fileno(), setup,
                         lambda: counter.write_text(str(next(operations) - 1)))  # fmt: skip
        if after is None:
            _, status = os.waitpid(child, 0)
        else:
            done = 0
            while not done and time.monotonic() < began + after:
                time.sleep(0.002)
                done, status = os.waitpid(child, os.WNOHANG)
            if not done:
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - began
        text = output.read_text(errors="replace")
        count = int(counter.read_text()) if counter.is_file() else 0
    return Outcome(os.waitstatus_to_exitcode(status), text, count, seconds)


def watch(folder: Path, operations: Iterator[int], at: int | None) -> None:
    """Count operations that change files below a folder; kill this process before one of them."""
    root, owner = os.path.realpath(folder), os.getpid()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if os.getpid() == owner and next(operations) == at:
                os.kill(owner, signal.SIGKILL)
            return function(*arguments)

        return call

    for name in UNAUDITED:
        setattr(os, name, counted(getattr(os, name)))

    def hook(event: str, arguments: Any) -> None:
        if event not in CHANGES and event != "open":
            return
        if os.getpid() != owner or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.join(os.getcwd(), os.fsdecode(arguments[0]))
        if not path.startswith(root):
            return
        if event == "open":
            flags = arguments[2]
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:  # creates what does not exist, or changes what does
            changes = os.path.lexists(path) != (event == "os.mkdir")
        if changes and next(operations) == at:
            os.kill(owner, signal.SIGKILL)

    sys.addaudithook(hook)


class Forked:
    """Replacement of ``subprocess.Popen`` in the launcher of sweeps: forks a job."""

    def __init__(self, line: Sequence[str], stdout: Any, env: Any, **_: Any) -> None:
        def setup() -> None:
            from hydra.core.global_hydra import GlobalHydra

            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.clear()
            os.environ.update(env)
            GlobalHydra.instance().clear()

        self.returncode: int | None = None
        self.pid = fork(command("train", *line[2:]), stdout.fileno(), setup)

    def poll(self) -> int | None:
        """Return the exit status, None while the process runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when the process has ended."""
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("", timeout or 0)
            time.sleep(0.01)
        return status


def command(name: str, *arguments: str) -> Job:
    """Return a command line as a job, which runs in the process that calls it."""

    def job() -> int:
        from hydra.core.config_store import ConfigStore

        from deephash import cli
        from deephash.utils import program

        sys.argv = [str(ROOT / "train.py"), *arguments]
        program.start(sys.argv[0])
        ConfigStore.instance().repo.pop("sweep", None)  # train.py registers the sweeps there
        return cli.run(name, arguments)

    return job


def committing(name: str, *arguments: str) -> Job:
    """Return a command that writes codes to a store after each batch, not every few seconds."""

    def job() -> int:
        from deephash.search import encode

        encode.COMMIT_SECONDS = 0.0
        return command(name, *arguments)()

    return job


def direct(*arguments: str) -> Job:
    """Return a training run as a job, without the command line, which takes longer."""
    from deephash import runs
    from deephash.config import checks, schema
    from deephash.config.overrides import parse_all

    overrides, resolved = parse_all(arguments), configuration(*arguments)

    def job() -> int:
        runs.train(checks.parse_page(schema.Train, resolved, overrides), overrides)
        return 0

    return job


def sweep(*arguments: str) -> Job:
    """Return ``train.py -m`` as a job; its runs are forked from it."""

    def job() -> int:
        from deephash.sweep.launchers import process

        process.subprocess = SimpleNamespace(  # type: ignore[assignment]
            **{**vars(subprocess), "Popen": Forked}
        )
        return command("train", "-m", *arguments)()

    return job


# Comparison of folders


def content(folder: Path) -> dict[str, Any]:
    """Return the content of all files of a folder, without measured times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    stores = {path.parent for path in files if path.name == "store.json"}
    result = {
        path.relative_to(folder).as_posix(): content_of(path, folder)
        for path in files
        if path.parent not in stores
    }
    return result | {store.relative_to(folder).as_posix(): items_of(store) for store in stores}


def items_of(folder: Path) -> Any:
    """Return the items of a store of codes, and the kinds of its files."""
    from deephash.search.store import CodeStore

    with CodeStore.open(folder, verify=True) as store:
        snapshot = store.snapshot()
    places = range(len(snapshot))
    columns = snapshot.codes.tolist(), snapshot.labels, snapshot.signatures_at(places)
    kinds = sorted(
        path.name.replace(f"-{snapshot.version.generation}", "") for path in folder.iterdir()
    )
    return dict(zip(snapshot.ids, zip(*columns, strict=True), strict=True)), kinds


def content_of(path: Path, folder: Path) -> Any:
    """Return the content of a file below a folder, without measured times."""
    if path.name in EXIST or path.is_dir():  # a link to the latest run
        return "exists"
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text().replace(str(folder), "FOLDER")))
    if path.name == "config.yaml":
        return [line for line in path.read_text().splitlines() if not line.startswith("rerun:")]
    if path.name == "last.pt":
        from deephash.training import checkpoint

        return repr(without_times(checkpoint.load_state(path)))
    return path.read_bytes()


def without_times(value: Any) -> Any:
    """Return nested values without the keys of ``CLOCK``, and tensors as bytes."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in CLOCK}
    if isinstance(value, list | tuple):
        return [without_times(item) for item in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value


def differing(actual: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of the files that differ, are missing or should not exist."""
    names = [*expected, *(name for name in actual if name not in expected)]
    return [name for name in names if actual.get(name) != expected.get(name)]


def epochs_done(folder: Path) -> dict[Path, int]:
    """Return the complete epochs in each ``last.pt`` below a folder; -1 if it is not readable."""
    from deephash.errors import TrainingError
    from deephash.training import checkpoint

    epochs = {}
    for path in folder.rglob("last.pt"):
        try:
            epochs[path] = checkpoint.load_state(path)["progress"]["epoch"]
        except TrainingError:
            epochs[path] = -1
    return epochs


# Kills


@dataclass
class Tally:
    """Counts of the kills of a case, and notes on its faults."""

    kills: int = 0
    failed: int = 0
    files: int = 0
    epochs: int = 0
    tracebacks: int = 0
    notes: list[str] = field(default_factory=list)

    def counts(self) -> list[int]:
        """Return the columns of the table."""
        return [self.kills, self.failed, self.files, self.epochs, self.tracebacks]


@dataclass
class Case:
    """A command that is killed repeatedly."""

    name: str
    job: Job  # is killed
    repeat: Job | None = None  # continues after a kill; None for the same
    before: Callable[[Path], None] = lambda folder: None  # writes what the command starts with
    weight: int = 1  # relative number of kills
    template: Path = Path()  # the folder that ``before`` has written
    expected: dict[str, Any] = field(default_factory=dict)  # files after an uninterrupted run
    whole: Outcome = field(default_factory=lambda: Outcome(0, "", 0, 0.0))  # of that run
    tally: Tally = field(default_factory=Tally)

    def prepare(self, scratch: Path) -> None:
        """Write the template, and run the command without interruption."""
        self.template, whole = scratch / self.name / "template", scratch / self.name / "whole"
        self.template.mkdir(parents=True)
        self.before(self.template)
        shutil.copytree(self.template, whole, symlinks=True)
        self.whole = run(self.job, whole)
        if self.whole.status:
            raise SystemExit(f"{self.name} fails without interruption:\n{self.whole.output}")
        if self.repeat is not None:
            run(self.repeat, whole)
        self.expected = content(whole)

    def kill(self, at: int | None = None, after: float | None = None) -> bool:
        """Kill the command once, repeat it and compare; False if it ended before the kill."""
        tally = self.tally
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "work"
            shutil.copytree(self.template, folder, symlinks=True)
            first = run(self.job, folder, at, after)
            if first.status != -signal.SIGKILL:
                return False
            wait_for_jobs(folder)
            tally.kills += 1
            before = {path: epoch for path, epoch in epochs_done(folder).items()
                      if not (path.parent / "report.json").exists()}  # fmt: skip
            second = run(self.repeat or self.job, folder)
            moment = f"operation {at}" if after is None else f"{after:.2f} s"

            def note(text: str) -> None:
                tally.notes.append(f"{self.name}, killed at {moment}: {text}")

            if second.status:
                tally.failed += 1
                note(f"status {second.status}: {second.output[-600:]}")
            if "Traceback" in first.output + second.output:
                tally.tracebacks += 1
                note((first.output + second.output)[-1500:])
            if names := differing(content(folder), self.expected):
                tally.files += len(names)
                note(", ".join(names[:5]))
            for path, epoch in before.items():
                logs = [log.read_text() for log in path.parent.glob("output.log")]
                text = "\n".join([second.output, *logs])
                kept = f"resumed after epoch {epoch}", "skipped", "finished already"
                if any(words in text for words in kept):
                    continue
                if (path.parent / "report.json").is_file():
                    tally.epochs += max(epoch, 1)
                    note(f"epoch {epoch} of {path.parent.name} is lost")
        return True


def wait_for_jobs(folder: Path) -> None:
    """Wait until the jobs of a killed launcher have ended, as they do on their own."""
    from deephash.utils.locks import is_locked

    until = time.monotonic() + 60
    while any(map(is_locked, folder.rglob(".lock"))) and time.monotonic() < until:
        time.sleep(0.02)


def cases(images: Path, quick: bool = False) -> list[Case]:
    """Return all commands that are killed; ``quick``: train without the command line."""
    training: Callable[..., Job] = direct if quick else partial(command, "train")
    train = training(*TINY)
    snapshots = training(*TINY, "trainer.snapshots=20", "trainer.eval_every=2")

    def trained(folder: Path) -> None:
        assert run(train, folder).status == 0

    def begun(folder: Path) -> None:
        def killed_in_the_third_epoch() -> int:
            from deephash.training.trainer import Trainer

            save = Trainer._save

            def save_twice(trainer: Any, method: Any) -> None:
                save(trainer, method)
                if trainer.progress.epoch == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            Trainer._save = save_twice  # type: ignore[method-assign]
            return train()

        run(killed_in_the_third_epoch, folder)
        assert list(epochs_done(folder).values()) == [2]

    def swept(folder: Path) -> None:
        assert run(sweep(*grid), folder).status == 0

    def cut_off(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:200])

    def with_photos(folder: Path) -> None:
        trained(folder)
        shutil.copytree(images, folder / "photos")
        cut_off(folder / "photos" / "a" / "50.png")

    def with_changed_photos(folder: Path) -> None:
        with_photos(folder)
        assert run(search, folder).status == 0
        photos = folder / "photos"
        for number in range(40):  # of 60: enough for a compaction of the store
            (photos / "a" / f"{number}.png").unlink()
            shutil.copy(photos / "b" / f"{number}.png", photos / "c" / f"{number}.png")
        shutil.copytree(photos / "b", photos / "new")
        cut_off(photos / "d" / "0.png")

    of_photos = (f"run='{RUN}'", "images=photos", "labels=folders", "device=cpu", "batch_size=32")
    encode = committing("encode", *of_photos, "out=codes.npz")
    search = committing("search", *of_photos, "query=b/0.png", "top=5")
    grid = (*TINY[:2], "model.nbit=8", "trainer.epochs=1,2", *TINY[4:], "group=both",
            "hydra.launcher.jobs=2")  # fmt: skip
    photos = ("dataset=folder", f"dataset.root={images}", "dataset.source.size=32",
              "dataset.size=32", "paths.cache=cache")  # fmt: skip
    evaluate = partial(command, "evaluate", f"run='{RUN}'", "device=cpu")
    return [
        Case("train", train, weight=4),
        Case("train, snapshots", snapshots, weight=2),
        Case("resumed", train, before=begun, weight=3),
        Case("rerun=true", training(*TINY, "rerun=true"), train, trained, weight=6),
        Case("train -m", sweep(*grid), weight=2),
        Case("evaluate", evaluate("figures=false"), before=trained, weight=2),
        Case("evaluate, figures", evaluate("tsne=50"), before=trained),
        Case("report", command("report", "sweep=both"), before=swept),
        Case("prepare", command("data", "prepare", "images=true", *photos), weight=3),
        Case("encode", command("data", "encode", "dataset=digits", "backbone=tiny", "out=features",
                               "trainer.eval_batch_size=64", "trainer.device=cpu"), weight=2),
        Case("export", command("data", "export", "dataset=digits", "out=lists", "style=split")),
        Case("encode images", encode, before=with_photos, weight=2),
        Case("search", search, before=with_changed_photos, weight=3),
    ]  # fmt: skip


def draw_images(folder: Path, number: int = 60) -> Path:
    """Write small random images of four classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in "abcd":
        (folder / name).mkdir(parents=True)
        for count in range(number):
            pixels = rng.integers(0, 256, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{count}.png")
    return folder


def without_curves() -> None:
    """Leave the curves out of ``report.html``: drawing them takes half of a run and no file."""
    from deephash.report.pages import run as page

    page.line_plot = page.range_plot = lambda *_, **__: ""  # type: ignore[assignment]


def warm_up(figures: bool) -> None:
    """Import what the commands need, so that forked processes start at once."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    import deephash.report
    import deephash.runs
    import deephash.search.commands
    import deephash.sweep.multirun

    torch.set_num_threads(1)
    directory, arguments = Path.cwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        assert run(command("train", *TINY), Path(folder)).status == 0
        os.chdir(folder)
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
            command("train", *TINY)()
            command("evaluate", f"run='{RUN}'", "device=cpu", "tsne=50", f"figures={figures}")()
            deephash.report.write_html(Path(RUN))
    os.chdir(directory)
    sys.argv = arguments
    gc.freeze()  # a garbage collection in a fork would copy the memory of all these objects


Moment = tuple[Case, int | None, float | None]


def random_moments(chosen: Sequence[Case], rng: random.Random) -> Iterator[Moment]:
    """Yield random moments of random commands: operations, or points in time."""
    order = [case for case in chosen for _ in range(case.weight)]
    while True:
        case = rng.choice(order)
        if rng.random() < 0.6:
            yield case, rng.randint(1, max(1, case.whole.operations)), None
        else:
            yield case, None, rng.uniform(0.0, 1.1 * case.whole.seconds)


def main() -> None:
    """Kill commands and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="stop after this time")
    parser.add_argument("--only", nargs="+", help="names of commands, such as: rerun=true train")
    parser.add_argument("--every", action="store_true", help="kill before each operation once")
    help_quick = "train without the command line and without drawing curves"
    parser.add_argument("--quick", action="store_true", help=help_quick)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    if options.quick:
        without_curves()
    drawing = {"evaluate, figures", "report", "train -m"}
    warm_up(figures=not options.only or bool(drawing & set(options.only)))
    with tempfile.TemporaryDirectory() as scratch:
        images = draw_images(Path(scratch) / "images")
        chosen = [case for case in cases(images, options.quick)
                  if not options.only or case.name in options.only]  # fmt: skip
        for case in chosen:
            case.prepare(Path(scratch))
        moments = random_moments(chosen, random.Random(options.seed))
        if options.every:
            moments = ((case, at, None) for case in chosen
                       for at in range(1, case.whole.operations + 1))  # fmt: skip
        done = 0
        for case, at, after in moments:
            if done == options.kills or time.monotonic() > until:
                break
            done += case.kill(at, after)
            print(f"\r{done} kills", end="", file=sys.stderr, flush=True)
    rows = [[case.name, case.whole.operations, *case.tally.counts()] for case in chosen]
    header = ["command", "operations", "kills", "failed", "files differ", "epochs lost",
              "tracebacks"]  # fmt: skip
    print("\n" + table([header, *rows]))
    print("\n".join(note for case in chosen for note in case.tally.notes))
    kills, *faults = (sum(column) for column in zip(*(case.tally.counts() for case in chosen),
                                                    strict=True))  # fmt: skip
    print(f"{kills} kills, {sum(faults)} faults")
    sys.exit(bool(sum(faults)))


if __name__ == "__main__":
    main()
