"""The simulated data set of `make demo`: rendered scenes, each seen by a camera and made by a generator.

Simulated data shows that the whole way from images to verdicts works. It says nothing about real images:
no camera here is a real camera, no generator a trained one, and no score reached on these images carries over.

Both twins of a scene are saved with the same format, quality and size, so that only the making differs.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from tqdm import tqdm

from mai_app.config import CLASSES, SPLITS
from mai_app.errors import DataError

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Rng = np.random.Generator

DECODERS = ("nearest-conv", "transposed-conv", "pixel-shuffle")
FAMILIES = ("shapes", "tiles", "clouds", "hills")
FIELDS = ("file", "label", "kind", "generator", "source")
APART = "apart"
APART_PAIRS = 6
MANIFEST = "manifest.csv"
MARKER = "demo.json"
RECIPE = 1  # raise it whenever the same arguments come to give other bytes: older sets are then made anew
SIDES = (208, 288)
SHOT = (2e-3, 3.5e-3)
ROUGH = 0.05
PAL = 0.09
NEAR = 0.06
OVER = 0.05
SHUF = 0.015
MAX_WORKERS = 8

# A generator has one set of weights, whatever data set is made with it: hence a seed of their own.
WEIGHTS_SEED = 20161017


@dataclass(frozen=True)
class Job:
    """One pair to make: its numbers in the random streams, its decoder, and both files without suffix."""

    key: tuple[int, int, int]
    decoder: str
    camera: Path
    generator: Path


@dataclass(frozen=True)
class Coding:
    """How both twins are saved: Pillow's format name, the file suffix, and the options of Image.save."""

    format: str
    suffix: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Exposure:
    """What both twins share besides the scene: sensor noise (variance = shot·light + read²) and contrast."""

    shot: float
    read: float
    contrast: float


def make_demo(root: Path, scenes: int, seed: int) -> None:
    """Write the simulated data set below `root`, unless it is there already, made with the same arguments.

    root/{train,val,test}/{authentic,synthetic}/NNNN.ext hold 70/15/15 % of the scenes, root/manifest.csv a
    row an image, root/apart/ six further pairs outside the set. The same arguments give the same bytes
    (with the same NumPy and Pillow), however many processes share the work. `scenes` is at least 3.

    Simulated data says nothing about real images.
    """
    if scenes < 3:
        raise DataError(f"{scenes} scenes are too few: each of {', '.join(SPLITS)} needs one, so ask for 3 or more")
    made_with = {"recipe": RECIPE, "scenes": scenes, "seed": seed}
    marker = _read_marker(root)
    if marker == {**made_with, "complete": True} and _count(root) == 2 * (scenes + APART_PAIRS):
        return
    _clear(root, ours=marker is not None)
    _write_marker(root, {**made_with, "complete": False})
    for folder in (*(f"{split}/{name}" for split in SPLITS for name in CLASSES), APART):
        (root / folder).mkdir(parents=True)
    jobs = _jobs(root, scenes, seed)
    with _mapper(len(jobs)) as mapper:
        pairs = list(tqdm(mapper(_make_pair, jobs), "simulating", len(jobs), unit="scene", disable=None))
    with (root / MANIFEST).open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(FIELDS)
        for job, (suffix, family) in zip(jobs[:scenes], pairs, strict=False):
            for label, path in enumerate((job.camera, job.generator)):
                name = path.relative_to(root).as_posix() + suffix
                rows.writerow((name, CLASSES[label], "simulated", job.decoder if label else "", family))
    _write_marker(root, {**made_with, "complete": True})


def _jobs(root: Path, scenes: int, seed: int) -> list[Job]:
    held_out = max(1, round(0.15 * scenes))
    splits = ["train"] * (scenes - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    jobs = []
    for i, split in enumerate(splits):
        twins = (root / split / name / f"{i:04d}" for name in CLASSES)
        jobs.append(Job((seed, 0, i), DECODERS[i % len(DECODERS)], *twins))
    for i in range(APART_PAIRS):
        twins = (root / APART / f"{name}-{i + 1}" for name in ("camera", "generator"))
        jobs.append(Job((seed, 1, i), DECODERS[i % len(DECODERS)], *twins))
    return jobs


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterator[tuple[str, str]]]]:
    workers = min(os.cpu_count() or 1, MAX_WORKERS, jobs // 20 + 1)
    if workers == 1:
        yield map
        return
    # spawn: a fork of a process that already has torch's threads may hang, and Python warns of it.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield lambda work, items: pool.map(work, items, chunksize=4)


def _read_marker(root: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _write_marker(root: Path, marker: dict[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f"{MARKER}.tmp"
    temporary.write_text(json.dumps(marker) + "\n", encoding="utf-8")
    temporary.replace(root / MARKER)


def _count(root: Path) -> int:
    images = sum(len(list((root / folder).rglob("*.*"))) for folder in (*SPLITS, APART))
    return images if (root / MANIFEST).is_file() else -1


def _clear(root: Path, ours: bool) -> None:
    found = [root / name for name in (*SPLITS, APART, MANIFEST) if (root / name).exists()]
    if found and not ours:
        # Somebody's own data set may have the very same layout: never delete what has no marker.
        raise DataError(f"{root} holds {found[0].name} but no {MARKER}: not a simulated set; name another folder")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_pair(job: Job) -> tuple[str, str]:
    rng = np.random.default_rng(job.key)
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    if rng.random() < 0.3:
        width = height
    family = str(rng.choice(FAMILIES))
    coding = draw_coding(rng)
    exposure = Exposure(rng.uniform(*SHOT), rng.uniform(2e-3, 8e-3), rng.uniform(0.0, 0.3))
    scene = render(rng, family, height, width)
    camera = _encode(photograph(rng, scene, exposure), coding)
    image, noise = generate(rng, scene, exposure, job.decoder)
    job.camera.with_suffix(coding.suffix).write_bytes(camera)
    job.generator.with_suffix(coding.suffix).write_bytes(_match(rng, image, noise, coding, len(camera)))
    return coding.suffix, family


def _encode(pixels: Bytes, coding: Coding) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, coding.format, **coding.options)
    return file.getvalue()


def _match(rng: Rng, image: Array, noise: Array, coding: Coding, size: int) -> bytes:
    """Encode a generator's image with as much fine noise as brings the file near `size` bytes."""
    grain = rng.standard_normal(image.shape, np.float32) * noise
    low, high = 0.0, MOST_GRAIN
    for _ in range(STEPS):
        middle = (low + high) / 2
        encoded = _encode(_quantise(image + np.float32(middle) * grain), coding)
        low, high = (middle, high) if len(encoded) < size else (low, middle)
    return encoded


def draw_coding(rng: Rng) -> Coding:
    """Draw a file format: JPEG of quality 70–95, PNG, lossless WebP, or WebP of quality 75–95."""
    choice = rng.random()
    if choice < 0.5:
        quality, chroma = int(rng.integers(70, 96)), int(rng.choice((0, 2)))
        return Coding("JPEG", ".jpg", {"quality": quality, "subsampling": chroma})
    if choice < 0.7:
        return Coding("PNG", ".png", {"compress_level": 6})
    if choice < 0.8:
        return Coding("WEBP", ".webp", {"lossless": True, "quality": 30, "method": 1})
    return Coding("WEBP", ".webp", {"quality": int(rng.integers(75, 96)), "method": 2})


# --- scenes


def render(rng: Rng, family: str, height: int, width: int) -> Array:
    """Render a scene of one of FAMILIES: (2·height, 2·width, 3) float32, linear light in [0, 1]."""
    shape = (2 * height, 2 * width)
    v, u = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    kinds = int(rng.integers(5, 14))
    if family == "tiles":
        labels = _tiles(rng, u, v, kinds)
    elif family == "clouds":
        heights = _octaves(rng, shape, rng.uniform(80, 220), 5)
        labels = np.clip((heights / 5 + 0.5) * kinds, 0, kinds - 1).astype(np.uint8)
    else:
        labels = _drawn(rng, shape, kinds, hills=family == "hills")
    palette = _palette(rng, kinds)
    slopes = rng.normal(0, 0.12, (2, kinds)).astype(np.float32)
    shade = 1 + slopes[0][labels] * u + slopes[1][labels] * v
    # Each part has a texture of its own strength: some smooth, some rough, coarse and fine.
    for cell in (rng.uniform(24, 60), rng.uniform(8, 20), rng.uniform(3, 6)):
        rough = (ROUGH * rng.random(kinds) ** 3).astype(np.float32)
        shade += rough[labels] * _field(rng, shape, cell)
    scene = palette[labels]
    if family == "clouds":
        # Soft transitions instead of contour lines in half of the picture's light.
        soft = _unit(heights)[..., None]
        scene = 0.4 * scene + 0.6 * (palette[0] * soft + palette[-1] * (1 - soft))
    scene = scene * np.maximum(shade, 0.02)[..., None]
    # Automatic exposure and white balance, but for a rest: pictures of one mean, whatever they show.
    mean = scene[::4, ::4].mean(axis=(0, 1))
    return np.clip(scene * (rng.uniform(0.19, 0.23) / mean**0.85 / mean.mean() ** 0.15), 0, 1).astype(np.float32)


def _palette(rng: Rng, count: int) -> Array:
    base = rng.uniform(0.35, 0.75) + rng.uniform(-0.15, 0.15, 3)
    spread = rng.uniform(0.03, PAL)
    colours = base + spread * rng.uniform(-1, 1, (count, 3)) + rng.uniform(-PAL, PAL, (count, 1))
    return (np.clip(colours, 0.1, 1.0) ** 2.2).astype(np.float32)


def _drawn(rng: Rng, shape: tuple[int, int], kinds: int, hills: bool) -> Bytes:
    height, width = shape
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for kind in range(1, kinds):
        if hills:
            ridge = np.cumsum(rng.normal(0, 1, 33)) * height * rng.uniform(0.005, 0.03)
            ys = ridge - ridge.mean() + height * (0.2 + 0.8 * kind / kinds)
            xs = np.linspace(-1, width, 33)
            corners = [(-1.0, height), *zip(xs.tolist(), ys.tolist(), strict=True), (float(width), height)]
            draw.polygon(corners, fill=kind)
            continue
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            a, b = rng.uniform(0.04, 0.3, 2) * height
            if rng.random() < 0.5:
                draw.ellipse((x - a, y - b, x + a, y + b), fill=kind)
            else:
                turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
                points = zip((x + a * np.cos(turns)).tolist(), (y + b * np.sin(turns)).tolist(), strict=True)
                draw.polygon(list(points), fill=kind)
    return np.asarray(canvas)


def _tiles(rng: Rng, u: Array, v: Array, kinds: int) -> Bytes:
    angle, bend = rng.uniform(0, np.pi), rng.uniform(0, 0.15)
    warp = _octaves(rng, (u.shape[0], u.shape[1]), 200, 2) * np.float32(bend)
    x = u * np.float32(np.cos(angle)) + v * np.float32(np.sin(angle)) + warp
    y = v * np.float32(np.cos(angle)) - u * np.float32(np.sin(angle)) + warp
    across, along = rng.uniform(2, 6), rng.choice((0.0, rng.uniform(2, 6)))
    columns, rows = np.floor(x * across).astype(np.int64), np.floor(y * along).astype(np.int64)
    return ((columns + int(rng.integers(1, kinds)) * rows) % kinds).astype(np.uint8)


def _field(rng: Rng, shape: tuple[int, int], cell: float) -> Array:
    grid = rng.standard_normal((int(shape[0] / cell) + 2, int(shape[1] / cell) + 2)).astype(np.float32)
    smooth = Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32)


def _octaves(rng: Rng, shape: tuple[int, int], cell: float, count: int) -> Array:
    return np.sum([_field(rng, shape, cell / 2**k) * np.float32(0.5**k) for k in range(count)], axis=0)


def _unit(values: Array) -> Array:
    return np.asarray((values - values.min()) / (values.max() - values.min()), np.float32)


# --- the camera


def photograph(rng: Rng, scene: Array, exposure: Exposure) -> Bytes:
    """Photograph a scene (2h, 2w, 3) of linear light: lens blur, Bayer mosaic, noise, demosaicing, tone curve.

    Returns (h, w, 3) uint8. The noise is Poisson-Gaussian in its normal approximation (Foi et al. 2008,
    "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data").
    """
    taps = np.exp(-(((np.arange(6) - 2.5) / rng.uniform(1.0, 1.4)) ** 2) / 2)
    light = _halve(scene, taps / taps.sum())
    gains = np.array([rng.uniform(1.3, 2.2), 1.0, rng.uniform(1.2, 2.0)], np.float32)
    masks = np.zeros((*light.shape[:2], 3), np.float32)
    masks[0::2, 0::2, 0] = masks[0::2, 1::2, 1] = masks[1::2, 0::2, 1] = masks[1::2, 1::2, 2] = 1
    raw = (light * masks / gains).sum(axis=2)
    raw = raw + rng.standard_normal(raw.shape, np.float32) * _sigma(raw, exposure)
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    tent = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    planes = [_filter(raw * masks[..., c], cross if c == 1 else tent) for c in range(3)]
    shown = _tone(np.stack(planes, axis=2) * gains, exposure)
    return _quantise(shown + np.float32(SHARP) * (shown - _filter(shown, tent / 4)))


def _halve(image: Array, taps: npt.NDArray[np.float64]) -> Array:
    """Filter with an even number of taps and keep every second sample, along both sides."""
    reach = len(taps) // 2 - 1
    for axis in (0, 1):
        pad = [(reach, reach) if i == axis else (0, 0) for i in range(image.ndim)]
        padded = np.moveaxis(np.pad(image, pad, "edge"), axis, 0)
        size = image.shape[axis]
        image = np.moveaxis(sum(np.float32(t) * padded[k : k + size : 2] for k, t in enumerate(taps)), 0, axis)  # type: ignore
    return image


def _filter(image: Array, kernel: npt.NDArray[np.float64]) -> Array:
    """Filter (h, w) or (h, w, c) with a 3×3 kernel; "reflect" keeps the mosaic's pattern at the border."""
    height, width = image.shape[:2]
    padded = np.pad(image, [(1, 1), (1, 1)] + [(0, 0)] * (image.ndim - 2), "reflect")
    out = np.zeros_like(image)
    for i, j in np.ndindex(3, 3):
        if kernel[i, j]:
            out += np.float32(kernel[i, j]) * padded[i : i + height, j : j + width]
    return out


def _sigma(light: Array, exposure: Exposure) -> Array:
    return np.sqrt(np.float32(exposure.shot) * light + np.float32(exposure.read**2))


def _tone(light: Array, exposure: Exposure) -> Array:
    clipped = np.clip(light, 0, 1)
    shown = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** np.float32(1 / 2.4) - 0.055)
    curve = shown * shown * (3 - 2 * shown)
    return np.asarray(shown + np.float32(exposure.contrast) * (curve - shown), np.float32)


def _quantise(image: Array) -> Bytes:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


# --- the generators


def generate(rng: Rng, scene: Array, exposure: Exposure, decoder: str) -> tuple[Array, Array]:
    """Make a scene (2h, 2w, 3) of linear light anew, the way a generator would: from a coarse grid upwards.

    The grid, 4 or 8 times coarser than the picture, goes through two or three doublings by the layers of one
    of DECODERS. Each doubling adds the detail that a trained generator would have learnt: part of the
    scene's own, and noise, which the later doublings spread. The weights are random, fixed, near the identity.
    Returns (h, w, 3) uint8.
    """
    light = _halve(scene, np.array([0.2, 0.3, 0.3, 0.2]))
    height, width = light.shape[:2]
    light = np.pad(light, ((0, -height % 8), (0, -width % 8), (0, 0)), "edge")
    levels = [_tone(light, exposure)]
    sigma = _sigma(light, exposure)
    noise = [(_tone(light + sigma, exposure) - _tone(light - sigma, exposure)) / 2]
    for _ in range(int(rng.choice(STAGES))):
        levels.append(_halve(levels[-1], np.array([0.5, 0.5])))
        noise.append(_halve(noise[-1], np.array([0.5, 0.5])))
    strength = float(rng.uniform(*STRENGTH))
    image = levels[-1]
    for level in range(len(levels) - 2, -1, -1):
        image = _UPSAMPLE[decoder](image, strength)
        detail = levels[level] - _bilinear(levels[level + 1])
        image = image + np.float32(KEEP) * detail
        if level:
            grain = rng.standard_normal(image.shape, np.float32) * noise[level]
            image = image + np.float32(GRAIN[decoder][level]) * grain
    return image[:height, :width], noise[0][:height, :width]


SHARP = 1.0
STAGES = (3,)
SHARP = 1.0
STAGES = (3,)
MOST_GRAIN = 1.2
STEPS = 4
KEEP = 0.6
STRENGTH = (0.8, 1.4)
GRAIN = dict(zip(DECODERS, ((0.0, 0.4, 1.6), (0.0, 0.5, 2.8), (0.0, 0.5, 2.5))))


def _weights(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.random.default_rng((WEIGHTS_SEED, seed)).standard_normal(shape)


def _bilinear(image: Array) -> Array:
    tent = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    return _pixel_shuffle_with(image, _phases(np.array([0.25, 0.75])))


def _phases(near):
    rows = np.array([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
    return np.einsum("ai,bj->abij", rows, rows)


def _pixel_shuffle_with(image, kernels):
    height, width, channels = image.shape
    out = np.empty((height, 2, width, 2, channels), np.float32)
    for i, j in np.ndindex(2, 2):
        out[:, i, :, j] = _filter(image, kernels[i, j])
    return out.reshape(2 * height, 2 * width, channels)


def _nearest_conv(image: Array, strength: float) -> Array:
    """Nearest + 3x3."""
    near = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    kernel = np.zeros((3, 3))
    kernel[1, 1] = 1
    kernel = kernel + NEAR * strength * _weights(0, (3, 3))
    kernel = (kernel + kernel[::-1, ::-1]) / 2
    return _filter(near, kernel / kernel.sum())


def _transposed_conv(image: Array, strength: float) -> Array:
    """Transposed."""
    height, width, channels = image.shape
    tent = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    kernel = tent * (1 + OVER * strength * _weights(1, (3, 3)))
    kernel *= 4 / kernel.sum()
    spread = np.zeros((2 * height, 2 * width, channels), np.float32)
    spread[::2, ::2] = image
    return _filter(spread, kernel[::-1, ::-1])


def _pixel_shuffle(image: Array, strength: float) -> Array:
    kernels = _phases(None) + SHUF * strength * _weights(2, (2, 2, 3, 3))
    return _pixel_shuffle_with(image, kernels * (4 / kernels.sum()))


_UPSAMPLE = {
    "nearest-conv": _nearest_conv,
    "transposed-conv": _transposed_conv,
    "pixel-shuffle": _pixel_shuffle,
}
