"""Metrics of a detector as pure functions of scores and labels, with confidence intervals: AUROC, TPR, FPR, ECE, ….

Everywhere scores are (n,) float, higher for synthetic, and labels (n,) int, 1 for synthetic. What needs both classes
is NaN where one is missing; the AUROC of scores that are NaN is NaN.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; the bounds are NaN where it has none."""

    value: float
    low: float
    high: float


def auroc(scores: Floats, labels: Ints) -> float:
    """Area under the ROC curve: the chance that a synthetic image scores above an authentic one, ties half."""
    authentic, synthetic = np.sort(scores[labels == 0]), scores[labels == 1]
    if not len(authentic) or not len(synthetic) or np.isnan(scores).any():
        return float("nan")
    below = np.searchsorted(authentic, synthetic, "left") + np.searchsorted(authentic, synthetic, "right")
    return float(below.sum() / (2 * len(authentic) * len(synthetic)))


def average_precision(scores: Floats, labels: Ints) -> float:
    """Mean precision over the synthetic images, by falling score; images of equal score enter together."""
    synthetic = int((labels == 1).sum())
    if not synthetic or synthetic == len(labels):
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recall = found[last_of_tie] / synthetic
    precision = found[last_of_tie] / (last_of_tie + 1)
    return float((np.diff(recall, prepend=0) * precision).sum())


def rate_above(scores: Floats, threshold: float) -> float:
    """Share of the scores at or above the threshold: TPR of synthetic scores, FPR of authentic ones."""
    return float((scores >= threshold).mean()) if len(scores) else float("nan")


def balanced_accuracy(scores: Floats, labels: Ints, threshold: float) -> float:
    """Mean of the two classes' shares that are on their side of the threshold."""
    true_positives = rate_above(scores[labels == 1], threshold)
    return (true_positives + 1 - rate_above(scores[labels == 0], threshold)) / 2


def tpr_at_fpr(scores: Floats, labels: Ints, ceiling: float = 0.05) -> float:
    """Highest TPR of a threshold whose FPR, on these same images, is at most `ceiling`."""
    authentic = np.sort(scores[labels == 0])[::-1]
    synthetic = scores[labels == 1]
    if not len(authentic) or not len(synthetic):
        return float("nan")
    return float((synthetic > authentic[int(ceiling * len(authentic))]).mean())


def expected_calibration_error(p_synthetic: Floats, labels: Ints, bins: int = 15) -> float:
    """Mean distance of score and share of synthetic images over bins of equal width (Guo et al. 2017).

    The classes count alike, as they do in calibration, whatever their sizes. Reports give it without an interval:
    resampling adds noise to every bin, and the absolute values add that up, so that a bootstrap is biased upwards.
    """
    if not (labels == 0).any() or not (labels == 1).any():
        return float("nan")
    weights = np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())
    which = np.minimum((p_synthetic * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(which, weights * (labels - p_synthetic), minlength=bins)).sum())


def roc_curve(scores: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """False and true positive rates (k,) of all thresholds, both rising from 0 to 1."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true_positives = np.cumsum(labels[order])[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    fpr = np.concatenate([[0.0], false_positives / max(1, false_positives[-1])])
    tpr = np.concatenate([[0.0], true_positives / max(1, true_positives[-1])])
    return fpr, tpr


def wilson(share: float, n: int) -> Interval:
    """A share of n images with its 95 % score interval (Wilson 1927); NaN for n = 0."""
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    z2 = 1.959964**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def bootstrap(figure: Callable[[Floats, Ints], float], scores: Floats, labels: Ints, rounds: int = 1000) -> Interval:
    """A figure with its 95 % percentile bootstrap interval (Efron 1979): images redrawn within each class, seeded."""
    value = figure(scores, labels)
    if np.isnan(value):
        return Interval(value, value, value)
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(labels == label) for label in (0, 1)]
    values = []
    for _ in range(rounds):
        drawn = np.concatenate([rng.choice(part, len(part)) for part in rows if len(part)])
        values.append(figure(scores[drawn], labels[drawn]))
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in asdict(interval).items()}
