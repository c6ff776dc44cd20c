"""Option types shared by pictures. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError


def _by_number(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Report a failure in one line."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("latents", "give latents by index, such as 3,5") from None


Dims = Annotated[tuple[int, ...], WrapValidator(_by_number), Field(examples=["3,5"])]
"""Indices of latents, from 0."""

ImageName = Annotated[str | int | Path, Field(examples=["IMAGE"])]
"""An image: a file or the index of a test image."""

ClassName = Annotated[str | int, Field(examples=["CLASS"])]
"""A class of the data: its name or its number."""

Way = Literal["linear", "spherical"]
"""The path between two codes: straight or along a great circle."""
