"""Puts into words why Content Credentials do not hold: failure codes of C2PA, and the signed hash, recomputed."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

from mai_app.evidence.statements import shorten

DATA_HASH: Final = "assertion.dataHash.mismatch"
_MORE_LEFT_OUT: Final = "assertion.dataHash.additionalExclusionsPresent"
_MAX_LENGTH_FIELDS: Final = 16  # bytes: in a TIFF, the length of the credentials lies apart from them
_HASHES: Final = ("sha256", "sha384", "sha512")  # that the specification allows
_MAX_REASONS: Final = 3

_FAILURES: Final = {
    "algorithm": "they use an algorithm that c2pa does not support",
    "algorithm.deprecated": "they use an algorithm that is no longer allowed",
    "assertion": "a statement in them breaks the rules of C2PA",
    "assertion.action": "their list of actions breaks the rules of C2PA",
    "assertion.bmffHash": "the file does not fit their hashes of its parts; MAI does not compute them again",
    "assertion.boxesHash": "the file does not fit their hashes of its parts; MAI does not compute them again",
    "assertion.collectionHash": "the files do not fit their hashes; MAI does not compute them again",
    "assertion.multiAssetHash": "the file does not fit their hashes of its parts; MAI does not compute them again",
    "assertion.alternativeContentRepresentation": "another form of the content does not fit its hash in them",
    "assertion.dataHash": "the file does not fit the hash in them",
    "assertion.dataHash.malformed": "their hash of the file is malformed",
    "assertion.bmffHash.malformed": "their hashes of the file's parts are malformed",
    "assertion.boxesHash.malformed": "their hashes of the file's parts are malformed",
    "assertion.boxesHash.unknownBox": "the file has a part that they do not list",
    "assertion.collectionHash.malformed": "their hashes of files are malformed",
    "assertion.multiAssetHash.malformed": "their hashes of the file's parts are malformed",
    "assertion.hashedURI": "a statement in them does not have the hash that was signed",
    "assertion.hardBinding.redacted": "their hash of the file was taken out, which C2PA forbids",
    "assertion.cbor": "a statement in them cannot be read",
    "assertion.json": "a statement in them cannot be read",
    "assertion.inaccessible": "a statement in them is kept elsewhere and was not fetched",
    "assertion.cloud-data": "a statement that is kept elsewhere breaks the rules of C2PA",
    "assertion.external-reference": "a statement that is kept elsewhere breaks the rules of C2PA",
    "assertion.missing": "a statement that they list is missing",
    "assertion.required.missing": "a statement that C2PA requires is missing",
    "assertion.multipleHardBindings": "they hold more than one hash of the file",
    "assertion.outsideManifest": "they list a statement of other credentials as their own",
    "assertion.notRedacted": "a statement that they call taken out is still there",
    "assertion.undeclared": "they hold a statement that the signature does not list",
    "cawg": "an identity that they name is not confirmed",
    "claim": "what was signed is malformed",
    "claim.missing": "what was signed is missing",
    "claim.multiple": "it is not clear which part of them was signed",
    "claim.hardBindings.missing": "they hold no hash of the file, so that they may belong to another one",
    "claimSignature": "the signature is not valid",
    "claimSignature.mismatch": "the signature does not fit what it stands under: they were altered, or signed wrongly",
    "claimSignature.missing": "they are not signed",
    "claimSignature.outsideValidity": "they were signed at a time at which the signer's certificate was not valid",
    "general": "c2pa could not check them",
    "hashedURI": "a part of them does not have the hash that was signed",
    "hashedURI.missing": "a part of them is missing",
    "ingredient": "the credentials of a picture that it was made from do not fit",
    "ingredient.claimSignature.missing": "a picture that it was made from is not signed",
    "ingredient.manifest.missing": "the credentials of a picture that it was made from are missing",
    "manifest": "their structure breaks the rules of C2PA",
    "manifest.compressed": "they are compressed and cannot be unpacked",
    "manifest.inaccessible": "they are kept elsewhere and were not fetched",
    "manifest.missing": "they are missing",
    "signingCredential": "the signer's certificate is not valid",
    "signingCredential.expired": "the signer's certificate has expired, and no time stamp shows an earlier signing",
    "signingCredential.invalid": "the signer's certificate is not of the kind that C2PA allows",
    "signingCredential.ocsp": "whether the signer's certificate was revoked is not known",
    "signingCredential.ocsp.revoked": "the signer's certificate was revoked",
    "signingCredential.revoked": "the signer's certificate was revoked",
    "signingCredential.untrusted": "the signer is on no trust list here",
    "timeOfSigning": "they were signed at a time at which the signer's certificate was not valid",
    "timeStamp": "their time stamp is not valid",
    "timeStamp.untrusted": "who made their time stamp is on no trust list here",
}
"""What a failed check means, by the code of C2PA 2.4 or the beginning of it. No code alone shows a change."""
_PASSED: Final = ("match", "validated", "trusted", "insideValidity", "accessible", "notRevoked")


def describe_failure(code: str) -> str:
    """Return what a C2PA failure code means, as words that follow "Content Credentials do not hold: "."""
    beginning = code
    while beginning:
        if beginning in _FAILURES:
            return _FAILURES[beginning]
        beginning = beginning.rpartition(".")[0]
    return "c2pa reports a failure that MAI has no words for"


def _is_passed(code: str) -> bool:
    """Whether a C2PA status code is that of a passed check."""
    return code.rpartition(".")[2] in _PASSED


def read_results(store: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return c2pa's success, informational and failure entries on the active manifest."""
    results = (store.get("validation_results") or {}).get("activeManifest") or {}
    return {kind: list(results.get(kind) or []) for kind in ("success", "informational", "failure")}


def failure_codes(results: Mapping[str, Any]) -> list[str]:
    """Return the distinct codes of failed checks, except that the signer is on no trust list (none is installed)."""
    codes = (str(failure.get("code", "")) for failure in results.get("failure") or [])
    return [code for code in dict.fromkeys(codes) if code != "signingCredential.untrusted"]


def source_failures(store: Mapping[str, Any]) -> list[str]:
    """Return the codes that ingredients' manifests fail now and did not fail when they were used."""
    deltas = (store.get("validation_results") or {}).get("ingredientDeltas") or []
    codes = [code for delta in deltas for code in failure_codes(delta.get("validationDeltas") or {})]
    return list(dict.fromkeys(codes))


def ingredient_failures(ingredient: Mapping[str, Any]) -> list[str]:
    """Return the codes of checks that an ingredient failed when it was used, as its signer recorded them."""
    results = (ingredient.get("validation_results") or {}).get("activeManifest") or {}
    # Versions before 2 have one list of codes; it may hold those of passed checks.
    older = [one for one in ingredient.get("validation_status") or [] if not _is_passed(str(one.get("code", "")))]
    return failure_codes({"failure": [*(results.get("failure") or []), *older]})


def needs_details(store: Mapping[str, Any]) -> bool:
    """Whether c2pa's detailed report is needed, as store["detailed"]: the hash of the file is in doubt."""
    results = read_results(store)
    return any(entry.get("code") in (DATA_HASH, _MORE_LEFT_OUT) for part in results.values() for entry in part)


def leaves_parts_out(store: Mapping[str, Any]) -> bool:
    """Whether the signed hash leaves out more than the credentials and a few bytes that hold their length."""
    try:
        notes = read_results(store)["informational"]
        url = next(str(entry["url"]) for entry in notes if entry.get("code") == _MORE_LEFT_OUT)
        lengths = [length for _, length in _read_data_hash(store, url)[2]]
    except StopIteration:
        return False
    except (KeyError, TypeError, ValueError):
        return True
    return sum(lengths) - max(lengths, default=0) > _MAX_LENGTH_FIELDS


def describe_failures(store: Mapping[str, Any], data: bytes) -> str:
    """Return why c2pa refuses a store, in words; a change of the file is named only where it was recomputed.

    `store` is c2pa's report, of a file with the bytes `data`.
    """
    results = read_results(store)
    codes = failure_codes(results)
    reasons = {code: describe_failure(code) for code in codes}
    succeeded = {str(entry.get("code", "")) for entry in results["success"]}
    if DATA_HASH in codes:
        state, left_out = _check_data_hash(store, results, data)
        if state == "changed":
            reasons[DATA_HASH] = "the file was CHANGED after signing: its bytes do not have the signed hash"
        elif state == "unchanged":
            # Truepic's cameras sign so: what is left out begins at the file's first byte, with EXIF in it.
            reasons[DATA_HASH] = (
                f"no signed byte was changed, but what the signature leaves out ({left_out}) is not the credentials "
                "alone, so that EXIF or other data there are not protected"
            )
    elif {"assertion.dataHash.match", "claimSignature.validated"} <= succeeded:
        reasons["match"] = "no signed byte of the file was changed"
    for code in source_failures(store):
        about = "" if code.startswith("ingredient") else "of a picture that it was made from, "
        reasons.setdefault(code, about + describe_failure(code))
    # What is known of the file's bytes comes first.
    first = [reasons.pop(key) for key in (DATA_HASH, "match") if key in reasons]
    words = list(dict.fromkeys([*first, *reasons.values()]))
    return "; ".join(words[:_MAX_REASONS]) or "c2pa does not say why"


def _check_data_hash(
    store: Mapping[str, Any], results: Mapping[str, list[Mapping[str, Any]]], data: bytes
) -> tuple[Literal["changed", "unchanged", "unknown"], str]:
    """Recompute the hash of the bytes that were signed, and return what that shows, and the bytes left out of it.

    c2pa reports a mismatch, too, where it refuses the range that is left out. Without a valid signature over the hash
    itself nothing is known of a change.
    """
    try:
        url = next(str(entry["url"]) for entry in results["failure"] if entry.get("code") == DATA_HASH)
        algorithm, expected, ranges = _read_data_hash(store, url)
        digest, view, at = hashlib.new(algorithm), memoryview(data), 0
        for start, length in ranges:
            digest.update(view[at : max(at, start)])
            at = max(at, start + length)
        digest.update(view[at:])
    except (KeyError, TypeError, ValueError, StopIteration):
        return "unknown", ""
    place = url.rpartition("/c2pa.assertions/")[0] + "/"
    succeeded = [(entry.get("code"), str(entry.get("url"))) for entry in results["success"]]
    if ("assertion.hashedURI.match", url) not in succeeded or not any(
        code == "claimSignature.validated" and signature.startswith(place) for code, signature in succeeded
    ):
        return "unknown", ""
    left_out = shorten(", ".join(f"bytes {start} to {start + length}" for start, length in ranges))
    return "unchanged" if digest.digest() == expected else "changed", left_out


def _read_data_hash(store: Mapping[str, Any], url: str) -> tuple[str, bytes, list[tuple[int, int]]]:
    """Return an assertion's hash algorithm, hash, and the ranges left out (start, length) in order.

    Raises KeyError, TypeError or ValueError if there is none that can be read.
    """
    label, _, name = url.split("/")[-3:]  # self#jumbf=/c2pa/MANIFEST/c2pa.assertions/NAME
    manifest = store["detailed"]["manifests"][label]
    assertion = manifest["assertion_store"][name]
    algorithm, expected = assertion.get("alg") or manifest["claim"]["alg"], assertion["hash"]
    if algorithm not in _HASHES:
        raise ValueError(f"hash algorithm {algorithm!r}")
    ranges = sorted((int(one["start"]), int(one["length"])) for one in assertion.get("exclusions") or [])
    return algorithm, base64.b64decode(expected) if isinstance(expected, str) else bytes(expected), ranges
