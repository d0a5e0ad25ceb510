"""The fuzzer's targets: each reads hostile bytes as MAI does, and fails for what its contract does not allow."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mai_app.config import Limits, Preprocessing
from mai_app.errors import CheckpointError, ImageError
from mai_app.evidence.containers import MAX_KEPT, MAX_MANIFEST, Metadata, read_metadata
from mai_app.evidence.read import MAX_STATEMENTS, _find_all_evidence, read_evidence
from mai_app.evidence.statements import (
    MAX_FIELD_LENGTH,
    MAX_FIELDS,
    Evidence,
    find_exif_evidence,
    find_iptc_evidence,
    find_jpeg_table_evidence,
    find_text_evidence,
    find_xmp_evidence,
)
from mai_app.evidence.tiff import read_exif_texts
from mai_app.evidence.xmp import read_xmp_properties
from mai_app.images.containers import jpeg_ends, take_apart
from mai_app.images.decode import SAMPLINGS, DecodedImage, decode
from mai_app.images.other_formats import raw_format, unidentified_reason
from mai_app.images.preprocess import input_notes, shrink, to_inputs
from mai_app.images.quality import unjudgeable_reason
from mai_app.inference.prediction import model_facts
from mai_app.models.description import info_document, parse_info, training_flags
from mai_app.models.registry import ListedModel, table
from tests.fuzz.seeds import SEEDS

LIMITS = Limits(max_bytes=2**20, max_pixels=2**17, max_side=8192)
"""Smaller than MAI's own, so that an execution takes milliseconds."""
_HOW = (
    Preprocessing(input="crop", crops=5, longest=512),
    Preprocessing(),
    Preprocessing(input="views", size=64, crops=5),
)
_shapes: set[tuple[int, ...]] = set()


def read_image(data: bytes) -> None:
    """Decode a file, and make a network's inputs of what decodes; ImageError alone may be raised."""
    try:
        image = decode(data, "hostile.img", LIMITS)
    except ImageError as error:
        _check_reason(error)
        return
    _check_image(image, len(data))
    if image.pixels.shape not in _shapes:  # what follows depends on little else
        _shapes.add(image.pixels.shape)
        _prepare(image)


def _check_reason(error: ImageError) -> None:
    assert error.name == "hostile.img"
    assert 0 < len(str(error)) < 1000


def _check_image(image: DecodedImage, size: int) -> None:
    height, width, channels = image.pixels.shape
    assert image.pixels.dtype == np.uint8
    assert channels == 3
    assert 0 < height * width <= LIMITS.max_pixels
    assert max(height, width) <= LIMITS.max_side
    assert image.format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    assert image.file_bytes == size
    assert image.jpeg_quality is None or 1 <= image.jpeg_quality <= 100
    assert image.jpeg_sampling in ("", *SAMPLINGS)
    assert 1 <= image.orientation <= 8
    assert all(note.isprintable() for note in image.notes)


def _prepare(image: DecodedImage) -> None:
    height, width = image.pixels.shape[:2]
    for how in _HOW:
        seen = shrink(image.pixels, how.longest or None)
        inputs = to_inputs(seen, how)
        assert inputs.dtype == np.uint8
        assert inputs.shape[1:] == (how.size, how.size, 3)
        input_notes(height, width, how)
    unjudgeable_reason(image.pixels, image.jpeg_quality, shrink(image.pixels, 512))


def read_parts(data: bytes) -> None:
    """Take a file apart, and say what it is: none of it may raise, nor grow."""
    parts = take_apart(data)
    assert 1 <= parts.orientation <= 8
    assert parts.frames >= 1
    assert len(parts.pixels) <= len(data) + 64
    assert len(parts.exif) <= len(data)
    raw_format(data, "x.jpg")
    assert unidentified_reason(data).isprintable()
    for ended in itertools.islice(jpeg_ends(parts.pixels), 1):
        assert len(ended) < len(data) + 1000


def read_file_metadata(data: bytes) -> None:
    """Read a file's metadata but for signatures: no reader may raise, which `read_evidence` would pass over."""
    found = read_metadata(data)
    assert found.kept <= MAX_KEPT
    assert len(found.manifest) <= MAX_MANIFEST + 1
    found.manifest = b""  # c2pa has a target of its own
    for statements in _find_all_evidence(data, found):
        _check_statements(statements)


def read_credentials(data: bytes) -> None:
    """Read all evidence, with signatures: it never raises."""
    found = read_evidence(data)
    assert len(found) <= MAX_STATEMENTS
    _check_statements(found)


def read_block(data: bytes) -> None:
    """Read one block of metadata with its reader, which the first byte chooses."""
    if data:
        BLOCKS[data[0] % len(BLOCKS)](data[1:])


def _read_text(block: bytes) -> None:
    found = Metadata("PNG")
    key, _, text = block.partition(b"\0")
    found.add_text(key, text)
    _check_statements(find_text_evidence("PNG text", found.texts))


def _read_profile(block: bytes) -> None:
    found = Metadata("TIFF")
    found.add_profile(b"Photoshop 3.0\0" + block)
    _check_statements(find_iptc_evidence(bytes(found.iptc)))


def _read_tables(block: bytes) -> None:
    size = len(block) + 2
    found = read_metadata(b"\xff\xd8\xff\xdb" + (size & 0xFFFF).to_bytes(2, "big") + block)
    _check_statements(find_jpeg_table_evidence(found.tables))


BLOCKS: tuple[Callable[[bytes], None], ...] = (
    lambda block: _check_statements(find_xmp_evidence(read_xmp_properties(block), False)),
    lambda block: _check_statements(find_exif_evidence(read_exif_texts(block))),
    lambda block: _check_statements(find_iptc_evidence(block)),
    _read_text,
    _read_profile,
    _read_tables,
)


def _check_statements(statements: Iterable[Evidence]) -> None:
    for one in statements:
        assert one.says.isprintable()
        assert len(one.says) < 1000
        assert len(one.fields) <= MAX_FIELDS
        for name, value in one.fields:
            assert name.isprintable()
            assert value.isprintable()
            assert len(value) <= 10 * MAX_FIELD_LENGTH


def read_description_text(data: bytes) -> None:
    """Read what a checkpoint says of itself; what is accepted can be shown, compared and used."""
    try:
        info = parse_info(Path("hostile.safetensors"), data.decode("utf-8", "surrogateescape"))
    except CheckpointError as error:
        check_refusal(error)
        return
    assert parse_info(Path("again.safetensors"), info_document(info)) == info
    scores = info.calibration.scores(np.array([-1e300, -1.0, 0.0, 1.0, 1e300]))
    assert np.isfinite(scores).all()
    assert all(info.calibration.verdict(float(score)) in ("authentic", "unsure", "synthetic") for score in scores)
    assert all(isinstance(word, str) for word in training_flags(info.training))
    facts = model_facts("name", "ab" * 32, info)
    json.dumps(dataclasses.asdict(facts), allow_nan=False)
    row = ListedModel("x", "run", "x", 1, "v", True, info.model, info.data, info.epoch)
    assert all(len(line) < 20_000 for line in table([row], Path("runs")).splitlines())


def check_refusal(error: CheckpointError) -> None:
    """A refusal is one line, not too long."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1000
    text.encode()


def _read_checkpoint(data: bytes) -> None:
    from tests.fuzz.checkpoints import read_checkpoint  # noqa: PLC0415 - torch, which the others do without

    read_checkpoint(data)


def _checkpoint_seeds() -> tuple[bytes, ...]:
    from tests.fuzz.checkpoints import checkpoint_seeds  # noqa: PLC0415

    return checkpoint_seeds()


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader under test."""

    run: Callable[[bytes], None]
    """Reads bytes; any exception is a finding."""
    seeds: Callable[[], tuple[bytes, ...]]
    form: str
    """How inputs are mutated: file, block, json or safetensors."""
    max_bytes: int = 2**15


TARGETS = {
    "decode": Target(read_image, SEEDS["decode"], "file"),
    "parts": Target(read_parts, SEEDS["parts"], "file"),
    "metadata": Target(read_file_metadata, SEEDS["metadata"], "file"),
    "credentials": Target(read_credentials, SEEDS["credentials"], "file", 2**17),
    "blocks": Target(read_block, SEEDS["blocks"], "block"),
    "info": Target(read_description_text, SEEDS["info"], "json"),
    "checkpoint": Target(_read_checkpoint, _checkpoint_seeds, "safetensors", 2**22),
}
"""All targets by name."""
