"""The image decoder: from a file's bytes to 8-bit RGB pixels. The only one; every part of MAI uses it."""

import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from mai_app.config import LIMITS, Limits
from mai_app.errors import ImageError

Pixels = npt.NDArray[np.uint8]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF")
FORMATS_IN_WORDS: Final = "JPEG, PNG, WebP, GIF, BMP or TIFF"
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
OTHER_SUFFIXES: Final = frozenset((".heic", ".heif", ".avif", ".jxl", ".jp2"))
"""Image files that MAI does not decode: taken from a folder too, so that each is rejected with its reason."""
SAMPLINGS: Final = ("4:4:4", "4:2:2", "4:2:0")
"""How JPEG files store colour: whole planes, or halved in width, or in both directions."""

# MAI's own limit, checked below, is an error and lies under the size at which Pillow raises one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Damaged metadata is no reason to refuse a picture whose pixels decode.
warnings.filterwarnings("ignore", module=r"PIL\..*")

_MAGIC: Final = (
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"%PDF", "a PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML, perhaps SVG"),
    (b"<!DOCTYPE html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"8BPS", "Photoshop"),
)


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

    EXIF orientation is applied. CMYK, palette, grey and 16-bit pixels become 8-bit RGB (16-bit ones by their
    high byte), transparency is laid over white, of several frames the first is taken. Colour profiles are not
    applied: the pixels are the ones that the file stores.
    """
    if len(data) > limits.max_bytes:
        raise ImageError(name, _too_many_bytes(len(data), limits))
    if not data:
        raise ImageError(name, "is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels or max(width, height) > limits.max_side:
                raise ImageError(name, _too_large(width, height, limits))
            notes = _frame_notes(image)
            image.load()
            quality = jpeg_quality(getattr(image, "quantization", None))
            sampling = _jpeg_sampling(image)
            lossy = _is_lossy(image, data)
            orientation = _orientation(image)
            upright = ImageOps.exif_transpose(image) if orientation > 1 else image
            pixels = np.asarray(_to_rgb(upright, name))
            # MPO is what Pillow calls a JPEG that carries further pictures, as many phones write it.
            file_format = {"MPO": "JPEG", "DIB": "BMP"}.get(image.format or "", image.format or "")
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(name, _unidentified(data)) from None
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


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    # MPO: the further pictures are previews and depth maps, not frames.
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return ()
    return (f"first of {getattr(image, 'n_frames', 'several')} frames",)


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
    return image.format in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF of any kind: the pixels are used as they are stored
        return 1
    return int(orientation) if orientation in range(2, 9) else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(name, "has floating-point pixels, whose white is undefined; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min(initial=0) < 0 or levels.max(initial=0) > 65535:
            raise ImageError(name, "has 32-bit pixels, whose white is undefined; save it with 8 or 16 bits")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
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


def _unidentified(data: bytes) -> str:
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"mif1", b"msf1", b"heim", b"hevc"):
        found = "HEIC"
    elif brand in (b"avif", b"avis"):
        found = "AVIF"
    elif brand:
        found = "a video"
    else:
        start = data[:64].lstrip()
        found = next((words for magic, words in _MAGIC if start.startswith(magic)), "")
    what = f"is {found}, not {FORMATS_IN_WORDS}" if found else f"is no {FORMATS_IN_WORDS} file, or its head is damaged"
    return f"{what}; convert it without loss, to PNG"
