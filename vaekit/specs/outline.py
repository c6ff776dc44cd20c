"""The settings of many runs, read fast: importing this module, or calling it, imports neither torch nor components."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vaekit.specs.models import LARGEST_FILE, read_spec
from vaekit.specs.text import flat

LINE = re.compile(r"( *)(- )?(?:([\w.-]+):(?: (?=\S)|$))?(.*)")
PLAIN = re.compile(r"[^\s'\"|>&*!%@`?{}\[\]#-].*")
"""A scalar without quotes that is no other sign of YAML."""
INTEGER, REAL = re.compile(r"-?(?:0|[1-9]\d*)"), re.compile(r"-?\d+\.\d*(?:e[-+]\d+)?")
WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a spec file by dotted name, such as ``model.encoder.kind``; they are not validated.

    Files in the form that vaekit writes are read line by line, ten times as fast as YAML; others as YAML.

    Raises:
        SpecError: The file is missing or is not a YAML mapping.
    """
    try:
        text = path.read_text("utf-8") if path.stat().st_size <= LARGEST_FILE else ""
        return settings_of(text)
    except (AttributeError, LookupError, OSError, ValueError):
        return flat(read_spec(path))


def settings_of(text: str) -> dict[str, Any]:
    """Return the settings in a text that `vaekit.specs.models.dump_spec` wrote.

    Raises:
        AttributeError: It is written otherwise, and may be YAML nevertheless.
        LookupError: The same.
        ValueError: The same.
    """
    found: dict[str, Any] = {}
    at: dict[int, str] = {}
    counts: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(line)
        spaces, dash, key, value = match.groups()
        column = len(spaces)
        if dash:
            owner = at[column]
            at = {other: name for other, name in at.items() if other <= column}
            if key is None:
                found.setdefault(owner, []).append(_scalar(value))
                continue
            at[column + 1] = f"{owner}.{counts.get(owner, 0)}"
            counts[owner] = counts.get(owner, 0) + 1
            column += 2
        elif key is None:
            raise ValueError(line)
        at = {other: name for other, name in at.items() if other < column}
        name = f"{at[max(at)]}.{key}" if at else key
        at[column] = name
        if value:
            found[name] = _scalar(value)
    if not found:
        raise ValueError("no settings")
    return found


def _scalar(text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    if text == "[]":
        return []
    if INTEGER.fullmatch(text):
        return int(text)
    if REAL.fullmatch(text):
        return float(text)
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    other = any(form.match(text) for _, form in yaml.SafeLoader.yaml_implicit_resolvers.get(text[0], ()))  # as "yes", "0x1f"
    if other or PLAIN.fullmatch(text) is None or ": " in text or " #" in text or text.endswith(":"):
        raise ValueError(text)
    return text
