"""Image files taken apart: the bytes that pixels need, without the metadata around them, and the orientation they name.

Pillow reads a file's metadata before its pixels and refuses the whole file where they do not parse. What it is given
here has none, so that no text, profile or EXIF entry, however odd, can be a reason to refuse pixels that decode.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

MAX_METADATA: Final = 2**20
"""Most bytes that a compressed text is unpacked to: an orientation stands near its beginning."""
ORIENTATION: Final = 0x0112
END_OF_JPEG: Final = b"\xff\xd9"

_MAX_PAGES: Final = 10_000  # of a TIFF, that are counted
_MAX_ENTRIES: Final = 2**16  # of a directory
_INTEGERS: Final = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# The tags that pixels are decoded by; what is missing here describes them.
# fmt: off
_PIXEL_TAGS: Final = frozenset((
    256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347,
    *range(512, 522), 529, 530, 531, 532, 32995, 32996,
))
# fmt: on
_XMP_ORIENTATION: Final = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")
_PNG_USED: Final = (b"tRNS", b"acTL", b"fcTL", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_PNG_PROFILES: Final = (b"Raw profile type exif", b"Raw profile type APP1")
_PNG_XMP: Final = b"XML:com.adobe.xmp"
_PNG_KEYWORDS: Final = (*_PNG_PROFILES, _PNG_XMP)
_WEBP_PIXELS: Final = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")


@dataclass(frozen=True)
class Parts:
    """An image file taken apart."""

    pixels: bytes
    """A file of the same format with the same pixels, as stored, and no metadata; GIF and BMP as they are."""
    exif: bytes = b""
    """The EXIF block; of a TIFF the file itself."""
    xmp: bytes = b""
    frames: int = 1
    """Frames or pages of a PNG or TIFF, of which `pixels` has the first alone."""

    @property
    def orientation(self) -> int:
        """The orientation that the metadata name, 1 (as stored) to 8; EXIF goes before XMP."""
        block = self.exif
        while block.startswith(b"Exif\0\0"):
            block = block[6:]
        tiff = open_tiff(block)
        if tiff and (found := tiff.integers(tiff.directory(tiff.first).get(ORIENTATION))):
            return found[0] if found[0] in range(2, 9) else 1
        named = _XMP_ORIENTATION.search(self.xmp)
        return int(named[1]) if named else 1


def take_apart(data: bytes) -> Parts:
    """Take an image file's bytes apart; a file whose structure is broken, or another, stays whole."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if tiff := open_tiff(data):
        return _tiff(tiff)
    return Parts(data)


Entry = tuple[int, int, bytes]
"""Type, count and the field that holds the value or its position."""


@dataclass(frozen=True)
class Tiff:
    """TIFF's structure, in a TIFF file or an EXIF block; nothing in it is trusted, and what is broken is left out."""

    data: bytes
    order: str
    """Byte order, "<" or ">"."""
    big: bool
    """Whether positions have 64 bits (BigTIFF)."""
    first: int
    """Position of the first directory."""

    def entries(self, at: int) -> Iterator[bytes]:
        """Yield the entries of the directory at a position as they are stored; none for one that is negative."""
        if at < 0:
            return
        size, head = (20, 8) if self.big else (12, 2)
        start = at + head
        for _ in range(min(self._number(at, head), _MAX_ENTRIES, (len(self.data) - start) // size)):
            yield self.data[start : start + size]
            start += size

    def directory(self, at: int) -> dict[int, Entry]:
        """Return the entries of the directory at a position, by tag; of equal ones the first."""
        found: dict[int, Entry] = {}
        for entry in self.entries(at):
            tag, kind, count, field = struct.unpack(self.order + ("HHQ8s" if self.big else "HHL4s"), entry)
            found.setdefault(tag, (kind, count, field))
        return found

    def next(self, at: int) -> int:
        """Return the position of the directory after the one at a position; 0: there is none."""
        size, head = (20, 8) if self.big else (12, 2)
        return self._number(at + head + self._number(at, head) * size, 8 if self.big else 4)

    def value(self, entry: Entry | None, limit: int = MAX_METADATA) -> bytes:
        """Return the bytes of an entry's value, of a large one the first; empty for none and for a broken one."""
        if entry is None:
            return b""
        kind, count, field = entry
        size = min(count * _SIZES.get(kind, 0), limit)
        if size <= len(field):
            return field[:size]
        (at,) = struct.unpack(self.order + ("Q" if self.big else "L"), field)
        return self.data[at : at + size]

    def integers(self, entry: Entry | None) -> tuple[int, ...]:
        """Return an entry's values, at most 64; empty for none, a broken one, and for other types than integers."""
        if entry is None or entry[0] not in _INTEGERS:
            return ()
        size = _SIZES[entry[0]]
        value = self.value(entry, 64 * size)
        count = len(value) // size
        return struct.unpack_from(f"{self.order}{count}{_INTEGERS[entry[0]]}", value)

    def _number(self, at: int, size: int) -> int:
        field = self.data[at : at + size] if at >= 0 else b""
        return int.from_bytes(field, "little" if self.order == "<" else "big") if len(field) == size else 0


def open_tiff(data: bytes) -> Tiff | None:
    """Return the structure of a TIFF file's or an EXIF block's bytes; None where they do not begin as such."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8 or data[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return None
    big = b"+" in data[2:4]
    (first,) = struct.unpack_from(order + ("Q" if big else "L"), data.ljust(16, b"\0"), 8 if big else 4)
    return Tiff(data, order, big, first)


def _tiff(tiff: Tiff) -> Parts:
    kept = [entry for entry in tiff.entries(tiff.first) if _tag(tiff, entry) in _PIXEL_TAGS]
    # Written over the first directory, which has at least as many entries.
    if not kept:
        return Parts(tiff.data, tiff.data)
    file = io.BytesIO(tiff.data)
    file.seek(tiff.first)
    count = struct.pack(tiff.order + ("Q" if tiff.big else "H"), len(kept))
    file.write(count + b"".join(kept) + bytes(8 if tiff.big else 4))
    seen = {tiff.first}
    after = tiff.next(tiff.first)
    while after and after not in seen and len(seen) < _MAX_PAGES and next(tiff.entries(after), None):
        seen.add(after)
        after = tiff.next(after)
    return Parts(file.getvalue(), tiff.data, tiff.value(tiff.directory(tiff.first).get(700)), len(seen))


def _tag(tiff: Tiff, entry: bytes) -> int:
    return int.from_bytes(entry[:2], "little" if tiff.order == "<" else "big")


def _jpeg(data: bytes) -> Parts:
    view = memoryview(data)
    kept = [view[:2]]
    exif: list[bytes] = []
    xmp = b""
    for marker, start, end in jpeg_segments(data):
        if marker == 0xDA:  # the pixels; all that comes after them goes along
            kept.append(view[start:])
            return Parts(b"".join(kept), b"".join(exif), xmp)
        body = data[start + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or body.partition(b"\0")[2]
        # Two blocks say which colours the planes are.
        is_colour = (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
            marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        )
        if is_colour or marker not in (*range(0xE0, 0xF0), 0xFE):
            kept.append(view[start:end])
    return Parts(data, b"".join(exif), xmp)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield a JPEG's segments: marker, start and end; a scan's (0xDA) has its head alone. Ends where one is broken."""
    at = 2
    while match := _MARKER.search(data, at):
        start, marker = match.end() - 2, data[match.end() - 1]
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker < 0xC0 or end < start + 4 or end > len(data):
            return
        yield marker, start, end
        at = end


# What may stand before a marker: pixels with their restart marks, and the marks of start and end.
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xda-\xfe]")


def jpeg_ends(data: bytes) -> Iterator[bytes]:
    """Yield JPEG files made of one that has no end marker: where all give the same pixels, it lacks nothing else.

    Each goes on with other bits, and ends. A decoder leaves these unread if it has all pixels before. Yields none for a
    file in which a scan is missing: no decoder would tell.
    """
    planes: set[int] = set()
    sharp: dict[int, set[int]] = {}  # by plane: the frequencies that are there with their last bit
    for marker, start, end in jpeg_segments(data):
        body = data[start + 4 : end]
        if marker in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
            planes = set(body[6::3])
        elif marker == 0xDA and len(body) >= 4 and body[-1] & 15 == 0:
            for plane in body[1 : 1 + 2 * body[0] : 2]:
                sharp.setdefault(plane, set()).update(range(body[-3], body[-2] + 1))
    if not planes or any(len(sharp.get(plane, ())) < 64 for plane in planes):
        return
    # Zeros fill what was never written; a last 0xFF may be half an end marker, or a byte of pixels.
    body = data.rstrip(b"\0") if data.endswith(bytes(16)) else data
    body += b"\0" * body.endswith(b"\xff")
    # Where restart marks divide the pixels, other bits are read after the mark that is due alone.
    marks = re.findall(rb"\xff([\xd0-\xd7])", body[end:])
    due = (marks[-1][0] + 1 if marks else 0) % 8
    restarts = [bytes((0xFF, 0xD0 + (due + i) % 8)) for i in range(8)]
    rng = np.random.default_rng(0)
    for first in range(9, 256, 32):  # each value of the first three bits; no byte is 0xFF, which begins a marker
        yield bytes((first, *rng.integers(0, 255, 63, dtype=np.uint8))).join((body, *restarts, END_OF_JPEG))


def _png(data: bytes) -> Parts:
    if len(data) < 33:  # no whole head
        return Parts(data)
    view = memoryview(data)
    kept = [view[:8]]
    texts: dict[bytes, bytes] = {}
    exif, frames, first_apart, transparency, pixels_seen, at = b"", 0, 1, False, False, 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        end = at + 12 + length
        is_critical = not kind[0] & 0x20
        if end > len(data) or not kind.isalnum():
            kept += [view[at:]] if is_critical else []
            break
        body = view[at + 8 : end - 4]
        if is_critical:
            # To pixels that are no indices a palette is a hint.
            if kind != b"PLTE" or data[25] == 3:
                kept.append(view[at:end])
            pixels_seen = pixels_seen or kind == b"IDAT"
        # As every reader does: what has a wrong checksum is no metadata.
        elif kind in _PNG_USED and zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(view[end - 4 : end], "big"):
            if kind == b"tRNS" and not transparency and not pixels_seen and _fits(length, data[25]):
                kept.append(view[at:end])
                transparency = True
            elif kind == b"acTL" and not pixels_seen:
                frames = int.from_bytes(body[:4], "big")
            elif kind == b"fcTL" and not pixels_seen:
                first_apart = 0  # the pixels are the animation's first frame, not a picture beside it
            elif kind == b"eXIf":
                exif = exif or bytes(body)
            elif kind.endswith(b"Xt"):
                keyword, _, rest = bytes(body).partition(b"\0")
                if keyword in _PNG_KEYWORDS and keyword not in texts:
                    texts[keyword] = _png_text(kind, rest)
        at = end
    exif = exif or next((block for name in _PNG_PROFILES if (block := _hexadecimal(texts.get(name, b"")))), b"")
    frames = frames + first_apart if 0 < frames <= 2**31 else 1
    return Parts(b"".join(kept), exif, texts.get(_PNG_XMP, b""), frames)


def _fits(length: int, colour: int) -> bool:
    """Whether transparency of this length belongs to this type of colour."""
    return {0: length >= 2, 2: length >= 6, 3: 1 <= length <= 256}.get(colour, False)


def _png_text(kind: bytes, rest: bytes) -> bytes:
    """The text of a text chunk from what follows its keyword; empty where it can't be unpacked."""
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    text = {b"tEXt": rest, b"zTXt": rest[1:], b"iTXt": rest[2:].split(b"\0", 2)[-1]}[kind]
    try:
        return zlib.decompressobj().decompress(text, MAX_METADATA) if is_packed else text[:MAX_METADATA]
    except zlib.error:
        return b""


def _hexadecimal(profile: bytes) -> bytes:
    """The bytes of a "Raw profile type" text: a name, their number, and they in hexadecimal."""
    digits = b"".join(profile.split(b"\n", 3)[3:]).decode("ascii", "ignore")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def _webp(data: bytes) -> Parts:
    view = memoryview(data)
    kept: list[bytes | memoryview] = []
    found: dict[bytes, bytes] = {}
    at = 12
    end_of_file = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end_of_file:
        kind, length = struct.unpack_from("<4sL", data, at)
        end = at + 8 + length + length % 2
        if kind in _WEBP_PIXELS:
            if at + 8 + length > len(data):
                return Parts(data)
            # Of VP8X the flags that announce a profile, EXIF and XMP.
            flags = [bytes((data[at + 8] & ~0x2C,))] if kind == b"VP8X" and length else []
            kept += [view[at : at + 8], *flags, view[at + 8 + len(flags) : end], bytes(max(0, end - len(data)))]
        else:
            found.setdefault(kind, bytes(view[at + 8 : at + 8 + length]))
        at = end
    if not kept:
        return Parts(data)
    body = b"".join(kept)
    head = b"RIFF" + struct.pack("<L", 4 + len(body)) + b"WEBP"
    return Parts(head + body, found.get(b"EXIF", b""), found.get(b"XMP ", b""))
