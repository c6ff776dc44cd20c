"""How the command line finds and describes components."""

from __future__ import annotations

import difflib
from textwrap import wrap
from typing import TYPE_CHECKING

from vaekit.cli.common import without_args
from vaekit.errors import UnknownComponentError

if TYPE_CHECKING:
    from vaekit.registry import Registry


def find(name: str) -> list[tuple[Registry[object], str]]:
    """Return all components with a name, or the one given as ``role:name``.

    Raises:
        UnknownComponentError: There is none; the message suggests close matches.
    """
    from vaekit.roles import REGISTRIES

    role, _, kind = name.rpartition(":")
    found = [(registry, kind) for registry in REGISTRIES if role in ("", registry.role) and kind in registry]
    if not found:
        names = [n for registry in REGISTRIES for kind in registry.kinds() for n in (kind, f"{registry.role}:{kind}")]
        near = difflib.get_close_matches(name, names, n=3)
        raise UnknownComponentError(
            f"unknown component {name!r}",
            remedy=f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else "see `vaekit components list`",
        )
    return found


def describe(registry: Registry[object], kind: str) -> str:
    """Return a component's docstring, with its options, their types and defaults in place of ``Args``."""
    from vaekit.cli.options import component_fields
    from vaekit.nn.schedules import SIGNATURES, takes_schedules
    from vaekit.specs.text import type_text, value_text

    lines = []
    for name, field in component_fields(registry.spec(kind)).items():
        default = "required" if field.is_required() else f"default {value_text(field.default)}"
        lines.append(f"--{registry.role}.{name.replace('_', '-')} {type_text(field.annotation)}  ({default})")
        lines += wrap(field.description or "", 96, initial_indent="    ", subsequent_indent="    ")
    options = "\n".join(["Options:", *(f"  {line}" for line in lines)]) if lines else "No options."
    if any(takes_schedules(field.annotation) for field in component_fields(registry.spec(kind)).values()):
        options += "\n\n" + "\n".join(wrap(f"A schedule, over epochs, is one of {SIGNATURES}.", 100))
    before, after = without_args(registry.get(kind).__doc__)
    return "\n\n".join(part for part in (before, options, after) if part)
