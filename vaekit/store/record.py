"""A run read back from its folder: its spec, its data, its model, its numbers."""

from __future__ import annotations

import json
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

from vaekit import roles
from vaekit.data.fingerprint import changes
from vaekit.data.sources import Splits
from vaekit.model.assembly import build_vae
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec, read_spec
from vaekit.specs.resolve import resolve
from vaekit.store import checkpoint
from vaekit.store.folder import RunFolder


class Record:
    """What a run folder holds.

    Args:
        path: The folder; a `RunFolder` need not be on this machine.

    Raises:
        CheckpointError: It is not a run folder.
    """

    def __init__(self, path: str | Path | RunFolder) -> None:
        self.folder = path if isinstance(path, RunFolder) else RunFolder(path).require()
        self.path = self.folder.path

    @cached_property
    def spec(self) -> RunSpec:
        """The whole spec."""
        return resolve(read_spec(self.folder.spec), str(self.folder.spec))

    @cached_property
    def splits(self) -> Splits:
        """The data that it was trained on, read again; a warning says what has changed since."""
        splits = load_splits(self.spec)
        if self.folder.model.is_file() and (changed := changes(checkpoint.load(self.folder.model)[1].data, splits.fingerprint)):
            warnings.warn(
                f"the data have changed since {self.path} was trained, so its numbers and pictures may be of training images: "
                + "; ".join(changed),
                stacklevel=2,
            )
        return splits

    @cached_property
    def versions(self) -> dict[str, Any]:
        """Versions of vaekit, torch and the components when the model was saved."""
        return checkpoint.load(self.folder.model)[1].versions

    def vae(self) -> VAE:
        """Load the best model, in eval mode on the CPU.

        Raises:
            CheckpointError: There is none yet, or it is truncated, or needs a plugin that is not installed.
        """
        return load_model(self.folder.model)[0]

    def position(self) -> tuple[int, int]:
        """Return the epochs done and the steps of the next, as of the last checkpoint.

        Raises:
            CheckpointError: It is missing or truncated.
        """
        _, header = checkpoint.load(self.folder.last)
        return header.state.get("epoch", 0), header.state.get("step", 0)

    def is_complete(self) -> bool:
        """Whether all epochs are done and the test set was evaluated; an evaluation alone may be one of an interrupted run.

        Raises:
            CheckpointError: The last checkpoint is missing or truncated.
        """
        return self.position()[0] >= self.spec.train.epochs and self.evaluation() is not None

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of ``metrics.jsonl``, one an epoch."""
        return self.folder.read_metrics()

    def evaluation(self) -> dict[str, Any] | None:
        """Return what ``evaluation.json`` holds, or None before there is one."""
        file = self.folder.evaluation
        result: dict[str, Any] | None = json.loads(file.read_text("utf-8")) if file.is_file() else None
        return result


def load_model(file: Path) -> tuple[VAE, checkpoint.Header]:
    """Load the model of a model file, in eval mode on the CPU, and what the file says of it.

    Raises:
        CheckpointError: The file is missing, truncated, or needs a plugin that is not installed.
    """
    tensors, header = checkpoint.load(file)
    vae = build_vae(header.spec.model, header.image_shape, seed=0)
    checkpoint.load_weights(vae, tensors, file)
    return vae.eval().requires_grad_(False), header


def load_splits(spec: RunSpec) -> Splits:
    """Read the data of a spec."""
    return roles.datasets.build(spec.data.dataset).load()
