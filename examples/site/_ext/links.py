"""Links to documented objects by the names that docstrings and annotations use."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from reading import linked
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from vaekit.citations import citations


def by_last_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Link a name to the only documented object that has it, whatever module it is attributed to: ``run.Run`` is `vaekit.Run`."""
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rstrip("()").rpartition(".")[2]
    objects = env.domains.python_domain.objects
    found = [(name, entry) for name, entry in objects.items() if name.rpartition(".")[2] == last and not entry.aliased]
    if node["reftype"] == "class":
        found = [(name, entry) for name, entry in found if entry.objtype in {"class", "exception", "data"}]
    if len(found) != 1:
        return None
    name, entry = found[0]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, name)


def keep_colons(app: Sphinx, what: str, *others: Any) -> None:
    """Start the docstring of an attribute on its second line: on the first, Napoleon reads the text before a colon as a type."""
    if what in {"attribute", "data", "property"}:
        others[-1].insert(0, "\\")  # it adds no text, and joins the lines


def list_references(*arguments: Any) -> None:
    """Turn the works that a docstring cites into a list with links to arXiv."""
    lines: list[str] = arguments[-1]
    if "References:" in lines:
        begin = lines.index("References:") + 1
        end = next((i for i in range(begin, len(lines)) if lines[i][:1].strip()), len(lines))
        lines[begin:end] = [f"    - {linked(entry)}" for entry in citations("\n".join(lines))] + [""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the handlers that resolve what Sphinx cannot."""
    app.connect("missing-reference", by_last_name)
    app.connect("autodoc-process-docstring", list_references, priority=400)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before Napoleon's
    return {"parallel_read_safe": True}
