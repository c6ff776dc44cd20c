"""Runs from Python: `train`, `resume`, `load`, and the `Run` that they give."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError

from vaekit import registry
from vaekit.assembly import build_vae, moved, resolve, resolve_compile
from vaekit.data import Splits
from vaekit.data.images import Fit
from vaekit.errors import UsageError, VaekitError
from vaekit.evaluation.importance import log_likelihood
from vaekit.export.parity import Exported
from vaekit.export.parts import PartName
from vaekit.export.trained import Trained, latents_of
from vaekit.files import write_text
from vaekit.options import build_spec
from vaekit.pictures.album import Album
from vaekit.specs import RunSpec, parse_spec, plain_spec, read_spec, spec_error
from vaekit.training import checkpoint
from vaekit.training.folder import RunFolder
from vaekit.training.report import Reporter
from vaekit.training.trainer import Trainer
from vaekit.training.world import World, join
from vaekit.vae import VAE


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Train a model and return its run.

    Args:
        spec: A spec, plain data of one, or the path of a YAML file; the defaults unless given.
        out: The run folder; by default the next number under ``runs/``. An existing run is never overwritten.
        reporter: Receives the progress; by default nobody does.
        options: As on the command line, and over the spec: ``encoder="cnn"``, ``loss="beta"``, ``beta=4``, ``epochs=3``,
            ``**{"encoder.channels": (16, 32)}``.

    Raises:
        UsageError: The request is wrong: an unknown name, an option of the wrong type, parts that do not fit.
        DataError: The data are missing or do not fit.
        DivergenceError: A loss became NaN or infinite.

    Example:
        >>> run = vaekit.train(encoder="cnn", loss="beta", beta=4)  # doctest: +SKIP
        >>> run.vae().sample(8).shape  # doctest: +SKIP
        torch.Size([8, 1, 28, 28])
    """
    resolved = resolve(build_spec(plain_spec(spec), options))
    with join(resolved.train.device) as world:
        made = RunFolder.create(resolved, out) if world.leads else None
        folder = RunFolder(world.share_text("" if made is None else str(made.path)))
        trainer = _begin(resolved, folder, reporter, world)
        trainer.complete()
    return Run(folder)


def _begin(spec: RunSpec, folder: RunFolder, reporter: Reporter | None, world: World) -> Trainer:
    """Return the trainer of a new run, which has begun; a folder whose run cannot begin is removed."""
    try:
        with world.leader_first():
            splits = load_splits(spec)
        spec = resolve_compile(spec, splits.shape, len(splits.train))
        trainer = Trainer(spec, splits, folder, reporter, world)
        if world.leads:
            folder.write_spec(spec)
        trainer.begin()
    except BaseException:
        if world.leads:
            folder.discard()
        raise
    return trainer


def resume(path: str | Path, *, device: str | None = None, reporter: Reporter | None = None) -> Run:
    """Continue a run from its last checkpoint: bit-exactly on the CPU, with the same versions and number of threads.

    Args:
        path: The run folder.
        device: Where to go on: ``auto``, ``cpu``, ``cuda`` or ``mps``; where it was, unless given.
        reporter: Receives the progress; by default nobody does.

    Raises:
        CheckpointError: There is no run, or its checkpoint is missing, truncated or of another architecture.
        UsageError: The run is complete, or the device is not there.
    """
    run = Run(path)
    spec = moved(run.spec, device)
    with join(spec.train.device) as world:
        if world.leads and run.is_complete():
            raise UsageError(
                f"{run.path} is complete: all {run.spec.train.epochs} epochs are done",
                remedy=f"for a longer run train anew: vaekit train {run.folder.spec} --epochs N",
            )
        with world.leader_first():
            splits = run.splits
        spec = resolve_compile(spec, splits.shape, len(splits.train))
        Trainer(spec, splits, run.folder, reporter, world).fit(resume=True)
    return run


def load(path: str | Path) -> VAE:
    """Load a trained model, in eval mode on the CPU, from a run folder or a model file.

    Raises:
        CheckpointError: The file is missing, truncated, or needs a plugin that is not installed.
    """
    path = Path(path)
    return _load_model(RunFolder(path).require().model if path.is_dir() else path)[0]


class Run:
    """A run folder and what can be done with the model in it.

    Args:
        path: The folder; a `RunFolder` need not be on this machine.

    Raises:
        CheckpointError: It is no run folder.
    """

    def __init__(self, path: str | Path | RunFolder) -> None:
        self.folder = path if isinstance(path, RunFolder) else RunFolder(path).require()
        self.path = self.folder.path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from vaekit.pictures.notebook import run_html

        return run_html(self)

    @cached_property
    def spec(self) -> RunSpec:
        """The resolved spec."""
        return parse_spec(read_spec(self.folder.spec), str(self.folder.spec))

    @cached_property
    def splits(self) -> Splits:
        """The data that it was trained on, read anew."""
        return load_splits(self.spec)

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

    def vae(self) -> VAE:
        """Load the best model, in eval mode on the CPU."""
        return load(self.path)

    def evaluate(self, *, split: str = "test", samples: int = 0, device: str = "auto", precision: str = "fp32") -> dict[str, Any]:
        """Evaluate the best weights on a split, and write the numbers: the test set's to ``evaluation.json``.

        What ``evaluation.json`` holds of the same weights besides, such as log p(x), is kept.

        Args:
            split: ``train``, ``validation`` or ``test``.
            samples: Importance samples K for log p(x); none by default.
            device: Where to compute.
            precision: Arithmetic of log p(x), ``fp32`` or ``bf16``; all else is computed in single precision.
        """
        if split not in ("train", "validation", "test"):
            raise UsageError("there is no such split", given=split, expected="train, validation or test")
        if precision not in ("fp32", "bf16"):
            raise UsageError("there is no such precision", given=precision, expected="fp32 or bf16")
        trainer = self._trainer(device)
        results = trainer.test(split)
        if samples:
            batches = trainer.evaluation_batches(split).epoch(0)
            with torch.autocast(trainer.device.type, torch.bfloat16, enabled=precision == "bf16"):
                results |= log_likelihood(trainer.objective.vae, batches, trainer.streams, samples=samples, split=split)
        before = (self.evaluation() if split == "test" else None) or {}
        if before.get("epoch") == results["epoch"]:
            results = before | results
        file = self.folder.evaluation if split == "test" else self.path / f"evaluation-{split}.json"
        write_text(file, json.dumps(results, indent=2) + "\n")
        return results

    @cached_property
    def pictures(self) -> Album:
        """What can be drawn of the best model: samples, traversals, scatter plots and more, a method each."""
        return Album(self)

    def sample(self, num: int = 36, *, seed: int = 0, temperature: float = 1.0, out: str | Path | None = None) -> Path:
        """Write a PNG grid of images decoded from prior draws; return its path. See `Album.sample`."""
        return self.pictures.sample(num, seed=seed, temperature=temperature, out=out)

    def reconstruct(self, images: Sequence[str | Path], *, fit: Fit | None = None, out: str | Path | None = None) -> Path:
        """Write a PNG grid of images, each with its reconstruction below; return its path. See `Album.reconstruct`."""
        return self.pictures.reconstruct(images, fit=fit, out=out)

    def trained(self) -> Trained:
        """Load the best model with what is known of it, as exporters take it.

        What its latents carry is read from ``evaluation.json``; without one it is measured on the validation images, and where
        those are not at hand either, a warning says that it is unknown.
        """
        vae, header = _load_model(self.folder.model)
        evaluation = self.evaluation()
        if evaluation is None or "latent_mean" not in evaluation:
            try:
                evaluation = self._trainer("cpu").test("validation")
            except VaekitError as error:
                evaluation = None
                warnings.warn(f"what the latents carry is unknown: {error.message}; `vaekit evaluate` finds out", stacklevel=2)
        return Trained(vae, header.spec, header.versions, latents_of(vae, evaluation))

    def export(
        self, exporter: str = "onnx", *, part: PartName = "decoder", out: str | Path | None = None, **options: Any
    ) -> Exported:
        """Write a part of the best model as a file that other programs run, and verify it against the model.

        Args:
            exporter: The format: ``onnx``, ``torch``, or a plugin's.
            part: ``decoder``, ``encoder`` or ``autoencoder``.
            out: The file; named after the part, in the run folder, unless given.
            options: Of the exporter, as ``fp16=True``.

        Raises:
            UsageError: There is no such format, part or option.
            ExportError: The part cannot be written, or what was written differs from the model.
        """
        cls = registry.exporters.get(exporter)
        try:
            spec = registry.exporters.spec(exporter).model_validate({"kind": exporter, **options})
        except ValidationError as error:
            raise spec_error(error, f"what was asked of the exporter {exporter!r}") from None
        if part not in get_args(PartName):
            raise UsageError("a model has no such part", given=part, expected=", ".join(get_args(PartName)))
        path = Path(out) if out is not None else self.path / f"{part}{cls.suffix}"
        if path.suffix != cls.suffix:
            raise UsageError(f"the exporter {exporter!r} writes {cls.suffix} files", given=path)
        return registry.exporters.build(spec).export(self.trained(), part, path)

    def _trainer(self, device: str) -> Trainer:
        """Return a trainer that has the best weights in place."""
        return Trainer(moved(self.spec, device), self.splits, self.folder).load_best()


def _load_model(file: Path) -> tuple[VAE, checkpoint.Header]:
    tensors, header = checkpoint.load(file)
    vae = build_vae(header.spec.model, header.image_shape, seed=0)
    checkpoint.load_weights(vae, tensors, file)
    return vae.eval().requires_grad_(False), header


def load_splits(spec: RunSpec) -> Splits:
    """Read the data of a spec."""
    return registry.datasets.build(spec.data.dataset).load()
