"""The metrics of a run in a single table: their names and meanings, whether more is better, and how they are computed.

The terminal, the documentation of ``metrics.jsonl``, reports, learning curves, comparisons, sweeps and searches read this table.
To add a metric, add an entry with a ``measure``. Terms of the objective need no entry: they have the name of their loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from vaekit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.trace import Trace

NATS = "nats per image"


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        key: Its key in ``evaluation.json``; in ``metrics.jsonl`` the key is prefixed with ``train_`` or ``validation_``.
        label: Its name in tables and charts.
        unit: Its unit.
        meaning: Its meaning, in a phrase.
        better: Whether ``more`` or ``less`` is better; None if neither.
        measure: A function that computes it from the trace of a batch: a value per image, ``(B,)``, whose mean is reported,
            or None if it does not apply to the model. None for metrics that `vaekit.evaluation` computes itself.
        of_pixels: Whether it applies only to images of grey levels or colours in [0, 1] without missing pixels.
        per_split: Whether it is measured on each split instead of once per run.
        comparable: Whether tables that compare models show it.
        curve: Whether it has a learning curve.
        from_zero: Whether the axis of its curve starts at 0.
        digits: The number of decimal places in tables.
    """

    key: str
    label: str
    unit: str
    meaning: str
    better: Literal["more", "less"] | None = None
    measure: Callable[[Trace], Tensor | None] | None = None
    of_pixels: bool = field(default=False, kw_only=True)
    per_split: bool = True
    comparable: bool = True
    curve: bool = True
    from_zero: bool = False
    digits: int = 3

    def text(self, value: object, digits: int | None = None) -> str:
        """Format a value for tables; ``-`` if there is none."""
        if value is None:
            return "-"
        return f"{value:,.{self.digits if digits is None else digits}f}" if isinstance(value, float) else f"{value:,}"

    def read_as(self, elbo_is: str) -> Metric:
        """Return the metric with the label and meaning that it has in a run whose ELBO is described by ``elbo_is``.

        The cross-entropy of grey pixels is neither a log-likelihood nor part of a bound, and squared or absolute errors lack the
        constant that would make them one; neither is labelled as such.
        """
        meaning = elbo_is.removesuffix(", nats")
        if "bound" not in elbo_is:
            names = {
                "elbo": ("-(CE+KL)", meaning),
                "elbo_standard_error": (self.label, "of -(CE+KL), over images"),
                "reconstruction": ("cross-entropy", "of grey pixels under their reconstruction"),
            }
        elif "constant" in elbo_is:
            names = {
                "elbo": ("ELBO + constant", meaning),
                "reconstruction": ("reconstruction error", "-log p(x|z) up to a constant"),
                "log_likelihood": ("log p(x) + constant", self.meaning),
            }
        else:
            names = {"elbo": (self.label, meaning)}
        label, meaning = names.get(self.key, (self.label, self.meaning))
        return replace(self, label=label, meaning=meaning)


MOST_DECIBELS = 100.0
"""The PSNR of equal images, and the largest PSNR reported."""


def psnr(trace: Trace) -> Tensor:
    """Return the peak signal-to-noise ratio of reconstructions, in dB, ``(B,)``: ``-10 log10`` of the mean squared error."""
    error: Tensor = (trace.x - trace.model.to_unit(trace.reconstruction_of_means)).square().flatten(1).mean(1)
    return -10 * error.clamp(min=10 ** (-MOST_DECIBELS / 10)).log10()


def similarity(trace: Trace) -> Tensor:
    """Return the structural similarity (SSIM) of images and reconstructions, ``(B,)``."""
    from vaekit.nn.ssim import ssim

    return ssim(trace.x, trace.model.to_unit(trace.reconstruction_of_means))


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("elbo", "ELBO", NATS, "-(reconstruction + KL), a bound on log p(x) where the likelihood is one", "more"),
        Metric("elbo_standard_error", "standard error", NATS, "of the ELBO, over images", comparable=False, curve=False),
        Metric("kl", "KL", NATS, "KL(q(z|x) ‖ p(z))", None),
        Metric("reconstruction", "reconstruction", NATS, "-log p(x|z)", "less"),
        Metric("log_likelihood", "log p(x)", NATS, "estimate by importance sampling, a lower bound in expectation", "more"),
        Metric("standard_error", "standard error", NATS, "of log p(x), over images", comparable=False, curve=False),
        Metric(
            "effective_samples", "effective samples", "samples", "of log p(x), mean over images", comparable=False, curve=False
        ),
        Metric("samples", "samples", "samples", "importance samples K of log p(x)", comparable=False, curve=False),
        Metric("bits_per_dim", "bits per dim", "bits", "upper bound on -log2 p(x) of 8-bit images, per dimension", "less"),
        Metric(
            "psnr",
            "PSNR",
            "dB",
            "of reconstructions, decoded from means of q(z|x)",
            "more",
            psnr,
            of_pixels=True,
            digits=2,
        ),
        Metric(
            "ssim",
            "SSIM",
            "",
            "structural similarity of images and reconstructions",
            "more",
            similarity,
            of_pixels=True,
            comparable=False,
        ),
        Metric(
            "feature_distance",
            "feature distance",
            "",
            "of images and reconstructions, in `features`",
            "less",
            curve=False,
            digits=4,
        ),
        Metric(
            "lpips",
            "LPIPS",
            "",
            "perceptual distance of images and reconstructions, in `features`",
            "less",
            curve=False,
            digits=4,
        ),
        Metric("rfid", "rFID", "", "Fréchet distance of images and reconstructions, in `features`", "less", curve=False),
        Metric("fid", "FID", "", "Fréchet distance of images and samples, in `features`", "less", curve=False),
        Metric("kid", "KID", "", "kernel distance of images and samples, in `features`", "less", curve=False, digits=5),
        Metric("loss", "objective", NATS, "sum of its terms, with schedules at their final values", "less", comparable=False),
        Metric("active_units", "active units", "latents", "latents that carry information", "more", from_zero=True),
        Metric(
            "images_per_second", "speed", "images/s", "of training steps", "more", None, False, False, from_zero=True, digits=0
        ),
    )
}
"""The metrics, in the order of tables."""
LISTS = {
    "kl_per_latent": "KL of each latent, nats",
    "latent_mean": "mean of each latent's codes over the data",
    "latent_std": "standard deviation of each latent's codes over the data",
}
"""Lists in an evaluation, with one number per latent."""
FIELDS = {
    "epoch": "completed epochs",
    "step": "completed steps",
    "lr": "learning rate of the last step",
    "seconds": "wall-clock time of all training steps so far",
    "epoch_seconds": "wall-clock time of the epoch, including validation and pictures",
    "best": "whether the epoch is the best so far and its weights are kept; see `--best`",
}
"""The other fields of a line of ``metrics.jsonl``."""


def metric_of(key: str) -> Metric:
    """Return the metric of a key; a key that is not in the table is a term of the objective."""
    return METRICS.get(key) or Metric(key, key.replace("_", " "), NATS, "term of the objective", comparable=False, curve=False)


@dataclass(frozen=True)
class Criterion:
    """A metric of the validation set by which epochs or models are compared.

    Args:
        name: The name of the metric.
        maximise: Whether more is better.
    """

    name: str
    maximise: bool

    @classmethod
    def read(cls, text: str) -> Criterion:
        """Parse a metric, such as ``elbo`` or ``active_units:max``; the direction defaults to that of the table, else ``min``.

        Raises:
            UsageError: The direction after the colon is neither ``min`` nor ``max``.
        """
        name, colon, direction = text.partition(":")
        if colon and direction not in {"min", "max"}:
            raise UsageError("unknown direction of a metric", given=text, expected=f"{name}:min or {name}:max")
        return cls(name, direction == "max" if colon else metric_of(name).better == "more")

    def of(self, record: Mapping[str, Any]) -> float:
        """Return the metric's value in a record of ``metrics.jsonl``."""
        return float(record[f"validation_{self.name}"])

    def prefers(self, value: float, other: float) -> bool:
        """Whether a value is better than another."""
        return value > other if self.maximise else value < other


def metrics_in(numbers: Mapping[str, Any], elbo_is: str | None = None) -> list[Metric]:
    """Return the metrics in an evaluation: those of the table in its order, then the other terms of the objective.

    Args:
        numbers: The evaluation.
        elbo_is: A description of its ELBO; default: as stated in the evaluation.
    """
    said = elbo_is if elbo_is is not None else str(numbers.get("elbo_is", "bound"))
    known = [key for key, metric in METRICS.items() if key in numbers and metric.per_split]
    terms = [key for key, value in numbers.items() if isinstance(value, float) and key not in METRICS]
    return [metric_of(key).read_as(said) for key in (*known, *terms)]


def comparable_metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics of the table that occur in any of several evaluations and by which models can be compared."""
    said = [str(numbers["elbo_is"]) for numbers in evaluations.values() if "elbo_is" in numbers]
    elbo_is = next((each for each in said if "bound" in each), said[0] if said else "bound")
    held = {key for numbers in evaluations.values() for key in numbers}
    return [metric.read_as(elbo_is) for key, metric in METRICS.items() if key in held and metric.comparable]


def documentation() -> str:
    """Return a Markdown table of the fields of ``metrics.jsonl`` and ``evaluation.json``."""
    rows = [(key, "", meaning, "") for key, meaning in FIELDS.items()]
    rows += [(metric.key, metric.unit, metric.meaning, metric.better or "") for metric in METRICS.values()]
    rows += [(key, "", meaning, "") for key, meaning in LISTS.items()]
    lines = [f"| `{key}` | {unit} | {meaning.replace('|', chr(92) + '|')} | {better} |" for key, unit, meaning, better in rows]
    return "\n".join(["| field | unit | meaning | better |", "|---|---|---|---|", *lines])
