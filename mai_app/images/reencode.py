"""From pixels to a file that is stored as another file is: format, quantisation, colour sampling, and its size."""

import io
import math
from typing import Any, Final

import numpy as np
from PIL import Image, JpegImagePlugin

from mai_app.images.decode import FORMATS, DecodedImage, Pixels

GRID: Final = 16
"""Places of a window's corner, in pixels: multiples of the largest blocks that JPEG codes at once."""


def window(pixels: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A view of at most (side, side, 3) pixels whose corner lies on JPEG's grid; all of them for side 0."""
    if not side:
        return pixels
    y, x = (GRID * int(rng.integers(max(0, length - side) // GRID + 1)) for length in pixels.shape[:2])
    return pixels[y : y + side, x : x + side]


def saved_alike(pixels: Pixels, data: bytes, image: DecodedImage) -> bytes:
    """The bytes of (height, width, 3) uint8 pixels, saved as the file `data`, which decodes to `image`, was saved.

    JPEG with the file's own quantisation tables and colour sampling (4:2:0 for samplings that Pillow can't write);
    WebP as lossy as it was; PNG and BMP as such, what else there is as PNG. Grey files stay grey. No metadata.
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=FORMATS) as original:
        grey = original.mode in ("1", "L", "LA", "I", "I;16", "I;16B")
        made = Image.fromarray(pixels).convert("L" if grey else "RGB")
        if isinstance(original, JpegImagePlugin.JpegImageFile):
            tables = _tables_by_plane(original)
            sampling = JpegImagePlugin.get_sampling(original)
            progressive = bool(original.info.get("progressive"))
            made.save(
                buffer, "JPEG", qtables=tables, subsampling=sampling if sampling >= 0 else 2, progressive=progressive
            )
        elif image.format == "WEBP":
            made.save(buffer, "WEBP", **(webp_options(data, image) if image.lossy else {"lossless": True}))
        else:
            made.save(buffer, "BMP" if image.format == "BMP" else "PNG")
    return buffer.getvalue()


def _tables_by_plane(image: JpegImagePlugin.JpegImageFile) -> list[list[int]]:
    """A JPEG's quantisation tables in the order in which Pillow gives them to brightness and colours."""
    numbers = [plane[3] for plane in image.layer[:3]]
    if len(set(numbers)) == 1:
        numbers = numbers[:1]
    elif numbers[1:2] == numbers[2:]:
        numbers = numbers[:2]
    return [list(image.quantization[number]) for number in numbers]


def webp_options(data: bytes, image: DecodedImage) -> dict[str, Any]:
    """How to save WebP as lossy as a file: its quality is that at which its pixels take as many bytes once more."""
    picture = Image.fromarray(image.pixels)
    low, high = 1, 100
    while low < high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality)
        low, high = (quality + 1, high) if len(buffer.getvalue()) < len(data) else (low, quality)
    return {"quality": low}


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of two images of one shape, in decibels; at most 99."""
    error = np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2, dtype=np.float64)
    return min(99.0, 10 * math.log10(255**2 / max(float(error), 1e-9)))
