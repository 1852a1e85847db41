"""Console output of a run: a progress bar or lines, and a summary at the end."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as Screen
from rich.table import Table
from rich.text import Text

from deephash.loggers.logger import Logger
from deephash.report.reference_comparison import AGREEMENT, measures, not_beaten
from deephash.report.values import unlabelled_metrics
from deephash.utils.formatting import clock, number
from deephash.utils.progress import LiveBar
from deephash.utils.run_paths import RunPaths

SHOWN_APART = ("lr", "images_per_second", "images_seen", "data_share")
"""Values of training that the line of an epoch shows apart from the loss and its terms."""


class Console(Logger):
    """Show a progress bar if stderr is a terminal, and a line per epoch, also on stderr.

    The summary, the result, goes to stdout.

    Args:
        total_epochs: Epochs of the whole run.
        steps_per_epoch: Optimizer steps in each.
        quiet: No bar and no lines; the summary is a single line.
        metric: Name of the values ``map``, with their cut-off.
        best: The best mAP so far of each split, and the best ``agreement``, of a resumed run.
        eval_every: Epochs between evaluations, which the time left includes; None: there are none.
        evaluation_seconds: Mean duration of an evaluation before the run was resumed.
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
        self._printed = 0  # the last epoch with a line
        self._step = 0
        self._ticks = 0
        self._started = self._trained = time.monotonic()  # the second: at the last training values
        self._training = 0.0  # seconds of the steps of this session, at the last training values
        self.eval_every = eval_every
        self._each_evaluation = evaluation_seconds
        self._evaluations: list[float] = []  # seconds of each in this session
        self._evaluated = 0  # the last epoch after which there was one
        self._bar: LiveBar | None = None

    def tick(self, n: int = 1) -> None:
        if self._ticks == 0:
            self._started = time.monotonic()  # excludes the time before the first step
            self._open_bar()
        self._ticks += n
        self._step += n
        if self._bar is not None:
            self._bar.update(self._step)

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        self._step = step  # a resumed run does not start at 0
        if where == "train":
            self._trained = time.monotonic()
            self._training = self._trained - self._started - sum(self._evaluations)
            if self._printed < self._epoch < epoch:
                self._print_epoch(self._epoch)  # it had no evaluation
            self._epoch = epoch
            self._train = dict(values)
        elif {"map", "agreement"} & set(values):
            if self._evaluated < epoch:  # not the second split of the same evaluation
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
            self._bar.update(step, before=f"epoch {self._count(epoch)}", after=self._texts())

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        self._finish()
        page = RunPaths(Path(folder)).report_page
        screen = Screen(highlight=False)
        metrics = report.get("metrics", {})
        if self.quiet:
            line = f"done   {folder}  {self.metric} {number(metrics.get('map'))}"
            if metrics.get("note"):
                line += "  (images without labels)"
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
        # Paths are not wrapped, so that they can be copied or clicked.
        screen.print(Text(f"\nrun     {folder}"), soft_wrap=True)
        if page.exists():
            screen.print(Text(f"report  {page}"), soft_wrap=True)

    def close(self, failed: bool = False) -> None:
        self._finish()

    def _finish(self) -> None:
        """Close the bar, and print the line of the last epoch if it had no evaluation."""
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
            rows[-1:] = [
                (self.metric, f"-  {metrics['note']}"),
                ("codes", unlabelled_metrics(metrics)),
            ]
        if metrics.get("agreement"):
            rows.append(("agreement", format_agreement(metrics["agreement"])))
        rows += summary_of_reference(report)
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
        """Print the line of an epoch; a second split of the same epoch goes below."""
        if self.quiet:
            return
        head = f"epoch  {self._count(epoch)}  {self._texts()}"
        if epoch == self._printed:
            head = " " * len(f"epoch  {self._count(epoch)}")
        self._printed = epoch
        line = f"{head} |  {tail}" if tail else head
        self._screen.print(Text(line.rstrip()), soft_wrap=True)

    def _count(self, epoch: int) -> str:
        return f"{epoch:>{len(str(self.total_epochs))}}/{self.total_epochs}"

    def _texts(self) -> str:
        """Format the terms, the learning rate, the speed and the time left."""
        terms = {name: v for name, v in self._train.items() if name not in SHOWN_APART}
        if len(terms) == 2:  # a single term equals the loss
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
        """Estimate the time of the remaining steps, evaluations and the report.

        Before the first evaluation the estimate has the steps alone, a lower bound.
        """
        if self._ticks < 2 or self._step >= self.total_steps:
            return None
        left = self._training / self._ticks * (self.total_steps - self._step)
        if self.eval_every is not None:
            evaluations = self._evaluations_left(self.eval_every) + 1  # and that of the report
            left += (self._seconds_of_evaluation() or 0.0) * evaluations
        return left

    def _seconds_of_evaluation(self) -> float | None:
        if self._evaluations:
            return sum(self._evaluations) / len(self._evaluations)
        return self._each_evaluation

    def _evaluations_left(self, every: int) -> int:
        """Count the remaining evaluations: every few epochs, and after the last one."""
        steps_per_epoch = max(1, self.total_steps // max(1, self.total_epochs))
        done = max(self._evaluated, (self._step - 1) // steps_per_epoch)
        extra = self.total_epochs % every != 0 and done < self.total_epochs
        return self.total_epochs // every - done // every + extra

    def _open_bar(self) -> None:
        if self.quiet or not self._screen.is_terminal:
            return
        before = f"epoch {self._count(1)}"
        self._bar = LiveBar(self.total_steps, self._step, before, console=self._screen)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def format_agreement(values: Mapping[str, Any]) -> str:
    """Format the agreement of codes with features in one line."""
    return ", ".join(f"{title} {number(values.get(name))}" for name, title in AGREEMENT)


def summary_of_reference(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the summary about the reference, PCA with random rotations."""
    reference = report.get("reference") or {}
    if not reference:
        return []
    if reference.get("skipped"):
        return [("reference", f"none: {reference['skipped']}")]
    values = [item.text for item in measures(report)[:1] if item.mean is not None]
    if reference.get("agreement"):
        values.append(format_agreement(reference["agreement"]))
    draws = f"PCA + random rotation, {reference['draws']} draws"
    rows = [("reference", f"{', '.join(values)}  {draws}")]
    if sentence := not_beaten(report):
        rows.append(("", sentence))
    return rows


def conventions(metrics: Mapping[str, Any]) -> str:
    """Format the conventions of the mAP in one line."""
    rules = metrics.get("conventions", {})
    names = ["ties", "denominator", "empty"]
    names += [name for name in ("ternary", "own") if rules.get(name) is not None]
    return ", ".join(f"{name} {rules[name]}" for name in names if name in rules)
