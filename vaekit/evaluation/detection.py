"""Thresholds of anomaly scores, and how well scores separate anomalies from normal examples. A higher score is more anomalous."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.errors import DataError, UsageError

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def quantile(scores: Numbers, share: float) -> float:
    """Return the lowest of the scores ``(N,)`` that at least a share of them do not exceed; at most ``1 - share`` exceed it.

    It is one of the scores, the inverse of their distribution function, so the share above it is exact rather than interpolated.

    Example:
        >>> quantile(np.arange(1.0, 101.0), 0.95)
        95.0
    """
    rank = max(1, math.ceil(round(share * len(scores), 9)))  # 0.1 * 3 and the like are not exact
    return float(np.sort(scores)[rank - 1])


def auroc(scores: Numbers, anomalous: Flags) -> float:
    """Return the area under the ROC curve: the probability that an anomaly has a higher score than a normal example.

    A tie counts as one half: this is the statistic of the Mann-Whitney U test.

    Args:
        scores: ``(N,)``.
        anomalous: Which examples are known to be anomalies, ``(N,)``.

    Raises:
        DataError: There are no anomalies, or no normal examples.

    References:
        Hanley and McNeil (1982), "The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve",
            Radiology 143(1), doi:10.1148/radiology.143.1.7063747.

    Example:
        >>> auroc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
        0.875
    """
    num_anomalies, num_normal = counts(anomalous)
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[place]  # the mean rank of each group of ties, from 1
    return float((ranks[anomalous].sum() - num_anomalies * (num_anomalies + 1) / 2) / (num_anomalies * num_normal))


def average_precision(scores: Numbers, anomalous: Flags) -> float:
    """Return the average precision: the mean over anomalies of the precision at the threshold that just includes each.

    Anomalies with the same score share one threshold. Uninformative scores have the share of anomalies as their value.

    Args:
        scores: ``(N,)``.
        anomalous: Which examples are known to be anomalies, ``(N,)``.

    Raises:
        DataError: There are no anomalies, or no normal examples.

    Example:
        >>> average_precision(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
        0.8333333333333333
    """
    num_anomalies, _ = counts(anomalous)
    levels, place = np.unique(-scores, return_inverse=True)  # highest scores first
    found = np.cumsum(np.bincount(place, anomalous, len(levels)))
    flagged = np.cumsum(np.bincount(place, minlength=len(levels)))
    return float((np.diff(found, prepend=0) * found / flagged).sum() / num_anomalies)


def at_threshold(flagged: Flags, anomalous: Flags) -> dict[str, float]:
    """Return ``precision``, ``recall`` and their harmonic mean ``f1`` of flagged examples; 0 where they are undefined.

    Args:
        flagged: Which examples are above the threshold, ``(N,)``.
        anomalous: Which are known to be anomalies, ``(N,)``.
    """
    hits = int((flagged & anomalous).sum())
    shares = {"precision": hits / max(1, int(flagged.sum())), "recall": hits / max(1, int(anomalous.sum()))}
    return shares | {"f1": 2 * hits / max(1, int(flagged.sum()) + int(anomalous.sum()))}


def counts(anomalous: Flags) -> tuple[int, int]:
    """Return the number of anomalies and of normal examples.

    Raises:
        DataError: One of the two is zero.
    """
    anomalies, normal = int(anomalous.sum()), int((~anomalous).sum())
    if not (anomalies and normal):
        raise DataError(
            "scores can be assessed only if both normal examples and anomalies are known",
            given=f"{normal:,} normal examples and {anomalies:,} anomalies",
            remedy="name labels of the data, or add a second dataset of anomalies",
        )
    return anomalies, normal


@dataclass(frozen=True)
class Threshold:
    """The score above which an example is anomalous, and where it comes from.

    Args:
        score: The name of the score; see `vaekit.evaluation.scores.SCORES`.
        value: The threshold.
        low: The lowest of the scores from which it was chosen.
        high: The highest of them.
        quantile: The share of these scores that do not exceed it.
        source: The data of these scores.
        num_images: Their number.
        deterministic: Whether nothing was sampled; see `vaekit.evaluation.scores.measure`.
        samples: The number of importance samples; 0 if log p(x) was not estimated.
        epoch: The epoch of the model's weights.
        background: The folder of the background model, if the score has one.
    """

    score: str
    value: float
    low: float
    high: float
    quantile: float
    source: str
    num_images: int
    deterministic: bool = False
    samples: int = 0
    epoch: int = 0
    background: str | None = None

    @classmethod
    def of(cls, scores: Numbers, share: float, **about: Any) -> Threshold:
        """Return the threshold that a share of scores ``(N,)`` do not exceed; the other arguments are those of the class.

        Raises:
            UsageError: The share is not between 0 and 1.
            DataError: There are no scores.
        """
        if not 0 < share < 1:
            raise UsageError(
                "a threshold needs a share of scores", given=f"quantile {share:g}", expected="a number between 0 and 1"
            )
        if not len(scores):
            raise DataError("a threshold needs scores", given=f"no images in {about['source']}")
        low, high = float(scores.min()), float(scores.max())
        return cls(value=quantile(scores, share), low=low, high=high, quantile=share, num_images=len(scores), **about)

    def flags(self, scores: Numbers) -> Flags:
        """Return which scores are above the threshold, ``(N,)``."""
        return scores > self.value

    @property
    def span(self) -> float:
        """The distance between the highest and the lowest score; 1 if all are equal."""
        return self.high - self.low or 1.0

    def normalised(self, scores: Any) -> Any:
        """Map an array or a tensor of scores to [0, 1]: ``(score - value) / (high - low) + 1/2``, clipped."""
        return ((scores - self.value) / self.span + 0.5).clip(0, 1)
