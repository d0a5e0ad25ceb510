"""From names of programs and from texts to the generator of images that they give away: tables, with no guessing."""

import re
from typing import Final

_NAMES: Final = (
    ("Stable Diffusion", r"stable[ _-]?diffusion|\bsdxl\b|automatic1111|\bstability\.?ai\b"),
    ("Midjourney", r"\bmidjourney\b"),
    ("DALL·E", r"\bdall[^a-z0-9]{0,2}e\b"),
    ("OpenAI", r"\bopenai\b|\bchatgpt\b|\bgpt-?(?:4o|5|image)"),
    ("Adobe Firefly", r"\badobe firefly\b|^firefly\b"),
    ("NovelAI", r"\bnovel ?ai\b"),
    ("ComfyUI", r"\bcomfy ?ui\b"),
    ("InvokeAI", r"\binvoke ?ai\b"),
    ("Bing Image Creator", r"\b(?:bing|microsoft) image creator\b|\bimage creator from"),
    # Imagen alone is Spanish for a picture, and a photo editor's name.
    ("Google AI", r"\bmade with google ai\b|\bgoogle (?:imagen|gemini)\b|\bimagen ?[234]\b|\bnano ?banana\b"),
    ("Grok", r"\bgrok\b|\bxai\b"),
    ("Leonardo.Ai", r"\bleonardo[. ]?ai\b"),
    ("Ideogram", r"\bideogram\b"),
    ("FLUX", r"\bflux[ ._-]?[12]\b|\bflux[ ._-](?:1|2|pro|dev|schnell|kontext)\b|\bblack[ -]?forest[ -]?labs\b"),
    ("Recraft", r"\brecraft\b"),
    ("Fooocus", r"\bfooocus\b"),
    ("SwarmUI", r"\b(?:stable)?swarm ?ui\b"),
    ("Draw Things", r"\bdraw ?things\b"),
    ("Easy Diffusion", r"\beasy ?diffusion\b"),
    ("DiffusionBee", r"\bdiffusionbee\b"),
    ("Craiyon", r"\bcraiyon\b"),
    ("NightCafe", r"\bnightcafe\b"),
    ("Playground AI", r"\bplayground ?ai\b|\bplayground\.com\b"),
    ("Meta AI", r"\bimagined with ai\b|\bmade with meta ai\b"),
    ("Seedream", r"\bseedream\b"),
    ("Qwen-Image", r"\bqwen-?image\b"),
    ("Krea", r"\bkrea(?:\.ai| ai)\b"),
)
_GENERATORS: Final = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _NAMES)

_EDITORS: Final = re.compile(
    r"\b(?:photoshop|lightroom|camera raw|adobe (?:express|illustrator|indesign|bridge)|gimp|affinity"
    r"|capture one|snapseed|pixelmator|paint\.net|krita|darktable|rawtherapee|dxo|photolab|luminar|faceapp|facetune"
    r"|meitu|beautyplus|picsart|canva|photopea|pixlr|photoscape|paintshop|corel(?:draw)?|acdsee|on1|vsco|imagemagick"
    r"|graphicsmagick|irfanview|xnview(?:mp)?|inkscape|digikam|photodirector|remini|topaz|google photos"
    r"|edited with google ai)(?![a-z])",
    re.IGNORECASE,
)

_HOLDING: Final = (
    ("", "SwarmUI", ('"sui_image_params"',)),
    ("", "Fooocus", ('"fooocus_scheme"',)),
    ("", "Fooocus", ('"base_model"', '"metadata_scheme"')),
    ("fooocus_scheme", "Fooocus", ()),
    ("", "ComfyUI", ('"class_type"', '"inputs"')),
    ("", "ComfyUI", ('"last_node_id"', '"nodes"')),
    ("invokeai_metadata", "InvokeAI", ('"app_version"',)),
    ("invokeai_metadata", "InvokeAI", ('"generation_mode"',)),
    ("invokeai_metadata", "InvokeAI", ('"positive_prompt"',)),
    ("invokeai_graph", "InvokeAI", ('"nodes"',)),
    ("invokeai_workflow", "InvokeAI", ('"nodes"',)),
    ("sd-metadata", "InvokeAI", ('"model_weights"',)),
    ("sd-metadata", "InvokeAI", ('"app_id"',)),
    ("Comment", "NovelAI", ('"sampler"', '"steps"', '"uc"')),
    ("Comment", "NovelAI", ('"sampler"', '"steps"', '"signed_hash"')),
    ("Title", "NovelAI", ("NovelAI generated image",)),
    ("use_stable_diffusion_model", "Easy Diffusion", ()),
)
"""Key of a text (any, if empty), its generator, and what such a text holds, all of it."""

_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_MATCHING: Final = tuple(
    (key, generator, tuple(re.compile(pattern) for pattern in patterns))
    for key, generator, patterns in (
        # Searched for one by one, so that no text however long can make them go to and fro.
        ("", "Stable Diffusion web UI", (r"\bSteps: ?\d+", r"\b(?:Sampler|CFG scale|Seed|Model hash): ?[\w.]")),
        ("", "Midjourney", (rf"\bJob ID: ?{_UUID}",)),
        ("Dream", "InvokeAI", (r" -s ?\d", r" -S ?\d", r" -[WHC] ?\d")),
        ("Source", "NovelAI", (r"^(?:NovelAI|Stable) Diffusion.{0,20}\b[0-9A-F]{8}\b",)),
    )
)
"""The same with patterns, all of which match."""
_AIGC: Final = re.compile(r"\"?Label\"?\s*[:=]\s*\"?([123])\b", re.IGNORECASE)
_TOLD: Final = re.compile(
    r"(?:\"|\b)(ckpt_name|unet_name|model|sampler|sampler_name|steps|seed|base_model|app_version|Model|Sampler|Steps|Seed|"
    r"Version|CFG scale|Size)\"?: ?\"?([^\",{}\[\]\n]{1,120})"
)


def generator_named(program: str) -> str:
    """The generator of images that a program's name gives away; empty if none."""
    program = program[:2_000].replace("_", " ")
    return next((name for name, pattern in _GENERATORS if pattern.search(program)), "")


def editor_named(program: str) -> bool:
    """Whether a program's name is that of one for editing pictures."""
    return _EDITORS.search(program[:2_000].replace("_", " ")) is not None


def generator_of_text(key: str, text: str) -> str:
    """The generator that wrote such a text, by its shape and where need be its key; empty if none is known to.

    The key is that of a PNG's text, or the name of an EXIF tag or XMP property.
    """
    for wanted, generator, pieces in _HOLDING:
        if wanted in ("", key) and all(piece in text for piece in pieces):
            return generator
    for wanted, generator, patterns in _MATCHING:
        if wanted in ("", key) and all(pattern.search(text) for pattern in patterns):
            return generator
    return ""


def aigc_label(key: str, text: str) -> int:
    """The label of GB 45438, China's standard, in a text: 1 made by AI, 2 possibly, 3 suspected; 0 without one."""
    if key not in ("AIGC", "TC260:AIGC") and '"AIGC"' not in text:
        return 0
    found = _AIGC.search(text)
    return int(found[1]) if found else 0


def told(text: str) -> list[tuple[str, str]]:
    """Names and values of settings within a generator's text: its model, sampler, steps, seed."""
    pairs: dict[str, str] = {}
    for name, value in _TOLD.findall(text[:200_000]):
        pairs.setdefault(name, value)
    return list(pairs.items())
