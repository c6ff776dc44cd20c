"""Text in pictures: fonts are found for any script, and what no font has is replaced."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from vaekit.drawing import text as module
from vaekit.drawing.text import Piece, pieces, text_width, write


def make_font(path, widths):
    """Write a font whose characters are rectangles of the given widths, in thousandths of the height."""
    names = {character: f"u{ord(character):x}" for character in widths}

    def box(width, low=0):
        pen = TTGlyphPen(None)
        pen.moveTo((0, low))
        for point in ((0, 700), (width, 700), (width, low)):
            pen.lineTo(point)
        pen.closePath()
        return pen.glyph()

    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(character): name for character, name in names.items()})
    builder.setupGlyf({".notdef": box(500, 350), **{names[character]: box(width) for character, width in widths.items()}})
    builder.setupHorizontalMetrics({".notdef": (500, 0), **{names[each]: (width, 0) for each, width in widths.items()}})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """The folder of the only installed fonts."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(module, "_folders", lambda: iter([folder]))
    for function in (module.installed, module.pieces, module._has, module.font):
        function.cache_clear()
    yield folder
    for function in (module.installed, module.pieces, module._has, module.font):
        function.cache_clear()


def drawn(text, anchor="lt"):
    image = Image.new("L", (300, 60), "white")
    write(ImageDraw.Draw(image), (100, 10), text, anchor=anchor, size=20)
    return np.asarray(image) < 128


def test_text_that_the_built_in_font_has_needs_no_other(fonts):
    make_font(fonts / "Other Sans.ttf", dict.fromkeys("beta=4 ±", 1000))
    assert pieces("beta=4 ±") == (Piece("beta=4 ±", None),)


def test_text_is_written_in_the_font_that_has_all_of_it(fonts):
    make_font(fonts / "A Sans.ttf", {"К": 1000})
    make_font(fonts / "B Sans.ttf", dict.fromkeys("Кот 4", 500))
    assert pieces("Кот 4") == (Piece("Кот 4", fonts / "B Sans.ttf"),)
    assert text_width("Кот 4", 20) == 50
    ink = drawn("Кот")
    assert ink[14:20, 100:130].all()  # the rectangles of the font
    assert not ink[:, 133:].any()


def test_plain_fonts_come_before_bold_and_italic_ones(fonts):
    for name in ("A Sans Bold", "B Serif", "C Sans", "D Mono Italic"):
        make_font(fonts / f"{name}.ttf", {"ж": 600})
    assert pieces("ж") == (Piece("ж", fonts / "C Sans.ttf"),)


def test_each_character_is_written_in_a_font_that_has_it(fonts):
    make_font(fonts / "Cyrillic.ttf", dict.fromkeys("Кот", 500))
    make_font(fonts / "Han.ttf", {"猫": 1000})
    line = pieces("cat Кот猫")
    assert line == (Piece("cat ", None), Piece("Кот", fonts / "Cyrillic.ttf"), Piece("猫", fonts / "Han.ttf"))
    assert text_width("Кот猫", 20) == 50
    right, centred = drawn("Кот猫", "rt"), drawn("Кот猫", "mt")
    assert right[16, 51:99].all()
    assert not right[:, 103:].any()
    assert centred[16, 76:124].all()


def test_a_mark_stays_with_its_letter(fonts):
    make_font(fonts / "Hebrew.ttf", {"ש": 500, "\u05c1": 0, "a": 500})
    make_font(fonts / "Han.ttf", {"猫": 1000})
    assert pieces("ש\u05c1猫")[0] == Piece("ש\u05c1", fonts / "Hebrew.ttf")


def test_what_no_font_has_is_replaced_with_a_warning(fonts):
    assert pieces("é ±3") == (Piece("e ±3", None),)
    assert pieces("β=4, Ώ, ς") == (Piece("beta=4, Omega, sigma", None),)
    with pytest.warns(UserWarning, match="no installed font has '猫'"):
        assert pieces("猫 1") == (Piece("? 1", None),)


def test_damaged_fonts_are_passed_over(fonts):
    (fonts / "A Sans.ttf").write_bytes(b"none")
    make_font(fonts / "B Sans.ttf", {"猫": 1000})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pieces("猫") == (Piece("猫", fonts / "B Sans.ttf"),)


@pytest.mark.parametrize("raqm", [True, False])
def test_scripts_from_right_to_left_begin_on_the_right(fonts, monkeypatch, raqm):
    monkeypatch.setattr("PIL.features.check_feature", lambda _: raqm)
    make_font(fonts / "Hebrew.ttf", dict.fromkeys("אבג\u05b0", 500))
    assert pieces("אב\u05b0ג")[0].text == ("אב\u05b0ג" if raqm else "גב\u05b0א")


def test_the_machines_own_fonts_draw_different_characters_differently():
    line = [text for text in ("Кот", "β=4", "猫", "قط", "ש\u05c1") if all(piece.font for piece in pieces_or_none(text))]
    pictures = {drawn(text).tobytes() for text in line}
    assert len(pictures) == len(line)


def pieces_or_none(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pieces(text)
