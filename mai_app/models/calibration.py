"""From logits to scores and verdicts, and how that calibration is fitted on validation logits.

A calibration is a temperature, a threshold at a false positive ceiling and an unsure band. Training, evaluation,
prediction and export all take scores and verdicts from here. Where sources are named, they are the unit: what holds for
the mean of many sources, with a margin for which ones they happen to be, holds for others that nobody trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mai_app.config import (
    CALIBRATION_MIN_SOURCES,
    FPR_CEILING,
    UNSURE_ACCURACY,
    UNSURE_MIN_IMAGES,
    Tier,
    Verdict,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BOUND_CONFIDENCE: Final = 0.9
"""Share of the redrawn sets of sources in which a bound holds."""
BOOTSTRAP_ROUNDS: Final = 1000
MAX_EDGES: Final = 2000
"""Scores at most that are tried as threshold or edge of the band."""


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
    fpr_bound: float | None = None
    """Upper bound of `fpr` by bootstrap over sources, at BOUND_CONFIDENCE; None where images were the unit."""
    right_bound: float | None = None
    """Lower bound of `right`, likewise."""


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
    authentic_sources: int = 0
    """Sources of authentic images that count alike in it; 0: images do."""
    synthetic_sources: int = 0
    """Sources of synthetic images, likewise."""

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
    logits: Mapping[Tier, Floats],
    labels: Ints,
    doubted: Mapping[Tier, Bools],
    data: str = "",
    sources: Sequence[str] = (),
) -> Calibration:
    """Fit one calibration on the same images (n,) in several tiers: logits (n,) by tier, labels (n,).

    The temperature is that of least loss on all tiers together. Threshold and unsure band keep what `calibrate`
    promises in every tier, so that the worst of them decides. `doubted` (n,) by tier: images that get no verdict
    whatever their score; they count for temperature and threshold, and not for the band. `data`: name of the data set.

    With `sources` (n,), CALIBRATION_MIN_SOURCES or more of either class, each source of a class counts alike, however
    many images it has. The promises then hold for the means over sources and with a margin: FPR_CEILING for the upper
    bound of the mean false positive rate, UNSURE_ACCURACY for the lower bound of the share that is right, both at
    BOUND_CONFIDENCE by bootstrap over sources (Efron 1979, "Bootstrap Methods: Another Look at the Jackknife").
    """
    tiers, doubts = [logits[tier] for tier in logits], [doubted[tier] for tier in logits]
    counts = [len({source for source, y in zip(sources, labels, strict=False) if y == label}) for label in (0, 1)]
    by_source = min(counts) >= CALIBRATION_MIN_SOURCES
    units = _units(sources, labels) if by_source else None
    fit = _fit(tiers, labels, doubts, units)
    rates: dict[str, TierRates] = {tier: _rates(fit, logits[tier], labels, doubted[tier], units) for tier in logits}
    return replace(
        fit,
        data=data,
        tiers=rates,
        authentic_sources=counts[0] if by_source else 0,
        synthetic_sources=counts[1] if by_source else 0,
    )


def _fit(tiers: Sequence[Floats], labels: Ints, doubted: Sequence[Bools], units: Ints | None = None) -> Calibration:
    logits, of_all = np.concatenate(tiers), np.tile(labels, len(tiers))
    weights = _weights(labels, units)
    temperatures = np.geomspace(0.05, 50, 601)
    losses = [_weighted_loss(logits / t, of_all, np.tile(weights, len(tiers))) for t in temperatures]
    temperature = float(temperatures[np.argmin(losses)])
    scores = [sigmoid(part / temperature) for part in tiers]
    if units is None:
        threshold = max(_threshold(part, labels) for part in scores)
    else:
        threshold = _threshold_by_source(scores, labels, units)
    given = [~part for part in doubted]
    of_sources = [None if units is None else units[use] for use in given]
    kept = [(s[use], labels[use]) for s, use in zip(scores, given, strict=True)]
    high = _edge([(s, y, u) for (s, y), u in zip(kept, of_sources, strict=True)], threshold)
    low = _edge([(1 - s, 1 - y, u) for (s, y), u in zip(kept, of_sources, strict=True)], 1 - threshold)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        unsure_low=min(threshold, 1 - low),  # min: 1 - (1 - x) is not always x
        unsure_high=high,
        authentic_images=int((labels == 0).sum()),
        synthetic_images=int((labels == 1).sum()),
    )


def _weighted_loss(logits: Floats, labels: Ints, weights: Floats) -> float:
    return float((weights * np.logaddexp(0, np.where(labels == 1, -logits, logits))).sum())


def _units(sources: Sequence[str], labels: Ints) -> Ints:
    """Numbers (n,) of the images' sources, other ones for its authentic and its synthetic images."""
    names = np.array([f"{label} {source}" for source, label in zip(sources, labels, strict=True)])
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)


def _weights(labels: Ints, units: Ints | None) -> Floats:
    """Weights (n,) by which classes, and within them sources, count alike; those of a class sum to 1/2."""
    weights = np.ones(len(labels)) if units is None else 1 / np.bincount(units)[units]
    for label in (0, 1):
        weights[labels == label] /= 2 * max(weights[labels == label].sum(), 1e-12)
    return weights


def _means_over_sources(above: Bools, units: Ints) -> Floats:
    """Means over sources (1 + rounds, k) of the share of their images that is above: itself, and of redrawn sources.

    above: (n, k) by image and edge.
    """
    numbers = np.unique(units)
    shares = np.stack([above[units == number].mean(axis=0) for number in numbers])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), BOOTSTRAP_ROUNDS) / len(numbers)
    return np.concatenate([shares.mean(axis=0, keepdims=True), drawn @ shares])


def _candidates(scores: Sequence[Floats], lowest: float) -> Floats:
    """Edges between the scores, from `lowest` on, at most MAX_EDGES of them."""
    values = np.unique(np.concatenate([[lowest], *scores]))
    edges = np.append((values[1:] + values[:-1]) / 2, lowest)
    edges = np.unique(edges[edges >= lowest])
    return edges if len(edges) <= MAX_EDGES else np.unique(np.quantile(edges, np.linspace(0, 1, MAX_EDGES)))


def _threshold_by_source(tiers: Sequence[Floats], labels: Ints, units: Ints) -> float:
    authentic = labels == 0
    edges = _candidates([scores[authentic] for scores in tiers], 0.0)
    holds = np.ones(len(edges), dtype=bool)
    for scores in tiers:
        means = _means_over_sources(scores[authentic, None] >= edges, units[authentic])
        holds &= np.quantile(means[1:], BOUND_CONFIDENCE, axis=0) <= FPR_CEILING
    return float(edges[holds][0]) if holds.any() else 1.0


def _threshold(scores: Floats, labels: Ints) -> float:
    authentic = np.sort(scores[labels == 0])[::-1]
    allowed = int(FPR_CEILING * len(authentic))
    highest_right = authentic[allowed]
    above = scores[scores > highest_right]
    return float((highest_right + (above.min() if len(above) else 1.0)) / 2)


def _edge(tiers: Sequence[tuple[Floats, Ints, Ints | None]], lowest: float) -> float:
    """The lowest score from `lowest` on above which, in every tier, images are of class 1 in at least UNSURE_ACCURACY.

    1 if there is none. The most cautious of the tiers' own edges would not do: above it, another tier's images may be
    right less often than above its own. Each tier: scores (n,), labels (n,) and, where sources count, their numbers.
    """
    candidates = _candidates([scores for scores, _, _ in tiers], lowest)
    holds = np.ones(len(candidates), dtype=bool)
    for scores, labels, units in tiers:
        holds &= _right_above(scores, labels, candidates)
        if units is not None and holds.any():
            holds &= _right_bound(scores, labels, units, candidates) >= UNSURE_ACCURACY
    return float(candidates[holds][0]) if holds.any() else 1.0


def _right_bound(scores: Floats, labels: Ints, units: Ints, edges: Floats) -> Floats:
    """Lower bounds (k,) of the share of class 1 among what is above each edge, sources and classes counting alike."""
    above = scores[:, None] > edges
    wrong, right = (_means_over_sources(above[labels == label], units[labels == label]) for label in (0, 1))
    shares = right / np.maximum(right + wrong, 1e-12)
    return np.asarray(np.quantile(shares[1:], 1 - BOUND_CONFIDENCE, axis=0))


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


def _rates(fit: Calibration, logits: Floats, labels: Ints, doubted: Bools, units: Ints | None) -> TierRates:
    """What a calibration comes to on the images (n,) of a tier; with `units` sources count alike."""
    scores = fit.scores(logits)
    weights = np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())
    if units is not None:
        weights = _weights(labels, units)
    called = scores >= fit.threshold
    low, high = ~doubted & (scores < fit.unsure_low), ~doubted & (scores > fit.unsure_high)
    given = low | high
    right = np.where(labels == 1, high, low)
    fpr_bound = right_bound = None
    if units is not None:
        authentic = labels == 0
        means = _means_over_sources(called[authentic, None], units[authentic])
        fpr_bound = float(np.quantile(means[1:], BOUND_CONFIDENCE))
        if given.any():
            rights, alls = (
                np.sum([_means_over_sources(part[labels == y, None], units[labels == y]) for y in (0, 1)], axis=0)
                for part in (right, given)
            )
            right_bound = float(np.quantile(rights[1:] / np.maximum(alls[1:], 1e-12), 1 - BOUND_CONFIDENCE))
    return TierRates(
        images=len(labels),
        fpr=_share(called, labels == 0, weights),
        tpr=_share(called, labels == 1, weights),
        unsure=float(1 - (given.mean() if units is None else weights[given].sum())),
        right=float(np.average(right[given], weights=weights[given])) if given.any() else None,
        fpr_bound=fpr_bound,
        right_bound=right_bound,
    )


def _share(chosen: Bools, members: Bools, weights: Floats) -> float:
    """Weighted share of the members that are chosen; exactly the share where they weigh alike."""
    own = weights[members]
    return float(chosen[members].mean() if np.ptp(own) == 0 else np.average(chosen[members], weights=own))
