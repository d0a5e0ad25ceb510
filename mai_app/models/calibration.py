"""From logits to scores and verdicts, and how that calibration is fitted on validation logits.

A calibration is a temperature, a threshold at a false positive ceiling and an unsure band. Training, evaluation,
prediction and export all take scores and verdicts from here. Where enough sources are known, the unit of the fit is a
source and not an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mai_app.config import (
    CALIBRATION_CONFIDENCE,
    CALIBRATION_MIN_SOURCES,
    FPR_CEILING,
    UNSURE_ACCURACY,
    UNSURE_MIN_IMAGES,
    Verdict,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ROUNDS: Final = 1000
"""Redraws of the sources."""
MAX_CANDIDATES: Final = 2000
"""Thresholds or edges tried at most, evenly spread over the images by rank."""
_ROUNDING: Final = 1e-9
"""Sums of weights may be off by this."""


@dataclass(frozen=True)
class TierRates:
    """What a calibration comes to in one tier, on the images that it was fitted on.

    fpr, tpr and right are means over sources, or over images where those were the unit (`Calibration`). The bounds are
    those of calibrate_tiers, and None in files of formats 1 and 2, which know no sources.
    """

    images: int
    """Images judged, of both classes."""
    fpr: float
    """Share of the authentic images called synthetic at the threshold."""
    tpr: float
    """Share of the synthetic images called synthetic at the threshold."""
    unsure: float
    """Share of the images whose verdict is unsure; the others are the coverage."""
    right: float | None
    """Share of the verdicts given that are right, the classes counting alike; None where none is given."""
    fpr_bound: float | None = None
    """Upper 90 % bound of fpr."""
    right_bound: float | None = None
    """Lower 90 % bound of right; None where no verdict is given."""


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
    """Sources of the authentic images; 0: they were too few or not known, and each image counted as one."""
    synthetic_sources: int = 0
    """Sources of the synthetic images; 0 as above."""

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


@dataclass(frozen=True)
class _Units:
    """The images of one class in their units, which are its sources, or its images where there are too few sources."""

    rows: Ints
    """Rows (n,) of the class's images."""
    unit: Ints
    """Unit (n,) of each of these images, from 0 on."""
    weights: Floats
    """Weight (n,) of each image: units count alike, as do the images of a unit; the sum is 1."""
    draws: npt.NDArray[np.uint16]
    """How often each unit is drawn (rounds, units); a single round of ones is the sample itself."""
    sources: int
    """Number of sources; 0 where images are the units."""

    def shares(self, chosen: Bools) -> Floats:
        """Weighted share of the class's images that are chosen (images of both classes,), in each round (rounds,)."""
        by_unit = np.bincount(self.unit, self.weights * chosen[self.rows], minlength=self.draws.shape[1])
        return np.asarray(self.draws @ by_unit, dtype=np.float64)

    def mean(self, chosen: Bools) -> float:
        """Weighted share of the class's images that are chosen, in the sample itself."""
        return float(self.weights @ chosen[self.rows])

    def shares_above(self, scores: Floats, edges: Floats) -> Floats:
        """Weighted share of the class's images that score above each edge (k,), in each round: (rounds, k)."""
        own = scores[self.rows]
        order = np.argsort(-own, kind="stable")
        above = _count_above(own, edges)
        shares = np.zeros((len(self.draws), len(edges)))
        for start in range(0, len(self.draws), 50):  # a few rounds at a time, for memory's sake
            rounds = slice(start, start + 50)
            running = np.cumsum(self.draws[rounds][:, self.unit[order]] * self.weights[order], axis=1)
            shares[rounds] = np.pad(running, ((0, 0), (1, 0)))[:, above]
        return shares


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
    units = [_units(labels, label, None, rounds=0) for label in (0, 1)]
    return _fit([logits], labels, [np.zeros(len(labels), dtype=bool)], units)


def calibrate_tiers(
    logits: Mapping[str, Floats],
    labels: Ints,
    doubted: Mapping[str, Bools],
    data: str = "",
    sources: Sequence[str] | None = None,
) -> Calibration:
    """Fit one calibration on the same images (n,) in several tiers: logits (n,) by tier, labels (n,).

    sources: the source (n,) of each image. Sources count alike, as do the classes, whatever their numbers of images:
    figures are means over the sources of a class. A class with fewer than CALIBRATION_MIN_SOURCES sources, or without
    `sources`, is fitted as if each image were a source of its own; the calibration then holds 0 as their number.

    temperature: the one of least loss in all tiers together. threshold and unsure band: as in `calibrate`, in every
    tier, so that the worst decides, and for bounds instead of the figures themselves: the upper bound of the false
    positive rate is at most FPR_CEILING, and the lower bound of the share of right verdicts at least UNSURE_ACCURACY.
    A bound is the percentile CALIBRATION_CONFIDENCE of ROUNDS seeded redraws of the sources within each class (Efron
    1979, "Bootstrap Methods: Another Look at the Jackknife"). A redraw without any verdict beyond an edge counts
    against that edge, so that one or two sources alone open none.

    doubted: images (n,) by tier that get no verdict whatever their score; they count for temperature and threshold, and
    open no edge of the band. data: name of the data set.
    """
    units = [_units(labels, label, sources, ROUNDS) for label in (0, 1)]
    fit = _fit([logits[tier] for tier in logits], labels, [doubted[tier] for tier in logits], units)
    rates = {tier: _rates(fit, logits[tier], labels, doubted[tier], units) for tier in logits}
    return replace(fit, data=data, tiers=rates)


def _units(labels: Ints, label: int, sources: Sequence[str] | None, rounds: int) -> _Units:
    rows = np.flatnonzero(labels == label)
    names, unit = np.unique(np.array(sources or [""] * len(labels), dtype=np.str_)[rows], return_inverse=True)
    enough = len(names) >= CALIBRATION_MIN_SOURCES
    if not enough:
        unit = np.arange(len(rows))
    images = np.bincount(unit)
    count = len(images)
    rng = np.random.default_rng(label)
    drawn = [np.bincount(rng.integers(count, size=count), minlength=count).astype(np.uint16) for _ in range(rounds)]
    return _Units(
        rows=rows,
        unit=unit,
        weights=1 / (count * images[unit]),
        draws=np.stack(drawn) if rounds else np.ones((1, count), dtype=np.uint16),
        sources=count if enough else 0,
    )


def _fit(tiers: Sequence[Floats], labels: Ints, doubted: Sequence[Bools], units: Sequence[_Units]) -> Calibration:
    authentic, synthetic = units
    temperature = _temperature(tiers, labels, units)
    scores = [sigmoid(part / temperature) for part in tiers]
    threshold = max(_threshold(part, authentic) for part in scores)
    high = _edge(
        [np.where(d, -np.inf, s) for s, d in zip(scores, doubted, strict=True)], authentic, synthetic, threshold
    )
    low = _edge(
        [np.where(d, -np.inf, 1 - s) for s, d in zip(scores, doubted, strict=True)], synthetic, authentic, 1 - threshold
    )
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        unsure_low=min(threshold, 1 - low),  # min: 1 - (1 - x) is not always x
        unsure_high=high,
        authentic_images=len(authentic.rows),
        synthetic_images=len(synthetic.rows),
        authentic_sources=authentic.sources,
        synthetic_sources=synthetic.sources,
    )


def _temperature(tiers: Sequence[Floats], labels: Ints, units: Sequence[_Units]) -> float:
    weights = np.empty(len(labels))
    for part in units:
        weights[part.rows] = part.weights
    signed = np.stack(tiers) * np.where(labels == 1, -1, 1)
    temperatures = np.geomspace(0.05, 50, 601)
    losses = [(np.logaddexp(0, signed / t) @ weights).sum() for t in temperatures]
    return float(temperatures[np.argmin(losses)])


def _threshold(scores: Floats, authentic: _Units) -> float:
    """The lowest threshold of a tier: midway between an authentic score and the next one above it of either class."""
    candidates = np.unique(scores[authentic.rows])
    running = np.cumsum(authentic.weights[np.argsort(scores[authentic.rows])])
    above = 1 - running[len(running) - 1 - _count_above(scores[authentic.rows], candidates)]
    # The bound lies above the figure itself, whose share is quickly known.
    candidates = _thin(candidates[above <= FPR_CEILING + _ROUNDING])
    holds = _holds(authentic.shares_above(scores, candidates) <= FPR_CEILING + _ROUNDING)
    highest_right = candidates[holds][0]  # above the highest there is none, so one holds always
    higher = scores[scores > highest_right]
    return float((highest_right + (higher.min() if len(higher) else 1.0)) / 2)


def _edge(tiers: Sequence[Floats], wrong: _Units, right: _Units, lowest: float) -> float:
    """The lowest score from `lowest` on above which, in every tier, enough images are of the class `right`.

    1 if there is none. The most cautious of the tiers' own edges would not do: above it, another tier's images may be
    right less often than above its own. Scores of doubted images are -inf.
    """
    ranked = [np.unique(np.append(scores[scores >= lowest], lowest)) for scores in tiers]
    # Between equal scores there is no edge.
    between = [(values[1:] + values[:-1]) / 2 for values in ranked]
    candidates = _thin(np.unique(np.concatenate([[lowest], *between])))
    holds = np.ones(len(candidates), dtype=bool)
    for scores in tiers:
        holds &= _right_above(scores, wrong, right, candidates)
    return float(candidates[holds][0]) if holds.any() else 1.0


def _right_above(scores: Floats, wrong: _Units, right: _Units, edges: Floats) -> Bools:
    """Whether above each edge (k,) there are enough images, and enough of them of the class `right`."""
    if np.isinf(scores[wrong.rows]).all() or np.isinf(scores[right.rows]).all():
        return np.zeros(len(edges), dtype=bool)
    enough = _count_above(scores, edges) >= UNSURE_MIN_IMAGES
    hits, misses = right.shares_above(scores, edges), wrong.shares_above(scores, edges)
    accurate = hits >= UNSURE_ACCURACY * (hits + misses) - _ROUNDING
    return enough & _holds(accurate & (hits > _ROUNDING))


def _holds(rounds: Bools) -> Bools:
    """Whether what was asked of every round (rounds, k) holds in enough of them: (k,)."""
    held: Bools = rounds.mean(axis=0) >= CALIBRATION_CONFIDENCE
    return held


def _bound(rounds: Floats) -> float:
    """The value that enough of the rounds (rounds,) do not exceed."""
    return float(np.quantile(rounds, CALIBRATION_CONFIDENCE, method="inverted_cdf"))


def _thin(candidates: Floats) -> Floats:
    """At most MAX_CANDIDATES of the sorted candidates, the first and the last among them."""
    if len(candidates) <= MAX_CANDIDATES:
        return candidates
    return candidates[np.linspace(0, len(candidates) - 1, MAX_CANDIDATES).astype(np.int64)]


def _count_above(scores: Floats, edges: Floats) -> Ints:
    return np.asarray(len(scores) - np.searchsorted(np.sort(scores), edges, "right"), dtype=np.int64)


def _rates(fit: Calibration, logits: Floats, labels: Ints, doubted: Bools, units: Sequence[_Units]) -> TierRates:
    """What a calibration comes to on the images (n,) of a tier."""
    scores = fit.scores(logits)
    called = scores >= fit.threshold
    low, high = ~doubted & (scores < fit.unsure_low), ~doubted & (scores > fit.unsure_high)
    given, right = low | high, np.where(labels == 1, high, low)
    authentic, synthetic = units
    covered = authentic.shares(given) + synthetic.shares(given)
    hits = authentic.shares(right) + synthetic.shares(right)
    wrong = 1 - np.divide(hits, covered, out=np.zeros(len(hits)), where=covered > 0)
    known = given.any()
    return TierRates(
        images=len(labels),
        fpr=_share(authentic.mean(called)),
        tpr=_share(synthetic.mean(called)),
        unsure=float(1 - given.mean()),
        right=_share(sum(part.mean(right) for part in units) / sum(part.mean(given) for part in units))
        if known
        else None,
        fpr_bound=_share(_bound(authentic.shares(called))),
        right_bound=_share(1 - _bound(wrong)) if known else None,
    )


def _share(value: float) -> float:
    """A share without the rounding of sums, which could lift it above 1."""
    return round(value, 12)
