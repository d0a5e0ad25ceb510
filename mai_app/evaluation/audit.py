"""What the files alone give away: how well format, size and JPEG quality predict the class, with no look at a pixel."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from mai_app.data.images import DecodedImage

Floats = npt.NDArray[np.float64]

PROPERTIES: Final = ("format", "width", "height", "aspect", "bytes a pixel", "JPEG quality")
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def file_properties(image: DecodedImage) -> list[float]:
    """The PROPERTIES of an image's file as numbers; the format by its place in a list, no JPEG has quality 0."""
    height, width = image.pixels.shape[:2]
    return [
        float(_FORMATS.index(image.format)),
        float(width),
        float(height),
        width / height,
        image.file_bytes / (width * height),
        float(image.jpeg_quality or 0),
    ]


def format_only_scores(
    judged: Sequence[Sequence[float]],
    labels: npt.NDArray[np.int64],
    train: Sequence[Sequence[float]],
    train_labels: npt.NDArray[np.int64],
) -> Floats:
    """Scores (n,) of the baseline that sees files' properties alone, for the `judged` (n, 6) files.

    Boosted trees (scikit-learn's histogram gradient boosting, after LightGBM, Ke et al. 2017), fitted on the `train`
    files; where there are too few of either class, fitted and judged by five-fold cross-validation on the judged
    files themselves, or NaN if they are too few for that, too.
    """
    trees = HistGradientBoostingClassifier(
        categorical_features=[0], class_weight="balanced", min_samples_leaf=5, max_iter=60, random_state=0
    )
    # So little work is done before threads have found each other; on a busy machine they would wait for long.
    with threadpool_limits(1):
        if np.bincount(train_labels, minlength=2).min() >= 10:
            trees.fit(np.asarray(train), train_labels)
            return np.asarray(trees.predict_proba(np.asarray(judged))[:, 1], dtype=np.float64)
        if np.bincount(labels, minlength=2).min() >= 10:
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            scores = cross_val_predict(trees, np.asarray(judged), labels, cv=folds, method="predict_proba")
            return np.asarray(scores[:, 1], dtype=np.float64)
    return np.full(len(judged), np.nan)
