"""The base class of pictures, and writing of pictures. Importing this module does not import torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from vaekit.drawing.animation import ANIMATED, Animation, write_animation
from vaekit.drawing.subject import Subject
from vaekit.errors import PluginError, UsageError
from vaekit.files import write_atomically
from vaekit.schema import wiring

if TYPE_CHECKING:
    from PIL.Image import Image

Section = Literal["pictures", "latents"]
"""The sections of a run's report that show pictures."""
FORMATS = {".png": "PNG", ".webp": "WEBP", ".avif": "AVIF", ".jpg": "JPEG", ".jpeg": "JPEG"}
IMAGES = ((), ("a",), ("a", "b"), ("images",))
"""The image parameters that a picture can have."""
SUFFIXES = {"still": ".png", "animation": ".gif", "files": ""}
"""The forms of a picture, and the suffix of each form's default path."""


class Picture:
    """A picture of a trained model: the command ``vaekit <kind>``, the method ``run.pictures.<kind>()``, part of the report.

    The positional parameters of ``__init__`` are the subject and the user's images: none, one ``a``, two ``a`` and ``b``, or
    any number of ``images``. Keyword-only parameters are the picture's options.

    A picture defines at least one of `still`, `animation` and `files`. Import torch inside these methods, not at the top of the
    module, to keep the command's help fast.

    Args:
        subject: The run to draw.

    Example:
        >>> from vaekit.drawing.grid import grid
        >>> @vaekit.pictures("mean")
        ... class Mean(Picture):
        ...     "Show the image at the prior's mean."
        ...
        ...     section = "pictures"
        ...     title = "At the prior's mean"
        ...
        ...     def still(self):
        ...         vae = self.subject.vae
        ...         return grid(vae.to_unit(vae.sample(1, temperature=0.0)))
        >>> run = vaekit.train(latent_dim=2, epochs=1, pictures="none")
        >>> run.pictures.mean().name
        'mean.png'
    """

    kind: ClassVar[str] = "unregistered"
    """The registered name, set by the registry."""
    paths: tuple[str, ...] = ()
    """Default outputs, relative to the run folder: files in its subfolders, or one folder (without a suffix), which is emptied
    first. By default, ``pictures/<kind>`` as a PNG, else as a GIF, else as a folder."""
    section: ClassVar[Section | None] = None
    """The section of the report that shows `still` with default options, or None."""
    title: ClassVar[str] = ""
    """The heading in the report."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "out" in getattr(cls.__init__, "__annotations__", {}):
            raise PluginError(f"{cls.__qualname__}: an option cannot be named 'out', which is the output path")
        images = tuple(name for name in wiring(cls) if name != "subject")
        if set(images) <= {"a", "b", "images"} and images not in IMAGES:
            raise PluginError(
                f"{cls.__qualname__} has unsupported image parameters",
                given=", ".join(images),
                expected="positional parameters a, or a and b, or images, after the subject",
            )
        if cls.section not in (None, *get_args(Section)):
            raise PluginError(f"{cls.__qualname__}: unknown section of the report", given=cls.section, expected=get_args(Section))

    def still(self) -> Image:
        """Return the picture."""
        raise NotImplementedError

    def animation(self) -> Animation:
        """Return the frames and their durations."""
        raise NotImplementedError

    def files(self) -> Mapping[str, Image]:
        """Return separate pictures by path within a folder, including the suffix."""
        raise NotImplementedError

    def alt(self) -> str:
        """Return the alt text of `still` in the report; by default, the title."""
        return self.title

    @classmethod
    def forms(cls) -> tuple[str, ...]:
        """Return which of ``still``, ``animation`` and ``files`` the picture defines.

        Raises:
            PluginError: It defines none.
        """
        defined = tuple(form for form in SUFFIXES if getattr(cls, form) is not getattr(Picture, form))
        if not defined:
            raise PluginError(f"the picture {cls.kind!r} does not define any form", expected=f"a method {', '.join(SUFFIXES)}")
        return defined

    def write(self, out: str | Path | None = None) -> list[Path]:
        """Draw the picture and write it; return the paths.

        Args:
            out: Output file, whose suffix selects the format, or a new or empty folder for separate files; default: `paths`.

        Raises:
            UsageError: The format is not supported, the folder is not empty, or the path is not writable.
            PluginError: The picture defines no form, or its `paths` are outside the run folder's subfolders.
        """
        paths = [Path(path) for path in self.paths or (f"pictures/{self.kind}{SUFFIXES[self.forms()[0]]}",)]
        if any(path.is_absolute() or ".." in path.parts or len(path.parts) < 2 for path in paths):  # a folder is emptied
            raise PluginError(
                f"the picture {self.kind!r} has a path outside the run folder's subfolders",
                given=paths,
                expected="a path such as pictures/mine.png",
            )
        targets = [self.subject.run.path / path for path in paths] if out is None else [Path(out)]
        if paths[0].suffix:
            forms = [self._form(target) for target in targets]  # before drawing, so that a wrong suffix fails at once
            for form, target in zip(forms, targets, strict=True):
                self._write_file(form, target)
        else:
            self._write_folder(targets[0], replace=out is None)
        return targets

    def _form(self, path: Path) -> str:
        """Return the form for a file with this suffix; an animation if both are possible."""
        formats = {"animation": ANIMATED, "still": FORMATS}
        possible = {form: formats[form] for form in formats if form in self.forms()}
        for form, suffixes in possible.items():
            if path.suffix.lower() in suffixes:
                return form
        raise UsageError(
            f"unsupported {'picture' if 'still' in possible else 'animation'} format",
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
            raise UsageError(f"{folder} is not empty", remedy="choose another --out")
        files = self.files()
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        for name, image in files.items():
            _make_folder((folder / name).parent)
            write_picture(image, folder / name)


def write_picture(image: Image, path: Path) -> None:
    """Write an image atomically, in the format of the file's suffix.

    Raises:
        UsageError: The suffix is not that of a picture format.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError("unsupported picture format", given=path, expected=", ".join(FORMATS))
    write_atomically(path, lambda temporary: image.save(temporary, FORMATS[path.suffix.lower()]))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}", given=error.strerror) from None
