"""A run read back from its folder: its spec, data, model and metrics."""

from __future__ import annotations

import json
import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vaekit import hub, roles
from vaekit.data.fingerprint import changes
from vaekit.data.sources import Splits
from vaekit.errors import DataError
from vaekit.evaluation.detection import Threshold
from vaekit.model.assembly import build_vae
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec, TrainSpec, read_spec
from vaekit.specs.resolve import resolve
from vaekit.store import checkpoint
from vaekit.store.folder import RunFolder


class Record:
    """The contents of a run folder.

    Args:
        path: The run folder, or a run on the Hub: ``hf://user/name``. A `RunFolder` need not exist on this machine.
        revision: A branch, a tag or a commit of a run on the Hub; default: the one in its name, else the main branch.
        token: A token of the Hub; default: that of HF_TOKEN or of `hf auth login`.
        cache_dir: A folder for downloads; default: the caches of `huggingface_hub` and of vaekit.
        local_files_only: Whether to use earlier downloads only, without contacting the Hub.

    Raises:
        CheckpointError: The path is not a run folder.
        HubError: The run on the Hub cannot be fetched.
    """

    def __init__(
        self,
        path: str | Path | RunFolder,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        if not isinstance(path, RunFolder):
            given: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
            path = RunFolder(hub.local_run(path, **given, local_files_only=local_files_only)).require()
        self.folder = path
        self.path = self.folder.path

    @cached_property
    def spec(self) -> RunSpec:
        """The complete spec."""
        return resolve(read_spec(self.folder.spec), str(self.folder.spec))

    @property
    def name(self) -> str:
        """The name of the run; default: that of its folder."""
        return self.spec.train.name or self.path.resolve().name

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the run."""
        return self.spec.train.tag

    @cached_property
    def splits(self) -> Splits:
        """The data that the run was trained on, read again; a warning names what has changed since."""
        splits = load_splits(self.spec)
        if self.folder.model.is_file() and (changed := changes(self.header.data, splits.fingerprint)):
            warnings.warn(
                f"the data have changed since {self.path} was trained, so its metrics and pictures may include training images: "
                + "; ".join(changed),
                stacklevel=2,
            )
        return splits

    @cached_property
    def header(self) -> checkpoint.Header:
        """The metadata of the model file."""
        return checkpoint.load(self.folder.model)[1]

    def vae(self) -> VAE:
        """Load the best model, on the CPU and in eval mode.

        Raises:
            CheckpointError: There is none yet, it is truncated, or it needs a plugin that is not installed.
        """
        return load_model(self.folder.model)[0]

    def position(self) -> tuple[int, int]:
        """Return the number of completed epochs, and of steps into the next, at the latest checkpoint.

        Raises:
            CheckpointError: The checkpoint is missing or truncated.
        """
        state = self._state()
        return state.get("epoch", 0), state.get("step", 0)

    def is_complete(self, train: TrainSpec | None = None) -> bool:
        """Whether the run is over and its best epoch has been evaluated on the test set.

        An interrupted run may have an evaluation, too, possibly of an earlier epoch than its final best.

        Args:
            train: Settings with the limits of the run; default: its own.

        Raises:
            CheckpointError: The latest checkpoint is missing or truncated.
        """
        state = self._state()
        epoch, best_epoch = state.get("epoch", 0), state.get("best_epoch", 0)
        evaluation = self.evaluation() or {}
        return (train or self.spec.train).is_over(epoch, best_epoch) and evaluation.get("epoch") == best_epoch

    def _state(self) -> dict[str, Any]:
        """Return the state in the latest checkpoint, besides tensors."""
        return checkpoint.load(self.folder.last)[1].state

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of ``metrics.jsonl``, one per epoch."""
        return self.folder.read_metrics()

    def evaluation(self) -> dict[str, Any] | None:
        """Return the contents of ``evaluation.json``, or None if it does not exist yet."""
        file = self.folder.evaluation
        try:
            result = json.loads(file.read_text("utf-8")) if file.is_file() else None
        except ValueError as error:
            result = error
        if result is not None and not (isinstance(result, dict) and {"split", "num_images", "epoch"} <= result.keys()):
            warnings.warn(f"{file} is damaged and is ignored; `vaekit evaluate` writes it again", stacklevel=2)
            return None
        return result

    def threshold(self) -> Threshold | None:
        """Return the contents of ``threshold.json``, or None if it does not exist.

        Raises:
            DataError: It is damaged.
        """
        file = self.folder.threshold
        if not file.is_file():
            return None
        try:
            found = Threshold(**json.loads(file.read_text("utf-8")))
            if not all(map(math.isfinite, (found.value, found.low, found.high, found.quantile))):
                raise ValueError(f"{found}")
        except (TypeError, ValueError) as error:
            remedy = f"write it again: vaekit score {self.path} --quantile 0.95"
            raise DataError(f"{file} is damaged", given=error, remedy=remedy) from None
        return found


def load_model(file: Path) -> tuple[VAE, checkpoint.Header]:
    """Load a model from its file, on the CPU and in eval mode; return it with the file's metadata.

    Raises:
        CheckpointError: The file is missing or truncated, or needs a plugin that is not installed.
    """
    tensors, header = checkpoint.load(file)
    with torch.device("meta"):  # a spec of another size is rejected before it takes memory
        checkpoint.matched(build_vae(header.spec.model, header.facts).state_dict(), tensors, file)
    vae = build_vae(header.spec.model, header.facts, seed=0)
    checkpoint.load_weights(vae, tensors, file)
    return vae.eval().requires_grad_(False), header


def load_splits(spec: RunSpec) -> Splits:
    """Load the data of a spec.

    Raises:
        DataError: The data are missing or unreadable, or have missing values that the spec does not allow.
    """
    splits: Splits = roles.datasets.build(spec.data.dataset).load()
    return splits.with_missing(spec.data.missing)
