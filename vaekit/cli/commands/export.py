"""``vaekit export``: a command whose flags are the exporters, each with an optional path, and the options of those chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaekit import roles
from vaekit.cli.common import Panel, RunArgument, open_run
from vaekit.cli.options import component_fields, declare, field_option, read_fields, spell_out, switches_of
from vaekit.errors import UsageError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from vaekit.export.exporter import Exported

PANEL = Panel.EXPORT
WHOLE = "diffusers"
"""The format of whole models; those of parts are exporters."""
ABOUT_WHOLE = "A folder for the library diffusers: the whole model, as AutoencoderKL or VQModel."
PartOption = Annotated[
    str,
    typer.Option(
        metavar="decoder|encoder|autoencoder|scorer", help="Part to export; a scorer needs a threshold, see `vaekit score`."
    ),
]


def command(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the command with the options of the chosen exporters, and the arguments with the path of every exporter spelled out.

    ``--onnx`` becomes ``--onnx=``, and ``--onnx PATH`` becomes ``--onnx=PATH``; a run folder that follows stays the argument.
    """
    from vaekit.store.folder import is_run

    kinds = roles.exporters.kinds()
    normal, rest, chosen = [], list(arguments), []
    while rest:
        word = rest.pop(0).replace("--exporter.", "--", 1)  # as `vaekit components show` writes options
        flag, equals, path = word.partition("=")
        named = next((kind for kind in (*kinds, WHOLE) if flag.replace("-", "_") == f"__{kind.replace('-', '_')}"), None)
        if named is not None:
            chosen += [named] if named != WHOLE else []
            if not equals and rest and not rest[0].startswith("-") and not is_run(rest[0]):
                path = rest.pop(0)
            word = f"{_flag(named)}={path}"
        normal.append(word)
    formats = {f"to {kind}": _format_option(kind, roles.exporters.summary(kind)) for kind in kinds}
    formats[f"to {WHOLE}"] = _format_option(WHOLE, ABOUT_WHOLE)
    fields, owners = _fields(chosen or ["onnx"])
    options = {name: field_option(name, field, panel=" and ".join(owners[name])) for name, field in fields.items()}
    return declare(export, formats | options), spell_out(normal, switches_of(fields))


def export(run: RunArgument = None, *, part: PartOption = "decoder", given: Mapping[str, Any]) -> None:
    """Write a trained decoder as a file for other applications, as ONNX, and verify it against the model.

    A format may be followed by a path; by default the file is in the run folder. The options are those of the chosen formats.
    """
    kinds = roles.exporters.kinds()
    paths = {kind: given[f"to {kind}"] for kind in (*kinds, WHOLE) if f"to {kind}" in given}
    if not paths:
        raise UsageError("no format given", expected=" or ".join(map(_flag, kinds)), remedy="try `vaekit export --onnx`")
    opened = open_run(run)
    if (folder := paths.pop(WHOLE, None)) is not None:
        report(opened.to_diffusers(folder or None))
    for kind, path in paths.items():
        options = read_fields(roles.exporters.spec(kind), given)
        report(opened.export(kind, part=part, out=path or None, **options))  # type: ignore[arg-type] # it validates the name


def report(exported: Exported) -> None:
    """Print the file and its difference from the model."""
    typer.echo(exported.path)
    parity = exported.parity
    verdict = "verified" if parity.tolerance is not None else "measured"
    typer.echo(f"  {exported.size:,} bytes; {verdict}: largest difference {parity}, mean {parity.mean:.1e}")
    for note in exported.notes:
        typer.echo(f"  {note}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _format_option(kind: str, about: str) -> Any:
    from rich.markup import escape

    return Annotated[str | None, typer.Option(_flag(kind), metavar="[PATH]", help=escape(about), rich_help_panel="Formats")]


def _fields(kinds: Sequence[str]) -> tuple[dict[str, FieldInfo], dict[str, list[str]]]:
    """Return the exporters' options and their owners, by name; options that several share are merged."""
    fields: dict[str, FieldInfo] = {}
    owners: dict[str, list[str]] = defaultdict(list)
    for kind in dict.fromkeys(kinds):
        for name, field in component_fields(roles.exporters.spec(kind)).items():
            fields.setdefault(name, field)
            owners[name].append(kind)
    return fields, owners
