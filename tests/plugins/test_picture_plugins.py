"""Installed pictures: listed in the help without being imported, run by name; broken ones are harmless."""

from __future__ import annotations

import shutil
from pathlib import Path

from sites import Site

PICTURE = '''
from pydantic import PositiveInt
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures
import vaekit

@pictures("acme_dot")
class Dot(vaekit.Picture):
    """Draw a grey square.

    Args:
        side: Of the square, in pixels.
    """

    section = "latents"
    title = "A dot"

    def __init__(self, subject: Subject, *, side: PositiveInt = 4) -> None:
        super().__init__(subject)
        self.side = side

    def still(self):
        from PIL import Image
        return Image.new("L", (self.side, self.side), 128)
'''


def test_an_installed_picture_is_a_command_and_in_the_report_and_a_broken_one_is_harmless(site: Site, labelled_run: Path) -> None:
    site.install("vaekit-acme", "vaekit_acme", PICTURE, "pictures: acme_dot = vaekit_acme:Dot")
    site.install("vaekit-bad", "vaekit_bad", "1 / 0", "pictures: bad = vaekit_bad:Bad\npictures: train = vaekit_bad:Bad")
    shutil.copytree(labelled_run, run := site.folder / "run")
    listed, own, drawn, bad, report, plugins = site.vaekit(
        "--help", "acme_dot --help", "acme_dot run --side 9", "bad run", "report run", "plugins"
    )
    assert listed.code == 0
    assert "Draw a grey square." in listed.out
    assert " bad " in listed.out
    assert listed.err.startswith("warning: the picture 'train' of vaekit-bad 1.2 has no command")
    assert "Of the square, in pixels." in " ".join(own.out.split())
    assert (drawn.code, drawn.out) == (0, "run/pictures/acme_dot.png\n")
    assert bad.code == 1
    assert bad.err.startswith("error: plugin vaekit-bad 1.2 cannot provide 'bad': ZeroDivisionError")
    text = Path(run / "report.html").read_text("utf-8")
    assert report.code == 0
    assert "<strong>A dot</strong>" in text
    assert "bad: not shown, since plugin vaekit-bad 1.2 cannot provide" in text
    assert "Draw a grey square." in plugins.out
