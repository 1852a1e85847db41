"""Definitions of mAP, by their fields or by the name of published code."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from deephash.errors import DataError
from deephash.retrieval.checks import check_choice, check_integer
from deephash.utils import choices

TIES = tuple(choices.Ties.__members__)
DENOMINATORS = tuple(choices.Denominator.__members__)
EMPTY = tuple(choices.Empty.__members__)

_PLAIN: dict[str, Any] = {"ties": "stable", "denominator": "hits", "empty": "zero"}
NAMED: dict[str, dict[str, Any]] = {
    "orthohash": _PLAIN,
    "relahash": _PLAIN,
    "dpn": _PLAIN,
    "fire": _PLAIN,
    "greedyhash": _PLAIN,
    "dsdh": _PLAIN,
    "dhn": _PLAIN | {"drop_last": True},
    "deephash-pytorch": _PLAIN | {"drop_last": True},
    "hashnet": _PLAIN | {"empty": "skip_retrieved_none"},
    "hashnet-caffe": _PLAIN | {"empty": "skip_no_relevant"},
    "csq": _PLAIN | {"empty": "skip_unlabelled"},
    "gld-official": _PLAIN | {"denominator": "min", "top": 100},
    "gld-fire": _PLAIN | {"denominator": "total", "top": 100},
}


def needs_ranking(ties: str) -> bool:
    """Return whether a policy of ties needs the order of the database, not only histograms."""
    return ties in ("stable", "shuffled")


@dataclass(frozen=True)
class Convention:
    """A definition of mAP: cut-off, order of ties, denominator, and the queries that count.

    With r_k = 1 if the k-th item is relevant, else 0, and c_k the number of relevant items among
    the first k, AP@R = sum over k <= R of r_k c_k / k, divided by the ``denominator``.

    Args:
        top: R, the number of nearest items that are considered; None for all.
        ties: the order of equally distant items. ``expected``: the mean over all orders.
            ``stable``: as in the database. ``shuffled``: as in the database after shuffling it with
            ``seed``. ``best``, ``worst``: relevant items first, or last; with the denominator
            ``hits`` and a cut these are not the true bounds.
        denominator: ``hits``: the relevant items among the first R, as in HashNet's code and code
            derived from it. ``min``: the smaller of R and the relevant items in the database, T.
            ``total``: T. ``R``: R. Without a cut the first three are equal.
        empty: queries left out of the mean. ``zero``: none. ``skip_retrieved_none``: those without
            a relevant item among the first R. ``skip_no_relevant``: those without one in the
            database. ``skip_unlabelled``: those without a label. All others count, with AP 0 if
            there is no relevant item.
        seed: of ``shuffled``.
        drop_last: consider all items but the one ranked last; only if ``top`` is None. This is an
            error of published code, whose ``topk=-1`` for "all" cuts a list at ``[0:-1]``.
        family: name of the published definition, for reports; has no effect.

    Raises:
        DataError: if a value is not allowed; or with ``expected``, a cut and
            ``skip_retrieved_none``: which queries count would then depend on the order.

    Example:
        >>> Convention(top=1000, denominator="min").name
        'mAP@1000'
    """

    top: int | None = None
    ties: str = "expected"
    denominator: str = "hits"
    empty: str = "zero"
    seed: int = 0
    drop_last: bool = False
    family: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_choice("ties", self.ties, TIES)
        check_choice("denominator", self.denominator, DENOMINATORS)
        check_choice("empty", self.empty, EMPTY)
        if self.top is not None:
            check_integer("top", self.top, 1, ", or None for all")
        check_integer("seed", self.seed, 0)
        if self.drop_last and self.top is not None:
            raise DataError(
                f"drop_last leaves out the last of all items, but top={self.top}: use one of them"
            )
        cut = self.top is not None or self.drop_last
        if (self.ties, self.empty) == ("expected", "skip_retrieved_none") and cut:
            raise DataError(
                "empty=skip_retrieved_none with ties=expected and a cut: whether a query has a hit "
                "depends on the order of ties. Use ties=stable, or another empty"
            )

    @classmethod
    def named(cls, name: str, **given: Any) -> Self:
        """Return the definition of mAP in published code.

        All divide by ``hits`` and count every query, unless stated otherwise:

        - ``orthohash`` (kamwoh/orthohash); the same: ``relahash``, ``dpn``, ``fire`` (cisip-FIRe),
          ``greedyhash``, and ``dsdh`` (TreezzZ's port).
        - ``deephash-pytorch`` (swuxyj's): without a ``top``, as there on CIFAR-10, MIRFlickr and
          VOC, the item ranked last is dropped; the same: ``dhn`` (TreezzZ's port).
        - ``hashnet`` (thuml/HashNet, PyTorch): a query without hits is left out.
        - ``hashnet-caffe`` (thuml/HashNet, Caffe): a query without relevant items is left out.
        - ``csq`` (the authors' Hadamard-Matrix-for-hashing): a query without labels is left out.
        - ``gld-official``: mAP@100 of Google Landmarks v2, divided by ``min``; ``gld-fire``, that
          of cisip-FIRe, by ``total``.

        Their treatment of zeros is not reproduced: most use sgn(0) = 0, which makes half bits of
        exact zeros; here z >= 0 is a one, as in the papers.

        Ties are ``stable``, the closest definition that can be stated: this code sorts with topk or
        an unstable sort, whose order of equals depends on library and device. R belongs to the
        dataset and not to a name, except on Landmarks; R beyond the database is an error here,
        where some of this code reduces it silently.

        Args:
            name: of the definition.
            **given: fields that differ from it, usually ``top``.

        Raises:
            DataError: if there is no such name, or the fields are not allowed.

        Example:
            >>> Convention.named("hashnet", top=1000).empty
            'skip_retrieved_none'
            >>> Convention.named("deephash-pytorch").name
            'mAP@all-1'
        """
        check_choice("convention", name, NAMED)
        values = dict(NAMED[name])
        if given.get("top") is not None:
            values.pop("drop_last", None)
        return cls(**(values | {"family": name} | given))

    @classmethod
    def configured(cls, node: Mapping[str, Any], top: int | None) -> Self:
        """Return the definition of mAP given by the node ``evaluation`` of a configuration.

        Args:
            node: the fields; for a field that is null, that of the convention, or the default.
            top: R of the dataset, unless the node or its convention gives one.

        Raises:
            DataError: as ``named``.
        """
        name = node.get("convention")
        given = {
            field.name: node[field.name]
            for field in fields(cls)
            if node.get(field.name) is not None
        }
        if "top" not in NAMED.get(name or "", {}):
            given = {"top": top} | given
        return cls(**given) if name is None else cls.named(name, **given)

    @property
    def name(self) -> str:
        """``mAP@all``, or for instance ``mAP@1000``; ``mAP@all-1`` where the last is dropped."""
        if self.top is not None:
            return f"mAP@{self.top}"
        return "mAP@all-1" if self.drop_last else "mAP@all"

    def cut(self, size: int) -> int:
        """Return R for a database of ``size`` items.

        Raises:
            DataError: if ``top`` is more than there are.
        """
        if self.top is not None and self.top > size:
            raise DataError(f"{self.name} needs more than the {size} items of the database")
        return size - self.drop_last if self.top is None else self.top
