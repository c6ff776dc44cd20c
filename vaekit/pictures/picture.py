"""What a picture is, and how it is written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from vaekit.errors import PluginError, UsageError
from vaekit.files import write_atomically
from vaekit.pictures.animation import ANIMATED, Animation, write_animation
from vaekit.pictures.subject import Subject

if TYPE_CHECKING:
    from PIL.Image import Image

Section = Literal["pictures", "latents"]
"""A section of a run's report that shows pictures."""
FORMATS = {".png": "PNG", ".webp": "WEBP", ".avif": "AVIF", ".jpg": "JPEG", ".jpeg": "JPEG"}
SUFFIXES = {"still": ".png", "animation": ".gif", "files": ""}
"""What a picture can be drawn as, and the suffix of its default path."""


class Picture:
    """Something to draw of a trained model: ``vaekit <kind>``, ``run.pictures.<kind>()`` and, if it asks for it, in the report.

    The positional parameters of ``__init__`` are the subject and the images that a user names: none, one ``a``, two ``a`` and
    ``b``, or any number of ``images``. The keyword-only parameters are the picture's options.

    A picture defines at least one of `still`, `animation` and `files`. Those that import torch inside these methods, and not
    with their module, show their help at once.

    Args:
        subject: What is drawn.

    Example::

        @pictures("mean")  # of vaekit.roles
        class Mean(Picture):
            "Show the image at the prior's mean."

            section = "pictures"
            title = "At the prior's mean"

            def still(self) -> Image:
                return grid(self.subject.vae.sample(1, temperature=0.0))
    """

    kind: ClassVar[str]
    """The name it is registered under; the registry sets it."""
    paths: tuple[str, ...] = ()
    """Where it is written unless the user says otherwise: files in subfolders of the run folder, or one folder, without a suffix,
    that is emptied first. Default: ``pictures/<kind>`` as PNG, else as GIF, else as a folder."""
    section: ClassVar[Section | None] = None
    """The section of the report that shows `still`, drawn with the default options; by default none does."""
    title: ClassVar[str] = ""
    """Its heading in the report."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "out" in getattr(cls.__init__, "__annotations__", {}):
            raise PluginError(f"{cls.__qualname__}: an option cannot be called 'out', which says where a picture is written")
        if cls.section not in (None, *get_args(Section)):
            raise PluginError(f"{cls.__qualname__}: a report has no such section", given=cls.section, expected=get_args(Section))

    def still(self) -> Image:
        """Return the picture."""
        raise NotImplementedError

    def animation(self) -> Animation:
        """Return the picture's frames, and how long they stand."""
        raise NotImplementedError

    def files(self) -> Mapping[str, Image]:
        """Return separate pictures by their paths within a folder, with suffixes."""
        raise NotImplementedError

    def alt(self) -> str:
        """Say in words what `still` shows, for those who do not see it. Default: the title."""
        return self.title

    @classmethod
    def forms(cls) -> tuple[str, ...]:
        """Return what the picture can be drawn as: those of ``still``, ``animation`` and ``files`` that it defines.

        Raises:
            PluginError: It defines none of them.
        """
        defined = tuple(form for form in SUFFIXES if getattr(cls, form) is not getattr(Picture, form))
        if not defined:
            raise PluginError(f"the picture {cls.kind!r} draws nothing", expected=f"a method {', '.join(SUFFIXES)}")
        return defined

    def write(self, out: str | Path | None = None) -> list[Path]:
        """Draw the picture and write it; return the paths.

        Args:
            out: The file, whose suffix says the format, or the folder of separate files, new or empty. Default: `paths`.

        Raises:
            UsageError: The format is not one that is written, the folder is not empty, or the place cannot be written.
            PluginError: The picture draws nothing, or its `paths` lead elsewhere.
        """
        paths = [Path(path) for path in self.paths or (f"pictures/{self.kind}{SUFFIXES[self.forms()[0]]}",)]
        if any(path.is_absolute() or ".." in path.parts or len(path.parts) < 2 for path in paths):  # a folder is emptied
            raise PluginError(f"the picture {self.kind!r} cannot be written there", given=paths, expected="as pictures/mine.png")
        targets = [self.subject.run.path / path for path in paths] if out is None else [Path(out)]
        if paths[0].suffix:
            for form, target in [(self._form(target), target) for target in targets]:  # a mistake comes before the work
                self._write_file(form, target)
        else:
            self._write_folder(targets[0], replace=out is None)
        return targets

    def _form(self, path: Path) -> str:
        """Return what is written into a file of this suffix; an animation where both would do."""
        formats = {"animation": ANIMATED, "still": FORMATS}
        possible = {form: formats[form] for form in formats if form in self.forms()}
        for form, suffixes in possible.items():
            if path.suffix.lower() in suffixes:
                return form
        raise UsageError(
            f"{'pictures' if 'still' in possible else 'animations'} are not written in this format",
            given=path,
            expected=", ".join(dict.fromkeys(suffix for form in reversed(possible) for suffix in possible[form])),
        )

    def _write_file(self, form: str, path: Path) -> None:
        if form == "animation":
            moving = self.animation()
            _make_folder(path.parent)
            write_animation(moving.frames, path, milliseconds=moving.milliseconds, hold=moving.hold)
        else:
            image = self.still()
            _make_folder(path.parent)
            write_picture(image, path)

    def _write_folder(self, folder: Path, *, replace: bool) -> None:
        if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists already, and its files would mix with the new ones", remedy="choose another --out")
        files = self.files()
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        for name, image in files.items():
            _make_folder((folder / name).parent)
            write_picture(image, folder / name)


def write_picture(image: Image, path: Path) -> None:
    """Write an image in the format that the file's suffix names, atomically.

    Raises:
        UsageError: The suffix names no format of pictures.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError("pictures are not written in this format", given=path, expected=", ".join(FORMATS))
    write_atomically(path, lambda temporary: image.save(temporary, FORMATS[path.suffix.lower()]))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}", given=error.strerror) from None
