"""Differences between datasets according to their fingerprints: see `vaekit.data.Splits.fingerprint`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changes(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the differences between two fingerprints, one phrase each; empty if they are equal."""
    found = []
    for split, new in now.items():
        old = before.get(split, {})
        shown = [name for name in ("num_images", "shape", "class_names") if old.get(name) != new[name]]
        found += [f"{split}: {name.replace('_', ' ')} was {_short(old.get(name))}, is {_short(new[name])}" for name in shown]
        found += [f"{split}: the {name} differ" for name in ("images", "labels") if not shown and old.get(name) != new[name]]
    return found


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
