"""Letters that matplotlib's own font lacks: another font of the system, or a code that is seen.

Figures are drawn in DejaVu Sans, which comes with matplotlib and has no Chinese, Japanese, Korean
or Thai. Fonts are looked for only once a text needs them, so that other figures are the same on
every machine.
"""

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("deephash")

OWN = "DejaVu Sans"

KNOWN = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC",
    "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Noto Sans TC",
    "Source Han Sans SC", "Source Han Sans CN", "Source Han Sans", "Source Han Sans JP",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "AR PL UMing CN",
    "Microsoft YaHei", "SimHei", "SimSun", "PingFang SC", "Heiti SC", "STHeiti", "Hiragino Sans GB",
    "Hiragino Sans", "Hiragino Kaku Gothic ProN", "Yu Gothic", "Meiryo", "MS Gothic", "IPAexGothic",
    "IPAGothic", "TakaoGothic", "VL Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "NanumGothic",
    "UnDotum", "Baekmuk Dotum", "Arial Unicode MS",
    "Noto Sans Thai", "Loma", "Garuda", "Leelawadee UI", "Tahoma", "Thonburi",
    "Noto Sans Arabic", "Noto Naskh Arabic", "Segoe UI", "Noto Sans Hebrew", "Noto Sans Devanagari",
    "Nirmala UI", "Noto Sans Bengali", "Noto Sans Tamil", "FreeSans", "Noto Sans", "Noto Emoji",
    "Symbola", "Segoe UI Emoji", "Segoe UI Symbol", "Noto Sans Symbols2", "Unifont",
)  # fmt: skip
"""Fonts that have the letters of other scripts, the better ones first."""

SHOWN = 12  # codes that a caption explains

_warned = False


def make_readable(figure: "Figure") -> str:
    """Draw each text of a figure in fonts that have its letters, and code those that none has.

    A letter without a font is drawn as its number in brackets, ``[732B]``, instead of an empty box,
    and a warning says so once. Marks of the direction of writing and the like, which have no
    picture, are left out.

    Args:
        figure: drawn, not yet saved.

    Returns:
        a sentence for the caption that says which code stands for which letters; or nothing.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    texts: list[Any] = figure.findobj(Text)
    written = [text.get_text() for text in texts]
    for axis in (axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FixedFormatter | FuncFormatter):  # ticks with names
            written += [formatter(x, at) for at, x in enumerate(axis.get_majorticklocs())]
    wanted = {letter for text in written for letter in text if _seen(letter)}
    if wanted <= _letters(OWN) and all(map(_is_plain, written)):
        return ""
    families = choose(wanted)
    covered = frozenset[str]().union(*map(_letters, families))
    codes: dict[str, str] = {}

    def clean(text: str) -> str:
        return coded(text, covered, codes)

    for panel in figure.axes:
        panel.tick_params(labelfontfamily=list(families))
        for axis in (panel.xaxis, panel.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter | FuncFormatter):  # not of plain numbers
                axis.set_major_formatter(
                    FuncFormatter(lambda x, place, formatter=formatter: clean(formatter(x, place)))
                )
    for text in texts:
        text.set_fontfamily(list(families))
        text.set_text(clean(text.get_text()))
    if not codes:
        return ""
    _warn("".join(codes.values()))
    told = ", ".join(f"{code} is {letters}" for code, letters in list(codes.items())[:SHOWN])
    return f"No font here has these letters: {told}{', …' if len(codes) > SHOWN else ''}."


def choose(letters: Iterable[str]) -> tuple[str, ...]:
    """The fonts of this system to draw letters in: matplotlib's own, and others that are needed."""
    left, chosen = set(letters) - _letters(OWN), [OWN]
    for refreshed in (False, True):  # fonts may have been installed since matplotlib listed them
        if left and refreshed and not _refresh():
            break
        installed = _installed()
        for name in (name for name in KNOWN if left and name in installed and name not in chosen):
            if new := left & _letters(name):
                chosen.append(name)
                left -= new
    return tuple(chosen)


def coded(text: str, covered: frozenset[str], codes: dict[str, str]) -> str:
    """A text with the letters that are not covered as their numbers.

    >>> coded("a\u732b\u79d1 b", frozenset("ab "), {})
    'a[732B 79D1] b'

    Args:
        text: of a figure.
        covered: letters that the fonts have.
        codes: takes each code, and the letters that it stands for.
    """
    made, run = "", ""
    for letter in [*(one for one in text if _seen(one) or one == "\n"), ""]:
        if letter and letter != "\n" and letter not in covered:
            run += letter
            continue
        if run:
            code = "[" + " ".join(f"{ord(one):04X}" for one in run) + "]"
            codes[code] = run
            made, run = made + code, ""
        made += letter
    return made


def _seen(letter: str) -> bool:
    """Whether a letter has a picture: no control, no mark of direction, no variation selector."""
    return unicodedata.category(letter) not in ("Cc", "Cf") and letter not in "\ufe0e\ufe0f"


def _is_plain(text: str) -> bool:
    return all(_seen(letter) or letter == "\n" for letter in text)


def _letters(family: str) -> frozenset[str]:
    """The letters that a font has."""
    from matplotlib import font_manager

    try:
        file = font_manager.findfont(family, fallback_to_default=False)
    except ValueError:
        return frozenset()
    return _letters_of(str(file))


@cache
def _letters_of(file: str) -> frozenset[str]:
    from matplotlib import font_manager

    try:
        return frozenset(map(chr, font_manager.get_font(file).get_charmap()))
    except (OSError, RuntimeError):  # damaged, or of colours, which matplotlib cannot draw
        return frozenset()


def _installed() -> set[str]:
    from matplotlib import font_manager

    return {font.name for font in font_manager.fontManager.ttflist}


@cache
def _refresh() -> bool:
    """List fonts that were installed after matplotlib made its list; whether there are any."""
    from matplotlib import font_manager

    known = {font.fname for font in font_manager.fontManager.ttflist}
    added = False
    for file in font_manager.findSystemFonts():
        if file not in known:
            try:
                font_manager.fontManager.addfont(file)
                added = True
            except (OSError, RuntimeError, ValueError):  # not a font that matplotlib reads
                continue
    return added


def _warn(letters: Sequence[str]) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    some = "".join(dict.fromkeys(letters))
    log.warning(
        "no font of this system has the letters %s: figures show their numbers, and the page says "
        "which is which. Install a font that has them, such as Noto Sans CJK (fonts-noto-cjk)",
        some[:20] + "…" * (len(some) > 20),
    )
