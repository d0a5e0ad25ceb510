"""Reads provenance properties from an XMP packet with a streaming XML parser that refuses entities."""

import contextlib
from typing import Final
from xml.parsers import expat  # no entities, no document type: see _PropertyCollector.refuse

_MAX_DEPTH: Final = 64  # a normal packet has about 10 levels
_MAX_ELEMENTS: Final = 20_000
_MAX_PROPERTIES: Final = 500
_MAX_TEXT: Final = 64 * 1024  # characters of a property
_MAX_EDITS: Final = 20

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PREFIXES: Final = {
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://www.tc260.org.cn/ns/AIGC/1.0/": "TC260",
}
PROPERTIES: Final = frozenset(
    (
        "Iptc4xmpExt:DigitalSourceType",
        "Iptc4xmpExt:AISystemUsed",
        "Iptc4xmpExt:AIPromptInformation",
        "photoshop:Credit",
        "xmp:CreatorTool",
        "stEvt:softwareAgent",
        "exif:UserComment",
        "tiff:Software",
        "dc:description",
        "dcterms:provenance",
        "TC260:AIGC",
    )
)
"""The properties that are read. DigitalSourceType is read in any namespace."""


class _StopParsing(Exception):  # noqa: N818 - not an error
    """Stops the parser once enough has been read."""


class _PropertyCollector:
    """Callbacks for expat that collect the wanted properties, from elements and attributes."""

    def __init__(self) -> None:
        self.properties: dict[tuple[str, str], None] = {}  # ordered and unique
        self.refused = False
        self._open: list[str] = []
        self._elements = 0
        self._edits = 0
        self._text: list[str] = []
        self._length = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._flush()
        self._elements += 1
        self._open.append(_property_name(name))
        if len(self._open) > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            raise _StopParsing
        for attribute, value in attributes.items():
            # A value may also be given as the element's rdf:resource.
            wanted = self._property() if attribute == f"{_RDF} resource" else _property_name(attribute)
            if wanted:
                self._add(wanted, value[:_MAX_TEXT])

    def end(self, _name: str) -> None:
        self._flush()
        self._open.pop()

    def text(self, text: str) -> None:
        if self._length < _MAX_TEXT and self._property():
            self._text.append(text)
            self._length += len(text)

    def refuse(self, *_: object) -> int:
        """Stop at a document type or an entity: XMP has none, and they allow expansion attacks and file access."""
        self.refused = True
        raise _StopParsing

    def _property(self) -> str:
        return next((name for name in reversed(self._open) if name), "")

    def _flush(self) -> None:
        """Add the text collected so far as one value, of the property or of an item of its list."""
        value = "".join(self._text).strip()[:_MAX_TEXT]
        self._text, self._length = [], 0
        if value:
            self._add(self._property(), value)

    def _add(self, name: str, value: str) -> None:
        self._edits += name == "stEvt:softwareAgent"
        if value.strip() and (name != "stEvt:softwareAgent" or self._edits <= _MAX_EDITS):
            self.properties[name, value.strip()] = None
        if len(self.properties) >= _MAX_PROPERTIES:
            raise _StopParsing


def read_xmp_properties(packet: bytes) -> list[tuple[str, str]]:
    """Return names (of PROPERTIES) and values in a packet, in document order.

    A damaged packet gives the properties before the damage; one with a document type or entities gives none.
    """
    packet = packet.strip(b"\0 \t\r\n")
    collector = _PropertyCollector()
    # The encoding is fixed, because a packet could name any of Python's codecs.
    encoding = "utf-16" if packet[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    parser = expat.ParserCreate(encoding=encoding, namespace_separator=" ")
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.text
    parser.StartDoctypeDeclHandler = collector.refuse
    parser.EntityDeclHandler = collector.refuse
    parser.ExternalEntityRefHandler = collector.refuse
    parser.buffer_text = True
    with contextlib.suppress(expat.ExpatError, _StopParsing):
        parser.Parse(packet, True)
    return [] if collector.refused else list(collector.properties)


def _property_name(name: str) -> str:
    """Return a property's prefixed name, given `namespace name`; "" if it is not wanted."""
    namespace, _, local = name.rpartition(" ")
    if local == "DigitalSourceType":
        return "Iptc4xmpExt:DigitalSourceType"
    wanted = f"{_PREFIXES.get(namespace, '?')}:{local}"
    return wanted if wanted in PROPERTIES else ""
