"""Fonts for letters that the font of matplotlib lacks.

Figures are drawn in DejaVu Sans, which comes with matplotlib and has no Chinese, Japanese, Korean
or Thai. Other fonts are used only for texts that need them, so that all other figures are the same
on every machine. Letters without a font are drawn as their code points.
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
"""Fonts of other scripts, in order of preference."""

MAX_EXPLAINED = 12  # codes in a caption

_warned = False


def make_readable(figure: "Figure") -> str:
    """Draw each text of a figure in fonts that have its letters.

    A letter without a font is drawn as its code point in brackets, ``[732B]``, instead of an empty
    box, with one warning. Invisible characters such as direction marks are removed.

    Args:
        figure: with all its texts, not yet saved.

    Returns:
        A sentence for the caption that explains the codes; empty if there are none.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    texts: list[Any] = figure.findobj(Text)
    content = [text.get_text() for text in texts]
    for axis in (axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FixedFormatter | FuncFormatter):  # ticks with names
            content += [formatter(x, at) for at, x in enumerate(axis.get_majorticklocs())]
    wanted = {letter for text in content for letter in text if _is_visible(letter)}
    if wanted <= _letters(OWN) and all(map(_is_plain, content)):
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
    explained = [f"{code} is {letters}" for code, letters in codes.items()]
    if len(explained) > MAX_EXPLAINED:
        explained[MAX_EXPLAINED:] = ["…"]
    return f"No font here has these letters: {', '.join(explained)}."


def choose(letters: Iterable[str]) -> tuple[str, ...]:
    """Return the fonts of this system to draw letters in, that of matplotlib first."""
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
    """Replace letters that are not covered by their code points.

    >>> coded("a\u732b\u79d1 b", frozenset("ab "), {})
    'a[732B 79D1] b'

    Args:
        text: of a figure.
        covered: letters that the fonts have.
        codes: collects each code and its letters.
    """
    made, run = "", ""
    for letter in [*(one for one in text if _is_visible(one) or one == "\n"), ""]:
        if letter and letter != "\n" and letter not in covered:
            run += letter
            continue
        if run:
            code = "[" + " ".join(f"{ord(one):04X}" for one in run) + "]"
            codes[code] = run
            made, run = made + code, ""
        made += letter
    return made


def _is_visible(letter: str) -> bool:
    """Return whether a letter is visible: no control, direction mark or variation selector."""
    return unicodedata.category(letter) not in ("Cc", "Cf") and letter not in "\ufe0e\ufe0f"


def _is_plain(text: str) -> bool:
    return all(_is_visible(letter) or letter == "\n" for letter in text)


def _letters(family: str) -> frozenset[str]:
    """Return the letters that a font has."""
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
    """Add fonts installed after matplotlib made its list; return whether there are any."""
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
        "no font of this system has the letters %s: figures show their code points, which the "
        "captions explain. Install a font that has them, such as Noto Sans CJK (fonts-noto-cjk)",
        some[:20] + ("…" if len(some) > 20 else ""),
    )
