"""The same EXIF, XMP and IPTC through every container that is read gives the same statements; long texts too."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mai_app.evidence.read import read_evidence
from mai_app.evidence.statements import Evidence
from tests.evidence.files import (
    IPTC_CODES,
    chunk,
    png_with,
    raw_profile,
    saved,
    with_exif,
    with_segments,
    with_xmp,
    xmp_packet,
)

SETTINGS_TEXT = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 7, Size: 512x512"
TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt", b"iTXz")
NAMES = ("Canon", "Midjourney v7", "Adobe Photoshop 26.1", "Gemini 2.5 Flash Image", "Apple Photos Clean Up", "1.0.2")


def found(data: bytes) -> list[Evidence]:
    """The statements, without that on a JPEG's tables."""
    return [one for one in read_evidence(data) if one.source != "JPEG tables"]


def photoshop(records: bytes) -> bytes:
    """Photoshop's resources, with IPTC records behind another resource."""
    other = b"8BIM\x04\x25\0\0" + struct.pack(">I", 16) + bytes(16)
    return other + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(records)) + records + b"\0" * (len(records) % 2)


def big_tiff(tags: dict[int, Any]) -> bytes:
    """A BigTIFF with these tags."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "TIFF", big_tiff=True, tiffinfo=tags)
    assert buffer.getvalue()[:4] in (b"II+\0", b"MM\0+")
    return buffer.getvalue()


def exif_files(tags: dict[int, Any], comment: bytes) -> list[bytes]:
    """A file of each container with these tags and this user comment."""
    further = {37510: comment} if comment else {}
    exif = Image.Exif()
    exif.update(tags)
    exif.get_ifd(34665).update(further)
    block = exif.tobytes()
    assert block.startswith(b"Exif\0\0")
    files = [with_exif(form, tags, further) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    files += [png_with(chunk(b"eXIf", block)), saved("WEBP", exif=block[6:])]
    for kind in TEXT_KINDS:
        files += [png_with(raw_profile(kind, name, block)) for name in ("exif", "APP1", "EXIF")]
        files += [png_with(raw_profile(kind, "exif", block[6:]))]
    return files if comment else [*files, big_tiff(tags)]


def xmp_files(packet: bytes) -> list[bytes]:
    """A file of each container with this packet."""
    files = [with_xmp(form, packet) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    key = b"XML:com.adobe.xmp\0"
    files += [png_with(chunk(b"iTXt", key + b"\1\0\0\0" + zlib.compress(packet))), big_tiff({700: packet})]
    gif = saved("GIF")
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    files += [gif[:-1] + b"\x21\xff\x0bXMP DataXMP" + packet + trailer + gif[-1:]]
    for kind in TEXT_KINDS:
        files += [png_with(raw_profile(kind, "xmp", packet))]
        files += [png_with(raw_profile(kind, "APP1", b"http://ns.adobe.com/xap/1.0/\0" + packet))]
    return files


def iptc_files(records: bytes) -> list[bytes]:
    """A file of each container with these records."""
    resources, head = photoshop(records), b"Photoshop 3.0\0"
    files = [
        with_segments((0xED, head + resources)),
        with_segments((0xED, head + resources[:40]), (0xED, head + resources[40:])),
        saved("TIFF", tiffinfo={33723: records}),
        saved("TIFF", tiffinfo={34377: resources}),
    ]
    for kind in TEXT_KINDS:
        files += [png_with(raw_profile(kind, name, resources)) for name in ("iptc", "8bim")]
        files += [png_with(raw_profile(kind, "iptc", records))]
    return files


def same(files: list[bytes], make: Callable[[bytes], list[Evidence]] = found) -> list[Evidence]:
    """The statements of the first file, which all others have to make too."""
    first, *others = (make(data) for data in files)
    for other in others:
        assert other == first
    return first


def element(name: str, value: str) -> str:
    return f"<{name}>{value}</{name}>"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.sampled_from([270, 271, 272, 305, 315, 316, 33432]), st.sampled_from(NAMES), max_size=5),
    st.sampled_from([b"", b"ASCII\0\0\0" + SETTINGS_TEXT.encode(), b"UNICODE\0" + SETTINGS_TEXT.encode("utf-16-be")]),
)
def test_exif_says_the_same_in_every_container(tags: dict[int, str], comment: bytes) -> None:
    said = same(exif_files(tags, comment))
    assert not comment or "Stable Diffusion web UI" in said[0].says


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["trainedAlgorithmicMedia", "digitalCapture", "algorithmicMedia"]).map(
                lambda code: element("Iptc4xmpExt:DigitalSourceType", IPTC_CODES + code)
            ),
            st.sampled_from(NAMES).map(lambda name: element("xmp:CreatorTool", name)),
            st.sampled_from(NAMES).map(lambda name: element("photoshop:Credit", name)),
            st.just(element("exif:UserComment", SETTINGS_TEXT)),
        ),
        max_size=4,
    )
)
def test_xmp_says_the_same_in_every_container(elements: list[str]) -> None:
    same(xmp_files(xmp_packet("".join(elements))))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from([65, 80, 110, 120]), st.sampled_from(NAMES)), min_size=1, max_size=4))
def test_iptc_says_the_same_in_every_container(entries: list[tuple[int, str]]) -> None:
    records = b"\x1c\x02\0\0\x02\0\x04" + b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text.encode() for number, text in entries
    )
    same(iptc_files(records))


def test_what_was_silent_speaks() -> None:
    (one,) = same(exif_files({305: "Gemini 2.5 Flash Image"}, b""))
    assert (one.source, one.points_to, one.strength) == ("EXIF", "synthetic", "declared")
    packet = xmp_packet(element("Iptc4xmpExt:DigitalSourceType", IPTC_CODES + "trainedAlgorithmicMedia"))
    (one,) = same(xmp_files(packet))
    assert (one.source, one.points_to, one.strength) == ("IPTC", "synthetic", "declared")
    # Blanks in front are allowed.
    (one,) = same(xmp_files(b"\n" * 50 + packet))
    (one,) = same(iptc_files(b"\x1c\x02\x6e\0\x13Made with Google AI"))
    assert (one.source, one.points_to, one.strength) == ("IPTC", "synthetic", "declared")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\nexif\n",
        "\nexif\n      12\n",
        "\nexif\n       4\nzz",
        "\nexif\n    9999\n49492a0",
        "\nexif\n       3\n494",
        "\n" + "x" * 500 + "\n       4\n49492a00",
    ],
)
@pytest.mark.parametrize("key", ["exif", "xmp", "iptc", "8bim", "APP1", "icc", "generic profile", ""])
def test_raw_profiles_that_are_none(text: str, key: str) -> None:
    assert found(png_with(chunk(b"tEXt", f"Raw profile type {key}\0{text}".encode()))) == []


def test_raw_profiles_however_they_are_written() -> None:
    block = with_exif("TIFF", {305: "Midjourney v7"})
    digits = block.hex()
    for text in (
        f"\nexif\n{len(block):8d}\n{digits.upper()}",
        f"exif\n{len(block)}\n{digits}\n",
        f"\n\xaa\x01{{generic prof\n {len(block) + 5}\n{digits}7",  # a wrong length, and half a byte too many
        f"\r\nexif\r\n{len(block):8d}\r\n" + "\r\n".join(digits[at : at + 72] for at in range(0, len(digits), 72)),
    ):
        data = png_with(chunk(b"tEXt", b"raw Profile Type exif\0" + text.encode("latin-1")))
        assert ["Midjourney" in one.says for one in found(data)] == [True]
    # A small EXIF block of its own, as GIMP writes it, hides no profile.
    small = with_exif("TIFF", {274: 1})
    (one,) = found(png_with(chunk(b"eXIf", small), raw_profile(b"zTXt", "exif", block)))
    assert "Midjourney" in one.says


# Texts over 1 MB


def text_files(key: bytes, text: bytes) -> list[bytes]:
    """A PNG for each way of writing a text, behind a damaged one."""
    packed = zlib.compress(text)
    return [
        png_with(chunk(b"zTXt", key + b"\0\0damaged"), chunk(kind, content))
        for kind, content in (
            (b"tEXt", key + b"\0" + text),
            (b"zTXt", key + b"\0\0" + packed),
            (b"iTXt", key + b"\0\0\0\0\0" + text),
            (b"iTXt", key + b"\0\1\0\0\0" + packed),
            (b"zTXt", key + b"\0\0" + packed[:-4] + b"\0\0\0\0"),  # a wrong checksum
        )
    ]


@pytest.mark.parametrize("size", [900_000, 1_500_000, 3_000_000, 7_000_000])
@pytest.mark.parametrize("filler", ["word ", "é"])
def test_a_long_text_says_what_it_says_at_its_beginning_and_at_its_end(size: int, filler: str) -> None:
    padding = (filler * (size // len(filler.encode()))).encode()
    text = SETTINGS_TEXT.encode()
    (one,) = same(text_files(b"parameters", padding + b"\n" + text))
    assert "Stable Diffusion web UI" in one.says
    fields = dict(one.fields)
    assert fields["Sampler"] == "Euler a"
    assert fields["parameters"].startswith(filler.strip() * 2 if filler == "é" else "word word")
    (one,) = same(text_files(b"parameters", text + b"\n" + padding))
    assert "Stable Diffusion web UI" in one.says
    (one,) = same(text_files(b"workflow", b'{"last_node_id": 1, "nodes": []}' + padding))
    assert "ComfyUI" in one.says


def test_a_long_packet_and_a_long_profile() -> None:
    packet = xmp_packet("<xmp:Label>" + "x" * 1_500_000 + "</xmp:Label>" + element("xmp:CreatorTool", "Midjourney"))
    key = b"XML:com.adobe.xmp\0"
    for data in (
        png_with(chunk(b"iTXt", key + b"\1\0\0\0" + zlib.compress(packet))),
        png_with(chunk(b"iTXt", key + b"\0\0\0\0" + packet)),
    ):
        assert ["Midjourney" in one.says for one in found(data)] == [True]
    block = with_exif("TIFF", {305: "Midjourney v7"})
    data = png_with(raw_profile(b"zTXt", "icc", bytes(3_000_000)), raw_profile(b"zTXt", "exif", block + bytes(900_000)))
    assert ["Midjourney" in one.says for one in found(data)] == [True]


def test_a_bomb_costs_the_texts_behind_it_nothing() -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))
    data = png_with(bomb, bomb, chunk(b"zTXt", b"parameters\0\0" + zlib.compress(SETTINGS_TEXT.encode())))
    assert ["Stable Diffusion web UI" in one.says for one in found(data)] == [True]
