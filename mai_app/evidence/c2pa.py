"""Verifies a file's Content Credentials (C2PA): signer, validity, and the declared digital source types."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from mai_app.evidence.containers import MAX_MANIFEST, Metadata
from mai_app.evidence.failures import (
    describe_failure,
    describe_failures,
    failure_codes,
    ingredient_failures,
    leaves_parts_out,
    needs_details,
    read_results,
    source_failures,
)
from mai_app.evidence.rules import PointsTo, SourceType, find_generator, find_source_type
from mai_app.evidence.statements import Evidence, display_fields, shorten

SOURCE: Final = "Content Credentials"
# c2pa keeps one or two copies of a file, 100 bytes for each part of it, and about 30 times the CBOR it decodes.
MAX_FILE: Final = 16 * 2**20
"""Largest file, in bytes, whose Content Credentials are verified: the signature covers all of it."""
_MAX_PARTS: Final = 10_000  # c2pa takes about 20 µs per PNG chunk
_MAX_BOXES: Final = 4_000
_MAX_CBOR: Final = 2**19  # bytes of all boxes that c2pa decodes: claims, assertions, signatures; not thumbnails
_MAX_DEPTH: Final = 32
_MAX_VALUES: Final = 5_000  # values read from one manifest

SETTINGS: Final = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {
        # A file must never cause network access: no remote manifest, no revocation list, no identity service.
        "allowed_network_hosts": [],
        "allow_redirects": False,
        "decode_identity_assertions": False,
        "max_decompressed_manifest_size_in_mb": 1,
    },
}
"""c2pa settings: offline and with limits."""

_MIME: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
}
# Actions that the C2PA specification defines as edits of the image's content.
_EDIT_ACTIONS: Final = frozenset(
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


def find_credentials_evidence(data: bytes, metadata: Metadata) -> Iterator[Evidence]:
    """Yield statements from a file's manifest store, verified against the file's bytes; none without a store."""
    manifest = metadata.manifest
    if not manifest:
        return
    c2pa = _import_c2pa()
    if c2pa is None:
        yield _report_unchecked("which were not read: pip install 'mai-app[provenance]' does", manifest)
    elif len(data) > MAX_FILE:
        yield _report_unchecked(f"which were not checked: the file is over {MAX_FILE // 2**20} MiB", manifest)
    elif metadata.parts > _MAX_PARTS:
        yield _report_unchecked(f"which were not checked: the file has over {_MAX_PARTS:,} parts", manifest)
    elif len(manifest) > MAX_MANIFEST or not _is_within_limits(manifest):
        yield _report_unchecked("which were not checked: they are too large", manifest)
    else:
        try:
            found = list(_interpret_store(read_store(c2pa, data, metadata.format), data))
        except Exception as error:  # c2pa's errors, and any caused by a damaged store
            # Their messages contain locations in the library; the error's type is enough. It need not mean damage:
            # c2pa raises for what it does not support, too.
            kind = type(error).__name__.lstrip("_").removeprefix("C2pa") or "unknown"
            found = [_report_unchecked(f"which could not be read and COUNT FOR NOTHING ({kind})", manifest)]
        yield from found


def _import_c2pa() -> ModuleType | None:
    try:
        import c2pa  # noqa: PLC0415 - an extra, and slow to load
    except Exception:  # not installed, or its native library fails to load, with various errors
        return None
    return c2pa  # type: ignore[no-any-return]


def read_store(c2pa: ModuleType, data: bytes, file_format: str) -> dict[str, Any]:
    """Return c2pa's report on a file's manifest store, without network access; raises c2pa's errors if unreadable.

    Where the hash of the file is in doubt, "detailed" is c2pa's report with all assertions, the hash among them.
    """
    with (
        c2pa.Settings.from_dict(SETTINGS) as settings,
        c2pa.Context(settings) as context,
        c2pa.Reader(_MIME[file_format], io.BytesIO(data), None, context) as reader,
    ):
        store = json.loads(reader.json())
        if not isinstance(store, dict):
            raise TypeError("not a manifest store")
        if needs_details(store):
            store["detailed"] = json.loads(reader.detailed_json())
    return store


def _report_unchecked(why: str, manifest: bytes) -> Evidence:
    return Evidence(SOURCE, "nothing", "hint", f"carries Content Credentials, {why}", (("bytes", str(len(manifest))),))


def _is_within_limits(manifest: bytes) -> bool:
    """Whether a store's JUMBF boxes are few, shallow and, except for thumbnails, small enough to pass to c2pa."""
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
            elif kind not in (b"bidb", b"free"):  # thumbnails, and padding
                decoded += length
            at += length
    return decoded <= _MAX_CBOR


def _interpret_store(store: Mapping[str, Any], data: bytes) -> Iterator[Evidence]:
    manifests = store.get("manifests", {})
    active = manifests.get(store.get("active_manifest"), {})
    state = str(store.get("validation_state", "Invalid"))
    signature = active.get("signature_info") or {}
    issuer = str(signature.get("issuer") or signature.get("common_name") or "unknown")
    tool = _tool_names(active)
    kinds, steps = _list_source_types(active)
    actions = list(dict.fromkeys(str(action.get("action", "")) for action in _list_actions(active)))
    failed = ", ".join([*failure_codes(read_results(store)), *source_failures(store)])
    fields = display_fields(
        (
            ("state", state),
            ("signed by", str(signature.get("issuer") or "")),
            ("common name", str(signature.get("common_name") or "")),
            ("signed at", str(signature.get("time") or "")),
            ("algorithm", str(signature.get("alg") or "")),
            ("made with", tool),
            ("title", str(active.get("title") or "")),
            ("actions", ", ".join(actions)),
            ("digital source types", ", ".join(kind.code for kind in [*kinds, *steps])),
            ("failed", failed),
        )
    )
    if state not in ("Valid", "Trusted"):
        why = describe_failures(store, data)
        says = f"Content Credentials DO NOT HOLD: {why} ({shorten(failed or state)}); they count for nothing"
        yield Evidence(SOURCE, "nothing", "hint", says, fields)
        return
    points_to, statement = _interpret_declarations(kinds, steps, actions, tool)
    trust = (
        f"by {shorten(issuer)}, who is on a trust list"
        if state == "Trusted"
        else f"as {shorten(issuer)}, who is on no trust list here: anybody can sign under any name"
    )
    unchanged = "unchanged, but for parts that the signature leaves out," if leaves_parts_out(store) else "unchanged"
    says = f"{statement}; {unchanged} since it was signed {trust}"
    yield Evidence(SOURCE, points_to, "signed", says, fields)
    if points_to != "synthetic":
        yield from _find_synthetic_ingredient(manifests, active)


def _interpret_declarations(
    kinds: list[SourceType], steps: list[SourceType], actions: list[str], tool: str
) -> tuple[PointsTo, str]:
    """Return what a manifest's declarations point to, and the statement."""
    by = f", made with {shorten(tool)}" if tool else ""
    for kind in kinds:
        if kind.points_to == "synthetic":
            return "synthetic", f"declares itself {kind.description} (digital source type {kind.code}){by}"
    for kind in steps:
        if kind.points_to == "synthetic":
            return (
                "synthetic",
                f"declares that a step of its making was synthetic (digital source type {kind.code}){by}",
            )
    generator = find_generator(tool)
    if generator:
        return "synthetic", f"names an AI generator, {generator}, among what made it ({shorten(tool)})"
    edits = [action for action in actions if action in _EDIT_ACTIONS]
    if edits:
        return "edited", f"declares edits ({shorten(', '.join(edits))}){by}"
    for kind in kinds:
        return kind.points_to, f"declares itself {kind.description} (digital source type {kind.code}){by}"
    return "nothing", f"declares no digital source type{by}"


def _find_synthetic_ingredient(manifests: Mapping[str, Any], active: Mapping[str, Any]) -> Iterator[Evidence]:
    """Yield at most one statement: the first synthetic image among the ingredients and, in turn, their ingredients."""
    queue, seen = [(active, True)], {""}
    while queue:
        manifest, is_valid = queue.pop(0)
        for ingredient in manifest.get("ingredients", []):
            label = str(ingredient.get("active_manifest") or "")
            source_manifest = manifests.get(label, {})
            still_valid = is_valid and bool(source_manifest) and not ingredient_failures(ingredient)
            whole, steps = _list_source_types(source_manifest)
            declared = find_source_type(str(ingredient.get("digital_source_type") or ""))
            for kind in (*whole, *steps, *([declared] if declared else [])):
                if kind.points_to == "synthetic":
                    yield _describe_ingredient(ingredient, source_manifest, kind, still_valid)
                    return
            if label not in seen:  # an ingredient may occur many times
                seen.add(label)
                queue.append((source_manifest, still_valid))


def _describe_ingredient(
    ingredient: Mapping[str, Any], manifest: Mapping[str, Any], kind: SourceType, is_valid: bool
) -> Evidence:
    failed = ingredient_failures(ingredient)
    if is_valid:
        signature = "that one's own signature held"
    elif not manifest:
        signature = "that one has no credentials of its own here"
    else:
        why = describe_failure(failed[0]) if failed else "those of a picture made from it did not"
        signature = f"that one's own credentials DID NOT HOLD: {why}"
    says = (
        f"was made from a picture that declares itself {kind.description} (digital source type {kind.code}); "
        f"{signature}"
    )
    fields = (
        ("ingredient", str(ingredient.get("title") or "")),
        ("relationship", str(ingredient.get("relationship") or "")),
        ("signed by", str((manifest.get("signature_info") or {}).get("issuer") or "")),
        ("made with", _tool_names(manifest)),
    )
    return Evidence(SOURCE, "synthetic", "signed" if is_valid else "hint", says, display_fields(fields))


def _tool_names(manifest: Mapping[str, Any]) -> str:
    """Return the names of the claim generator and of the actions' software agents, separated by commas."""
    names = [*(manifest.get("claim_generator_info") or []), manifest.get("claim_generator")]
    names += [action.get("softwareAgent") for action in _list_actions(manifest)]
    return ", ".join(dict.fromkeys(filter(None, map(_tool_name, names))))


def _tool_name(tool: object) -> str:
    if isinstance(tool, Mapping):
        return " ".join(str(tool[key]) for key in ("name", "version") if tool.get(key))
    return str(tool or "")


def _list_actions(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = []
    for assertion in manifest.get("assertions", []):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            found += [action for action in assertion["data"].get("actions", []) if isinstance(action, Mapping)]
    return found[:_MAX_VALUES]


def _list_source_types(manifest: Mapping[str, Any]) -> tuple[list[SourceType], list[SourceType]]:
    """Return the distinct digital source types a manifest declares: of the whole image, and of single actions."""
    steps = [action for action in _list_actions(manifest) if action.get("action") != "c2pa.created"]
    created = [action for action in _list_actions(manifest) if action.get("action") == "c2pa.created"]
    others = [
        assertion.get("data")
        for assertion in manifest.get("assertions", [])
        if not str(assertion.get("label", "")).startswith("c2pa.actions")
    ]
    return _parse_source_types([*created, *others]), _parse_source_types(steps)


def _parse_source_types(values: list[Any]) -> list[SourceType]:
    kinds = map(find_source_type, _find_values("digitalsourcetype", values))
    return list(dict.fromkeys(kind for kind in kinds if kind))


def _find_values(wanted: str, values: list[Any]) -> Iterable[str]:
    """Yield the strings under a key, with any prefix, at any depth; iterative, because files can nest deeply."""
    queue = values[:_MAX_VALUES]
    for _ in range(_MAX_VALUES):
        if not queue:
            return
        value = queue.pop(0)
        if isinstance(value, list):
            queue += value[:_MAX_VALUES]
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if str(key).rpartition(":")[2].lower() == wanted and isinstance(inner, str):
                    yield inner
                elif isinstance(inner, list | Mapping):
                    queue.append(inner)
