"""The simulated data set of `make demo`: each rendered scene once through a camera, once through a generator.

Simulated data shows that the pipeline from images to verdicts works. It says nothing about real images: no camera here
is a real one, no generator was ever trained, and no score reached on these images carries over to others.

Both twins of a scene get the same size, format and quality, and nearly the same number of bytes, so that only the
making differs: the camera's fine mosaic noise here, noise and lattices spread by upsampling layers there.
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
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mai_app.config import CLASSES, SIMULATED, SPLITS
from mai_app.core.files import write_text
from mai_app.core.log import bar
from mai_app.demo.scenes import FAMILIES, filter_3x3, halve, insert_zeros, render
from mai_app.errors import DataError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Rng = np.random.Generator

APART: Final = "apart"
APART_PAIRS: Final = 6
MANIFEST: Final = "manifest.csv"
MARKER: Final = "demo.json"
RECIPE: Final = 2  # raise it whenever the same arguments come to give other bytes: older sets are then made anew
SIDES: Final = (208, 288)
# A generator has one set of weights, whatever data set is made with it: hence a seed of their own.
WEIGHTS: Final = np.random.default_rng(2016).standard_normal((3, 4, 3, 3))
TENT: Final = np.outer((1, 2, 1), (1, 2, 1)) / 4  # sums to 4: one for each of the four pixels it spreads to


@dataclass(frozen=True)
class Job:
    """One pair to make: its key in the random streams, its decoder, and the twins' files without suffix."""

    key: tuple[int, int, int]
    decoder: str
    camera: Path
    generator: Path


@dataclass(frozen=True)
class Coding:
    """How both twins are saved: Pillow's name of the format, the file suffix, the options of Image.save."""

    format: str
    suffix: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Exposure:
    """What both twins share: the noise of light x in [0, 1], of variance shot·x + read², and the tone's contrast."""

    shot: float
    read: float
    contrast: float


def make_demo(root: Path, scenes: int, seed: int) -> None:
    """Write the simulated data set below `root`, unless it is there whole, made with the same arguments.

    root/{train,val,test}/{authentic,synthetic}/NNNN.ext hold 70, 15 and 15 % of the scenes, root/manifest.csv a row an
    image, root/apart/ six further pairs outside the set. With the same NumPy and Pillow the same arguments give the
    same bytes, however many processes share the work. Simulated data says nothing about real images.

    Raises DataError for fewer than 3 scenes, and where `root` holds a data set that is not a simulated one.
    """
    if scenes < 3:
        raise DataError(f"{scenes} scenes are too few: train, val and test need one each; ask for 3 or more")
    arguments = {"recipe": RECIPE, "scenes": scenes, "seed": seed}
    marker = _read_marker(root)
    files = sum(path.is_file() for folder in (*SPLITS, APART) for path in (root / folder).rglob("*"))
    whole = files == 2 * (scenes + APART_PAIRS) and (root / MANIFEST).is_file()
    if whole and marker == {**arguments, "complete": True}:
        return
    _clear(root, ours=isinstance(marker, dict) and "recipe" in marker)
    write_text(root / MARKER, json.dumps({**arguments, "complete": False}) + "\n")
    jobs = _jobs(root, scenes, seed)
    for folder in {path.parent for job in jobs for path in (job.camera, job.generator)}:
        folder.mkdir(parents=True)
    with _mapper(len(jobs)) as mapper:
        pairs = list(bar(iterable=mapper(_make_pair, jobs), desc="simulating", total=len(jobs), unit="scene"))
    rows = [("file", "label", "kind", "generator", "source", "pair")]
    for job, (suffix, family) in zip(jobs[:scenes], pairs[:scenes], strict=True):
        for path, label, decoder in zip((job.camera, job.generator), CLASSES, ("", job.decoder), strict=True):
            file = path.relative_to(root).as_posix() + suffix
            rows.append((file, label, SIMULATED, decoder, family, path.stem))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(root / MANIFEST, text.getvalue())
    write_text(root / MARKER, json.dumps({**arguments, "complete": True}) + "\n")


def _jobs(root: Path, scenes: int, seed: int) -> list[Job]:
    held_out = max(1, round(0.15 * scenes))
    splits = ["train"] * (scenes - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    twins = [tuple(root / split / name / f"{i:04d}" for name in CLASSES) for i, split in enumerate(splits)]
    twins += [tuple(root / APART / f"{name}-{i + 1}" for name in ("camera", "generator")) for i in range(APART_PAIRS)]
    # Scenes and the pairs apart draw from streams of their own: more scenes change neither the others nor those.
    keys = [(seed, 0, i) for i in range(scenes)] + [(seed, 1, i) for i in range(APART_PAIRS)]
    decoders = tuple(DECODERS)
    return [Job(key, decoders[key[2] % len(decoders)], *pair) for key, pair in zip(keys, twins, strict=True)]


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterator[tuple[str, str]]]]:
    workers = min(os.cpu_count() or 1, 8, jobs // 20 + 1)
    if workers == 1:
        yield map
        return
    # spawn: a fork of a process that already has torch's threads may hang, and Python warns of it.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield lambda work, items: pool.map(work, items, chunksize=4)


def _read_marker(root: Path) -> Any:
    try:
        return json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _clear(root: Path, ours: bool) -> None:
    found = [root / name for name in (*SPLITS, APART, MANIFEST) if (root / name).exists()]
    if found and not ours:
        # Somebody's own data set may well have this layout: never delete what carries no marker.
        raise DataError(f"{root}: holds {found[0].name} but no {MARKER} of a simulated set; name another folder")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make_pair(job: Job) -> tuple[str, str]:
    rng = np.random.default_rng(job.key)
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    family = str(rng.choice(FAMILIES))
    coding = _draw_coding(rng)
    exposure = Exposure(rng.uniform(2e-3, 3.5e-3), rng.uniform(2e-3, 8e-3), rng.uniform(0, 0.3))
    scene = render(rng, family, height, height if rng.random() < 0.3 else width)
    camera = _encode(photograph(rng, scene, exposure), coding)
    image, made_up, grain = generate(rng, scene, exposure, job.decoder)
    # The bytes of a file must not give it away: the generator's noise, its own and then a film-like grain over it, is
    # turned up until its file is about as large as the camera's.
    low, high, generated = 0.6, 2.0, b""
    for _ in range(4):
        amount = (low + high) / 2
        pixels = image + np.float32(min(amount, 1)) * made_up + np.float32(max(amount - 1, 0)) * grain
        generated = _encode(_quantise(pixels), coding)
        low, high = (amount, high) if len(generated) < len(camera) else (low, amount)
    job.camera.with_name(job.camera.name + coding.suffix).write_bytes(camera)
    job.generator.with_name(job.generator.name + coding.suffix).write_bytes(generated)
    return coding.suffix, family


def _draw_coding(rng: Rng) -> Coding:
    choice, jpeg, webp = rng.random(), int(rng.integers(70, 96)), int(rng.integers(75, 96))
    if choice < 0.5:
        return Coding("JPEG", ".jpg", {"quality": jpeg, "subsampling": int(rng.choice((0, 2)))})
    if choice < 0.7:
        return Coding("PNG", ".png", {"compress_level": 3})
    if choice < 0.8:
        return Coding("WEBP", ".webp", {"lossless": True, "quality": 20, "method": 0})
    return Coding("WEBP", ".webp", {"quality": webp, "method": 2})


def _encode(pixels: Bytes, coding: Coding) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, coding.format, **coding.options)
    return file.getvalue()


def photograph(rng: Rng, scene: Floats, exposure: Exposure) -> Bytes:
    """Photograph a scene (2h, 2w, 3) of linear light: lens, RGGB mosaic, noise, bilinear demosaicing, tone, sharpening.

    Returns (h, w, 3) uint8. The noise is Poisson-Gaussian in its normal approximation (Foi et al., "Practical
    Poissonian-Gaussian noise modeling and fitting for single-image raw-data", 2008).
    """
    lens = np.exp(-(((np.arange(6) - 2.5) / rng.uniform(1.0, 1.4)) ** 2) / 2)
    light = halve(scene, lens / lens.sum())
    gains = np.array((rng.uniform(1.3, 2.2), 1, rng.uniform(1.2, 2.0)), np.float32)
    mosaic = np.zeros_like(light)
    mosaic[0::2, 0::2, 0] = mosaic[0::2, 1::2, 1] = mosaic[1::2, 0::2, 1] = mosaic[1::2, 1::2, 2] = 1
    raw = (light * mosaic / gains).sum(axis=2, keepdims=True)
    raw = (raw + rng.standard_normal(raw.shape, np.float32) * _sigma(raw, exposure)) * mosaic
    cross = np.array(((0, 1, 0), (1, 4, 1), (0, 1, 0))) / 4
    planes = [filter_3x3(raw[..., c : c + 1], cross if c == 1 else TENT) for c in range(3)]
    shown = _tone(np.concatenate(planes, axis=2) * gains, exposure)
    return _quantise(2 * shown - filter_3x3(shown, TENT / 4))


def generate(rng: Rng, scene: Floats, exposure: Exposure, decoder: str) -> tuple[Floats, Floats, Floats]:
    """Make a scene (2h, 2w, 3) of linear light anew, as a generator does: from a coarse grid up, in three doublings.

    The grid is 8 times coarser than the picture. Each doubling, by the layer of one of DECODERS, adds detail: part of
    the scene's own, in place of what a trained generator has learnt, and noise, which the later doublings spread.

    Returns three float32 arrays (h, w, 3), in which 0 to 1 is black to white: the picture without noise, the noise
    that came through the decoder, and unspread noise of the camera's strength.
    """
    upsample, half, quarter = DECODERS[decoder]
    light = halve(scene, np.array((0.2, 0.3, 0.3, 0.2)))
    height, width = light.shape[:2]
    light = np.pad(light, ((0, -height % 8), (0, -width % 8), (0, 0)), "edge")
    sigma = _sigma(light, exposure)
    spread: Floats = (_tone(light + sigma, exposure) - _tone(light - sigma, exposure)) / np.float32(2)
    levels, sigmas = [_tone(light, exposure)], [spread]
    for _ in range(3):
        levels.append(halve(levels[-1], np.array((0.5, 0.5))))
        sigmas.append(halve(sigmas[-1], np.array((0.5, 0.5))))
    strength = rng.uniform(0.8, 1.4)
    both = np.concatenate((levels[3], np.zeros_like(levels[3])), axis=2)
    for level, amount in ((2, quarter), (1, half), (0, 0.0)):
        both = upsample(both, strength)
        both[..., :3] += np.float32(0.6) * (levels[level] - filter_3x3(insert_zeros(levels[level + 1]), TENT))
        both[..., 3:] += np.float32(amount) * sigmas[level] * rng.standard_normal(levels[level].shape, np.float32)
    grain: Floats = sigmas[0] * rng.standard_normal(light.shape, np.float32)
    return both[:height, :width, :3], both[:height, :width, 3:], grain[:height, :width]


def _nearest_conv(image: Floats, strength: float) -> Floats:
    """Nearest neighbour, then a 3×3 convolution: blocks, softened (Odena et al. 2016 advise it against lattices)."""
    kernel = 0.06 * strength * (WEIGHTS[0, 0] + WEIGHTS[0, 0, ::-1, ::-1]) / 2
    kernel[1, 1] += 1
    return filter_3x3(image.repeat(2, axis=0).repeat(2, axis=1), kernel / kernel.sum())


def _transposed_conv(image: Floats, strength: float) -> Floats:
    """Transposed 3×3 convolution of stride 2: overlaps of 1, 2 and 4 taps, which leave a checkerboard.

    Odena, Dumoulin and Olah, "Deconvolution and checkerboard artifacts", 2016.
    """
    kernel = TENT * (1 + 0.05 * strength * WEIGHTS[1, 0])
    return filter_3x3(insert_zeros(image), kernel * (4 / kernel.sum()))


def _pixel_shuffle(image: Floats, strength: float) -> Floats:
    """Sub-pixel convolution: a 3×3 kernel for each of the four pixels of a cell; they never quite agree.

    Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel CNN", 2016.
    """
    height, width, channels = image.shape
    halves = np.array(((0.25, 0.75, 0), (0, 0.75, 0.25)))
    kernels = np.einsum("ai,bj->abij", halves, halves).reshape(4, 3, 3) + 0.015 * strength * WEIGHTS[2]
    kernels *= 4 / kernels.sum()
    cells = np.stack([filter_3x3(image, kernel) for kernel in kernels]).reshape(2, 2, height, width, channels)
    return cells.transpose(2, 0, 3, 1, 4).reshape(2 * height, 2 * width, channels)


# Each decoder's upsampling, (h, w, c) to (2h, 2w, c), and its noise at a half and at a quarter of the resolution.
DECODERS: Final[dict[str, tuple[Callable[[Floats, float], Floats], float, float]]] = {
    "nearest-conv": (_nearest_conv, 0.4, 1.9),
    "transposed-conv": (_transposed_conv, 0.6, 3.4),
    "pixel-shuffle": (_pixel_shuffle, 0.6, 3.0),
}


def _sigma(light: Floats, exposure: Exposure) -> Floats:
    return np.asarray(np.sqrt(exposure.shot * light + exposure.read**2), np.float32)


def _tone(light: Floats, exposure: Exposure) -> Floats:
    """Linear light to shown values in [0, 1]: sRGB's curve (IEC 61966-2-1), then part of an S-curve."""
    x = np.clip(light, 0, 1)
    shown = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** np.float32(1 / 2.4) - np.float32(0.055))
    return np.asarray(shown + exposure.contrast * (shown * shown * (3 - 2 * shown) - shown), np.float32)


def _quantise(image: Floats) -> Bytes:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8)
