"""The numbers of a run, in one table: what each is called, what it means, whether more of it is better, how it is computed.

The terminal, the documentation of ``metrics.jsonl``, reports, learning curves, comparisons, sweeps and searches read this table.
To add a number, add an entry with a ``measure``. Terms of an objective need none: they go by the name of their loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.trace import Trace

NATS = "nats per image"


@dataclass(frozen=True)
class Metric:
    """A number.

    Args:
        key: Its key in ``evaluation.json``; in ``metrics.jsonl`` ``train_`` or ``validation_`` stands before it.
        label: What tables and charts call it.
        unit: Of the number.
        meaning: What it is, in a phrase.
        better: Whether ``more`` or ``less`` of it is better; None where that cannot be said.
        measure: Computes it from the trace of a batch, a value for each image, ``(B,)``, or None where the model has none; the
            mean over images is reported. None for the numbers that `vaekit.evaluation` computes itself.
        per_split: Whether each split has one; otherwise it is one of the run.
        comparable: Whether tables of several models show it.
        curve: Whether learning curves are drawn of it.
        from_zero: Whether the axis of its curve begins at 0.
        digits: Decimal places in tables.
    """

    key: str
    label: str
    unit: str
    meaning: str
    better: Literal["more", "less"] | None = None
    measure: Callable[[Trace], Tensor | None] | None = None
    per_split: bool = True
    comparable: bool = True
    curve: bool = True
    from_zero: bool = False
    digits: int = 3

    def text(self, value: object, digits: int | None = None) -> str:
        """Write a value as tables show it; ``-`` where there is none."""
        if value is None:
            return "-"
        return f"{value:,.{self.digits if digits is None else digits}f}" if isinstance(value, float) else f"{value:,}"

    def read_as(self, elbo_is: str) -> Metric:
        """Return the metric as it is called and explained in a run whose ELBO is what ``elbo_is`` says.

        A cross-entropy of grey pixels is neither a log-likelihood nor part of a bound, and is not called so.
        """
        grey = "bound" not in elbo_is
        if self.key == "elbo":
            return replace(self, label="-(CE+KL)" if grey else self.label, meaning=elbo_is.removesuffix(", nats"))
        if self.key == "reconstruction" and grey:
            return replace(self, label="cross-entropy", meaning="of grey pixels under their reconstruction")
        return self


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("elbo", "ELBO", NATS, "-(reconstruction + KL), a bound on log p(x) where the likelihood is one", "more"),
        Metric("kl", "KL", NATS, "KL(q(z|x) ‖ p(z))", None),
        Metric("reconstruction", "reconstruction", NATS, "-log p(x|z)", "less"),
        Metric("log_likelihood", "log p(x)", NATS, "estimate by importance sampling, a lower bound in expectation", "more"),
        Metric("standard_error", "standard error", NATS, "of log p(x), over images", comparable=False, curve=False),
        Metric(
            "effective_samples", "effective samples", "samples", "of log p(x), mean over images", comparable=False, curve=False
        ),
        Metric("samples", "samples", "samples", "importance samples K of log p(x)", comparable=False, curve=False),
        Metric("bits_per_dim", "bits per dim", "bits", "estimate of an upper bound, for 8-bit pixels", "less"),
        Metric("loss", "objective", NATS, "the sum of its terms, schedules at their final values", "less", comparable=False),
        Metric("active_units", "active units", "latents", "latents that carry information", "more", from_zero=True),
        Metric(
            "images_per_second", "speed", "images/s", "of training steps", "more", None, False, False, from_zero=True, digits=0
        ),
    )
}
"""The numbers, in the order of tables."""
LISTS = {
    "kl_per_latent": "KL of each latent, nats",
    "latent_mean": "mean of each latent's codes, all posteriors together",
    "latent_std": "their standard deviation",
}
"""Lists of numbers, one for each latent, that evaluations hold too."""
FIELDS = {
    "epoch": "epochs done",
    "step": "steps done",
    "lr": "learning rate of the last step",
    "seconds": "time of training steps so far",
    "epoch_seconds": "time of the epoch, validation and pictures included",
    "best": "whether the validation objective is the lowest so far",
}
"""What else a line of ``metrics.jsonl`` holds."""


def metric_of(key: str) -> Metric:
    """Return the metric of a key; one that is not in the table is a term of an objective."""
    return METRICS.get(key) or Metric(key, key.replace("_", " "), NATS, "term of the objective", comparable=False, curve=False)


def metrics_in(numbers: Mapping[str, Any], elbo_is: str | None = None) -> list[Metric]:
    """Return the metrics that an evaluation holds: those of the table in its order, then terms of the objective.

    Args:
        numbers: The evaluation.
        elbo_is: What its ELBO is; default: what the evaluation says.
    """
    said = elbo_is if elbo_is is not None else str(numbers.get("elbo_is", "bound"))
    known = [key for key, metric in METRICS.items() if key in numbers and metric.per_split]
    terms = [key for key, value in numbers.items() if isinstance(value, float) and key not in METRICS]
    return [metric_of(key).read_as(said) for key in (*known, *terms)]


def comparable_metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """Return the metrics of the table that any of several evaluations holds and that models can be compared by."""
    said = [str(numbers["elbo_is"]) for numbers in evaluations.values() if "elbo_is" in numbers]
    elbo_is = next((each for each in said if "bound" in each), said[0] if said else "bound")
    held = {key for numbers in evaluations.values() for key in numbers}
    return [metric.read_as(elbo_is) for key, metric in METRICS.items() if key in held and metric.comparable]


def documentation() -> str:
    """Write the fields of ``metrics.jsonl`` and ``evaluation.json`` as a Markdown table."""
    rows = [(key, "", meaning, "") for key, meaning in FIELDS.items()]
    rows += [(metric.key, metric.unit, metric.meaning, metric.better or "") for metric in METRICS.values()]
    rows += [(key, "", meaning, "") for key, meaning in LISTS.items()]
    lines = [f"| `{key}` | {unit} | {meaning.replace('|', chr(92) + '|')} | {better} |" for key, unit, meaning, better in rows]
    return "\n".join(["| field | unit | meaning | better |", "|---|---|---|---|", *lines])
