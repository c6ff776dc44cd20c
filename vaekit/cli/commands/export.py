"""``vaekit export``: a command whose flags are the exporters, each with an optional path, and the options of those chosen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit import roles
from vaekit.cli.common import RunArgument, component_option, open_run
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from vaekit.export.exporter import Exported

PartOption = Annotated[str, typer.Option(metavar="decoder|encoder|autoencoder", help="What to export.")]


def placeholder() -> None:
    """Write a trained decoder as a file for other applications, as ONNX, and verify it: see `vaekit export --help`."""


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command that fits its arguments, and the arguments with the path of every exporter spelled out.

    ``--onnx`` becomes ``--onnx=``, and ``--onnx PATH`` becomes ``--onnx=PATH``; a run folder that follows stays the argument.
    """
    kinds = roles.exporters.kinds()
    normal, rest, chosen = [], list(arguments), []
    while rest:
        word = rest.pop(0).replace("--exporter.", "--", 1)  # as `vaekit components show` writes options
        flag, equals, path = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") in {kind.replace("-", "_") for kind in kinds}:
            chosen.append(next(kind for kind in kinds if kind.replace("-", "_") == flag[2:].replace("-", "_")))
            if not equals and rest and not rest[0].startswith("-") and not (Path(rest[0]) / "spec.yaml").is_file():
                path = rest.pop(0)
            word = f"{_flag(chosen[-1])}={path}"
        normal.append(word)
    options = _options(chosen or ["onnx"])
    return _build(kinds, options), normal


def _options(kinds: Sequence[str]) -> dict[str, tuple[tuple[str, ...], FieldInfo, list[str]]]:
    """Return, by name, the flags and the field of every option of some exporters, and which of them have it."""
    found: dict[str, tuple[tuple[str, ...], FieldInfo, list[str]]] = {}
    for kind in dict.fromkeys(kinds):
        for name, field in roles.exporters.spec(kind).model_fields.items():
            if name != "kind":
                found.setdefault(name, ((_flag(name),), field, []))[2].append(kind)
    return found


def _build(kinds: Sequence[str], options: Mapping[str, Any]) -> Callable[..., None]:
    """Return a function whose signature declares every exporter and option, for Typer to read."""
    parameters = [
        _parameter("run", None, RunArgument),
        _parameter("part", "decoder", PartOption),
        *(_parameter(f"to_{kind}", None, _exporter_option(kind)) for kind in kinds),
        *(_parameter(f"option_{name}", None, _option(*entry)) for name, entry in options.items()),
    ]

    def export(*, run: Path | None, part: str, **values: Any) -> None:
        """Write a trained decoder as a file for other applications, as ONNX, and verify it against the model.

        A format may be followed by a path; the file lies in the run folder otherwise. The options are those of the formats
        chosen.
        """
        paths = {kind: values[f"to_{kind}"] for kind in kinds if values[f"to_{kind}"] is not None}
        if not paths:
            raise UsageError(
                "no format is asked for", expected=" or ".join(map(_flag, kinds)), remedy="try `vaekit export --onnx`"
            )
        opened = open_run(run)
        for kind, path in paths.items():
            given = {name: values[f"option_{name}"] for name, (_, _, owners) in options.items() if kind in owners}
            set_options = {name: value for name, value in given.items() if value is not None}
            report(opened.export(kind, part=part, out=path or None, **_read(kind, set_options)))  # type: ignore[arg-type]

    export.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    export.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return export


def report(exported: Exported) -> None:
    """Print what was written, and how far it is from the model."""
    typer.echo(exported.path)
    parity = exported.parity
    verdict = "verified" if parity.tolerance is not None else "measured"
    typer.echo(f"  {exported.size:,} bytes; {verdict}: largest difference {parity}, mean {parity.mean:.1e}")
    for note in exported.notes:
        typer.echo(f"  {note}")


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _exporter_option(kind: str) -> Any:
    from rich.markup import escape

    about = escape(roles.exporters.summary(kind))
    return Annotated[str | None, typer.Option(_flag(kind), metavar="[PATH]", help=about, rich_help_panel="Formats")]


def _option(flags: tuple[str, ...], field: FieldInfo, owners: list[str]) -> Any:
    """Declare an option of exporters to Typer."""
    about, panel, required = field.description or "", " and ".join(owners), field.is_required()
    return component_option(flags, field.annotation, default=field.default, required=required, about=about, panel=panel)


def _read(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the strings mean for the options of an exporter."""
    from vaekit.specs.text import read_value

    fields = roles.exporters.spec(kind).model_fields
    return {name: read_value(value, fields[name].annotation) for name, value in values.items()}
