"""From an XMP packet to the properties in it that tell of the picture's making: XML, read without building a tree."""

import contextlib
from typing import Final
from xml.parsers import expat  # no entities, no document type: see _Handlers.refuse

_MAX_DEPTH: Final = 64  # an honest packet has some 10 levels
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
"""The properties that are read. DigitalSourceType is, in whatever namespace it stands."""


class _Done(Exception):  # noqa: N818 - no error of the caller's
    """Ends the reading of a packet."""


class _Handlers:
    """What expat calls: it keeps the text within wanted elements, and wanted attributes."""

    def __init__(self) -> None:
        self.properties: dict[tuple[str, str], None] = {}  # in their order, each once
        self.refused = False
        self._open: list[str] = []
        self._elements = 0
        self._edits = 0
        self._text: list[str] = []
        self._length = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._flush()
        self._elements += 1
        self._open.append(_known(name))
        if len(self._open) > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            raise _Done
        for attribute, value in attributes.items():
            # A value may also be named as a resource of the element.
            known = self._property() if attribute == f"{_RDF} resource" else _known(attribute)
            if known:
                self._add(known, value[:_MAX_TEXT])

    def end(self, _name: str) -> None:
        self._flush()
        self._open.pop()

    def text(self, text: str) -> None:
        if self._length < _MAX_TEXT and self._property():
            self._text.append(text)
            self._length += len(text)

    def refuse(self, *_: object) -> int:
        """A document type or an entity: no XMP has them, and they are how XML is made to grow or to read files."""
        self.refused = True
        raise _Done

    def _property(self) -> str:
        return next((name for name in reversed(self._open) if name), "")

    def _flush(self) -> None:
        """The text so far is one value: of the property itself, or of an item of its list."""
        value = "".join(self._text).strip()[:_MAX_TEXT]
        self._text, self._length = [], 0
        if value:
            self._add(self._property(), value)

    def _add(self, name: str, value: str) -> None:
        self._edits += name == "stEvt:softwareAgent"
        if value.strip() and (name != "stEvt:softwareAgent" or self._edits <= _MAX_EDITS):
            self.properties[name, value.strip()] = None
        if len(self.properties) >= _MAX_PROPERTIES:
            raise _Done


def xmp_properties(packet: bytes) -> list[tuple[str, str]]:
    """Names (of PROPERTIES) and values in a packet, in its order.

    A damaged packet gives what stands before the damage, one with a document type or entities nothing at all.
    """
    packet = packet.strip(b"\0 \t\r\n")
    handlers = _Handlers()
    # The encoding is given, for a packet could name any of Python's codecs.
    encoding = "utf-16" if packet[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    parser = expat.ParserCreate(encoding=encoding, namespace_separator=" ")
    parser.StartElementHandler = handlers.start
    parser.EndElementHandler = handlers.end
    parser.CharacterDataHandler = handlers.text
    parser.StartDoctypeDeclHandler = handlers.refuse
    parser.EntityDeclHandler = handlers.refuse
    parser.ExternalEntityRefHandler = handlers.refuse
    parser.buffer_text = True
    with contextlib.suppress(expat.ExpatError, _Done):
        parser.Parse(packet, True)
    return [] if handlers.refused else list(handlers.properties)


def _known(name: str) -> str:
    """A property's usual name, from `namespace name`; empty if it is not wanted."""
    namespace, _, local = name.rpartition(" ")
    if local == "DigitalSourceType":
        return "Iptc4xmpExt:DigitalSourceType"
    known = f"{_PREFIXES.get(namespace, '?')}:{local}"
    return known if known in PROPERTIES else ""
