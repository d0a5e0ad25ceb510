"""From the bytes of an image file to statements about its making: where each stands, and how far it can be trusted."""

import contextlib
from collections.abc import Iterator
from typing import Final

from mai_app.evidence.c2pa import credentials_evidence
from mai_app.evidence.containers import Metadata, read_metadata
from mai_app.evidence.jpeg_tables import tables_evidence
from mai_app.evidence.statements import Evidence, exif_evidence, iptc_evidence, text_evidence, xmp_evidence
from mai_app.evidence.tiff import exif_texts
from mai_app.evidence.xmp import xmp_properties

MAX_STATEMENTS: Final = 20
"""Statements on one file at most; those that come first weigh most."""
_MAX_PACKETS: Final = 4  # of XMP: an honest file has one, and perhaps its extension


def read_evidence(data: bytes) -> tuple[Evidence, ...]:
    """What an image file says of its making: Content Credentials, IPTC, XMP, EXIF, texts, JPEG tables, in this order.

    `data` are the bytes of a JPEG, PNG, WebP, GIF or TIFF; those of anything else say nothing, and so does what can't
    be read. Each statement stands for itself. Never raises, opens no connection, writes nothing, looks at no pixels;
    time and memory are bounded whatever the bytes are, but grow with a file that has Content Credentials, for they
    are checked against all of it.
    """
    metadata = Metadata("")
    # Files come from anywhere: what is wrong with one piece must cost neither the others nor the picture's score.
    with contextlib.suppress(Exception):
        metadata = read_metadata(data)
    found: dict[Evidence, None] = {}
    for statements in _readers(data, metadata):
        with contextlib.suppress(Exception):
            for statement in statements:
                found[statement] = None
    return tuple(found)[:MAX_STATEMENTS]


def _readers(data: bytes, metadata: Metadata) -> Iterator[Iterator[Evidence]]:
    source = f"{metadata.format} text" if metadata.format == "PNG" else f"{metadata.format} comment"
    yield credentials_evidence(data, metadata)
    yield _xmp(metadata)
    yield iptc_evidence(metadata.iptc)
    yield text_evidence(source, metadata.texts)
    yield _exif(metadata)
    yield tables_evidence(metadata.tables)


def _xmp(metadata: Metadata) -> Iterator[Evidence]:
    properties = [pair for packet in metadata.xmp[:_MAX_PACKETS] for pair in xmp_properties(packet)]
    yield from xmp_evidence(properties, bool(metadata.manifest))


def _exif(metadata: Metadata) -> Iterator[Evidence]:
    yield from exif_evidence(exif_texts(metadata.exif))
