"""Rendered scenes for the simulated data set (shapes, tiles, clouds, hills), and the filters used on them."""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float32]
Kernel = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Rng = np.random.Generator

FAMILIES: Final = ("shapes", "tiles", "clouds", "hills")


def render(rng: Rng, family: str, height: int, width: int) -> Floats:
    """Render a scene of one of FAMILIES at twice the picture's size: (2h, 2w, 3) float32, linear light in [0, 1]."""
    shape = (2 * height, 2 * width)
    v, u = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    kinds = int(rng.integers(5, 14))
    if family == "tiles":
        parts = _tiles(rng, u, v, kinds)
    elif family == "clouds":
        ground = sum(np.float32(0.5**k) * _smooth_noise(rng, shape, 150 / 2**k) for k in range(5))
        parts = np.clip((ground / 5 + 0.5) * kinds, 0, kinds - 1).astype(np.uint8)
    else:
        parts = _draw_parts(rng, shape, kinds, hills=family == "hills")
    shade = 1 + sum(rng.normal(0, 0.12, kinds).astype(np.float32)[parts] * ramp for ramp in (u, v))
    # Each part has a roughness of its own at each of three scales: most smooth, some rough.
    for cell in (rng.uniform(24, 60), rng.uniform(8, 20), rng.uniform(3, 6)):
        roughness = (0.05 * rng.random(kinds) ** 3).astype(np.float32)
        shade += roughness[parts] * _smooth_noise(rng, shape, cell)
    colours = rng.uniform(0.35, 0.75) + rng.uniform(-0.15, 0.15, 3) + rng.uniform(-0.08, 0.08, (kinds, 1))
    colours = colours + rng.uniform(0.03, 0.08) * rng.uniform(-1, 1, (kinds, 3))
    palette = (np.clip(colours, 0.1, 1) ** 2.2).astype(np.float32)
    scene = palette[parts] * np.maximum(shade, np.float32(0.02))[..., None]
    # Automatic exposure and white balance, so that brightness and cast do not drown what tells the twins apart.
    mean = scene[::4, ::4].mean(axis=(0, 1))
    gains = rng.uniform(0.19, 0.23) / (mean**0.85 * mean.mean() ** 0.15)
    return np.asarray(np.clip(scene * gains, 0, 1), np.float32)


def _draw_parts(rng: Rng, shape: tuple[int, int], kinds: int, hills: bool) -> Bytes:
    height, width = shape
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for kind in range(1, kinds):
        if hills:
            ridge = np.cumsum(rng.normal(0, height * rng.uniform(0.005, 0.03), 33))
            x, y = np.linspace(0, width, 33), ridge - ridge.mean() + height * (0.2 + 0.8 * kind / kinds)
            draw.polygon([(0, height), *zip(x.tolist(), y.tolist(), strict=True), (width, height)], fill=kind)
            continue
        for _ in range(int(rng.integers(1, 4))):
            middle, radii = rng.uniform(0, shape), rng.uniform(0.04, 0.3, 2) * height
            corners = int(rng.choice((3, 4, 5, 6, 7, 60)))  # 60: an ellipse, for the eye
            turns = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners < 60 else np.linspace(0, 2 * np.pi, 60)
            y, x = middle[0] + radii[0] * np.sin(turns), middle[1] + radii[1] * np.cos(turns)
            draw.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=kind)
    return np.asarray(canvas)


def _tiles(rng: Rng, u: Floats, v: Floats, kinds: int) -> Bytes:
    angle, across, along = rng.uniform(0, np.pi), rng.uniform(2, 6), rng.choice((0, 1)) * rng.uniform(2, 6)
    bend = np.float32(rng.uniform(0, 0.15)) * _smooth_noise(rng, (u.shape[0], u.shape[1]), 150)
    columns = np.floor((np.cos(angle) * u + np.sin(angle) * v + bend) * across).astype(np.int64)
    rows = np.floor((np.cos(angle) * v - np.sin(angle) * u + bend) * along).astype(np.int64)
    return np.asarray((columns + int(rng.integers(1, kinds)) * rows) % kinds, np.uint8)


def _smooth_noise(rng: Rng, shape: tuple[int, int], cell: float) -> Floats:
    grid = rng.standard_normal([int(side / cell) + 2 for side in shape], np.float32)
    return np.asarray(Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


def insert_zeros(image: Floats) -> Floats:
    """Upsample (h, w, c) to (2h, 2w, c): each pixel at the even positions, zeros elsewhere."""
    out = np.zeros((2 * image.shape[0], 2 * image.shape[1], image.shape[2]), np.float32)
    out[::2, ::2] = image
    return out


def halve(image: Floats, taps: Kernel) -> Floats:
    """Filter (h, w, c) along both sides with an even number of taps, and keep every second pixel."""
    reach = len(taps) // 2 - 1
    for _ in range(2):
        size = image.shape[0]
        padded = np.pad(image, ((reach, reach), (0, 0), (0, 0)), "edge")
        image = np.float32(taps[0]) * padded[0:size:2]
        for k in range(1, len(taps)):
            image += np.float32(taps[k]) * padded[k : k + size : 2]
        image = image.swapaxes(0, 1)
    return image


def filter_3x3(image: Floats, kernel: Kernel) -> Floats:
    """Filter (h, w, c) with a 3×3 kernel; "reflect" carries the mosaic's pattern on beyond the border."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "reflect")
    out = np.zeros_like(image)
    for i, j in zip(*np.nonzero(kernel), strict=True):
        out += np.float32(kernel[i, j]) * padded[i : i + height, j : j + width]
    return out
