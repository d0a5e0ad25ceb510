"""Turns EXIF, XMP, IPTC, embedded text and JPEG quantisation tables into Evidence, each with its strength."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mai_app.evidence.rules import (
    PointsTo,
    extract_settings,
    find_generator,
    find_source_type,
    find_text_generator,
    is_editor,
    read_aigc_label,
)
from mai_app.images.decode import jpeg_quality

Strength = Literal["signed", "declared", "hint"]
"""signed: cryptographically signed and unchanged since; declared: stated in the file, unsigned; hint: weaker still."""


@dataclass(frozen=True)
class Evidence:
    """One statement in a file about its origin; reported beside the score, never part of it.

    The absence of statements means nothing.
    """

    source: str
    """Where in the file: Content Credentials, IPTC, EXIF, XMP, PNG text, JPEG tables, …"""
    points_to: PointsTo
    """What the statement would mean if it were true; nothing: for information only."""
    strength: Strength
    says: str
    """The statement as one line of text, including how far it can be trusted."""
    fields: tuple[tuple[str, str], ...] = ()
    """Names and values as found in the file: printable and shortened."""


MAX_FIELD_LENGTH: Final = 500
"""Longest field value, in characters."""
MAX_FIELDS: Final = 12
_MAX_NAME_LENGTH: Final = 80  # characters of a name quoted within a statement

_UNVERIFIED: Final = "anybody can write that"
_SOFTWARE_TAGS: Final = ("Software", "ProcessingSoftware")
_PROGRAM_TAGS: Final = (*_SOFTWARE_TAGS, "HostComputer")
# ComfyUI writes into Make and Model.
_TEXT_TAGS: Final = ("UserComment", "ImageDescription", "XPComment", "Make", "Model")
_SOFTWARE_KEYS: Final = frozenset(("software", "creatortool", "generator", "creator tool", "program"))
_PROGRAM_KEYS: Final = _SOFTWARE_KEYS | {"creator"}
_AUTHOR_KEYS: Final = frozenset(("author", "artist", "copyright"))
_AIGC_WORDS: Final = {1: "synthetic", 2: "possibly synthetic", 3: "suspected of being synthetic"}

# The example tables of ITU-T T.81, annex K, in zigzag order as in a file; libjpeg (IJG) scales them by quality.
# fmt: off
_LUMINANCE_TABLE: Final = (
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51,
    61, 60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77,
    113, 121, 112, 100, 120, 92, 101, 103, 99,
)
_CHROMINANCE_TABLE: Final = (17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99) + (99,) * 48
# fmt: on


def to_printable(text: str, max_length: int = MAX_FIELD_LENGTH) -> str:
    """Return the text on one line with unprintable characters escaped; longer text is cut and ends with "…"."""
    line = " ".join(text[: 4 * max_length].split())[: max_length + 1]
    # isprintable is False for bidirectional controls and zero-width characters too.
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def shorten(text: str) -> str:
    """Return a printable name of at most 80 characters, for use within a statement."""
    return to_printable(text, _MAX_NAME_LENGTH)


def display_fields(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return printable names and values of the first MAX_FIELDS fields that are not empty."""
    kept = [(shorten(name), to_printable(value)) for name, value in fields]
    return tuple((name, value) for name, value in kept if value)[:MAX_FIELDS]


def find_exif_evidence(texts: Mapping[str, str]) -> Iterator[Evidence]:
    """Yield statements from EXIF texts, given by tag name: generators, editing software, cameras, authors."""
    from_texts = list(find_generator_texts("EXIF", [(tag, texts[tag]) for tag in _TEXT_TAGS if tag in texts]))
    yield from from_texts
    for tag in (*_PROGRAM_TAGS, "Make", "Model"):
        if find_generator(texts.get(tag, ""), tag in _SOFTWARE_TAGS):
            yield from _describe_program("EXIF", tag, texts[tag], tag in _SOFTWARE_TAGS)
            break
    else:
        # A generator may write its settings into Make and Model: then they name no camera.
        camera = _camera_name(texts.get("Make", ""), texts.get("Model", ""))
        if camera and not from_texts:
            names = ("Make", "Model", "LensModel", "Software", "DateTimeOriginal")
            yield Evidence(
                "EXIF",
                "authentic",
                "hint",
                f"names a camera ({shorten(camera)}); easily forged",
                display_fields((name, texts.get(name, "")) for name in names),
            )
        for tag in _PROGRAM_TAGS:
            # Software of a camera is its firmware, HostComputer a phone's name.
            if tag in texts and (is_editor(texts[tag]) or (tag == "Software" and not camera)):
                yield from _describe_program("EXIF", tag, texts[tag])
    for tag in ("Artist", "Copyright"):
        yield from _describe_author("EXIF", tag, texts.get(tag, ""))


def _camera_name(make: str, model: str) -> str:
    # Makers often begin the model's name with their own, or with the first word of it.
    first = make.split(maxsplit=1)[0].lower() if make.split() else ""
    return model if first and model.lower().startswith(first) else f"{make} {model}".strip()


def find_xmp_evidence(properties: Iterable[tuple[str, str]], has_manifest: bool) -> Iterator[Evidence]:
    """Yield statements from XMP properties (name, value).

    With `has_manifest`, a link to remote Content Credentials is not reported: the file has its own.
    """
    properties = list(properties)
    for name, value in properties:
        if name == "Iptc4xmpExt:DigitalSourceType":
            yield from _describe_source_type(value)
        elif name == "Iptc4xmpExt:AISystemUsed" and is_editor(value) and not find_generator(value, True):
            says = f"names an AI system that edits pictures ({shorten(value)}); {_UNVERIFIED}"
            yield Evidence("IPTC", "edited", "hint", says, display_fields([("AISystemUsed", value)]))
        elif name == "Iptc4xmpExt:AISystemUsed":
            says = f"names an AI system that was used ({shorten(value)}); {_UNVERIFIED}"
            yield Evidence("IPTC", "synthetic", "declared", says, display_fields([("AISystemUsed", value)]))
        elif name in ("xmp:CreatorTool", "tiff:Software") or (name == "photoshop:Credit" and _is_program(value)):
            yield from _describe_program("XMP", name, value, name != "photoshop:Credit")
        elif name == "dcterms:provenance" and value.lower().startswith(("http:", "https:")) and not has_manifest:
            yield Evidence(
                "Content Credentials",
                "nothing",
                "hint",
                "names Content Credentials that are kept elsewhere; they were not fetched",
                display_fields([("address", value)]),
            )
    agents = [value for name, value in properties if name == "stEvt:softwareAgent"]
    generators = [agent for agent in agents if find_generator(agent, True)]
    if generators:
        yield from _describe_program("XMP", "xmpMM:History", generators[0], True)
    elif agents:
        says = f"records steps of editing ({shorten(', '.join(agents))}); {_UNVERIFIED}"
        yield Evidence("XMP", "edited", "hint", says, display_fields(("softwareAgent", agent) for agent in agents))
    text_names = ("exif:UserComment", "dc:description", "TC260:AIGC")
    yield from find_generator_texts("XMP", [(name, value) for name, value in properties if name in text_names])


def _is_program(credit: str) -> bool:
    """Whether a credit names a known program. Most credits name people, which are not reported."""
    return bool(find_generator(credit)) or is_editor(credit)


def _describe_source_type(value: str) -> Iterator[Evidence]:
    fields = display_fields([("DigitalSourceType", value)])
    kind = find_source_type(value)
    if kind is None:
        yield Evidence("IPTC", "nothing", "hint", f"has an unknown IPTC digital source type ({shorten(value)})", fields)
        return
    says = f"declares itself {kind.description} (IPTC digital source type {kind.code}); {_UNVERIFIED}"
    yield Evidence("IPTC", kind.points_to, "declared" if kind.points_to == "synthetic" else "hint", says, fields)


def find_text_evidence(source: str, texts: list[tuple[str, str]]) -> Iterator[Evidence]:
    """Yield statements from PNG texts (key, text) or JPEG and GIF comments: generator settings, programs, authors."""
    yield from find_generator_texts(source, texts)
    for key, text in texts:
        name = key.lower().rpartition(":")[2]  # ImageMagick writes EXIF's as exif:Software
        if name in _PROGRAM_KEYS:
            yield from _describe_program(source, key, text, name in _SOFTWARE_KEYS)
        elif name in _AUTHOR_KEYS:
            yield from _describe_author(source, key, text)
        elif name in ("", "comment") and is_editor(text[:200]) and text[:200].lower().startswith("created with"):
            yield from _describe_program(source, key or "comment", text)


def find_generator_texts(source: str, texts: list[tuple[str, str]]) -> Iterator[Evidence]:
    """Yield one statement for each generator whose text format is recognised, and one for each AIGC label."""
    by_generator: dict[str, list[tuple[str, str]]] = {}
    for key, text in texts:
        generator = find_text_generator(key, text)
        if generator:
            by_generator.setdefault(generator, []).append((key or "comment", text))
        label = read_aigc_label(key, text)
        if label:
            says = f"is labelled {_AIGC_WORDS[label]} (AIGC label {label} of GB 45438); {_UNVERIFIED}"
            yield Evidence(
                source, "synthetic", "declared" if label == 1 else "hint", says, display_fields([(key, text)])
            )
    for generator, pieces in by_generator.items():
        says = f"holds text as an AI generator writes it, {generator}; {_UNVERIFIED}"
        settings = [pair for _, text in pieces for pair in extract_settings(text)]
        yield Evidence(source, "synthetic", "declared", says, display_fields([*pieces, *settings]))


def find_iptc_evidence(records: bytes) -> Iterator[Evidence]:
    """Yield statements from legacy IPTC records (IIM): the program (2:65) and the credit (2:110)."""
    at = 0
    while records[at : at + 1] == b"\x1c" and at + 5 <= len(records):
        number, length = tuple(records[at + 1 : at + 3]), int.from_bytes(records[at + 3 : at + 5], "big")
        text = records[at + 5 : at + 5 + length].decode("utf-8", "replace")
        if number == (2, 65) or (number == (2, 110) and _is_program(text)):
            yield from _describe_program("IPTC", "Program" if number == (2, 65) else "Credit", text, number == (2, 65))
        at += 5 + length


def _describe_program(source: str, name: str, program: str, is_program: bool = False) -> Iterator[Evidence]:
    """Yield one statement on a program; with `is_program`, the field names programs alone."""
    fields = display_fields([(name, program)])
    generator = find_generator(program, is_program)
    if generator:
        says = f"names an AI generator, {generator} ({shorten(program)}); {_UNVERIFIED}"
        yield Evidence(source, "synthetic", "declared", says, fields)
    elif is_editor(program):
        yield Evidence(
            source, "edited", "hint", f"names a program for editing ({shorten(program)}); {_UNVERIFIED}", fields
        )
    elif any(map(str.isalpha, program[:200])):  # a bare number is a camera's or phone's firmware version
        yield Evidence(source, "nothing", "hint", f"names a program ({shorten(program)}); {_UNVERIFIED}", fields)


def _describe_author(source: str, name: str, author: str) -> Iterator[Evidence]:
    generator = find_generator(author)
    if generator:
        says = f"names an AI generator, {generator}, as its author ({shorten(author)}); {_UNVERIFIED}"
        yield Evidence(source, "synthetic", "hint", says, display_fields([(name, author)]))


def find_jpeg_table_evidence(tables: Mapping[int, list[int]]) -> Iterator[Evidence]:
    """Yield one statement on how a JPEG was saved, which points to nothing; none without tables.

    `tables` are its quantisation tables by number, 64 values each, in zigzag order.
    """
    quality = jpeg_quality({number: list(table) for number, table in tables.items()})
    if quality is None:
        return
    first, *others = (tuple(tables[number]) for number in sorted(tables))
    if first == _scale_table(_LUMINANCE_TABLE, quality) and all(
        table in (first, _scale_table(_CHROMINANCE_TABLE, quality)) for table in others
    ):
        says = f"saved with the standard tables at quality {quality}, as most software writes them"
        kind = "standard (IJG)"
    else:
        says = f"saved with tables of a camera's or a program's own, near quality {quality}"
        kind = "own"
    fields = (("tables", kind), ("quality", str(quality)), ("first values", " ".join(map(str, first[:8]))))
    yield Evidence("JPEG tables", "nothing", "hint", says, fields)


def _scale_table(table: tuple[int, ...], quality: int) -> tuple[int, ...]:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(max((value * scale + 50) // 100, 1), 255) for value in table)
