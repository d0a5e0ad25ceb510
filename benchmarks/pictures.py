"""The files that benchmarks measure with: a folder's, or pictures made here, two JPEG for one PNG."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.results import Options
from mai_app.errors import ImageError
from mai_app.images.find import find_images

SIZES: Final = ((1024, 768), (768, 768), (640, 960), (512, 512))
DIFFERENT: Final = 64
"""Pictures that are made; more files are links to these."""


def image_files(options: Options, count: int) -> list[Path]:
    """So many image files: those of --data, spread over the folder, or else made ones."""
    if options.data:
        found = [Path(item) for item in find_images([str(options.data)]) if not isinstance(item, ImageError)]
        return found[:: max(1, len(found) // count)][:count]
    folder = options.folder / "pictures"
    if not folder.is_dir():
        folder.mkdir()
        for number in range(DIFFERENT):
            _make(folder, number)
    made = sorted(folder.iterdir())
    files = []
    for number in range(count):
        picture = made[number % len(made)]
        files.append(folder.parent / f"{number:06}{picture.suffix}")
        if not files[-1].exists():
            files[-1].hardlink_to(picture)
    return files


def _make(folder: Path, number: int) -> None:
    """A picture with as much in every octave, as photographs have: noise whose amplitude falls as 1/frequency."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    planes = np.stack(
        [np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / frequency).real for _ in range(3)], axis=2
    )
    image = Image.fromarray((128 + 45 * planes / planes.std()).clip(0, 255).astype(np.uint8))
    if number % 3 == 2:
        image.save(folder / f"{number:03}.png")
    else:
        image.save(folder / f"{number:03}.jpg", quality=(75, 85, 95)[number % 3 + number % 2])


def parts(files: list[Path], count: int) -> list[list[Path]]:
    """The files dealt into so many parts, for a pair of measurements each."""
    return [files[number::count] for number in range(count)]
