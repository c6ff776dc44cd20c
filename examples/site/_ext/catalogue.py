"""Directives ``components``, ``zoo`` and ``metrics``: the components of a role, the models from the literature, the metrics."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from reading import docstring, escaped, indented, linked, references
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vaekit import roles
from vaekit.cli.commands.zoo import parts_of
from vaekit.cli.options import component_fields, is_switch
from vaekit.evaluation.metrics import documentation
from vaekit.nn.schedules import SIGNATURES, takes_schedules
from vaekit.registry import Registry
from vaekit.specs import zoo
from vaekit.specs.text import type_text, value_text


def component(registry: Registry[Any], kind: str) -> list[str]:
    """Return the section of a component: its description, options and references."""
    doc = registry.get(kind).__doc__
    fields = component_fields(registry.spec(kind))
    label = f"{registry.role}-{kind.replace('_', '-')}"
    lines = [f".. _{label}:", "", kind, "-" * len(kind), "", *docstring(doc), ""]
    lines += [f".. program:: {registry.role} {kind}", ""] if fields else []
    for name, field in fields.items():
        flag = f"--{registry.role}.{name.replace('_', '-')}"
        default = "Required." if field.is_required() else f"Default: ``{value_text(field.default) or 'nothing'}``."
        given = "" if is_switch(field.annotation) else f" {type_text(field.annotation)}"
        about = f"{escaped(field.description or '')} {default}"
        lines += [f".. option:: {flag}{given}", "", *indented([about, ""])]
    if any(takes_schedules(field.annotation) for field in fields.values()):
        lines += [f"A *schedule*, over epochs, is one of {', '.join(f'``{one}``' for one in signatures())}.", ""]
    return [*lines, *references(doc)]


def signatures() -> list[str]:
    """Return the signatures of schedules, one by one."""
    return [one if one.endswith(")") else f"{one})" for one in SIGNATURES.split("), ")]


def model(name: str) -> list[str]:
    """Return the section of a model: its description, parts, reference and results, and how to train it."""
    entry = zoo.read(name)
    first = [f"$ vaekit train --model {entry.after} --out RUN"] if entry.after else []
    train = [*first, f"$ vaekit train --model {name}{' --init RUN' if entry.after else ''}"]
    lines = [
        f".. _model-{name}:",
        "",
        name,
        "-" * len(name),
        "",
        f"**{escaped(entry.title)} ({entry.year}).** {escaped(entry.about)}",
        "",
    ]
    lines += [".. code-block:: text", "", *indented(parts_of(name, entry.after).splitlines()), ""]
    lines += [".. code-block:: console", "", *indented(train), ""]
    for label, measured in (("In the paper", entry.paper), ("Here", entry.ours)):
        if measured is not None:
            lines += [f"{label}: {escaped(measured.number)} ({escaped(measured.protocol)}).", ""]
    return [*lines, f"Reference: {linked(entry.reference)}", ""]


class Components(SphinxDirective):
    """All components of the role given as the argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (registry,) = (each for each in roles.REGISTRIES if each.role == self.arguments[0])
        lines = [line for kind in registry.kinds() for line in component(registry, kind)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Zoo(SphinxDirective):
    """All models from the literature."""

    def run(self) -> list[nodes.Node]:
        lines = [line for name in zoo.names() for line in model(name)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Metrics(SphinxDirective):
    """The table of all metrics, in a Markdown page."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(documentation())


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("components", Components)
    app.add_directive("zoo", Zoo)
    app.add_directive("metrics", Metrics)
    return {"parallel_read_safe": True}
