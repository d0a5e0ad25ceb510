"""The image decoder: from a file's bytes to 8-bit RGB pixels. The only one; every part of MAI uses it."""

import io
import stat
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from mai_app.config import LIMITS, Limits
from mai_app.errors import ImageError
from mai_app.images.containers import END_OF_JPEG, Parts, jpeg_ends, take_apart
from mai_app.images.other_formats import FLOATS, RAW_SUFFIXES, raw_format, unidentified_reason

Pixels = npt.NDArray[np.uint8]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF")
SUFFIXES: Final = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
    )
)
"""Names of files that are taken from a folder as images."""
OTHER_SUFFIXES: Final = frozenset((".heic", ".heif", ".avif", ".jxl", ".jp2")) | RAW_SUFFIXES
"""Image files that MAI does not decode: taken from a folder too, so that each is rejected with its reason."""
SAMPLINGS: Final = ("4:4:4", "4:2:2", "4:2:0")
"""How JPEG files store colour: whole planes, or halved in width, or in both directions."""

# MAI's own limit, checked below, is an error and lies under the size at which Pillow raises one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow also warns of what is odd in a file whose pixels decode.
warnings.filterwarnings("ignore", module=r"PIL\..*")

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright that is stored under an EXIF orientation."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image, upright and without transparency, and how its file stores it."""

    pixels: Pixels
    """(height, width, 3) uint8 RGB, orientation applied, transparency over white."""
    format: str
    """JPEG, PNG, WEBP, GIF, BMP or TIFF."""
    file_bytes: int
    """Size of the file."""
    jpeg_quality: int | None
    """Estimated quality of the quantisation tables, 1 to 100; None if the file is no JPEG."""
    jpeg_sampling: str
    """How the colour planes of a JPEG are stored: one of SAMPLINGS; empty if otherwise, or no JPEG."""
    lossy: bool
    """Whether the file's coding changes pixels: JPEG, lossy WebP, TIFF with JPEG inside."""
    orientation: int
    """EXIF orientation that was applied, 1 (as stored) to 8."""
    notes: tuple[str, ...]
    """What had to be decided on the way, in words."""


def read_file(path: Path, limits: Limits = LIMITS) -> bytes:
    """The file's bytes; raises ImageError for what is no readable, non-empty regular file within the limits."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(str(path), "is a folder, not an image file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(str(path), "is no regular file")
        if status.st_size > limits.max_bytes:
            raise ImageError(str(path), _too_many_bytes(status.st_size, limits))
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(str(path), "no such file") from None
    except PermissionError:
        raise ImageError(str(path), "no permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(str(path), f"can't be read ({error})") from None


def decode_file(path: Path, limits: Limits = LIMITS) -> DecodedImage:
    """Read and decode one image file; raises ImageError, which names the file and the reason."""
    return decode(read_file(path, limits), str(path), limits)


def decode(data: bytes, name: str, limits: Limits = LIMITS) -> DecodedImage:
    """Decode an image file's bytes; `name` stands in the ImageError that is raised for what can't be decoded.

    The orientation of EXIF, XMP or TIFF is applied; other metadata are not read, and can't be a reason to refuse.
    CMYK, palette, grey, 12-bit and 16-bit pixels become 8-bit RGB (by their highest 8 bits), transparency is laid over
    white, of several frames the first is taken. Colour profiles are not applied: the pixels are the ones that the file
    stores. A JPEG without an end marker is decoded, with a note, if no pixel is missing. Camera RAW is refused.
    """
    if len(data) > limits.max_bytes:
        raise ImageError(name, _too_many_bytes(len(data), limits))
    if not data:
        raise ImageError(name, "is empty (0 bytes)")
    if raw := raw_format(data, name):
        raise ImageError(name, f"is camera RAW ({raw}), whose preview is not the photograph; develop it to TIFF or PNG")
    try:
        parts = take_apart(data)
        with Image.open(io.BytesIO(parts.pixels), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > limits.max_pixels or max(width, height) > limits.max_side:
                raise ImageError(name, _too_large(width, height, limits))
            notes = _frame_notes(opened, parts)
            image = _load(opened, parts)
            if image is not opened:
                notes += ("the file's end is missing, its pixels are whole",)
            quality = jpeg_quality(getattr(image, "quantization", None))
            sampling = _jpeg_sampling(image)
            lossy = _is_lossy(image, parts.pixels)
            # GIF is not taken apart: its XMP comes from Pillow.
            orientation = replace(parts, xmp=parts.xmp or image.info.get("xmp", b"")).orientation
            eight_bits = _to_rgb(image, name)
            upright = eight_bits.transpose(_TURNS[orientation]) if orientation > 1 else eight_bits
            pixels = np.asarray(upright)
            file_format = {"DIB": "BMP"}.get(image.format or "", image.format or "")
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(name, unidentified_reason(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(name, f"has more than {limits.max_pixels:,} pixels, the limit") from None
    except MemoryError:
        raise ImageError(name, "does not fit into this machine's memory") from None
    # On damaged files Pillow's readers raise nearly anything: SyntaxError, struct.error, KeyError, ZeroDivisionError …
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise ImageError(name, f"is damaged or truncated ({reason}); get the original file again") from None
    return DecodedImage(pixels, file_format, len(data), quality, sampling, lossy, orientation, notes)


def encode_jpeg(pixels: Pixels, quality: int, sampling: str = "4:2:0") -> bytes:
    """JPEG bytes of (height, width, 3) uint8 pixels: baseline, the IJG tables at `quality` (1 to 100)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=sampling)
    return buffer.getvalue()


def jpeg_quality(tables: dict[int, list[int]] | None) -> int | None:
    """Quality from 1 to 100 whose IJG luminance table is nearest to the file's; None without tables.

    The tables of the Independent JPEG Group's library (1991) scale with quality; cameras and editors use tables
    of their own, for which the answer is the nearest IJG one.
    """
    if not tables:
        return None
    table = np.asarray(tables[min(tables)], dtype=np.int64)
    if table.size != 64:
        return None
    # The order of the 64 values is not needed: sorted tables compare as well as ordered ones do.
    distances = np.abs(_IJG_TABLES - np.sort(table)).sum(axis=1)
    return int(np.argmin(distances)) + 1


def _ijg_tables() -> npt.NDArray[np.int64]:
    # fmt: off
    base = np.array(
        [
            16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
            14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
            18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
            49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
        ]
    )
    # fmt: on
    qualities = np.arange(1, 101)[:, None]
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    return np.sort(np.clip((base * scale + 50) // 100, 1, 255), axis=1)


_IJG_TABLES: Final = _ijg_tables()


def _frame_notes(image: Image.Image, parts: Parts) -> tuple[str, ...]:
    frames = max(parts.frames, getattr(image, "n_frames", 1))
    return (f"first of {frames} frames",) if frames > 1 else ()


def _load(image: Image.Image, parts: Parts) -> Image.Image:
    """The image with its pixels decoded; another one, where its JPEG file has no end and was given one.

    Raises OSError where pixels are missing.
    """
    if image.format != "JPEG" or parts.pixels.rfind(END_OF_JPEG) >= 0:
        image.load()
        return image
    ended: Image.Image | None = None
    for data in jpeg_ends(parts.pixels):
        again = Image.open(io.BytesIO(data), formats=FORMATS)
        if ended and not np.array_equal(np.asarray(ended), np.asarray(again)):
            ended = None
            break
        ended = again
    if not ended:
        raise OSError("the file ends before its pixels do")
    return ended


def _jpeg_sampling(image: Image.Image) -> str:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return ""
    number = JpegImagePlugin.get_sampling(image)  # -1: another, or a single plane
    return SAMPLINGS[number] if number >= 0 else ""


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    if image.format == "WEBP":
        # The first frame's chunk: "VP8 " is lossy, "VP8L" lossless.
        lossy, lossless = data.find(b"VP8 ", 12), data.find(b"VP8L", 12)
        return lossy >= 0 and (lossless < 0 or lossy < lossless)
    return image.format == "JPEG" or image.info.get("compression") in ("jpeg", "tiff_jpeg")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(name, FLOATS)
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min(initial=0) < 0 or levels.max(initial=0) > 65535:
            raise ImageError(name, "has 32-bit pixels, whose white is undefined; save it with 8 or 16 bits")
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258, (16,))[0] if image.mode.startswith("I;16") else 16
        levels >>= bits - 8
        if image.mode.startswith("I;16") and tags.get(262) == 0:  # TIFF's "white is zero", which Pillow leaves to do
            levels = 255 - levels
        image = Image.fromarray(levels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _too_many_bytes(size: int, limits: Limits) -> str:
    return f"has {size:,} bytes, over the limit of {limits.max_bytes:,}; save it smaller"


def _too_large(width: int, height: int, limits: Limits) -> str:
    limit = f"{limits.max_pixels:,} pixels and {limits.max_side:,} a side"
    return f"has {width:,}×{height:,} pixels, over the limit of {limit}; crop it"


# fmt: off
