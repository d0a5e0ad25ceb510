"""Reads tag values and texts from a TIFF structure, which EXIF is too."""

from typing import Final, Literal

TIFF_HEADS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF structure: little and big endian, with offsets of 4 bytes, and with 8 (BigTIFF)."""
_EXIF_IFD: Final = 34665
_MAX_ENTRIES: Final = 1_000  # of a directory; one with more is skipped
_MAX_VALUE: Final = 256 * 1024  # bytes read of a text
_SIZES: Final = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
    129: 1,
}
"""Bytes per value, by TIFF field type."""

TEXT_TAGS: Final = {
    11: "ProcessingSoftware",
    270: "ImageDescription",
    271: "Make",
    272: "Model",
    305: "Software",
    315: "Artist",
    316: "HostComputer",
    33432: "Copyright",
    36867: "DateTimeOriginal",
    37510: "UserComment",
    40092: "XPComment",
    42036: "LensModel",
    42043: "ImageEditingSoftware",
}


def read_tiff_values(view: memoryview) -> dict[int, memoryview]:
    """Return the bytes of each tag's value, from the first directory and the EXIF directory that it points to.

    No other directory is followed, so circular offsets can't cause a loop. Values outside the structure are omitted.
    Anything that is not TIFF gives {}.
    """
    if bytes(view[:4]) not in TIFF_HEADS:
        return {}
    order: Literal["little", "big"] = "little" if view[0] == 0x49 else "big"
    width = 8 if 0x2B in view[2:4] else 4  # bytes of an offset
    first = view[8:16] if width == 8 else view[4:8]
    values = _read_directory(view, int.from_bytes(first, order), order, width)
    if len(values.get(_EXIF_IFD, b"")) in (4, width):
        values = _read_directory(view, int.from_bytes(values[_EXIF_IFD], order), order, width) | values
    return values


def _read_directory(view: memoryview, at: int, order: Literal["little", "big"], width: int) -> dict[int, memoryview]:
    values: dict[int, memoryview] = {}
    head, size = (8, 20) if width == 8 else (2, 12)  # bytes of the number of entries, and of an entry
    entries = int.from_bytes(view[at : at + head], order)
    if entries > _MAX_ENTRIES:
        return values
    for start in range(at + head, at + head + size * entries, size):
        entry = view[start : start + size]
        if len(entry) < size:
            break
        tag, kind, count = (int.from_bytes(entry[a:b], order) for a, b in ((0, 2), (2, 4), (4, 4 + width)))
        length = _SIZES.get(kind, 0) * count
        field = entry[4 + width :]
        offset = int.from_bytes(field, order)
        value = field[:length] if length <= width else view[offset : offset + length]
        if value:
            values.setdefault(tag, value)
    return values


def read_exif_texts(block: bytes | memoryview) -> dict[str, str]:
    """Return an EXIF block's texts by tag name (TEXT_TAGS), without padding; {} if it is not EXIF."""
    view = memoryview(block)
    order = "utf-16-le" if bytes(view[:2]) == b"II" else "utf-16-be"
    texts = {}
    for tag, value in read_tiff_values(view).items():
        if tag in TEXT_TAGS:
            text = _decode_value(tag, bytes(value[:_MAX_VALUE]), order).strip("\0 \t\r\n")
            if text:
                texts[TEXT_TAGS[tag]] = text
    return texts


def _decode_value(tag: int, value: bytes, order: str) -> str:
    if tag == 40092:  # Windows tags are UTF-16, always little-endian
        return value.decode("utf-16-le", "replace").split("\0")[0]
    if tag == 37510:
        charset, rest = value[:8], value[8:]
        if charset == b"UNICODE\0":
            # Some programs write big-endian in any block; in Latin text the zero bytes show the byte order.
            zeros = rest[0::2].count(0), rest[1::2].count(0)
            if zeros[0] != zeros[1]:
                order = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
            return rest.decode(order, "replace")
        if charset in (b"ASCII\0\0\0", b"\0" * 8, b"JIS\0\0\0\0\0"):
            value = rest
    value = value.rstrip(b"\0")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
