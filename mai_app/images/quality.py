"""Image quality: the tiers of degradation that a detector is measured in, and what an image must have for a verdict."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mai_app.config import QUALITY_LIMITS, Preprocessing, QualityLimits, Tier
from mai_app.images.decode import DecodedImage, Pixels, decode, encode_jpeg
from mai_app.images.preprocess import shrink, to_inputs

Plane = npt.NDArray[np.float32]

TIER_SETTINGS: Final[dict[Tier, tuple[int | None, int]]] = {
    "q90": (None, 90),
    "web": (768, 60),
    "hard": (512, 40),
}
"""Maximum of the longest side in pixels (None: as it is), and JPEG quality; clean leaves the file as found."""
TIER_WORDS: Final[dict[Tier, str]] = {
    "clean": "as found",
    "q90": "JPEG 90",
    "web": "longest side ≤ 768, JPEG 60",
    "hard": "longest side ≤ 512, JPEG 40",
}

WINDOWS: Final = Preprocessing(input="crop")
"""The native windows in which detail is measured: those of `--input crop`, corners and centre."""
OCTAVES: Final = 3
"""Halvings that the finest detail is compared with."""


def degrade(image: DecodedImage, tier: Tier) -> DecodedImage:
    """The image as a tier delivers it, whatever its class: scaled down where it is larger, saved as JPEG, read again.

    JPEG is saved 4:2:0 with the IJG tables; scaling is Lanczos.
    """
    return image if tier == "clean" else save_as(shrink(image.pixels, TIER_SETTINGS[tier][0]), tier)


def save_as(pixels: Pixels, tier: Tier) -> DecodedImage:
    """The second half of `degrade`, for pixels that are scaled down already; clean saves nothing."""
    return decode(encode_jpeg(pixels, TIER_SETTINGS[tier][1]), tier)


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


def unjudgeable_reason(
    pixels: Pixels,
    jpeg_quality: int | None,
    seen: Pixels | None = None,
    limits: QualityLimits = QUALITY_LIMITS,
) -> str | None:
    """Why an image of (height, width, 3) uint8 pixels can't be judged, in words, or None where it can.

    `jpeg_quality`, 1 to 100, is the estimate of its file's tables; None if it is no JPEG. `seen` is the image as the
    network sees it, scaled down to its `longest`; None: as it is. Flat crops say little and traces drown in strong
    compression and enlargement, for both classes alike; a detector should say so.
    """
    height, width = pixels.shape[:2]
    seen = pixels if seen is None else seen
    seen_height, seen_width = seen.shape[:2]
    if min(seen_height, seen_width) < limits.shorter_side:
        return f"too small to be judged: {seen_width}×{seen_height} pixels, a side under {limits.shorter_side}"
    if min(height, width) * limits.sides_ratio < max(height, width):
        return f"too small to be judged: {width}×{height} pixels, one side over {limits.sides_ratio} times the other"
    if jpeg_quality is not None and jpeg_quality < limits.jpeg_quality:
        return f"too degraded to be judged: JPEG quality {jpeg_quality}, under {limits.jpeg_quality}"
    detail = most_detail(pixels)
    if detail.finest < limits.detail or (seen is not pixels and not _has_detail(seen, limits.detail)):
        return "too smooth to be judged: next to no detail"
    if detail.resolution < limits.resolution:
        return "too degraded to be judged: enlarged, next to no detail as fine as its pixels"
    return None


def most_detail(pixels: Pixels) -> Detail:
    """The detail of that window of (height, width, 3) uint8 pixels which has most of it."""
    planes = list(_planes(pixels))
    finest = [_lost(plane, 2) for plane in planes]
    best = int(np.argmax(finest))
    return Detail(finest[best], _lost(planes[best], 2**OCTAVES))


def _has_detail(pixels: Pixels, least: float) -> bool:
    """Whether most_detail(pixels).finest is at least that: mostly the first window settles it."""
    return any(_lost(plane, 2) >= least for plane in _planes(pixels))


def _planes(pixels: Pixels) -> Iterator[Plane]:
    """The windows in which detail is measured, in grey, one after the other."""
    for window in to_inputs(pixels, WINDOWS):
        yield np.asarray(Image.fromarray(window).convert("L"), np.float32)


def _lost(plane: Plane, factor: int) -> float:
    """Standard deviation of what (height, width) loses when it is made so many times smaller and as large again."""
    height, width = plane.shape
    whole = Image.fromarray(plane)
    small = whole.resize((max(1, width // factor), max(1, height // factor)), Image.Resampling.LANCZOS)
    return float(np.std(plane - np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))))
