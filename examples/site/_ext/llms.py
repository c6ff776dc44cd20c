"""``llms.txt``: a table of contents of the site for language models, as proposed at https://llmstxt.org."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def first_paragraph(env: BuildEnvironment, page: str) -> str:
    """Return the first paragraph of a page."""
    found = next(env.get_doctree(page).findall(nodes.paragraph), None)
    return "" if found is None else " ".join(found.astext().split())


def table_of_contents(env: BuildEnvironment, suffix: str = ".html") -> str:
    """Return the whole table, section by section of the front page."""
    root = env.config.root_doc
    lines = [f"# {env.config.project}", "", f"> {first_paragraph(env, root)}", ""]
    for tree in env.get_doctree(root).findall(addnodes.toctree):
        lines += [f"## {tree['caption']}", ""]
        for _, page in tree["entries"]:
            for each in [page, *(child for child in env.toctree_includes.get(page, []))]:
                lines.append(f"- [{env.titles[each].astext()}]({each}{suffix}): {first_paragraph(env, each)}")
        lines.append("")
    return "\n".join(lines)


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the table beside the pages."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "llms.txt").write_text(table_of_contents(app.env), "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the table at the end."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
