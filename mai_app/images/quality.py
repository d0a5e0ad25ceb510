"""What an image must have to be judged at all: from pixels and JPEG quality to the reason for doubt, or None."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mai_app.config import DOUBT_LIMITS, DoubtLimits, Preprocessing
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import to_inputs

Plane = npt.NDArray[np.float32]

PLACES: Final = Preprocessing(input="crop")
"""Where detail is looked for: the native windows that `--input crop` judges, corners and centre."""
OCTAVES: Final = 3
"""Halvings that the finest detail is compared with."""


@dataclass(frozen=True)
class Detail:
    """How much an image's window with most detail holds."""

    finest: float
    """Standard deviation, in grey levels, of what is lost when the window is halved and enlarged again."""
    all: float
    """The same for a window made eight times smaller."""

    @property
    def resolution(self) -> float:
        """Share of the finest octave's detail, 0 to about 1; near 0 in what was enlarged."""
        return self.finest / self.all if self.all else 0.0


def doubt(pixels: Pixels, jpeg_quality: int | None, limits: DoubtLimits = DOUBT_LIMITS) -> str | None:
    """Why an image of (height, width, 3) uint8 pixels can't be judged, in words, or None where it can.

    `jpeg_quality`, 1 to 100, is the estimate of its file's tables; None if it is no JPEG. Flat crops say little and
    traces drown in strong compression and enlargement, for both classes alike; a detector should say so.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < limits.shorter_side:
        return f"too small to be judged: {width}×{height} pixels, a side under {limits.shorter_side}"
    if jpeg_quality is not None and jpeg_quality < limits.jpeg_quality:
        return f"too degraded to be judged: JPEG quality {jpeg_quality}, under {limits.jpeg_quality}"
    detail = most_detail(pixels)
    if detail.finest < limits.detail:
        return "too smooth to be judged: next to no detail"
    if detail.resolution < limits.resolution:
        return "too degraded to be judged: enlarged, next to no detail as fine as its pixels"
    return None


def most_detail(pixels: Pixels) -> Detail:
    """The detail of that window of (height, width, 3) uint8 pixels which has most of it."""
    planes = [np.asarray(Image.fromarray(window).convert("L"), np.float32) for window in to_inputs(pixels, PLACES)]
    finest = [_lost(plane, 2) for plane in planes]
    best = int(np.argmax(finest))
    return Detail(finest[best], _lost(planes[best], 2**OCTAVES))


def _lost(plane: Plane, factor: int) -> float:
    """Standard deviation of what (height, width) loses when it is made so many times smaller and as large again."""
    height, width = plane.shape
    whole = Image.fromarray(plane)
    small = whole.resize((max(1, width // factor), max(1, height // factor)), Image.Resampling.LANCZOS)
    return float(np.std(plane - np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))))
