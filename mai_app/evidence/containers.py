"""From the bytes of an image file to its pieces of metadata: a bounded walk over segments and chunks, never pixels."""

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mai_app.evidence.tiff import TIFF_HEADS, tiff_values

MAX_PIECE: Final = 2**20
"""Bytes that are looked at of one text, XMP packet or EXIF block; what is longer is cut off."""
MAX_KEPT: Final = 4 * 2**20
"""Bytes kept of all pieces of a file together, but for Content Credentials."""
MAX_MANIFEST: Final = 8 * 2**20
"""Bytes of Content Credentials that are read; of more than that one more is kept, which tells."""
_MAX_PARTS: Final = 100_000  # segments or chunks walked over; an honest file of 128 MB has some 16,000
_MAX_BLOCKS: Final = 600_000  # the same for a GIF, whose pixels come in blocks of 255 bytes
_MAX_TEXTS: Final = 256

_XMP_HEAD: Final = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP_HEAD: Final = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP_HEAD: Final = b"Photoshop 3.0\0"


@dataclass
class Metadata:
    """The pieces of metadata of one file, as bytes and as text."""

    format: str
    """JPEG, PNG, WEBP, GIF or TIFF; empty for others."""
    exif: bytes | memoryview = b""
    """The first EXIF block, a TIFF structure; of a TIFF file, the file."""
    xmp: list[bytes] = field(default_factory=list)
    """XMP packets: XML."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Texts of a PNG by their keys; comments of a JPEG or GIF with an empty key."""
    iptc: bytes = b""
    """The older IPTC records (IIM)."""
    manifest: bytes = b""
    """The C2PA manifest store (JUMBF), up to MAX_MANIFEST + 1 bytes; several if the file has several."""
    tables: dict[int, list[int]] = field(default_factory=dict)
    """Quantisation tables of a JPEG by number: 64 values each, in zigzag order."""
    parts: int = 0
    """Segments, chunks, or a GIF's blocks that were walked over."""
    kept: int = 0
    """Bytes kept, without the manifest."""

    @property
    def room(self) -> int:
        """Bytes that may be kept of the next piece."""
        return min(MAX_PIECE, MAX_KEPT - self.kept)

    def keep(self, piece: bytes | memoryview) -> bytes:
        """A copy of the piece as far as the limits allow; empty once they are reached."""
        copy = bytes(piece[: self.room])
        self.kept += len(copy)
        return copy

    def add_text(self, key: bytes, text: bytes | memoryview) -> None:
        """Keep a text, unless there are too many."""
        if len(self.texts) < _MAX_TEXTS:
            kept = self.keep(text)
            self.texts.append((key.decode("latin-1"), _decoded(kept, cut=len(kept) < len(text))))

    def add_manifest(self, piece: bytes | bytearray | memoryview) -> None:
        """Append to the manifest store: all that c2pa could take for it, so that all of it is looked at first."""
        self.manifest += bytes(piece[: MAX_MANIFEST + 1 - len(self.manifest)])


def read_metadata(data: bytes) -> Metadata:
    """The metadata of an image file, as far as it can be read: a damaged file gives what stands before the damage.

    Reads at most MAX_KEPT + MAX_MANIFEST bytes, however large the file, its chunks, or what they decompress to.
    """
    view = memoryview(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg(view)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(view)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(view)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(view)
    if data[:4] in TIFF_HEADS:
        return _tiff(view)
    return Metadata("")


def _jpeg(view: memoryview) -> Metadata:
    found = Metadata("JPEG")
    more: list[tuple[int, bytes]] = []
    boxes: dict[bytes, bytearray] = {}
    box_bytes = 0
    for marker, piece in _jpeg_segments(view):
        found.parts += 1
        head = bytes(piece[:40])
        if marker == 0xE1 and head.startswith(b"Exif\0\0"):
            found.exif = found.exif or found.keep(piece[6:])
        elif marker == 0xE1 and head.startswith(_XMP_HEAD):
            found.xmp.append(found.keep(piece[len(_XMP_HEAD) :]))
        elif marker == 0xE1 and head.startswith(_MORE_XMP_HEAD):
            # Then 32 digits that name the packet, its length, and where this piece belongs.
            start = len(_MORE_XMP_HEAD) + 40
            more.append((int.from_bytes(piece[start - 4 : start], "big"), found.keep(piece[start:])))
        elif marker == 0xEB and head.startswith(b"JP"):
            # JUMBF: which box, a sequence number, its content; the box's own head is repeated in each segment.
            box = boxes.setdefault(head[2:4], bytearray())
            if box_bytes <= MAX_MANIFEST:
                box += piece[16 if box else 8 :]
                box_bytes += len(piece)
        elif marker == 0xED and head.startswith(_PHOTOSHOP_HEAD):
            found.iptc = found.iptc or _photoshop_iptc(found.keep(piece[len(_PHOTOSHOP_HEAD) :]))
        elif marker == 0xFE:
            found.add_text(b"", piece)
        elif marker == 0xDB:
            _add_tables(found.tables, piece)
    if more:
        found.xmp.append(b"".join(piece for _, piece in sorted(more, key=lambda numbered: numbered[0])))
    if any(box[16:20] == b"c2pa" for box in boxes.values()):
        for box in boxes.values():
            found.add_manifest(box)
    return found


def _jpeg_segments(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Marker and content of each segment before the first scan."""
    at = 2
    for _ in range(_MAX_PARTS):
        if at + 4 > len(view) or view[at] != 0xFF:
            return
        marker = view[at + 1]
        if marker in (0xDA, 0xD9):
            return
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no content
            at += 2
        else:
            length = int.from_bytes(view[at + 2 : at + 4], "big")
            if length < 2:
                return
            yield marker, view[at + 4 : at + 2 + length]
            at += 2 + length


def _add_tables(tables: dict[int, list[int]], piece: memoryview) -> None:
    at = 0
    while at < len(piece):
        width, number = (2, piece[at] & 15) if piece[at] >> 4 else (1, piece[at] & 15)
        values = piece[at + 1 : at + 1 + 64 * width]
        if number > 3 or len(values) < 64 * width:
            return
        tables[number] = [int.from_bytes(values[i : i + width], "big") for i in range(0, 64 * width, width)]
        at += 1 + 64 * width


def _photoshop_iptc(block: bytes) -> bytes:
    """The IPTC records among Photoshop's resources; empty without them."""
    at = 0
    while block[at : at + 4] == b"8BIM":
        kind = block[at + 4 : at + 6]
        at += (
            6 + (block[at + 6] + 2) // 2 * 2 if at + 6 < len(block) else len(block)
        )  # a name, padded to an even length
        length = int.from_bytes(block[at : at + 4], "big")
        if kind == b"\x04\x04":
            return block[at + 4 : at + 4 + length]
        at += 4 + (length + 1) // 2 * 2
    return b""


def _png(view: memoryview) -> Metadata:
    found = Metadata("PNG")
    at = 8
    while at + 8 <= len(view) and found.parts < _MAX_PARTS:
        found.parts += 1
        length = int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        piece = view[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IEND":
            break
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _add_png_text(found, kind, piece)
        elif kind == b"eXIf":
            found.exif = found.exif or found.keep(piece)
        elif kind == b"caBX":
            found.add_manifest(piece)
    return found


def _add_png_text(found: Metadata, kind: bytes, piece: memoryview) -> None:
    head = bytes(piece[:512])
    key, end, _ = head.partition(b"\0")
    if not end or len(key) > 79:
        return
    start, compressed = len(key) + 1, kind == b"zTXt"
    if kind == b"zTXt":
        start += 1  # the method, of which there is one
    elif kind == b"iTXt":
        compressed = head[start : start + 1] == b"\1"
        language_end = head.find(b"\0", start + 2)
        translated_end = head.find(b"\0", language_end + 1)
        if language_end < 0 or translated_end < 0:
            return
        start = translated_end + 1
    text: bytes | memoryview = piece[start:]
    if compressed:
        text = _decompressed(piece[start : start + MAX_PIECE], found.room)
    if key == b"XML:com.adobe.xmp":
        found.xmp.append(found.keep(text))
    else:
        found.add_text(key, text)


def _decompressed(piece: memoryview, room: int) -> bytes:
    if room <= 0:  # zlib takes 0 for no limit
        return b""
    try:
        return zlib.decompressobj().decompress(piece, room)
    except zlib.error:
        return b""


def _decoded(text: bytes, cut: bool) -> str:
    """UTF-8, which generators write even where the standard says Latin-1; Latin-1 if it is not that."""
    try:
        # Of a text that is cut off the last character may be too.
        return codecs.getincrementaldecoder("utf-8")().decode(text, final=not cut)
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _webp(view: memoryview) -> Metadata:
    found = Metadata("WEBP")
    at = 12
    while at + 8 <= len(view) and found.parts < _MAX_PARTS:
        found.parts += 1
        kind = bytes(view[at : at + 4])
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        piece = view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
        if kind == b"EXIF":
            found.exif = found.exif or found.keep(piece[6:] if bytes(piece[:6]) == b"Exif\0\0" else piece)
        elif kind == b"XMP ":
            found.xmp.append(found.keep(piece))
        elif kind == b"C2PA":
            found.add_manifest(piece)
    return found


def _gif(view: memoryview) -> Metadata:
    found = Metadata("GIF")
    at = 13
    if len(view) < at:
        return found
    at += _palette(view[10])
    while found.parts < _MAX_BLOCKS and at + 10 < len(view) and view[at] in (0x21, 0x2C):
        # A frame: its place, perhaps a palette, a code size, its pixels. An extension: its kind, its blocks.
        is_frame = view[at] == 0x2C
        kind, start = view[at + 1], at + (11 + _palette(view[at + 9]) if is_frame else 2)
        name = bytes(view[start + 1 : start + 12])
        at, blocks = _after_blocks(view, start, _MAX_BLOCKS - found.parts)
        found.parts += 1 + blocks
        if is_frame:
            continue
        if kind == 0xFE:
            found.add_text(b"", _joined(view, start, at))
        elif kind == 0xFF and name == b"XMP DataXMP":
            # Written as it is, not in blocks, with 258 bytes behind it that lead a reader of blocks to the end.
            found.xmp.append(found.keep(view[start + 12 : max(at - 258, start + 12)]))
        elif kind == 0xFF and name[:8] == b"C2PA_GIF":
            found.add_manifest(_joined(view, start + 12, at))
    return found


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(view: memoryview, at: int, most: int) -> tuple[int, int]:
    """Where the sub-blocks that start here, each of up to 255 bytes, are over; and how many they are."""
    for blocks in range(most):
        if at >= len(view) or not view[at]:
            return at + 1, blocks
        at += 1 + view[at]
    return at, most


def _joined(view: memoryview, at: int, end: int) -> bytes:
    joined = bytearray()
    while at < end and view[at] and len(joined) <= MAX_MANIFEST:
        joined += view[at + 1 : at + 1 + view[at]]
        at += 1 + view[at]
    return bytes(joined)


def _tiff(view: memoryview) -> Metadata:
    found = Metadata("TIFF", exif=view)
    values = tiff_values(view)
    if 700 in values:
        found.xmp.append(found.keep(values[700]))
    found.iptc = found.keep(values.get(33723, b""))
    found.add_manifest(values.get(52545, b""))
    return found
