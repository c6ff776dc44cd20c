"""A run on one screen: its data, parts, metrics and files. Importing this module does not import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit.errors import CheckpointError, reason_of
from vaekit.roles import SPEC_REGISTRIES
from vaekit.specs.models import read_spec
from vaekit.specs.text import value_text
from vaekit.store.folder import RunFolder
from vaekit.store.header import read_header
from vaekit.store.summary import Summary

REGISTRIES = {registry.role: registry for registry in SPEC_REGISTRIES}
PARTS = ("encoder", "posterior", "prior", "decoder", "likelihood", "condition", "loss")
"""The roles, in the order of an overview."""


def overview(folder: RunFolder) -> dict[str, Any]:
    """Return what is known about a run without loading it, as plain data.

    To the columns of `Summary.row`, it adds ``data_shape``, ``value_range``, ``class_names``, ``binarize`` and ``init``;
    ``parts``, each with its kind, its weights and the options that are not at their defaults; ``evaluation``; ``versions``;
    ``files`` with their sizes in bytes, folders as a whole; and ``exports``. Without a model file, its values are None.

    Raises:
        CheckpointError: A file is damaged.
        SpecError: So is the spec.
    """
    summary, spec = Summary.read(folder), read_spec(folder.spec)
    header = read_header(folder.model) if folder.model.is_file() else None
    weights = {} if header is None else _weights(header.shapes)
    facts: Mapping[str, Any] = {} if header is None else header.metadata["facts"]
    try:
        model, binarize = spec["model"], spec["data"].get("binarize")
        parts = [
            {"role": role, **_part(role, part), "weights": weights.get(role, 0)}
            for role in PARTS
            for part in (model[role] if role == "loss" else [model[role]])
            if part["kind"] != "none"
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder.spec} is not the complete spec of a run", given=reason_of(error)) from None
    return {
        **summary.row,
        "best_epoch": None if header is None else header.metadata["state"].get("epoch"),
        "data_shape": facts.get("data_shape"),
        "value_range": facts.get("value_range"),
        "class_names": facts.get("class_names"),
        "binarize": binarize,
        "init": summary.settings.get("train.init"),
        "latent_stride": model.get("latent_stride"),
        "parts": parts,
        "weights": None if header is None else sum(weights.values()),
        "evaluation": dict(summary.evaluation) or None,
        "versions": None if header is None else header.metadata["versions"],
        "files": {path.name: _size(path) for path in sorted(folder.path.iterdir()) if not path.name.startswith(".")},
        "exports": [_export(path) for path in sorted(folder.path.iterdir()) if path.suffix in {".onnx", ".pt2"}],
    }


def part_text(part: Mapping[str, Any]) -> str:
    """Return a part of an overview as ``cnn(channels=32,64)``."""
    options = ", ".join(f"{name}={value_text(value)}" for name, value in part["options"].items())
    return f"{part['kind']}({options})" if options else str(part["kind"])


def _part(role: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the kind of a part and its options, without those known to have their defaults; the part is not imported."""
    defaults = json.loads(json.dumps(REGISTRIES[role].literal_defaults(part["kind"])))
    options = {name: value for name, value in part.items() if name != "kind"}
    return {
        "kind": part["kind"],
        "options": {name: value for name, value in options.items() if name not in defaults or value != defaults[name]},
    }


def _weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the number of weights of each part, including those learned without gradients, such as codebooks."""
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + math.prod(shape)
    return counts


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def _export(path: Path) -> dict[str, Any]:
    """Return the contents of the JSON file beside an exported file."""
    try:
        metadata = json.loads(path.with_suffix(".json").read_bytes())
        return {"file": path.name, "part": metadata["part"], "precision": metadata["precision"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"file": path.name, "part": None, "precision": None}
