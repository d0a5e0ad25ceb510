"""Extracts metadata blocks from JPEG, PNG, WebP, GIF and TIFF files: a bounded walk over segments and chunks."""

import codecs
import contextlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mai_app.evidence.tiff import TIFF_HEADS, read_tiff_values

MAX_KEPT: Final = 4 * 2**20
"""Bytes kept of all blocks of a file together, without Content Credentials."""
MAX_MANIFEST: Final = 8 * 2**20
"""Largest manifest store accepted, in bytes; of a larger one, one byte more is kept to show that it is too large."""
_MAX_PIECE: Final = 2**20  # bytes kept of one text or block; of a longer text, the beginning and the end
_MAX_XMP: Final = 2 * 2**20  # bytes kept of one XMP packet
_MAX_TAIL: Final = 2**18  # bytes kept of the end of a longer text: settings often follow the prompt or the workflow
_MAX_UNPACKED: Final = 8 * 2**20  # bytes unpacked of one compressed text, and
_MAX_ALL_UNPACKED: Final = 4 * _MAX_UNPACKED  # of all of a file together
_MAX_EXIF: Final = 4  # blocks
_MAX_PARTS: Final = 100_000  # segments or chunks read; a normal file of 128 MB has about 16,000
_MAX_BLOCKS: Final = 600_000  # the same for a GIF, whose pixels are in blocks of 255 bytes
_MAX_TEXTS: Final = 256
_STEP: Final = 2**16  # bytes packed, and unpacked, at a time
_CONTINUATION: Final = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character

_XMP_HEAD: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION_HEAD: Final = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP_HEAD: Final = b"Photoshop 3.0\0"
_EXIF_HEAD: Final = b"Exif\0"  # and a byte that fills, mostly 0
# As ImageMagick, exiftool and exiv2 (GIMP, darktable) write them: a name, the length, and the bytes as hexadecimal.
_RAW_PROFILE_KEY: Final = b"raw profile type "
_RAW_PROFILE: Final = re.compile(rb"\s{0,4}[^\n]{0,200}\n\s{0,16}\d{1,10}\s{0,4}\n([0-9A-Fa-f\s]+)")


@dataclass
class Metadata:
    """The metadata blocks of one file, as bytes and text."""

    format: str
    """JPEG, PNG, WEBP, GIF or TIFF; empty for others."""
    exif: list[bytes | memoryview] = field(default_factory=list)
    """EXIF blocks, TIFF structures; for a TIFF file, the whole file."""
    xmp: list[bytes] = field(default_factory=list)
    """XMP packets: XML."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Keys and texts of a PNG; comments of a JPEG or GIF, with an empty key."""
    iptc: bytearray = field(default_factory=bytearray)
    """Legacy IPTC records (IIM)."""
    manifest: bytes = b""
    """The C2PA manifest store (JUMBF), at most MAX_MANIFEST + 1 bytes; concatenated if the file has several."""
    tables: dict[int, list[int]] = field(default_factory=dict)
    """Quantisation tables of a JPEG by number: 64 values each, in zigzag order."""
    parts: int = 0
    """Number of segments, chunks or GIF blocks read."""
    kept: int = 0  # bytes kept so far, without the manifest
    unpacked: int = 0  # bytes of compressed texts so far

    def keep(self, piece: bytes | memoryview, most: int = _MAX_PIECE) -> bytes:
        """Return a copy of the block, cut to the limits; empty once they are reached."""
        copy = bytes(piece[: min(most, MAX_KEPT - self.kept)])
        self.kept += len(copy)
        return copy

    def add_text(self, key: bytes, text: bytes | memoryview) -> None:
        """Keep a text, up to _MAX_TEXTS of them; of a long one, the beginning and the end."""
        if len(self.texts) < _MAX_TEXTS:
            if len(text) <= _MAX_PIECE:
                head, tail = self.keep(text), b""
            else:
                head, tail = self.keep(text, _MAX_PIECE - _MAX_TAIL), self.keep(text[-_MAX_TAIL:])
            is_cut = len(head) + len(tail) < len(text)
            self.texts.append((key.decode("latin-1"), _decode_text(head, is_cut) + _decode_text(tail, is_cut)))

    def add_profile(self, block: bytes | memoryview) -> None:
        """Keep an EXIF block, an XMP packet, Photoshop's resources or IPTC records, told apart by their first bytes."""
        head = bytes(block[:40])
        if head.startswith(_EXIF_HEAD):
            block, head = block[len(_EXIF_HEAD) + 1 :], head[len(_EXIF_HEAD) + 1 :]
        elif head.startswith(_XMP_HEAD):
            block, head = block[len(_XMP_HEAD) :], head[len(_XMP_HEAD) :]
        elif head.startswith(_PHOTOSHOP_HEAD):
            block, head = block[len(_PHOTOSHOP_HEAD) :], head[len(_PHOTOSHOP_HEAD) :]
        if head.startswith(TIFF_HEADS):
            if len(self.exif) < _MAX_EXIF:
                self.exif.append(block)  # no copy: only texts in it are read, each within limits
        elif head.startswith(b"8BIM"):
            self.iptc += _find_photoshop_iptc(self.keep(block))
        elif head.startswith(b"\x1c"):
            self.iptc += self.keep(block)
        elif head and head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"<", b""):
            self.xmp.append(self.keep(block, _MAX_XMP))

    def add_manifest(self, piece: bytes | bytearray | memoryview) -> None:
        """Append everything that c2pa could take for the manifest store, so that all of it is checked first."""
        self.manifest += bytes(piece[: MAX_MANIFEST + 1 - len(self.manifest)])


def read_metadata(data: bytes) -> Metadata:
    """Return an image file's metadata; a damaged file gives what comes before the damage.

    Keeps at most MAX_KEPT + MAX_MANIFEST bytes and four EXIF blocks of 1 MiB, whatever the size of the file, its chunks
    or their decompressed data; EXIF that lies in the file as it is, is not copied.
    """
    view = memoryview(data)
    if data[:2] == b"\xff\xd8":
        return _read_jpeg(view)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _read_png(view)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp(view)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _read_gif(view)
    if data[:4] in TIFF_HEADS:
        return _read_tiff(view)
    return Metadata("")


def _read_jpeg(view: memoryview) -> Metadata:
    found = Metadata("JPEG")
    xmp_extensions: list[tuple[int, bytes]] = []
    boxes: dict[bytes, bytearray] = {}
    resources = bytearray()
    box_bytes = 0
    for marker, piece in _walk_jpeg_segments(view):
        found.parts += 1
        head = bytes(piece[:40])
        if marker == 0xE1 and head.startswith((_EXIF_HEAD, _XMP_HEAD)):
            found.add_profile(piece)
        elif marker == 0xE1 and head.startswith(_XMP_EXTENSION_HEAD):
            # Header: 32 digits that identify the packet, its length, and this segment's offset in it.
            start = len(_XMP_EXTENSION_HEAD) + 40
            xmp_extensions.append((int.from_bytes(piece[start - 4 : start], "big"), found.keep(piece[start:])))
        elif marker == 0xEB and head.startswith(b"JP"):
            # JUMBF: box number, sequence number, content; the box's own header is repeated in each segment.
            box = boxes.setdefault(head[2:4], bytearray())
            if box_bytes <= MAX_MANIFEST:
                box += piece[16 if box else 8 :]
                box_bytes += len(piece)
        elif marker == 0xED and head.startswith(_PHOTOSHOP_HEAD):
            # Resources of more than 64 kB go on in the next segment.
            resources += found.keep(piece[len(_PHOTOSHOP_HEAD) :])
        elif marker == 0xFE:
            found.add_text(b"", piece)
        elif marker == 0xDB:
            _add_tables(found.tables, piece)
    found.iptc += _find_photoshop_iptc(bytes(resources))
    if xmp_extensions:
        found.xmp.append(b"".join(piece for _, piece in sorted(xmp_extensions, key=lambda part: part[0])))
    if any(box[16:20] == b"c2pa" for box in boxes.values()):
        for box in boxes.values():
            found.add_manifest(box)
    return found


def _walk_jpeg_segments(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield marker and content of each segment before the first scan."""
    at = 2
    for _ in range(_MAX_PARTS):
        if at + 4 > len(view) or view[at] != 0xFF:
            return
        marker = view[at + 1]
        if marker in (0xDA, 0xD9):
            return
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no content; 0xFF is a fill byte
            at += 1 if marker == 0xFF else 2
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


def _find_photoshop_iptc(block: bytes) -> bytes:
    """Return the IPTC records among Photoshop's image resources; empty without them."""
    at = 0
    while block[at : at + 4] == b"8BIM":
        kind = block[at + 4 : at + 6]
        # A name, padded to an even length.
        at += 6 + (block[at + 6] + 2) // 2 * 2 if at + 6 < len(block) else len(block)
        length = int.from_bytes(block[at : at + 4], "big")
        if kind == b"\x04\x04":
            return block[at + 4 : at + 4 + length]
        at += 4 + (length + 1) // 2 * 2
    return b""


def _read_png(view: memoryview) -> Metadata:
    found = Metadata("PNG")
    at = 8
    while at + 8 <= len(view) and found.parts < _MAX_PARTS:
        found.parts += 1
        length = int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        piece = view[at + 8 : at + 8 + length]
        at += 12 + length
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _add_png_text(found, kind, piece)
        elif kind == b"eXIf":
            found.add_profile(piece)
        elif kind == b"caBX":
            found.add_manifest(piece)
    return found


def _add_png_text(found: Metadata, kind: bytes, piece: memoryview) -> None:
    head = bytes(piece[:512])
    key, end, _ = head.partition(b"\0")
    if not end or len(key) > 79:
        return
    compressed = kind == b"zTXt"
    start = len(key) + (2 if compressed else 1)  # zTXt has a byte for the compression method; only one exists
    if kind == b"iTXt":
        compressed = head[start : start + 1] == b"\1"
        language_end = head.find(b"\0", start + 2)
        translated_end = head.find(b"\0", language_end + 1)
        if language_end < 0 or translated_end < 0:
            return
        start = translated_end + 1
    if key.lower().startswith(_RAW_PROFILE_KEY):
        profile = _RAW_PROFILE.match(_unpack(found, piece[start:]) if compressed else piece[start:][:_MAX_XMP])
        if profile:
            digits = profile[1].translate(None, b" \t\r\n\v\f")
            found.add_profile(bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii")))
    elif key == b"XML:com.adobe.xmp":
        text = _unpack(found, piece[start:]) if compressed else piece[start:]
        found.xmp.append(found.keep(text, _MAX_XMP))
    else:
        found.add_text(key, _unpack(found, piece[start:], _MAX_TAIL) if compressed else piece[start:])


def _unpack(found: Metadata, piece: memoryview, tail_bytes: int = 0) -> bytes:
    """Return a compressed text: at most the first _MAX_XMP bytes, and the last `tail_bytes` of a longer one.

    Of a damaged stream, what comes before the damage; nothing once the file's texts are longer than all may be.
    Unpacks no more than that, so that a small file can't take long.
    """
    head, tail = bytearray(), bytearray()
    most = min(_MAX_UNPACKED if tail_bytes else _MAX_XMP, _MAX_ALL_UNPACKED - found.unpacked)
    header = int.from_bytes(piece[:2], "big")
    if header % 31 or header >> 8 & 15 != 8:  # no zlib stream
        return b""
    # Without its header and checksum: a text with a wrong checksum is a text still.
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    with contextlib.suppress(zlib.error):
        for at in range(2, len(piece), _STEP):
            data, is_full = bytes(piece[at : at + _STEP]), True
            while (data or is_full) and not unpacker.eof and most > 0:
                part = unpacker.decompress(data, _STEP)
                data, is_full = unpacker.unconsumed_tail, len(part) == _STEP
                found.unpacked += len(part)
                most -= len(part)
                room = _MAX_XMP - len(head)
                head += part[:room]
                tail += part[room:]
                del tail[: -tail_bytes or None]
    return bytes(head + tail)


def _decode_text(text: bytes, is_cut: bool) -> str:
    """Decode UTF-8, which generators write even where the standard says Latin-1, else Latin-1."""
    try:
        # The first and the last character of a cut text may be incomplete.
        whole = text.lstrip(_CONTINUATION) if is_cut else text
        return codecs.getincrementaldecoder("utf-8")().decode(whole, final=not is_cut)
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _read_webp(view: memoryview) -> Metadata:
    found = Metadata("WEBP")
    at = 12
    while at + 8 <= len(view) and found.parts < _MAX_PARTS:
        found.parts += 1
        kind = bytes(view[at : at + 4])
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        piece = view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
        if kind == b"EXIF":
            found.add_profile(piece)
        elif kind == b"XMP ":
            found.xmp.append(found.keep(piece, _MAX_XMP))
        elif kind == b"C2PA":
            found.add_manifest(piece)
    return found


def _read_gif(view: memoryview) -> Metadata:
    found = Metadata("GIF")
    at = 13
    if len(view) < at:
        return found
    at += _palette_bytes(view[10])
    while found.parts < _MAX_BLOCKS and at + 10 < len(view) and view[at] in (0x21, 0x2C):
        # A frame: its position, an optional palette, a code size, its pixels. An extension: its kind, its blocks.
        is_frame = view[at] == 0x2C
        kind, start = view[at + 1], at + (11 + _palette_bytes(view[at + 9]) if is_frame else 2)
        name = bytes(view[start + 1 : start + 12])
        at, blocks = _skip_blocks(view, start, _MAX_BLOCKS - found.parts)
        found.parts += 1 + blocks
        if is_frame:
            continue
        if kind == 0xFE:
            found.add_text(b"", _join_blocks(view, start, at))
        elif kind == 0xFF and name == b"XMP DataXMP":
            # Stored raw, not in blocks, followed by 258 bytes that make a block reader skip to the end.
            found.xmp.append(found.keep(view[start + 12 : max(at - 258, start + 12)], _MAX_XMP))
        elif kind == 0xFF and name[:8] == b"C2PA_GIF":
            found.add_manifest(_join_blocks(view, start + 12, at))
    return found


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(view: memoryview, at: int, max_blocks: int) -> tuple[int, int]:
    """Return the offset after the sub-blocks (up to 255 bytes each) that start here, and their number."""
    for blocks in range(max_blocks):
        if at >= len(view) or not view[at]:
            return at + 1, blocks
        at += 1 + view[at]
    return at, max_blocks


def _join_blocks(view: memoryview, at: int, end: int) -> bytes:
    joined = bytearray()
    end = min(end, len(view))  # of a file that ends within a block, `end` lies behind it
    while at < end and view[at] and len(joined) <= MAX_MANIFEST:
        joined += view[at + 1 : at + 1 + view[at]]
        at += 1 + view[at]
    return bytes(joined)


def _read_tiff(view: memoryview) -> Metadata:
    found = Metadata("TIFF", exif=[view])
    values = read_tiff_values(view)
    for tag in (700, 33723, 34377):  # XMP, IPTC, Photoshop's resources
        found.add_profile(values.get(tag, b""))
    found.add_manifest(values.get(52545, b""))
    return found
