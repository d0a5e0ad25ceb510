"""From what stands in EXIF, XMP, IPTC and text pieces to statements, each with how far it can be trusted."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mai_app.evidence.rules import aigc_label, editor_named, generator_named, generator_of_text, told
from mai_app.evidence.source_types import source_type
from mai_app.evidence.text import short, shown

Strength = Literal["signed", "declared", "hint"]
"""signed: by somebody, and unchanged since; declared: the file says so, and anybody can write that; hint: less."""


@dataclass(frozen=True)
class Evidence:
    """One thing that a file says of its making, beside the score and never in it. Nothing said counts for nothing."""

    source: str
    """Where in the file: Content Credentials, IPTC, EXIF, XMP, PNG text, JPEG tables, …"""
    points_to: Literal["synthetic", "authentic", "edited", "nothing"]
    """What it would mean if it were true; nothing: for information."""
    strength: Strength
    says: str
    """The statement in words, one line, with how far it can be trusted."""
    fields: tuple[tuple[str, str], ...] = ()
    """What stands there, shortened: names and values, printable."""


_ANYBODY: Final = "anybody can write that"
_PROGRAM_TAGS: Final = ("Software", "ProcessingSoftware", "HostComputer")
_TEXT_TAGS: Final = (
    "UserComment",
    "ImageDescription",
    "XPComment",
    "Make",
    "Model",
)  # ComfyUI writes into the last two
_PROGRAM_KEYS: Final = frozenset(("software", "creator", "creatortool", "generator", "creator tool", "program"))
_AUTHOR_KEYS: Final = frozenset(("author", "artist", "copyright"))
_AIGC_WORDS: Final = {1: "synthetic", 2: "possibly synthetic", 3: "suspected of being synthetic"}


def exif_evidence(texts: Mapping[str, str]) -> Iterator[Evidence]:
    """What the texts of an EXIF block say, by the names of their tags."""
    from_texts = list(texts_evidence("EXIF", [(tag, texts[tag]) for tag in _TEXT_TAGS if tag in texts]))
    yield from from_texts
    for tag in (*_PROGRAM_TAGS, "Make", "Model"):
        if generator_named(texts.get(tag, "")):
            yield from _program("EXIF", tag, texts[tag])
            break
    else:
        # Make and Model of a file that a generator wrote are its settings, not a camera's name.
        camera = _camera(texts.get("Make", ""), texts.get("Model", ""))
        if camera and not from_texts:
            names = ("Make", "Model", "LensModel", "Software", "DateTimeOriginal")
            yield Evidence(
                "EXIF",
                "authentic",
                "hint",
                f"names a camera ({short(camera)}); easily forged",
                shown((name, texts.get(name, "")) for name in names),
            )
        for tag in _PROGRAM_TAGS:
            # A camera's software is its firmware, its host computer a phone's name.
            if tag in texts and (editor_named(texts[tag]) or (tag == "Software" and not camera)):
                yield from _program("EXIF", tag, texts[tag])
    for tag in ("Artist", "Copyright"):
        yield from _author("EXIF", tag, texts.get(tag, ""))


def _camera(make: str, model: str) -> str:
    # Makers often begin the model's name with their own, or with the first word of it.
    first = make.split(maxsplit=1)[0].lower() if make.split() else ""
    return model if first and model.lower().startswith(first) else f"{make} {model}".strip()


def xmp_evidence(properties: Iterable[tuple[str, str]], has_manifest: bool) -> Iterator[Evidence]:
    """What the properties of XMP packets say; where its Content Credentials are too, unless the file has them."""
    properties = list(properties)
    for name, value in properties:
        if name == "Iptc4xmpExt:DigitalSourceType":
            yield from _source_type(value)
        elif name == "Iptc4xmpExt:AISystemUsed":
            says = f"names an AI system that was used ({short(value)}); {_ANYBODY}"
            yield Evidence("IPTC", "synthetic", "declared", says, shown([("AISystemUsed", value)]))
        elif name in ("xmp:CreatorTool", "tiff:Software") or (name == "photoshop:Credit" and _credits_program(value)):
            yield from _program("XMP", name, value)
        elif name == "dcterms:provenance" and value.lower().startswith(("http:", "https:")) and not has_manifest:
            yield Evidence(
                "Content Credentials",
                "nothing",
                "hint",
                "names Content Credentials that are kept elsewhere; they were not fetched",
                shown([("address", value)]),
            )
    agents = [value for name, value in properties if name == "stEvt:softwareAgent"]
    made = [agent for agent in agents if generator_named(agent)]
    if made:
        yield from _program("XMP", "xmpMM:History", made[0])
    elif agents:
        says = f"records steps of editing ({short(', '.join(agents))}); {_ANYBODY}"
        yield Evidence("XMP", "edited", "hint", says, shown(("softwareAgent", agent) for agent in agents))
    described = ("exif:UserComment", "dc:description", "TC260:AIGC")
    yield from texts_evidence("XMP", [(name, value) for name, value in properties if name in described])


def _credits_program(credit: str) -> bool:
    """Whether it is a program that a picture is credited to: most credits are people's, and nobody's business here."""
    return bool(generator_named(credit)) or editor_named(credit)


def _source_type(value: str) -> Iterator[Evidence]:
    fields = shown([("DigitalSourceType", value)])
    kind = source_type(value)
    if kind is None:
        yield Evidence("IPTC", "nothing", "hint", f"has an unknown IPTC digital source type ({short(value)})", fields)
        return
    says = f"declares itself {kind.words} (IPTC digital source type {kind.code}); {_ANYBODY}"
    yield Evidence("IPTC", kind.points_to, "declared" if kind.points_to == "synthetic" else "hint", says, fields)


def text_evidence(source: str, texts: list[tuple[str, str]]) -> Iterator[Evidence]:
    """What the texts of a PNG, or the comments of a JPEG or GIF, say: generators' settings, programs, authors."""
    yield from texts_evidence(source, texts)
    for key, text in texts:
        if key.lower() in _PROGRAM_KEYS:
            yield from _program(source, key, text)
        elif key.lower() in _AUTHOR_KEYS:
            yield from _author(source, key, text)
        elif (
            key.lower() in ("", "comment")
            and editor_named(text[:200])
            and text[:200].lower().startswith("created with")
        ):
            yield from _program(source, key or "comment", text)


def texts_evidence(source: str, texts: list[tuple[str, str]]) -> Iterator[Evidence]:
    """A statement for each generator that writes such texts, and for each AIGC label."""
    by_generator: dict[str, list[tuple[str, str]]] = {}
    for key, text in texts:
        generator = generator_of_text(key, text)
        if generator:
            by_generator.setdefault(generator, []).append((key or "comment", text))
        label = aigc_label(key, text)
        if label:
            says = f"is labelled {_AIGC_WORDS[label]} (AIGC label {label} of GB 45438); {_ANYBODY}"
            yield Evidence(source, "synthetic", "declared" if label == 1 else "hint", says, shown([(key, text)]))
    for generator, pieces in by_generator.items():
        says = f"holds text as an AI generator writes it, {generator}; {_ANYBODY}"
        settings = [pair for _, text in pieces for pair in told(text)]
        yield Evidence(source, "synthetic", "declared", says, shown([*pieces, *settings]))


def iptc_evidence(records: bytes) -> Iterator[Evidence]:
    """What the older IPTC records (IIM) say: the program (2:65) and the credit (2:110)."""
    at = 0
    while records[at : at + 1] == b"\x1c" and at + 5 <= len(records):
        number, length = tuple(records[at + 1 : at + 3]), int.from_bytes(records[at + 3 : at + 5], "big")
        text = records[at + 5 : at + 5 + length].decode("utf-8", "replace")
        if number == (2, 65) or (number == (2, 110) and _credits_program(text)):
            yield from _program("IPTC", "Program" if number == (2, 65) else "Credit", text)
        at += 5 + length


def _program(source: str, name: str, program: str) -> Iterator[Evidence]:
    fields = shown([(name, program)])
    generator = generator_named(program)
    if generator:
        says = f"names an AI generator, {generator} ({short(program)}); {_ANYBODY}"
        yield Evidence(source, "synthetic", "declared", says, fields)
    elif editor_named(program):
        yield Evidence(source, "edited", "hint", f"names a program for editing ({short(program)}); {_ANYBODY}", fields)
    elif any(map(str.isalpha, program[:200])):  # a mere number is a camera's or a phone's version
        yield Evidence(source, "nothing", "hint", f"names a program ({short(program)}); {_ANYBODY}", fields)


def _author(source: str, name: str, author: str) -> Iterator[Evidence]:
    generator = generator_named(author)
    if generator:
        says = f"names an AI generator, {generator}, as its author ({short(author)}); {_ANYBODY}"
        yield Evidence(source, "synthetic", "hint", says, shown([(name, author)]))
