"""How many changed copies of a data set's images the perceptual hash finds, and how many pairs of others it joins.

python benchmarks/near_duplicates.py DATA [--every 1]    prints shares by bits apart; exit code 1 if, at the bits that
MAI takes, fewer than FOUND of the copies made small and saved badly are found
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from tqdm import tqdm

from mai_app.config import NEAR_DUPLICATE_BITS
from mai_app.core.parallel import ordered_map
from mai_app.data.dedup import perceptual_hash
from mai_app.data.layout import scan
from mai_app.images.decode import DecodedImage, Pixels, decode_file
from mai_app.images.preprocess import resize
from mai_app.images.quality import degrade

FOUND = 0.99
BITS: Final = (0, 2, 4, 6, 8)


def main() -> int:
    """Hash every image and its copies, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder laid out by class")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th image")
    options = parser.parse_args()
    files = [options.data / record.file for record in scan(options.data)][:: options.every]
    rows = tqdm(ordered_map(_hashes, files, 2), total=len(files), disable=None)
    hashes = np.array([row for row in rows if row[0]], dtype=np.uint64)
    print(f"{len(hashes)} images of {len(files)} with a hash; share of the copies at most so many bits apart:")
    print(f"{'':<26}" + "".join(f"{bits:>9}" for bits in BITS))
    for i, name in enumerate(COPIES, 1):
        apart = np.bitwise_count(hashes[:, 0] ^ hashes[:, i])
        print(f"{name:<26}" + "".join(f"{100 * np.mean(apart <= bits):>7.2f} %" for bits in BITS))
        if name == SURELY:
            found = float(np.mean(apart <= NEAR_DUPLICATE_BITS))
    pairs = np.zeros(65, dtype=np.int64)
    for i in range(len(hashes)):
        pairs += np.bincount(np.bitwise_count(hashes[i + 1 :, 0] ^ hashes[i, 0]), minlength=65)
    print(f"{'pairs of different files':<26}" + "".join(f"{pairs[: bits + 1].sum():>9,}" for bits in BITS))
    print(f"{SURELY}: {found:.4f} found at {NEAR_DUPLICATE_BITS} bits (limit {FOUND})")
    return 0 if found >= FOUND else 1


def _smaller(image: DecodedImage) -> Pixels:
    height, width = image.pixels.shape[:2]
    size = (max(8, int(width * 0.3)), max(8, int(height * 0.3)))
    return np.asarray(Image.fromarray(image.pixels).resize(size, Image.Resampling.BICUBIC))


def _cropped(share: float) -> Callable[[DecodedImage], Pixels]:
    def crop(image: DecodedImage) -> Pixels:
        height, width = image.pixels.shape[:2]
        y, x = int(height * share), int(width * share)
        return image.pixels[y : height - y, x : width - x]

    return crop


SURELY: Final = "≤ 512 pixels, JPEG 40"
COPIES: Final[dict[str, Callable[[DecodedImage], Pixels]]] = {
    SURELY: lambda image: degrade(image, "hard").pixels,
    "30 % of the size": _smaller,
    "cropped by 1 % a side": _cropped(0.01),
    "cropped by 3 % a side": _cropped(0.03),
    "brighter": lambda image: (image.pixels * 1.15 + 5).clip(0, 255).astype(np.uint8),
}


def _hashes(path: Path) -> list[int]:
    image = decode_file(path)
    copies = [image.pixels, *(change(image) for change in COPIES.values())]
    return [perceptual_hash(resize(pixels, 200)) for pixels in copies]


if __name__ == "__main__":
    sys.exit(main())
