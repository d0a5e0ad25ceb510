"""Files that are made to hurt: bombs, circles, depths, damage. Memory is measured, and nothing is ever raised."""

import contextlib
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mai_app.evidence import containers, xmp
from mai_app.evidence.containers import MAX_KEPT, read_metadata
from mai_app.evidence.read import MAX_STATEMENTS, read_evidence
from mai_app.evidence.statements import Evidence
from mai_app.evidence.tiff import read_exif_texts
from mai_app.evidence.xmp import read_xmp_properties
from tests.evidence.files import chunk, png_with, saved, signed, with_exif, with_texts, xmp_packet

MIB = 2**20
SETTINGS_TEXT = b"a cat\nSteps: 20, Sampler: Euler a, Seed: 7, Size: 512x512"


def peak(data: bytes) -> tuple[tuple[Evidence, ...], float]:
    """What is said of a file, and how many MiB it took at most beyond the file."""
    tracemalloc.start()
    try:
        said = read_evidence(data)
        return said, tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def bomb(size: int) -> bytes:
    """A zlib stream of that many MiB of blanks: one MiB's blocks, again and again, for they end at a whole byte."""
    packer = zlib.compressobj(9)
    head = packer.compress(SETTINGS_TEXT) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * size


def test_the_bomb_is_one() -> None:
    unpacker = zlib.decompressobj()
    assert len(unpacker.decompress(bomb(1024), 3 * MIB)) == 3 * MIB
    assert len(bomb(1024)) < 2 * MIB
    assert sum(len(zlib.decompressobj().decompress(bomb(n))) for n in (1, 2)) > 3 * MIB


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (b"zTXt", b"parameters\0\0"),
        (b"iTXt", b"parameters\0\1\0\0\0"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"),
    ],
)
def test_a_bomb_of_a_gigabyte(kind: bytes, key: bytes) -> None:
    said, used = peak(png_with(chunk(kind, key + bomb(1024))))
    assert used < 12
    assert [one.points_to for one in said] == ([] if b"XML" in key else ["synthetic"])


def test_many_bombs() -> None:
    data = png_with(*[chunk(b"zTXt", b"parameters\0\0" + bomb(64))] * 200)
    metadata = read_metadata(data)
    assert metadata.kept == sum(len(text) for _, text in metadata.texts) == MAX_KEPT
    assert peak(data)[1] < 20


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (b"tEXt", b"parameters\0"),
        (b"iTXt", b"parameters\0\0\0\0\0"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0"),
        (b"eXIf", b"II*\0"),
    ],
)
def test_chunks_of_50_megabytes(kind: bytes, key: bytes) -> None:
    data = png_with(chunk(kind, key + SETTINGS_TEXT + b" " * 50_000_000))
    said, used = peak(data)
    assert used < 12
    assert len(said) == (b"parameters" in key)


def test_a_text_that_is_cut_within_a_character() -> None:
    text = SETTINGS_TEXT + "é".encode() * MIB
    for shift in (b"", b"x"):
        (one,) = read_evidence(png_with(chunk(b"tEXt", b"parameters\0" + shift + text)))
        assert dict(one.fields)["parameters"].endswith("éé…")


def test_thousands_of_chunks() -> None:
    metadata = read_metadata(png_with(*[chunk(b"tEXt", b"parameters\0" + SETTINGS_TEXT)] * 20_000))
    assert len(metadata.texts) == 256
    said, used = peak(png_with(*[chunk(b"tEXt", b"Software\0no %d" % i) for i in range(20_000)]))
    assert len(said) == MAX_STATEMENTS
    assert used < 12


def test_no_more_parts_are_walked_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_MAX_PARTS", 1_000)
    monkeypatch.setattr(containers, "_MAX_BLOCKS", 1_000)
    plain = {form: saved(form) for form in ("JPEG", "WEBP", "GIF")}
    gif = plain["GIF"]
    for data in (
        png_with(*[chunk(b"teSt", b"")] * 5_000),
        plain["JPEG"][:2] + b"\xff\xfe\0\2" * 5_000 + plain["JPEG"][2:],
        plain["WEBP"] + b"teSt\0\0\0\0" * 5_000,
        gif[:-1] + b"\x21\xfe" + b"\x01a" * 5_000 + b"\0" + gif[-1:],
        gif[:-1] + b"\x21\xfe\x01a\0" * 5_000 + gif[-1:],
    ):
        assert 990 <= read_metadata(data).parts <= 1_001
    # Bytes that only fill a JPEG are no segments, but there is an end to them too.
    late = plain["JPEG"][:2] + b"\xff" * 5_000 + b"\xfe\0\x0aMidjourney" + plain["JPEG"][2:]
    assert read_metadata(late).texts == []


def test_the_largest_jpeg_head() -> None:
    piece = b"http://ns.adobe.com/xap/1.0/\0" + b"<a>" + b" " * 65_000
    more = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + b" " * 65_000
    boxes = b"JP\0\1\0\0\0\1\0\0\0\1jumb\0\0\0\1jumdc2pa" + bytes(65_000)
    plain = saved("JPEG")
    head = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in ((0xE1, piece), (0xE1, more), (0xEB, boxes), (0xFE, b"x" * 65_000))
    )
    said, used = peak(plain[:2] + head * 600 + plain[2:])
    assert used < 32
    assert [one.source for one in said] == ["Content Credentials", "JPEG tables"]


def test_raw_profiles_take_no_time() -> None:
    key = b"Raw profile type exif\0"
    for data in (
        png_with(chunk(b"tEXt", key + b"\n" * 3_000_000)),
        png_with(chunk(b"tEXt", key + b"\nexif\n" + b" " * 3_000_000)),
        png_with(chunk(b"tEXt", key + b"\nexif\n 9\n" + b"0 " * 5_000_000)),
        png_with(*[chunk(b"zTXt", key + b"\0" + zlib.compress(b"\nexif\n 9\n" + b"4 " * MIB))] * 2_000),
        png_with(*[chunk(b"tEXt", key + b"\niptc\n 30\n" + b"1c026e0019" + b"41" * 25)] * 90_000),
        png_with(*[chunk(b"tEXt", key + b"\nexif\n 8\n49492a0008000000")] * 90_000),
    ):
        before = time.process_time()
        assert read_evidence(data) == ()
        assert time.process_time() - before < 3
    assert peak(png_with(chunk(b"zTXt", key + b"\0" + bomb(1024))))[1] < 12


# XML


def test_a_packet_of_a_hundred_thousand_levels() -> None:
    packet = xmp_packet("<a>" * 100_000 + "</a>" * 100_000)
    data = png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    said, used = peak(data)
    assert said == ()
    assert used < 8
    levels = xmp._MAX_DEPTH - 4  # those around it, and its own
    tool = "<xmp:CreatorTool>x</xmp:CreatorTool>"
    assert read_xmp_properties(xmp_packet("<a>" * levels + tool + "</a>" * levels)) == [("xmp:CreatorTool", "x")]
    assert read_xmp_properties(xmp_packet("<a>" * (levels + 1) + tool + "</a>" * (levels + 1))) == []


def test_entities_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("told")
    laughs = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    for entities, use in (
        (laughs, "&a9;"),
        (f'<!ENTITY x SYSTEM "{secret.as_uri()}">', "&x;"),
        ('<!ENTITY x "ha">', "&x;"),
        ('<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;', "ha"),
        ("", "ha"),
    ):
        packet = xmp_packet(f"<xmp:CreatorTool>Midjourney {use}</xmp:CreatorTool>")
        packet = packet.replace(b"<x:xmpmeta", f"<!DOCTYPE x [{entities}]><x:xmpmeta".encode(), 1)
        assert read_xmp_properties(packet) == []
        assert read_evidence(saved("PNG")[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)) == ()
    # Without a declaration it is only damaged, and what stands before is kept.
    packet = xmp_packet("<xmp:CreatorTool>Midjourney</xmp:CreatorTool><xmp:Label>&a9;</xmp:Label>")
    assert read_xmp_properties(packet) == [("xmp:CreatorTool", "Midjourney")]


def test_packets_without_end() -> None:
    many = xmp_packet("<xmp:CreatorTool>%d</xmp:CreatorTool>" * 60_000 % tuple(range(60_000)))
    assert len(read_xmp_properties(many)) == 500
    wide = xmp_packet("<a/>" * 30_000 + "<xmp:CreatorTool>x</xmp:CreatorTool>")
    assert read_xmp_properties(wide) == []
    long = xmp_packet(f"<xmp:CreatorTool>{'x' * 500_000}</xmp:CreatorTool>")
    ((_, value),) = read_xmp_properties(long)
    assert len(value) <= 2 * 64 * 1024
    encoding = b'<?xml version="1.0" encoding="zlib_codec"?><a/>'
    assert read_xmp_properties(encoding) == []


# EXIF


def ifd(*entries: tuple[int, int, int, int]) -> bytes:
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


def test_directories_in_circles() -> None:
    make = (271, 2, 4, int.from_bytes(b"Leic", "little"))
    for target in (8, 0, 4, 20, 2**32 - 1):
        block = b"II*\0\x08\0\0\0" + ifd(make, (34665, 4, 1, target), (330, 4, 1, 8), (34853, 4, 1, 8))
        block = block[:-4] + struct.pack("<I", 8)
        assert read_exif_texts(block) == {"Make": "Leic"}
        (one,) = read_evidence(png_with(chunk(b"eXIf", block)))
        assert one.says == "names a camera (Leic); easily forged"


def test_values_that_lie_elsewhere_or_are_endless() -> None:
    block = b"II*\0\x08\0\0\0" + ifd((271, 2, 2**32 - 1, 8), (272, 2, 9, 2**31), (305, 12, 2**29, 0), (270, 99, 9, 9))
    said, used = peak(png_with(chunk(b"eXIf", block + b"Canon" * 200_000)))
    assert used < 8
    assert len(said) <= 2
    assert read_exif_texts(b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + bytes(12 * 65_535)) == {}


# Words


@pytest.mark.parametrize(
    "nasty",
    ["\0", "\x1b[2J", "\r\n", "\u202e", "\u2066", "\u200b", "\ufeff", "\ud7ff\ue000", "\x85", "\U000e0041", "\u2028"],
)
def test_what_is_shown_is_printable_and_on_one_line(nasty: str) -> None:
    text = f"Mid{nasty}Journey {nasty * 3000} end"
    settings_text = f"{nasty} Steps: 20, Sampler: {nasty}Euler, Seed: 7"
    files = [
        with_texts([("Software", text.replace("\0", " ")), ("parameters", settings_text)]),
        png_with(chunk(b"iTXt", b"parameters\0\0\0\0\0" + settings_text.encode("utf-8", "replace"))),
        with_exif("JPEG", {}, {37510: b"UNICODE\0" + settings_text.encode("utf-16-le")}),
        with_exif("WEBP", {271: "Cam", 305: text.encode("utf-8"), 315: "Midjourney"}),
    ]
    for data in files:
        said = [one for one in read_evidence(data) if one.source != "JPEG tables"]
        assert said
        for one in said:
            assert one.says.isprintable()
            assert len(one.says) < 300
            assert len(one.fields) <= 12
            assert all(part.isprintable() and len(part) <= 500 for field in one.fields for part in field)


# Damage


@cache
def telling_files() -> tuple[bytes, ...]:
    """A file of each format with everything in it."""
    packet = xmp_packet("<xmp:CreatorTool>Adobe Photoshop</xmp:CreatorTool>")
    tags = {271: "Canon", 272: "EOS", 305: "GIMP"}
    files = [with_exif(form, tags, {37510: b"ASCII\0\0\0" + SETTINGS_TEXT}) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    files += [with_texts([("parameters", SETTINGS_TEXT.decode()), ("Software", "NovelAI")], compressed=True)]
    files += [saved("GIF", comment=SETTINGS_TEXT), saved("JPEG", xmp=packet, comment=SETTINGS_TEXT)]
    with contextlib.suppress(ImportError):  # without the extra
        files += [signed(form) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")]
    return tuple(files)


def test_truncated_files() -> None:
    told = 0
    for data in telling_files():
        whole = {one.source for one in read_evidence(data)}
        for end in range(0, len(data), 50):
            said = read_evidence(data[:end])
            assert {one.source for one in said} <= whole
            assert not [one for one in said if one.strength == "signed"]
            told += bool(said)
    assert told > 100


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A telling file with some of its bytes, or lengths, changed, taken away or put in."""
    data = bytearray(draw(st.sampled_from(telling_files())))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])))
        data[at : at + draw(st.sampled_from([0, len(piece), 40]))] = piece
    return bytes(data)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutated_files_never_raise(data: bytes) -> None:
    for one in read_evidence(data):
        assert one.says.isprintable()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"GIF89a", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"8BIM\x04\x04"]),
    st.binary(),
)
def test_arbitrary_bytes_never_raise(head: bytes, data: bytes) -> None:
    read_evidence(head + data)
    read_evidence(b"RIFF\0\0\0\0WEBP" + data)
    read_evidence(b"\x89PNG\r\n\x1a\n" + data)
    read_xmp_properties(data)
    read_exif_texts(head + data)


def test_one_reader_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[Evidence]:
        yield Evidence("EXIF", "nothing", "hint", "half")
        raise RecursionError

    monkeypatch.setattr("mai_app.evidence.read.find_exif_evidence", broken)
    assert [one.source for one in read_evidence(with_exif("JPEG", {271: "Canon"}))] == ["EXIF", "JPEG tables"]

    def fails(_: bytes) -> None:
        raise struct.error

    monkeypatch.undo()
    monkeypatch.setattr("mai_app.evidence.read.read_metadata", fails)
    assert read_evidence(saved("JPEG")) == ()
