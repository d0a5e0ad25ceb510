"""Calibration: the temperature that the scores need, the false positive ceiling, verdicts that are right."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from mai_app.config import FPR_CEILING, UNSURE_ACCURACY
from mai_app.evaluation.calibrate import balanced_loss, calibrate, sigmoid


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
