"""The scores of a dataset under the model of a run: streamed, compared with a threshold, and shown on a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.compute.layout import lay_out
from vaekit.data.batches import Batches
from vaekit.data.pixels import Array
from vaekit.drawing.grid import single_images
from vaekit.errors import DataError, UsageError, VaekitError
from vaekit.evaluation.bound import meaning_of_elbo
from vaekit.evaluation.detection import Threshold
from vaekit.evaluation.evaluator import BATCH_NUMBERS
from vaekit.evaluation.scores import Measured, Scores, find_score, measure, score_of
from vaekit.files import local_path, write_text, writing
from vaekit.interfaces import without_density
from vaekit.report.scores_page import Example, Extremes, map_to_show, write_page
from vaekit.store.given import read_given
from vaekit.store.record import load_model
from vaekit.streams import Streams
from vaekit.training.checks import check_examples

if TYPE_CHECKING:
    from vaekit.data.sources import ImageSource
    from vaekit.data.specs import Binarize, Fit
    from vaekit.model.vae import VAE
    from vaekit.store.record import Record


@dataclass(frozen=True)
class Given:
    """Examples to score.

    Args:
        name: A description, such as ``the test split of mnist``.
        source: The examples.
        split: The name of their split, to which the noise of binarisation belongs.
        binarize: How grey values become 0 or 1.
    """

    name: str
    source: ImageSource
    split: str
    binarize: Binarize

    def __len__(self) -> int:
        return len(self.source)

    @property
    def is_binary(self) -> bool:
        """Whether the model sees pixels of 0 and 1 only."""
        return self.binarize != "none" or self.source.is_binary

    @cached_property
    def files(self) -> Sequence[str] | None:
        """The file of each example; None if they are not in files of their own."""
        return self.source.names

    @cached_property
    def labels(self) -> Array | None:
        """The numbers of the classes, ``(N,)``; None without labels."""
        labels = self.source.labels
        return None if labels is None else labels.cpu().numpy()

    @cached_property
    def classes(self) -> Array | None:
        """The names of the classes, or their numbers as text if they have no names, ``(N,)``; None without labels."""
        names = self.source.class_names
        if self.labels is None:
            return None
        found: Array = self.labels.astype(str) if names is None else np.array(names)[self.labels]
        return found

    @property
    def places(self) -> dict[str, Array]:
        """The columns that identify the example of each row; see `vaekit.data.sources.ImageSource.places`."""
        return self.source.places(torch.arange(len(self)))

    def caption(self, row: int) -> str:
        """Describe an example: its file or row, and its class."""
        place = f"row {row}" if self.files is None else Path(self.files[row]).name
        return place if self.classes is None else f"{place}, label {self.classes[row]}"

    def batches(self, batch_size: int, device: torch.device, workers: int) -> Batches:
        """Return the batches of the examples: all of them, in order."""
        return Batches(
            self.source,
            batch_size=batch_size,
            streams=Streams(0),  # unused in evaluation: the noise of binarisation belongs to the examples
            binarize=self.binarize,
            device=device,
            train=False,
            split=self.split,
            workers=workers,
        )


class Scoring:
    """Scores examples with the model of a run.

    Args:
        run: The run.
        score: The name of the score; see `vaekit.evaluation.scores.SCORES`.
        samples: The number of importance samples for log p(x); 0 skips it.
        background: The run of the background model of a likelihood ratio.
        deterministic: Whether nothing is sampled; see `vaekit.evaluation.scores.measure`. Grey pixels are then not binarised at
            random either.
        seed: The random seed.
        device: The device, which is available.
        batch_size: The number of examples at once; default: the training batch size, but more on a GPU.

    Raises:
        UsageError: The options do not fit each other, or the background model was trained on other data.
        CheckpointError: A run has no model yet.
    """

    def __init__(
        self,
        run: Record,
        *,
        score: str = "elbo",
        samples: int = 0,
        background: Record | None = None,
        deterministic: bool = False,
        seed: int = 0,
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        if deterministic and samples:
            raise UsageError("importance samples are random, so they exclude a deterministic score", given=f"{samples} samples")
        self.run, self.score, self.samples, self.deterministic, self.seed = run, score, samples, deterministic, seed
        vae, header = load_model(run.folder.model)
        self.vae, self.device = vae.to(device), torch.device(device)
        self.epoch: int = header.state.get("epoch", 0)
        self.background = None if background is None else self._background(background)
        self.about = {
            "score": score,
            "deterministic": deterministic,
            "samples": samples if find_score(score).sampled else 0,
            "epoch": self.epoch,
            "background": str(background.path) if background is not None and score == "likelihood_ratio" else None,
        }
        """The options on which a threshold depends."""
        size = run.spec.train.batch_size
        many = size if self.device.type == "cpu" else max(size, BATCH_NUMBERS // math.prod(vae.data_shape))
        self.batch_size = many if batch_size is None else batch_size
        for model in filter(None, (self.vae, self.background)):
            lay_out(model)

    def _background(self, run: Record) -> VAE:
        model = load_model(run.folder.model)[0].to(self.device)
        own, other = (
            (vae.data_shape, vae.value_range, record.spec.data.binarize, vae.likelihood.scores, vae.likelihood.normalised)
            for vae, record in ((self.vae, self.run), (model, run))
        )
        if own != other:
            raise UsageError(
                f"the likelihoods of {self.run.path} and of the background model {run.path} are not comparable",
                given=f"shape, range, binarisation, likelihood and whether it is normalised: {other}",
                expected=f"{own}",
                remedy="train it with the same options on images with random changes",
            )
        if reason := without_density(model.posterior, model.prior):
            raise UsageError(f"the background model {run.path} has no likelihood, since {reason}")
        return model

    def given(self, data: str | Path | Array | None = None, *, split: str | None = None, fit: Fit | None = None) -> Given:
        """Return the examples named by the user, in the form the model takes; see `vaekit.store.given.read_given`.

        Raises:
            UsageError: An option does not apply, or log p(x) is not defined for the examples.
            DataError: They are missing or unreadable, do not fit the model, or there are none.
        """
        source, found = read_given(self.run, data, split=split, fit=fit)
        named = "the run's data" if data is None else Path(data).resolve().name if isinstance(data, str | Path) else "an array"
        binarize = self.run.spec.data.binarize
        drawn = binarize in ("static", "dynamic")
        whole = split is None and found == "train"  # the data are not split
        name = named if whole else f"the {found} split of {named}"
        given = Given(name, source, found, "none" if drawn and self.deterministic else binarize)
        check_examples(self.vae.likelihood, {given.name: given.source})
        if not len(given):
            raise DataError("there is nothing to score", given=f"no examples in {given.name}")
        if self.samples and "bound" not in (meaning := self.elbo_is(given)):
            raise UsageError(
                "log p(x) is not defined for a cross-entropy on grey values",
                given=f"likelihood {self.vae.likelihood.kind!r}: {meaning}",
                remedy="leave out --samples",
            )
        return given

    def elbo_is(self, given: Given) -> str:
        """Describe what the ELBO of examples means; see `vaekit.evaluation.bound.meaning_of_elbo`."""
        if self.deterministic:
            return "log p(x|z) at the mean z of q(z|x), minus the KL, nats: not a bound"
        missing = self.run.spec.data.missing != "refuse"
        likelihood, limits = self.vae.likelihood, self.vae.value_range
        return meaning_of_elbo(likelihood, binary=given.is_binary, value_range=limits, missing=missing)

    def measured(self, given: Given) -> Iterator[Measured]:
        """Yield the numbers of examples, including the score, batch by batch."""
        workers = self.run.spec.train.workers
        draws: dict[str, Any] = {"seed": self.seed, "deterministic": self.deterministic, "samples": self.samples}
        complexity = self.score == "input_complexity"
        batches = given.batches(self.batch_size, self.device, workers)
        own = measure(self.vae, batches.epoch(0), **draws, complexity=complexity, binary=given.is_binary)
        others = (
            None
            if self.background is None
            else measure(self.background, given.batches(self.batch_size, self.device, workers).epoch(0), **draws)
        )
        for each in own:
            if others is not None:
                other = next(others).numbers
                each.numbers["background"] = other["log_likelihood" if self.samples else "elbo"]
            each.numbers["score"] = score_of(self.score, each.numbers)
            yield each

    def numbers(self, given: Given, see: Callable[[Measured], None] | None = None) -> dict[str, Array]:
        """Return the numbers of all examples by name.

        Args:
            given: The examples.
            see: Receives each batch, for pictures.

        Raises:
            DataError: A score is NaN.
        """
        parts: list[dict[str, Tensor]] = []
        for each in self.measured(given):
            parts.append(each.numbers)
            if see is not None:
                see(each)
        found = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        if np.isnan(found["score"]).any():
            rows = np.flatnonzero(np.isnan(found["score"]))
            raise DataError(f"the score {self.score} is NaN", given=f"{len(rows)} of {given.name}, the first in row {rows[0]}")
        return found

    def threshold_from(self, scores: Array, share: float, source: str) -> Threshold:
        """Return the threshold that a share of scores do not exceed, and store it with the run."""
        threshold = Threshold.of(scores, share, source=source, **self.about)
        write_text(self.run.folder.threshold, json.dumps(asdict(threshold), indent=2) + "\n")
        return threshold

    def stored_threshold(self) -> Threshold | None:
        """Return the threshold stored with the run; None if there is none for this score and its options."""
        found = self.run.threshold()
        return found if found is not None and self.about.items() <= asdict(found).items() else None


def score_run(
    run: Record,
    data: str | Path | Array | None = None,
    *,
    split: str | None = None,
    quantile: float | None = None,
    contamination: float | None = None,
    validation: str | Path | Array | None = None,
    anomalous: Sequence[str | int] = (),
    against: str | Path | Array | None = None,
    fit: Fit | None = None,
    maps: str | Path | None = None,
    page: str | Path | None = None,
    **options: Any,
) -> Scores:
    """Score a dataset; the arguments are those of `vaekit.Run.score`, the other options those of `Scoring`."""
    if quantile is not None and contamination is not None:
        raise UsageError("a threshold can have only one source", given="a quantile and a contamination", remedy="leave out one")
    if anomalous and against is not None:
        raise UsageError("anomalies are identified by label or by a dataset of their own", given="both", remedy="leave out one")
    scoring = Scoring(run, **options)
    parts = [scoring.given(data, split=split, fit=None if data is None else fit)]
    parts += [] if against is None else [scoring.given(against, fit=fit)]
    known = _anomalies(parts[0], anomalous) if anomalous else None
    folder = None if maps is None else _new_folder(local_path(maps))
    threshold = None
    if quantile is not None:
        normal = _validation(scoring, validation, fit)
        threshold = scoring.threshold_from(scoring.numbers(normal)["score"], quantile, normal.name)
    extremes = Extremes()
    columns: list[dict[str, Array]] = []
    for part in parts:
        begin = sum(len(each["row"]) for each in columns)
        width = len(str(sum(map(len, parts)) - 1))

        def see(each: Measured, part: Given = part, begin: int = begin, width: int = width) -> None:
            if folder is not None:
                _write_maps(folder, each, scoring.vae, begin, width)
            if page is not None:
                extremes.add(each.numbers["score"].numpy(), lambda i: _example(each, i, part, anomaly=begin > 0))

        data_set = {"data": np.full(len(part), part.name)} if len(parts) > 1 else {}
        columns.append(data_set | part.places | scoring.numbers(part, see))
    whole = _joined(columns)
    if against is not None:
        known = np.repeat([False, True], [len(each["row"]) for each in columns])
    if contamination is not None:
        threshold = scoring.threshold_from(whole["score"], 1 - contamination, " and ".join(part.name for part in parts))
    threshold = threshold or scoring.stored_threshold()
    if threshold is not None:
        whole["above_threshold"] = threshold.flags(whole["score"])
    if known is not None:
        whole["anomaly"] = known
    scores = Scores(scoring.score, whole, scoring.elbo_is(parts[0]), threshold)
    if page is not None:
        write_page(local_path(page), run, scoring.vae, scores, extremes=extremes, data=" and ".join(part.name for part in parts))
    return scores


def _validation(scoring: Scoring, validation: str | Path | Array | None, fit: Fit | None) -> Given:
    """Return the normal examples for a quantile: the given ones, else the validation split of the run.

    Raises:
        DataError: The run has none.
    """
    if validation is not None:
        return scoring.given(validation, fit=fit)
    try:
        return scoring.given(split="validation")
    except VaekitError as error:
        raise DataError(
            "a threshold from a quantile needs the validation split of the run's data",
            given=error.message,
            remedy="name normal examples: --validation DATA; or state the share of anomalies in the data: --contamination 0.05",
        ) from error


def _anomalies(given: Given, anomalous: Sequence[str | int]) -> Array:
    """Return which examples have one of the labels of anomalies.

    Raises:
        DataError: The examples have no labels.
        UsageError: No example has one of these labels.
    """
    if given.labels is None or given.classes is None:
        raise DataError("anomalies are identified by their label, but the data have no labels", given=given.name)
    names = list(map(str, anomalous))
    columns = given.classes, given.labels.astype(str)
    unknown = [name for name in names if not any(name in column for column in columns)]
    if unknown:
        present = ", ".join(np.unique(given.classes).tolist())
        raise UsageError(f"{given.name} has no such label", given=", ".join(unknown), expected=present)
    found: Array = np.isin(columns[0], names) | np.isin(columns[1], names)
    return found


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Join tables; a column that one of them lacks is empty text there, or -1."""
    columns = {}
    for name, model in {name: values for part in parts for name, values in part.items()}.items():
        absent = "" if model.dtype.kind == "U" else -1
        columns[name] = np.concatenate([part.get(name, np.full(len(part["row"]), absent)) for part in parts])
    return columns


# Pictures


def _new_folder(folder: Path) -> Path:
    """Create a folder.

    Raises:
        UsageError: It holds files, or cannot be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder", remedy="choose a new folder for the maps")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_maps(folder: Path, each: Measured, vae: VAE, begin: int, width: int) -> None:
    """Write the maps of a batch; each is named by its row in the table."""
    shown = map_to_show(each.batch.x, each.reconstruction, vae.value_range)
    for row, picture in zip(each.batch.index.tolist(), single_images(shown, small=1), strict=True):
        file = folder / f"{begin + row:0{width}}.png"
        with writing(file):
            picture.save(file, "PNG")


def _example(each: Measured, i: int, given: Given, *, anomaly: bool) -> Example:
    caption = ("anomaly, " if anomaly else "") + given.caption(int(each.batch.index[i]))
    x, reconstruction = each.batch.x[i].cpu(), each.reconstruction[i].cpu()
    return Example(float(each.numbers["score"][i]), caption, x.clone(), reconstruction.clone())
