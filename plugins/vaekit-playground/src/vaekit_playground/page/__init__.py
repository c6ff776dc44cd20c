"""The page: its template, style and program, and their assembly into one file."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def assemble(title: str, about: Mapping[str, Any], binaries: Mapping[str, bytes]) -> str:
    """Return the page as one file.

    Args:
        title: Title of the page, as plain text.
        about: Data for the program, embedded as JSON.
        binaries: Files for the program to unpack, by name.
    """
    blocks = "\n".join(
        f'<script type="text/plain" id="{html.escape(name)}">{_packed(content)}</script>' for name, content in binaries.items()
    )
    values = {
        "title": html.escape(title),
        "style": _read("page.css"),
        "program": _read("page.js"),
        "about": _as_script(about),
        "binaries": blocks,
    }
    # In one pass, so that values that look like placeholders are not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _read("page.html"))


def _read(name: str) -> str:
    return (files(__name__) / name).read_text("utf-8")


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


def _as_script(value: Mapping[str, Any]) -> str:
    """Format JSON so that its strings cannot close the enclosing script element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
