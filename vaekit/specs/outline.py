"""Fast reading of the settings of many runs: importing this module, or calling it, imports neither torch nor components."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vaekit.specs.models import LARGEST_FILE, read_spec
from vaekit.specs.text import flat

LINE = re.compile(r"( *)(- )?(?:([\w.-]+):(?: (?=\S)|$))?(.*)")
PLAIN = re.compile(r"[^\s'\"|>&*!%@`?{}\[\]#-].*")
"""An unquoted scalar that has no other meaning in YAML."""
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
    """Return the settings in a text written by `vaekit.specs.models.dump_spec`.

    Raises:
        AttributeError: The text has another form, but may still be YAML.
        LookupError: The same.
        ValueError: The same.
    """
    found: dict[str, Any] = {}
    owners: list[tuple[int, str]] = [(-1, "")]  # the sections around the current line, with their columns
    counts: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(line)
        spaces, dash, key, value = match.groups()
        column = len(spaces)
        while owners[-1][0] > column - (not dash):
            owners.pop()
        above, owner = owners[-1]
        if dash and above != column:
            raise ValueError(line)
        if dash and key is None:
            found.setdefault(owner, []).append(_scalar(value))
            continue
        if key is None:
            raise ValueError(line)
        if dash:
            number = counts.get(owner, 0)
            counts[owner], owner = number + 1, f"{owner}.{number}"
            owners.append((column + 1, owner))
            column += 2
        name = f"{owner}.{key}" if owner else key
        owners.append((column, name))
        if value:
            found[name] = [] if value == "[]" else _scalar(value)
    if not found:
        raise ValueError("no settings")
    return found


@lru_cache(10_000)
def _scalar(text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if REAL.fullmatch(text):
        return float(text)
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    other = any(form.match(text) for _, form in yaml.SafeLoader.yaml_implicit_resolvers.get(text[0], ()))  # such as "yes", "0x1f"
    if other or PLAIN.fullmatch(text) is None or ": " in text or " #" in text or text.endswith(":"):
        raise ValueError(text)
    return text
