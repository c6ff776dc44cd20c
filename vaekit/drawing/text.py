"""Lines of text in pictures, in any script for which a font is installed."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.ImageFont import FreeTypeFont

INK, PAPER = "#1a1a1a", "#ffffff"
TEXT = 13
"""Text height in pixels."""
WIDE = 640
"""Width in pixels above which text scales with the picture, since pages shrink wide pictures."""
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
SPECIAL = ("serif", "mono", "condensed", "bold", "italic", "oblique", "light", "thin", "black", "medium", "math")
"""Parts of the names of fonts that are used only if no plain one has the characters."""
UNASSIGNED = "\uffff"
"""A character that no font has: it is drawn as the glyph for missing characters."""


class Piece(NamedTuple):
    """A part of a line, in one font.

    Args:
        text: The characters.
        font: The file of the font; None for Pillow's built-in one.
    """

    text: str
    font: Path | None


def text_size(width: float) -> int:
    """Return the text height in pixels for pictures that are ``width`` pixels wide."""
    return max(TEXT, round(TEXT * width / WIDE))


def text_width(text: str, size: int = TEXT) -> int:
    """Return the width of a line of text in pixels."""
    return math.ceil(sum(font(piece.font, size).getlength(piece.text) for piece in pieces(text)))


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, *, anchor: str = "lm", size: int = TEXT) -> None:
    """Write a line of text with a white outline, so that it is legible over points.

    Args:
        draw: The canvas.
        at: The position in pixels.
        text: The text, in any script. A character that no installed font has is replaced; see `pieces`.
        anchor: The anchor of the text, in Pillow's notation: ``lm`` left, middle; ``mb`` middle, bottom.
        size: Text height in pixels.
    """
    line = pieces(text)
    widths = [font(piece.font, size).getlength(piece.text) for piece in line]
    start = at[0] - sum(widths) * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
    for colour, outline in (PAPER, max(2, size // 8)), (INK, 0):  # outlines first, or they would cover the ends of other pieces
        left = start
        for piece, width in zip(line, widths, strict=True):
            face = font(piece.font, size)
            draw.text((left, at[1]), piece.text, fill=colour, font=face, anchor=f"l{anchor[1]}", stroke_width=outline)
            left += width


@cache
def pieces(text: str) -> tuple[Piece, ...]:
    """Split a line into pieces, each in a font that has its characters.

    The built-in font, which is the same on every machine, is used if it has all characters; otherwise the first installed font
    that has them all, so that the text is shaped and ordered as a whole. If there is none, each character is written in the first
    font that has it. A character that no font has is replaced: accents are dropped, Greek letters are named, and anything
    else becomes a question mark, with a warning.
    """
    text = unicodedata.normalize("NFC", text)
    found = [whole] if (whole := _in_one_font(text)) else []
    for cluster in () if whole else _clusters(text):
        piece = _in_one_font(cluster) or Piece(_reduced(cluster), None)
        if found and found[-1].font == piece.font:
            piece = Piece(found.pop().text + piece.text, piece.font)
        found.append(piece)
    return tuple(Piece(_ordered(piece.text), piece.font) for piece in found)


def _in_one_font(text: str) -> Piece | None:
    """Return a text in the first font that has all of its characters; None if there is none."""
    if covers(None, text):  # nearly always, without searching the machine's fonts
        return Piece(text, None)
    return next((Piece(text, file) for file in installed() if covers(file, text)), None)


@cache
def font(file: Path | None, size: int = TEXT) -> FreeTypeFont:
    """Return a font: that in a file, or Pillow's built-in one."""
    from PIL import ImageFont

    return cast("FreeTypeFont", ImageFont.load_default(size=size)) if file is None else ImageFont.truetype(file, size)


def covers(file: Path | None, text: str) -> bool:
    """Return whether a font has all characters of a text."""
    return all(_has(file, character) for character in text)


@cache
def _has(file: Path | None, character: str) -> bool:
    if unicodedata.category(character) in ("Cf", "Zs"):  # spaces, and characters that only control their neighbours
        return True
    try:
        face = font(file)
        return bytes(face.getmask(character)) != bytes(face.getmask(UNASSIGNED))
    except OSError:  # a damaged file, or a bitmap font of other sizes
        return False


@cache
def installed() -> tuple[Path, ...]:
    """Return the font files of this machine, plain fonts first."""
    files = {file for folder in _folders() for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES}
    return tuple(sorted(files, key=_preference))


def _preference(file: Path) -> tuple[int, bool, str, str]:
    name = file.stem.lower().replace("sans-serif", "sans").replace("sansserif", "sans")
    return sum(each in name for each in SPECIAL), "sans" not in name, name, str(file)


def _folders() -> Iterator[Path]:
    """Yield the folders in which this system keeps fonts."""
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        yield home / "AppData/Local/Microsoft/Windows/Fonts"
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")
    else:
        data = (
            os.environ.get("XDG_DATA_HOME", home / ".local/share"),
            *(os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"),
        )
        yield from (Path(folder) / "fonts" for folder in data)
        yield home / ".fonts"


def _clusters(text: str) -> list[str]:
    """Split a text into characters together with the marks on them."""
    clusters: list[str] = []
    for character in text:
        if clusters and unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf"):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _reduced(cluster: str) -> str:
    """Replace a character that no font has by characters of the built-in font."""
    letters = "".join(each for each in unicodedata.normalize("NFKD", cluster) if unicodedata.category(each)[0] != "M") or cluster
    if covers(None, letters):
        return letters
    name = unicodedata.name(letters[0], "")
    if name.startswith("GREEK ") and " LETTER " in name:
        letter = name.split()[-1]
        return letter.lower() if "SMALL" in name else letter.capitalize()
    warnings.warn(
        f"no installed font has {cluster!r}: pictures show a question mark; install a font of its script, such as one of Noto",
        stacklevel=2,
    )
    return "?"


def _ordered(text: str) -> str:
    """Return characters in the order in which Pillow must draw them: without Raqm, it draws from left to right only."""
    from PIL import features

    if features.check_feature("raqm") or not any(unicodedata.bidirectional(each) in ("R", "AL") for each in text):
        return text
    return "".join(reversed(_clusters(text)))
