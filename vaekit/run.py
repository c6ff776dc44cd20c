"""The Python interface to runs: `train`, `resume`, `load`, and the `Run` class."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from vaekit import hub, roles
from vaekit.compute.distributed import ProcessGroup, join
from vaekit.compute.layout import lay_out
from vaekit.data.batches import Batches
from vaekit.data.pixels import Array
from vaekit.data.specs import Fit
from vaekit.data.table import write_table
from vaekit.drawing.album import Album
from vaekit.errors import ExportError, UsageError, VaekitError
from vaekit.evaluation.embedding import BATCH, Embedding, embed, joined
from vaekit.evaluation.evaluator import Evaluator
from vaekit.evaluation.features import KEYS, FeatureRequest
from vaekit.evaluation.scores import Scores
from vaekit.export.exporter import Exported, Exporter
from vaekit.export.parts import PartName
from vaekit.export.trained import Trained, latents_of
from vaekit.extras import import_extra
from vaekit.files import local_path, printable_path, write_text, writing
from vaekit.model.assembly import assemble
from vaekit.model.vae import VAE
from vaekit.report.scoring import score_run
from vaekit.specs.models import LIMITS, RunSpec, plain_spec, spec_error
from vaekit.specs.options import build_spec, with_limits
from vaekit.specs.second_stage import distillation, second_stage
from vaekit.store import checkpoint, diffusers
from vaekit.store.folder import RunFolder, model_file
from vaekit.store.given import read_given
from vaekit.store.overview import overview
from vaekit.store.record import Record, load_model, load_splits
from vaekit.store.shared import SHARED_FILES, SHARED_FORMATS, write_shared
from vaekit.streams import Streams
from vaekit.training.hardware import check_loggers, fit_to_data, fit_to_machine, fit_to_model
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
        spec: A spec, its plain data, or the path of a YAML file; default: every option at its default.
        out: The run folder; default: the next number under ``runs/``. An existing run is never overwritten.
        reporter: Receives progress; default: none.
        options: Options as on the command line, which override the spec: ``encoder="cnn"``, ``loss="beta"``, ``beta=4``,
            ``epochs=3``, ``**{"encoder.channels": (16, 32)}``.

    Raises:
        UsageError: The request is invalid: an unknown name, an option of the wrong type, or parts that do not fit together.
        DataError: The data are missing or do not fit the model.
        DivergenceError: A loss became NaN or infinite.

    Example:
        >>> run = vaekit.train(loss="beta", beta=4, epochs=1)
        >>> run.vae().sample(8).shape
        torch.Size([8, 1, 28, 28])
    """
    whole = spec if isinstance(spec, RunSpec) and not options else build_spec(plain_spec(spec), options)
    check_loggers(whole)
    fitted = fit_to_machine(whole)
    with join(fitted.train.device) as processes:
        made = RunFolder.create(fitted, out) if processes.leads else None
        path = processes.share_text("" if made is None else str(made.path))
        folder = made or RunFolder(path)
        trainer = _begin(fitted, folder, reporter, processes)
        trainer.complete()
    return Run(folder)


def _begin(spec: RunSpec, folder: RunFolder, reporter: Reporter | None, processes: ProcessGroup) -> Trainer:
    """Start a new run and return its trainer; the folder of a run that cannot start is removed."""
    try:
        trainer = _trainer(spec, folder, reporter, processes)
        if processes.leads:
            folder.write_spec(trainer.spec)
        trainer.begin()
    except BaseException:
        if processes.leads:
            folder.discard()
        raise
    return trainer


def _trainer(
    spec: RunSpec, folder: RunFolder, reporter: Reporter | None, processes: ProcessGroup, *, allow_changed_data: bool = False
) -> Trainer:
    """Read the data of a spec, build its model, choose how its steps are launched, and return its trainer."""
    with processes.leader_first():
        splits = load_splits(spec)
    spec = fit_to_data(spec, splits, processes.size)
    objective = assemble(spec, splits)
    return Trainer(
        fit_to_model(spec, objective),
        objective,
        splits,
        folder,
        reporter=reporter,
        processes=processes,
        allow_changed_data=allow_changed_data,
    )


def resume(
    path: str | Path,
    *,
    device: str | None = None,
    reporter: Reporter | None = None,
    allow_changed_data: bool = False,
    **limits: Any,
) -> Run:
    """Resume a run from its last checkpoint, bit-exactly on the CPU with the same versions and number of threads.

    A run that ended before its first checkpoint starts again from the beginning, with the same result.

    New limits are written to the run's ``spec.yaml``. With more epochs, a finished run continues: as if it had had them from the
    start if the learning rate is constant or falls in steps. A cosine spans the new number of steps from then on, so the
    learning rate rises again.

    Args:
        path: The run folder.
        device: The device to continue on: ``auto``, ``cpu``, ``cuda`` or ``mps``; default: the run's device.
        reporter: Receives progress; default: none.
        allow_changed_data: Whether to continue on changed data.
        limits: New values of ``epochs``, ``max_steps``, ``max_time`` and ``patience``, as for `train`; ``"none"`` lifts one.

    Raises:
        DataError: The data have changed.
        CheckpointError: The folder is not a run, or its checkpoint is missing or truncated, or its architecture does not match.
        UsageError: The run is complete, an option is not a limit, or the device is not available.
    """
    run = Run(path)
    if run.folder.is_shared:
        raise UsageError(
            f"{hub.shown(path)} cannot be resumed: it is a run without its training state",
            expected="the folder in which it was trained",
            remedy=f"start a new run from its weights: vaekit train {hub.shown(path)} --init {hub.shown(path)}",
        )
    check_loggers(run.spec)
    limited = with_limits(run.spec, limits) if limits else run.spec
    spec = fit_to_machine(limited, device)
    with join(spec.train.device) as processes:
        begun = json.loads(processes.share_text(json.dumps(run.folder.has_begun())))
        if processes.leads and begun and not limits:
            _refuse_complete(run, spec)
        trainer = _trainer(spec, run.folder, reporter, processes, allow_changed_data=allow_changed_data)
        if processes.leads and begun and limits:
            _refuse_complete(run, trainer.spec)
        if processes.leads and not begun:
            run.folder.write_spec(trainer.spec)
        trainer.begin(resume=begun)
        if processes.leads and begun and limits:
            changed = {name: getattr(trainer.spec.train, name) for name in LIMITS}
            run.folder.write_spec(run.spec.model_copy(update={"train": run.spec.train.model_copy(update=changed)}))
        trainer.complete()
    return Run(run.folder)


def _refuse_complete(run: Run, spec: RunSpec) -> None:
    """Refuse to resume a run that the limits of a spec have ended.

    Raises:
        UsageError: It has ended; the message names the limit.
    """
    if not run.is_complete(spec.train):
        return
    train, (epoch, _) = spec.train, run.position()
    limit = "patience" if epoch < train.epochs else "epochs" if train.max_steps is None else "max_steps"
    flag, value = f"--{limit.replace('_', '-')}", getattr(train, limit)
    done = f"it stopped after epoch {epoch}" if limit == "patience" else f"all {epoch} epochs are complete"
    raise UsageError(
        f"{run.path} is complete: {done}",
        given=f"{flag} {value}",
        remedy=f"to continue training, raise that limit: vaekit resume {run.path} {flag} N",
    )


def import_diffusers(
    folder: str | Path, *, out: str | Path | None = None, reporter: Reporter | None = None, **options: Any
) -> Run:
    """Import an autoencoder saved by diffusers as a run at epoch 0, with its metrics on the test set of a dataset.

    The run can be evaluated, sampled and exported; `resume` continues its training, as does `train` with its spec and ``init``.

    Args:
        folder: A folder written by ``save_pretrained`` of `AutoencoderKL` or `VQModel`.
        out: The run folder; default: the next number under ``runs/``.
        reporter: Receives the metrics; default: none.
        options: Options as for `train`, such as the dataset, that override those of the model.

    Raises:
        CheckpointError: The folder is damaged, or `ldm` cannot represent its model.
        UsageError: The options do not fit the model.
    """
    model = diffusers.model_of(diffusers.read_config(local_path(folder)))
    spec, own = build_spec({"model": model}, {**options, "init": str(folder)}), build_spec({"model": model}, {})
    for part in ("encoder", "decoder", "posterior"):
        given, expected = (getattr(each.model, part).model_dump(exclude={"checkpointing"}) for each in (spec, own))
        if given != expected:
            raise UsageError(f"the {part} differs from that of the model in {folder}", given=given, expected=expected)
    fitted = fit_to_machine(spec)
    with join(fitted.train.device) as processes:
        made = RunFolder.create(fitted, out)
        trainer = _begin(fitted, made, reporter, processes)
        with trainer.session():
            trainer.checkpoints.save_best(0)
            trainer.save()
            trainer.finish()
    return Run(made)


def fit_prior(
    run: Run | str | Path,
    prior: str,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Fit a prior to the codes of a trained model, and return the run of the whole model with that prior.

    Nothing else is trained: codes and reconstructions are identical to the run's, bit for bit. See `vaekit.specs.second_stage`.

    Args:
        run: A run, or its folder.
        prior: The kind of the prior.
        out: The folder of the new run; default: the next number under ``runs/``.
        reporter: Receives progress; default: none.
        options: Options of training, of the prior and of its loss, as for `train`: ``epochs=10``, ``num_components=20``.

    Raises:
        CheckpointError: The folder is not a run, or has no model yet.
        UsageError: The prior is on another space than the codes, or an option is invalid.

    Example:
        >>> run = vaekit.train(posterior="delta", latent_dim=8, epochs=1)
        >>> vaekit.fit_prior(run, "mixture", epochs=1).vae().sample(4).shape
        torch.Size([4, 1, 28, 28])
    """
    first = run if isinstance(run, Run) else Run(run)
    return train(second_stage(first.path, prior), out=out, reporter=reporter, prior=prior, **options)


def distill(
    run: Run | str | Path,
    decoder: str,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> Run:
    """Train another decoder, usually a smaller one, for the codes of a trained model; return the run of the model with it.

    Encoder, posterior, prior and condition are identical to the run's, bit for bit, so either decoder can decode its codes. See
    `vaekit.specs.second_stage.distillation`, and `vaekit.benchmark.decoders.compare_decoders` for a comparison.

    Args:
        run: A run, or its folder.
        decoder: The kind of the decoder.
        out: The folder of the new run; default: the next number under ``runs/``.
        reporter: Receives progress; default: none.
        options: Options of training, of the decoder and of further losses, as for `train`: ``epochs=10``,
            ``**{"decoder.channels": (16, 8)}``, ``loss="perceptual"``.

    Raises:
        CheckpointError: The folder is not a run, or has no model yet.
        UsageError: The decoder does not fit the data, or an option is invalid.

    Example:
        >>> run = vaekit.train(latent_dim=8, epochs=1)
        >>> vaekit.distill(run, "mlp", epochs=1, **{"decoder.hidden": (32,)}).vae().sample(4).shape
        torch.Size([4, 1, 28, 28])
    """
    teacher = run if isinstance(run, Run) else Run(run)
    return train(distillation(teacher.path, decoder), out=out, reporter=reporter, decoder=decoder, **options)


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> VAE:
    """Load a trained model from a run folder, a model file or the Hub, on the CPU and in eval mode.

    Nothing downloaded from the Hub is executed or unpickled; the only code is that of vaekit and of installed plugins.

    Args:
        path: A run folder, a model file, or a run on the Hub: ``hf://user/name`` or ``hf://user/name@revision``.
        revision: A branch, a tag or a commit of a run on the Hub; default: the one in its name, else the main branch.
        token: A token of the Hub; default: that of HF_TOKEN or of `hf auth login`.
        cache_dir: A folder for downloads; default: the cache of `huggingface_hub`.
        local_files_only: Whether to use earlier downloads only, without contacting the Hub.

    Raises:
        CheckpointError: The file is missing or truncated, or needs a plugin that is not installed.
        HubError: The model does not exist on the Hub, or the Hub cannot be reached.
        UsageError: `huggingface_hub` is not installed.

    Example:
        >>> run = vaekit.train(latent_dim=2, epochs=1, pictures="none")
        >>> vaekit.load(run.path).decode(torch.zeros(1, 2)).shape
        torch.Size([1, 1, 28, 28])
    """
    given: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    return load_model(model_file(path, **given, local_files_only=local_files_only))[0]


class Run(Record):
    """A run folder and the operations on its model.

    Args:
        path: The run folder, or a run on the Hub: ``hf://user/name`` or ``hf://user/name@revision``. Downloads are copied to a
            folder in vaekit's cache, to which pictures, exports and evaluations are written.
        revision: A branch, a tag or a commit of a run on the Hub; default: the one in its name, else the main branch.
        token: A token of the Hub; default: that of HF_TOKEN or of `hf auth login`.
        cache_dir: A folder for downloads; default: the caches of `huggingface_hub` and of vaekit.
        local_files_only: Whether to use earlier downloads only, without contacting the Hub.

    Raises:
        CheckpointError: The path is not a run folder.
        HubError: The run does not exist on the Hub, or the Hub cannot be reached.
    """

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from vaekit.report.notebook import run_html

        return run_html(self)

    def evaluate(
        self,
        *,
        split: str = "test",
        samples: int = 0,
        features: FeatureRequest | None = None,
        device: str = "auto",
        precision: str = "fp32",
    ) -> dict[str, Any]:
        """Evaluate the best weights on a split and write the metrics: those of the test set to ``evaluation.json``.

        Other metrics of the same weights that ``evaluation.json`` already contains, such as log p(x), are kept.

        Args:
            split: ``train``, ``validation`` or ``test``.
            samples: The number K of importance samples for log p(x); default: 0, which skips it.
            features: The features in which reconstructions and samples are compared with images; default: none, which skips it.
            device: The device to compute on.
            precision: The dtype for log p(x), ``fp32`` or ``bf16``; everything else is computed in single precision.

        Raises:
            UsageError: The split, the precision or the device is unknown or not available, or the feature network cannot take the
                images.
            DataError: A file of weights, of features or of a loss, is missing or of another network.
        """
        if split not in ("train", "validation", "test"):
            raise UsageError("unknown split", given=split, expected="train, validation or test")
        if precision not in ("fp32", "bf16"):
            raise UsageError("unknown precision", given=precision, expected="fp32 or bf16")
        evaluator, epoch = self._evaluator(device)
        results = evaluator.evaluate(split, epoch)
        if samples:
            results |= evaluator.log_likelihood(split, samples=samples, precision=precision)
        if features is not None:
            results |= evaluator.compare_features(split, features)
        before = (self.evaluation() if split == "test" else None) or {}
        if before.get("epoch") == results["epoch"]:
            stale = KEYS if features is not None else ()  # metrics of other features
            results = {key: value for key, value in before.items() if key not in stale} | results
        file = self.folder.evaluation if split == "test" else self.path / f"evaluation-{split}.json"
        write_text(file, json.dumps(results, indent=2) + "\n")
        return results

    def score(
        self,
        data: str | Path | Array | None = None,
        *,
        score: str = "elbo",
        split: str | None = None,
        samples: int = 0,
        background: Run | str | Path | None = None,
        deterministic: bool = False,
        quantile: float | None = None,
        contamination: float | None = None,
        validation: str | Path | Array | None = None,
        anomalous: Sequence[str | int] = (),
        against: str | Path | Array | None = None,
        fit: Fit | None = None,
        seed: int = 0,
        device: str = "auto",
        batch_size: int | None = None,
        maps: str | Path | None = None,
        page: str | Path | None = None,
    ) -> Scores:
        """Score how anomalous the best model finds each example of a dataset; see `vaekit.evaluation.scores`.

        Each number is a function of the example, its position in the data and the seed. Examples are streamed; their numbers,
        about 100 bytes per example, are kept in memory. A threshold, from ``quantile`` or ``contamination``, is stored in
        ``threshold.json``, and applies to later calls with the same score and options.

        Args:
            data: A file or a folder, the name of a dataset, or an array with the axes that such a file has; default: the data of
                the run.
            score: The name of the score: ``elbo``, ``reconstruction``, ``kl``, ``squared_error``, ``log_likelihood``,
                ``input_complexity`` or ``likelihood_ratio``.
            split: ``train``, ``validation`` or ``test`` of the data; default: all if they are not split, else ``test``.
            samples: The number K of importance samples for log p(x); default: 0, which skips it.
            background: The background model of a likelihood ratio: a run on the same data with random changes.
            deterministic: Whether to avoid sampling, as exported scorers do: codes are means of q(z|x), so the ELBO becomes a
                higher number, which is not a bound, and grey pixels are not binarised at random.
            quantile: The share of normal scores that the threshold exceeds.
            contamination: The share of anomalies in the data, whose scores are above the threshold.
            validation: The normal examples for the quantile; default: the validation split of the run's data.
            anomalous: The labels of known anomalies, by name or number.
            against: A second dataset, of known anomalies.
            fit: How to fit image files of another size: ``crop``, ``pad`` or ``stretch``; default: as in training, else such
                files are an error.
            seed: The random seed.
            device: The device to compute on.
            batch_size: The number of examples at once, which affects only rounding; default: chosen by the device.
            maps: A new folder for a PNG per example, which shows the root mean squared error at each position.
            page: An HTML file for the most and the least likely examples and a histogram of the scores.

        Raises:
            UsageError: The score, the data or the device is unknown, options do not fit each other, or the model lacks a density
                that the score needs.
            DataError: The data are missing or unreadable or do not fit the model, or there is no validation split.

        Example:
            >>> run = vaekit.train(latent_dim=2, epochs=1, pictures="none")
            >>> scores = run.score(quantile=0.95)
            >>> scores["elbo"].shape, scores["above_threshold"].dtype
            ((1000,), dtype('bool'))
        """
        return score_run(
            self,
            data,
            score=score,
            split=split,
            samples=samples,
            background=background if isinstance(background, Run | None) else Run(background),
            deterministic=deterministic,
            quantile=quantile,
            contamination=contamination,
            validation=validation,
            anomalous=anomalous,
            against=against,
            fit=fit,
            seed=seed,
            device=fit_to_machine(self.spec, device).train.device,
            batch_size=batch_size,
            maps=maps,
            page=page,
        )

    def fit_prior(self, prior: str, *, out: str | Path | None = None, reporter: Reporter | None = None, **options: Any) -> Run:
        """Fit a prior to the codes of this model; return the run of the model with that prior. See `vaekit.fit_prior`."""
        return fit_prior(self, prior, out=out, reporter=reporter, **options)

    def distill(self, decoder: str, *, out: str | Path | None = None, reporter: Reporter | None = None, **options: Any) -> Run:
        """Train another decoder for the codes of this model; return the run of the model with it. See `vaekit.distill`."""
        return distill(self, decoder, out=out, reporter=reporter, **options)

    def embed(
        self,
        data: str | Path | Array | None = None,
        *,
        split: str | None = None,
        sample: bool = False,
        labels: Array | None = None,
        fit: Fit | None = None,
        batch_size: int = BATCH,
        seed: int | None = None,
        device: str = "auto",
    ) -> Embedding:
        """Return the codes of examples by the best model, with statistics of their posteriors.

        Args:
            data: A file or a folder, which may be larger than memory, the name of a dataset, or an array with the axes that such
                a file has; default: the run's own data.
            split: ``train``, ``validation`` or ``test``; default: all if the data are not split, else ``test``.
            sample: Whether codes are samples from q(z|x) instead of its means.
            labels: The labels of an array, integers or names, which conditional models need.
            fit: How to fit image files of another size: ``crop``, ``pad`` or ``stretch``; default: as in training, else such
                files are an error.
            batch_size: The number of examples encoded at once; up to rounding, the result does not depend on it.
            seed: The random seed; default: the run's.
            device: The device to compute on.

        Raises:
            DataError: The data are missing, unreadable or of another shape than the model's.
            UsageError: An option is invalid, or the data of a conditional model have no labels.

        Example:
            >>> run = vaekit.train(latent_dim=2, epochs=1, pictures="none")
            >>> codes = run.embed("digits", split="validation")
            >>> codes.z.shape, codes.std.shape, codes.label.shape
            ((1000, 2), (1000, 2), (1000,))
        """
        parts = self._embed(
            data, split=split, sample=sample, labels=labels, fit=fit, batch_size=batch_size, seed=seed, device=device
        )
        return joined([*parts])

    def embed_to(self, out: str | Path, data: str | Path | Array | None = None, **options: Any) -> tuple[Path, int]:
        """Write the result of `embed` to a table, a batch at a time; return its path and the number of rows.

        Args:
            out: A ``.parquet`` or ``.npz`` file with a column for each array of `Embedding`, or a ``.npy`` file of the codes.
            data: The data, as for `embed`.
            options: The options of `embed`.

        Raises:
            DataError: The data are missing, unreadable or of another shape than the model's.
            UsageError: An option or the suffix is invalid, or a library is required and not installed.
        """
        path, num = local_path(out), 0
        with write_table(path) as table:
            for part in self._embed(data, **options):
                table.append({"z": part.z} if path.suffix == ".npy" else part.columns)
                num += len(part)
        return path, num

    def _embed(
        self,
        data: str | Path | Array | None,
        *,
        split: str | None = None,
        sample: bool = False,
        labels: Array | None = None,
        fit: Fit | None = None,
        batch_size: int = BATCH,
        seed: int | None = None,
        device: str = "auto",
    ) -> Iterator[Embedding]:
        """Yield the codes of examples, a batch at a time; see `embed`."""
        spec = fit_to_machine(self.spec, device)
        source, split = read_given(self, data, split=split, fit=fit, labels=labels)
        streams = Streams(spec.train.seed if seed is None else seed)
        batches = Batches(
            source,
            batch_size=batch_size,
            streams=streams,
            binarize=spec.data.binarize,
            device=spec.train.device,
            train=False,
            split=split,
            workers=spec.train.workers,
        )
        yield from embed(self.vae().to(spec.train.device), batches, streams, sample=sample)

    @cached_property
    def pictures(self) -> Album:
        """The pictures of the best model: every picture, plugins' included, is a method."""
        return Album(self)

    def sample(self, num: int = 36, *, seed: int = 0, temperature: float = 1.0, out: str | Path | None = None) -> Path:
        """Write a PNG grid of images decoded from samples of the prior; return its path. See ``run.pictures.sample``."""
        path: Path = self.pictures.sample(num=num, seed=seed, temperature=temperature, out=out)
        return path

    def reconstruct(self, images: Sequence[str | Path], *, fit: Fit | None = None, out: str | Path | None = None) -> Path:
        """Write a PNG grid of images, each with its reconstruction below; return its path. See ``run.pictures.reconstruct``."""
        path: Path = self.pictures.reconstruct(images, fit=fit, out=out)
        return path

    def trained(self) -> Trained:
        """Load the best model together with the information that exporters need.

        The statistics of its latents are read from ``evaluation.json``. If there is none, they are measured on the validation
        images; if those are not available either, a warning is issued.
        """
        evaluation = self.evaluation()
        if evaluation is None or "latent_mean" not in evaluation:
            try:
                evaluator, epoch = self._evaluator("cpu")
                evaluation = evaluator.evaluate("validation", epoch)
            except VaekitError as error:
                evaluation = None
                warnings.warn(f"the latents' statistics are unknown: {error.message}; run `vaekit evaluate`", stacklevel=2)
        vae, header = load_model(self.folder.model)
        threshold, now = self.threshold(), header.state.get("epoch", 0)
        if threshold is not None and threshold.epoch != now:
            warnings.warn(f"the threshold is ignored: it belongs to epoch {threshold.epoch}, the model to {now}", stacklevel=2)
            threshold = None
        latents = latents_of(vae, evaluation)
        return Trained(vae, header.spec, header.versions, latents, header.facts.class_names, threshold)

    def export(
        self, exporter: str = "onnx", *, part: PartName = "decoder", out: str | Path | None = None, **options: Any
    ) -> Exported:
        """Export a part of the best model to a file that other programs can run, and verify it against the model.

        Args:
            exporter: The format: ``onnx``, ``torch``, or one from a plugin.
            part: ``decoder``, ``encoder``, ``autoencoder`` or ``scorer``, which needs a threshold; see `score`.
            out: The file; default: named after the part, in the run folder.
            options: Options of the exporter, such as ``fp16=True``.

        Raises:
            UsageError: The format, the part or an option is unknown.
            ExportError: The part cannot be exported, or the exported file differs from the model.
        """
        cls = roles.exporters.get(exporter)
        try:
            spec = roles.exporters.spec(exporter).model_validate({"kind": exporter, **options})
        except ValidationError as error:
            raise spec_error(error, f"the request to the exporter {exporter!r}") from None
        if part not in get_args(PartName):
            raise UsageError("unknown part of a model", given=part, expected=", ".join(get_args(PartName)))
        path = local_path(out) if out is not None else self.path / f"{part}{cls.suffix}"
        if path.suffix != cls.suffix:
            raise UsageError(f"the exporter {exporter!r} writes {cls.suffix} files", given=path)
        chosen: Exporter = roles.exporters.build(spec)
        return chosen.export(self.trained(), part, path)

    def to_diffusers(self, folder: str | Path | None = None) -> Exported:
        """Write the best model for diffusers, and verify with that library that it computes the same.

        Args:
            folder: The folder, which ``from_pretrained`` of `AutoencoderKL` or, for the posterior `vq`, `VQModel` then loads;
                default: ``diffusers`` in the run folder.

        Raises:
            ExportError: Neither class can represent the model; the message lists every reason.
            UsageError: diffusers is not installed.
        """
        from vaekit.export.diffusers import export

        return export(self.trained(), local_path(folder) if folder is not None else self.path / "diffusers")

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        repo: str | None = None,
        licence: str | None = None,
        exporters: Sequence[str] | None = None,
        reconstructions: bool = False,
    ) -> Path:
        """Write the files that `push_to_hub` uploads to a new folder, and return it.

        These are the model, its spec, its metrics, a model card, samples, the animation of training and decoders for other
        applications. The folder is a run that can be used like any other, but not resumed. See `vaekit.store.shared`.

        Args:
            folder: The folder, new or empty.
            repo: The repository that the model card names, ``user/name``; default: the folder.
            licence: The licence of the model, by an identifier of the Hub, such as ``cc-by-4.0``; default: none is stated.
            exporters: The formats of decoders to include; default: ``onnx`` and, if it is installed, ``playground``, each only if
                the decoder can be exported.
            reconstructions: Whether to include the last picture of reconstructions, which shows examples of the data.

        Raises:
            CheckpointError: The run has no model yet.
            ExportError: The decoder cannot be exported in a requested format.
            UsageError: The folder exists and is not empty, or `huggingface_hub` is not installed.
        """
        from vaekit.report.card import model_card

        import_extra("huggingface_hub", "hub", "sharing a run")
        place = printable_path(folder)
        title, source = place.name, str(place)
        if repo is not None:
            where = hub.repository(repo)
            title, source = where.repo.partition("/")[2], str(where)
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise UsageError(f"{place} exists and is not an empty folder", remedy="choose another one")
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as temporary:
                staged = Path(temporary) / place.name
                staged.mkdir()
                write_shared(self, staged)
                self._add_pictures(staged, reconstructions)
                self._add_decoders(staged, exporters, licence)
                names = sorted(file.name for file in staged.iterdir())
                card = model_card(overview(RunFolder(staged)), names, title=title, source=source, licence=licence)
                write_text(staged / "README.md", card)
                with suppress(FileNotFoundError):
                    place.rmdir()
                staged.rename(place)
        return place

    def _add_pictures(self, folder: Path, reconstructions: bool) -> None:
        """Draw samples, and copy the animation of training and the last reconstructions, if requested."""
        self.pictures.sample(out=folder / "samples.png")
        for file in self.path.glob("training.*"):
            shutil.copyfile(file, folder / file.name)
        if reconstructions:
            grids = sorted(self.folder.reconstructions.glob("epoch-*.png"))
            if not grids:
                raise UsageError("the run has no pictures of reconstructions", remedy="leave --reconstructions out")
            shutil.copyfile(grids[-1], folder / "reconstructions.png")

    def _add_decoders(self, folder: Path, exporters: Sequence[str] | None, licence: str | None) -> None:
        """Export the decoder; a default format that cannot represent it is left out with a warning."""
        wanted = [kind for kind in SHARED_FORMATS if kind in roles.exporters] if exporters is None else exporters
        for kind in wanted:
            options: dict[str, Any] = {"licence": licence} if "licence" in roles.exporters.spec(kind).model_fields else {}
            try:
                self.export(kind, out=folder / f"decoder{roles.exporters.get(kind).suffix}", **options)
            except ExportError as error:
                if exporters is not None:
                    raise
                warnings.warn(f"the decoder is not included as {kind}: {error.message}", stacklevel=3)

    def push_to_hub(
        self,
        repo: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        licence: str | None = None,
        exporters: Sequence[str] | None = None,
        reconstructions: bool = False,
    ) -> str:
        """Upload the run to the Hugging Face Hub, as `save_pretrained` writes it, and return the address of the commit.

        Args:
            repo: The repository, ``user/name``, created if it does not exist.
            revision: The branch, created if it does not exist; default: main.
            token: A token with write access; default: that of HF_TOKEN or of `hf auth login`.
            private: Whether a new repository is private; default: its owner's setting.
            commit_message: The commit message.
            licence: The licence of the model, by an identifier of the Hub; default: none is stated.
            exporters: The formats of decoders to include; default: as for `save_pretrained`.
            reconstructions: Whether to include a picture that shows examples of the data.

        Raises:
            CheckpointError: The run has no model yet.
            HubError: The Hub cannot be reached, or refuses the upload.
            UsageError: There is no token, or `huggingface_hub` is not installed.
        """
        where = hub.repository(repo)
        if where.revision is not None and revision is not None:
            raise UsageError("two revisions are given", given=f"{repo} and {revision!r}", remedy="leave one of them out")
        hub.check_token(token)
        with tempfile.TemporaryDirectory(prefix="vaekit-") as temporary:
            folder = Path(temporary) / "run"
            self.save_pretrained(folder, repo=where.repo, licence=licence, exporters=exporters, reconstructions=reconstructions)
            return hub.upload(
                folder,
                where._replace(revision=revision or where.revision),
                replaces=SHARED_FILES,
                token=token,
                private=private,
                commit_message=commit_message,
            )

    def _evaluator(self, device: str) -> tuple[Evaluator, int]:
        """Return an evaluator of the best weights, and the epoch they come from."""
        spec = fit_to_machine(self.spec, device)
        objective = assemble(spec, self.splits).to(spec.train.device)
        epoch = checkpoint.load_best(objective, self.folder, device=spec.train.device)
        alone = ProcessGroup(device=spec.train.device)
        return Evaluator(spec, objective, self.splits, alone, lay_out(objective)), epoch
