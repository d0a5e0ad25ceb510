"""Damage that images meet on their way through the web: the tiers in which a detector is measured."""

from typing import Final

import numpy as np
from PIL import Image

from mai_app.config import Tier
from mai_app.data.images import DecodedImage, Pixels, decode, encode_jpeg

TIER_SETTINGS: Final[dict[Tier, tuple[int | None, int]]] = {
    "q90": (None, 90),
    "web": (768, 60),
    "hard": (512, 40),
}
"""Longest side at most, in pixels (None: as it is), and JPEG quality; clean leaves the file as found."""
TIER_WORDS: Final[dict[Tier, str]] = {
    "clean": "as found",
    "q90": "JPEG 90",
    "web": "longest side ≤ 768, JPEG 60",
    "hard": "longest side ≤ 512, JPEG 40",
}


def degrade(image: DecodedImage, tier: Tier) -> DecodedImage:
    """The image as a tier delivers it, whatever its class: scaled down where it is larger, saved as JPEG, read again.

    JPEG is saved 4:2:0 with the IJG tables; scaling is Lanczos.
    """
    if tier == "clean":
        return image
    longest, quality = TIER_SETTINGS[tier]
    return decode(encode_jpeg(shrink(image.pixels, longest), quality), tier)


def shrink(pixels: Pixels, longest: int | None) -> Pixels:
    """(height, width, 3) uint8 scaled down, Lanczos, until no side is over `longest`; never up."""
    height, width = pixels.shape[:2]
    if longest is None or max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
