"""The tiers that a detector is measured in: an image as the web delivers it, whatever its class."""

from typing import Final

from mai_app.config import Tier
from mai_app.images.decode import DecodedImage, decode, encode_jpeg
from mai_app.images.preprocess import shrink

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
