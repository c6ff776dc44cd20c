"""Thresholds and the quality of scores, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from vaekit.errors import DataError, UsageError
from vaekit.evaluation.detection import Threshold, at_threshold, auroc, average_precision, quantile

LABELLED = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60)
"""Scores, many of which are equal, and whether each is an anomaly's."""


@settings(max_examples=50, deadline=None)
@given(LABELLED)
def test_auroc_and_average_precision_are_those_of_scikit_learn_with_ties_too(examples: list[tuple[int, bool]]) -> None:
    scores, known = (np.array(each) for each in zip(*examples, strict=True))
    if known.all() or not known.any():
        with pytest.raises(DataError, match="both normal examples and anomalies"):
            auroc(scores, known)
        return
    assert auroc(scores, known) == pytest.approx(metrics.roc_auc_score(known, scores), abs=1e-12)
    assert average_precision(scores, known) == pytest.approx(metrics.average_precision_score(known, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([5, 5, 5, 5], 0.5), ([1, 2, 2, 3], 0.875), ([0, 0, -np.inf, np.inf], 0.5)],
)
def test_auroc_counts_a_tie_as_one_half(scores: list[float], expected: float) -> None:
    assert auroc(np.array(scores, float), np.array([False, False, True, True])) == expected


@settings(max_examples=50, deadline=None)
@given(LABELLED, st.integers(0, 6))
def test_precision_recall_and_f1_are_those_of_scikit_learn(examples: list[tuple[int, bool]], level: int) -> None:
    scores, known = (np.array(each) for each in zip(*examples, strict=True))
    flagged = scores > level
    expected = metrics.precision_recall_fscore_support(known, flagged, average="binary", zero_division=0)[:3]
    assert tuple(at_threshold(flagged, known).values()) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_quantile_is_the_inverse_of_the_distribution_function(values: list[int], share: float) -> None:
    scores = np.array(values, float)
    assert quantile(scores, share) == np.quantile(scores, share, method="inverted_cdf")


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("num", [3, 10, 20, 30, 100, 1000])
def test_at_most_the_remaining_share_is_above_the_threshold(num: int, share: float) -> None:
    scores = np.random.default_rng(num).permutation(num).astype(float)
    above = int(Threshold.of(scores, share, score="elbo", source="here").flags(scores).sum())
    assert above == int((1 - share) * num + 1e-9)


def test_higher_scores_are_anomalous_and_the_threshold_itself_is_not() -> None:
    threshold = Threshold.of(np.array([1.0, 2.0, 3.0, 4.0]), 0.75, score="elbo", source="here")
    assert (threshold.value, threshold.low, threshold.high, threshold.num_images) == (3.0, 1.0, 4.0, 4)
    assert threshold.flags(np.array([2.9, 3.0, 3.1])).tolist() == [False, False, True]


def test_normalised_scores_are_one_half_at_the_threshold() -> None:
    threshold = Threshold("elbo", value=3.0, low=1.0, high=5.0, quantile=0.9, source="here", num_images=9)
    given = np.array([-9.0, 1.0, 3.0, 4.0, 5.0, 50.0])
    assert threshold.normalised(given).tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]
    assert torch.equal(threshold.normalised(torch.tensor(given)), torch.tensor(threshold.normalised(given)))
    level = Threshold("elbo", value=2.0, low=2.0, high=2.0, quantile=0.9, source="here", num_images=9)
    assert level.normalised(np.array([2.0, 2.25])).tolist() == [0.5, 0.75]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_shares_that_leave_no_threshold_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        Threshold.of(np.ones(3), share, score="elbo", source="here")


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no images in the validation split"):
        Threshold.of(np.ones(0), 0.9, score="elbo", source="the validation split")
