"""Scores of single examples: how anomalous a model finds each of them. A higher score is more anomalous.

A model may assign data of another kind a higher likelihood than its own: one of clothes finds digits more probable than clothes,
since they are simpler. So log p(x) alone does not detect such data, and `SCORES` also has the known remedies.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.data.batches import Batch
from vaekit.data.pixels import Array
from vaekit.errors import UsageError
from vaekit.evaluation.detection import Threshold, at_threshold, auroc, average_precision
from vaekit.evaluation.importance import estimate_batch
from vaekit.interfaces import Capability, without_density
from vaekit.model.vae import VAE
from vaekit.streams import Streams
from vaekit.trace import Site, Trace, mean_over_samples

Columns = Mapping[str, Any]
"""Numbers by name, arrays or tensors, each with one number per example."""
BLOCK, ROWS = 64, 16
"""The number of importance samples drawn at once, and of examples whose samples are decoded at once."""
PNG_FRAME = 57
"""The bytes of a PNG file other than pixels."""


@dataclass(frozen=True)
class Score:
    """A score.

    Args:
        meaning: Its meaning, in a phrase.
        of: The formula, a function of numbers by name.
        needs: The numbers that it needs.
        of_evidence: Whether it needs log p(x) as well, or its bound, the ELBO, if log p(x) was not estimated.
    """

    meaning: str
    of: Callable[[Columns], Any]
    needs: tuple[str, ...]
    of_evidence: bool = False

    @property
    def sampled(self) -> bool:
        """Whether it changes with the number of importance samples."""
        return self.of_evidence or "log_likelihood" in self.needs


def _evidence(numbers: Columns) -> Any:
    """Return the estimate of log p(x) by importance sampling if there is one, else its bound, the ELBO."""
    return numbers["log_likelihood" if "log_likelihood" in numbers else "elbo"]


SCORES: dict[str, Score] = {
    "elbo": Score("-ELBO: -log p(x|z) plus the KL, nats", lambda n: -n["elbo"], ("elbo",)),
    "reconstruction": Score("-log p(x|z), nats", lambda n: n["reconstruction"], ("reconstruction",)),
    "kl": Score("KL(q(z|x) ‖ p(z)), nats", lambda n: n["kl"], ("kl",)),
    "squared_error": Score(
        "sum of (x - r)² for the reconstruction r from the mean of q(z|x)", lambda n: n["squared_error"], ("squared_error",)
    ),
    "log_likelihood": Score("-log p(x) by importance sampling, nats", lambda n: -n["log_likelihood"], ("log_likelihood",)),
    "input_complexity": Score(
        "-log p(x) minus the length of the image as a PNG, nats", lambda n: -_evidence(n) - n["complexity"], ("complexity",), True
    ),
    "likelihood_ratio": Score(
        "log p(x) of a background model minus log p(x), nats", lambda n: n["background"] - _evidence(n), ("background",), True
    ),
}
"""The scores by name.

References:
    Nalisnick et al. (2019), "Do Deep Generative Models Know What They Don't Know?", ICLR, arXiv:1810.09136.
    Serrà et al. (2020), "Input Complexity and Out-of-distribution Detection with Likelihood-based Generative Models", ICLR,
        arXiv:1909.11480, equation 2: ``input_complexity``.
    Ren et al. (2019), "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS, arXiv:1906.02845, equation 5:
        ``likelihood_ratio``, against a model of the same data with random changes.
"""
LACKING = {
    "log_likelihood": ("importance samples", "estimate log p(x): --samples 100"),
    "complexity": ("the complexity of each example", "measure it: --score input_complexity"),
    "background": ("a background model", "choose one: --background RUN"),
    "elbo": ("a posterior and a prior with densities", "use --score reconstruction or squared_error"),
    "kl": ("a posterior and a prior with densities", "use --score reconstruction or squared_error"),
}
"""What a number that a score needs depends on, and a remedy if it is missing."""


def score_of(name: str, numbers: Columns) -> Any:
    """Return a score from the numbers of examples.

    Raises:
        UsageError: The score is unknown, or a number that it needs is missing.
    """
    score = find_score(name)
    if lacking := next((each for each in _needs(score, numbers) if each not in numbers), None):
        what, remedy = LACKING.get(lacking, (lacking, None))
        raise UsageError(f"the score {name} needs {what}", remedy=remedy)
    return score.of(numbers)


def find_score(name: str) -> Score:
    """Return the score with a name.

    Raises:
        UsageError: It is unknown.
    """
    if name not in SCORES:
        raise UsageError("unknown score", given=name, expected=", ".join(SCORES))
    return SCORES[name]


def available(numbers: Columns) -> tuple[str, ...]:
    """Return the names of the scores that can be computed from the given numbers."""
    return tuple(name for name, score in SCORES.items() if all(each in numbers for each in _needs(score, numbers)))


def _needs(score: Score, numbers: Columns) -> tuple[str, ...]:
    known = "log_likelihood" in numbers or not score.of_evidence
    return score.needs if known else ("elbo", *score.needs)


# One batch


def trace_of_means(vae: VAE, x: Tensor, y: Tensor | None = None) -> Trace:
    """Return the trace of images whose codes are the means of q(z|x), without sampling.

    ``log p(x|z)`` is then that of the mean code, which exceeds its mean over q(z|x) by about half the variance of q times the
    curvature of ``-log p(x|z)``; so the ELBO is replaced by a higher number, which is not a bound. A KL without a closed form is
    ``log q(z|x) - log p(z)`` at the mean.
    """
    q, c = vae.encode(x, y), vae.condition_on(y)
    site = Site(q.mean, q, vae.prior(vae, c), Capability.LOG_PROB in vae.posterior.provides)
    return Trace(x, (site,), vae.likelihood_of(site.z, c), y=y, model=vae)


def numbers_of(trace: Trace) -> dict[str, Tensor]:
    """Return ``reconstruction`` and, if the posterior has a density, ``kl`` and ``elbo`` of a trace, each ``(B,)``, in nats."""
    numbers = {"reconstruction": -mean_over_samples(trace.log_likelihood)}
    if (kl := trace.kl) is not None:
        numbers |= {"kl": kl, "elbo": -numbers["reconstruction"] - kl}
    return numbers


def error_map(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the squared error of each position of examples, summed over channels, 0 where a value is missing.

    Args:
        x: Images ``(B, C, H, W)``; for tables ``(B, F)``, signals and volumes likewise.
        reconstruction: Of the same shape.

    Returns:
        ``(B, H, W)``, or ``(B, F)`` for tables, whose features are the positions; it sums to the score ``squared_error``.
    """
    missing = x.isnan()
    error = torch.where(missing, 0.0, torch.where(missing, 0.0, x) - reconstruction).square()
    return error if error.ndim == 2 else error.sum(1)


def png_length(image: Tensor, *, binary: bool) -> float:
    """Return the length of an image as a PNG, without the frame of the file, in nats.

    Args:
        image: ``(C, H, W)`` in [0, 1] of 1 or 3 channels, which is rounded to 8 bits; missing pixels become black.
        binary: Whether pixels are only black or white, and so have one bit.
    """
    from PIL import Image

    levels = (image.nan_to_num(0.0) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture, file = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels), io.BytesIO()
    (picture.convert("1", dither=Image.Dither.NONE) if binary else picture).save(file, "PNG", compress_level=9)
    return 8 * math.log(2) * (file.tell() - PNG_FRAME)


# A dataset


class Measured(NamedTuple):
    """The numbers of a batch.

    Args:
        batch: The images.
        numbers: Numbers by name, each float64 ``(B,)``, on the CPU.
        reconstruction: The images decoded from the means of q(z|x), ``(B, C, H, W)``.
    """

    batch: Batch
    numbers: dict[str, Tensor]
    reconstruction: Tensor


@torch.no_grad()
def measure(
    vae: VAE,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    deterministic: bool = False,
    samples: int = 0,
    complexity: bool = False,
    binary: bool = False,
) -> Iterator[Measured]:
    """Measure images one by one: each number is a function of the image, its position in the data and the seed.

    So numbers do not depend on the size of batches, up to rounding. Noise is drawn on the CPU, the same for every device.

    Args:
        vae: The model, in eval mode.
        batches: Evaluation batches.
        seed: The random seed.
        deterministic: Whether codes are the means of q(z|x) instead of one sample per image; see `trace_of_means`.
        samples: The number K of importance samples for log p(x); 0 skips it.
        complexity: Whether to measure the lengths of images as PNG files.
        binary: Whether pixels are black or white only.

    Yields:
        For each batch, ``reconstruction``, ``kl``, ``elbo`` and ``squared_error``, and on request ``log_likelihood``,
        ``effective_samples`` and ``complexity``.

    Raises:
        UsageError: Importance samples are requested, but the posterior or the prior has no density; or complexity is requested,
            but the examples are not images of 1 or 3 channels.
    """
    if complexity and (len(vae.data_shape) != 3 or vae.data_shape[0] not in (1, 3)):
        raise UsageError(
            "the complexity of an example is the length of a PNG file, so it is defined for images only",
            given=f"data of shape {vae.data_shape}",
            expected="images of 1 or 3 channels",
        )
    if samples and (reason := without_density(vae.posterior, vae.prior)):
        raise UsageError(f"log p(x) cannot be estimated, since {reason}")
    streams = Streams(seed)
    for batch in batches:
        if deterministic:
            trace = trace_of_means(vae, batch.inputs, batch.y)
            reconstruction = trace.reconstruction
        else:
            noise = _noise(vae, streams, "score", batch.index, 1)[0]
            trace = vae.trace_from(vae.encode(batch.inputs, batch.y), noise, batch.x, y=batch.y)
            reconstruction = trace.reconstruction_of_means
        numbers = numbers_of(trace) | {"squared_error": error_map(batch.x, reconstruction).flatten(1).sum(1)}
        if samples:
            parts = [_importance(vae, part, streams, samples) for part in _parts(batch, ROWS)]
            numbers["log_likelihood"], numbers["effective_samples"] = (torch.cat(each) for each in zip(*parts, strict=True))
        if complexity:
            numbers["complexity"] = torch.tensor([png_length(image, binary=binary) for image in vae.to_unit(batch.x)])
        yield Measured(batch, {name: values.cpu().double() for name, values in numbers.items()}, reconstruction)


def _importance(vae: VAE, batch: Batch, streams: Streams, samples: int) -> tuple[Tensor, Tensor]:
    def draw(done: int, num: int) -> Tensor:
        return _noise(vae, streams, f"score/importance/{done}", batch.index, num)

    return estimate_batch(vae, batch, draw, samples=samples, step=BLOCK)


def _noise(vae: VAE, streams: Streams, stream: str, index: Tensor, num: int) -> Tensor:
    """Draw the base noise of ``num`` codes of each image, ``(num, B, D)``: a function of seed, stream and position."""
    like = torch.empty(0, dtype=next(vae.parameters()).dtype)
    rows = [vae.posterior.draw_noise(num, streams.generator(stream, row), like=like) for row in index.tolist()]
    return torch.stack(rows, 1).to(vae.device)


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Split a batch into parts of at most ``size`` images."""
    for start in range(0, len(batch.x), size):
        part = slice(start, start + size)
        y = None if batch.y is None else batch.y[part]
        yield replace(batch, x=batch.x[part], inputs=batch.inputs[part], y=y, index=batch.index[part], whole=None)


@dataclass(frozen=True)
class Scores:
    """The scores of a dataset. ``pandas.DataFrame(scores.columns)`` is a table of them.

    Args:
        name: The name of the score in the column ``score``; see `SCORES`.
        columns: Arrays by name, one value per example: ``row``, and where known ``data``, ``file``, ``label`` and ``class_name``;
            the numbers of `measure`, and ``background``, log p(x) of a background model, or its bound; ``score``, which is higher
            the more anomalous an example is; ``above_threshold`` if there is a threshold; ``anomaly`` if anomalies are known.
        elbo_is: A description of the ELBO.
        threshold: The threshold.
    """

    name: str
    columns: Mapping[str, Array]
    elbo_is: str
    threshold: Threshold | None = None

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    def __len__(self) -> int:
        return len(self.columns["row"])

    @property
    def score(self) -> Array:
        """The score of each example; higher is more anomalous."""
        return self.columns["score"]

    @cached_property
    def quality(self) -> dict[str, Any]:
        """How well scores separate known anomalies from normal examples; empty if none are known.

        ``auroc`` and ``average_precision`` hold a value for each score that can be computed; ``precision``, ``recall``
        and ``f1`` are those of the examples above the threshold.

        Raises:
            DataError: All examples are normal, or all are anomalies.
        """
        if "anomaly" not in self.columns:
            return {}
        known = self.columns["anomaly"]
        scores = {name: score_of(name, self.columns) for name in available(self.columns)}
        found: dict[str, Any] = {
            "auroc": {name: auroc(values, known) for name, values in scores.items()},
            "average_precision": {name: average_precision(values, known) for name, values in scores.items()},
        }
        return found if self.threshold is None else found | at_threshold(self.columns["above_threshold"], known)
