"""Calibration by sources: each counts alike, bounds hold on sources that were not seen, and few sources fall back."""

import numpy as np
import pytest

from mai_app.config import CALIBRATION_MIN_SOURCES, FPR_CEILING, UNSURE_ACCURACY
from mai_app.models.calibration import Calibration, calibrate_tiers, sigmoid

Sample = tuple[np.ndarray, np.ndarray, list[str]]
"""Logits (n,), labels (n,) and sources (n,)."""


def sample_of(rng: np.random.Generator, sources: int, between: float, images: tuple[int, int] = (5, 60)) -> Sample:
    """Sources of both classes, of unequal size, whose logits lie around a mean of their own (spread `between`)."""
    logits, labels, names = [], [], []
    for label in (0, 1):
        for source in range(sources):
            count = int(rng.integers(*images))
            logits.append(1.5 * (rng.normal(size=count) + 3 * label - 1.5 + between * rng.normal()))
            labels += [label] * count
            names += [f"source{source}"] * count
    return np.concatenate(logits), np.array(labels), names


def fit_of(sample: Sample, by_source: bool = True, doubted: np.ndarray | None = None) -> Calibration:
    logits, labels, names = sample
    none = np.zeros(len(labels), dtype=bool)
    return calibrate_tiers(
        {"clean": logits}, labels, {"clean": none if doubted is None else doubted}, "", names if by_source else None
    )


def called(fit: Calibration, logits: np.ndarray) -> np.ndarray:
    return np.asarray(sigmoid(logits / fit.temperature) >= fit.threshold)


def by_source(values: np.ndarray, names: list[str]) -> float:
    """The mean over sources of their means."""
    return float(np.mean([values[np.array(names) == name].mean() for name in sorted(set(names))]))


def test_a_large_source_no_longer_hides_small_ones() -> None:
    # 5,000 easy images of one source, and fifty small sources on which a third of the images would be called synthetic.
    rng = np.random.default_rng(0)
    easy, hard = rng.normal(-5, 1, 5000), rng.normal(0, 1, 500)
    synthetic = rng.normal(4, 1.5, 1000)
    labels = np.repeat([0, 0, 1], [5000, 500, 1000])
    names = ["large"] * 5000 + [f"small{i % 50}" for i in range(500)] + [f"made{i % 40}" for i in range(1000)]
    logits = np.concatenate([easy, hard, synthetic])
    by_images, fit = fit_of((logits, labels, names), by_source=False), fit_of((logits, labels, names))
    assert called(by_images, hard).mean() > 0.3
    assert called(by_images, logits[:5500]).mean() <= FPR_CEILING
    assert called(fit, hard).mean() <= FPR_CEILING
    rates = fit.tiers["clean"]
    assert rates.fpr == pytest.approx(by_source(called(fit, logits[:5500]), names[:5500]))
    assert rates.fpr_bound is not None
    assert rates.fpr < rates.fpr_bound <= FPR_CEILING
    assert (fit.authentic_sources, fit.synthetic_sources) == (51, 40)
    assert (fit.authentic_images, fit.synthetic_images) == (5500, 1000)


@pytest.mark.parametrize(("sources", "between", "least"), [(40, 0.8, 0.8), (100, 0.5, 0.85)])
def test_the_ceiling_holds_on_sources_that_were_not_seen(sources: int, between: float, least: float) -> None:
    """With fewer sources the percentile bootstrap promises somewhat more than it keeps (docs/decisions.md)."""
    held, held_by_images = [], []
    for seed in range(100):
        rng = np.random.default_rng([seed, sources])
        sample = sample_of(rng, sources, between, (5, 30))
        # An authentic image of each of many new sources: their mean is that over sources.
        new = 1.5 * (rng.normal(size=50_000) - 1.5 + between * rng.normal(size=50_000))
        held.append(called(fit_of(sample), new).mean() <= FPR_CEILING)
        if seed < 30:
            held_by_images.append(called(fit_of(sample, by_source=False), new).mean() <= FPR_CEILING)
    assert np.mean(held) >= least
    # A ceiling is not kept by being at no risk: some of the time it is passed.
    assert np.mean(held) < 1
    assert np.mean(held_by_images) < np.mean(held) - 0.1


@pytest.mark.parametrize("seed", range(3))
def test_every_edge_and_threshold_keeps_its_bound_in_every_tier(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels, names = sample_of(rng, 60, 0.6)
    tiers = {"clean": logits, "hard": 0.7 * logits + rng.normal(0, 0.5, len(logits))}
    fit = calibrate_tiers(tiers, labels, {tier: np.zeros(len(labels), dtype=bool) for tier in tiers}, "", names)
    assert 0 < fit.unsure_low <= fit.threshold <= fit.unsure_high < 1
    unit = np.array([f"{label}{name}" for label, name in zip(labels, names, strict=True)])
    share = {label: sorted(set(unit[labels == label])) for label in (0, 1)}
    draws = np.random.default_rng(99)
    bounds = []
    for tier, values in tiers.items():
        scores = sigmoid(values / fit.temperature)
        fpr = np.array([(scores[unit == name] >= fit.threshold).mean() for name in share[0]])
        redrawn = fpr[draws.integers(60, size=(2000, 60))].mean(axis=1)
        bounds.append(np.quantile(redrawn, 0.9))
        for side, right in ((scores > fit.unsure_high, 1), (scores < fit.unsure_low, 0)):
            beyond = {
                label: np.array([side[unit == name].mean() for name in share[label]])[
                    draws.integers(60, size=(2000, 60))
                ].mean(axis=1)
                for label in (0, 1)
            }
            assert np.quantile(beyond[right] / (beyond[0] + beyond[1]), 0.1) >= UNSURE_ACCURACY - 0.006
        rates = fit.tiers[tier]
        assert rates.fpr == pytest.approx(fpr.mean())
        assert rates.fpr_bound == pytest.approx(bounds[-1], abs=0.004)
        assert rates.right is not None
        assert rates.right_bound is not None
        assert UNSURE_ACCURACY <= rates.right_bound < rates.right < 1
    assert 0.04 < max(bounds) < FPR_CEILING + 0.004


def test_images_of_a_source_weigh_as_one_source() -> None:
    # Each image of one source three times over: nothing changes, for that source or for its class.
    logits, labels, names = sample_of(np.random.default_rng(4), 20, 0.5)
    twice = np.repeat(np.arange(len(labels)), np.where(np.array(names) == "source3", 3, 1))
    fit = fit_of((logits, labels, names))
    again = fit_of((logits[twice], labels[twice], [names[i] for i in twice]))
    assert (again.temperature, again.threshold) == (fit.temperature, fit.threshold)
    assert again.tiers["clean"].fpr == pytest.approx(fit.tiers["clean"].fpr)
    assert again.authentic_images > fit.authentic_images


def test_a_verdict_needs_more_than_two_sources() -> None:
    # Only the images of so many synthetic sources can be told apart; all others look alike.
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 600)
    names = [f"source{i % 30}" for i in range(1200)]
    for told_apart, given in ((2, False), (6, True)):
        logits = rng.normal(size=1200)
        logits[600:][np.arange(600) % 30 < told_apart] += 9
        assert (fit_of((logits, labels, names)).unsure_high < 1) == given


@pytest.mark.parametrize("few", [0, 1])
def test_a_class_of_few_sources_counts_images(few: int) -> None:
    logits, labels, names = sample_of(np.random.default_rng(5), 30, 0.5)
    named = [
        f"{int(name.removeprefix('source')) % (CALIBRATION_MIN_SOURCES - 1)}" if label == few else name
        for name, label in zip(names, labels, strict=True)
    ]
    fit = fit_of((logits, labels, named))
    assert [fit.authentic_sources, fit.synthetic_sources] == ([0, 30] if few == 0 else [30, 0])
    # Just as if these images had been sources each, or were not named.
    unnamed = ["" if label == few else name for name, label in zip(named, labels, strict=True)]
    assert fit_of((logits, labels, unnamed)) == fit
    if few == 0:
        assert fit.tiers["clean"].fpr == pytest.approx(called(fit, logits[labels == 0]).mean())
    enough = fit_of(
        (logits, labels, [f"{int(name.removeprefix('source')) % CALIBRATION_MIN_SOURCES}" for name in names])
    )
    assert [enough.authentic_sources, enough.synthetic_sources] == [CALIBRATION_MIN_SOURCES] * 2


def test_doubted_images_count_for_the_threshold_and_open_no_verdict() -> None:
    logits, labels, names = sample_of(np.random.default_rng(6), 40, 0.3)
    fit = fit_of((logits, labels, names))
    sure = fit_of((logits, labels, names), doubted=np.abs(logits) > 0.02)
    assert (sure.temperature, sure.threshold) == (fit.temperature, fit.threshold)
    assert sure.tiers["clean"].fpr == fit.tiers["clean"].fpr
    assert (fit.unsure_low > 0, fit.unsure_high < 1) == (True, True)
    assert (sure.unsure_low, sure.unsure_high, sure.tiers["clean"].right_bound) == (0.0, 1.0, None)


def test_the_same_images_give_the_same_calibration() -> None:
    sample = sample_of(np.random.default_rng(7), 25, 0.5)
    assert fit_of(sample) == fit_of(sample)
