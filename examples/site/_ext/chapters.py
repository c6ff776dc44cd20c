"""The directive ``chapters``: a script whose functions are chapters, as a page of text, code and pictures.

The docstring of a function is its text, in Markdown, and the rest is its code. The first line of the docstring is the heading.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def chapters(source: str, prefix: str) -> list[tuple[str, str, str]]:
    """Return the heading, text and code of each chapter: a function whose name begins with a prefix.

    A function without the prefix belongs to the chapter that follows it: its text and its code come first there.
    """
    found: list[tuple[str, str, str]] = []
    before: list[str] = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        code = ast.get_source_segment(source, node) or ""
        if not node.name.startswith(prefix):
            before.append(code)
            continue
        heading, _, text = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n")
        found.append((heading.rstrip("."), text.strip(), "\n\n\n".join([*before, without_docstring(code)])))
        before = []
    return found


def without_docstring(code: str) -> str:
    """Return the code of a function without its docstring."""
    return re.sub(r'\n    """.*?"""\n', "\n", code, count=1, flags=re.DOTALL)


class Chapters(SphinxDirective):
    """The chapters of the script given as the argument, a path relative to the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        source = Path(path).read_text("utf-8")
        lines = []
        for number, (heading, text, code) in enumerate(chapters(source, "chapter_"), 1):
            lines += [f"## {number}. {heading}", "", text, "", "```python", code, "```", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("chapters", Chapters)
    return {"parallel_read_safe": True}
