"""The commands of pictures: ``vaekit NAME`` for every registered picture, with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit.cli.common import RunArgument, open_run, without_args
from vaekit.cli.options import component_fields, declare, field_option, read_fields, spell_out, switches_of
from vaekit.errors import UsageError
from vaekit.roles import pictures

if TYPE_CHECKING:
    from vaekit.drawing.picture import Picture

COUNTS = {1: "one image is needed", 2: "two images are needed"}


def command(kind: str, arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command of a picture, and its arguments."""
    from rich.markup import escape

    from vaekit.schema import wiring

    cls, spec = pictures.get(kind), pictures.spec(kind)
    images = [name for name in wiring(cls) if name != "subject"]
    options = {name: field_option(name, field) for name, field in component_fields(spec).items()}

    def draw(run: Path | None, named: Sequence[Any], given: Mapping[str, Any]) -> None:
        written = open_run(run).pictures[kind](*named, **read_fields(spec, given), out=given.get("out"))
        for path in written if isinstance(written, list) else [written]:
            typer.echo(path)

    def draw_run(run: RunArgument = None, *, given: Mapping[str, Any]) -> None:
        draw(run, [], given)

    def draw_images(words: list[str], *, given: Mapping[str, Any]) -> None:
        draw(*_split(kind, images, words), given)

    draw_images.__annotations__["words"] = _words_argument(images)
    function = declare(draw_images if images else draw_run, {**options, "out": _out_option(cls)})
    function.__doc__ = escape("\n\n".join(filter(None, without_args(cls.__doc__))).replace("``", "`"))
    plain = [argument.replace("--picture.", "--", 1) for argument in arguments]  # as `vaekit components show` has them
    return function, spell_out(plain, switches_of(component_fields(spec)))


def _words_argument(images: Sequence[str]) -> Any:
    """Return the annotation of an optional run and images."""
    about = "Run folder, or hf://user/name (default: the newest run), then "
    about += "images, folders of images, or numbers of test images." if images == ["images"] else _images_help(len(images))
    return Annotated[list[str], typer.Argument(metavar=f"[RUN] {_metavar(images)}", help=about, show_default=False)]


def _images_help(number: int) -> str:
    return "an image: a file or the number of a test image." if number == 1 else "two images: files or numbers of test images."


def _metavar(images: Sequence[str]) -> str:
    return "IMAGES..." if images == ["images"] else " ".join(images).upper()


def _split(kind: str, images: Sequence[str], words: Sequence[str]) -> tuple[Path | None, list[Any]]:
    """Return the run folder, None for the newest one, and the arguments for the images.

    Raises:
        UsageError: There are too few or too many images.
    """
    from vaekit.store.folder import is_run

    named = bool(words) and is_run(words[0])
    run, rest = (Path(words[0]), list(words[1:])) if named else (None, list(words))
    usage = f"vaekit {kind} [RUN] {_metavar(images)}"
    if images == ["images"]:
        if not rest:
            raise UsageError("no images were given", expected=f"{usage}: files, folders or numbers of test images")
        return run, [rest]
    if len(rest) != len(images):
        raise UsageError(COUNTS[len(images)], given=" ".join(words), expected=usage)
    return run, rest


def _out_option(cls: type[Picture]) -> Any:
    """Return the annotation of ``--out``."""
    from vaekit.drawing.animation import ANIMATED
    from vaekit.drawing.picture import FORMATS

    forms = cls.forms()
    still = [suffix[1:] for suffix in FORMATS if suffix != ".jpeg" and not ("animation" in forms and suffix in ANIMATED)]
    moving = [suffix[1:] for suffix in ANIMATED]
    kinds = {
        "still": f"a picture ({', '.join(still)})",
        "animation": f"an animation ({', '.join(moving)})",
        "files": "a folder, new or empty",
    }
    metavar = "|".join(dict.fromkeys("FOLDER" if form == "files" else "FILE" for form in forms))
    about = f"The output: {' or '.join(kinds[form] for form in forms)}; default: in the run folder."
    return Annotated[Path | None, typer.Option("--out", metavar=metavar, help=about, show_default=False)]
