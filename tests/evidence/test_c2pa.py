"""Content Credentials: real manifests, signed in the test with certificates made in the test, whole and tampered."""

import io
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mai_app.evidence import c2pa as credentials
from mai_app.evidence.containers import read_metadata
from mai_app.evidence.read import read_evidence
from mai_app.evidence.statements import Evidence
from tests.evidence.files import (
    MIME,
    chain,
    chunk,
    excluding_from_the_start,
    png_with,
    saved,
    signed,
    with_xmp,
    xmp_packet,
)

c2pa: Any = pytest.importorskip("c2pa")


def found(data: bytes) -> list[Evidence]:
    return [one for one in read_evidence(data) if one.source == "Content Credentials"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_valid_manifest_is_signed_evidence(form: str) -> None:
    (one,) = found(signed(form))
    assert (one.points_to, one.strength) == ("synthetic", "signed")
    assert one.says == (
        "declares itself synthetic (digital source type trainedAlgorithmicMedia), made with Test Maker 1.0; unchanged "
        "since it was signed as Test Press, who is on no trust list here: anybody can sign under any name"
    )
    fields = dict(one.fields)
    assert fields["state"] == "Valid"
    assert fields["signed by"] == "Test Press"
    assert fields["common name"] == "Test Camera"
    assert fields["actions"] == "c2pa.created"


@pytest.mark.parametrize(
    ("code", "points_to"),
    [
        ("trainedAlgorithmicMedia", "synthetic"),
        ("compositeWithTrainedAlgorithmicMedia", "synthetic"),
        ("algorithmicMedia", "nothing"),
        ("digitalCapture", "authentic"),
        ("computationalCapture", "authentic"),
        ("digitalArt", "nothing"),
    ],
)
def test_the_digital_source_type_says_what_it_points_to(code: str, points_to: str) -> None:
    (one,) = found(signed("PNG", code))
    assert (one.points_to, one.strength) == (points_to, "signed")
    assert dict(one.fields)["digital source types"] == code


def test_a_generators_name_counts_where_no_source_type_says_it() -> None:
    (one,) = found(signed("PNG", "digitalArt", tool="Adobe_Firefly"))
    assert (one.points_to, one.strength) == ("synthetic", "signed")
    assert "Adobe Firefly" in one.says


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_changed_after_signing_is_said_loudly_and_is_not_signed(form: str) -> None:
    data = bytearray(signed(form))
    at = {"JPEG": len(data) - 30, "PNG": data.find(b"IDAT") + 8, "WEBP": data.find(b"VP8 ") + 20}[form]  # a pixel's
    data[at] ^= 0x55
    (one,) = found(bytes(data))
    assert (one.points_to, one.strength) == ("nothing", "hint")
    assert "DO NOT HOLD" in one.says
    assert "CHANGED" in one.says
    assert "assertion.dataHash.mismatch" in dict(one.fields)["failed"]


@pytest.mark.parametrize(("old", "new"), [(b"Test Maker", b"Best Maker"), (b"trainedAlgo", b"untrainAlgo")])
def test_a_changed_manifest_does_not_count(old: bytes, new: bytes) -> None:
    (one,) = found(signed("JPEG").replace(old, new))
    assert (one.points_to, one.strength) == ("nothing", "hint")
    assert "DO NOT HOLD" in one.says

    assert "CHANGED" not in one.says  # of the file: its signed bytes are as they were


# The failure codes of C2PA 2.4.
FAILURES = """
algorithm.deprecated algorithm.unsupported assertion.action.ingredientMismatch assertion.action.malformed
assertion.action.redacted assertion.action.redactionMismatch assertion.action.softBindingMissing
assertion.alternativeContentRepresentation.hashMismatch assertion.alternativeContentRepresentation.malformed
assertion.alternativeContentRepresentation.missing assertion.bmffHash.malformed assertion.bmffHash.mismatch
assertion.boxesHash.malformed assertion.boxesHash.mismatch assertion.boxesHash.unknownBox assertion.cbor.invalid
assertion.cloud-data.actions assertion.cloud-data.hardBinding assertion.cloud-data.labelMismatch
assertion.cloud-data.malformed assertion.collectionHash.incorrectFileCount assertion.collectionHash.invalidURI
assertion.collectionHash.malformed assertion.collectionHash.mismatch assertion.dataHash.malformed
assertion.dataHash.mismatch assertion.external-reference.actions assertion.external-reference.malformed
assertion.hardBinding.redacted assertion.hashedURI.mismatch assertion.inaccessible assertion.ingredient.malformed
assertion.json.invalid assertion.metadata.disallowed assertion.missing assertion.multiAssetHash.malformed
assertion.multiAssetHash.missingPart assertion.multiAssetHash.mismatch assertion.multipleHardBindings
assertion.notRedacted assertion.outsideManifest assertion.required.missing assertion.selfRedacted
assertion.timestamp.malformed assertion.undeclared cawg.ica.untrusted_issuer cawg.identity.assertion.mismatch
claim.cbor.invalid claim.hardBindings.missing claim.malformed claim.missing claim.multiple claimSignature.mismatch
claimSignature.missing claimSignature.outsideValidity general.error hashedURI.mismatch hashedURI.missing
ingredient.claimSignature.mismatch ingredient.claimSignature.missing ingredient.hashedURI.mismatch
ingredient.manifest.mismatch ingredient.manifest.missing manifest.compressed.invalid manifest.inaccessible
manifest.missing manifest.multipleParents manifest.timestamp.invalid manifest.timestamp.wrongParents
manifest.unknownProvenance manifest.update.invalid manifest.update.wrongParents signingCredential.expired
signingCredential.invalid signingCredential.ocsp.inaccessible signingCredential.ocsp.revoked
signingCredential.ocsp.unknown signingCredential.revoked timeOfSigning.outsideValidity timeStamp.credentialInvalid
timeStamp.malformed timeStamp.mismatch timeStamp.outsideValidity timeStamp.untrusted
""".split()  # noqa: SIM905


def failing(code: str, passed: tuple[str, ...] = (), of_source: bool = False) -> dict[str, Any]:
    """A report of c2pa's with a failure of the manifest, or of the one of a picture that was used."""
    entry = [{"code": code, "url": "self#jumbf=/c2pa/x/c2pa.assertions/c2pa.hash.data"}]
    own = {"success": [{"code": one} for one in passed], "failure": [] if of_source else entry}
    deltas = [{"validationDeltas": {"failure": entry}}] if of_source else []
    results = {"activeManifest": own, "ingredientDeltas": deltas}
    return {
        "validation_state": "Invalid",
        "active_manifest": "x",
        "manifests": {"x": {}},
        "validation_results": results,
    }


def test_every_failure_has_words_and_none_is_called_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(FAILURES) > 80
    data = signed("PNG")
    for code in FAILURES:
        for of_source in (False, True):
            store = failing(code, (), of_source)
            monkeypatch.setattr(credentials, "read_store", lambda *_, store=store: store)
            (one,) = found(data)
            assert (one.points_to, one.strength) == ("nothing", "hint")
            assert one.says.startswith("Content Credentials DO NOT HOLD: ")
            assert one.says.endswith(f" ({code}); they count for nothing")
            assert "changed" not in one.says.lower()
            assert "no words" not in one.says
            assert one.says.isprintable()
    monkeypatch.setattr(credentials, "read_store", lambda *_: failing("of.tomorrow"))
    (one,) = found(data)
    assert "a failure that MAI has no words for (of.tomorrow)" in one.says


def test_an_expired_certificate_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = ("claimSignature.validated", "assertion.dataHash.match")
    monkeypatch.setattr(credentials, "read_store", lambda *_: failing("signingCredential.expired", passed))
    (one,) = found(signed("PNG"))
    assert one.says == (
        "Content Credentials DO NOT HOLD: no signed byte of the file was changed; the signer's certificate has "
        "expired, and no time stamp shows an earlier signing (signingCredential.expired); they count for nothing"
    )


def test_leaving_out_more_than_the_credentials_is_no_change() -> None:
    # As Truepic's cameras signed: c2pa refuses it, with the code of a changed file.
    data = excluding_from_the_start(signed("JPEG", "digitalCapture"))
    end = data.find(b"\xff\xdb")
    in_the_head = data[:12] + b"\x02" + data[13:]  # not covered: in front of the credentials
    for unchanged in (data, in_the_head):
        (one,) = found(unchanged)
        assert (one.points_to, one.strength) == ("nothing", "hint")
        assert one.says == (
            f"Content Credentials DO NOT HOLD: no signed byte was changed, but what the signature leaves out (bytes 0 "
            f"to {end}) is not the credentials alone, so that EXIF or other data there are not protected "
            "(assertion.dataHash.mismatch); they count for nothing"
        )
    for changed in (data[:-30] + bytes([data[-30] ^ 0x55]) + data[-29:], data + b"\0", data[:-2]):
        (one,) = found(changed)
        assert "the file was CHANGED after signing: its bytes do not have the signed hash" in one.says
    # Where the signature does not hold either, nothing is known of the bytes that it stood for.
    (one,) = found(data.replace(b"Test Maker", b"Best Maker")[:-30] + bytes(30))
    assert "the file does not fit the hash in them; the signature does not fit" in one.says
    assert "changed" not in one.says.lower()


def test_what_a_valid_signature_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    read = credentials.read_store

    def leaving_out(ranges: list[tuple[int, int]]) -> Callable[..., dict[str, Any]]:
        def report(*arguments: Any) -> dict[str, Any]:
            store = read(*arguments)
            name = store["active_manifest"]
            url = f"self#jumbf=/c2pa/{name}/c2pa.assertions/c2pa.hash.data"
            code = "assertion.dataHash.additionalExclusionsPresent"
            store["validation_results"]["activeManifest"]["informational"].append({"code": code, "url": url})
            hashed = {"alg": "sha256", "hash": "", "exclusions": [{"start": a, "length": b} for a, b in ranges]}
            store["detailed"] = {"manifests": {name: {"assertion_store": {"c2pa.hash.data": hashed}}}}
            return store

        return report

    for ranges, words in (
        ([(20, 3000), (4000, 500)], "; unchanged, but for parts that the signature leaves out, since it was signed as"),
        ([(20, 3000), (4000, 4)], "; unchanged since it was signed as"),
    ):
        monkeypatch.setattr(credentials, "read_store", leaving_out(ranges))
        (one,) = found(signed("JPEG"))
        assert one.strength == "signed"
        assert words in one.says


def test_a_source_changed_later_is_said_of_the_source() -> None:
    data = signed("JPEG", data=signed("JPEG", tool="Inner Tool"), edits=("cropped",))
    (one,) = found(data.replace(b"Inner Tool", b"Other Tool"))
    assert (one.points_to, one.strength) == ("nothing", "hint")
    assert "no signed byte of the file was changed" in one.says
    assert "of a picture that it was made from, the signature does not fit what it stands under" in one.says
    assert "claimSignature.mismatch" in dict(one.fields)["failed"]


def test_what_an_ingredients_signature_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "label": "c2pa.actions",
        "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": "trainedAlgorithmicMedia"}]},
    }
    for ingredient, sources, strength, words in (
        ({"active_manifest": "y"}, {"y": {"assertions": [made]}}, "signed", "that one's own signature held"),
        (
            {"active_manifest": "y", "validation_status": [{"code": "claimSignature.validated"}]},
            {"y": {"assertions": [made]}},
            "signed",
            "that one's own signature held",
        ),
        (
            {"active_manifest": "y", "validation_status": [{"code": "assertion.dataHash.mismatch"}]},
            {"y": {"assertions": [made]}},
            "hint",
            "that one's own credentials DID NOT HOLD: the file does not fit the hash in them",
        ),
        ({"digital_source_type": "trainedAlgorithmicMedia"}, {}, "hint", "that one has no credentials of its own here"),
    ):
        manifests = {"x": {"ingredients": [ingredient]}, **sources}
        store = {"validation_state": "Valid", "active_manifest": "x", "manifests": manifests}
        monkeypatch.setattr(credentials, "read_store", lambda *_, store=store: store)
        _, one = found(signed("PNG"))
        assert (one.points_to, one.strength) == ("synthetic", strength)
        assert one.says.endswith(words)


def test_a_manifest_moved_to_another_picture_does_not_count() -> None:
    store = read_metadata(signed("PNG", "digitalCapture")).manifest
    (one,) = found(png_with(chunk(b"caBX", store), chunk(b"tEXt", b"other\0picture")))
    assert (one.points_to, one.strength) == ("nothing", "hint")
    assert "DO NOT HOLD" in one.says


def test_trusted_is_said_where_a_trust_list_has_the_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = credentials.SETTINGS | {"trust": {"user_anchors": chain("")[2]}}
    monkeypatch.setattr(credentials, "SETTINGS", settings)
    (one,) = found(signed("JPEG", "digitalCapture"))
    assert (one.points_to, one.strength) == ("authentic", "signed")
    assert one.says.endswith("signed by Test Press, who is on a trust list")


def test_edits_and_what_was_edited() -> None:
    edited = signed("JPEG", data=signed("JPEG", "digitalCapture"), edits=("color_adjustments", "cropped"))
    (one,) = found(edited)
    assert (one.points_to, one.strength) == ("edited", "signed")
    assert "c2pa.color_adjustments, c2pa.cropped" in one.says

    _, source = found(signed("JPEG", data=signed("JPEG"), edits=("cropped",)))
    assert (source.points_to, source.strength) == ("synthetic", "signed")
    assert "was made from a picture that declares itself synthetic" in source.says
    assert dict(source.fields)["relationship"] == "parentOf"


def test_a_synthetic_step_is_not_the_whole() -> None:
    step = ("edited", "trainedAlgorithmicMedia")
    (one,) = found(signed("JPEG", data=signed("JPEG", "digitalCapture"), edits=("cropped",), step=step))
    assert (one.points_to, one.strength) == ("synthetic", "signed")
    assert one.says.startswith("declares that a step of its making was synthetic (digital source type trained")


def test_many_threads_at_once() -> None:
    files = [signed(form) for form in MIME] * 8
    with ThreadPoolExecutor(4) as pool:
        assert [[one.strength for one in said] for said in pool.map(found, files)] == [["signed"]] * len(files)


def test_an_edited_picture_whose_ingredient_did_not_hold() -> None:
    tampered = bytearray(signed("PNG"))
    tampered[tampered.find(b"IDAT") + 8] ^= 0x55
    _, source = found(signed("PNG", data=bytes(tampered), edits=("cropped",)))
    assert (source.points_to, source.strength) == ("synthetic", "hint")
    assert "DID NOT HOLD" in source.says


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_without_the_extra_it_says_how_to_read_them(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = signed(form)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    (one,) = found(data)
    assert (one.points_to, one.strength) == ("nothing", "hint")
    assert one.says == "carries Content Credentials, which were not read: pip install 'mai-app[provenance]' does"


def test_files_without_a_manifest_never_reach_c2pa(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(credentials, "_import_c2pa", never)
    for form in MIME:
        assert found(saved(form)) == []


class _Counted(ThreadingHTTPServer):
    """Counts the requests it gets, and has nothing to give."""

    def __init__(self) -> None:
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(handler) -> None:  # noqa: N805
                self.requests.append(handler.path)
                handler.send_error(404)

            do_GET = do_POST = do_HEAD = answer  # noqa: N815

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/manifest.c2pa"


@pytest.fixture
def server() -> Iterator[_Counted]:
    with _Counted() as counted:
        thread = threading.Thread(target=counted.serve_forever, args=(0.02,))
        thread.start()
        yield counted
        counted.shutdown()
        thread.join()


def test_remote_manifests_are_never_fetched(server: _Counted) -> None:
    remote = signed("JPEG", remote=server.address, embedded=False)
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader("image/jpeg", io.BytesIO(remote))
    assert len(server.requests) == 1  # so c2pa would, were it let
    server.requests.clear()

    (one,) = found(remote)
    assert (one.points_to, one.strength) == ("nothing", "hint")
    assert one.says == "names Content Credentials that are kept elsewhere; they were not fetched"
    assert one.fields == (("address", server.address),)
    (one,) = found(signed("JPEG", remote=server.address))
    assert one.strength == "signed"
    # Even if it came to c2pa, for that is done only with files that have a store of their own.
    with pytest.raises(c2pa.C2paError, match="must fetch"):
        credentials.read_store(c2pa, remote, "JPEG")
    png = with_xmp("PNG", xmp_packet(f"<dcterms:provenance>{server.address}</dcterms:provenance>"))
    (one,) = found(png)
    assert "not fetched" in one.says
    assert server.requests == []


def test_revocation_is_never_asked_for(server: _Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    data = signed("JPEG", ocsp=server.address)
    with (
        c2pa.Context.from_dict({"verify": {"ocsp_fetch": True}}) as context,
        c2pa.Reader("image/jpeg", io.BytesIO(data), None, context),
    ):
        assert server.requests  # so c2pa would
    server.requests.clear()
    (one,) = found(data)
    assert one.strength == "signed"
    assert server.requests == []
    # Nor would it be if only one of the two settings that forbid it did.
    for settings in ({"verify": credentials.SETTINGS["verify"]}, {"core": credentials.SETTINGS["core"]}):
        monkeypatch.setattr(credentials, "SETTINGS", {"verify": {"ocsp_fetch": True}} | settings)
        assert found(data) == [one]
    assert server.requests == []


def test_what_is_no_manifest_is_damaged_and_counts_for_nothing() -> None:
    store = read_metadata(signed("PNG")).manifest
    for manifest in (b"nonsense", store[: len(store) // 2], store[:60] + b"\xff" * 40 + store[100:]):
        (one,) = found(png_with(chunk(b"caBX", manifest)))
        assert (one.points_to, one.strength) == ("nothing", "hint"), one
        assert "COUNT FOR NOTHING" in one.says or "DO NOT HOLD" in one.says or "too large" in one.says


def test_large_files_and_stores_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("read")

    data = signed("PNG")
    monkeypatch.setattr(credentials, "read_store", never)
    (one,) = found(data + bytes(credentials.MAX_FILE))
    assert one.says == "carries Content Credentials, which were not checked: the file is over 16 MiB"
    nested = b"".join(struct.pack(">I4s", 8 * (2_000 - i), b"jumb") for i in range(2_000))
    many = struct.pack(">I4s", 8, b"free") * 100_000
    much = struct.pack(">I4s", 600_008, b"cbor") + bytes(600_000)
    for manifest in (nested, many, much, bytes(9_000_000)):
        (one,) = found(png_with(chunk(b"caBX", manifest)))
        assert one.says == "carries Content Credentials, which were not checked: they are too large"


def test_files_of_many_parts_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(credentials, "read_store", never)
    jpeg, gif = signed("JPEG"), signed("GIF")
    at = gif.find(b"C2PA_GIF") - 3
    for data in (
        jpeg[:2] + b"\xff\xfe\0\2" * 10_001 + jpeg[2:],
        png_with(*[chunk(b"teSt", b"")] * 10_001, chunk(b"caBX", b"x")),
        gif[:at] + b"\x21\xfe" + b"\x01a" * 10_001 + b"\0" + gif[at:],
    ):
        (one,) = found(data)
        assert one.says == "carries Content Credentials, which were not checked: the file has over 10,000 parts"


PEAK = """
import sys
from pathlib import Path
from mai_app.evidence.read import read_evidence
def memory(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024
small, data = (Path(name).read_bytes() for name in sys.argv[1:])
read_evidence(small)
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
says = read_evidence(data)[0].says
print(memory("VmHWM") - before, says)
"""


@pytest.mark.parametrize("case", ["claim", "long", "parts"])
def test_c2pa_stays_within_memory(case: str, tmp_path: Path) -> None:
    # c2pa's memory is no Python's: it is measured from outside, on the worst that is let through to it.
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc")
    if case == "claim":
        store = read_metadata(signed("PNG")).manifest
        claim = b"\x9b" + struct.pack(">Q", 500_000) + bytes(500_000)
        data = png_with(chunk(b"caBX", _with_claim(store, store.find(b"c2pa.claim.v2\0") + 14, claim)))
    else:
        segments = 9_000 if case == "parts" else 0
        jpeg = signed("JPEG", data=saved("JPEG")[:2] + b"\xff\xfe\0\2" * segments + saved("JPEG")[2:])
        data = jpeg + bytes(credentials.MAX_FILE - len(jpeg))
    (tmp_path / "small").write_bytes(signed("PNG"))
    (tmp_path / "data").write_bytes(data)
    names = [tmp_path / "small", tmp_path / "data"]
    done = subprocess.run([sys.executable, "-c", PEAK, *names], capture_output=True, text=True, check=True)
    grown, says = done.stdout.split(" ", 1)
    assert ("COUNT FOR NOTHING" if case == "claim" else "DO NOT HOLD") in says  # so c2pa had it
    assert float(grown) < 40


def _with_claim(store: bytes, at: int, claim: bytes) -> bytes:
    """The store with other content of the claim's box, which begins at `at`, and lengths that fit."""
    old = int.from_bytes(store[at : at + 4], "big")
    new = struct.pack(">I4s", len(claim) + 8, b"cbor") + claim
    result = bytearray(store[:at] + new + store[at + old :])
    grown = len(new) - old
    position = 0
    while position < at:  # each superbox around it
        length, kind = (
            int.from_bytes(result[position : position + 4], "big"),
            bytes(result[position + 4 : position + 8]),
        )
        if kind == b"jumb" and position + length >= at + old:
            result[position : position + 4] = struct.pack(">I", length + grown)
            position += 8
        else:
            position += length
    return bytes(result)


def test_the_installed_c2pa_knows_the_settings() -> None:
    # Settings that it does not know it leaves out without a word.
    with pytest.raises(c2pa.C2paError):
        c2pa.Settings.from_dict({"verify": {"remote_manifest_fetch": "maybe"}})
    with c2pa.Settings.from_dict(credentials.SETTINGS):
        pass
