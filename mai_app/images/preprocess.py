"""Preprocessing: from an image's pixels to the network's inputs, the same in training, evaluation and prediction."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mai_app.config import Preprocessing
from mai_app.images.decode import Pixels

if TYPE_CHECKING:
    import torch


def to_inputs(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The network's inputs for one image: (height, width, 3) uint8 to (n, size, size, 3) uint8.

    resize gives one input, the whole image stretched; crop gives up to `crops` native windows (corners and
    centre, equal ones once), whose logits are to be averaged; views gives the whole image's central square and then
    exactly `crops` such windows, for one logit. Images larger than `longest` are scaled down to it first.
    """
    size = preprocessing.size
    pixels = shrink(pixels, preprocessing.longest or None)
    if preprocessing.input == "resize":
        return resize(pixels, size)[None]
    whole = [resize(central_square(pixels, size), size)] if preprocessing.input == "views" else []
    pixels = mirrored(pixels, size)
    height, width = pixels.shape[:2]
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)] if preprocessing.crops > 1 else []
    positions = [(bottom // 2, right // 2), *corners]
    if preprocessing.input == "crop":
        positions = list(dict.fromkeys(positions))
    return np.stack([*whole, *(pixels[y : y + size, x : x + size] for y, x in positions)])


def input_notes(height: int, width: int, preprocessing: Preprocessing) -> tuple[str, ...]:
    """What to tell a person about an image of this size, in words; empty where there is nothing to tell.

    The size that counts is the one after scaling down to `longest`, which the network sees.
    """
    size = preprocessing.size
    height, width = shrunk_size(height, width, preprocessing.longest or None)
    if min(height, width) >= size:
        return ()
    how = {"resize": "enlarged", "crop": "continued by mirroring", "views": "enlarged and continued by mirroring"}[
        preprocessing.input
    ]
    return (f"{width}×{height} pixels, smaller than {size}×{size}: {how}, less reliable",)


def resize(pixels: Pixels, size: int) -> Pixels:
    """(height, width, 3) stretched to (size, size, 3) uint8: bilinear, with antialiasing where it shrinks."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def central_square(pixels: Pixels, side: int) -> Pixels:
    """The central square of (height, width, 3) uint8, scaled down to (side, side, 3) if it is larger; never up.

    It is cut before it is scaled, so that nothing is stretched and nothing outside it is computed.
    """
    height, width = pixels.shape[:2]
    across = min(height, width)
    y, x = (height - across) // 2, (width - across) // 2
    square = pixels[y : y + across, x : x + across]
    if across <= side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))


def shrink(pixels: Pixels, longest: int | None) -> Pixels:
    """(height, width, 3) uint8 scaled down, Lanczos, until no side is over `longest`; never up."""
    height, width = pixels.shape[:2]
    rows, columns = shrunk_size(height, width, longest)
    if (rows, columns) == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS))


def shrunk_size(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """Height and width that `shrink` gives an image of this height and width."""
    if longest is None or max(height, width) <= longest:
        return height, width
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def mirrored(pixels: Pixels, size: int) -> Pixels:
    """The image continued by its mirror image to the right and below until no side is under `size`.

    Unlike enlarging, this leaves every neighbourhood of pixels as it was.
    """
    height, width = pixels.shape[:2]
    below, right = max(0, size - height), max(0, size - width)
    if not below and not right:
        return pixels
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="symmetric")


def random_window(pixels: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A view of at most (size, size, 3) native pixels at a random position; smaller images come whole."""
    height, width = pixels.shape[:2]
    y = int(rng.integers(0, max(0, height - size) + 1))
    x = int(rng.integers(0, max(0, width - size) + 1))
    return pixels[y : y + size, x : x + size]


def to_floats(images: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """The network's input of a batch: (…, size, size, 3) uint8 to (…, 3, size, size) float32 in [0, 1].

    The memory's order stays as it is, which torch calls channels-last: convolutions on processors want it so, while MPS
    gets the plain order (core/device.py, memory_format). What is no pixels but features already, floats, comes back as
    float32.
    """
    # Elsewhere the copy may outlive its source: on MPS torch reads what was freed by then, and says nothing.
    moved = images.to(device, non_blocking=device.type == "cuda")
    if images.is_floating_point():
        return moved.float()
    pixels = moved.movedim(-1, -3)
    return (pixels.contiguous() if device.type == "mps" else pixels).float().div_(255)
