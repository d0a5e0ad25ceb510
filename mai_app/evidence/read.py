"""Reads all provenance evidence of an image file from its bytes: where each statement is, and how strong it is."""

import contextlib
from collections.abc import Iterator
from typing import Final

from mai_app.evidence.c2pa import find_credentials_evidence
from mai_app.evidence.containers import Metadata, read_metadata
from mai_app.evidence.statements import (
    Evidence,
    find_exif_evidence,
    find_iptc_evidence,
    find_jpeg_table_evidence,
    find_text_evidence,
    find_xmp_evidence,
)
from mai_app.evidence.tiff import read_exif_texts
from mai_app.evidence.xmp import read_xmp_properties

MAX_STATEMENTS: Final = 20
"""Most statements returned for one file, the strongest sources first."""
_MAX_PACKETS: Final = 4  # of XMP: a normal file has one, and perhaps its extension


def read_evidence(data: bytes) -> tuple[Evidence, ...]:
    """Return what a file's metadata states about its origin: Content Credentials, XMP, IPTC, texts, EXIF, JPEG tables.

    `data` are the bytes of a JPEG, PNG, WebP, GIF or TIFF file; any other file, and unreadable metadata, gives no
    statements. Never raises, uses no network, writes no file and decodes no pixels. Time and memory are bounded for
    any input; with Content Credentials they grow with the file, whose every byte the signature covers.
    """
    metadata = Metadata("")
    # Files are untrusted: a failure in one piece of metadata must lose neither the others nor the score.
    with contextlib.suppress(Exception):
        metadata = read_metadata(data)
    found: dict[Evidence, None] = {}
    for statements in _find_all_evidence(data, metadata):
        with contextlib.suppress(Exception):
            for statement in statements:
                found[statement] = None
    return tuple(found)[:MAX_STATEMENTS]


def _find_all_evidence(data: bytes, metadata: Metadata) -> Iterator[Iterator[Evidence]]:
    source = f"{metadata.format} text" if metadata.format == "PNG" else f"{metadata.format} comment"
    yield find_credentials_evidence(data, metadata)
    yield _find_xmp(metadata)
    yield find_iptc_evidence(bytes(metadata.iptc))
    yield find_text_evidence(source, metadata.texts)
    yield _find_exif(metadata)
    yield find_jpeg_table_evidence(metadata.tables)


def _find_xmp(metadata: Metadata) -> Iterator[Evidence]:
    properties = [pair for packet in metadata.xmp[:_MAX_PACKETS] for pair in read_xmp_properties(packet)]
    yield from find_xmp_evidence(properties, bool(metadata.manifest))


def _find_exif(metadata: Metadata) -> Iterator[Evidence]:
    for block in metadata.exif:
        yield from find_exif_evidence(read_exif_texts(block))
