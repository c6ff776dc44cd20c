"""The album of a run: a method for each picture."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.roles import pictures
from vaekit.schema import wiring
from vaekit.specs.models import spec_error

if TYPE_CHECKING:
    from vaekit.store.record import Record


class Album:
    """The pictures of a run's best model. Each registered picture is a method that draws and writes it and returns its path.

    ``run.pictures.traverse(dims=[3, 5])`` takes the picture's options as keyword arguments, after its images, if any. ``out``
    is the output file, whose suffix selects the format, or folder; default: in the run folder. Stills are PNG, JPEG, WebP or
    AVIF; animations are GIF, WebP or AVIF. A picture written to several files returns a list of paths.

    ``dir(run.pictures)`` lists the pictures, ``help(run.pictures.traverse)`` describes one, and ``run.pictures["traverse"]`` is
    the same method.

    Args:
        run: The run.
    """

    def __init__(self, run: Record) -> None:
        self.subject = Subject(run)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *pictures.kinds()]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in pictures:
            raise AttributeError(str(pictures.unknown(name)))
        return self[name]

    def __getitem__(self, kind: str) -> Callable[..., Any]:
        """Return the method of a picture.

        Raises:
            UnknownComponentError: No picture has that name; the message lists the existing ones.
            PluginError: An installed plugin claims the name but cannot be used.
        """
        cls: type[Picture] = pictures.get(kind)
        spec, given = pictures.spec(kind), wiring(cls)
        parameters = [p for p in inspect.signature(cls).parameters.values() if p.name != "subject"]
        out = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | Path | None")
        signature = inspect.Signature([*parameters, out], return_annotation="Path | list[Path]")

        def write(*images: object, **options: object) -> Path | list[Path]:
            arguments = signature.bind(*images, **options).arguments
            available = {"subject": self.subject} | {name: arguments.pop(name) for name in given if name in arguments}
            path = arguments.pop("out", None)
            try:
                chosen = spec.model_validate({"kind": kind, **arguments})
            except ValidationError as error:
                raise spec_error(error, f"the options of the picture {kind!r}") from None
            picture: Picture = pictures.build(chosen, **available)
            paths = picture.write(path)
            return paths if len(picture.paths) > 1 else paths[0]

        write.__name__, write.__qualname__, write.__doc__ = kind, f"{type(self).__name__}.{kind}", cls.__doc__
        write.__signature__ = signature  # type: ignore[attr-defined] # mypy does not know that functions have it
        return write
