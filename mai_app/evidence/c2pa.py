"""From the Content Credentials (C2PA) in a file to statements: who signed, whether it holds, what is declared."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from mai_app.evidence.containers import MAX_MANIFEST, Metadata
from mai_app.evidence.rules import generator_named
from mai_app.evidence.source_types import Points, SourceType, source_type
from mai_app.evidence.statements import Evidence
from mai_app.evidence.text import short, shown

SOURCE: Final = "Content Credentials"
# c2pa keeps one copy of a file or two, 100 bytes for each part of it, and some 30 times the CBOR that it decodes.
MAX_FILE: Final = 16 * 2**20
"""Bytes of a file whose Content Credentials are checked, for the signature is over all of it."""
_MAX_PARTS: Final = 10_000  # c2pa takes some 20 µs for each chunk of a PNG
_MAX_BOXES: Final = 4_000
_MAX_CBOR: Final = 2**19  # bytes of all boxes that are decoded: claims, assertions, signatures; not of thumbnails
_MAX_DEPTH: Final = 32
_MAX_VALUES: Final = 5_000  # looked at of what a manifest says

SETTINGS: Final = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {
        # Nothing of a file leads to the network: no manifest elsewhere, no revocation list, no identity's address.
        "allowed_network_hosts": [],
        "allow_redirects": False,
        "decode_identity_assertions": False,
        "max_decompressed_manifest_size_in_mb": 1,
    },
}
"""c2pa's settings: offline, and bounded."""

_MIME: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
}
# What the C2PA specification calls an edit of the picture's content.
_EDITS: Final = frozenset(
    f"c2pa.{name}"
    for name in (
        "adjustedColor",
        "changedSpeed",
        "color_adjustments",
        "cropped",
        "deleted",
        "drawing",
        "edited",
        "enhanced",
        "filtered",
        "orientation",
        "placed",
        "redacted",
        "removed",
        "resized",
    )
)


def credentials_evidence(data: bytes, metadata: Metadata) -> Iterator[Evidence]:
    """What the manifest store found in a file says, checked against the file's bytes; nothing if there is none."""
    manifest = metadata.manifest
    if not manifest:
        return
    c2pa = _c2pa()
    if c2pa is None:
        yield _unread("which were not read: pip install 'mai-app[provenance]' does", manifest)
    elif len(data) > MAX_FILE:
        yield _unread(f"which were not checked: the file is over {MAX_FILE // 2**20} MiB", manifest)
    elif metadata.parts > _MAX_PARTS:
        yield _unread(f"which were not checked: the file has over {_MAX_PARTS:,} parts", manifest)
    elif len(manifest) > MAX_MANIFEST or not _is_modest(manifest):
        yield _unread("which were not checked: they are too large", manifest)
    else:
        try:
            found = list(_statements(read_store(c2pa, data, metadata.format)))
        except Exception as error:  # c2pa's own errors, and what a damaged store leads to
            # Their messages name places in the library; the kind of error is enough.
            kind = type(error).__name__.lstrip("_").removeprefix("C2pa") or "unknown"
            found = [_unread(f"which are damaged and COUNT FOR NOTHING ({kind})", manifest)]
        yield from found


def _c2pa() -> ModuleType | None:
    try:
        import c2pa  # noqa: PLC0415 - an extra, and slow to load
    except Exception:  # not installed; or its native library does not load here, which it tells in many ways
        return None
    return c2pa  # type: ignore[no-any-return]


def read_store(c2pa: ModuleType, data: bytes, file_format: str) -> dict[str, Any]:
    """c2pa's report on the store in a file; nothing is fetched. Raises c2pa's errors for what can't be read."""
    with (
        c2pa.Settings.from_dict(SETTINGS) as settings,
        c2pa.Context(settings) as context,
        c2pa.Reader(_MIME[file_format], io.BytesIO(data), None, context) as reader,
    ):
        store = json.loads(reader.json())
    if not isinstance(store, dict):
        raise TypeError("not a manifest store")
    return store


def _unread(why: str, manifest: bytes) -> Evidence:
    return Evidence(SOURCE, "nothing", "hint", f"carries Content Credentials, {why}", (("bytes", str(len(manifest))),))


def _is_modest(manifest: bytes) -> bool:
    """Whether the boxes of a store (JUMBF) are few, not deep, and small but for pictures, so that c2pa may have it."""
    boxes, decoded = 0, 0
    spans = [(0, len(manifest), 0)]
    while spans:
        at, end, depth = spans.pop()
        while at + 8 <= end:
            length, kind = int.from_bytes(manifest[at : at + 4], "big"), manifest[at + 4 : at + 8]
            length = length or end - at
            boxes += 1
            if length < 8 or boxes > _MAX_BOXES or depth > _MAX_DEPTH:
                return False
            if kind == b"jumb":
                spans.append((at + 8, min(at + length, end), depth + 1))
            elif kind not in (b"bidb", b"free"):  # pictures, and padding
                decoded += length
            at += length
    return decoded <= _MAX_CBOR


def _statements(store: Mapping[str, Any]) -> Iterator[Evidence]:
    manifests = store.get("manifests", {})
    active = manifests.get(store.get("active_manifest"), {})
    state = str(store.get("validation_state", "Invalid"))
    signature = active.get("signature_info") or {}
    issuer = str(signature.get("issuer") or signature.get("common_name") or "unknown")
    tool = _tool(active)
    kinds, parts = _source_types(active)
    actions = list(dict.fromkeys(str(action.get("action", "")) for action in _actions(active)))
    failed = _failures(store.get("validation_results", {}).get("activeManifest", {}))
    fields = shown(
        (
            ("state", state),
            ("signed by", str(signature.get("issuer") or "")),
            ("common name", str(signature.get("common_name") or "")),
            ("signed at", str(signature.get("time") or "")),
            ("algorithm", str(signature.get("alg") or "")),
            ("made with", tool),
            ("title", str(active.get("title") or "")),
            ("actions", ", ".join(actions)),
            ("digital source types", ", ".join(kind.code for kind in [*kinds, *parts])),
            ("failed", ", ".join(failed)),
        )
    )
    if state not in ("Valid", "Trusted"):
        changed = any("mismatch" in code for code in failed)
        why = "the picture, or what they say, was CHANGED after signing" if changed else "they are not valid"
        says = f"Content Credentials DO NOT HOLD: {why} ({short(', '.join(failed) or state)}); they count for nothing"
        yield Evidence(SOURCE, "nothing", "hint", says, fields)
        return
    points_to, words = _meaning(kinds, parts, actions, tool)
    trust = (
        f"by {short(issuer)}, who is on a trust list"
        if state == "Trusted"
        else f"as {short(issuer)}, who is on no trust list here: anybody can sign under any name"
    )
    says = f"{words}; unchanged since it was signed {trust}"
    yield Evidence(SOURCE, points_to, "signed", says, fields)
    if points_to != "synthetic":
        yield from _ingredients(manifests, active)


def _meaning(kinds: list[SourceType], parts: list[SourceType], actions: list[str], tool: str) -> tuple[Points, str]:
    """What a manifest's declarations point to, and in words."""
    by = f", made with {short(tool)}" if tool else ""
    for kind in kinds:
        if kind.points_to == "synthetic":
            return "synthetic", f"declares itself {kind.words} (digital source type {kind.code}){by}"
    for kind in parts:
        if kind.points_to == "synthetic":
            return (
                "synthetic",
                f"declares that a step of its making was synthetic (digital source type {kind.code}){by}",
            )
    generator = generator_named(tool)
    if generator:
        return "synthetic", f"names an AI generator, {generator}, among what made it ({short(tool)})"
    edits = [action for action in actions if action in _EDITS]
    if edits:
        return "edited", f"declares edits ({short(', '.join(edits))}){by}"
    for kind in kinds:
        return kind.points_to, f"declares itself {kind.words} (digital source type {kind.code}){by}"
    return "nothing", f"declares no digital source type{by}"


def _ingredients(manifests: Mapping[str, Any], active: Mapping[str, Any]) -> Iterator[Evidence]:
    """The first synthetic picture among those that the picture was made of, and those that they were made of."""
    waiting, seen = [(active, True)], {""}
    while waiting:
        manifest, holds = waiting.pop(0)
        for ingredient in manifest.get("ingredients", []):
            results = (ingredient.get("validation_results") or {}).get("activeManifest", {})
            label = str(ingredient.get("active_manifest") or "")
            made_from = manifests.get(label, {})
            still_holds = holds and bool(made_from) and not _failures(results)
            whole, steps = _source_types(made_from)
            declared = source_type(str(ingredient.get("digital_source_type") or ""))
            for kind in (*whole, *steps, *([declared] if declared else [])):
                if kind.points_to == "synthetic":
                    yield Evidence(
                        SOURCE,
                        "synthetic",
                        "signed" if still_holds else "hint",
                        f"was made from a picture that declares itself {kind.words} (digital source type {kind.code}); "
                        + ("that one's own signature held" if still_holds else "that one's own signature DID NOT HOLD"),
                        shown(
                            (
                                ("ingredient", str(ingredient.get("title") or "")),
                                ("relationship", str(ingredient.get("relationship") or "")),
                                ("signed by", str((made_from.get("signature_info") or {}).get("issuer") or "")),
                                ("made with", _tool(made_from)),
                            )
                        ),
                    )
                    return
            if label not in seen:  # a picture may be in it many times over
                seen.add(label)
                waiting.append((made_from, still_holds))


def _failures(results: Mapping[str, Any]) -> list[str]:
    """Codes of what failed, but for the trust list that is not here."""
    codes = (str(failure.get("code", "")) for failure in results.get("failure", []))
    return [code for code in dict.fromkeys(codes) if code != "signingCredential.untrusted"]


def _tool(manifest: Mapping[str, Any]) -> str:
    """Names of the claim generator and of the actions' software agents."""
    names = [*(manifest.get("claim_generator_info") or []), manifest.get("claim_generator")]
    names += [action.get("softwareAgent") for action in _actions(manifest)]
    return ", ".join(dict.fromkeys(filter(None, map(_tool_name, names))))


def _tool_name(tool: object) -> str:
    if isinstance(tool, Mapping):
        return " ".join(str(tool[key]) for key in ("name", "version") if tool.get(key))
    return str(tool or "")


def _actions(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = []
    for assertion in manifest.get("assertions", []):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            found += [action for action in assertion["data"].get("actions", []) if isinstance(action, Mapping)]
    return found[:_MAX_VALUES]


def _source_types(manifest: Mapping[str, Any]) -> tuple[list[SourceType], list[SourceType]]:
    """The digital source types that a manifest declares, each once: of the whole picture, and of steps towards it."""
    steps = [action for action in _actions(manifest) if action.get("action") != "c2pa.created"]
    created = [action for action in _actions(manifest) if action.get("action") == "c2pa.created"]
    others = [
        assertion.get("data")
        for assertion in manifest.get("assertions", [])
        if not str(assertion.get("label", "")).startswith("c2pa.actions")
    ]
    return _types_in([*created, *others]), _types_in(steps)


def _types_in(values: list[Any]) -> list[SourceType]:
    kinds = map(source_type, _values_of("digitalsourcetype", values))
    return list(dict.fromkeys(kind for kind in kinds if kind))


def _values_of(wanted: str, waiting: list[Any]) -> Iterable[str]:
    """Texts under a key, with any prefix, at any depth; no recursion, for a file says how deep it goes."""
    waiting = waiting[:_MAX_VALUES]
    for _ in range(_MAX_VALUES):
        if not waiting:
            return
        value = waiting.pop(0)
        if isinstance(value, list):
            waiting += value[:_MAX_VALUES]
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if str(key).rpartition(":")[2].lower() == wanted and isinstance(inner, str):
                    yield inner
                elif isinstance(inner, list | Mapping):
                    waiting.append(inner)
