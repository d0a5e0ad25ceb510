"""Quality limits: images too small, too smooth or too degraded get a reason, others get none, nor does any tier."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mai_app.config import QUALITY_LIMITS, TIERS
from mai_app.images.decode import Pixels, decode, encode_jpeg
from mai_app.images.preprocess import shrink
from mai_app.images.quality import degrade, most_detail, unjudgeable_reason


def natural(height: int = 400, width: int = 500, seed: int = 0) -> Pixels:
    """A picture with as much in every octave, as photographs have: noise whose amplitude falls as 1/frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    plane = np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / frequency).real
    plane = 128 + 45 * plane / plane.std()
    return np.repeat(plane.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def enlarged(pixels: Pixels, factor: int) -> Pixels:
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((width // factor, height // factor), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("seed", range(3))
def test_a_plain_picture_is_judged_in_every_tier(seed: int) -> None:
    found = decode(encode_jpeg(natural(seed=seed), 90), "a.jpg")
    for tier in TIERS:
        seen = degrade(found, tier)
        assert unjudgeable_reason(seen.pixels, seen.jpeg_quality) is None, tier


@pytest.mark.parametrize(("height", "width"), [(63, 500), (500, 63), (1, 1)])
def test_too_small(height: int, width: int) -> None:
    reason = unjudgeable_reason(natural(500, 500)[:height, :width], None)
    assert reason == f"too small to be judged: {width}×{height} pixels, a side under 64"


def test_the_smallest_side_that_is_judged() -> None:
    assert unjudgeable_reason(natural()[:64, :64], None) is None


def test_a_strip_is_as_small_as_the_network_sees_it() -> None:
    strip = np.concatenate([natural(400, 1000)] * 5, axis=1)
    assert unjudgeable_reason(strip[:, :3200], None) is None
    for pixels in (strip, np.ascontiguousarray(strip.transpose(1, 0, 2))):
        height, width = pixels.shape[:2]
        sides = f"{width}×{height} pixels"
        assert unjudgeable_reason(pixels, None) == f"too small to be judged: {sides}, one side over 8 times the other"
        seen = shrink(pixels, 512)
        reason = unjudgeable_reason(pixels, None, seen)
        assert reason == unjudgeable_reason(seen, None)
        assert reason == f"too small to be judged: {seen.shape[1]}×{seen.shape[0]} pixels, a side under 64"


def test_what_is_smooth_to_the_network_is_not_judged() -> None:
    noise = np.random.default_rng(0).integers(126, 131, (2000, 2000, 1), dtype=np.uint8).repeat(3, axis=2)
    assert unjudgeable_reason(noise, None) is None
    assert unjudgeable_reason(noise, None, shrink(noise, 256)) == "too smooth to be judged: next to no detail"


def test_too_smooth() -> None:
    flat = np.full((300, 300, 3), 200, dtype=np.uint8)
    ramp = np.repeat(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], 300, axis=0).repeat(3, axis=2)
    for pixels in (flat, ramp):
        assert unjudgeable_reason(pixels, None) == "too smooth to be judged: next to no detail"


def test_a_flat_ground_around_a_picture_is_no_reason() -> None:
    pixels = np.full((1000, 1000, 3), 255, dtype=np.uint8)
    pixels[600:, 600:] = natural(400, 400)
    assert unjudgeable_reason(pixels, None) is None
    assert most_detail(pixels).finest > QUALITY_LIMITS.detail


@pytest.mark.parametrize("factor", [3, 4])
def test_too_far_enlarged(factor: int) -> None:
    reason = unjudgeable_reason(enlarged(natural(), factor), None)
    assert reason is not None
    assert reason.startswith("too degraded to be judged: enlarged")


def test_what_is_merely_soft_is_judged() -> None:
    assert (
        unjudgeable_reason(np.asarray(Image.fromarray(natural()).resize((700, 560), Image.Resampling.BILINEAR)), None)
        is None
    )


@pytest.mark.parametrize(("quality", "judged"), [(8, False), (19, False), (20, True), (None, True)])
def test_too_strongly_compressed(quality: int | None, judged: bool) -> None:
    reason = unjudgeable_reason(natural(), quality)
    assert (reason is None) == judged
    assert judged or reason == f"too degraded to be judged: JPEG quality {quality}, under 20"


@pytest.mark.parametrize("seed", range(8))
def test_what_the_network_sees_has_detail_where_its_best_window_has(seed: int) -> None:
    pixels = natural(620, 640, seed)
    flat = np.random.default_rng(seed).integers(0, 2, (2, 2)).astype(bool)  # quarters without any
    for y, x in np.argwhere(flat).tolist():
        pixels[y * 310 : (y + 1) * 310, x * 320 : (x + 1) * 320] = 90
    finest = most_detail(pixels).finest
    noise = np.random.default_rng(0).integers(0, 256, (620, 640, 3), dtype=np.uint8)  # has more of it
    for least in (finest, np.nextafter(finest, 100)):
        limits = replace(QUALITY_LIMITS, detail=float(least))
        doubt = unjudgeable_reason(noise, None, pixels, limits)
        assert (doubt is None) == (finest >= least)
