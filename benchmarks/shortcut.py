"""How well a crop still tells how its file was stored: the AUROC of a probe, with and without the training damage.

python benchmarks/shortcut.py [--pictures 600]    prints three AUROCs and a ratio; exit code 1 if it is over LIMIT

The same random pictures stand on both sides, once saved as JPEG (the authentic files of most data sets) and once as PNG
(the synthetic ones), so that nothing but the file can tell the sides apart. Half the pictures train the probe, the
other half judge it. One JPEG in eight stores whole colour planes, 4:4:4, as in collections of photographs.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from mai_app.config import PREPARED_WINDOW
from mai_app.data.augment import Jpegs, training_crop
from mai_app.images.decode import SAMPLINGS, Pixels, decode, encode_jpeg
from mai_app.images.preprocess import mirrored, random_window

LIMIT = 0.2
SIZE = 200
CROPS = 2
"""Crops of each file."""
FILE_QUALITIES: Final = (70, 95)
"""JPEG quality of the authentic files, uniform from and to, both included."""
DCT_BLOCKS: Final = 16
"""Blocks a side on which the DCT is taken, to save time."""

Floats = npt.NDArray[np.float32]
FULL_COLOUR: Final = 0.125
"""Share of the authentic files that are 4:4:4; the others are 4:2:0."""
Crop = Callable[[Pixels, bool, Jpegs, np.random.Generator], Pixels]
"""From a window, whether its file was lossy, the training set's JPEGs and random numbers to a crop."""

HOW: Final[dict[str, Crop]] = {
    "plain random crops": lambda window, _lossy, _jpegs, rng: random_window(mirrored(window, SIZE), SIZE, rng),
    # Told that every file is lossy, training_crop gives none of them a first JPEG generation.
    "training_crop without the first JPEG for lossless files": lambda window, _lossy, jpegs, rng: training_crop(
        window, True, jpegs, SIZE, rng
    ),
    "training_crop": lambda window, lossy, jpegs, rng: training_crop(window, lossy, jpegs, SIZE, rng),
}


def main() -> int:
    """Train and judge the probe on each kind of crop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600, help="random pictures, half of them held out")
    pictures = parser.parse_args().pictures
    rng = np.random.default_rng(0)
    qualities = rng.integers(*FILE_QUALITIES, pictures, endpoint=True)
    samplings = np.where(rng.random(pictures) < FULL_COLOUR, SAMPLINGS.index("4:4:4"), SAMPLINGS.index("4:2:0"))
    describe = partial(_described, jpegs=np.stack([qualities, samplings], axis=1))
    with ProcessPoolExecutor(2, initializer=threadpool_limits, initargs=(1,)) as pool:
        features = np.array(list(pool.map(describe, range(pictures), chunksize=10)))
    excess = []
    for number, name in enumerate(HOW):
        auroc = _judged(features[:, number])
        excess.append(auroc - 0.5)
        print(f"AUROC {auroc:.3f}  {name}")
    without, ratio = excess[1] / excess[0], excess[2] / excess[0]
    print(f"of the excess over 0.5 {ratio:.3f} is left (limit {LIMIT}; without the first JPEG {without:.3f})")
    return 0 if ratio <= LIMIT else 1


def _described(i: int, jpegs: Jpegs) -> Floats:
    """Features (kinds of crop, files × CROPS, n) of random picture i saved as JPEG, as jpegs[i] says, and as PNG."""
    rng = np.random.default_rng([1, i])
    picture = _picture(rng)
    authentic = decode(encode_jpeg(picture, int(jpegs[i, 0]), SAMPLINGS[jpegs[i, 1]]), "picture").pixels
    # PNG gives back the very pixels. Either file has a window of its own: its place is no trace of the file.
    windows = [
        (random_window(pixels, PREPARED_WINDOW, rng), lossy) for pixels, lossy in ((authentic, True), (picture, False))
    ]
    trained = jpegs[: len(jpegs) // 2]
    return np.array(
        [
            [_features(crop(window, lossy, trained, rng)) for window, lossy in windows for _ in range(CROPS)]
            for crop in HOW.values()
        ]
    )


def _judged(features: Floats) -> float:
    """AUROC over the second half of the pictures of a probe trained on the first: (pictures, files × CROPS, n)."""
    labels = np.tile(np.repeat((0, 1), CROPS), (len(features), 1))
    half = len(features) // 2
    probe = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.07, max_leaf_nodes=15, random_state=0)
    with threadpool_limits(1):
        probe.fit(np.concatenate(features[:half]), labels[:half].ravel())
        scores = probe.predict_proba(np.concatenate(features[half:]))[:, 1]
    return float(roc_auc_score(labels[half:].ravel(), scores))


def _picture(rng: np.random.Generator) -> Pixels:
    """A random scene: smooth ground in several octaves, shapes with sharp edges, shading, and a sensor's noise."""
    height, width = rng.integers(220, 640, 2).tolist()
    canvas = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(3, 15))):
        corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 7)), 2)) * (width, height)
        draw.polygon([(x, y) for x, y in corners.tolist()], fill=tuple(rng.integers(0, 160, 3).tolist()))
    scene = np.asarray(canvas, np.float32)
    for cell in (150, 40, 12, 4):
        grid = rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
        octave = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
        scene = scene + octave[..., None] * rng.uniform(0, cell**0.7, 3).astype(np.float32)
    # Noise of photons and of the electronics, correlated between neighbours as after demosaicing.
    noise = rng.standard_normal(scene.shape, np.float32) * rng.uniform(0, 4)
    noise = (noise + rng.uniform(0, 0.8) * np.roll(noise, 1, (0, 1))) * np.sqrt(scene.clip(10, 255) / 128)
    return np.asarray((scene + 40 + noise).clip(0, 255).round(), np.uint8)


def _features(pixels: Pixels) -> Floats:
    """What betrays a compression: blocks' edges, DCT coefficients on a lattice, missing high frequencies, residuals."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [(blue - luma) * 0.564, (red - luma) * 0.713]
    parts: list[Floats] = [_dct(luma), _dct(chroma[0])]
    for plane in (luma, *chroma):
        parts += [_edges(plane), _edges(plane.T), _highs(plane), _neighbours(plane)]
    return np.concatenate([*parts, [np.mean(pixels == 255), np.mean(pixels == 0)]]).astype(np.float32)


def _edges(plane: Floats) -> Floats:
    """Third differences across columns, by the column's place in a grid of 8 and of 16: the highest and the lowest."""
    steps = np.abs(plane[:, :-3] - 3 * plane[:, 1:-2] + 3 * plane[:, 2:-1] - plane[:, 3:]).mean(axis=0)
    found = []
    for grid in (8, 16):
        by_place = np.sort(steps[: len(steps) // grid * grid].reshape(-1, grid).mean(axis=0)) / (steps.mean() + 1e-3)
        found.append(by_place[[0, 1, -3, -2, -1]])
    return np.concatenate(found)


def _highs(plane: Floats) -> Floats:
    """Logarithms of the high-pass residuals' variance at four scales, and between them."""
    logs = []
    for _ in range(4):
        across = plane[:, 1:-1] - (plane[:, :-2] + plane[:, 2:]) / 2
        down = plane[1:-1] - (plane[:-2] + plane[2:]) / 2
        both = across[1:-1] - (across[:-2] + across[2:]) / 2
        logs += [np.log(part.var() + 1e-3) for part in (across, down, both)]
        height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
        plane = plane[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return np.array([*logs, *np.diff(logs)], np.float32)


def _neighbours(plane: Floats) -> Floats:
    """How often each pair of neighbouring differences, rounded and cut to ±2, occurs across, down taken with it."""
    counts = np.zeros(25)
    for turned in (plane, plane.T):
        steps = np.rint(np.diff(turned, axis=1)).clip(-2, 2).astype(np.int64) + 2
        counts += np.bincount((steps[:, :-1] * 5 + steps[:, 1:]).ravel(), minlength=25)
    return np.asarray(counts / counts.sum(), np.float32)


_WAVES: Final = np.array(
    [[np.cos(np.pi * (2 * x + 1) * u / 16) * (0.5 if u else 8**-0.5) for x in range(8)] for u in range(8)], np.float32
)
_FREQUENCIES: Final = np.add.outer(np.arange(8), np.arange(8))


def _dct(plane: Floats) -> Floats:
    """Zeros among the 8×8 DCT coefficients at all 64 places of the grid; and the values at the place with most."""
    blocks = DCT_BLOCKS
    length = blocks * 8
    zeros = np.empty(64, np.float32)
    best, most = np.empty((blocks, 8, blocks, 8), np.float32), -1.0
    for x in range(8):
        rows = plane[:, x : x + length].reshape(-1, blocks, 8) @ _WAVES.T
        for y in range(8):
            # (blocks down, 8, blocks across, 8): all waves down a block at once
            columns = _WAVES @ rows[y : y + length].reshape(blocks, 8, blocks * 8)
            zeros[8 * y + x] = np.mean(np.abs(columns) < 0.5)
            if zeros[8 * y + x] > most:
                best, most = columns.reshape(blocks, 8, blocks, 8), float(zeros[8 * y + x])
    ordered = np.sort(zeros)
    found = [*ordered[[0, 32, 62, 63]], ordered[63] - ordered[62], zeros.std()]
    by_frequency = best.transpose(1, 3, 0, 2).reshape(8, 8, -1)
    for low, high in ((1, 1), (2, 3), (4, 6), (7, 10), (11, 14)):
        values = by_frequency[np.isin(_FREQUENCIES, np.arange(low, high + 1))].ravel()
        found += list(np.histogram(np.abs(values), (0, 0.5, 1, 1.5, 2.5, 4, 7, 12, 1e4))[0] / values.size)
        # Quantised with a step, coefficients stand at its multiples: the mean of a wave of that length is high.
        found += [np.cos(np.float32(2 * np.pi / step) * values).mean() for step in range(2, 17)]
    return np.array(found, np.float32)


if __name__ == "__main__":
    sys.exit(main())
