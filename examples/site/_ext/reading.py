"""Text of vaekit as reStructuredText: docstrings, help texts and citations."""

from __future__ import annotations

import re

from sphinx.ext.napoleon.docstring import GoogleDocstring

from vaekit.citations import citations
from vaekit.cli.common import without_args

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def escaped(text: str) -> str:
    """Return plain text as reStructuredText; text in backticks is code."""
    parts = re.split(r"``?(.+?)``?", text, flags=re.DOTALL)
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([\\*_|])", r"\\\1", part) for i, part in enumerate(parts))


def docstring(text: str | None) -> list[str]:
    """Return a docstring of a component without its arguments and references."""
    before, after = without_args(text)
    examples, _, _ = f"\n{after}".partition("\nReferences:")
    return str(GoogleDocstring(f"{before}\n\n{examples.strip()}\n")).splitlines()


def references(text: str | None) -> list[str]:
    """Return the works that a docstring cites, as a list with links to arXiv."""
    found = [linked(entry) for entry in citations(text)]
    return ["", ".. rubric:: References", "", *(f"- {entry}" for entry in found), ""] if found else []


def linked(entry: str) -> str:
    """Return a citation with a link to arXiv."""
    return _ARXIV.sub(r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", escaped(entry))


def indented(lines: list[str], by: int = 3) -> list[str]:
    """Return lines indented as the content of a directive."""
    return [f"{' ' * by}{line}" if line else "" for line in lines]
