"""Style of figures: colours for colour-blind readers, legends, files, and elements of pages.

Global state of matplotlib is only used within the context manager :func:`style`, so that the
settings of the user neither change a figure nor are changed. matplotlib is imported when the first
figure is drawn.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from deephash.report.figures.fonts import make_readable
from deephash.utils.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colours of Okabe and Ito without yellow, which is too pale for a line, and three more.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, BLACK, WINE, OLIVE, GREY = PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9",
    "#E69F00", "#222222", "#882255", "#9A9B00", "#8A8A8A",
)  # fmt: skip
PALE = "#C8C8C8"
MARKERS = "os^DvPX<>*p"
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
DPI = 160
MIN_LINE = 32  # characters of a line of a legend, however narrow the figure is

STYLE = {
    "svg.hashsalt": "deephash",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "hatch.linewidth": 0.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and caption."""

    name: str  # of its files
    title: str
    caption: str
    figure: "Figure"

    @property
    def wide(self) -> bool:
        """Whether it takes the full width of the page."""
        return bool(self.figure.get_size_inches()[0] > 7)


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a group or a class, the same in every figure."""

    colour: str
    marker: str
    dash: Any

    @classmethod
    def of(cls, index: int) -> "Look":
        """Return the look of an index; 40 differ."""
        round_, colour = divmod(index, len(PALETTE))
        marker = MARKERS[index % len(MARKERS)]
        return cls(PALETTE[colour], marker, DASHES[round_ % len(DASHES)])


@contextmanager
def style() -> Iterator[None]:
    """Set the style in which figures are drawn and saved."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*[Gg]lyph .* missing from")
        yield


def sheet(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (5.4, 3.7), **options: Any
) -> tuple["Figure", Any]:
    """Return a figure and its panels, (rows, columns), each of a size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def blank(width: float, height: float) -> tuple["Figure", Any]:
    """Return a figure with one panel without axes, in inches, with (0, 0) at the top left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    panel = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    panel.set_axis_off()
    return figure, panel


def legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend above all panels, in as many columns as fit.

    Long labels are wrapped.
    """
    width, height = figure.get_size_inches()
    room = 13 * width
    labels = [wrapped(label, max(MIN_LINE, int(room) - 8)) for label in labels]
    columns = next(
        columns
        for columns in range(len(labels), 0, -1)
        if columns == 1 or _width(labels, columns) < room
    )
    lines = -(-len(labels) // columns)
    columns = -(-len(labels) // lines)  # evenly filled
    tall = max(sum(text.count("\n") + 1 for text in some) for some in _filled(labels, columns))
    figure.set_size_inches(width, height + 0.19 * (tall - 1))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def wrapped(text: str, most: int = 44) -> str:
    """Wrap a text into lines of at most ``most`` characters."""
    return "\n".join(wrap(text, most, break_on_hyphens=False)) or text


def _filled(labels: Sequence[str], columns: int) -> list[Sequence[str]]:
    """Return the labels of each column of a legend, which is filled column by column."""
    lines = -(-len(labels) // columns)
    return [labels[start : start + lines] for start in range(0, len(labels), lines)]


def _width(labels: Sequence[str], columns: int) -> int:
    """Return the width of a legend in characters."""
    return sum(
        max(len(line) for text in some for line in text.splitlines()) + 8
        for some in _filled(labels, columns)
    )


def dots(looks: Sequence[tuple[Any, str]]) -> list[Any]:
    """Return markers of a legend, larger than the points in the figure."""
    from matplotlib.lines import Line2D

    settings: dict[str, Any] = {"linestyle": "none", "markersize": 6.5, "markeredgewidth": 0}
    return [Line2D([], [], color=colour, marker=shape, **settings) for colour, shape in looks]


def halo(width: float = 2.5) -> list[Any]:
    """Return the white outline that makes text readable on top of points."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def hues(count: int) -> list[tuple[float, float, float]]:
    """Return many colours in which neighbours are far apart, for classes that are also numbered."""
    from colorsys import hls_to_rgb

    lightness = (0.36, 0.5, 0.64)
    return [hls_to_rgb(place * 0.618034 % 1, lightness[place % 3], 0.7) for place in range(count)]


def save_figure(figure: "Figure", folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.svg`` and ``name.png``, reproducible to the byte, and return their paths.

    Both files have the same layout.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    write_atomic(svg, lambda it: write_svg(figure, it))
    figure.set_layout_engine("none")
    figure.set_dpi(DPI)
    write_atomic(png, FigureCanvasAgg(figure).print_png)
    return svg, png


def write_svg(figure: "Figure", file: Any) -> None:
    """Lay out a figure and write it as SVG, without the date.

    ``Figure.savefig`` would draw the figure twice, first for the layout.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.set_dpi(DPI)  # of images inside
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(file, metadata={"Date": None})


def with_readable_text(drawing: Drawing) -> Drawing:
    """Draw all letters in available fonts, and explain those without a font in the caption."""
    note = make_readable(drawing.figure)
    return replace(drawing, caption=f"{drawing.caption} {note}".strip()) if note else drawing


def inline(
    svg: str, name: str, title: str, hover: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return a saved figure as an element of a page, with ids that are unique on the page.

    Args:
        svg: content of the file.
        name: of the figure, unique on the page.
        title: text for screen readers.
        hover: texts of the markers of a line, by its ``gid``.
    """
    text = svg[svg.index("<svg") :]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        text = re.sub(part, "", text, flags=re.DOTALL)
    for group, titles in (hover or {}).items():
        start = text.index(f'id="{group}"')
        end = text.find('id="line2d', start)  # the next line
        uses = re.split(r"(<use [^>]*)/>", text[start:end])
        for index, hint in zip(range(1, len(uses), 2), titles, strict=False):
            uses[index] += f"><title>{escape(hint)}</title></use>"
        text = text[:start] + "".join(uses) + text[end:]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('xlink:href="', 'href="')
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    box = re.search(r'viewBox="0 0 (\d+)[^"]*"', text)
    assert box is not None  # matplotlib writes it
    width = f'style="--width: {box[1]}"'  # letters have the same size in all figures of a page
    opening = f'<svg class="plot" {width} role="img" aria-label="{escape(title)}" {box[0]}>'
    return opening + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()
