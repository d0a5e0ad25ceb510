"""Heatmaps: which parts of an image its score comes from, as logits on a grid and as pictures.

A heatmap is no map of manipulated regions. MAI was trained on whole images that are synthetic or authentic, never on
edited ones, and no figure says how often the colour of a part is right. It shows what moved the score, no more.
"""

import io
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path, PureWindowsPath
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from mai_app.core.device import to_numpy
from mai_app.core.files import write_bytes
from mai_app.errors import ImageError, MaiError
from mai_app.images.decode import Pixels, decode
from mai_app.images.preprocess import mirrored, resize, shrink, to_floats, to_inputs
from mai_app.inference.detector import Detector
from mai_app.inference.prediction import Prediction
from mai_app.models.calibration import sigmoid

Logits = npt.NDArray[np.float32]
Shows = Literal["patches", "windows", "occlusion"]
"""What a cell's value is: the own logit of a patch, the mean logit of the windows over it, or its drop when it
is covered."""

ANCHORS: Final = (
    (-4.0, (20, 82, 158)),
    (-2.0, (112, 164, 218)),
    (0.0, (238, 237, 234)),
    (2.0, (240, 164, 84)),
    (4.0, (186, 84, 4)),
)
"""The colours of logits, as (logit, (red, green, blue)): linear between them, clipped outside. Blue pulls to authentic,
orange to synthetic; the two differ for people who can't tell red from green, too."""
LONGEST: Final = 2048
"""Longest side of the pictures that are written or sent, in pixels."""

_CELL: Final = 16  # pixels a side of a patch of TraceNet
_TILE: Final = 32  # patches a side that are computed at a time: 512 pixels
_HALO: Final = 2  # patches around a tile: a patch sees 14 pixels beyond its own 16, so that 32 are enough
_ENDING: Final = ".heatmap.png"
_PATCH: Final = 40  # pixels a side of the grey patch, on the stretched image
_PARTS: Final = 8  # parts a side, each covered with its neighbours, of an image that is scored in views
_GREY: Final = 128
_SMALLEST: Final = 512  # pixels; smaller pictures are enlarged by a whole factor, to be seen beside their scale
_WORDS: Final = {
    "patches": "The score of each small patch by itself. Not a map of edits.",
    "windows": "The mean score of the windows over each part. Not a map of edits.",
    "occlusion": "How far the logit falls when a part is covered. Not a map of edits.",
}


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Where in an image its score comes from: a value for each cell of a grid that starts at the upper left corner."""

    logits: Logits
    """(rows, columns) float32, already divided by the temperature: above 0 pulls to synthetic, below to authentic."""
    cell: tuple[float, float]
    """Height and width of a cell in pixels of the image; the last row and column may reach beyond it."""
    width: int
    """The image's, in pixels."""
    height: int
    shows: Shows
    """What the values are; see `heatmap`."""


def heatmap(detector: Detector, pixels: Pixels) -> Heatmap:
    """Where the score of an image (height, width, 3) uint8 comes from; which way depends on the model.

    patches: for networks that score each patch by itself (traces). The logit of every 16×16 pixels from the up to 44×44
    around them. Over the whole image at native size, of which the score has five crops at most: the mean of the cells
    is the logit of the whole image, and near that of the score. At the image's edges, as at those of a crop, the
    network sees its own padding, which may pull either way. For --input resize, of the stretched image.

    windows: for other networks with --input crop. The image is scored in windows of the network's input size, half a
    window apart; a cell is half a window a side, and its value the mean logit of the windows over it.

    occlusion: for other networks with --input resize, which score the image as a whole. A grey patch of a fifth of the
    image's sides is moved over it by half its side; a cell's value is how far the logit falls where the patches over it
    lie, on average. Above 0: with this part the image looks more synthetic than without it. These values are
    differences, so that their mean is no score. For --input views the patch is a quarter of the image's sides and
    lies on the image itself, of which all views are then made; what no view shows stays at 0.

    Images larger than the model's `longest` are scaled down first, smaller ones than the input continued by mirroring,
    or enlarged, as for the score; only cells of the image are given. Besides the image it takes the memory of a tile of
    it, and the time of judging every pixel: 100 megapixels take a processor minutes.
    """
    how = detector.info.preprocessing
    height, width = pixels.shape[:2]
    scores_patches = hasattr(detector.checkpoint.network, "patch_logits")
    shows: Shows = "patches" if scores_patches else "windows" if how.input == "crop" else "occlusion"
    shrunk = shrink(pixels, how.longest or None)
    if how.input == "views":
        logits = _occluded_views(detector, pixels)
        values = (logits / detector.info.calibration.temperature).astype(np.float32)
        return Heatmap(values, (height / _PARTS, width / _PARTS), width, height, shows)
    seen = mirrored(shrunk, how.size) if how.input == "crop" else resize(pixels, how.size)
    if shows == "patches":
        logits, side = _patches(detector, seen), _CELL
    elif shows == "windows":
        logits, side = _windows(detector, seen), how.size // 2
    else:
        logits, side = _occlusion(detector, seen), _PATCH // 2
    if how.input == "resize":
        cell = (side * height / how.size, side * width / how.size)
    else:
        cell = (side * height / shrunk.shape[0], side * width / shrunk.shape[1])
        rows, columns = (-(-extent // side) for extent in shrunk.shape[:2])
        logits = logits[:rows, :columns]  # without those of the mirror image alone
    values = (logits / detector.info.calibration.temperature).astype(np.float32)
    return Heatmap(values, cell, width, height, shows)


def _patches(detector: Detector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Logits of all patches, tile by tile; no patch that is kept sees what a tile lacks at its border."""
    rows, columns = (-(-side // _CELL) for side in pixels.shape[:2])
    logits = np.empty((rows, columns))
    for top, left in product(range(0, rows, _TILE), range(0, columns, _TILE)):
        above, before = min(top, _HALO), min(left, _HALO)
        tile = pixels[
            (top - above) * _CELL : (top + _TILE + _HALO) * _CELL,
            (left - before) * _CELL : (left + _TILE + _HALO) * _CELL,
        ]
        with torch.inference_mode():
            images = to_floats(torch.from_numpy(tile.copy()[None]), detector.device)
            found = to_numpy(detector.checkpoint.network.patch_logits(images)[0])  # type: ignore[operator]
        logits[top : top + _TILE, left : left + _TILE] = found[above : above + _TILE, before : before + _TILE]
    return logits


def _windows(detector: Detector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """The mean logit of the windows over each cell of half a window; pixels have at least a window's size."""
    size = detector.info.preprocessing.size
    step = size // 2
    height, width = pixels.shape[:2]
    # The last windows are filled up by mirroring, too, so that all stand on one grid.
    pixels = np.pad(pixels, ((0, -height % step), (0, -width % step), (0, 0)), mode="symmetric")
    height, width = pixels.shape[:2]
    rows = []
    for y in range(0, height - step, step):
        windows = [pixels[None, y : y + size, x : x + size] for x in range(0, width - step, step)]
        rows.append(detector.logits(windows))
    return _by_cell(np.stack(rows))


def _occlusion(detector: Detector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """How far the logit of the stretched image falls where a patch lies, for each cell of half a patch."""
    starts = range(0, len(pixels) - _PATCH + 1, _PATCH // 2)
    covered = []
    for y, x in product(starts, starts):
        one = pixels.copy()
        one[y : y + _PATCH, x : x + _PATCH] = _GREY
        covered.append(one[None])
    whole, *without = detector.logits([pixels[None], *covered])
    return _by_cell(whole - np.reshape(without, (len(starts), len(starts))))


def _occluded_views(detector: Detector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """How far the logit falls where a quarter of the image's sides is grey, for each of _PARTS × _PARTS cells."""
    how = detector.info.preprocessing
    rows, columns = (np.linspace(0, side, _PARTS + 1).astype(int) for side in pixels.shape[:2])
    without = []
    for y, x in product(range(_PARTS - 1), range(_PARTS - 1)):
        one = pixels.copy()
        one[rows[y] : rows[y + 2], columns[x] : columns[x + 2]] = _GREY
        without.append(detector.logits([to_inputs(one, how)])[0])
    (whole,) = detector.logits([to_inputs(pixels, how)])
    return _by_cell(whole - np.reshape(without, (_PARTS - 1, _PARTS - 1)))


def _by_cell(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(m, n) values of squares that lie over 2×2 cells each, to (m + 1, n + 1): the mean of the squares over a cell."""
    rows, columns = values.shape
    padded = np.pad(values, 1, constant_values=np.nan)
    over = [padded[y : y + rows + 1, x : x + columns + 1] for y, x in product((0, 1), (0, 1))]
    mean: npt.NDArray[np.float64] = np.nanmean(over, axis=0)
    return mean


def colours(heatmap: Heatmap, longest: int | None = None) -> Pixels:
    """A heatmap's colours by ANCHORS, smooth between the cells: (height, width, 3) uint8.

    Of the image's size; larger images than `longest` pixels a side give one of that.
    """
    return _coloured(heatmap, *_fitted(heatmap.width, heatmap.height, longest))


def _fitted(width: int, height: int, longest: int | None) -> tuple[int, int]:
    scale = min(1.0, longest / max(width, height)) if longest else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def _coloured(heatmap: Heatmap, width: int, height: int) -> Pixels:
    cells = Image.fromarray(_colours_of(heatmap.logits))
    # Coloured first and enlarged then, which takes a quarter of the memory; box: the part of the grid that is image.
    rows, columns = heatmap.logits.shape
    box = (0, 0, min(columns, heatmap.width / heatmap.cell[1]), min(rows, heatmap.height / heatmap.cell[0]))
    return np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR, box))


def _colours_of(logits: npt.NDArray[np.floating]) -> Pixels:
    at = [logit for logit, _ in ANCHORS]
    channels = [np.interp(logits, at, values) for values in zip(*(colour for _, colour in ANCHORS), strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def picture(pixels: Pixels, heatmap: Heatmap) -> Pixels:
    """The image (height, width, 3) uint8 in grey beneath the heatmap's colours, and below both the scale with words.

    (height, width, 3) uint8: at most LONGEST a side and the scale; small images are enlarged by a whole factor.
    """
    width, height = _fitted(heatmap.width, heatmap.height, LONGEST)
    times = max(1, _SMALLEST // max(width, height))
    width, height = width * times, height * times
    # NEAREST: who looks at a small image wants to see its pixels.
    how = Image.Resampling.NEAREST if times > 1 else Image.Resampling.BOX
    grey = np.asarray(Image.fromarray(pixels).resize((width, height), how).convert("L"))[..., None]
    # Lighter and with less contrast than it was, so that neither black nor white hides a colour.
    laid = (0.25 * grey + 60 + 0.5 * _coloured(heatmap, width, height)).round().astype(np.uint8)
    scale = _scale(max(width, _SMALLEST), heatmap.shows)
    canvas = np.full((height + scale.shape[0], scale.shape[1], 3), 255, np.uint8)
    left = (canvas.shape[1] - width) // 2
    canvas[:height, left : left + width] = laid
    canvas[height:] = scale
    return canvas


def _scale(width: int, shows: Shows) -> Pixels:
    """The colours from end to end with words and numbers, (height, width, 3) uint8; its text grows with the width."""
    letter = min(34, max(13, width // 40))
    strip = Image.new("RGB", (width, round(6.9 * letter)), "white")
    draw = ImageDraw.Draw(strip)
    font, small = ImageFont.load_default(letter), ImageFont.load_default(round(0.85 * letter))
    long = min(width - 2 * letter, 40 * letter)  # no longer than the eye takes in
    left, top = (width - long) // 2, round(2.2 * letter)
    foot = top + letter
    lowest, highest = ANCHORS[0][0], ANCHORS[-1][0]
    logits = np.linspace(lowest, highest, long)
    strip.paste(Image.fromarray(np.repeat(_colours_of(logits)[None], letter, axis=0)), (left, top))
    for words, at, anchor in (
        ("authentic", left, "ls"),
        ("neither", left + long / 2, "ms"),
        ("synthetic", left + long, "rs"),
    ):
        draw.text((at, top - 0.5 * letter), words, "black", font, anchor)
    for logit, _ in ANCHORS:
        at = left + (logit - lowest) / (highest - lowest) * (long - 1)
        draw.line((at, foot, at, foot + letter // 4), "black", max(1, letter // 12))
        # Differences are no scores: of them the logits' own numbers are shown.
        number = f"{logit:+.0f}".replace("+0", "0") if shows == "occlusion" else f"{sigmoid(np.array(logit)):.2f}"
        anchor = "la" if logit == lowest else "ra" if logit == highest else "ma"
        draw.text((at, foot + 0.4 * letter), number, "black", small, anchor)
    draw.text((width / 2, foot + 1.8 * letter), _WORDS[shows], (70, 70, 70), small, "ma")
    return np.asarray(strip)


def heatmap_png(detector: Detector, name: str, data: bytes) -> bytes:
    """PNG of the colours alone over an image file's bytes, to be laid over it: its size, at most LONGEST a side.

    Raises ImageError, with `name`, for what can't be decoded.
    """
    return _png(colours(heatmap(detector, decode(data, name).pixels), LONGEST))


def write_heatmap(detector: Detector, name: str, pixels: Pixels, folder: Path, taken: set[str]) -> Path:
    """Write the `picture` of an image (height, width, 3) uint8 as NAME.heatmap.png in the folder; returns its path.

    NAME is that of the image's file without its folders, and -2, -3, … where `taken` has that name already: the same
    images in the same order give the same files. `taken` is added to. Whatever the name holds, the file lies in the
    folder itself. Raises MaiError where the folder can't be written to.
    """
    path = folder / _new_name(name, taken)
    png = _png(picture(pixels, heatmap(detector, pixels)))
    try:
        write_bytes(path, png)
    except OSError as error:
        raise MaiError(f"{path}: can't be written ({error.strerror}); name another folder with --heatmap") from None
    return path


def predict_with_heatmaps(
    detector: Detector, files: Iterable[Path | ImageError], folder: Path, workers: int = 2, evidence: bool = False
) -> Iterator[Prediction]:
    """As Detector.predict, and write the heatmap of each image that was decoded before its prediction comes.

    Each file is read and decoded once, and the images are scored one by one, for their pixels are kept meanwhile. An
    earlier call's heatmaps in the folder are left out of `files`: run again, a folder that holds both has more images
    than its user put there.
    """
    taken: set[str] = set()
    own = (file for file in files if isinstance(file, ImageError) or not is_heatmap(file, folder))
    for prediction, pixels in detector.predict_pixels(own, workers, evidence):
        if pixels is not None:
            write_heatmap(detector, prediction.path, pixels, folder, taken)
        yield prediction


def is_heatmap(file: Path, folder: Path) -> bool:
    """Whether a file is one that an earlier call left in the folder, by its name and folder."""
    return file.name.endswith(_ENDING) and file.parent.resolve() == folder.resolve()


def _new_name(name: str, taken: set[str]) -> str:
    """A file's name of its own, with no folder in it, that every file system takes."""
    # Of Windows' paths the last part is the same as of any other's; colons and the like are no letters there.
    letters = (c if c.isprintable() and c not in '<>:"|?*' else "_" for c in PureWindowsPath(name).name)
    stem = "".join(letters).encode("utf-8", "replace")[:150].decode("utf-8", "ignore").strip(" .") or "image"
    for number in count(1):
        new = f"{stem}{f'-{number}' if number > 1 else ''}{_ENDING}"
        # Some file systems hold names for equal that differ in case or in how an accent is written.
        same = unicodedata.normalize("NFKC", new).casefold()
        if same not in taken:
            break
    taken.add(same)
    return new


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
