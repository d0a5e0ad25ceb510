"""What files say of their making, one real file for each kind of statement; and silence where there is nothing."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mai_app.evidence.read import read_evidence
from mai_app.evidence.statements import Evidence
from tests.evidence.files import (
    IPTC_CODES,
    MIME,
    chunk,
    png_with,
    saved,
    with_exif,
    with_segments,
    with_texts,
    with_xmp,
    xmp_packet,
)

FORMS = ["JPEG", "PNG", "WEBP"]
A1111 = (
    "a cat in a hat, masterpiece\nNegative prompt: lowres\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 6ce0161689, Model: v1-5"
)
JOB = "a lighthouse at dusk --v 6.1 Job ID: 3f0b2c1e-9a77-4f53-8e0e-0f2d1c9b7a66"
COMFY = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 8566257, "steps": 20, "ckpt_name": "xl.ckpt"}}})
WORKFLOW = json.dumps({"last_node_id": 9, "nodes": [], "links": []})


def found(data: bytes) -> list[Evidence]:
    """The statements, without that on a JPEG's tables, which every JPEG has."""
    return [one for one in read_evidence(data) if one.source != "JPEG tables"]


@pytest.mark.parametrize("form", MIME)
def test_nothing_where_there_is_nothing(form: str) -> None:
    assert found(saved(form)) == []


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"GIF89a", b"RIFF", b"II*\0", b"\x89PNG\r\n\x1a\n", b"x" * 99]
)
def test_nothing_in_what_is_no_image(data: bytes) -> None:
    assert read_evidence(data) == ()


# Exchangeable image file format


@pytest.mark.parametrize("form", [*FORMS, "TIFF"])
def test_a_camera_is_a_hint(form: str) -> None:
    data = with_exif(
        form, {271: "Canon", 272: "Canon EOS 5D", 305: "1.1.0"}, {42036: "EF50mm", 36867: "2020:01:01 00:00:00"}
    )
    (one,) = found(data)
    assert one == Evidence(
        "EXIF",
        "authentic",
        "hint",
        "names a camera (Canon EOS 5D); easily forged",
        (
            ("Make", "Canon"),
            ("Model", "Canon EOS 5D"),
            ("LensModel", "EF50mm"),
            ("Software", "1.1.0"),
            ("DateTimeOriginal", "2020:01:01 00:00:00"),
        ),
    )


def test_a_cameras_name_has_its_maker() -> None:
    for make, model, name in (
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("NIKON CORPORATION", "NIKON Z 6", "NIKON Z 6"),
        ("", "X-T5", "X-T5"),
    ):
        (one,) = found(with_exif("JPEG", {271: make, 272: model, 316: "iPhone 15"}))
        assert one.says == f"names a camera ({name}); easily forged"


@pytest.mark.parametrize("form", FORMS)
def test_a_program_for_editing(form: str) -> None:
    (one,) = found(with_exif(form, {305: "Adobe Photoshop 25.0 (Windows)"}))
    assert (one.source, one.points_to, one.strength) == ("EXIF", "edited", "hint")
    assert one.says == "names a program for editing (Adobe Photoshop 25.0 (Windows)); anybody can write that"
    camera, editor = found(with_exif(form, {271: "Canon", 305: "GIMP 2.10"}))
    assert (camera.points_to, editor.points_to) == ("authentic", "edited")


@pytest.mark.parametrize(
    ("software", "generator"),
    [
        ("Stable Diffusion XL", "Stable Diffusion"),
        ("Midjourney v6", "Midjourney"),
        ("DALL·E 3", "DALL·E"),
        ("dall-e", "DALL·E"),
        ("dalle3", "DALL·E"),
        ("DALLE2", "DALL·E"),
        ("SD Turbo", "Stable Diffusion"),
        ("DreamStudio", "Stable Diffusion"),
        ("niji journey", "Midjourney"),
        ("Kling", "Kling"),
        ("Veo 3.1", "Google AI"),
        ("PixArt Sigma", "PixArt"),
        ("Lumina Image 2.0", "Lumina-Image"),
        ("OmniGen2", "OmniGen"),
        ("AuraFlow v0.3", "AuraFlow"),
        ("Janus Pro 7B", "Janus"),
        ("Adobe Firefly", "Adobe Firefly"),
        ("Adobe_Firefly", "Adobe Firefly"),
        ("NovelAI", "NovelAI"),
        ("ComfyUI", "ComfyUI"),
        ("InvokeAI 4.2", "InvokeAI"),
        ("Bing Image Creator", "Bing Image Creator"),
        ("Google Imagen 3", "Google AI"),
        ("Made with Google AI", "Google AI"),
        ("Grok", "Grok"),
        ("Leonardo.Ai", "Leonardo.Ai"),
        ("Ideogram 2.0", "Ideogram"),
        ("FLUX.1 [dev]", "FLUX"),
        ("Black Forest Labs", "FLUX"),
        ("Recraft V3", "Recraft"),
        ("ChatGPT", "OpenAI"),
        ("gpt-image-1.5", "OpenAI"),
        ("Sora", "OpenAI"),
        ("Sora 2", "OpenAI"),
        ("OpenAI Sora", "OpenAI"),
        ("Gemini", "Google AI"),
        ("Google Gemini", "Google AI"),
        ("Gemini 2.5 Flash Image", "Google AI"),
        ("models/gemini-2.5-flash-image-preview", "Google AI"),
        ("Gemini 3 Pro Image", "Google AI"),
        ("Nano Banana Pro", "Google AI"),
        ("Imagen 4 Ultra", "Google AI"),
        ("Qwen-Image", "Qwen-Image"),
        ("Qwen Image", "Qwen-Image"),
        ("qwen_image_edit_2511", "Qwen-Image"),
        ("Qwen/Qwen-Image", "Qwen-Image"),
        ("Apple Image Playground", "Apple Image Playground"),
        ("Image Playground", "Apple Image Playground"),
        ("Microsoft Designer", "Microsoft Designer"),
        ("Microsoft Paint Cocreator", "Microsoft Designer"),
        ("Seedream 4.5", "Seedream"),
        ("Dreamina", "Seedream"),
        ("FLUX.2 [pro]", "FLUX"),
        ("FLUX.1 Kontext", "FLUX"),
        ("Wan 2.5", "Wan"),
        ("Z-Image-Turbo", "Z-Image"),
        ("HunyuanImage 3.0", "Hunyuan"),
        ("Kling AI", "Kling"),
        ("Amazon Nova Canvas", "Amazon Nova"),
        ("Reve Image 1.0", "Reve"),
        ("Krea 1", "Krea"),
        ("Made with Meta AI", "Meta AI"),
        ("RuinedFooocus", "Fooocus"),
    ],
)
def test_generators_by_name(software: str, generator: str) -> None:
    # One name is written in all ways.
    for name in {software, software.replace(" ", "_"), software.replace(" ", "-"), software.upper(), f" {software} "}:
        for data in (with_exif("JPEG", {305: name}), with_texts([("Software", name)])):
            (one,) = found(data)
            assert (one.points_to, one.strength) == ("synthetic", "declared")
            assert one.says.startswith(f"names an AI generator, {generator} (")


@pytest.mark.parametrize(
    ("software", "generator"),
    [
        ("即梦AI", "Seedream"),
        ("豆包", "Seedream"),
        ("通义万相", "Wan"),
        ("文心一格", "ERNIE"),
        ("可灵AI", "Kling"),
        ("混元生图", "Hunyuan"),
    ],
)
def test_generators_by_their_chinese_name(software: str, generator: str) -> None:
    for data in (
        with_texts([("Software", software)]),
        saved("JPEG", xmp=xmp_packet(f"<xmp:CreatorTool>{software}</xmp:CreatorTool>")),
    ):
        (one,) = found(data)
        assert one.says.startswith(f"names an AI generator, {generator} (")


@pytest.mark.parametrize(
    "software",
    [
        "f.lux",
        "Imagen",
        "Imagen de prueba",
        "Leonardo",
        "Grokking",
        "Diffusion Bee-keeper",
        "Firefly3 scan",
        "Sora Reader",
        "Gemini 2",
        "Gemini Observatory",
        "Designer",
        "Swift Playgrounds",
        "Text to Image Converter",
        "Dreamweaver",
        "WANalyzer 2",
        "Kling Andersen",
        "Lumina Desktop",
        "Janus 2",
        "Veo Photo",
    ],
)
def test_names_that_are_like_a_generators(software: str) -> None:
    (one,) = found(with_exif("JPEG", {305: software}))
    assert one.points_to == "nothing"


def test_names_that_people_and_cameras_have() -> None:
    # A name alone means a generator in the field of the program, and nowhere else.
    for name in ("Sora", "Gemini", "Firefly"):
        assert found(with_exif("JPEG", {315: name, 316: name, 33432: name})) == []
        assert found(with_texts([("Author", name)])) == []
        (one,) = found(with_texts([("Creator", name)]))
        assert one.points_to == "nothing"
        (one,) = found(with_exif("JPEG", {271: name, 272: f"{name} 4G"}))
        assert one.points_to == "authentic"
        assert found(saved("JPEG", xmp=xmp_packet(f"<photoshop:Credit>{name}</photoshop:Credit>"))) == []
        (one,) = found(saved("JPEG", xmp=xmp_packet(f"<xmp:CreatorTool>{name}</xmp:CreatorTool>")))
        assert (one.points_to, one.strength) == ("synthetic", "declared")


@pytest.mark.parametrize(
    "program",
    [
        "Apple Photos Clean Up",
        "Apple_Photos_Clean-Up",
        "Edited with Google AI",
        "Google Photos Magic Editor",
        "Adobe Photoshop Generative Fill",
        "Edited with Galaxy AI",
    ],
)
def test_an_edit_with_ai_is_an_edit(program: str) -> None:
    for data in (
        with_exif("JPEG", {305: program}),
        with_texts([("Software", program)]),
        saved("JPEG", xmp=xmp_packet(f"<photoshop:Credit>{program}</photoshop:Credit>")),
        saved("JPEG", xmp=xmp_packet(f"<xmp:CreatorTool>{program}</xmp:CreatorTool>")),
        saved("JPEG", xmp=xmp_packet(f"<Iptc4xmpExt:AISystemUsed>{program}</Iptc4xmpExt:AISystemUsed>")),
        with_segments(
            (
                0xED,
                b"Photoshop 3.0\x008BIM\x04\x04\0\0"
                + struct.pack(">I", len(program) + 5)
                + b"\x1c\x02\x6e"
                + struct.pack(">H", len(program))
                + program.encode(),
            )
        ),
    ):
        (one,) = found(data)
        assert (one.points_to, one.strength) == ("edited", "hint"), one


def test_the_tags_and_texts_of_exif_3() -> None:
    name = b"Gemini 2.5 Flash Image\0"
    entry = struct.pack("<HHHII", 1, 42043, 129, len(name), 26)  # type 129 is UTF-8
    block = b"II*\0" + struct.pack("<I", 8) + entry + bytes(4) + name
    (one,) = found(png_with(chunk(b"eXIf", block)))
    assert (one.points_to, one.strength) == ("synthetic", "declared")


def test_programs_that_imagemagick_copies_from_exif() -> None:
    (one,) = found(with_texts([("exif:Software", "Midjourney v7"), ("exif:Orientation", "1")]))
    assert (one.points_to, one.strength) == ("synthetic", "declared")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("charset", ["UNICODE big", "UNICODE little", "ASCII", "none"])
def test_settings_in_the_user_comment(form: str, charset: str) -> None:
    comment = {
        "UNICODE big": b"UNICODE\0" + A1111.encode("utf-16-be"),
        "UNICODE little": b"UNICODE\0" + A1111.encode("utf-16-le"),
        "ASCII": b"ASCII\0\0\0" + A1111.encode(),
        "none": A1111.encode(),
    }[charset]
    (one,) = found(with_exif(form, {}, {37510: comment}))
    assert (one.source, one.points_to, one.strength) == ("EXIF", "synthetic", "declared")
    assert one.says == "holds text as an AI generator writes it, Stable Diffusion web UI; anybody can write that"
    fields = dict(one.fields)
    assert fields["UserComment"].startswith("a cat in a hat, masterpiece Negative prompt: lowres Steps: 20")
    assert fields["Sampler"] == "Euler a"
    assert fields["Model"] == "v1-5"


def test_settings_in_other_tags() -> None:
    (one,) = found(with_exif("JPEG", {270: JOB, 315: "somebody"}))
    assert "Midjourney" in one.says
    (one,) = found(with_exif("JPEG", {40092: A1111.encode("utf-16-le")}))
    assert "Stable Diffusion" in one.says
    # Some nodes of ComfyUI write these two; they name no camera.
    (one,) = found(with_exif("WEBP", {271: f"workflow:{WORKFLOW}", 272: f"prompt:{COMFY}"}))
    assert "ComfyUI" in one.says
    assert one.points_to == "synthetic"


def test_an_author_counts_only_if_it_is_a_generator() -> None:
    assert found(with_exif("JPEG", {315: "Jane Doe", 33432: "(c) Jane Doe"})) == []
    (one,) = found(with_exif("JPEG", {315: "Midjourney"}))
    assert (one.points_to, one.strength) == ("synthetic", "hint")


def test_a_picture_of_a_generators_billboard_is_not_its_work() -> None:
    assert found(with_exif("JPEG", {270: "A billboard for Midjourney, seen in Berlin"})) == []
    assert found(with_texts([("Description", "Steps: how to use Stable Diffusion")])) == []


# Texts of PNG, comments of JPEG and GIF


@pytest.mark.parametrize(
    ("texts", "generator"),
    [
        ([("parameters", A1111)], "Stable Diffusion web UI"),
        ([("prompt", COMFY), ("workflow", WORKFLOW)], "ComfyUI"),
        ([("invokeai_metadata", '{"app_version": "4.2.0", "model": {"name": "sdxl"}}')], "InvokeAI"),
        ([("invokeai_graph", '{"id": "x", "nodes": {}}')], "InvokeAI"),
        ([("sd-metadata", '{"model_weights": "sd-1.4", "app_id": "invoke-ai/InvokeAI"}')], "InvokeAI"),
        ([("Dream", '"a cat" -s 50 -S 123 -W 512 -H 512 -C 7.5 -A k_lms')], "InvokeAI"),
        ([("Source", "NovelAI Diffusion V3 8017D09F")], "NovelAI"),
        ([("Comment", '{"prompt": "a", "steps": 28, "sampler": "k_euler", "uc": "lowres"}')], "NovelAI"),
        ([("Title", "NovelAI generated image")], "NovelAI"),
        ([("Description", JOB), ("Author", "somebody")], "Midjourney"),
        (
            [("parameters", '{"base_model": "xl", "metadata_scheme": "fooocus"}'), ("fooocus_scheme", "fooocus")],
            "Fooocus",
        ),
        ([("parameters", '{"sui_image_params": {"prompt": "a", "model": "xl"}}')], "SwarmUI"),
        ([("use_stable_diffusion_model", "sd-v1-4"), ("seed", "1")], "Easy Diffusion"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_settings_in_a_png(texts: list[tuple[str, str]], generator: str, compressed: bool) -> None:
    (one,) = found(with_texts(texts, compressed))
    assert (one.source, one.points_to, one.strength) == ("PNG text", "synthetic", "declared")
    assert one.says == f"holds text as an AI generator writes it, {generator}; anybody can write that"
    assert one.fields[0][0] == texts[0][0]


def test_a_png_of_novelai_names_it_too() -> None:
    named = found(with_texts([("Software", "NovelAI"), ("Description", "a cat")]))
    assert [one.says for one in named] == ["names an AI generator, NovelAI (NovelAI); anybody can write that"]


def test_texts_in_utf8_and_as_international_text() -> None:
    for kind, key in (
        (b"tEXt", b"parameters\0"),
        (b"iTXt", b"parameters\0\0\0\0\0"),
        (b"iTXt", b"parameters\0\0\0de\0Werte\0"),
    ):
        (one,) = found(png_with(chunk(kind, key + ("猫、" + A1111).encode())))
        assert dict(one.fields)["parameters"].startswith("猫、a cat")
    (one,) = found(png_with(chunk(b"tEXt", b"Software\0caf\xe9")))
    assert one.says == "names a program (café); anybody can write that"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("parameters", "alpha=0.5 beta=2"),
        ("parameters", "Steps: 20"),
        ("prompt", "C:\\>"),
        ("workflow", "draft, review, print"),
        ("Comment", "a holiday"),
        ("Dream", "of a summer night"),
        ("Source", "Stable Diffusion, a talk"),
        ("invokeai_metadata", "none"),
        ("AIGC", "no label"),
    ],
)
def test_a_key_alone_says_nothing(key: str, text: str) -> None:
    assert found(with_texts([(key, text)])) == []


def test_text_behind_the_pixels_is_read() -> None:
    plain = saved("PNG")
    data = plain[:-12] + chunk(b"tEXt", b"parameters\0" + A1111.encode()) + plain[-12:]
    assert found(data)[0].points_to == "synthetic"
    # And behind the end: no reader shows it, and programs that append have written it.
    assert found(plain + chunk(b"tEXt", b"parameters\0" + A1111.encode()))[0].points_to == "synthetic"
    assert found(plain + b"a trailer " * 50) == []


def test_comments() -> None:
    (one,) = found(saved("JPEG", comment=A1111))
    assert (one.source, one.points_to) == ("JPEG comment", "synthetic")
    (one,) = found(saved("GIF", comment=COMFY))
    assert (one.source, one.points_to) == ("GIF comment", "synthetic")
    (one,) = found(saved("JPEG", comment="Created with GIMP"))
    assert (one.points_to, one.strength) == ("edited", "hint")
    for comment in ("Generated by Gemini 2.5 Flash Image", "Created with Qwen Image"):
        (one,) = found(saved("JPEG", comment=comment))
        assert (one.points_to, one.strength) == ("synthetic", "declared")
    for comment in ("a holiday by the sea", "made with love", "a talk on how Midjourney works"):
        assert found(saved("JPEG", comment=comment)) == []


def test_an_animated_gif_is_walked_to_its_end() -> None:
    frames = [Image.new("L", (300, 300), i).point(lambda v: v) for i in range(0, 250, 50)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], comment=b"plain")
    data = buffer.getvalue()
    comment = b"\x21\xfe" + bytes([len(JOB)]) + JOB.encode() + b"\0"
    assert found(data) == []
    (one,) = found(data[:-1] + comment + data[-1:])
    assert "Midjourney" in one.says


def test_the_label_of_chinas_standard() -> None:
    label = '{"Label":"1","ContentProducer":"somebody","ProduceID":"7"}'
    (one,) = found(with_texts([("AIGC", label)]))
    assert (one.points_to, one.strength) == ("synthetic", "declared")
    assert one.says == "is labelled synthetic (AIGC label 1 of GB 45438); anybody can write that"
    (one,) = found(with_exif("JPEG", {}, {37510: b"ASCII\0\0\0" + f'{{"AIGC":{label}}}'.encode()}))
    assert (one.source, one.strength) == ("EXIF", "declared")
    (one,) = found(with_xmp("JPEG", xmp_packet("<TC260:AIGC>{&quot;Label&quot;:&quot;3&quot;}</TC260:AIGC>")))
    assert (one.source, one.points_to, one.strength) == ("XMP", "synthetic", "hint")


# XMP and IPTC


@pytest.mark.parametrize("form", [*FORMS, "TIFF"])
@pytest.mark.parametrize(
    ("code", "points_to", "strength", "words"),
    [
        ("trainedAlgorithmicMedia", "synthetic", "declared", "synthetic"),
        ("compositeWithTrainedAlgorithmicMedia", "synthetic", "declared", "synthetic in part"),
        ("digitalCapture", "authentic", "hint", "taken by a camera"),
        ("humanEdits", "edited", "hint", "edited by a person"),
        ("digitalArt", "nothing", "hint", "drawn by a person with software"),
        ("algorithmicMedia", "nothing", "hint", "made by an algorithm"),
    ],
)
def test_the_iptc_digital_source_type(form: str, code: str, points_to: str, strength: str, words: str) -> None:
    packet = xmp_packet(f"<Iptc4xmpExt:DigitalSourceType>{IPTC_CODES}{code}</Iptc4xmpExt:DigitalSourceType>")
    (one,) = found(with_xmp(form, packet))
    assert (one.source, one.points_to, one.strength) == ("IPTC", points_to, strength)
    assert one.says == f"declares itself {words} (IPTC digital source type {code}); anybody can write that"
    assert one.fields == (("DigitalSourceType", IPTC_CODES + code),)


def test_the_source_type_as_attribute_resource_or_bare_code() -> None:
    packets = [
        xmp_packet("").replace(
            b'rdf:about=""', b'rdf:about="" Iptc4xmpExt:DigitalSourceType="trainedAlgorithmicMedia"'
        ),
        xmp_packet(f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{IPTC_CODES}trainedAlgorithmicMedia"/>'),
        xmp_packet("<photoshop:DigitalSourceType>trainedalgorithmicmedia</photoshop:DigitalSourceType>"),
        "\ufeff".encode("utf-16-le")
        + xmp_packet("<xmp:DigitalSourceType>trainedAlgorithmicMedia</xmp:DigitalSourceType>")
        .decode()
        .encode("utf-16-le"),
    ]
    for packet in packets:
        (one,) = found(saved("JPEG", xmp=packet))
        assert (one.points_to, one.strength) == ("synthetic", "declared")
    (one,) = found(saved("JPEG", xmp=xmp_packet("<xmp:DigitalSourceType>new</xmp:DigitalSourceType>")))
    assert one.says == "has an unknown IPTC digital source type (new)"


@pytest.mark.parametrize(
    ("element", "points_to", "strength", "words"),
    [
        (
            "<xmp:CreatorTool>Adobe Firefly</xmp:CreatorTool>",
            "synthetic",
            "declared",
            "names an AI generator, Adobe Firefly",
        ),
        ("<xmp:CreatorTool>Adobe Lightroom 9</xmp:CreatorTool>", "edited", "hint", "names a program for editing"),
        ("<xmp:CreatorTool>Canvas 17</xmp:CreatorTool>", "nothing", "hint", "names a program (Canvas 17)"),
        (
            "<photoshop:Credit>Made with Google AI</photoshop:Credit>",
            "synthetic",
            "declared",
            "names an AI generator, Google",
        ),
        ("<photoshop:Credit>Edited with Google AI</photoshop:Credit>", "edited", "hint", "names a program for editing"),
        (
            "<Iptc4xmpExt:AIPromptInformation>a cat</Iptc4xmpExt:AIPromptInformation>",
            "synthetic",
            "declared",
            "holds a prompt for an AI system (a cat)",
        ),
        ("<Iptc4xmpExt:AISystemUsed>X 1</Iptc4xmpExt:AISystemUsed>", "synthetic", "declared", "names an AI system"),
        (
            f"<dc:description><rdf:Alt><rdf:li>{JOB}</rdf:li></rdf:Alt></dc:description>",
            "synthetic",
            "declared",
            "Midjourney",
        ),
        (
            f"<exif:UserComment><rdf:Alt><rdf:li>{A1111}</rdf:li></rdf:Alt></exif:UserComment>",
            "synthetic",
            "declared",
            "Stable",
        ),
    ],
)
def test_xmp(element: str, points_to: str, strength: str, words: str) -> None:
    (one,) = found(saved("JPEG", xmp=xmp_packet(element)))
    assert (one.points_to, one.strength) == (points_to, strength)
    assert words in one.says


def test_a_phones_version_says_nothing() -> None:
    assert found(saved("JPEG", xmp=xmp_packet("<xmp:CreatorTool>17.1.2</xmp:CreatorTool>"))) == []


def test_people_in_xmp_are_nobodys_business() -> None:
    creator = (
        "<dc:creator><rdf:Seq><rdf:li>Jane Doe</rdf:li></rdf:Seq></dc:creator><photoshop:Credit>Jane</photoshop:Credit>"
    )
    assert found(saved("JPEG", xmp=xmp_packet(creator))) == []


def test_a_history_of_edits() -> None:
    steps = '<rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop 25.0"/>' * 3 + (
        '<rdf:li rdf:parseType="Resource"><stEvt:softwareAgent>Adobe Lightroom 9</stEvt:softwareAgent></rdf:li>'
    )
    (one,) = found(saved("JPEG", xmp=xmp_packet(f"<xmpMM:History><rdf:Seq>{steps}</rdf:Seq></xmpMM:History>")))
    assert (one.source, one.points_to, one.strength) == ("XMP", "edited", "hint")
    assert one.says == "records steps of editing (Adobe Photoshop 25.0, Adobe Lightroom 9); anybody can write that"


def test_extended_xmp() -> None:
    packet = xmp_packet("<xmp:CreatorTool>Midjourney</xmp:CreatorTool>")
    pieces = []
    for at in range(0, len(packet), 400):
        head = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", len(packet), at)
        piece = head + packet[at : at + 400]
        pieces.append(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece)
    plain = saved("JPEG")
    (one,) = found(plain[:2] + b"".join(reversed(pieces)) + plain[2:])
    assert "Midjourney" in one.says


@pytest.mark.parametrize(("number", "points_to"), [(65, "synthetic"), (110, "synthetic"), (80, None)])
def test_older_iptc_records(number: int, points_to: str | None) -> None:
    text = b"Made with Google AI"
    record = b"\x1c\x02\x00\x00\x02\x00\x04" + b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text
    block = (
        b"8BIM\x04\x25\x00\x00\x00\x00\x00\x03abc\0" + b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(record)) + record
    )
    piece = b"Photoshop 3.0\0" + block
    plain = saved("JPEG")
    said = found(plain[:2] + b"\xff\xed" + struct.pack(">H", len(piece) + 2) + piece + plain[2:])
    assert [(one.source, one.points_to) for one in said] == ([("IPTC", points_to)] if points_to else [])


# JPEG tables


def test_standard_tables_at_every_quality() -> None:
    for quality in (1, 10, 49, 50, 75, 90, 95, 100):
        (one,) = read_evidence(saved("JPEG", quality=quality))
        assert (one.source, one.points_to, one.strength) == ("JPEG tables", "nothing", "hint")
        assert one.says == f"saved with the standard tables at quality {quality}, as most software writes them"


def test_tables_of_ones_own() -> None:
    standard = Image.open(io.BytesIO(saved("JPEG", quality=90))).quantization  # type: ignore[attr-defined]
    own = [list(standard[0]), list(standard[1])]
    own[1][5] += 1
    (one,) = read_evidence(saved("JPEG", qtables=own))
    assert one.says == "saved with tables of a camera's or a program's own, near quality 90"
    (one,) = read_evidence(saved("JPEG", qtables=[standard[0]]))
    assert "standard" in one.says


# The whole


def test_statements_stand_each_for_itself_and_the_weightiest_first() -> None:
    data = with_exif("JPEG", {271: "Canon", 272: "EOS", 305: "GIMP 2.10"}, {})
    packet = xmp_packet("<Iptc4xmpExt:DigitalSourceType>trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>")
    head = b"http://ns.adobe.com/xap/1.0/\0" + packet
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(head) + 2) + head + data[2:]
    said = [(one.source, one.points_to) for one in read_evidence(data)]
    assert said == [("IPTC", "synthetic"), ("EXIF", "authentic"), ("EXIF", "edited"), ("JPEG tables", "nothing")]


def test_no_torch_no_network_and_nothing_written(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "a.png": with_texts([("parameters", A1111)], compressed=True),
        "b.jpg": with_xmp("JPEG", xmp_packet("<dcterms:provenance>http://127.0.0.1:9/x</dcterms:provenance>")),
        "c.webp": with_exif("WEBP", {271: "Canon"}),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    code = """
import sys
from pathlib import Path
seen = []
def hook(event, given):
    if event.startswith("socket.") or (event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax+")):
        seen.append((event, given))
from mai_app.evidence.read import read_evidence
datas = [Path(name).read_bytes() for name in sys.argv[1:]]
sys.addaudithook(hook)
print(sum(len(read_evidence(data)) for data in datas), [m for m in sys.modules if m.split(".")[0] == "torch"], seen)
"""
    names = [tmp_path / name for name in files]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.stdout == "4 [] []\n", done.stderr
