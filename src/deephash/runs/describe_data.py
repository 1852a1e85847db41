"""Describe a dataset: classes, labels, and the mAP of chance."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deephash.config import build, schema
from deephash.data.catalogue import Catalogue
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts, choose_protocol, describe_split
from deephash.retrieval import Convention, Histograms, mean_average_precision, rank_codes
from deephash.utils.formatting import number

MOST = 12  # classes that are shown at each end of a long list


def divide(cfg: schema.Data, images: Catalogue) -> tuple[Split, Facts]:
    """Return the split of a configuration's protocol, and its facts."""
    named = cfg.dataset.protocol, build.protocol(cfg)
    name, protocol = choose_protocol(images, named, build.unlabelled(cfg))
    split = protocol.split(images)
    return split, describe_split(images, split, cfg.dataset.name, name, protocol.seed)


def without_validation(cfg: schema.Data) -> schema.Data:
    """Return the configuration without a validation split, which may be drawn from training."""
    used = (cfg.dataset.protocol, cfg.dataset.unlabelled)
    protocols = {
        name: {**node, "validation": 0} if name in used and "validation" in node else dict(node)
        for name, node in cfg.dataset.protocols.items()
    }
    return cfg.with_values(dataset=cfg.dataset.with_values(protocols=protocols).plain)


def description(cfg: schema.Data, images: Catalogue) -> dict[str, Any]:
    """Return the output of ``data describe`` as plain values.

    Prevalence is the share of pairs of a query and a database image with a common label. Chance is
    the exact mAP of equal codes under the configured convention, the expectation over all orders of
    the database.
    """
    split, facts = divide(cfg, images)
    return {
        "facts": facts.as_dict(),
        "labels": {role: _labels(images, getattr(split, role)) for role in ROLES[:3]},
        "classes": {
            role: images.labels[getattr(split, role)].sum(axis=0).tolist() for role in ROLES[:3]
        },
        "chance": chance(images, split, build.convention(cfg)),
    }


def chance(images: Catalogue, split: Split, convention: Convention) -> dict[str, Any]:
    """Return prevalence and chance-level mAP of a split under a convention."""
    if not images.label_counts[np.concatenate([split.queries, split.database])].any():
        return {}  # no image has a label; relevance may be defined by lists
    query, database = (_comparable(images, rows) for rows in (split.queries, split.database))
    equal = np.zeros((len(images), 8), bool)
    ranking = rank_codes(
        equal[: len(query)], equal[: len(database)], query, database, own=split.own
    )
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
    """Return class indices (n,), or rows (n, C) of images with several labels."""
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


def description_lines(description: Mapping[str, Any]) -> list[str]:
    """Format a description for the terminal."""
    facts, base = description["facts"], description["chance"]
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
    for role, labels in description["labels"].items():
        ends, mean = facts["per_class"].get(role), labels["mean"]
        per_class = "-" if ends is None else f"{ends['min']:>6,} to {ends['max']:>6,}"
        none = labels["images_by_number_of_labels"].get("0", 0)
        text.append(
            f"{role:<12}{labels['images']:>9,}  {'-' if mean is None else f'{mean:.3f}':>6}"
            f"  {none:>6,}  {per_class:>15}"
        )
    overlaps = {name.replace("_", " and "): n for name, n in facts["overlaps"].items() if n}
    text += ["", "in common: " + (", ".join(f"{n} {m:,}" for n, m in overlaps.items()) or "none")]
    if base:
        text += [
            f"relevant to a query: {base['relevant_min']:,} to {base['relevant_max']:,} images,"
            f" median {base['relevant_median']:,.0f}; prevalence {base['prevalence']:.4f}",
            f"chance: {base['metric']} {number(base['map'])}",
        ]
        if base["queries_without_relevant"]:
            text.append(f"{base['queries_without_relevant']:,} queries have nothing to find")
    if facts["classes"]:
        text += ["", *_classes(facts["classes"], description["classes"])]
    return text


def _classes(names: list[str], counts: Mapping[str, list[int]]) -> list[str]:
    """Format the images of each class by role; of many classes the first and the last."""
    rows = list(range(len(names)))
    more = len(names) - 2 * MOST
    if more > 0:
        rows = [*rows[:MOST], *rows[-MOST:]]
    width = max(12, *(len(names[row]) for row in rows))
    text = [f"{'class':<{width}}" + "".join(f"{role:>10}" for role in counts)]
    for row in rows:
        numbers = "".join(f"{column[row]:>10,}" for column in counts.values())
        text.append(f"{names[row]:<{width}}{numbers}")
    if more > 0:
        text.insert(MOST + 1, f"... {more} more: out=FILE.json has all")
    return text
