"""Runs from Python: `train`, `resume`, `load`, and the `Run` that they give."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from vaekit import roles
from vaekit.compute.distributed import ProcessGroup, join
from vaekit.compute.layout import lay_out
from vaekit.data.specs import Fit
from vaekit.errors import UsageError, VaekitError
from vaekit.evaluation.evaluator import Evaluator
from vaekit.export.exporter import Exported, Exporter
from vaekit.export.parts import PartName
from vaekit.export.trained import Trained, latents_of
from vaekit.files import write_text
from vaekit.model.assembly import assemble
from vaekit.model.vae import VAE
from vaekit.pictures.album import Album
from vaekit.specs.models import RunSpec, plain_spec, spec_error
from vaekit.specs.options import build_spec
from vaekit.store import checkpoint
from vaekit.store.folder import RunFolder
from vaekit.store.record import Record, load_model, load_splits
from vaekit.training.compilation import choose_compilation
from vaekit.training.hardware import check_loggers, fit_to_machine
from vaekit.training.progress import Reporter
from vaekit.training.trainer import Trainer


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Train a model and return its run.

    Args:
        spec: A spec, plain data of one, or the path of a YAML file; default: all defaults.
        out: The run folder; default: the next number under ``runs/``. An existing run is never overwritten.
        reporter: Receives the progress; default: nobody does.
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
    whole = spec if isinstance(spec, RunSpec) and not options else build_spec(plain_spec(spec), options)
    check_loggers(whole)
    fitted = fit_to_machine(whole)
    with join(fitted.train.device) as processes:
        made = RunFolder.create(fitted, out) if processes.leads else None
        folder = RunFolder(processes.share_text("" if made is None else str(made.path)))
        trainer = _begin(fitted, folder, reporter, processes)
        trainer.complete()
    return Run(folder)


def _begin(spec: RunSpec, folder: RunFolder, reporter: Reporter | None, processes: ProcessGroup) -> Trainer:
    """Return the trainer of a new run, which has begun; a folder whose run cannot begin is removed."""
    try:
        with processes.leader_first():
            splits = load_splits(spec)
        objective = assemble(spec, splits)
        spec = choose_compilation(spec, objective)
        trainer = Trainer(spec, objective, splits, folder, reporter=reporter, processes=processes)
        if processes.leads:
            folder.write_spec(spec)
        trainer.begin()
    except BaseException:
        if processes.leads:
            folder.discard()
        raise
    return trainer


def resume(path: str | Path, *, device: str | None = None, reporter: Reporter | None = None) -> Run:
    """Continue a run from its last checkpoint: bit-exactly on the CPU, with the same versions and number of threads.

    Args:
        path: The run folder.
        device: Where to continue: ``auto``, ``cpu``, ``cuda`` or ``mps``; default: where it was.
        reporter: Receives the progress; default: nobody does.

    Raises:
        CheckpointError: There is no run, or its checkpoint is missing, truncated or of another architecture.
        UsageError: The run is complete, or the device is not there.
    """
    run = Run(path)
    check_loggers(run.spec)
    spec = fit_to_machine(run.spec, device)
    with join(spec.train.device) as processes:
        if processes.leads and run.is_complete():
            raise UsageError(
                f"{run.path} is complete: all {run.spec.train.epochs} epochs are done",
                remedy=f"for a longer run, train again: vaekit train {run.folder.spec} --epochs N",
            )
        with processes.leader_first():
            splits = run.splits
        objective = assemble(spec, splits)
        spec = choose_compilation(spec, objective)
        Trainer(spec, objective, splits, run.folder, reporter=reporter, processes=processes).fit(resume=True)
    return run


def load(path: str | Path) -> VAE:
    """Load a trained model, in eval mode on the CPU, from a run folder or a model file.

    Raises:
        CheckpointError: The file is missing, truncated, or needs a plugin that is not installed.
    """
    path = Path(path)
    return load_model(RunFolder(path).require().model if path.is_dir() else path)[0]


class Run(Record):
    """A run folder and what can be done with the model in it.

    Args:
        path: The folder.

    Raises:
        CheckpointError: It is not a run folder.
    """

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from vaekit.report.notebook import run_html

        return run_html(self)

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
        evaluator, epoch = self._evaluator(device)
        results = evaluator.evaluate(split, epoch)
        if samples:
            results |= evaluator.log_likelihood(split, samples=samples, precision=precision)
        before = (self.evaluation() if split == "test" else None) or {}
        if before.get("epoch") == results["epoch"]:
            results = before | results
        file = self.folder.evaluation if split == "test" else self.path / f"evaluation-{split}.json"
        write_text(file, json.dumps(results, indent=2) + "\n")
        return results

    @cached_property
    def pictures(self) -> Album:
        """What can be drawn of the best model: every picture, of plugins too, is a method."""
        return Album(self)

    def sample(self, num: int = 36, *, seed: int = 0, temperature: float = 1.0, out: str | Path | None = None) -> Path:
        """Write a PNG grid of images decoded from prior draws; return its path. See ``run.pictures.sample``."""
        path: Path = self.pictures.sample(num=num, seed=seed, temperature=temperature, out=out)
        return path

    def reconstruct(self, images: Sequence[str | Path], *, fit: Fit | None = None, out: str | Path | None = None) -> Path:
        """Write a PNG grid of images, each with its reconstruction below; return its path. See ``run.pictures.reconstruct``."""
        path: Path = self.pictures.reconstruct(images, fit=fit, out=out)
        return path

    def trained(self) -> Trained:
        """Load the best model with what is known of it, as exporters take it.

        What its latents carry is read from ``evaluation.json``; without one it is measured on the validation images, and where
        those are not at hand either, a warning says that it is unknown.
        """
        evaluation = self.evaluation()
        if evaluation is None or "latent_mean" not in evaluation:
            try:
                evaluator, epoch = self._evaluator("cpu")
                evaluation = evaluator.evaluate("validation", epoch)
            except VaekitError as error:
                evaluation = None
                warnings.warn(f"what the latents carry is unknown: {error.message}; `vaekit evaluate` finds out", stacklevel=2)
        vae, header = load_model(self.folder.model)
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
        cls = roles.exporters.get(exporter)
        try:
            spec = roles.exporters.spec(exporter).model_validate({"kind": exporter, **options})
        except ValidationError as error:
            raise spec_error(error, f"what was asked of the exporter {exporter!r}") from None
        if part not in get_args(PartName):
            raise UsageError("a model has no such part", given=part, expected=", ".join(get_args(PartName)))
        path = Path(out) if out is not None else self.path / f"{part}{cls.suffix}"
        if path.suffix != cls.suffix:
            raise UsageError(f"the exporter {exporter!r} writes {cls.suffix} files", given=path)
        chosen: Exporter = roles.exporters.build(spec)
        return chosen.export(self.trained(), part, path)

    def _evaluator(self, device: str) -> tuple[Evaluator, int]:
        """Return what evaluates the best weights, and the epoch that they are of."""
        spec = fit_to_machine(self.spec, device)
        objective = assemble(spec, self.splits).to(spec.train.device)
        epoch = checkpoint.load_best(objective, self.folder, device=spec.train.device)
        alone = ProcessGroup(device=spec.train.device)
        return Evaluator(spec, objective, self.splits, alone, lay_out(objective)), epoch
