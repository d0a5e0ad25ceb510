"""Calibration: the temperature that the scores need, the false positive ceiling, verdicts that are right."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mai_app.config import FPR_CEILING, UNSURE_ACCURACY, UNSURE_MIN_IMAGES
from mai_app.models.calibration import Calibration, balanced_loss, calibrate, calibrate_tiers, sigmoid


def logits_of(distance: float, n: int, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right, up to `scale`, for two normal distributions `distance` apart; n of either class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n)
    x = rng.normal(size=2 * n) + distance * labels
    return scale * distance * (x - distance / 2), labels


def test_temperature_undoes_overconfidence() -> None:
    logits, labels = logits_of(1.5, 4000, scale=3.0)
    calibration = calibrate(logits, labels)
    assert calibration.temperature == pytest.approx(3.0, rel=0.08)
    best = minimize_scalar(lambda t: balanced_loss(logits / np.exp(t), labels), bounds=(-3, 4), method="bounded")
    assert calibration.temperature == pytest.approx(float(np.exp(best.x)), rel=0.01)


@pytest.mark.parametrize("n", [1, 7, 19, 20, 40, 101, 1000])
def test_at_most_the_ceiling_of_authentic_images_is_called_synthetic(n: int) -> None:
    logits, labels = logits_of(1.0, n, seed=n)
    calibration = calibrate(logits, labels)
    scores = sigmoid(logits / calibration.temperature)
    false_positives = (scores[labels == 0] >= calibration.threshold).sum()
    assert false_positives == int(FPR_CEILING * n)


def test_verdicts_beyond_the_unsure_band_are_right_as_often_as_promised() -> None:
    logits, labels = logits_of(2.0, 500)
    calibration = calibrate(logits, labels)
    assert calibration.unsure_low <= calibration.threshold <= calibration.unsure_high
    verdicts = np.array([calibration.verdict(p) for p in sigmoid(logits / calibration.temperature)])
    assert {"authentic", "unsure", "synthetic"} == set(verdicts)
    for label, name in ((0, "authentic"), (1, "synthetic")):
        right = (labels[verdicts == name] == label).mean()
        assert right >= UNSURE_ACCURACY - 0.005


def test_a_model_that_knows_nothing_is_always_unsure() -> None:
    rng = np.random.default_rng(0)
    calibration = calibrate(rng.normal(size=400), np.repeat([0, 1], 200))
    assert (calibration.unsure_low, calibration.unsure_high) == (0.0, 1.0)
    assert calibration.verdict(0.0) == calibration.verdict(1.0) == "unsure"


def test_a_perfect_model_is_seldom_unsure() -> None:
    logits = np.concatenate([np.linspace(-9, -5, 50), np.linspace(5, 9, 50)])
    calibration = calibrate(logits, np.repeat([0, 1], 50))
    verdicts = [calibration.verdict(p) for p in sigmoid(logits / calibration.temperature)]
    assert verdicts.count("unsure") <= 3  # at most the allowed false positives' side of the threshold


def test_classes_count_alike_whatever_their_sizes() -> None:
    logits, labels = logits_of(1.5, 3000, scale=2.0)
    few = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:300]])
    assert calibrate(logits[few], labels[few]).temperature == pytest.approx(
        calibrate(logits, labels).temperature, rel=0.15
    )


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e9, 0.0, 1e9])).tolist() == [0.0, 0.5, 1.0]


# Several tiers


def tiers_of(n: int, *distances: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits by tier, the first as told apart as the first distance, and the labels."""
    parts = {f"tier{i}": logits_of(distance, n, seed=i) for i, distance in enumerate(distances)}
    return {tier: logits for tier, (logits, _) in parts.items()}, parts["tier0"][1]


def none_doubted(logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {tier: np.zeros(len(values), dtype=bool) for tier, values in logits.items()}


def given(calibration: Calibration, logits: np.ndarray, labels: np.ndarray, name: str) -> tuple[int, float]:
    """How many images get this verdict, and how many of 100 of those are right, the classes counting alike."""
    scores = sigmoid(logits / calibration.temperature)
    verdicts = np.array([calibration.verdict(p) for p in scores])
    shares = [(verdicts[labels == label] == name).mean() for label in (0, 1)]
    right = shares[name == "synthetic"] / sum(shares) if sum(shares) else 1.0
    return int((verdicts == name).sum()), right


@pytest.mark.parametrize(("n", "seed"), [(20, 0), (60, 1), (103, 2), (300, 3)])
def test_every_tier_keeps_what_is_promised(n: int, seed: int) -> None:
    rng = np.random.default_rng([n, seed])
    logits, labels = tiers_of(n, *rng.uniform(0.5, 4, 4))
    calibration = calibrate_tiers(logits, labels, none_doubted(logits))
    reached = []
    for tier, values in logits.items():
        called = sigmoid(values / calibration.temperature) >= calibration.threshold
        reached.append(called[labels == 0].mean())
        assert calibration.tiers[tier].fpr <= (calibration.tiers[tier].fpr_bound or 0) <= FPR_CEILING
        for name in ("authentic", "synthetic"):
            count, right = given(calibration, values, labels, name)
            assert right >= UNSURE_ACCURACY - 1e-9
            assert count == 0 or count >= UNSURE_MIN_IMAGES
    # The worst tier decides; a bound leaves less than the ceiling itself, and no more is left than it takes.
    assert max(reached) <= int(FPR_CEILING * n) / n
    assert n < 100 or max(reached) >= 0.01


def test_the_most_cautious_edge_alone_would_not_do() -> None:
    # Of the second tier the most sure images are wrong: right above its own edge, and not above the first tier's.
    labels = np.repeat([0, 1], 100)
    first = np.concatenate([np.linspace(-8, 3.9, 100), np.linspace(4, 8, 100)])
    second = np.concatenate([np.linspace(-8, -1, 92), np.linspace(7.1, 7.9, 8), np.linspace(0.5, 5, 100)])
    logits = {"first": first, "second": second}
    edge = 3.5  # above it the first tier is right, and above -1 the second
    assert [labels[part > edge].mean() >= UNSURE_ACCURACY for part in (first, second)] == [True, False]
    fit = calibrate_tiers(logits, labels, none_doubted(logits))
    for part in (first, second):
        assert given(fit, part, labels, "synthetic")[1] >= UNSURE_ACCURACY
    assert fit.unsure_high == 1
    assert given(fit, second, labels, "authentic")[0] >= 90


def test_a_tier_that_knows_nothing_makes_all_unsure() -> None:
    logits, labels = tiers_of(200, 4.0, 4.0)
    logits["tier1"] = np.random.default_rng(0).normal(size=400)
    calibration = calibrate_tiers(logits, labels, none_doubted(logits))
    assert (calibration.unsure_low, calibration.unsure_high) == (0.0, 1.0)
    assert [rates.right for rates in calibration.tiers.values()] == [None, None]
    assert [rates.unsure for rates in calibration.tiers.values()] == [1.0, 1.0]


def test_one_tier_is_calibrated_as_training_does_and_more_cautiously() -> None:
    logits, labels = logits_of(2.0, 300)
    alone = calibrate(logits, labels)
    fit = calibrate_tiers({"clean": logits}, labels, {"clean": np.zeros(600, dtype=bool)}, "photos")
    assert fit.temperature == alone.temperature
    # Bounds are kept, not only the figures themselves.
    assert fit.threshold > alone.threshold
    assert fit.unsure_low < alone.unsure_low
    assert fit.unsure_high > alone.unsure_high
    assert (fit.data, alone.data, alone.tiers) == ("photos", "", {})


def test_the_temperature_is_that_of_all_tiers_together() -> None:
    right, labels = logits_of(1.5, 4000, seed=1)
    logits = {"a": 3 * right, "b": 3 * right, "c": 1.5 * right}
    fit = calibrate_tiers(logits, labels, none_doubted(logits))
    together = calibrate(np.concatenate(list(logits.values())), np.tile(labels, 3))
    assert fit.temperature == together.temperature
    assert 1.6 < fit.temperature < 2.9


def test_rates_are_those_of_the_verdicts() -> None:
    logits, labels = tiers_of(250, 3.0, 2.5)
    logits, labels = {tier: values[:350] for tier, values in logits.items()}, labels[:350]  # classes of two sizes
    doubted = none_doubted(logits)
    doubted["tier1"][::10] = True
    fit = calibrate_tiers(logits, labels, doubted)
    for tier, rates in fit.tiers.items():
        scores = sigmoid(logits[tier] / fit.temperature)
        verdicts = np.array(["unsure" if d else fit.verdict(p) for p, d in zip(scores, doubted[tier], strict=True)])
        assert rates.images == 350
        assert rates.unsure == pytest.approx((verdicts == "unsure").mean())
        assert rates.fpr == pytest.approx((scores[labels == 0] >= fit.threshold).mean())
        assert rates.tpr == pytest.approx((scores[labels == 1] >= fit.threshold).mean())
        share = {
            (label, name): (verdicts[labels == label] == name).mean()
            for label in (0, 1)
            for name in ("authentic", "synthetic")
        }
        right = (share[0, "authentic"] + share[1, "synthetic"]) / sum(share.values())
        assert rates.right == pytest.approx(right)
    assert fit.tiers["tier1"].unsure >= 0.1


def test_doubted_images_open_no_verdict() -> None:
    # All that would be told apart is doubted: what is left says nothing.
    logits = np.concatenate([np.full(50, -6.0), np.full(50, 0.0), np.full(50, 6.0), np.full(50, 0.0)])
    labels = np.repeat([0, 1], 100)
    fit = calibrate_tiers({"clean": logits}, labels, {"clean": np.abs(logits) > 1})
    assert (fit.unsure_low, fit.unsure_high) == (0.0, 1.0)
    assert calibrate(logits, labels).unsure_high < 1
