"""From logits to scores and verdicts, and how that calibration is fitted on validation logits.

A calibration is a temperature, a threshold at a false positive ceiling and an unsure band. Training, evaluation,
prediction and export all take scores and verdicts from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mai_app.config import FPR_CEILING, UNSURE_ACCURACY, UNSURE_MIN_IMAGES, Verdict

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TierRates:
    """What a calibration comes to in one tier, on the images that it was fitted on."""

    images: int
    """Images judged, of both classes."""
    fpr: float
    """Share of the authentic images called synthetic at the threshold."""
    tpr: float
    """Share of the synthetic images called synthetic at the threshold."""
    unsure: float
    """Share of the images whose verdict is unsure."""
    right: float | None
    """Share of the verdicts given that are right, the classes counting alike; None where none is given."""


@dataclass(frozen=True)
class Calibration:
    """How a logit becomes a score and a score a verdict; fitted on validation images, stored with the weights."""

    temperature: float
    """p_synthetic = sigmoid(logit / temperature)."""
    threshold: float
    """p_synthetic from here on counts as synthetic where a yes or no is needed."""
    unsure_low: float
    """Verdict authentic below this score."""
    unsure_high: float
    """Verdict synthetic above this score; between the two, unsure."""
    authentic_images: int
    """Authentic images it was fitted on."""
    synthetic_images: int
    """Synthetic images it was fitted on."""
    data: str = ""
    """Name of the data set on whose val part it was fitted; empty: the one trained on, in training."""
    tiers: Mapping[str, TierRates] = field(default_factory=dict)
    """By tier, what it comes to; empty: fitted in training, on windows of undamaged images alone."""

    def scores(self, logits: Floats) -> Floats:
        """Scores p_synthetic in [0, 1] of logits, of the same shape; not clipped to config.SHOWN_SCORES."""
        return sigmoid(logits / self.temperature)

    def verdict(self, p_synthetic: float, unjudgeable: str | None = None) -> Verdict:
        """The verdict of an unclipped score: unsure, whatever the score, where there is a reason not to judge."""
        if unjudgeable:
            return "unsure"
        if p_synthetic < self.unsure_low:
            return "authentic"
        return "synthetic" if p_synthetic > self.unsure_high else "unsure"


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def balanced_loss(logits: Floats, labels: Ints) -> float:
    """Binary cross-entropy in nats, the mean of the two classes' means, so that their sizes do not matter."""
    losses = np.logaddexp(0, np.where(labels == 1, -logits, logits))
    return float(np.mean([losses[labels == label].mean() for label in (0, 1)]))


def calibrate(logits: Floats, labels: Ints) -> Calibration:
    """Fit a calibration on validation logits (n,) and labels (n,), both classes present and counting alike.

    temperature: the one of least loss (Guo et al. 2017, "On Calibration of Modern Neural Networks").
    threshold: the lowest at which at most FPR_CEILING of the authentic images are called synthetic.
    unsure band: around the threshold; beyond each edge verdicts are right in at least UNSURE_ACCURACY of the
    images, the classes counting alike, and there are at least UNSURE_MIN_IMAGES. An edge without such images
    stays at 0 or 1: that verdict is then never given.
    """
    return _fit([logits], labels, [np.zeros(len(labels), dtype=bool)])


def calibrate_tiers(
    logits: Mapping[str, Floats], labels: Ints, doubted: Mapping[str, Bools], data: str = ""
) -> Calibration:
    """Fit one calibration on the same images (n,) in several tiers: logits (n,) by tier, labels (n,).

    The temperature is that of least loss on all tiers together. Threshold and unsure band keep what `calibrate`
    promises in every tier, so that the worst of them decides. `doubted` (n,) by tier: images that get no verdict
    whatever their score; they count for temperature and threshold, and not for the band. `data`: name of the data set.
    """
    fit = _fit([logits[tier] for tier in logits], labels, [doubted[tier] for tier in logits])
    rates = {tier: _rates(fit, logits[tier], labels, doubted[tier]) for tier in logits}
    return Calibration(
        temperature=fit.temperature,
        threshold=fit.threshold,
        unsure_low=fit.unsure_low,
        unsure_high=fit.unsure_high,
        authentic_images=fit.authentic_images,
        synthetic_images=fit.synthetic_images,
        data=data,
        tiers=rates,
    )


def _fit(tiers: Sequence[Floats], labels: Ints, doubted: Sequence[Bools]) -> Calibration:
    logits, of_all = np.concatenate(tiers), np.tile(labels, len(tiers))
    temperatures = np.geomspace(0.05, 50, 601)
    temperature = float(temperatures[np.argmin([balanced_loss(logits / t, of_all) for t in temperatures])])
    scores = [sigmoid(part / temperature) for part in tiers]
    threshold = max(_threshold(part, labels) for part in scores)
    given = [~part for part in doubted]
    high = _edge([(s[use], labels[use]) for s, use in zip(scores, given, strict=True)], threshold)
    low = _edge([(1 - s[use], 1 - labels[use]) for s, use in zip(scores, given, strict=True)], 1 - threshold)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        unsure_low=min(threshold, 1 - low),  # min: 1 - (1 - x) is not always x
        unsure_high=high,
        authentic_images=int((labels == 0).sum()),
        synthetic_images=int((labels == 1).sum()),
    )


def _threshold(scores: Floats, labels: Ints) -> float:
    authentic = np.sort(scores[labels == 0])[::-1]
    allowed = int(FPR_CEILING * len(authentic))
    highest_right = authentic[allowed]
    above = scores[scores > highest_right]
    return float((highest_right + (above.min() if len(above) else 1.0)) / 2)


def _edge(tiers: Sequence[tuple[Floats, Ints]], lowest: float) -> float:
    """The lowest score from `lowest` on above which, in every tier, images are of class 1 in at least UNSURE_ACCURACY.

    1 if there is none. The most cautious of the tiers' own edges would not do: above it, another tier's images may be
    right less often than above its own.
    """
    ranked = [np.unique(np.append(scores, lowest)) for scores, _ in tiers]
    # Between equal scores there is no edge.
    between = [(values[1:] + values[:-1]) / 2 for values in ranked]
    candidates = np.unique(np.concatenate([[lowest], *between]))
    candidates = candidates[candidates >= lowest]
    holds = np.ones(len(candidates), dtype=bool)
    for scores, labels in tiers:
        holds &= _right_above(scores, labels, candidates)
    return float(candidates[holds][0]) if holds.any() else 1.0


def _right_above(scores: Floats, labels: Ints, edges: Floats) -> Bools:
    """Whether above each edge (k,) there are enough images, and enough of them of class 1; classes count alike."""
    if not (labels == 0).any() or not (labels == 1).any():
        return np.zeros(len(edges), dtype=bool)
    above = np.stack([_count_above(scores[labels == label], edges) for label in (0, 1)])
    shares = above / np.bincount(labels, minlength=2)[:, None]
    enough: Bools = above.sum(axis=0) >= UNSURE_MIN_IMAGES
    right: Bools = shares[1] >= UNSURE_ACCURACY * shares.sum(axis=0)
    return enough & right


def _count_above(scores: Floats, edges: Floats) -> Ints:
    return np.asarray(len(scores) - np.searchsorted(np.sort(scores), edges, "right"), dtype=np.int64)


def _rates(fit: Calibration, logits: Floats, labels: Ints, doubted: Bools) -> TierRates:
    """What a calibration comes to on the images (n,) of a tier."""
    scores = fit.scores(logits)
    called = scores >= fit.threshold
    low, high = ~doubted & (scores < fit.unsure_low), ~doubted & (scores > fit.unsure_high)
    given = low | high
    weights = np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())
    right = np.where(labels == 1, high, low)
    return TierRates(
        images=len(labels),
        fpr=float(called[labels == 0].mean()),
        tpr=float(called[labels == 1].mean()),
        unsure=float(1 - given.mean()),
        right=float(np.average(right[given], weights=weights[given])) if given.any() else None,
    )
