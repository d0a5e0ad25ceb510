"""Image files that say something of their making, written by Pillow, c2pa and, where no writer would, by hand."""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from PIL import Image, PngImagePlugin

IPTC_CODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "TIFF": "image/tiff", "GIF": "image/gif"}


def saved(form: str, **options: Any) -> bytes:
    """A small picture as a file of that format, with Pillow's options."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 30)).save(buffer, form, **options)
    return buffer.getvalue()


def with_exif(form: str, tags: dict[int, Any], further: dict[int, Any] | None = None) -> bytes:
    """A file with these EXIF tags; `further` go into the EXIF directory."""
    if form == "TIFF":
        return saved(form, tiffinfo=tags | ({34665: further} if further else {}))
    exif = Image.Exif()
    exif.update(tags)
    exif.get_ifd(34665).update(further or {})
    return saved(form, exif=exif.tobytes())


def with_texts(texts: Iterable[tuple[str, str]], compressed: bool = False) -> bytes:
    """A PNG with these texts."""
    info = PngImagePlugin.PngInfo()
    for key, text in texts:
        info.add_text(key, text, zip=compressed)
    return saved("PNG", pnginfo=info)


def xmp_packet(properties: str) -> bytes:
    """An XMP packet around properties, which are elements."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
        ' xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:dcterms="http://purl.org/dc/terms/"'
        ' xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
        f' xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/">{properties}</rdf:Description></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def with_xmp(form: str, packet: bytes) -> bytes:
    """A file with this XMP packet."""
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        return saved("PNG", pnginfo=info)
    return saved(form, tiffinfo={700: packet}) if form == "TIFF" else saved(form, xmp=packet)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes) -> bytes:
    """A PNG with these chunks behind its head."""
    data = saved("PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def raw_profile(kind: bytes, name: str, block: bytes) -> bytes:
    """A chunk with a block as ImageMagick, exiftool and exiv2 write it; `kind` iTXz is a compressed iTXt."""
    digits = block.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{name}\n{len(block):8d}\n{lines}\n".encode()
    key = f"Raw profile type {name}".encode() + b"\0"
    if kind == b"tEXt":
        return chunk(kind, key + text)
    if kind == b"zTXt":
        return chunk(kind, key + b"\0" + zlib.compress(text))
    packed = kind == b"iTXz"
    return chunk(b"iTXt", key + bytes([packed]) + b"\0\0\0" + (zlib.compress(text) if packed else text))


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG with these segments (marker, content) behind its first."""
    plain = saved("JPEG")
    pieces = (b"\xff" + bytes([marker]) + struct.pack(">H", len(piece) + 2) + piece for marker, piece in segments)
    return plain[:20] + b"".join(pieces) + plain[20:]


@cache
def chain(ocsp: str = "") -> tuple[str, str, str]:
    """Certificates, the signer's key, and the root alone, as PEM; `ocsp` is where its revocation is asked for."""
    from cryptography import x509  # noqa: PLC0415 - comes with c2pa
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    def name(common: str) -> x509.Name:
        parts = ((NameOID.ORGANIZATION_NAME, "Test Press"), (NameOID.COMMON_NAME, common))
        return x509.Name([x509.NameAttribute(*part) for part in parts])

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, is_root: bool) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Test Root"))
            .public_key(key.public_key())
            .serial_number(1 if is_root else 2)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=300))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, is_root, is_root, False, False), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("Test Root", root_key, True).sign(root_key, hashes.SHA256())
    signer = (
        certificate("Test Camera", key, False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    )
    if ocsp:
        where = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp))
        signer = signer.add_extension(x509.AuthorityInformationAccess([where]), critical=False)
    root_pem = root.public_bytes(serialization.Encoding.PEM).decode()
    return (
        signer.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode() + root_pem,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        root_pem,
    )


def signed(
    form: str,
    source_type: str = "trainedAlgorithmicMedia",
    tool: str = "Test Maker",
    data: bytes = b"",
    edits: tuple[str, ...] = (),
    step: tuple[str, str] | None = None,
    remote: str = "",
    embedded: bool = True,
    ocsp: str = "",
) -> bytes:
    """A file with Content Credentials: created as of a source type, or, with `edits`, edited from `data`.

    `step` is a further edit with a source type of its own.
    """
    import c2pa  # noqa: PLC0415 - an extra

    actions = [{"action": f"c2pa.{edit}"} for edit in edits] or [
        {"action": "c2pa.created", "digitalSourceType": IPTC_CODES + source_type}
    ]
    if step:
        actions.append({"action": f"c2pa.{step[0]}", "digitalSourceType": IPTC_CODES + step[1]})
    manifest = {
        "claim_generator_info": [{"name": tool, "version": "1.0"}],
        "title": "a picture",
        "assertions": [{"label": "c2pa.actions", "data": {"actions": actions}}],
    }
    certificates, key, _ = chain(ocsp)
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", certificates.encode(), key.encode(), None))
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    builder = c2pa.Builder(json.dumps(manifest), context)
    if edits:
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
    if remote:
        builder.set_remote_url(remote)
    if not embedded:
        builder.set_no_embed()
    target = io.BytesIO()
    builder.sign(signer, MIME[form], io.BytesIO(data or saved(form)), target)
    signer.close()
    context.close()
    return target.getvalue()


def excluding_from_the_start(data: bytes) -> bytes:
    """A signed JPEG, signed again with all in front of the credentials left out of the hash, as Truepic's cameras do.

    Values of the same length take the place of the old ones, so that the store keeps its form.
    """
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415

    start = data.find(b"\xff\xeb")  # the store's segment

    def content(label: bytes) -> tuple[int, int]:
        """Where the CBOR of the box with that label begins and ends."""
        box = data.find(label + b"\0", start) + len(label) + 1
        while data[box + 4 : box + 8] != b"cbor":
            box += int.from_bytes(data[box : box + 4], "big")  # a salt in front of it
        return box + 8, box + int.from_bytes(data[box : box + 4], "big")

    def hash_of_hash(source: bytes) -> bytes:
        """The hash of the assertion with the file's hash, without the header of its box, as the claim has it."""
        description = source.find(b"c2pa.hash.data\0", start) - 25
        return hashlib.sha256(source[description : content(b"c2pa.hash.data")[1]]).digest()

    result = bytearray(data)
    # CBOR: a map of two, "start" with a small number, "length" with one of two bytes.
    at = data.find(b"\xa2\x65start" + bytes([start]) + b"\x66length\x19")
    end = start + int.from_bytes(data[at + 16 : at + 18], "big")
    result[at + 7] = 0
    result[at + 16 : at + 18] = struct.pack(">H", end)
    at = data.find(b"\x64hash\x58\x20", at) + 7
    result[at : at + 32] = hashlib.sha256(data[end:]).digest()
    claim = content(b"c2pa.claim.v2")
    at = data.find(hash_of_hash(data), *claim)
    result[at : at + 32] = hash_of_hash(bytes(result))
    begin, end = content(b"c2pa.signature")
    protected_at = begin + 2  # tag 18, a list of four
    size = int.from_bytes(data[protected_at + 1 : protected_at + 3], "big")
    protected = data[protected_at : protected_at + 3 + size]
    payload = bytes(result[slice(*claim)])
    message = b"\x84\x6aSignature1" + protected + b"\x40\x59" + struct.pack(">H", len(payload)) + payload
    key = serialization.load_pem_private_key(chain("")[1].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    numbers = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    result[end - 64 : end] = b"".join(number.to_bytes(32, "big") for number in numbers)
    return bytes(result)
