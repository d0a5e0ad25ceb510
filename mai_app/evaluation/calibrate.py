"""From validation logits to a calibration: temperature, threshold at a false positive ceiling, unsure band."""

import numpy as np
import numpy.typing as npt

from mai_app.checkpoint import Calibration
from mai_app.config import FPR_CEILING, UNSURE_ACCURACY, UNSURE_MIN_IMAGES

Floats = npt.NDArray[np.float64]


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def balanced_loss(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Binary cross-entropy in nats, the mean of the two classes' means, so that their sizes do not matter."""
    losses = np.logaddexp(0, np.where(labels == 1, -logits, logits))
    return float(np.mean([losses[labels == label].mean() for label in (0, 1)]))


def calibrate(logits: Floats, labels: npt.NDArray[np.int64]) -> Calibration:
    """Fit a calibration on validation logits (n,) and labels (n,), both classes present and counting alike.

    temperature: the one of least loss (Guo et al. 2017, "On Calibration of Modern Neural Networks").
    threshold: the lowest at which at most FPR_CEILING of the authentic images are called synthetic.
    unsure band: around the threshold; beyond each edge verdicts are right in at least UNSURE_ACCURACY of the
    images, the classes counting alike, and there are at least UNSURE_MIN_IMAGES. An edge without such images
    stays at 0 or 1: that verdict is then never given.
    """
    temperatures = np.geomspace(0.05, 50, 601)
    temperature = float(temperatures[np.argmin([balanced_loss(logits / t, labels) for t in temperatures])])
    scores = sigmoid(logits / temperature)
    threshold = _threshold(scores, labels)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        unsure_low=min(threshold, 1 - _edge(1 - scores, 1 - labels)),
        unsure_high=max(threshold, _edge(scores, labels)),
        authentic_images=int((labels == 0).sum()),
        synthetic_images=int((labels == 1).sum()),
    )


def _threshold(scores: Floats, labels: npt.NDArray[np.int64]) -> float:
    authentic = np.sort(scores[labels == 0])[::-1]
    allowed = int(FPR_CEILING * len(authentic))
    highest_right = authentic[allowed]
    above = scores[scores > highest_right]
    return float((highest_right + (above.min() if len(above) else 1.0)) / 2)


def _edge(scores: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The lowest score above which images are of class 1 in at least UNSURE_ACCURACY; 1 if there is none."""
    edge = 1.0
    weights = np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum((weights * labels)[order])
    accuracy = right / np.cumsum(weights[order])
    ranked = scores[order]
    for i in range(UNSURE_MIN_IMAGES - 1, len(ranked) - 1):
        # Between equal scores there is no edge.
        if accuracy[i] >= UNSURE_ACCURACY and ranked[i] > ranked[i + 1]:
            edge = float((ranked[i] + ranked[i + 1]) / 2)
    return edge
