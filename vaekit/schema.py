"""The signature is the schema: a component's keyword-only parameters become a frozen pydantic model."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
import types
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from vaekit.errors import PluginError, plain

Count = Annotated[int, Field(gt=0, le=1_000_000)]
"""A count of items that each take memory or time."""
Few = Annotated[Count, Field(le=1000)]
"""A count of items that are shown side by side or computed one after another."""
ModelPart = Literal["encoder", "decoder", "posterior", "prior", "likelihood", "condition"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A random seed."""


class Spec(BaseModel):
    """The base class of all specs: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _read_plain(cls, data: Any) -> Any:
        """Read ``none`` as None in optional fields that are not text; reject booleans as numbers."""
        if not isinstance(data, Mapping):
            return data
        read = {}
        for name, value in data.items():
            parts = alternatives(cls.model_fields[name].annotation) if name in cls.model_fields else []
            if isinstance(value, bool) and bool not in parts and {int, float} & set(parts):
                raise ValueError(f"{name} must be a number, not {str(value).lower()}")
            read[name] = None if value == "none" and may_be_none(parts) and str not in parts else value
        return read


class ComponentSpec(Spec):
    """The base class of specs derived from components: the component's registered name, followed by its options."""

    kind: str


def option_docs(doc: str | None) -> dict[str, str]:
    """Return ``{option: description}`` from the ``Args:`` section of a Google-style docstring."""
    _, _, section = inspect.cleandoc(doc if isinstance(doc, str) else "").partition("\nArgs:\n")
    lines = itertools.takewhile(lambda line: not line or line[0].isspace(), section.splitlines())
    entries = re.split(r"^(\w+): ", textwrap.dedent("\n".join(lines)), flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


def wiring(cls: type) -> tuple[str, ...]:
    """Return the names of a component's positional parameters, supplied by assembly."""
    return tuple(
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )


def derive_spec(cls: type, kind: str, allowed_wiring: Iterable[str]) -> type[ComponentSpec]:
    """Derive the spec model of a component class from the signature of its ``__init__``.

    Raises:
        PluginError: The signature cannot be turned into a schema; the message names the parameter and the reason.
    """
    where = f"{cls.__module__}.{cls.__qualname__}"
    allowed = tuple(allowed_wiring)
    unfit = [name for name in wiring(cls) if name not in allowed]
    if unfit:
        raise PluginError(
            f"{where}: unknown positional parameter {unfit[0]!r}",
            given=f"positional parameters {', '.join(wiring(cls))}",
            expected=f"some of {', '.join(allowed) or '(none)'}; options must be keyword-only, after a bare *",
        )
    try:
        hints = typing.get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    except NameError as error:
        raise PluginError(
            f"{where}: a type in the signature of __init__ cannot be resolved: {error}",
            expected="keyword parameters with types that are importable at run time",
            remedy="move the import out of `if TYPE_CHECKING:`",
        ) from error
    docs = option_docs(cls.__doc__) | option_docs(cls.__init__.__doc__)  # type: ignore[misc]
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(
                f"{where}: {parameter} hides options from the schema",
                expected="a separate keyword-only parameter for every option",
            )
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if name.startswith("_") or name == "kind" or hasattr(BaseModel, name):
            raise PluginError(f"{where}: an option cannot be named {name!r}", expected="another name")
        if name not in hints:
            raise PluginError(f"{where}: option {name!r} has no type", expected=f"an annotation such as `{name}: int`")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints[name], Field(default, description=docs.get(name)))
    fields["kind"] = (Literal[kind], kind)
    try:
        model: type[ComponentSpec] = create_model(f"{kind}_spec", __base__=ComponentSpec, __module__=cls.__module__, **fields)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pydantic warns about defaults that are not JSON
            model.model_json_schema()
    except Exception as error:
        raise PluginError(
            f"{where}: cannot derive a schema from the options: {plain(error)}",
            expected="keyword types that pydantic can validate and serialise to JSON (numbers, strings, bool, tuples, Literal)",
        ) from error
    return model


def alternatives(annotation: Any) -> list[Any]:
    """Return the types and literal values that an annotation admits, with unions and ``Annotated`` unwrapped."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return alternatives(args[0])
    if origin in {Union, types.UnionType}:
        return [part for arg in args for part in alternatives(arg)]
    return list(args) if origin is Literal else [annotation]


def may_be_none(parts: Sequence[Any]) -> bool:
    """Whether ``none`` means None among these `alternatives`, rather than a literal of that name."""
    return type(None) in parts and "none" not in parts
