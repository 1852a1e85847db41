"""What a person sees of a run: a bar at a terminal, plain lines in a file, a summary at the end."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from deephash.loggers.logger import Logger
from deephash.report.reference import AGREEMENT, measures, not_beaten
from deephash.utils.formatting import clock, number

RATES = ("lr", "images_per_second", "data_share")


class Console(Logger):
    """A progress bar when stderr is a terminal, else one plain line an epoch, also on stderr.

    The summary goes to stdout, since it is the result.

    Args:
        total_epochs: Epochs of the whole run.
        steps_per_epoch: Optimizer steps in each.
        quiet: No bar and no lines; the summary is a single line.
        metric: What the values named ``map`` are called, with their cut-off.
        best: The best mAP so far of each evaluated part, and the best ``agreement``, for a run that
            is resumed.
        eval_every: Epochs between evaluations, which the time left includes; None: there are none.
        evaluation_seconds: What an evaluation took before the run was resumed, on average.
    """

    def __init__(
        self,
        total_epochs: int,
        steps_per_epoch: int,
        quiet: bool = False,
        metric: str = "mAP",
        best: Mapping[str, float] | None = None,
        eval_every: int | None = None,
        evaluation_seconds: float | None = None,
    ) -> None:
        self.total_epochs = total_epochs
        self.total_steps = total_epochs * steps_per_epoch
        self.quiet = quiet
        self.metric = metric
        self._screen = Screen(stderr=True, highlight=False)
        self._train: dict[str, float] = {}
        self._best = dict(best or {})
        self._epoch = 0  # of the last training values
        self._printed = 0  # the last epoch that has its line
        self._step = 0
        self._ticks = 0
        self._started = self._trained = time.monotonic()  # the second: at the last training values
        self._training = 0.0  # seconds of the steps of this session, at the last training values
        self.eval_every = eval_every
        self._each_evaluation = evaluation_seconds
        self._evaluations: list[float] = []  # seconds of each in this session
        self._evaluated = 0  # the last epoch after which there was one
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def tick(self, n: int = 1) -> None:
        if self._ticks == 0:
            self._started = time.monotonic()  # what came before the first step tells us nothing
            self._open_bar()
        self._ticks += n
        self._step += n
        if self._bar is not None:
            self._bar.advance(self._task, n)

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        self._step = step  # a resumed run does not start at 0
        if where == "train":
            self._trained = time.monotonic()
            self._training = self._trained - self._started - sum(self._evaluations)
            if self._printed < self._epoch < epoch:
                self._print_epoch(self._epoch)  # it went by without an evaluation
            self._epoch = epoch
            self._train = dict(values)
        elif {"map", "agreement"} & set(values):
            if self._evaluated < epoch:  # and not the second part of the same evaluation
                self._evaluated = epoch
                self._evaluations.append(time.monotonic() - self._trained)
            shown = []
            for name, title in (("map", self.metric), ("agreement", "agreement")):
                if name not in values:
                    continue
                part = where if name == "map" else name
                self._best[part] = max(values[name], self._best.get(part, -math.inf))
                shown.append(f"{title} {values[name]:.3f} (best {self._best[part]:.3f})")
            tail = "" if where in ("eval", "query") else f"{where} "
            self._print_epoch(epoch, tail + ", ".join(shown))
        if self._bar is not None:
            self._bar.update(
                self._task, completed=step, epoch=self._count(epoch), texts=self._texts()
            )

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        self._close_bar()
        folder = Path(folder)
        screen = Screen(highlight=False)
        metrics = report.get("metrics", {})
        if self.quiet:
            line = f"done   {folder}  {self.metric} {number(metrics.get('map'))}"
            line += "  (images without labels)" if metrics.get("note") else ""
            screen.print(Text(line), soft_wrap=True)
            return
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self._summary_rows(report):
            bold = "bold" if name == self.metric else ""
            table.add_row(Text(name), Text(value, style=bold))
        screen.print()
        screen.print(table)
        # Paths stay on one line however narrow the screen is, to be copied or clicked.
        screen.print(Text(f"\nrun     {folder}"), soft_wrap=True)
        if (page := folder / "report.html").exists():
            screen.print(Text(f"report  {page}"), soft_wrap=True)

    def close(self, failed: bool = False) -> None:
        self._close_bar()
        if self._printed < self._epoch:
            self._print_epoch(self._epoch)

    def _summary_rows(self, report: Mapping[str, Any]) -> list[tuple[str, str]]:
        metrics, protocol = report.get("metrics", {}), report.get("protocol", {})
        training, selection = report.get("training", {}), report.get("selection", {})
        counts = "{num_queries} queries, {num_database} database, {num_train} train"
        rows = [
            ("method", f"{report.get('method', '-')}, {report.get('nbit', '-')} bits"),
            ("data", f"{protocol.get('dataset', '-')} / {protocol.get('protocol', '-')}"),
            ("fingerprint", str(protocol.get("fingerprint", "-"))[:16]),
            (self.metric, f"{number(metrics.get('map'))}  {conventions(metrics)}".rstrip()),
        ]
        if metrics.get("note"):
            rows[-1:] = [(self.metric, f"-  {metrics['note']}"), ("codes", without_labels(metrics))]
        if metrics.get("agreement"):
            rows.append(("agreement", agreement(metrics["agreement"])))
        rows += reference_rows(report)
        if "num_queries" in protocol:
            rows.insert(2, ("", counts.format(**protocol)))
        for title, value, epoch in (
            ("best on query", "map_best_on_query", "epoch_best_on_query"),
            ("chosen on validation", "map_at_val_epoch", "epoch_at_val"),
            ("chosen by agreement", "map_at_agreement_epoch", "epoch_at_agreement"),
            ("last epoch", "map_last", "epoch_last"),
        ):
            if selection.get(value) is not None:
                at = selection.get(epoch)
                rows.append((title, number(selection[value]) + (f"  epoch {at}" if at else "")))
        if training.get("seconds") is not None:
            rows.append(("time", clock(training["seconds"])))
        return rows

    def _print_epoch(self, epoch: int, tail: str = "") -> None:
        """The epoch's line; a second evaluation of the same epoch goes under the first."""
        if self.quiet:
            return
        head = f"epoch  {self._count(epoch)}  {self._texts()}"
        if epoch == self._printed:
            head = " " * len(f"epoch  {self._count(epoch)}")
        self._printed = epoch
        line = f"{head} |  {tail}" if tail else head
        screen = self._screen if self._bar is None else self._bar.console
        screen.print(Text(line.rstrip()), soft_wrap=True)

    def _count(self, epoch: int) -> str:
        return f"{epoch:>{len(str(self.total_epochs))}}/{self.total_epochs}"

    def _texts(self) -> str:
        """The training values in a row: the terms, the learning rate, the speed, the time left."""
        terms = {name: v for name, v in self._train.items() if name not in RATES}
        if len(terms) == 2:  # a sole term is the loss: say its name, and say it once
            terms.pop("loss", None)
        texts = [f"{name} {value:.3f}" for name, value in terms.items()]
        if "lr" in self._train:
            texts.append(f"lr {self._train['lr']:.1e}")
        if "images_per_second" in self._train:
            texts.append(f"{self._train['images_per_second']:.0f} img/s")
        if (left := self._seconds_left()) is not None:
            known = self.eval_every is None or self._seconds_of_evaluation() is not None
            texts.append(f"eta {'' if known else '>'}{clock(left)}")
        return "  ".join(texts)

    def _seconds_left(self) -> float | None:
        """The steps, the evaluations and the report that are left, as long as those so far took.

        Before the first evaluation its time is not known: the steps alone, a lower bound.
        """
        if self._ticks < 2 or self._step >= self.total_steps:
            return None
        left = self._training / self._ticks * (self.total_steps - self._step)
        if self.eval_every is not None:
            report = 1  # it encodes and compares once more
            each = self._seconds_of_evaluation() or 0.0
            left += each * (self._evaluations_left(self.eval_every) + report)
        return left

    def _seconds_of_evaluation(self) -> float | None:
        if self._evaluations:
            return sum(self._evaluations) / len(self._evaluations)
        return self._each_evaluation

    def _evaluations_left(self, every: int) -> int:
        """Those after the last one: every few epochs, and after the last epoch in any case."""
        steps_per_epoch = max(1, self.total_steps // max(1, self.total_epochs))
        done = max(self._evaluated, (self._step - 1) // steps_per_epoch)
        extra = self.total_epochs % every != 0 and done < self.total_epochs
        return self.total_epochs // every - done // every + extra

    def _open_bar(self) -> None:
        if self.quiet or not self._screen.is_terminal:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[texts]}", markup=False),
            console=self._screen,
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=self.total_steps, completed=self._step, epoch=self._count(1), texts=""
        )
        self._bar.start()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def without_labels(metrics: Mapping[str, Any]) -> str:
    """What was measured of codes without labels, in one line."""
    codes, ball = metrics.get("codes") or {}, metrics.get("precision_within_radius_2") or {}
    bits, distances = codes.get("bits") or {}, metrics.get("distances") or {}
    shown = {
        "bit entropy": number(bits.get("entropy")),
        "dead bits": bits.get("dead_bits", "-"),
        "distinct codes": f"{bits.get('distinct_codes', '-')} of {metrics.get('database', '-')}",
        "empty balls": number(ball.get("empty_fraction")),
        "nearest": number(distances.get("mean_nearest")),
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def agreement(values: Mapping[str, Any]) -> str:
    """The agreement of codes with features, in one line."""
    return ", ".join(f"{title} {number(values.get(name))}" for name, title in AGREEMENT)


def reference_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What PCA with random rotations is measured at, in rows of the summary."""
    reference = report.get("reference") or {}
    if not reference:
        return []
    if reference.get("skipped"):
        return [("reference", f"none: {reference['skipped']}")]
    values = [one.text for one in measures(report)[:1] if one.mean is not None]
    if reference.get("agreement"):
        values.append(agreement(reference["agreement"]))
    draws = f"PCA + random rotation, {reference['draws']} draws"
    rows = [("reference", f"{', '.join(values)}  {draws}")]
    if sentence := not_beaten(report):
        rows.append(("", sentence))
    return rows


def conventions(metrics: Mapping[str, Any]) -> str:
    """What the mAP was measured under, in one line."""
    told = metrics.get("conventions", {})
    names = ["ties", "denominator", "empty"]
    names += [name for name in ("ternary", "own") if told.get(name) is not None]
    return ", ".join(f"{name} {told[name]}" for name in names if name in told)
