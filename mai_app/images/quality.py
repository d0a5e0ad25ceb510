"""Image quality: the tiers of degradation that a detector is measured in, and what an image must have for a verdict."""

from collections.abc import Iterator
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


def unjudgeable_reason(
    pixels: Pixels,
    jpeg_quality: int | None,
    seen: Pixels | None = None,
    limits: QualityLimits = QUALITY_LIMITS,
) -> str | None:
    """Why an image of (height, width, 3) uint8 pixels can't be judged, in words, or None where it can.

    `jpeg_quality`, 1 to 100, is the estimate of its file's tables; None if it is no JPEG. `seen` is the image as the
    network sees it, scaled down to its `longest`; None: as it is. Flat crops say little and traces drown in strong
    compression and enlargement, for both classes alike; a detector should say so. One window with enough detail,
    and enough of it as fine as the pixels, makes an image judgeable.
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
    smooth = resolved = True
    for plane in _planes(pixels):  # the first that tells enough will do: most images need no second
        finest = _lost(plane, 2)
        smooth = smooth and finest < limits.detail
        resolved = finest >= max(limits.detail, limits.resolution * _lost(plane, 2**OCTAVES))
        if resolved:
            break
    if smooth or (seen is not pixels and all(_lost(plane, 2) < limits.detail for plane in _planes(seen))):
        return "too smooth to be judged: next to no detail"
    if not resolved:
        return "too degraded to be judged: enlarged, next to no detail as fine as its pixels"
    return None


def _planes(pixels: Pixels) -> Iterator[Plane]:
    """The grey levels of each window of (height, width, 3) uint8 pixels."""
    for window in to_inputs(pixels, WINDOWS):
        yield np.asarray(Image.fromarray(window).convert("L"), np.float32)


def _lost(plane: Plane, factor: int) -> float:
    """Detail: standard deviation, in grey levels, of what (height, width) loses made so many times smaller and back."""
    height, width = plane.shape
    whole = Image.fromarray(plane)
    small = whole.resize((max(1, width // factor), max(1, height // factor)), Image.Resampling.LANCZOS)
    return float(np.std(plane - np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))))
