"""The form of shared runs: the files on the Hub, which ``save_pretrained`` also writes to a folder.

``config.json`` is the spec; ``model.safetensors`` the model, and ``losses.safetensors`` the weights of its losses, if they have
any; ``evaluation.json``, ``metrics.jsonl`` and ``threshold.json`` are those of the run. Local paths are reduced to names; the
name and tags of the run, its loggers, its data and its training state are left out. Such a folder is a run that can be used, but
not resumed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from vaekit.errors import CheckpointError
from vaekit.files import write_text
from vaekit.hub import CONFIG, LOSSES, NUMBERS, WEIGHTS
from vaekit.specs.text import portable
from vaekit.store.checkpoint import copy_to_share
from vaekit.store.record import Record

PRIVATE = {"name", "tag", "logger"}
"""The training settings that are not shared."""
SHARED_FORMATS = ("onnx", "playground")
"""The decoder formats shared by default, if they are installed."""
SHARED_FILES = (
    *(LOSSES, *NUMBERS, "decoder.onnx", "decoder.json", "decoder.html", "decoder.pt2"),
    *("samples.png", "reconstructions.png", "training.gif", "training.webp", "training.avif"),
)
"""The files that a shared run may lack; an upload removes those of an earlier one."""


def write_shared(record: Record, folder: Path) -> None:
    """Write a run to an empty folder in the form of shared runs.

    Raises:
        CheckpointError: The run has no model yet, or a file is damaged.
        VaekitError: The folder cannot be written.
    """
    run = record.folder
    if not run.model.is_file():
        raise CheckpointError(f"{run.path} has no model yet", remedy=f"finish the run: vaekit resume {run.path}")
    spec = portable(record.spec.model_dump(mode="json", exclude={"train": PRIVATE}))
    write_text(folder / CONFIG, json.dumps(spec, indent=2, ensure_ascii=False) + "\n")
    copy_to_share(run.model, folder / WEIGHTS)
    weights = run.losses if run.is_shared else run.best
    if weights.is_file():
        copy_to_share(weights, folder / LOSSES, without="vae.")
    for name in NUMBERS:
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, folder / name)
