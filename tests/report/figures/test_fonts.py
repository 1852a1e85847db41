"""Letters that matplotlib's own font lacks are drawn in another font, or seen as their numbers."""

import logging

import pytest
from matplotlib import font_manager

from deephash.report import write_comparison, write_evaluation
from deephash.report.figures import fonts, style
from deephash.report.figures.evaluation import Plane, Retrieved
from deephash.utils.formatting import shorten

NAMES = ["猫", "犬と子", "고양이", "cat_$x_1$", "แมว", "\u202eabc", "x" * 200, "قطة"]


@pytest.fixture(autouse=True)
def only_matplotlibs_own(monkeypatch):
    """Whatever fonts the machine has."""
    own = [font for font in font_manager.fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "_refresh", lambda: False)
    monkeypatch.setattr(fonts, "_warned", False)
    with style.style():
        yield


def named(*names):
    figure, panels = style.sheet()
    panels[0, 0].plot([0, 1], [0, 1])
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].set_title(names[0])
    return style.Drawing("one", "One", "A line.", figure)


def texts(drawing):
    drawing.figure.draw_without_rendering()
    panel = drawing.figure.axes[0]
    return panel.get_title(), [label.get_text() for label in panel.get_yticklabels()]


def test_what_has_no_font_is_seen_and_explained(caplog):
    drawing = style.with_readable_text(named(*(name[:20] for name in NAMES)))
    title, ticks = texts(drawing)
    assert title == "[732B]" and ticks[:3] == ["[732B]", "[72AC 3068 5B50]", "[ACE0 C591 C774]"]
    assert ticks[3] == "cat_$x_1$" and ticks[5] == "abc" and ticks[7] == "قطة"
    assert "A line. No font here has these letters: [732B] is 猫, [72AC 3068 5B50] is 犬と子" in (
        drawing.caption
    )
    assert len({*ticks}) == len(NAMES)
    style.with_readable_text(named("猫"))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "fonts-noto-cjk" in warnings[0].getMessage()


def test_a_font_that_has_the_letters_is_used(monkeypatch, caplog):
    """The bundled STIX has letters that DejaVu lacks: it stands for a font of the system."""
    letter = min(fonts._letters("STIXGeneral") - fonts._letters(fonts.OWN))
    assert fonts.choose(letter) == (fonts.OWN,)
    monkeypatch.setattr(fonts, "KNOWN", ("Not Installed", "STIXGeneral"))
    assert fonts.choose(letter) == (fonts.OWN, "STIXGeneral") and fonts.choose("a") == (fonts.OWN,)
    drawing = style.with_readable_text(named(f"a{letter}", "b"))
    title, ticks = texts(drawing)
    assert title == ticks[0] == f"a{letter}" and drawing.caption == "A line."
    panel = drawing.figure.axes[0]
    for text in (panel.title, panel.get_yticklabels()[0]):
        assert text.get_fontfamily() == [fonts.OWN, "STIXGeneral"]
    assert not caplog.records


def test_fonts_installed_meanwhile_are_found(monkeypatch):
    listed = font_manager.fontManager.ttflist
    stix = [font for font in listed if font.name == "STIXGeneral"]
    monkeypatch.setattr(fonts, "KNOWN", ("STIXGeneral",))
    letter = min(fonts._letters("STIXGeneral") - fonts._letters(fonts.OWN))
    monkeypatch.setattr(
        font_manager.fontManager, "ttflist", [font for font in listed if font not in stix]
    )

    def refresh():
        font_manager.fontManager.ttflist.extend(stix)
        return True

    monkeypatch.setattr(fonts, "_refresh", refresh)
    assert fonts.choose(letter) == (fonts.OWN, "STIXGeneral")


def test_other_figures_are_left_as_they_are():
    drawing = named("cat_$x$", "plain")
    formatter = drawing.figure.axes[0].yaxis.get_major_formatter()
    assert style.with_readable_text(drawing) is drawing
    assert drawing.figure.axes[0].yaxis.get_major_formatter() is formatter


def test_the_pages_name_the_classes(make, tmp_path, read_page, recwarn):
    import numpy as np

    rng = np.random.default_rng(0)
    count = len(NAMES)
    plane = Plane(rng.random((3 * count, 2)), np.arange(3 * count) % count, NAMES, "Codes.")
    image = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    gallery = [Retrieved(image, NAMES[0], [image], [True], [f"{NAMES[1]} 3"])]
    result = make(more=",dataset.name=猫")
    write_evaluation(tmp_path, result, plane=plane, gallery={"spread": gallery})
    page = read_page(tmp_path / "evaluation.html")
    assert "[732B] is 猫" in page.text and "고양이" in page.text
    write_comparison(tmp_path, [result, make(more=",dataset.name=犬")])
    page = read_page(tmp_path / "comparison.html")
    assert "dataset.name=猫" in page.text and "[732B] is 猫" in page.text
    assert not [warning for warning in recwarn if "missing from" in str(warning.message)]


def test_wide_letters_are_shortened_to_the_same_width():
    assert shorten("猫" * 30, 20) == "猫猫猫猫猫…猫猫猫猫"
    assert shorten("a" * 30, 20) == "aaaaaaaaaa…aaaaaaaaa"
