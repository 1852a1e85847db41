"""The state of a run beside its tensors: counters, evaluations, the selected epoch."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """Counters and evaluations of a run, saved in its checkpoint."""

    epoch: int = 0  # whole epochs trained
    step: int = 0
    seconds: float = 0.0  # in the loop, over all sessions
    evaluation_seconds: float = 0.0  # of these, encoding and comparing
    retrieval_seconds: float = 0.0  # of these, comparing
    images: int = 0
    train_seconds: float = 0.0
    data_seconds: float = 0.0  # of these, waiting for batches
    history: list[dict[str, Any]] = field(default_factory=list)
    """{"epoch", "query", "val"}, and "agreement" where it selects"""
    selected: int | None = None  # epoch of the selected encoder
    wait: int = 0  # evaluations since the selected one
    stopped_early: bool = False

    def add(
        self,
        epoch: int,
        query: float | None,
        val: float | None,
        select_on: str,
        agreement: float | None = None,
    ) -> bool:
        """Add an evaluation; return whether its encoder is the best so far.

        Better means strictly better.

        Args:
            epoch: Whole epochs trained.
            query: mAP of the queries; None without labels.
            val: The same of the validation split, if there is one.
            select_on: ``query``, ``val``, ``agreement`` or ``last``.
            agreement: Recall of the 10 nearest by features among those by codes, of the validation
                split, if the epoch is selected by it.
        """
        row = {"epoch": epoch, "query": query, "val": val}
        if agreement is not None:
            row["agreement"] = agreement
        best = self.best(select_on)
        self.history.append(row)
        if select_on == "last":
            better = True
        else:
            value = row[select_on]
            assert value is not None  # otherwise select_on is `last`
            better = best is None or value > best[select_on]
        if better:
            self.selected, self.wait = epoch, 0
        else:
            self.wait += 1
        return better

    def best(self, which: str) -> dict[str, Any] | None:
        """Return the first evaluation with the highest ``query``, ``val`` or ``agreement``."""
        rows = [row for row in self.history if row.get(which) is not None]
        return max(rows, key=lambda row: row[which], default=None)

    def selection(self, select_on: str, eval_every: int, epochs: int) -> dict[str, Any]:
        """Return the mAP of the best epochs on queries, validation and agreement, and the last."""
        best, val, last = self.best("query"), self.best("val"), self.history[-1]
        selection = {
            "select_on": select_on,
            "map_best_on_query": best["query"] if best else None,
            "epoch_best_on_query": best["epoch"] if best else None,
            "map_at_val_epoch": val["query"] if val else None,
            "epoch_at_val": val["epoch"] if val else None,
            "map_last": last["query"],
            "epoch_last": last["epoch"],
            "selected_epoch": self.selected,
            "eval_every": eval_every,
            "epochs": epochs,
            "stopped_early": self.stopped_early,
        }
        if (agreed := self.best("agreement")) is not None:
            selection |= {
                "agreement_best": agreed["agreement"],
                "epoch_at_agreement": agreed["epoch"],
                "map_at_agreement_epoch": agreed["query"],
            }
        return selection

    def state(self) -> dict[str, Any]:
        """Return the plain values of a checkpoint."""
        return asdict(self)
