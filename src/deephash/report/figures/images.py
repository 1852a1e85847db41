"""What codes look like: retrieved images, codes on a plane, codes as training goes on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deephash.report.figures.canvas import (
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
    shorten,
)
from deephash.report.figures.evaluation import Array, Plane, Retrieved, Snapshot
from deephash.report.figures.panels import frame, grid

CELL, TITLE, LINE = 0.95, 0.24, 0.14
"""Of an image, a query's title and a line of caption, in inches."""

MOST_PANELS = 12
"""So many snapshots are shown."""

Looks = dict[int, tuple[Any, str]]
"""Colour and shape of each class."""

IN_LEGEND = 20
"""More classes than that are numbered on the plane instead of listed beside it."""


def retrieved(gallery: Sequence[Retrieved]) -> Drawing | None:
    """Fig. 16: queries with their nearest images."""
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
        told = zip(one.images, relevant, one.captions, strict=False)
        for rank, (image, right, caption) in enumerate(told):
            left = 0.08 + step * (rank + 1) + 0.18
            _image(panel, image, left, top)
            if right is not None:
                _judge(panel, left, top, right)
            _say(panel, left, top, caption)
    said = (
        f"Left, each query; then its {most} nearest images of the database, the nearest first, "
        "equally near ones in a random order. "
        "Below each, what it shows and its distance in bits."
    )
    if any(one.right is not None for one in gallery):
        said += " Solid green frame with a tick: relevant. Dashed red frame with a cross: not."
    return Drawing("retrieved", "Nearest images", said, figure)


def on_plane(found: Plane | None) -> Drawing | None:
    """Fig. 15: codes in two dimensions."""
    if found is None or not len(found.points):
        return None
    figure, panels = sheet(size=(6.4, 5.2))
    panel = panels[0, 0]
    looks = _looks([found.classes])
    _scatter(panel, found.points, found.classes, looks, (12000, 3, 22))
    caption = found.what.rstrip(".") + "."
    if 0 < len(looks) <= IN_LEGEND:
        names = [shorten(_name(found.names, one), 24) for one in looks]
        figure.legend(dots(list(looks.values())), names, loc="outside right center", handlelength=1)
    elif looks:
        _number(panel, found, looks)
        caption += " A number stands at the median of its class."
    if looks and (found.classes == -1).any():
        caption += " Grey: no class."
    panel.set(xticks=[], yticks=[], aspect="equal")
    panel.spines[["top", "right"]].set_visible(True)
    return Drawing("tsne", "Codes on a plane", caption, figure)


def codes_over_training(snapshots: Sequence[Snapshot]) -> Drawing | None:
    """Tables 5 and 6: codes of two or three bits at some epochs of training."""
    if not snapshots:
        return None
    every, snapshots = len(snapshots), _some(snapshots)
    nbit = snapshots[0].z.shape[1]
    if nbit not in (2, 3) or any(one.z.shape[1] != nbit for one in snapshots):
        raise ValueError(f"snapshots must all have 2 or all have 3 bits, not {nbit}")
    down, across = grid(len(snapshots))
    if nbit == 2:
        figure, panels = sheet(down, across, (2.4, 2.9), sharex=True, sharey=True)
    else:
        figure, panels = sheet(down, across, (3.1, 3.2), subplot_kw={"projection": "3d"})
        engine = figure.get_layout_engine()
        assert engine is not None  # of every sheet
        engine.set(rect=(0, 0.02, 0.98, 0.98))  # type: ignore[call-arg]  # labels stand out of axes
    looks, reach = _looks([shot.classes for shot in snapshots]), _reach(snapshots)
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
        + f"Crosses: the {2**nbit} codes that bits can make"
        + (", ±1 and ±1; grey lines: where a bit changes." if nbit == 2 else ", corners of a cube.")
    )
    if len(snapshots) < every:
        caption += f" {len(snapshots)} of {every} epochs that were kept."
    if any(shot.centers is not None for shot in snapshots):
        caption += " Rings: the centers of the classes, one around the other where they coincide."
    return Drawing("codes_over_training", "Codes over training", caption, figure)


def _image(panel: Any, image: Array, left: float, top: float) -> None:
    """An image in its cell, as large as fits."""
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


def _judge(panel: Any, left: float, top: float, right: bool) -> None:
    """A frame and a mark, which say the same without colour."""
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


def _say(panel: Any, left: float, top: float, caption: str) -> None:
    """A caption in two lines at most, split at its last comma if it has one."""
    front, _, back = caption.rpartition(", ")
    lines = [shorten(front, 17), shorten(back, 17)]
    text = "\n".join(filter(None, lines))
    middle = (left + CELL / 2, top + CELL + 0.05)
    panel.text(*middle, text, ha="center", va="top", fontsize=7.5, linespacing=1.1)


def _looks(classes: Sequence[Array]) -> Looks:
    """Colour and shape of each class that is there."""
    present = sorted({one for some in classes for one in some.tolist()} - {-1})
    if len(present) > IN_LEGEND:
        return dict(zip(present, ((hue, "o") for hue in hues(len(present))), strict=True))
    looks = [Look.of(place) for place in range(len(present))]
    return {one: (look.colour, look.marker) for one, look in zip(present, looks, strict=True)}


def _scatter(
    panel: Any, points: Array, classes: Array, looks: Looks, size: tuple[float, float, float]
) -> None:
    """The points of each class, as one image however many they are.

    The area of a point is the first size over their number, within the other two.
    """
    total, least, most = size
    panel.set_rasterization_zorder(0)
    area = float(np.clip(total / max(1, len(points)), least, most))
    for one, (colour, shape) in {-1: (PALE, "."), **looks}.items():
        settings = {"s": area, "marker": shape, "color": [colour], "alpha": 0.75, "zorder": -1}
        some = points[classes == one]
        if len(some):
            panel.scatter(*some.T, linewidths=0, rasterized=True, **settings)


def _number(panel: Any, found: Plane, looks: Looks) -> None:
    for one, (colour, _) in looks.items():
        middle = np.median(found.points[found.classes == one], axis=0)
        dark = [0.6 * part for part in colour]
        panel.text(*middle, str(one), color=dark, ha="center", va="center", fontsize=7.5,
                   fontweight="bold", path_effects=halo(2))  # fmt: skip


def _name(names: Sequence[str], one: int) -> str:
    return names[one] if 0 <= one < len(names) else f"class {one}"


def _some(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """As many as there is room for, evenly spaced, the first and the last among them."""
    count = min(len(snapshots), MOST_PANELS)
    return [
        snapshots[place] for place in np.linspace(0, len(snapshots) - 1, count).round().astype(int)
    ]


def _reach(snapshots: Sequence[Snapshot]) -> float:
    """How far the axes go in all panels: to the farthest code."""
    far = [np.abs(shot.z).max(initial=1.2, where=np.isfinite(shot.z)) for shot in snapshots]
    far += [np.abs(shot.centers).max(initial=1.2) for shot in snapshots if shot.centers is not None]
    return 1.05 * float(max(far))


def _snapshot(panel: Any, shot: Snapshot, looks: Looks, reach: float) -> None:
    nbit = shot.z.shape[1]
    (_flat if nbit == 2 else _cube)(panel, (-reach, reach))
    panel.set_title(f"epoch {shot.epoch}")
    _scatter(panel, shot.z, shot.classes, looks, (6000, 3, 18))
    if shot.centers is not None:
        _rings(panel, shot.centers, looks, 0.04 * reach)
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * nbit), axis=-1).reshape(-1, nbit)
    panel.scatter(*corners.T, marker="x", s=40, color=BLACK, linewidths=1.3, zorder=6)


def _rings(panel: Any, centers: Array, looks: Looks, close: float) -> None:
    """A ring for each center, larger for each one before it that is in the same place."""
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
    """Axes in space, and the edges of the cube of bits."""
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
