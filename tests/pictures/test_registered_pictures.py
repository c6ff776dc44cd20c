"""A picture is registered once; the album, the command line and the report find it."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image
from pydantic import PositiveInt

import vaekit
from vaekit.cli import main
from vaekit.drawing.animation import Animation
from vaekit.drawing.grid import grid, single_images
from vaekit.drawing.options import ImageName
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.errors import PluginError, SpecError, UnknownComponentError, UsageError
from vaekit.report import write_report
from vaekit.roles import pictures


class Mean(Picture):
    """Show the image at the prior's mean.

    Args:
        copies: How often it is shown.
    """

    section = "pictures"
    title = 'The "mean"'

    def __init__(self, subject: Subject, *, copies: PositiveInt = 1) -> None:
        super().__init__(subject)
        self.copies = copies

    def still(self) -> Image.Image:
        return grid(self.subject.vae.sample(self.copies, temperature=0.0), margin=0, columns=self.copies)


class Blink(Picture):
    """Show one image and then the other."""

    def __init__(self, subject: Subject, a: ImageName, b: ImageName) -> None:
        super().__init__(subject)
        self.ends = subject.images([a, b]).images

    def animation(self) -> Animation:
        return Animation(single_images(self.ends))

    def files(self) -> Mapping[str, Image.Image]:
        raise AssertionError("an animation is asked for")


class Alone(Picture):
    """Show one image."""

    def __init__(self, subject: Subject, a: ImageName) -> None:
        super().__init__(subject)
        self.image = subject.images([a]).images[0]

    def files(self) -> Mapping[str, Image.Image]:
        return {"deep/a.png": grid(self.image[None])}


class Blank(Picture):
    """Show nothing."""


class Failing(Mean):
    """Show something nonexistent."""

    section = "latents"
    title = "Failing"

    def still(self) -> Image.Image:
        raise ZeroDivisionError("no <mean>")


@pytest.fixture
def mean() -> Iterator[None]:
    with pictures.temporarily(mean=Mean):
        yield


@pytest.fixture
def run(labelled_run: Path, tmp_path: Path) -> vaekit.Run:
    return vaekit.Run(shutil.copytree(labelled_run, tmp_path / "run"))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.usefixtures("mean")
def test_a_registered_picture_is_a_method_of_the_album(run: vaekit.Run, tmp_path: Path) -> None:
    assert "mean" in dir(run.pictures)
    method = run.pictures.mean
    assert method.__name__ == "mean"
    assert "How often it is shown." in method.__doc__
    assert list(inspect.signature(method).parameters) == ["copies", "out"]
    path = method(copies=3)
    assert path == run.path / "pictures" / "mean.png"
    assert size(path) == (3 * size(method(out=tmp_path / "one.png"))[0], 56)


@pytest.mark.usefixtures("mean")
def test_a_registered_picture_has_a_command_with_its_options(
    run: vaekit.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["mean", str(run.path), "--copies", "2", "--out", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\n"
    assert size(tmp_path / "a.png") == (84, 56)
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["mean", "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--copies +int +How often it is shown\. \[default: 1\]", shown)
    assert "a picture (png, webp, avif, jpg)" in shown
    assert "Args" not in shown
    assert main(["--help"]) == 0
    assert re.search(r"mean +Show the image at the prior's mean\.", capsys.readouterr().out)
    assert main(["mean", str(run.path), "--copies", "0"]) == 2
    assert "copies: Input should be greater than 0" in capsys.readouterr().err


@pytest.mark.usefixtures("mean")
def test_a_registered_picture_is_in_the_report_under_its_title(run: vaekit.Run, tmp_path: Path) -> None:
    text = write_report(run, tmp_path / "r.html").read_text("utf-8")
    (section,) = re.findall(r'<section id="pictures".*?</section>', text, re.S)
    assert "<strong>The &quot;mean&quot;</strong>" in section
    assert 'alt="The &quot;mean&quot;"' in section


def test_a_failed_picture_is_omitted_from_the_report_with_the_reason(run: vaekit.Run, tmp_path: Path) -> None:
    with pictures.temporarily(failing=Failing):
        text = write_report(run, tmp_path / "r.html").read_text("utf-8")
    assert "<p>Failing: not shown, since it failed with ZeroDivisionError: no &lt;mean&gt;</p>" in text
    assert "<strong>Traversals</strong>" in text


def test_an_unknown_picture_is_an_attribute_error_with_the_choices(run: vaekit.Run) -> None:
    with pytest.raises(AttributeError, match=r"unknown picture 'scater'") as caught:
        run.pictures.scater  # noqa: B018
    assert all(kind in str(caught.value) for kind in pictures.kinds())
    assert "did you mean 'scatter'?" in str(caught.value)
    assert not hasattr(run.pictures, "_repr_html_")
    with pytest.raises(UnknownComponentError):
        run.pictures["scater"]


def test_options_and_images_are_checked_against_the_signature(run: vaekit.Run) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        run.pictures.interpolate(0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'dim'"):
        run.pictures.traverse(dim=[0])
    with pytest.raises(SpecError, match=r"dims: give latents by index, such as 3,5 \(given 'x'\)"):
        run.pictures.traverse(dims="x")


@pytest.mark.parametrize(
    ("given", "fails"),
    [(["0", "1"], ""), ([], "Missing argument"), (["0"], "two images are needed"), (["0", "1", "2"], "two images are needed")],
)
def test_a_command_takes_as_many_images_as_its_picture(
    run: vaekit.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Sequence[str], fails: str
) -> None:
    with pictures.temporarily(blink=Blink):
        code = main(["blink", *([str(run.path)] if given else []), *given, "--out", str(tmp_path / "b.gif")])
    assert code == (2 if fails else 0)
    assert fails in capsys.readouterr().err
    assert (tmp_path / "b.gif").exists() == (not fails)


def test_a_picture_of_one_image_and_of_files_goes_into_an_emptied_folder(
    run: vaekit.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.path / "pictures" / "alone"
    folder.mkdir(parents=True)
    (folder / "old.png").touch()
    with pictures.temporarily(alone=Alone):
        assert main(["alone", str(run.path), "3"]) == 0
        assert capsys.readouterr().out == f"{folder}\n"
        assert [path.name for path in folder.rglob("*.png")] == ["a.png"]
        assert main(["alone", str(run.path), "3", "--out", str(folder)]) == 2
        assert "is not empty" in capsys.readouterr().err
        assert main(["alone", str(run.path)]) == 2
        assert "one image is needed" in capsys.readouterr().err


def test_the_default_form_is_a_picture_else_an_animation_else_a_folder(run: vaekit.Run) -> None:
    with pictures.temporarily(mean=Mean, blink=Blink, alone=Alone):
        names = [run.pictures.mean().name, run.pictures.blink(0, 1).name, run.pictures.alone(0).name]
    assert names == ["mean.png", "blink.gif", "alone"]


def test_an_unsupported_format_is_an_error_before_drawing(run: vaekit.Run, tmp_path: Path) -> None:
    with pictures.temporarily(failing=Failing, blink=Blink):
        with pytest.raises(UsageError, match=r"unsupported picture format\n.*\n  expected: \.png, .*\.jpeg$"):
            run.pictures.failing(out=tmp_path / "new" / "a.gif")
        with pytest.raises(UsageError, match=r"unsupported animation format\n.*\n  expected: \.gif, \.webp, \.avif$"):
            run.pictures.blink(0, 1, out=tmp_path / "new" / "a.png")
    assert not (tmp_path / "new").exists()


def test_a_picture_that_draws_nothing_is_refused(run: vaekit.Run) -> None:
    with pictures.temporarily(blank=Blank), pytest.raises(PluginError, match="'blank' does not define any form"):
        run.pictures.blank()


@pytest.mark.parametrize("path", ["", "samples", "pictures/..", "/elsewhere/folder"])
def test_a_picture_cannot_empty_the_run_folder(run: vaekit.Run, path: str) -> None:
    with pictures.temporarily(alone=type("Astray", (Alone,), {"paths": (path,)})):
        before = sorted(run.path.rglob("*"))
        with pytest.raises(PluginError, match="outside the run folder's subfolders"):
            run.pictures.alone(0)
    assert sorted(run.path.rglob("*")) == before


def _with_out() -> None:
    class WithOut(Picture):
        def __init__(self, subject: Subject, *, out: str = "") -> None: ...


def _with_section() -> None:
    class Elsewhere(Picture):
        section = "appendix"  # type: ignore[assignment]


def _with_mixed_images() -> None:
    class Mixed(Picture):
        def __init__(self, subject: Subject, a: ImageName, images: Sequence[ImageName]) -> None: ...


@pytest.mark.parametrize(
    ("define", "why"),
    [
        (_with_out, "cannot be named 'out'"),
        (_with_section, "unknown section of the report"),
        (_with_mixed_images, "has unsupported image parameters"),
    ],
)
def test_an_invalid_picture_is_refused_at_its_definition(define: Callable[[], None], why: str) -> None:
    with pytest.raises(PluginError, match=why):
        define()


def test_every_built_in_picture_has_a_command_and_a_method(run: vaekit.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert {*pictures.kinds()} <= {*dir(run.pictures)}
    for kind in pictures.kinds():
        assert main([kind, "--help"]) == 0
        assert "--out" in capsys.readouterr().out
