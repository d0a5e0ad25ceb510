"""The tiers of damage: their sizes, their JPEG quality, and that nothing but the pixels decides what they do."""

import inspect

import numpy as np
import pytest
from PIL import Image

from mai_app.config import TIERS, Tier
from mai_app.data.augment import TIER_SETTINGS, TIER_WORDS, degrade, shrink
from mai_app.data.images import DecodedImage, Pixels, decode, encode_jpeg

DAMAGING: tuple[Tier, ...] = ("q90", "web", "hard")


def picture(height: int, width: int) -> Pixels:
    """A smooth picture with a little noise."""
    rng = np.random.default_rng(height + width)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-5, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def decoded(pixels: Pixels, form: str = "PNG", notes: tuple[str, ...] = ()) -> DecodedImage:
    return DecodedImage(pixels, form, pixels.nbytes, None, notes)


@pytest.mark.parametrize(
    ("tier", "size", "quality"), [("q90", (600, 1000), 90), ("web", (461, 768), 60), ("hard", (307, 512), 40)]
)
def test_a_tier_has_its_size_and_quality(tier: Tier, size: tuple[int, int], quality: int) -> None:
    result = degrade(decoded(picture(600, 1000)), tier)
    assert result.pixels.shape == (*size, 3)
    assert (result.format, result.jpeg_quality) == ("JPEG", quality)
    upright = degrade(decoded(picture(1000, 600)), tier)
    assert upright.pixels.shape == (*size[::-1], 3)


def test_clean_is_the_image_as_found() -> None:
    image = decoded(picture(600, 1000))
    assert degrade(image, "clean") is image


@pytest.mark.parametrize("tier", DAMAGING)
@pytest.mark.parametrize(("height", "width"), [(100, 50), (1, 1), (512, 300)])
def test_a_tier_never_enlarges(tier: Tier, height: int, width: int) -> None:
    result = degrade(decoded(picture(height, width)), tier)
    assert result.pixels.shape == (height, width, 3)


def test_a_long_strip_keeps_at_least_a_pixel() -> None:
    assert shrink(picture(1, 3000), 512).shape == (1, 512, 3)
    assert shrink(picture(3000, 1), 768).shape == (768, 1, 3)


def test_shrinking_keeps_the_proportions_and_averages() -> None:
    pixels = picture(900, 1300)
    small = shrink(pixels, 512)
    assert small.shape == (354, 512, 3)
    assert np.abs(small.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 1
    assert shrink(pixels, None) is pixels
    assert shrink(pixels, 1300) is pixels


@pytest.mark.parametrize("tier", DAMAGING)
def test_a_tier_is_a_function_of_the_pixels_alone(tier: Tier) -> None:
    # Whatever the file was and whichever class it belongs to: no argument could tell.
    assert list(inspect.signature(degrade).parameters) == ["image", "tier"]
    jpeg = decode(encode_jpeg(picture(300, 800), 55), "x")
    as_png = decoded(jpeg.pixels, "PNG", ("first of 2 frames",))
    assert np.array_equal(degrade(jpeg, tier).pixels, degrade(as_png, tier).pixels)


def test_every_tier_damages_more_than_the_one_before() -> None:
    pixels = picture(300, 400)
    errors = [
        float(np.abs(degrade(decoded(pixels), tier).pixels.astype(int) - pixels).mean())
        for tier in ("clean", *DAMAGING)
    ]
    assert errors[0] == 0
    assert errors == sorted(set(errors))


def test_every_tier_has_settings_and_words() -> None:
    assert set(TIER_WORDS) == set(TIERS)
    assert set(TIER_SETTINGS) == set(TIERS) - {"clean"}
    for tier, (longest, quality) in TIER_SETTINGS.items():
        assert str(quality) in TIER_WORDS[tier]
        assert longest is None or str(longest) in TIER_WORDS[tier]
