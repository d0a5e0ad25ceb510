"""The decoder: what real image files of every kind become, and which files are refused, by name and with a reason."""

import copy
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mai_app.config import LIMITS, Limits
from mai_app.errors import ImageError
from mai_app.images.decode import (
    SAMPLINGS,
    DecodedImage,
    Pixels,
    decode,
    decode_file,
    encode_jpeg,
    jpeg_quality,
    read_file,
)
from mai_app.images.find import walk_images
from mai_app.images.other_formats import RAW_SUFFIXES

ROOT = Path(__file__).parents[2]


def four_colours(height: int = 24, width: int = 32) -> Pixels:
    """A picture that no turn or flip leaves as it was: red, green, blue and grey quarters, red the largest."""
    pixels = np.full((height, width, 3), (128, 128, 128), np.uint8)
    pixels[: height * 2 // 3, : width * 3 // 4] = (220, 30, 30)
    pixels[: height * 2 // 3, width * 3 // 4 :] = (30, 200, 40)
    pixels[height * 2 // 3 :, : width * 3 // 4] = (40, 50, 210)
    return pixels


def saved(image: Image.Image | npt.NDArray[Any], form: str, frames: Sequence[Pixels] = (), **options: Any) -> bytes:
    """The bytes of an image file as Pillow writes it, with further frames if there are any."""
    buffer = io.BytesIO()
    if frames:
        options |= {"save_all": True, "append_images": [Image.fromarray(frame) for frame in frames]}
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def largest_difference(a: Pixels, b: Pixels) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(np.int64) - b).max())


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file by hand: a head that says what it likes, and these bytes as its compressed pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
SECOND = [NOISE[::-1].copy()]

FILES = {
    "jpeg": saved(NOISE, "JPEG"),
    "progressive jpeg": saved(NOISE, "JPEG", progressive=True),
    "mpo": saved(NOISE, "MPO", SECOND),
    "png": saved(NOISE, "PNG"),
    "animated png": saved(NOISE, "PNG", SECOND),
    "webp": saved(NOISE, "WEBP"),
    "lossless webp": saved(NOISE, "WEBP", lossless=True),
    "gif": saved(NOISE, "GIF"),
    "animated gif": saved(NOISE, "GIF", SECOND),
    "bmp": saved(NOISE, "BMP"),
    "tiff": saved(NOISE, "TIFF"),
    "lzw tiff": saved(NOISE, "TIFF", compression="tiff_lzw"),
    "tiff of pages": saved(NOISE, "TIFF", SECOND),
}


# What every kind of file becomes


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("GIF", {}),  # four colours fit its palette
    ],
)
def test_a_lossless_file_gives_back_its_pixels(form: str, options: dict[str, Any]) -> None:
    data = saved(four_colours(), form, **options)
    decoded = decode(data, "x")
    assert np.array_equal(decoded.pixels, four_colours())
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.format, decoded.file_bytes, decoded.jpeg_quality) == (form, len(data), None)
    assert decoded.notes == ()


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"subsampling": 0}), ("WEBP", {})])
def test_a_lossy_file_gives_nearly_its_pixels(form: str, options: dict[str, Any]) -> None:
    smooth = np.asarray(Image.fromarray(four_colours(4, 4)).resize((64, 48), Image.Resampling.BICUBIC))
    decoded = decode(saved(smooth, form, quality=95, **options), "x")
    assert decoded.format == form
    assert largest_difference(decoded.pixels, smooth) < 40
    assert np.abs(decoded.pixels.astype(float) - smooth).mean() < 4


@pytest.mark.parametrize(
    ("form", "options"), [("GIF", {}), ("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})], ids=str
)
def test_of_several_frames_the_first_is_taken_and_said(form: str, options: dict[str, Any]) -> None:
    others = [four_colours()[::-1].copy(), four_colours()[:, ::-1].copy()]
    decoded = decode(saved(four_colours(), form, others, **options), "x")
    assert np.array_equal(decoded.pixels, four_colours())
    assert decoded.notes == ("first of 3 frames",)


def test_an_mpo_file_is_a_jpeg_without_frames() -> None:
    decoded = decode(saved(four_colours(), "MPO", [four_colours()[::-1].copy()], quality=80), "x")
    assert (decoded.format, decoded.jpeg_quality, decoded.notes) == ("JPEG", 80, ())
    assert np.array_equal(decoded.pixels, decode(saved(four_colours(), "JPEG", quality=80), "x").pixels)


def test_grey_and_one_bit_pixels_become_rgb() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode(saved(grey, "PNG"), "x").pixels, np.stack([grey] * 3, axis=2))
    bits = grey >= 128
    decoded = decode(saved(Image.fromarray(bits), "PNG"), "x").pixels
    assert np.array_equal(decoded, np.stack([bits * np.uint8(255)] * 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_over_white(form: str) -> None:
    rgba = np.array([[(200, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128), (0, 0, 0, 255)]], np.uint8)
    options: dict[str, Any] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    decoded = decode(saved(rgba, form, **options), "x").pixels
    assert largest_difference(decoded, np.array([[(200, 0, 0), (255,) * 3, (127,) * 3, (0,) * 3]], np.uint8)) <= 1


def test_grey_with_transparency_is_laid_over_white() -> None:
    image = Image.new("LA", (3, 1))
    image.putdata([(10, 255), (10, 0), (0, 128)])
    decoded = decode(saved(image, "PNG"), "x").pixels
    assert largest_difference(decoded, np.array([[(10,) * 3, (255,) * 3, (127,) * 3]], np.uint8)) <= 1


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_is_laid_over_white(form: str) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    decoded = decode(saved(image, form, transparency=1), "x").pixels
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_16_bit_pixel_is_its_high_byte(form: str) -> None:
    levels = np.array([[0, 255, 256, 1000, 32768, 65280, 65535]], dtype=np.uint16)
    decoded = decode(saved(levels, form), "x").pixels
    assert np.array_equal(decoded, np.stack([(levels >> 8).astype(np.uint8)] * 3, axis=2))


def test_a_16_bit_colour_png_is_its_high_bytes() -> None:
    levels = np.array([[(0, 300, 65535), (512, 40000, 256)]], dtype=">u2")
    decoded = decode(png(2, 1, zlib.compress(b"\0" + levels.tobytes()), depth=16), "x").pixels
    assert np.array_equal(decoded, levels >> 8)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_colours_that_a_person_sees(form: str) -> None:
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    data = saved(Image.fromarray(four_colours()).convert("CMYK"), form, **options)
    decoded = decode(data, "x").pixels
    for y, x in ((2, 2), (2, 30), (22, 2), (22, 30)):  # the middle of each colour: an inverted one is far off
        assert np.abs(decoded[y, x].astype(int) - four_colours()[y, x]).max() < 25


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), "floating-point"),
        (np.array([[0, 70000]], np.int32), "32-bit"),
        (np.array([[-1, 5]], np.int32), "32-bit"),
    ],
    ids=["float", "above 16 bits", "below zero"],
)
def test_pixels_without_a_known_white_are_refused(pixels: npt.NDArray[Any], word: str) -> None:
    with pytest.raises(ImageError, match=f"scan.tif: has {word}"):
        decode(saved(Image.fromarray(pixels), "TIFF"), "scan.tif")


# Orientation


def as_stored(upright: Pixels, orientation: int) -> Pixels:
    """How a camera stores a picture under an EXIF orientation, from the standard's table of rows and columns."""
    turned = upright.transpose(1, 0, 2)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: turned,
        6: turned[::-1],
        7: turned[::-1, ::-1],
        8: turned[:, ::-1],
    }
    return np.ascontiguousarray(stored[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_every_orientation_gives_the_same_upright_pixels(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    all_options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    options = all_options.get(form, {})
    decoded = decode(saved(as_stored(four_colours(), orientation), form, exif=exif, **options), "x").pixels
    assert largest_difference(decoded, four_colours()) <= (6 if form == "JPEG" else 0)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(decode(saved(four_colours(), "PNG", exif=exif), "x").pixels, four_colours())


def test_damaged_exif_is_no_reason_to_refuse_the_pixels() -> None:
    data = saved(four_colours(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert np.array_equal(decode(data, "x").pixels, decode(saved(four_colours(), "JPEG"), "x").pixels)


# JPEG quality


def test_the_estimated_quality_is_the_one_that_the_jpeg_was_saved_with() -> None:
    estimates = [decode(encode_jpeg(four_colours(), quality), "x").jpeg_quality for quality in range(1, 101)]
    assert estimates == list(range(1, 101))


def test_foreign_tables_have_the_quality_of_the_nearest_known_table() -> None:
    flat = decode(saved(four_colours(), "JPEG", qtables=[[3] * 64, [3] * 64]), "x").jpeg_quality
    assert flat is not None
    assert 90 <= flat <= 100
    assert jpeg_quality(None) is None
    assert jpeg_quality({}) is None
    assert jpeg_quality({0: [1, 2, 3]}) is None


# Refusals: each names the file and the reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"Dear diary, today I saw a cat.\n", "is no JPEG, PNG"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<html><body>Not found</body></html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n%...", "a PDF"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + bytes(64), "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(64), "a video"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1heic" + bytes(64), "is HEIC,"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(64), "is HEIF (HEIC),"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0miafavif" + bytes(64), "is HEIF (AVIF),"),
        (b"\0\0\0\x18ftypmif2\0\0\0\0miafunci" + bytes(64), "is HEIF,"),
        (b"\0\0\0\x18ftypavis\0\0\0\0msf1miaf" + bytes(64), "is AVIF,"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mif1heic" + bytes(64), "is a video,"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(64), "is a video,"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + bytes(64), "is JPEG 2000,"),
        (b"\xff\x4f\xff\x51" + bytes(64), "is JPEG 2000,"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (bytes(1000), "is no JPEG, PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_file_is_refused_by_name_and_kind(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        decode_file(path)
    assert caught.value.name == str(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", sorted(RAW_SUFFIXES))
def test_camera_raw_in_a_folder_is_a_row_that_says_so(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"DSC_0001{suffix.upper()}"
    path.write_bytes(saved(four_colours(), "TIFF"))  # as the preview that stands first in most of them
    assert list(walk_images(tmp_path)) == [path]
    with pytest.raises(ImageError, match=f"is camera RAW .{suffix[1:].upper()}., whose preview is not the photograph"):
        decode_file(path)


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (12_000, 12_000), (65_501, 1), (1, 65_501)])
def test_a_huge_size_is_refused_before_a_pixel_is_decoded(width: int, height: int) -> None:
    # The pixels are missing: had anything tried to decode them, the reason would be a truncated file.
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"^bomb\.png: has .* pixels, .*limit"):
            decode(png(width, height), "bomb.png")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * 2**20


def test_the_longest_side_that_is_allowed_is_decoded() -> None:
    side = LIMITS.max_side
    decoded = decode(png(side, 1, zlib.compress(bytes(1 + side)), colour=0), "x")
    assert decoded.pixels.shape == (1, side, 3)
    assert decode(encode_jpeg(decoded.pixels, 90), "x").pixels.shape == (1, side, 3)


def test_limits_are_the_callers_to_set(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(four_colours(24, 32), "PNG"))
    size = path.stat().st_size
    assert decode_file(path, Limits(max_bytes=size, max_pixels=24 * 32, max_side=32)).pixels.shape == (24, 32, 3)
    for limits, words in (
        (Limits(max_bytes=size - 1), f"has {size} bytes, over the limit of {size - 1}"),
        (Limits(max_pixels=24 * 32 - 1), "has 32×24 pixels, over the limit"),
        (Limits(max_side=31), "has 32×24 pixels, over the limit"),
    ):
        with pytest.raises(ImageError) as caught:
            decode_file(path, limits)
        assert caught.value.name == str(path)
        assert words in caught.value.reason
    # Too large a file is refused before it is read; too many bytes are refused wherever they come from.
    with pytest.raises(ImageError, match="bytes, over the limit"):
        read_file(path, Limits(max_bytes=size - 1))
    with pytest.raises(ImageError, match="bytes, over the limit"):
        decode(path.read_bytes(), "a.png", Limits(max_bytes=size - 1))


def test_a_folder_a_missing_file_and_impossible_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path / "dangling.jpg", "no such file"),
        (tmp_path / ("a" * 300), "can't be read"),
        (Path("a\0b.jpg"), "can't be read"),
    ):
        with pytest.raises(ImageError) as caught:
            read_file(path)
        assert caught.value.name == str(path)
        assert reason in caught.value.reason


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    reasons: list[str] = []

    def read() -> None:
        try:
            decode_file(pipe)
        except ImageError as error:
            reasons.append(error.reason)

    # In a thread, so that a reader that waits for ever fails this test and does not stop all of them.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert reasons == ["is no regular file"]


def test_a_file_that_may_not_be_read_is_refused_by_name() -> None:
    # A folder that everyone may enter: pytest's own are closed to other users.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret.png"
        path.write_bytes(saved(four_colours(), "PNG"))
        path.chmod(0)
        # Root may read everything, so root reads as nobody.
        script = (
            "import os, sys; from pathlib import Path; from mai_app.images.decode import decode_file\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "decode_file(Path(sys.argv[1]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=ROOT, check=False
        )
    assert done.stderr.splitlines()[-1] == f"mai_app.errors.ImageError: {path}: no permission to read it"


@pytest.mark.parametrize("name", ["two words.png", "Größe 写真.png", "[1].png", "upper.PNG", "wrong.jpg", "none"])
def test_the_name_of_a_file_does_not_matter(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(saved(four_colours(), "PNG"))
    assert np.array_equal(decode_file(tmp_path / name).pixels, four_colours())


def test_an_image_error_survives_the_way_between_processes() -> None:
    error = copy.copy(ImageError("a.jpg", "is empty"))  # by the same means as between processes: __reduce__
    assert isinstance(error, ImageError)
    assert (error.name, error.reason, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


# Damage


def decoded_or_refused(data: bytes, limits: Limits = LIMITS) -> DecodedImage | ImageError:
    """What the decoder makes of damaged bytes; any other exception than its own ends the test."""
    try:
        return decode(data, "damaged.img", limits)
    except ImageError as error:
        return error


def truncations(data: bytes) -> Iterator[bytes]:
    """The file cut off every 2 % of its bytes, and byte by byte near its end."""
    cuts = {len(data) * percent // 100 for percent in range(0, 100, 2)} | {len(data) - i for i in range(1, 13)}
    return (data[:cut] for cut in sorted(cuts))


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_refused_or_whole(kind: str) -> None:
    whole = decode(FILES[kind], "x")
    refused = 0
    for data in truncations(FILES[kind]):
        result = decoded_or_refused(data)
        if isinstance(result, ImageError):
            assert str(result).startswith("damaged.img: ")
            refused += 1
        else:
            # Only checksums, end marks and further frames may be missing: never a part of the picture.
            assert np.array_equal(result.pixels, whole.pixels)
    assert refused >= 25


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(("set", "insert", "delete")), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=6,
    )
)
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(
    kind: str, edits: list[tuple[str, float, bytes]]
) -> None:
    data = bytearray(FILES[kind])
    for edit, where, replacement in edits:
        # Squared: damage in the head, where sizes and offsets stand, is the interesting one.
        at = int(where**2 * len(data))
        end = at if edit == "insert" else at + len(replacement)
        data[at:end] = b"" if edit == "delete" else replacement
    limits = Limits(max_pixels=1_000_000)
    result = decoded_or_refused(bytes(data), limits)
    if isinstance(result, ImageError):
        assert str(result).startswith("damaged.img: ")
    else:
        height, width, channels = result.pixels.shape
        assert channels == 3
        assert 0 < height * width <= limits.max_pixels
        assert result.pixels.dtype == np.uint8


def test_damaged_files_raise_no_warning(tmp_path: Path) -> None:
    # In a process of its own: pytest replaces the filters that the decoder sets for its warnings.
    rng = np.random.default_rng(1)
    count = 0
    for data in FILES.values():
        for cut in truncations(data):
            (tmp_path / f"{count:05}").write_bytes(cut)
            count += 1
        for _ in range(40):
            damaged = bytearray(data)
            for at in rng.integers(0, min(len(data), 200), 3):
                damaged[at] = rng.integers(256)
            (tmp_path / f"{count:05}").write_bytes(damaged)
            count += 1
    # Above the size at which Pillow warns, below MAI's limit.
    (tmp_path / f"{count:05}").write_bytes(png(9_500, 10_000, depth=1, colour=0))
    script = (
        "import sys; from pathlib import Path; from mai_app.images.decode import *\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: decode_file(path, Limits(max_pixels=99_000_000 if path.name == sys.argv[2] else 10**6))\n"
        "    except ImageError as error: last = error\n"
        "print(last.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script, str(tmp_path), f"{count:05}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "truncated" in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_colour_sampling_of_a_jpeg_is_read(sampling: str) -> None:
    decoded = decode(encode_jpeg(four_colours(), 80, sampling), "x")
    assert (decoded.jpeg_sampling, decoded.lossy) == (sampling, True)


@pytest.mark.parametrize(
    ("form", "options", "lossy"),
    [
        ("PNG", {}, False),
        ("GIF", {}, False),
        ("BMP", {}, False),
        ("TIFF", {}, False),
        ("TIFF", {"compression": "jpeg"}, True),
        ("TIFF", {"compression": "tiff_lzw"}, False),
        ("WEBP", {"lossless": True}, False),
        ("WEBP", {"lossless": True, "exif": b"Exif\x00\x00VP8 of another"}, False),
        ("WEBP", {"quality": 90}, True),
        ("WEBP", {"quality": 90, "exif": b"Exif\x00\x00some"}, True),
        ("JPEG", {"quality": 90}, True),
    ],
)
def test_it_is_known_whether_the_files_coding_changed_pixels(form: str, options: dict[str, Any], lossy: bool) -> None:
    decoded = decode(saved(four_colours(), form, **options), "x")
    assert decoded.lossy is lossy
    assert (decoded.jpeg_sampling != "") == (form == "JPEG")


def test_a_grey_jpeg_has_no_colour_sampling() -> None:
    decoded = decode(saved(four_colours()[:, :, 0], "JPEG"), "x")
    assert (decoded.jpeg_sampling, decoded.lossy) == ("", True)
