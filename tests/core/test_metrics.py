"""Metrics agree with scikit-learn's, and intervals cover what they promise."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

from mai_app.core import metrics


def scored(seed: int, n: int, levels: int) -> tuple[metrics.Floats, metrics.Ints]:
    """Scores with ties (few levels) and labels with both classes."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, n)])
    return rng.integers(0, levels, n + 2) / levels + 0.1 * labels * rng.integers(0, 2, n + 2), labels


@given(seed=st.integers(0, 10**6), n=st.integers(0, 60), levels=st.integers(1, 40))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_they_agree_with_scikit_learn(seed: int, n: int, levels: int) -> None:
    scores, labels = scored(seed, n, levels)
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    assert metrics.balanced_accuracy(scores, labels, 0.5) == pytest.approx(
        balanced_accuracy_score(labels, scores >= 0.5)
    )
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    ours = metrics.roc_curve(scores, labels)
    np.testing.assert_allclose(ours[0], fpr)
    np.testing.assert_allclose(ours[1], tpr)
    allowed = tpr[fpr <= 0.05].max()
    assert metrics.tpr_at_fpr(scores, labels) == pytest.approx(allowed)


def test_rates_are_those_at_the_threshold() -> None:
    scores, labels = np.array([0.1, 0.5, 0.4, 0.5, 0.9]), np.array([0, 0, 1, 1, 1])
    assert metrics.rate_above(scores[labels == 1], 0.5) == pytest.approx(2 / 3)
    assert metrics.rate_above(scores[labels == 0], 0.5) == pytest.approx(1 / 2)
    assert metrics.balanced_accuracy(scores, labels, 0.5) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_calibration_error_is_zero_for_true_probabilities_and_not_for_overconfident_ones() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 40_000)
    labels = (rng.uniform(0, 1, 40_000) < p).astype(np.int64)
    assert metrics.expected_calibration_error(p, labels) < 0.02
    assert metrics.expected_calibration_error(np.round(p), labels) > 0.2


def test_what_needs_both_classes_is_nan_without_one() -> None:
    scores, labels = np.array([0.2, 0.7]), np.array([1, 1])
    for figure in (
        metrics.auroc,
        metrics.average_precision,
        metrics.tpr_at_fpr,
        metrics.expected_calibration_error,
    ):
        assert np.isnan(figure(scores, labels))
    assert np.isnan(metrics.bootstrap(metrics.auroc, scores, labels).low)
    assert np.isnan(metrics.rate_above(scores[labels == 0], 0.5))
    assert np.isnan(metrics.wilson(float("nan"), 0).value)


def test_wilson_gives_the_published_interval() -> None:
    # Agresti and Coull 1998, American Statistician 52: no success in 20 trials gives 0 to 0.16.
    interval = metrics.wilson(0.0, 20)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(0.161, abs=0.001)


@pytest.mark.parametrize(
    ("figure", "truth"),
    [
        (metrics.auroc, NormalDist().cdf(0.5**0.5)),
        (lambda s, y: metrics.rate_above(s[y == 1], 0.5), NormalDist().cdf(0.5)),
    ],
    ids=["auroc", "tpr"],
)
def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say(
    figure: Callable[[metrics.Floats, metrics.Ints], float], truth: float
) -> None:
    # Scores of two normal distributions, one standard deviation apart.
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 80)
    trials = 200
    covered = 0
    for _ in range(trials):
        interval = metrics.bootstrap(figure, rng.normal(size=160) + labels, labels, rounds=200)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / trials <= 0.99
