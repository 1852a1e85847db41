"""Kill commands, repeat them, and compare with an undisturbed run: python benchmarks/kill_runs.py.

A command runs in a child process that is forked from this one, which has imported everything. It
is killed with SIGKILL at a random moment, or just before its k-th operation on a file. Then the
same command runs to its end, and what it leaves is compared with what an undisturbed run left:
every number of reports and logs, every byte of codes, checkpoints and caches; no file more, none
less. Only what is measured with a clock may differ.

Commands: train.py (begun, resumed, rerun=true), train.py -m, evaluate.py, and deephash
report, data prepare (the image cache), data encode and data export.

The table gives, for each command: kills; repetitions that failed; files that differed; epochs that
were finished before the kill and trained again; tracebacks.
"""

import argparse
import contextlib
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
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]

CLOCK = {
    "time", "seconds", "evaluation_seconds", "retrieval_seconds", "train_seconds", "data_seconds",
    "images_per_second", "encode_images_per_second", "data_share", "environment", "git", "command",
}  # fmt: skip
"""Keys of reports, logs and checkpoints that are measured with a clock, or tell of the machine."""

EXIST = {"report.html", "evaluation.html", "launch.txt", "output.log", "overrides.txt"}
"""Files whose content depends on the clock or on the command line: they only have to be there."""

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
"""Audit events of operations that change a folder, beside ``open`` for writing."""

TINY = (
    "dataset=digits", "dataset.classes=[0,1,2]", "model.nbit=8", "trainer.epochs=3",
    "logger=quiet", "trainer.device=cpu",
)  # fmt: skip

RUN = "outputs/digits/relahash/8bit/seed0,dataset.classes=-0-1-2-,trainer.epochs=3"
"""The folder of a run of ``TINY``."""

Job = Callable[[], int]


@dataclass
class Outcome:
    """What became of a child process."""

    status: int  # exit status, negative for a signal
    output: str
    operations: int  # on files below the folder, in the child itself
    seconds: float


def run(job: Job, folder: Path, at: int | None = None, after: float | None = None) -> Outcome:
    """Run a job in a forked child process, and kill it if asked.

    Args:
        job: returns an exit status.
        folder: the working folder; operations on files below it are counted.
        at: kill the child just before its operation of this number, from 1.
        after: kill the child after so many seconds.

    Returns:
        what became of it.
    """
    with tempfile.TemporaryDirectory() as notes:
        output, counter = Path(notes) / "output", Path(notes) / "count"
        began = time.monotonic()
        child = _fork()
        if not child:
            status = 70
            try:
                os.chdir(folder)
                _to_file(output)
                count = _watch(folder, at)
                status = job()
            except KeyboardInterrupt:
                status = 130
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                counter.write_text(str(next(count) - 1))
                os._exit(status)
        if after is not None:
            until = began + after
            while time.monotonic() < until:
                done, raw = os.waitpid(child, os.WNOHANG)
                if done:
                    break
                time.sleep(0.002)
            else:
                os.kill(child, signal.SIGKILL)
                _, raw = os.waitpid(child, 0)
        else:
            _, raw = os.waitpid(child, 0)
        seconds = time.monotonic() - began
        text = output.read_text(errors="replace") if output.is_file() else ""
        operations = int(counter.read_text()) if counter.is_file() else 0
    return Outcome(os.waitstatus_to_exitcode(raw), text, operations, seconds)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: this process has none that work
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fork()


def _to_file(output: Path) -> None:
    """Send what this process prints to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _watch(folder: Path, at: int | None) -> Iterator[int]:
    """Count operations that change files below a folder; kill this process before one of them."""
    count = itertools.count(1)
    here = os.path.realpath(folder)
    owner = os.getpid()

    def hook(event: str, arguments: Any) -> None:
        if event not in CHANGES and event != "open":
            return
        if os.getpid() != owner or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.join(os.getcwd(), os.fsdecode(arguments[0]))
        if not path.startswith(here):
            return
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event == "os.mkdir":
            if os.path.lexists(path):
                return
        elif not os.path.lexists(path):  # removes nothing
            return
        if next(count) == at:
            os.kill(owner, signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def command(name: str, *arguments: str) -> Job:
    """A command line as a job, run in this process."""

    def job() -> int:
        from hydra.core.config_store import ConfigStore

        from deephash import cli
        from deephash.utils import program

        sys.argv = [str(ROOT / "train.py"), *arguments]
        program.start(sys.argv[0])
        ConfigStore.instance().repo.pop("sweep", None)  # train.py names the sweeps there
        return cli.run(name, arguments)

    return job


class Forked:
    """What the launcher of a sweep takes for ``subprocess.Popen``: a job in a forked process."""

    def __init__(self, line: Sequence[str], stdout: Any, env: Any, **_: Any) -> None:
        self.returncode: int | None = None
        self.pid = _fork()
        if not self.pid:
            status = 70
            try:
                os.setsid()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.dup2(stdout.fileno(), 1)
                os.dup2(stdout.fileno(), 2)
                sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
                os.environ.clear()
                os.environ.update(env)
                from hydra.core.global_hydra import GlobalHydra

                GlobalHydra.instance().clear()
                status = command("train", *line[2:])()
            except KeyboardInterrupt:
                status = 130
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            done, raw = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(raw)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("", timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def direct(*arguments: str) -> Job:
    """A training run as a job, without the command line before it, which takes longer."""
    from hydra import compose, initialize_config_dir

    from deephash import runs
    from deephash.config import checks, resolve, schema
    from deephash.config.overrides import parse_all

    schema.register()
    overrides = parse_all(arguments)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folded = resolve.resolve(compose("train", overrides=list(arguments)), overrides)

    def job() -> int:
        runs.train(checks.parse_page(schema.Train, folded, overrides), overrides)
        return 0

    return job


def sweep(*arguments: str) -> Job:
    """``train.py -m`` as a job; its runs are forked from it."""

    def job() -> int:
        from deephash.sweep.launchers import process

        process.subprocess = SimpleNamespace(  # type: ignore[assignment]
            **{**vars(subprocess), "Popen": Forked}
        )
        return command("train", "-m", *arguments)()

    return job


def content(folder: Path) -> dict[str, Any]:
    """What is in a folder, file by file, without what a clock has measured."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() or path.is_symlink():
            found[path.relative_to(folder).as_posix()] = _of_file(path)
    return found


def _of_file(path: Path) -> Any:
    if path.name in EXIST:
        return "there"
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.name == "config.yaml":
        return [line for line in path.read_text().splitlines() if not line.startswith("rerun:")]
    if path.name == "last.pt":
        return repr(_timeless(_plain(_checkpoint(path))))
    return path.read_bytes()


def _checkpoint(path: Path) -> Any:
    from deephash.training import checkpoint

    return checkpoint.load_state(path)


def _plain(value: Any) -> Any:
    """Tensors as bytes."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in CLOCK}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of the files that differ, are missing or should not be there."""
    names = [*expected, *(name for name in found if name not in expected)]
    return [name for name in names if found.get(name) != expected.get(name)]


@dataclass
class Case:
    """A command that is killed again and again.

    Attributes:
        name: in the table.
        job: what is killed.
        repeat: what goes on after a kill; None for the same.
        before: makes what the command begins with, in a folder.
    """

    name: str
    job: Job
    repeat: Job | None = None
    before: Callable[[Path], None] = lambda folder: None
    weight: int = 1


@dataclass
class Tally:
    """What kills of a case have come to."""

    kills: int = 0
    failed: int = 0
    files: int = 0
    epochs: int = 0
    tracebacks: int = 0
    notes: list[str] = field(default_factory=list)


def epochs_done(folder: Path) -> dict[Path, int]:
    """The whole epochs in each ``last.pt`` below a folder; -1 where it cannot be read."""
    from deephash.errors import TrainingError

    found = {}
    for path in folder.rglob("last.pt"):
        try:
            found[path] = _checkpoint(path)["progress"]["epoch"]
        except TrainingError:
            found[path] = -1
    return found


def kill(
    case: Case,
    template: Path,
    expected: dict[str, Any],
    tally: Tally,
    at: int | None = None,
    after: float | None = None,
) -> bool:
    """Kill a case once, repeat its command and compare; False if it ended before the kill."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "work"
        shutil.copytree(template, folder, symlinks=True)
        first = run(case.job, folder, at, after)
        if first.status != -signal.SIGKILL:
            return False
        _wait_for_jobs(folder)
        tally.kills += 1
        before = {
            path: epoch
            for path, epoch in epochs_done(folder).items()
            if not (path.parent / "report.json").exists()
        }
        second = run(case.repeat or case.job, folder)
        moment = f"operation {at}" if after is None else f"{after:.2f} s"
        moment = f"{case.name}, killed at {moment}"
        if second.status:
            tally.failed += 1
            tally.notes.append(f"{moment}: status {second.status}: {second.output[-600:]}")
        if "Traceback" in first.output + second.output:
            tally.tracebacks += 1
            tally.notes.append(f"{moment}: {(first.output + second.output)[-1500:]}")
        unlike = differing(content(folder), expected)
        tally.files += len(unlike)
        if unlike:
            tally.notes.append(f"{moment}: {', '.join(unlike[:5])}")
        for path, epoch in before.items():
            texts = [second.output, *(log.read_text() for log in path.parent.glob("output.log"))]
            resumed = any(f"resumed after epoch {epoch}" in text for text in texts)
            finished = any("skipped" in text or "finished already" in text for text in texts)
            if not resumed and not finished and (path.parent / "report.json").is_file():
                tally.epochs += max(epoch, 1)
                tally.notes.append(f"{moment}: epoch {epoch} of {path.parent.name} is lost")
    return True


def _wait_for_jobs(folder: Path) -> None:
    """Wait until jobs whose launcher was killed have ended, as they do by themselves."""
    from deephash.utils.locks import is_locked

    until = time.monotonic() + 60
    while any(map(is_locked, folder.rglob(".lock"))) and time.monotonic() < until:
        time.sleep(0.02)


def cases(images: Path, quick: bool = False) -> list[Case]:
    """All commands that are killed.

    Args:
        images: a folder of images, one folder per class.
        quick: train without the command line.
    """
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

    grid = (*TINY[:2], "model.nbit=8", "trainer.epochs=1,2", *TINY[4:], "group=both",
            "hydra.launcher.jobs=2")  # fmt: skip
    photos = ("dataset=folder", f"dataset.root={images}", "dataset.source.size=32",
              "dataset.size=32", "paths.cache=cache")  # fmt: skip
    return [
        Case("train", train, weight=4),
        Case("train, snapshots", snapshots, weight=2),
        Case("resumed", train, before=begun, weight=3),
        Case("rerun=true", training(*TINY, "rerun=true"), repeat=train, before=trained,
             weight=6),
        Case("train -m", sweep(*grid), weight=2),
        Case("evaluate", command("evaluate", f"run='{RUN}'", "figures=false", "device=cpu"),
             before=trained, weight=2),
        Case("evaluate, figures",
             command("evaluate", f"run='{RUN}'", "device=cpu", "tsne=50"),
             before=trained),
        Case("report", command("report", "sweep=both"), before=swept),
        Case("prepare", command("data", "prepare", "images=true", *photos), weight=3),
        Case("encode", command("data", "encode", "dataset=digits", "backbone=tiny", "out=features",
                               "trainer.eval_batch_size=64", "trainer.device=cpu"), weight=2),
        Case("export", command("data", "export", "dataset=digits", "out=lists", "style=split")),
    ]  # fmt: skip


def draw_images(folder: Path, number: int = 60) -> Path:
    """Make a folder of small images of four classes."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in "abcd":
        (folder / name).mkdir(parents=True)
        for count in range(number):
            pixels = draw.integers(0, 256, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{count}.png")
    return folder


def prepare(case: Case, scratch: Path) -> tuple[Path, dict[str, Any], Outcome]:
    """What a case begins with, what an undisturbed run leaves, and how that run went."""
    template, whole = scratch / case.name / "template", scratch / case.name / "whole"
    template.mkdir(parents=True)
    case.before(template)
    shutil.copytree(template, whole, symlinks=True)
    outcome = run(case.job, whole)
    if outcome.status:
        raise SystemExit(f"{case.name} fails undisturbed:\n{outcome.output}")
    if case.repeat is not None:
        run(case.repeat, whole)
    return template, content(whole), outcome


def warm_up(figures: bool) -> None:
    """Import what the commands need, so that a forked child begins at once."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    import deephash.report
    import deephash.runs
    import deephash.sweep.multirun

    torch.set_num_threads(1)
    here, arguments = os.getcwd(), sys.argv
    with tempfile.TemporaryDirectory() as folder:
        assert run(command("train", *TINY), Path(folder)).status == 0
        os.chdir(folder)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            command("train", *TINY)()
            command("evaluate", f"run='{RUN}'", "device=cpu", "tsne=50", f"figures={figures}")()
            deephash.report.write_html(Path(RUN))
    os.chdir(here)
    sys.argv = arguments


Ready = dict[str, tuple[Path, dict[str, Any], Outcome]]
Moment = tuple[Case, int | None, float | None]


def every(chosen: Sequence[Case], ready: Ready) -> Iterator[Moment]:
    """Each operation of each command, once."""
    for case in chosen:
        for at in range(1, ready[case.name][2].operations + 1):
            yield case, at, None


def drawn(chosen: Sequence[Case], ready: Ready, draw: random.Random) -> Iterator[Moment]:
    """Random moments of random commands: operations, or points in time."""
    order = [case for case in chosen for _ in range(case.weight)]
    while True:
        case = draw.choice(order)
        whole = ready[case.name][2]
        if draw.random() < 0.6:
            yield case, draw.randint(1, max(1, whole.operations)), None
        else:
            yield case, None, draw.uniform(0.0, 1.1 * whole.seconds)


def main() -> None:
    """Kill as often as asked and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many")
    parser.add_argument("--only", nargs="+", help="names of commands, such as: rerun=true train")
    parser.add_argument("--every", action="store_true", help="kill before each operation once")
    parser.add_argument("--quick", action="store_true", help="train without the command line")
    asked = parser.parse_args()
    until = time.monotonic() + 60 * asked.minutes
    warm_up(not asked.only or bool({"evaluate, figures", "report", "train -m"} & set(asked.only)))
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        images = draw_images(Path(scratch) / "images")
        chosen = [
            one for one in cases(images, asked.quick) if not asked.only or one.name in asked.only
        ]
        tallies = {one.name: Tally() for one in chosen}
        ready = {one.name: prepare(one, Path(scratch)) for one in chosen}
        plan = every(chosen, ready) if asked.every else drawn(chosen, ready, draw)
        done = 0
        for case, at, after in plan:
            if done == asked.kills or time.monotonic() > until:
                break
            template, expected, _ = ready[case.name]
            done += kill(case, template, expected, tallies[case.name], at, after)
            print(f"\r{done} kills", end="", file=sys.stderr, flush=True)
    print("\n| command | operations | kills | failed | files differ | epochs lost | tracebacks |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, one in tallies.items():
        print(f"| {name} | {ready[name][2].operations} | {one.kills} | {one.failed} | {one.files} |"
              f" {one.epochs} | {one.tracebacks} |")  # fmt: skip
    print("\n".join(note for one in tallies.values() for note in one.notes))
    total = [sum(getattr(one, key) for one in tallies.values())
             for key in ("kills", "failed", "files", "epochs", "tracebacks")]  # fmt: skip
    print(f"{total[0]} kills, {sum(total[1:])} faults")
    sys.exit(bool(sum(total[1:])))


if __name__ == "__main__":
    main()
