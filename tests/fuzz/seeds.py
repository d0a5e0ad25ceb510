"""Seeds of the fuzzer: small files of every format, with metadata of every kind, made by the project itself."""

import contextlib
import dataclasses
import io
import json
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from mai_app.config import Architecture, Preprocessing
from mai_app.models.calibration import Calibration, TierRates
from mai_app.models.description import CheckpointInfo, info_document
from tests.evidence.files import chunk, png_with, raw_profile, signed, with_exif, with_segments, with_texts, with_xmp
from tests.evidence.files import xmp_packet as packet

NOISE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
SETTINGS = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 7, Size: 512x512"
WORKFLOW = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20, "ckpt_name": "sd.ckpt"}}})
XMP = packet(
    "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    "</Iptc4xmpExt:DigitalSourceType><xmp:CreatorTool>Midjourney</xmp:CreatorTool><xmpMM:History><rdf:Seq>"
    '<rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop 25.0"/></rdf:Seq></xmpMM:History>'
    '<TC260:AIGC>{"Label":"1","ContentProducer":"x"}</TC260:AIGC><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">Job ID: 01234567-89ab-cdef-0123-456789abcdef</rdf:li></rdf:Alt></dc:description>'
)
IPTC = b"\x1c\2\x41\0\x0aMidjourney\x1c\2\x6e\0\x0eMade with Grok"
RESOURCES = b"8BIM\4\4\0\0" + struct.pack(">L", len(IPTC)) + IPTC
TAGS = {271: "Canon", 272: "Canon EOS R5", 274: 6, 305: "Adobe Photoshop", 315: "DALL-E 3", 282: 72.0}
FURTHER = {36867: "2026:01:01 00:00:00", 37510: b"UNICODE\0" + SETTINGS.encode("utf-16-le"), 42036: "RF50mm"}


def _frames() -> dict[str, object]:
    # A new picture each time: saving leaves options of its format in it.
    return {"save_all": True, "append_images": [Image.fromarray(NOISE[::-1].copy())]}


def _palette() -> Image.Image:
    return Image.fromarray(NOISE).quantize(16)


def _saved(form: str, pixels: object = NOISE, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(buffer, form, **options)
    return buffer.getvalue()


@cache
def image_seeds() -> tuple[bytes, ...]:
    """Image files of all formats and modes, whole and cut, without metadata."""
    grey, deep = NOISE[..., 0], NOISE[..., 0].astype(np.uint16) * 257
    clear = np.dstack([NOISE, NOISE[..., :1]])
    files = [
        _saved("JPEG"),
        _saved("JPEG", quality=30, subsampling="4:2:0", progressive=True),
        _saved("JPEG", grey),
        _saved("JPEG", Image.fromarray(NOISE).convert("CMYK")),
        _saved("JPEG", restart_marker_blocks=1),
        _saved("MPO", **_frames()),
        *(
            _saved("PNG", pixels)
            for pixels in (NOISE, grey, deep, clear, _palette(), Image.fromarray(grey).convert("1"))
        ),
        _saved("PNG", _palette(), transparency=3),
        _saved("PNG", **_frames()),
        *(_saved("WEBP", pixels, lossless=lossless) for pixels in (NOISE, clear) for lossless in (False, True)),
        _saved("WEBP", **_frames()),
        _saved("GIF", _palette()),
        _saved("GIF", _palette(), transparency=3, comment=b"Midjourney"),
        _saved("GIF", **_frames()),
        _saved("BMP"),
        _saved("BMP", _palette()),
        _saved("BMP", Image.fromarray(grey).convert("1")),
        _saved("DIB"),
        *(
            _saved("TIFF", pixels)
            for pixels in (NOISE, grey, deep, clear, _palette(), Image.fromarray(grey).convert("1"))
        ),
        *(
            _saved("TIFF", compression=compression)
            for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate")
        ),
        _saved("TIFF", Image.fromarray(grey).convert("1"), compression="group4"),
        _saved("TIFF", **_frames()),
        _saved("TIFF", big_tiff=True),
        _saved("TIFF", Image.fromarray(NOISE).convert("CMYK")),
        _saved("TIFF", grey.astype(np.float32)),
    ]
    cut = [file[: len(file) * share // 8] for file in files[::3] for share in (3, 7)]
    others = [
        b"",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"II*\0\x10\0\0\0CR\2\0",
        b"FUJIFILMCCD-RAW",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"RIFF\0\0\0\0WEBPVP8X",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
    ]
    return (*files, *cut, *others)


@cache
def metadata_seeds() -> tuple[bytes, ...]:
    """Image files with EXIF, XMP, IPTC, texts, colour profiles, raw profiles and unsigned blocks as C2PA has them."""
    forms = ("JPEG", "PNG", "WEBP", "TIFF")
    jumbf = struct.pack(">L", 40) + b"jumb" + struct.pack(">L", 24) + b"jumdc2pa" + bytes(8) + b"\3c2pa\0"
    exif = Image.Exif()
    exif.update(TAGS)
    block = exif.tobytes()
    box = b"JP\0\1\0\0\0\1" + jumbf
    return (
        *(with_exif(form, TAGS, FURTHER) for form in forms),
        *(with_xmp(form, XMP) for form in (*forms, "GIF") if form != "GIF"),
        *(_saved(form, icc_profile=_profile()) for form in forms),
        with_texts([("parameters", SETTINGS), ("Software", "NovelAI"), ("Comment", '{"sampler":1,"steps":2,"uc":""}')]),
        with_texts([("prompt", WORKFLOW), ("workflow", WORKFLOW)], compressed=True),
        *(
            png_with(raw_profile(kind, name, body))
            for kind in (b"tEXt", b"zTXt", b"iTXz", b"iTXt")
            for name, body in (("exif", block), ("iptc", RESOURCES))
        ),
        png_with(chunk(b"caBX", jumbf), chunk(b"eXIf", block[6:])),
        with_segments((0xEB, box), (0xEB, box), (0xFE, b"Created with GIMP"), (0xED, b"Photoshop 3.0\0" + RESOURCES)),
        with_segments(
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
            (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + XMP),
        ),
        _saved("GIF", comment=SETTINGS.encode()),
        _gif_with_xmp(),
        _saved("TIFF", tiffinfo={700: XMP, 33723: IPTC, 34377: RESOURCES, 52545: jumbf}),
    )


@cache
def signed_seeds() -> tuple[bytes, ...]:
    """Files with Content Credentials that hold; none without the extra `provenance`."""
    with contextlib.suppress(ImportError):
        return tuple(signed(form) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF"))
    return ()


@cache
def block_seeds() -> tuple[bytes, ...]:
    """Blocks of metadata by themselves, each behind a byte that says which reader takes it (see targets.BLOCKS)."""
    exif = Image.Exif()
    exif.update(TAGS)
    exif.get_ifd(34665).update(FURTHER)
    texts = [
        f"parameters\0{SETTINGS}",
        f"prompt\0{WORKFLOW}",
        "Software\0DALL·E",
        'AIGC\0{"Label": 2}',
        "\0Made with GIMP",
    ]
    tables = bytes((0, *range(1, 65), 1, *range(1, 65)))
    return (
        b"\0" + XMP,
        b"\0" + b"\xff\xfe" + XMP.decode().encode("utf-16-le"),
        b"\1" + exif.tobytes()[6:],
        b"\1MM\0*\0\0\0\x08" + bytes.fromhex("0001 010f 0002 00000004 41424300 00000000"),
        b"\1II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + bytes(64),
        b"\2" + IPTC,
        *(b"\3" + text.encode() for text in texts),
        b"\4" + RESOURCES,
        b"\5" + tables,
    )


@cache
def info_seeds() -> tuple[bytes, ...]:
    """What checkpoints say of themselves, as the JSON in their headers: of formats 3 and 1, with and without views."""
    rates = TierRates(images=200, fpr=0.05, tpr=0.6, unsure=0.5, right=None, fpr_bound=0.07)
    info = CheckpointInfo(
        model="baseline",
        mai_version="0.2.0",
        preprocessing=Preprocessing(input="crop", crops=5),
        calibration=Calibration(1.25, 0.55, 0.4, 0.7, 16, 18, "photos", {"clean": rates}, 20, 0),
        data="photos",
        data_fingerprint="ab" * 32,
        epoch=3,
        val_loss=0.3,
        training={"seed": 0, "learning_rate": 1e-3, "tune": "all", "frozen": True, "blocks": "6,9"},
        weights_licence="apache-2.0",
        data_licences={"owner/name": "mit"},
    )
    views = dataclasses.replace(
        info,
        model="test_vit",
        preprocessing=Preprocessing(input="views", size=160, crops=1),
        architecture=Architecture(backbone="test_vit", blocks=(1, 2), size=160, head="mlp"),
    )
    documents = [json.loads(info_document(info)), json.loads(info_document(views))]
    old = {name: value for name, value in documents[0].items() if name not in ("architecture", "simulated")}
    documents.append(old | {"format_version": 1})
    return tuple(json.dumps(document).encode() for document in documents)


def _profile() -> bytes:
    from PIL import ImageCms  # noqa: PLC0415 - this seed alone needs it

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _gif_with_xmp() -> bytes:
    plain = _saved("GIF", Image.fromarray(NOISE).quantize(4))
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    return plain[:-1] + b"\x21\xff\x0bXMP DataXMP" + XMP + trailer + b"\x3b"


SEEDS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "decode": lambda: (*image_seeds(), *metadata_seeds()),
    "parts": lambda: (*image_seeds(), *metadata_seeds()),
    "metadata": lambda: (*metadata_seeds(), *image_seeds()),
    "credentials": signed_seeds,
    "blocks": block_seeds,
    "info": info_seeds,
}
"""Seeds by target; those of the checkpoint loader are in checkpoints.py."""
