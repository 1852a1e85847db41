"""What a dataset is: classes, labels, and what a method that knows nothing would score."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deephash.config import build, schema
from deephash.data.catalogue import Catalogue
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts, choose_protocol, describe_split
from deephash.retrieval import Convention, Histograms, mean_average_precision, rank_codes
from deephash.utils.formatting import number

MOST = 12  # classes that are shown at each end, where there are more than twice as many


def divided(cfg: schema.Data, images: Catalogue) -> tuple[Split, Facts]:
    """The split of a configuration's protocol, and its facts."""
    named = cfg.dataset.protocol, build.protocol(cfg)
    name, protocol = choose_protocol(images, named, build.unlabelled(cfg))
    split = protocol.split(images)
    return split, describe_split(images, split, cfg.dataset.name, name, protocol.seed)


def description(cfg: schema.Data, images: Catalogue) -> dict[str, Any]:
    """All that ``data.py describe`` tells, as JSON holds it.

    Prevalence is the share of pairs of a query and a database image that have a label in common.
    What chance scores is the exact mAP of codes that are all the same, under the configured
    convention: the expectation over all orders of the database.
    """
    split, facts = divided(cfg, images)
    convention = build.convention(cfg)
    found: dict[str, Any] = {
        "facts": facts.as_dict(),
        "labels": {role: _labels(images, getattr(split, role)) for role in ROLES[:3]},
        "classes": {
            role: images.labels[getattr(split, role)].sum(axis=0).tolist() for role in ROLES[:3]
        },
    }
    return found | {"chance": chance(images, split, convention)}


def chance(images: Catalogue, split: Split, convention: Convention) -> dict[str, Any]:
    """Prevalence and chance-level mAP of a split under a convention."""
    if not images.label_counts[np.concatenate([split.queries, split.database])].any():
        return {}  # no image has a label; perhaps lists say what is relevant
    asked, held = (_comparable(images, rows) for rows in (split.queries, split.database))
    same = (np.zeros((len(rows), 8), bool) for rows in (split.queries, split.database))
    ranking = rank_codes(next(same), next(same), asked, held, own=split.own)
    histograms = Histograms.of(ranking)
    relevant = histograms.relevant.sum(axis=1)
    result = mean_average_precision(ranking, convention)
    return {
        "metric": convention.name,
        "map": result.value,
        "prevalence": float((relevant / ranking.sizes).mean()),
        "relevant_min": int(relevant.min()),
        "relevant_median": float(np.median(relevant)),
        "relevant_max": int(relevant.max()),
        "queries_without_relevant": int((relevant == 0).sum()),
        "queries_below_top": int((relevant < convention.cut(histograms.size)).sum()),
    }


def _comparable(images: Catalogue, rows: np.ndarray) -> np.ndarray:
    """Class indices (n,), or where images have several labels, rows (n, C)."""
    labels = images.labels[rows]
    targets: np.ndarray = labels.toarray() if (images.label_counts != 1).any() else labels.indices
    return targets


def _labels(images: Catalogue, rows: np.ndarray) -> dict[str, Any]:
    each = images.label_counts[rows]
    return {
        "images": len(rows),
        "mean": float(each.mean()) if len(rows) else None,
        "images_by_number_of_labels": {
            str(labels): int(count) for labels, count in enumerate(np.bincount(each)) if count
        },
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """A description as text for the terminal."""
    facts, told = found["facts"], found["chance"]
    several = "several labels" if facts["multilabel"] else "one label"
    labels_of = f"{facts['num_classes']} classes, {several} an image"
    if not facts["num_classes"]:
        labels_of = "no labels, so no classes and no mAP"
    text = [
        f"{facts['dataset']}, protocol {facts['protocol']}: {labels_of},"
        f" fingerprint {facts['fingerprint'][:16]}",
        "",
        f"{'':<12}{'images':>9}  {'labels':>6}  {'none':>6}  {'per class':>15}",
    ]
    for role, labels in found["labels"].items():
        ends, mean = facts["per_class"].get(role), labels["mean"]
        per_class = "-" if ends is None else f"{ends['min']:>6,} to {ends['max']:>6,}"
        none = labels["images_by_number_of_labels"].get("0", 0)
        text.append(
            f"{role:<12}{labels['images']:>9,}  {'-' if mean is None else f'{mean:.3f}':>6}"
            f"  {none:>6,}  {per_class:>15}"
        )
    overlaps = {name.replace("_", " and "): n for name, n in facts["overlaps"].items() if n}
    text += ["", "in common: " + (", ".join(f"{n} {m:,}" for n, m in overlaps.items()) or "none")]
    if told:
        text += [
            f"relevant to a query: {told['relevant_min']:,} to {told['relevant_max']:,} images,"
            f" median {told['relevant_median']:,.0f}; prevalence {told['prevalence']:.4f}",
            f"chance: {told['metric']} {number(told['map'])}",
        ]
        if told["queries_without_relevant"]:
            text.append(f"{told['queries_without_relevant']:,} queries have nothing to find")
    if facts["classes"]:
        text += ["", *_classes(facts["classes"], found["classes"])]
    return text


def _classes(names: list[str], counts: Mapping[str, list[int]]) -> list[str]:
    """Images of each class by role; of many classes the first and the last."""
    rows = list(range(len(names)))
    if len(rows) > 2 * MOST:
        rows = [*rows[:MOST], -1, *rows[-MOST:]]
    width = max(12, *(len(names[row]) for row in rows))
    text = [f"{'class':<{width}}" + "".join(f"{role:>10}" for role in counts)]
    for row in rows:
        if row < 0:
            text.append(f"... {len(names) - 2 * MOST} more: out=FILE.json has all")
            continue
        text.append(f"{names[row]:<{width}}" + "".join(f"{of[row]:>10,}" for of in counts.values()))
    return text
