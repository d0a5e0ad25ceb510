"""What files are that MAI does not decode, in words: camera RAW, HEIF, JPEG 2000, videos, odd TIFF and JPEG files."""

import re
from pathlib import Path
from typing import Final

from PIL import TiffImagePlugin

from mai_app.images.containers import Tiff, jpeg_segments, open_tiff

FORMATS_IN_WORDS: Final = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# fmt: off
RAW_SUFFIXES: Final = frozenset((
    ".3fr", ".arq", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".dng", ".drf", ".erf", ".fff", ".gpr", ".iiq",
    ".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef", ".ptx", ".raf", ".rw2", ".rwl",
    ".sr2", ".srf", ".srw", ".x3f",
))
# fmt: on
"""Names of camera RAW files."""

_RAW_MAGIC: Final = (
    (0, b"FUJIFILMCCD-RAW", "RAF"),
    (0, b"IIU\0", "RW2"),
    (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"),
    (0, b"MMOR", "ORF"),
    (0, b"FOVb", "X3F"),
    (0, b"\0MRM", "MRW"),
    (4, b"ftypcrx ", "CR3"),
    (4, b"\x10\0\0\0CR\2", "CR2"),
    (6, b"HEAPCCDR", "CRW"),
)
_RAW_OF_MAKERS: Final = (
    (b"NIKON", "NEF"),
    (b"SONY", "ARW"),
    (b"PENTAX", "PEF"),
    (b"RICOH", "PEF"),
    (b"SAMSUNG", "SRW"),
    (b"CANON", "CR2"),
)
_RAW_COMPRESSIONS: Final = frozenset((32767, 32769, 32770, 34713, 65000, 65535))
"""Of Sony, Epson, Samsung, Nikon, Kodak and Pentax."""
_MAGIC: Final = (
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc", "JPEG XR"),
    (b"%PDF", "a PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML, perhaps SVG"),
    (b"<!DOCTYPE html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"8BPS", "Photoshop"),
)
_BRANDS: Final = (
    ("HEIC", b"heic heix heim heis hevc hevx hevm hevs"),
    ("AVIF", b"avif avis avio MA1A MA1B"),
    ("JPEG 2000", b"jp2 jpx jpm jph j2ki j2is"),
    ("HEIF", b"mif1 mif2 mif3 msf1 miaf heif 1pic avci avcs vvic vvis evbi evbs jpeg jpgs"),
)
"""Formats in the container of MP4, and the brands that their files carry."""
_VIDEO_BRANDS: Final = (b"iso", b"mp4", b"avc", b"qt", b"M4", b"3g", b"dash", b"f4v", b"MSNV", b"XAVC", b"mjp2")
_TIFF_COLOURS: Final = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab"}
FLOATS: Final = "has floating-point pixels, whose white is undefined; save it with 8 or 16 bits"


def raw_format(data: bytes, name: str = "") -> str:
    """Which camera RAW format a file's bytes are: NEF, DNG …, "of an unknown maker"; empty if they are none.

    Most are TIFF files whose first picture is a small preview. They are told by DNG's version, by pixels of a colour
    filter array (TIFF/EP), by a compression that makers use for these alone, or by `name`, where that is a camera's.
    """
    for at, magic, found in _RAW_MAGIC:
        if data.startswith(magic, at):
            return found
    tiff = open_tiff(data)
    if not tiff:
        return ""
    first = tiff.directory(tiff.first)
    suffix = Path(name).suffix.lower()
    named = suffix[1:].upper() if suffix in RAW_SUFFIXES else ""
    if named or 50706 in first:
        return named or "DNG"
    if re.match(rb"IIII.waR|MMMMRaw", data[8:16], re.DOTALL):
        return "IIQ"
    pending, seen = [tiff.first], {0}
    while pending and len(seen) < 32:
        if (at := pending.pop()) in seen:
            continue
        seen.add(at)
        directory = tiff.directory(at)
        colours, compression = (set(tiff.integers(directory.get(tag))) for tag in (262, 259))
        if 33422 in directory or {32803, 34892} & colours or _RAW_COMPRESSIONS & compression:
            make = tiff.value(first.get(271)).strip().upper()
            return next((raw for maker, raw in _RAW_OF_MAKERS if make.startswith(maker)), "of an unknown maker")
        pending += [tiff.next(at), *tiff.integers(directory.get(330))]
    return ""


def unidentified_reason(data: bytes) -> str:
    """Why Pillow knows no picture in a file's bytes, in words: what it is instead, or what its pixels are."""
    if tiff := open_tiff(data):
        return _tiff_pixels(tiff)
    if data.startswith(b"\xff\xd8\xff"):
        frames = (data[at + 4 : end] for marker, at, end in jpeg_segments(data) if marker in range(0xC0, 0xC4))
        frame = next(frames, b"")
        if len(frame) > 5 and (frame[0], frame[5]) not in ((8, 1), (8, 3), (8, 4)):
            return f"is a JPEG of {frame[5]} planes of {frame[0]} bits, which MAI does not read; save it as PNG"
    if data[4:8] == b"ftyp":
        found = _brand(data)
    else:
        start = data[:64].lstrip(b" \t\r\n\xef\xbb\xbf") or data[:64]
        found = next((words for magic, words in _MAGIC if start.startswith(magic)), "")
    what = f"is {found}, not {FORMATS_IN_WORDS}" if found else f"is no {FORMATS_IN_WORDS} file, or its head is damaged"
    return f"{what}; convert it without loss, to PNG"


def _brand(data: bytes) -> str:
    """The format of a file in the container that HEIC, AVIF, JPEG 2000 and MP4 share, by its brands."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    # The first is the file's own; after a version come others that it can be read as.
    own, *others = (data[at : at + 4].rstrip(b" \0") for at in (8, *range(16, size - 3, 4)))
    if own.startswith(_VIDEO_BRANDS):
        return "a video"
    names = [name for brand in (own, *others) for name, brands in _BRANDS if brand in brands.split()]
    special = next((name for name in names if name != "HEIF"), "")
    if names and names[0] == "HEIF":
        return f"HEIF ({special})" if special else "HEIF"
    return special or "a video"


def _tiff_pixels(tiff: Tiff) -> str:
    """Why a TIFF is refused, by the kind of its pixels."""
    tags = tiff.directory(tiff.first)
    bits, kinds = tiff.integers(tags.get(258)) or (1,), tiff.integers(tags.get(339))
    if 256 not in tags or 257 not in tags:
        return "is a TIFF whose head is damaged; get the original file again"
    if 3 in kinds:
        return FLOATS
    compression = (tiff.integers(tags.get(259)) or (1,))[0]
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"is a TIFF with a compression that MAI does not read (number {compression}); save it as PNG"
    colours = _TIFF_COLOURS.get((tiff.integers(tags.get(262)) or (0,))[0], "other")
    extra = len(tiff.integers(tags.get(338)))
    beside = " with transparency" if extra == 1 else f" with {extra} more planes" if extra else ""
    numbers = ", ".join(map(str, [*dict.fromkeys(bits)][:4]))
    return f"is a TIFF of {numbers}-bit {colours} pixels{beside}, which MAI does not read; save it as PNG"
