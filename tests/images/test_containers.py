"""Files taken apart: no metadata, however odd, refuses or changes pixels that decode; half a file stays refused."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mai_app.errors import ImageError
from mai_app.images.containers import take_apart
from mai_app.images.decode import Pixels, decode

ORIENTATION = 0x0112
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
)

Entry = tuple[int, int, bytes]
"""An EXIF entry: tag, type and value."""


def tiff(entries: Sequence[Entry], order: str = "<", after: bytes = b"", data: bytes = b"") -> bytes:
    """A TIFF structure by hand: a directory of these entries in this order, and their values behind it."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8)
    at = 8 + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(order + "H", len(entries)), b""
    for tag, kind, value in entries:
        field = value
        if len(value) > 4:
            field = struct.pack(order + "L", at + len(values))
            values += value + b"\0" * (len(value) % 2)
        count = len(value) // SIZES.get(kind, 1)
        directory += struct.pack(order + "HHL", tag, kind, count) + field.ljust(4, b"\0")
    return head + directory + (after or bytes(4)) + values + data


def upright(orientation: int, order: str = "<") -> Entry:
    return (ORIENTATION, 3, struct.pack(order + "H", orientation))


def saved(form: str = "JPEG", pixels: Pixels = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", crc)


def with_chunks(png: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    """A PNG with further chunks behind its head, or before its end."""
    at = len(png) - 12 if at_end else 33
    return png[:at] + b"".join(chunks) + png[at:]


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", 2 + len(body)) + body + jpeg[2:]


def in_jpeg(block: bytes) -> bytes:
    return with_segment(saved(quality=90), 0xE1, b"Exif\0\0" + block)


def in_png(block: bytes) -> bytes:
    return with_chunks(saved("PNG"), chunk(b"eXIf", block))


def in_webp(block: bytes) -> bytes:
    # Pillow makes a container of it; the block is put there as it is.
    return saved("WEBP", lossless=True, exif=block)


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"JPEG": in_jpeg, "PNG": in_png, "WebP": in_webp}
ODD: dict[str, Entry] = {
    "resolution is text": (0x011A, 2, b"72 dots\0"),
    "resolution is one number": (0x011A, 3, b"\x48\0"),
    "resolution over zero": (0x011A, 5, bytes(8)),
    "resolution is empty": (0x011A, 5, b""),
    "resolution unit is a byte": (0x0128, 1, b"\2"),
    "resolution unit is text": (0x0128, 2, b"inch\0"),
    "YCbCr positioning is a byte": (0x0213, 1, b"\1"),
    "XMP is text": (0x02BC, 2, b"<x:xmpmeta/>\0"),
    "XMP is numbers": (0x02BC, 3, b"12345678"),
    "GPS is text": (0x8825, 2, b"north of here\0"),
    "GPS is nowhere": (0x8825, 4, b"\xff\xff\xff\xff"),
    "EXIF is a fraction": (0x8769, 10, bytes(8)),
    "EXIF is itself": (0x8769, 4, struct.pack("<L", 8)),
    "a type that does not exist": (0x9999, 99, b"1234"),
    "a date that is no text": (0x0132, 12, b"\xff" * 8),
}


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", CONTAINERS)
def test_an_odd_entry_beside_the_orientation_changes_nothing(container: str, orientation: int) -> None:
    whole = decode(CONTAINERS[container](tiff([upright(orientation)])), "a")
    assert whole.orientation == orientation
    assert whole.pixels.shape[:2] == ((48, 64) if orientation < 5 else (64, 48))
    for what, entry in ODD.items():
        for entries in ([upright(orientation), entry], [entry, upright(orientation)]):
            found = decode(CONTAINERS[container](tiff(entries)), "a")
            assert np.array_equal(found.pixels, whole.pixels), what
            assert (found.orientation, found.notes) == (orientation, ()), what


def test_an_entry_before_the_orientation_whose_value_lies_nowhere_does_not_hide_it() -> None:
    block = bytearray(tiff([(0x010F, 2, b"a maker\0"), upright(6)]))
    block[18:22] = b"\xff\xff\xff\x7f"  # where the maker's name would be
    assert decode(in_jpeg(bytes(block)), "a").orientation == 6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "letter"), [(1, "B"), (3, "H"), (4, "L"), (8, "h"), (9, "l")])
def test_an_orientation_is_read_from_any_whole_number(order: str, kind: int, letter: str) -> None:
    block = tiff([(ORIENTATION, kind, struct.pack(order + letter, 8))], order)
    assert decode(in_jpeg(block), "a").orientation == 8


@pytest.mark.parametrize("value", [b"6\0", b""])
def test_an_orientation_that_is_no_number_turns_nothing(value: bytes) -> None:
    assert decode(in_jpeg(tiff([(ORIENTATION, 2, value)])), "a").orientation == 1


@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"none", bytes(70)]
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_block_that_is_broken_turns_nothing(container: str, block: bytes) -> None:
    found = decode(CONTAINERS[container](block), "a")
    assert np.array_equal(found.pixels, decode(CONTAINERS[container](tiff([])), "a").pixels)
    assert found.orientation == 1


entries_of_any_kind = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([entry[0] for entry in ODD.values()]), st.integers(0, 0xFFFF)).filter(
            lambda tag: tag != ORIENTATION
        ),
        st.one_of(st.sampled_from(sorted(SIZES)), st.integers(0, 0xFFFF)),
        st.binary(max_size=40),
    ),
    max_size=8,
)


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    entries=entries_of_any_kind,
    orientation=st.integers(1, 8),
    place=st.floats(0, 1),
    order=st.sampled_from("<>"),
    after=st.binary(min_size=4, max_size=4),
)
def test_random_exif_leaves_the_pixels_as_they_are(
    container: str, entries: list[Entry], orientation: int, place: float, order: str, after: bytes
) -> None:
    plain = decode(CONTAINERS[container](tiff([upright(orientation)])), "a")
    entries.insert(int(place * len(entries)), upright(orientation, order))
    found = decode(CONTAINERS[container](tiff(entries, order, after)), "a")
    assert np.array_equal(found.pixels, plain.pixels)
    assert (found.orientation, found.notes) == (orientation, ())


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(block=st.binary(max_size=200), head=st.sampled_from((b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"Exif\0\0")))
def test_random_bytes_for_exif_refuse_nothing(block: bytes, head: bytes) -> None:
    found = decode(in_jpeg(head + block), "a")
    assert sorted(found.pixels.shape) == [3, 48, 64]


def test_two_blocks_of_exif_are_one() -> None:
    block = tiff([(0x010F, 2, bytes(60)), upright(3)])
    cut = with_segment(saved(quality=90), 0xE1, b"Exif\0\0" + block[40:])
    assert decode(with_segment(cut, 0xE1, b"Exif\0\0" + block[:40]), "a").orientation == 3


# JPEG


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE0, b"JFIF"),
        (0xE0, b"JFIF\0\1"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<no XML"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1\2" + bytes(100)),
        (0xE2, b"MPF\0" + tiff([(0xB001, 4, b"\2\0\0\0"), (0xB002, 7, bytes(32))])),
        (0xE2, b"MPF\0II*\0garbage"),
        (0xED, b"Photoshop 3.0\0008BIM\3\xed\0\0\0\0\0\4abcd"),
        (0xED, b"Photoshop 3.0\0008BIM"),
        (0xEE, b"Adobe"),
        (0xEE, b"Adobe\0"),
        (0xFE, b"\xff\xd9 a comment"),
    ],
)
def test_a_broken_segment_beside_the_pixels_is_no_matter(marker: int, body: bytes) -> None:
    found = decode(with_segment(saved(quality=90), marker, body), "a")
    assert np.array_equal(found.pixels, decode(saved(quality=90), "a").pixels)
    assert (found.format, found.notes) == ("JPEG", ())


def test_what_says_how_colours_are_stored_is_kept() -> None:
    data = saved(quality=95, keep_rgb=True, subsampling=0)
    assert int(np.abs(decode(data, "a").pixels.astype(int) - PICTURE).mean()) < 4
    assert decode(saved(quality=95), "a").jpeg_sampling == "4:2:0"


KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
    "full colour": {"subsampling": 0, "quality": 98},
}


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lacks_its_end_alone_is_judged(kind: str, grey: bool) -> None:
    whole = saved(pixels=PICTURE[:, :, 0] if grey else PICTURE, **KINDS[kind])
    expected = decode(whole, "a")
    assert expected.notes == ()
    for data in (whole[:-2], whole[:-1], whole[:-2] + bytes(1), whole[:-2] + bytes(5000), whole[:-1] + bytes(64)):
        found = decode(data, "a")
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.notes == ("the file's end is missing, its pixels are whole",)
        assert (found.jpeg_quality, found.jpeg_sampling) == (expected.jpeg_quality, expected.jpeg_sampling)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lacks_pixels_is_refused(kind: str, grey: bool) -> None:
    whole = saved(pixels=PICTURE[:, :, 0] if grey else PICTURE, **KINDS[kind])
    for data in (whole[: len(whole) * share // 100] for share in range(20, 99, 3)):
        for padded in (data, data + bytes(1000)):
            with pytest.raises(ImageError, match=r"^a: is damaged or truncated"):
                decode(padded, "a")


def test_a_jpeg_that_lacks_a_scan_is_refused() -> None:
    whole = saved(progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        with pytest.raises(ImageError, match="truncated"):
            decode(whole[:at], "a")


# PNG


LONG = b"a" * 1_500_000


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
        (b"tEXt", b"Comment\0" + LONG),
        (b"iCCP", b"profile\0\0" + zlib.compress(LONG)),
        (b"iCCP", b"profile\0\7"),
        (b"iCCP", b""),
        (b"zTXt", b"Comment\0\7abc"),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 3\nnot hexadecimal")),
        (b"tEXt", b"Raw profile type exif\0\n"),
        (b"gAMA", b""),
        (b"cHRM", b"12"),
        (b"pHYs", b"12"),
        (b"sRGB", b""),
        (b"tRNS", b""),
        (b"tRNS", b"1"),
        (b"acTL", b""),
        (b"fcTL", bytes(26)),
        (b"fcTL", b"\0\0\0\7"),
        (b"fdAT", b"\0"),
        (b"eXIf", b"II*\0"),
        (b"quTe", bytes(30)),
    ],
)
def test_a_large_or_broken_chunk_without_pixels_is_no_matter(kind: bytes, body: bytes, at_end: bool) -> None:
    for crc in (None, 12345):
        found = decode(with_chunks(saved("PNG"), chunk(kind, body, crc), at_end=at_end), "a")
        assert np.array_equal(found.pixels, PICTURE)
        assert found.notes == ()


def test_a_palette_is_no_matter_where_pixels_are_none_of_it() -> None:
    for body, crc in ((bytes(9), None), (bytes(9), 12345), (bytes(8), None), (bytes(900), None)):
        found = decode(with_chunks(saved("PNG"), chunk(b"PLTE", body, crc)), "a")
        assert np.array_equal(found.pixels, PICTURE)
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).quantize(16).save(buffer, "PNG")
    indexed = buffer.getvalue()
    at = indexed.index(b"PLTE") + 4 + 3 * 16
    with pytest.raises(ImageError):
        decode(indexed[:at] + b"!!!!" + indexed[at + 4 :], "a")


def test_a_file_that_ends_in_a_text_is_whole() -> None:
    whole = with_chunks(saved("PNG"), chunk(b"tEXt", b"Comment\0" + bytes(500)), at_end=True)
    assert np.array_equal(decode(whole[:-200], "a").pixels, PICTURE)
    with pytest.raises(ImageError, match="truncated"):
        decode(saved("PNG")[:-200], "a")


def test_a_text_between_the_pixels_does_not_end_them() -> None:
    data = saved("PNG")
    length = struct.unpack(">L", data[33:37])[0]
    body = data[41 : 41 + length]
    parts = (chunk(b"IDAT", body[:50]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", body[50:]))
    split = data[:33] + b"".join(parts) + chunk(b"IEND", b"")
    assert np.array_equal(decode(split, "a").pixels, PICTURE)


def test_a_checksum_counts_where_the_chunk_holds_what_is_seen() -> None:
    clear = chunk(b"tRNS", struct.pack(">3H", *PICTURE[0, 0]))
    seen = decode(with_chunks(saved("PNG"), clear), "a").pixels
    assert seen[0, 0].tolist() == [255, 255, 255]
    # What a reader of PNG does: transparency with a wrong checksum is left out.
    assert np.array_equal(decode(with_chunks(saved("PNG"), clear[:-1] + b"!"), "a").pixels, PICTURE)
    with pytest.raises(ImageError):
        decode(saved("PNG")[:30] + b"!!!" + saved("PNG")[33:], "a")


ANCILLARY = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"hIST", b"pHYs")
names = st.one_of(
    st.sampled_from((*ANCILLARY, b"sPLT", b"tIME", b"acTL", b"fcTL", b"fdAT", b"caBX", b"cICP")),
    st.builds(lambda text: text.encode("ascii"), st.from_regex(r"[a-z][A-Za-z]{3}", fullmatch=True)),
).filter(lambda kind: kind != b"tRNS")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    chunks=st.lists(
        st.tuples(names, st.binary(max_size=60), st.one_of(st.none(), st.integers(0, 2**32 - 1))), max_size=5
    ),
    at_end=st.booleans(),
)
def test_random_chunks_without_pixels_leave_the_pixels_as_they_are(
    chunks: list[tuple[bytes, bytes, int | None]], at_end: bool
) -> None:
    made = [chunk(*one) for one in chunks]
    assert np.array_equal(decode(with_chunks(saved("PNG"), *made, at_end=at_end), "a").pixels, PICTURE)


@pytest.mark.parametrize("packed", [False, True])
def test_a_png_is_turned_by_every_text_that_names_its_orientation(packed: bool) -> None:
    block = b"Exif\0\0" + tiff([upright(6)])
    profile = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    xmp = b"<rdf:Description tiff:Orientation='6'/>"
    body = zlib.compress(profile) if packed else profile
    kind, method = (b"zTXt", b"\0") if packed else (b"tEXt", b"")
    texts = [chunk(kind, b"Raw profile type " + name + b"\0" + method + body) for name in (b"exif", b"APP1")]
    packet = zlib.compress(xmp) if packed else xmp
    texts.append(chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes((packed, 0)) + b"\0\0" + packet))
    expected = decode(in_png(tiff([upright(6)])), "a").pixels
    for text in texts:
        for at_end in (False, True):
            found = decode(with_chunks(saved("PNG"), text, at_end=at_end), "a")
            assert (found.orientation, found.pixels.shape) == (6, (64, 48, 3))
            assert np.array_equal(found.pixels, expected)


# WebP


def test_a_webp_that_ends_in_its_metadata_is_whole() -> None:
    whole = saved("WEBP", lossless=True, exif=tiff([upright(6), (0x010F, 2, bytes(300))]), xmp=bytes(300))
    expected = decode(whole, "a")
    assert expected.orientation == 6
    for missing in (10, 200, 400):
        assert np.array_equal(decode(whole[:-missing], "a").pixels, expected.pixels)
    with pytest.raises(ImageError, match="damaged"):
        decode(saved("WEBP", lossless=True)[:-30], "a")


# TIFF


def tiff_picture(*extra: Entry, order: str = "<", pixels: Pixels = PICTURE, bits: int = 8, body: bytes = b"") -> bytes:
    """An uncompressed TIFF by hand with further entries, which replace its own of the same tag."""
    height, width = pixels.shape[:2]
    planes = pixels.shape[2] if pixels.ndim == 3 else 1
    number = struct.Struct(order + "L").pack
    entries = {
        256: (256, 4, number(width)),
        257: (257, 4, number(height)),
        258: (258, 3, struct.pack(order + "H", bits) * planes),
        259: (259, 3, struct.pack(order + "H", 1)),
        262: (262, 3, struct.pack(order + "H", 2 if planes > 2 else 1)),
        273: (273, 4, number(0)),
        277: (277, 3, struct.pack(order + "H", planes)),
        278: (278, 4, number(height)),
        279: (279, 4, number(0)),
    } | {entry[0]: entry for entry in extra}
    data = body or pixels.tobytes()
    ordered = [entries[tag] for tag in sorted(entries)]
    at = len(tiff(ordered, order))
    entries[273], entries[279] = (273, 4, number(at)), (279, 4, number(len(data)))
    return tiff([entries[tag] for tag in sorted(entries)], order, data=data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_says_its_orientation(orientation: int) -> None:
    for order in "<>":
        found = decode(tiff_picture(upright(orientation, order), order=order), "a")
        expected = decode(in_png(tiff([upright(orientation)])), "a")
        assert (found.format, found.orientation) == ("TIFF", orientation)
        assert np.array_equal(found.pixels, expected.pixels)


@pytest.mark.parametrize("what", ODD)
def test_a_tiff_with_an_odd_entry_is_as_without(what: str) -> None:
    tag, kind, value = ODD[what]
    found = decode(tiff_picture(upright(6), (tag, kind, value)), "a")
    assert np.array_equal(found.pixels, decode(tiff_picture(upright(6)), "a").pixels)
    assert found.orientation == 6


def test_a_tiffs_description_that_lies_nowhere_is_no_matter() -> None:
    data = bytearray(tiff_picture((270, 2, b"a description\0")))
    at = data.index(struct.pack("<HH", 270, 2)) + 8
    data[at : at + 4] = b"\xff\xff\xff\x7f"
    assert np.array_equal(decode(bytes(data), "a").pixels, PICTURE)


def test_pages_are_counted_and_a_broken_one_is_no_matter() -> None:
    data = bytearray(saved("TIFF", save_all=True, append_images=[Image.fromarray(PICTURE)] * 2))
    assert decode(bytes(data), "a").notes == ("first of 3 frames",)
    page = tiff_picture()
    at = 8 + 2 + 12 * 9
    for after in (b"\xff\xff\xff\x7f", struct.pack("<L", 8)):
        found = decode(page[:at] + after + page[at + 4 :], "a")
        assert np.array_equal(found.pixels, PICTURE)
        assert found.notes == ()


def packed(levels: np.ndarray[Any, np.dtype[np.integer[Any]]], bits: int) -> bytes:
    """Grey levels row by row, each level in so many bits, each row in whole bytes."""
    rows = []
    for row in levels:
        text = "".join(f"{level:0{bits}b}" for level in row.tolist())
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def test_grey_of_12_bits_is_its_high_byte() -> None:
    grey = PICTURE[:, :, 0]
    levels = grey.astype(np.int64) * 16 + 11
    found = decode(tiff_picture(pixels=grey, bits=12, body=packed(levels, 12)), "a").pixels
    assert np.array_equal(found, np.stack([grey] * 3, axis=2))


def test_grey_of_16_bits_whose_zero_is_white_is_turned_round() -> None:
    grey = PICTURE[:, :, 0]
    body = (65535 - grey.astype(np.uint16) * 257).tobytes()
    found = decode(tiff_picture((262, 3, b"\0\0"), pixels=grey, bits=16, body=body), "a").pixels
    assert np.array_equal(found, np.stack([grey] * 3, axis=2))


FLOAT = (339, 3, b"\3\0" * 3)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (tiff_picture(FLOAT, bits=32, body=bytes(48 * 64 * 12)), "floating-point pixels, whose white is undefined"),
        (tiff_picture(FLOAT, bits=16, body=bytes(48 * 64 * 6)), "floating-point pixels, whose white is undefined"),
        (
            tiff_picture((338, 3, b"\2\0"), pixels=PICTURE[:, :, :2], bits=16, body=bytes(48 * 64 * 4)),
            "16-bit grey pixels with transparency",
        ),
        (tiff_picture(pixels=PICTURE[:, :, 0], bits=14, body=bytes(48 * 64 * 2)), "14-bit grey pixels"),
        (tiff_picture((259, 3, b"\x98\x87")), "a compression that MAI does not read (number 34712)"),
        (tiff([(300, 3, b"\1\0")]), "a TIFF whose head is damaged"),
    ],
    ids=["float RGB", "half RGB", "16-bit grey with alpha", "14 bits", "JPEG 2000 inside", "no size"],
)
def test_a_tiff_of_pixels_that_are_not_read_is_refused_in_words(file: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(file, "scan.tif")
    assert words in caught.value.reason
    assert "save it" in caught.value.reason or "get the original" in caught.value.reason


def test_a_jpeg_of_12_bits_is_refused_in_words() -> None:
    data = bytearray(saved())
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="a JPEG of 3 planes of 12 bits, which MAI does not read"):
        decode(bytes(data), "a")


def test_hostile_directories_take_no_time() -> None:
    # A directory of 65,535 entries, and pages whose directories lie in one another.
    many = struct.pack("<H", 65535) + bytes(12 * 65535)
    assert take_apart(b"II*\0\x08\0\0\0" + many).orientation == 1
    chain = b"II*\0\x08\0\0\0" + b"".join(
        struct.pack("<HHHLLL", 1, 256, 3, 1, 1, 8 + 18 * (i + 1)) for i in range(20_000)
    )
    assert take_apart(chain).frames == 10_000


# Camera RAW


def raw(make: bytes, *extra: Entry, order: str = "<", tag: int = 262, value: int = 32803) -> bytes:
    """A small preview in RGB, and behind it a directory of the sensor's own pixels, as most makers write it."""
    number = struct.Struct(order + "L").pack
    more = [(271, 2, make + b"\0"), *extra]
    preview = tiff_picture(*more, (330, 4, number(0)), order=order)
    sensor = struct.pack(order + "HHHLL", 1, tag, 3, 1, 0)[:-4]
    sensor += struct.pack(order + "H", value) + bytes(6)
    return tiff_picture(*more, (330, 4, number(len(preview))), order=order) + sensor


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (raw(b"NIKON CORPORATION"), "NEF"),
        (raw(b"NIKON CORPORATION", order=">"), "NEF"),
        (raw(b"SONY"), "ARW"),
        (raw(b"PENTAX Corporation", order=">"), "PEF"),
        (raw(b"SAMSUNG"), "SRW"),
        (raw(b"Hasselblad"), "of an unknown maker"),
        (raw(b"Adobe", (50706, 1, b"\1\4\0\0")), "DNG"),
        (raw(b"Apple", value=34892), "of an unknown maker"),
        (raw(b"SONY", tag=259, value=32767), "ARW"),
        (raw(b"NIKON CORPORATION", tag=259, value=34713), "NEF"),
        (raw(b"SAMSUNG", tag=259, value=32770), "SRW"),
        (raw(b"PENTAX", tag=259, value=65535), "PEF"),
        (tiff_picture((50706, 1, b"\1\4\0\0")), "DNG"),
        (tiff_picture((262, 3, b"\x23\x80"), pixels=PICTURE[:, :, 0]), "of an unknown maker"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "CR2"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(64), "CR3"),
        (b"II\x1a\0\0\0HEAPCCDR" + bytes(64), "CRW"),
        (b"IIRO\x08\0\0\0" + bytes(64), "ORF"),
        (b"IIU\0\x18\0\0\0" + bytes(64), "RW2"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(64), "RAF"),
        (b"FOVb" + bytes(64), "X3F"),
        (b"II*\0\x20\0\0\0IIII\0waR" + bytes(64), "IIQ"),
    ],
)
def test_camera_raw_is_named_and_refused(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, "a")
    assert caught.value.reason.startswith(f"is camera RAW ({kind})")
    assert "develop it" in caught.value.reason


def test_a_tiff_with_a_camera_raws_name_is_one() -> None:
    for name, kind in (("DSC_1.NEF", "NEF"), ("folder/a.3fr", "3FR"), ("a.ARQ", "ARQ"), ("a.ptx", "PTX")):
        with pytest.raises(ImageError, match=rf"camera RAW \({kind}\)"):
            decode(tiff_picture(), name)
    assert np.array_equal(decode(saved("PNG"), "a.nef").pixels, PICTURE)
    assert np.array_equal(decode(tiff_picture((271, 2, b"NIKON CORPORATION\0")), "a.tif").pixels, PICTURE)
    # Grey pixels in place of the sign that Phase One's files have after their head.
    grey = Image.new("L", (8, 8), ord("I"))
    buffer = io.BytesIO()
    grey.save(buffer, "TIFF", compression="packbits")
    assert decode(buffer.getvalue(), "a").pixels.shape == (8, 8, 3)
