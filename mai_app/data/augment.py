"""Training augmentation: random degradations as on the web (JPEG, WebP, rescaling, blur, noise), both classes alike."""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from mai_app.images.decode import SAMPLINGS, Pixels, decode, encode_jpeg
from mai_app.images.preprocess import central_square, mirrored, random_window, resize

Jpegs = npt.NDArray[np.int64]
"""(n, 2): quality, 1 to 100, and index in SAMPLINGS of a training set's JPEG files."""

GRID: Final = 8
"""Pixels a side of a JPEG block: cutting 0 to GRID - 1 of them off moves the blocks' edges anywhere."""
UNKNOWN_JPEGS: Final = tuple((quality, SAMPLINGS.index("4:2:0")) for quality in range(75, 96))
"""JPEG quality and index in SAMPLINGS to draw from if the training set has no JPEG."""
RESCALE: Final = 0.5
"""Share of the crops that are rescaled."""
SCALES: Final = (0.6, 1.3)
"""Factor of the rescaling, log-uniform from and to; the lower end rises where the crop would not hold its size."""
FILTERS: Final = (
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
"""Filters of the rescaling, equally often."""
BLUR: Final = 0.12
"""Share of the images that are blurred."""
BLURS: Final = (0.3, 1.0)
"""Standard deviation of the blur in pixels, uniform from and to."""
NOISE: Final = 0.12
"""Share of the images that get Gaussian noise."""
NOISES: Final = (1.0, 4.0)
"""Standard deviation of the noise in levels of 255, uniform from and to."""
RECOMPRESS: Final = 0.7
"""Share of the images that are saved with loss once more."""
WEBP: Final = 0.2
"""Share of WebP among those; the others are JPEG."""
QUALITIES: Final = (40, 95)
"""JPEG and WebP quality of that, uniform from and to, both included."""
STRETCH_SIDES: Final = (0.6, 1.0)
"""Width and height of the part of a stretched image, each uniform from and to, as a share of the whole."""
SQUARE_SIDES: Final = (0.75, 1.0)
"""Side of the part of a central square, uniform from and to, as a share of the whole."""


def training_crop(window: Pixels, lossy: bool, jpegs: Jpegs, size: int, rng: np.random.Generator) -> Pixels:
    """(≤ 256, ≤ 256, 3) native window to a new (size, size, 3) uint8 crop that says little of how its file was stored.

    Real photographs come as JPEG and synthetic images as PNG, and detectors learn that (Grommelt et al. 2024, "Fake
    or JPEG?"). So what never had a JPEG generation (not `lossy`) gets one, as one of the training set's JPEGs has it:
    quality and colour sampling are drawn from `jpegs`. Everything after that is drawn alike whatever the file was:
    rescaling, blur, noise, and mostly a further generation, for blur and JPEG in training are what makes a detector
    hold on images from the web (Wang et al. 2020, "CNN-generated images are surprisingly easy to spot… for now").
    `rng` alone decides; the crop is mirrored where the image is too small, and flipped left to right half the time.
    """
    # Cut before and after the lossless file's JPEG, so that its blocks lie anywhere on what the picture was made of and
    # anywhere in the crop; the lossy file is cut as often, or where the mirroring begins would tell them apart.
    pixels = _cut(window, rng)
    if not lossy:
        pixels = _as_jpeg(pixels, *_draw_jpeg(jpegs, rng))
    pixels = _cut(pixels, rng)
    # What the last step can't need is dropped here: the steps between cost by the pixel.
    room = size + GRID - 1
    pixels = _rescaled(pixels, room, rng) if rng.random() < RESCALE else random_window(pixels, room, rng)
    pixels = _degrade_randomly(pixels, jpegs, rng)
    return _flipped(random_window(mirrored(pixels, size), size, rng), rng)


def training_stretch(stretched: Pixels, jpegs: Jpegs, rng: np.random.Generator) -> Pixels:
    """A whole image stretched to (n, n, 3) uint8, to a new one of that shape: a random part of it, stretched again.

    Width and height of the part are drawn apart from each other, so that how strongly the picture is stretched no
    longer tells the proportions of the file (synthetic images are mostly square); then flip, blur, noise and
    recompression as in training_crop. The first JPEG generation's traces did not survive the first stretch.
    """
    height, width = stretched.shape[:2]
    part_width, part_height = width * rng.uniform(*STRETCH_SIDES), height * rng.uniform(*STRETCH_SIDES)
    x, y = rng.uniform(0, width - part_width), rng.uniform(0, height - part_height)
    box = (x, y, x + part_width, y + part_height)
    part = Image.fromarray(stretched).resize((width, height), Image.Resampling.BILINEAR, box)
    return _flipped(_degrade_randomly(np.asarray(part), jpegs, rng), rng)


def training_square(square: Pixels, lossy: bool, jpegs: Jpegs, size: int, rng: np.random.Generator) -> Pixels:
    """A whole image's central square (n, n, 3) uint8 to a new one (size, size, 3): a random part of it, degraded.

    It is scaled to a random size between its own and the input's first and to the input's after blur, noise and
    recompression, which are those of training_crop: small pictures on the web have been through that at any size.
    """
    side = square.shape[0]
    part = max(1, round(side * rng.uniform(*SQUARE_SIDES)))
    y, x = rng.integers(0, side - part + 1, 2).tolist()
    pixels = square[y : y + part, x : x + part]
    if not lossy:
        pixels = _as_jpeg(pixels, *_draw_jpeg(jpegs, rng))
    between = int(rng.integers(min(part, size), part, endpoint=True))
    resampling = FILTERS[rng.integers(len(FILTERS))]
    pixels = np.asarray(Image.fromarray(pixels).resize((between, between), resampling))
    pixels = _degrade_randomly(pixels, jpegs, rng)
    return _flipped(resize(central_square(pixels, size), size), rng)


def _cut(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Without 0 to 7 rows at the top and columns at the left; at least a pixel stays."""
    y, x = rng.integers(0, GRID, 2).tolist()
    return pixels[min(y, pixels.shape[0] - 1) :, min(x, pixels.shape[1] - 1) :]


def _draw_jpeg(jpegs: Jpegs, rng: np.random.Generator) -> tuple[int, str]:
    """Quality and colour sampling of a JPEG of the training set."""
    known = jpegs if len(jpegs) else UNKNOWN_JPEGS
    quality, sampling = known[rng.integers(len(known))]
    return int(quality), SAMPLINGS[int(sampling)]


def _rescaled(pixels: Pixels, room: int, rng: np.random.Generator) -> Pixels:
    """A random part rescaled by a random factor and filter to (≤ room, ≤ room, 3)."""
    height, width = pixels.shape[:2]
    lowest = max(SCALES[0], min(1.0, room / min(height, width)))
    scale = float(np.exp(rng.uniform(np.log(lowest), np.log(SCALES[1]))))
    resampling = FILTERS[rng.integers(len(FILTERS))]
    new_height, new_width = (min(room, max(1, round(side * scale))) for side in (height, width))
    # Only the part that is needed is computed; its corner lies between pixels, as it would in a larger image.
    part_height, part_width = min(height, new_height / scale), min(width, new_width / scale)
    y, x = rng.uniform(0, height - part_height), rng.uniform(0, width - part_width)
    box = (x, y, min(width, x + part_width), min(height, y + part_height))
    return np.asarray(Image.fromarray(pixels).resize((new_width, new_height), resampling, box))


def _degrade_randomly(pixels: Pixels, jpegs: Jpegs, rng: np.random.Generator) -> Pixels:
    """Blur, noise and lossy recompression, each with its own probability."""
    if rng.random() < BLUR:
        blur = ImageFilter.GaussianBlur(rng.uniform(*BLURS))
        pixels = np.asarray(Image.fromarray(pixels).filter(blur))
    if rng.random() < NOISE:
        noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(*NOISES))
        pixels = np.rint(pixels + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < RECOMPRESS:
        webp = rng.random() < WEBP
        quality = int(rng.integers(*QUALITIES, endpoint=True))
        pixels = _as_webp(pixels, quality) if webp else _as_jpeg(pixels, quality, _draw_jpeg(jpegs, rng)[1])
    return pixels


def _as_jpeg(pixels: Pixels, quality: int, sampling: str) -> Pixels:
    """Saved as JPEG and read again."""
    return decode(encode_jpeg(pixels, quality, sampling), "training image").pixels


def _as_webp(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    # Method 0 searches least: a third of the time of the usual 4, with the same transform.
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=0)
    return decode(buffer.getvalue(), "training image").pixels


def _flipped(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Left to right half the time; always a copy, since a window may be a view of a file that must not change."""
    return np.array(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
