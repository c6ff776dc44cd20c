"""The text form of option values, such as ``512,256`` for a tuple and ``none`` for None, and of their types."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from vaekit.schema import alternatives, may_be_none


def read_value(value: Any, annotation: Any) -> Any:
    """Parse a string from the command line as a value of a type; other values are returned unchanged.

    A value that cannot be read is returned unchanged, too: validation of the complete spec then reports the error and its place.
    """
    if not isinstance(value, str):
        return value
    parts = alternatives(annotation)
    listed = value.split(",") if value else []
    readings: list[Any] = [value]
    if value == "none" and may_be_none(parts):
        readings.insert(0, None)
    if any(get_origin(part) in {tuple, list} for part in parts):
        readings.append(listed)
    for reading in readings:
        try:
            TypeAdapter(annotation).validate_python(reading)
        except ValidationError:
            continue
        return reading
    return value if str in parts else readings[-1]


def type_text(annotation: Any) -> str:
    """Return a type in the notation of its values: ``a|b`` for choices, ``int,int,…`` for a variadic tuple, or an example."""
    return "|".join(dict.fromkeys(_texts(annotation)))


def value_text(value: Any) -> str:
    """Return a value as text that `read_value` can read."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel | Mapping):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def counted(num: int, noun: str) -> str:
    """Return a number and a noun: ``1 thread``, ``2 threads``."""
    return f"{num:,} {noun}" + ("" if num == 1 else "s")


def duration(seconds: float) -> str:
    """Format a duration as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Flatten plain data into values by dotted name: ``{"model.encoder.kind": "mlp", …}``."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: value}
    parts = [flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
    return {key: leaf for part in parts for key, leaf in part.items()}


def portable(value: Any) -> Any:
    """Return plain data of a spec with the last part of each absolute path in its place, such as ``photos``."""
    if isinstance(value, Mapping):
        return {name: portable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if isinstance(value, str):
        path = next((path for path in (PurePosixPath(value), PureWindowsPath(value)) if path.is_absolute()), None)
        return value if path is None else path.name or "data"
    return value


def _texts(annotation: Any) -> list[str]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        examples = [example for metadata in args[1:] for example in getattr(metadata, "examples", None) or ()]
        return examples or _texts(args[0])
    if origin in {Union, types.UnionType}:
        return [text for arg in args for text in _texts(arg)]
    return [_part_text(part) for part in alternatives(annotation)]


def _part_text(part: Any) -> str:
    if part is type(None):
        return "none"
    if get_origin(part) is tuple:
        args = get_args(part)
        texts = [type_text(arg) for arg in args if arg is not Ellipsis]
        return ",".join([*texts, *texts, "…"] if Ellipsis in args else texts)
    if get_origin(part) is not None:
        return str(part)
    if isinstance(part, type):
        return part.__name__.lower() if issubclass(part, BaseModel) else part.__name__
    return str(part)
