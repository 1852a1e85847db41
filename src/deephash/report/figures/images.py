"""Figures of codes: retrieved images, codes in two dimensions, codes over training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deephash.report.figures.evaluation import Array, CodeSnapshot, Plane, Retrieved
from deephash.report.figures.plots import frame, panel_grid
from deephash.report.figures.style import (
    BLACK,
    GREEN,
    PALE,
    VERMILION,
    Drawing,
    Look,
    blank,
    dots,
    halo,
    hues,
    legend,
    sheet,
)
from deephash.utils.formatting import shorten

CELL, TITLE, LINE = 0.95, 0.24, 0.14
"""Height of an image, of a title of a query, and of a line of a caption, in inches."""

MOST_PANELS = 12
"""Number of snapshots that are shown."""

Looks = dict[int, tuple[Any, str]]
"""Colour and shape of each class."""

IN_LEGEND = 20
"""Largest number of classes in a legend; more classes are numbered in the figure."""


def retrieved(gallery: Sequence[Retrieved]) -> Drawing | None:
    """Draw queries with their nearest images (Fig. 16)."""
    if not gallery:
        return None
    most = max(len(one.images) for one in gallery)
    step = CELL + 0.1
    tall = TITLE + CELL + 2 * LINE + 0.12
    figure, panel = blank(step * (most + 1) + 0.35, tall * len(gallery) + 0.05)
    for place, one in enumerate(gallery):
        top = place * tall + TITLE + 0.03
        _image(panel, one.query, 0.08, top)
        _frame(panel, 0.08, top, "#222222", "-")
        panel.text(0.08, top - 0.07, shorten(one.title, 16 * (most + 1)), fontsize=9, va="bottom")
        relevant: Sequence[bool | None] = one.right or [None] * len(one.images)
        retrieved = zip(one.images, relevant, one.captions, strict=False)
        for rank, (image, right, caption) in enumerate(retrieved):
            left = 0.08 + step * (rank + 1) + 0.18
            _image(panel, image, left, top)
            if right is not None:
                _draw_relevance(panel, left, top, right)
            _draw_caption(panel, left, top, caption)
    description = (
        f"Left, each query; then its {most} nearest images of the database, the nearest first, "
        "equally near ones in a random order. "
        "Below each, its classes and its distance in bits."
    )
    if any(one.right is not None for one in gallery):
        description += (
            " Solid green frame with a tick: relevant. Dashed red frame with a cross: not."
        )
    return Drawing("retrieved", "Nearest images", description, figure)


def on_plane(plane: Plane | None) -> Drawing | None:
    """Draw codes in two dimensions (Fig. 15)."""
    if plane is None or not len(plane.points):
        return None
    figure, panels = sheet(size=(6.4, 5.2))
    panel = panels[0, 0]
    looks = _looks([plane.classes])
    _scatter(panel, plane.points, plane.classes, looks, (12000, 3, 22))
    caption = plane.what.rstrip(".") + "."
    if 0 < len(looks) <= IN_LEGEND:
        names = [shorten(_name(plane.names, one), 24) for one in looks]
        figure.legend(dots(list(looks.values())), names, loc="outside right center", handlelength=1)
    elif looks:
        _number(panel, plane, looks)
        caption += " Numbers are at the medians of their classes."
    if looks and (plane.classes == -1).any():
        caption += " Grey: no class."
    panel.set(xticks=[], yticks=[], aspect="equal")
    panel.spines[["top", "right"]].set_visible(True)
    return Drawing("tsne", "Codes on a plane", caption, figure)


def codes_over_training(snapshots: Sequence[CodeSnapshot]) -> Drawing | None:
    """Draw codes of two or three bits at several epochs of training (Tables 5 and 6)."""
    if not snapshots:
        return None
    every, snapshots = len(snapshots), _select(snapshots)
    nbit = snapshots[0].z.shape[1]
    if nbit not in (2, 3) or any(one.z.shape[1] != nbit for one in snapshots):
        raise ValueError(f"snapshots must all have 2 or all have 3 bits, not {nbit}")
    down, across = panel_grid(len(snapshots))
    if nbit == 2:
        figure, panels = sheet(down, across, (2.4, 2.9), sharex=True, sharey=True)
    else:
        figure, panels = sheet(down, across, (3.1, 3.2), subplot_kw={"projection": "3d"})
        engine = figure.get_layout_engine()
        assert engine is not None  # of every sheet
        engine.set(rect=(0, 0.02, 0.98, 0.98))  # type: ignore[call-arg]  # labels stand out of axes
    looks, reach = _looks([shot.classes for shot in snapshots]), _axis_limit(snapshots)
    places = [divmod(place, across) for place in range(len(snapshots))]
    frame(panels, places, "bit 1", "bit 2")
    for place, shot in zip(places, snapshots, strict=True):
        _snapshot(panels[place], shot, looks, reach)
    if 0 < len(looks) <= IN_LEGEND:
        legend(figure, dots(list(looks.values())), [f"class {one}" for one in looks])
    count = sum(len(shot.z) for shot in snapshots) // len(snapshots)
    caption = (
        f"Continuous codes of {nbit} bits, {count:,} images in each panel"
        + (", coloured by class. " if looks else ". ")
        + f"Crosses: the {2**nbit} binary codes"
        + (", ±1 and ±1; grey lines: where a bit changes." if nbit == 2 else ", corners of a cube.")
    )
    if len(snapshots) < every:
        caption += f" {len(snapshots)} of {every} saved epochs."
    if any(shot.centers is not None for shot in snapshots):
        caption += " Rings: the centers of the classes, concentric where they coincide."
    return Drawing("codes_over_training", "Codes over training", caption, figure)


def _image(panel: Any, image: Array, left: float, top: float) -> None:
    """Draw an image in its cell, as large as fits."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    x, y = left + (CELL - width * scale) / 2, top + (CELL - height * scale) / 2
    panel.imshow(image, extent=(x, x + width * scale, y + height * scale, y), aspect="auto")
    # imshow has moved the limits to the image
    inches = panel.figure.get_size_inches()
    panel.set(xlim=(0, inches[0]), ylim=(inches[1], 0))


def _frame(panel: Any, left: float, top: float, colour: str, dash: Any) -> None:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * CELL + (left, top)
    panel.plot(*corners.T, color=colour, linestyle=dash, linewidth=2.2, solid_joinstyle="miter")


def _draw_relevance(panel: Any, left: float, top: float, right: bool) -> None:
    """Draw a frame and a mark, which are distinct without colour."""
    colour = GREEN if right else VERMILION
    _frame(panel, left, top, colour, "-" if right else (0, (3, 1.2)))
    panel.text(
        left + CELL - 0.02,
        top + 0.02,
        "✓" if right else "✗",
        ha="right",
        va="top",
        color="white",
        fontsize=8.5,
        fontweight="bold",
        bbox={"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.12"},
    )


def _draw_caption(panel: Any, left: float, top: float, caption: str) -> None:
    """Draw a caption in at most two lines, split at its last comma if it has one."""
    front, _, back = caption.rpartition(", ")
    lines = [shorten(front, 17), shorten(back, 17)]
    text = "\n".join(filter(None, lines))
    middle = (left + CELL / 2, top + CELL + 0.05)
    panel.text(*middle, text, ha="center", va="top", fontsize=7.5, linespacing=1.1)


def _looks(classes: Sequence[Array]) -> Looks:
    """Return colour and shape of each class that occurs."""
    present = sorted({one for some in classes for one in some.tolist()} - {-1})
    if len(present) > IN_LEGEND:
        return dict(zip(present, ((hue, "o") for hue in hues(len(present))), strict=True))
    looks = [Look.of(place) for place in range(len(present))]
    return {one: (look.colour, look.marker) for one, look in zip(present, looks, strict=True)}


def _scatter(
    panel: Any, points: Array, classes: Array, looks: Looks, size: tuple[float, float, float]
) -> None:
    """Draw the points of each class, rasterized.

    The area of a point is the first size divided by their number, within the bounds of the others.
    """
    total, least, most = size
    panel.set_rasterization_zorder(0)
    area = float(np.clip(total / max(1, len(points)), least, most))
    for one, (colour, shape) in {-1: (PALE, "."), **looks}.items():
        settings = {"s": area, "marker": shape, "color": [colour], "alpha": 0.75, "zorder": -1}
        some = points[classes == one]
        if len(some):
            panel.scatter(*some.T, linewidths=0, rasterized=True, **settings)


def _number(panel: Any, plane: Plane, looks: Looks) -> None:
    for one, (colour, _) in looks.items():
        middle = np.median(plane.points[plane.classes == one], axis=0)
        dark = [0.6 * part for part in colour]
        panel.text(*middle, str(one), color=dark, ha="center", va="center", fontsize=7.5,
                   fontweight="bold", path_effects=halo(2))  # fmt: skip


def _name(names: Sequence[str], one: int) -> str:
    return names[one] if 0 <= one < len(names) else f"class {one}"


def _select(snapshots: Sequence[CodeSnapshot]) -> list[CodeSnapshot]:
    """Return at most ``MOST_PANELS`` snapshots, evenly spaced, with the first and the last."""
    count = min(len(snapshots), MOST_PANELS)
    return [
        snapshots[place] for place in np.linspace(0, len(snapshots) - 1, count).round().astype(int)
    ]


def _axis_limit(snapshots: Sequence[CodeSnapshot]) -> float:
    """Return the limit of the axes of all panels: that of the farthest code."""
    far = [np.abs(shot.z).max(initial=1.2, where=np.isfinite(shot.z)) for shot in snapshots]
    far += [np.abs(shot.centers).max(initial=1.2) for shot in snapshots if shot.centers is not None]
    return 1.05 * float(max(far))


def _snapshot(panel: Any, shot: CodeSnapshot, looks: Looks, reach: float) -> None:
    nbit = shot.z.shape[1]
    (_flat if nbit == 2 else _cube)(panel, (-reach, reach))
    panel.set_title(f"epoch {shot.epoch}")
    _scatter(panel, shot.z, shot.classes, looks, (6000, 3, 18))
    if shot.centers is not None:
        _rings(panel, shot.centers, looks, 0.04 * reach)
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * nbit), axis=-1).reshape(-1, nbit)
    panel.scatter(*corners.T, marker="x", s=40, color=BLACK, linewidths=1.3, zorder=6)


def _rings(panel: Any, centers: Array, looks: Looks, close: float) -> None:
    """Draw a ring for each center, larger if previous centers are at the same place."""
    flat = {"depthshade": False} if centers.shape[1] == 3 else {}
    for one, center in enumerate(centers):
        under = int((np.abs(centers[:one] - center).max(axis=1, initial=0) < close).sum())
        colour, _ = looks.get(one, (PALE, "o"))
        for edge, width in ((BLACK, 2.8), (colour, 1.6)):
            look = {"facecolors": "none", "edgecolors": [edge], "linewidths": width, **flat}
            size = (8 + 5 * under) ** 2
            panel.scatter(*center[:, None], marker="o", s=size, zorder=5, **look)


def _flat(panel: Any, limits: tuple[float, float]) -> None:
    panel.axhline(0, color=PALE, linewidth=1, zorder=-2)
    panel.axvline(0, color=PALE, linewidth=1, zorder=-2)
    panel.set(xlim=limits, ylim=limits, aspect="equal")
    panel.grid(False)


def _cube(panel: Any, limits: tuple[float, float]) -> None:
    """Set up axes in space, with the edges of the cube of bits."""
    ends = {"ticks": [-1, 1]}
    panel.set(xlim=limits, ylim=limits, zlim=limits)
    for axis, name in zip((panel.xaxis, panel.yaxis, panel.zaxis), "123", strict=True):
        axis.set_ticks(**ends)
        axis.set_tick_params(pad=-2, labelsize=8)
        axis.set_label_text(f"bit {name}")
        axis.labelpad = -6
    panel.view_init(elev=22, azim=-58)
    panel.computed_zorder = False  # rings and crosses are on top of the codes, near or far
    panel.set_box_aspect(None, zoom=1.0)
    for one in range(3):
        for fixed in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            edge = np.insert(np.array([fixed, fixed], dtype=float), one, [-1, 1], axis=1)
            panel.plot(*edge.T, color="#999999", linewidth=0.8)
