"""Lookup tables of AI generators, editing software and IPTC digital source types, and functions that search them."""

import re
from dataclasses import dataclass
from typing import Final, Literal

# Separators are single blanks here: see _normalise.
_GENERATOR_PATTERNS: Final = (
    (
        "Stable Diffusion",
        r"stable ?diffusion|\bsdxl\b|automatic ?1111|\bstability\.? ?ai\b|\bstable (?:image (?:core|ultra)|cascade)\b"
        r"|\bsd (?:xl )?turbo\b|\bdream ?studio\b|\bsd ?3\.5\b|\bsd webui\b|\bsd\.next\b",
    ),
    ("Midjourney", r"\bmid ?journey|\bniji ?journey"),
    ("DALL·E", r"\bdall[^a-z0-9]{0,2}e ?[23]?\b"),
    ("OpenAI", r"\bopenai\b|\bchatgpt\b|\bgpt ?(?:4o|5|image)|\bsora [12]\b"),
    ("Adobe Firefly", r"\badobe ?firefly\b|^firefly (?:image|ai)\b"),
    ("NovelAI", r"\bnovel ?ai\b"),
    ("ComfyUI", r"\bcomfy ?ui\b"),
    ("InvokeAI", r"\binvoke ?ai\b"),
    ("Bing Image Creator", r"\b(?:bing|microsoft) ?image ?creator\b|\bimage creator from"),
    (
        "Microsoft Designer",
        r"\bmicrosoft ?(?:designer|copilot)\b|\bcopilot designer\b|\bpaint (?:image creator|cocreator)\b"
        r"|\bmai image [12]\b",
    ),
    # "Imagen" alone is Spanish for picture, and the name of a photo editor.
    (
        "Google AI",
        r"\b(?:made|created|generated) (?:with|by) google ?(?:gen(?:erative)? ?)?ai\b|\bgoogle (?:ai studio|whisk)\b"
        r"|\bgoogle ?(?:imagen|gemini|image ?fx|pixel ?studio)\b|\bimagen ?[234]\b|\bnano ?banana\b|\bvertex ai\b"
        r"|\bgemini (?:app|flash|advanced)\b|\bveo ?[23](?:\.[0-9])?\b"
        r"|\bgemini ?[1-9](?:\.[0-9])? ?(?:pro|flash|ultra|nano)\b|^gemini image$",
    ),
    ("Apple Image Playground", r"\b(?:image|generative) ?playground\b|\bgenmoji\b"),
    ("Grok", r"\bgrok\b|\bxai\b"),
    ("Leonardo.Ai", r"\bleonardo[. ]?ai\b"),
    ("Ideogram", r"\bideogram\b"),
    ("FLUX", r"\bflux[ .]?[12]\b|\bflux[ .](?:1|2|pro|dev|schnell|kontext|krea|klein)\b|\bblack ?forest ?labs\b"),
    ("Recraft", r"\brecraft\b"),
    ("Fooocus", r"fooocus\b"),
    ("SwarmUI", r"\b(?:stable ?)?swarm ?ui\b"),
    ("Draw Things", r"\bdraw ?things\b"),
    ("Easy Diffusion", r"\beasy ?diffusion\b"),
    ("DiffusionBee", r"\bdiffusionbee\b"),
    ("Mochi Diffusion", r"\bmochi ?diffusion\b"),
    ("Craiyon", r"\bcraiyon\b"),
    ("NightCafe", r"\bnightcafe\b"),
    ("Playground AI", r"\bplayground ?ai\b|\bplayground\.com\b|\bplayground v[23]\b"),
    ("Meta AI", r"\bimagined? with (?:meta|ai)\b|\b(?:made|created|generated) (?:with|by) meta ai\b|^meta ai\b"),
    ("Amazon Nova", r"\bamazon nova\b|\bnova canvas\b|\btitan image generator\b"),
    ("Seedream", r"\bseedream|\bseed ?edit\b|\bdreamina\b|\bjimeng ?ai\b|\bdoubao\b|即梦|豆包"),
    ("Qwen-Image", r"\bqwen ?[0-9.]* ?image|\bqwen/"),
    ("Wan", r"\bwan ?2\.[0-9]\b|\bwanx(?:iang)?\b|通义万相"),
    ("Z-Image", r"\bz image (?:turbo|base|edit|omni)\b|\btongyi (?:wan|mai|image|lab)"),
    ("Hunyuan", r"\bhunyuan|混元"),
    ("Kling", r"\bkling ?ai\b|\bkling [123]\b|\bkwai ?kolors\b|^kolors\b|可灵"),
    ("CogView", r"\bcogview|\bglm image\b"),
    ("ERNIE", r"\bernie (?:image|vilg)|\bwenxin yige\b|文心一格"),
    ("HiDream", r"\bhidream\b"),
    ("Hailuo", r"\bhailuo\b|\bminimax image\b"),
    ("Reve", r"\breve (?:image|ai)\b|\breve\.(?:com|art)\b"),
    ("Runway", r"\brunway ?ml\b|\brunway gen\b"),
    ("Luma", r"\bluma ?(?:ai|labs|photon|dream machine)\b"),
    ("Higgsfield", r"\bhiggsfield\b"),
    ("Freepik AI", r"\bfreepik (?:ai|mystic|pikaso)\b"),
    ("Canva AI", r"\bcanva (?:ai|magic media|dream lab)\b"),
    ("Kandinsky", r"\bkandinsky ?[2-6](?:\.[0-9])?\b"),
    ("YandexART", r"\byandex ?art\b|\bshedevrum\b"),
    ("Krea", r"\bkrea(?:\.ai| ai| [12])\b"),
    ("Bria", r"\bbria(?:\.ai| ai)\b"),
    ("OpenArt", r"\bopenart(?:\.ai| ai)\b"),
    ("SeaArt", r"\bseaart\b"),
    ("PixAI", r"\bpixai\b"),
    ("Civitai", r"\bcivit ?ai\b"),
    ("Tensor.Art", r"\btensor\.art\b"),
    ("StarryAI", r"\bstarry ?ai\b"),
    ("Wombo Dream", r"\bwombo\b"),
    ("DeepAI", r"\bdeepai\b"),
    ("PixArt", r"\bpixart ?(?:alpha|sigma|[αδσ])"),
    ("Lumina-Image", r"\blumina ?(?:image|next|t2i)\b"),
    ("OmniGen", r"\bomnigen ?[0-9]?\b"),
    ("AuraFlow", r"\baura ?flow\b"),
    ("Janus", r"\bjanus (?:pro|flow)\b"),
    ("an image generator", r"\bai (?:image|art|photo|picture)s? generator\b"),
)
_GENERATORS: Final = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _GENERATOR_PATTERNS)
_WHOLE_NAMES: Final = {"sora": "OpenAI", "gemini": "Google AI", "firefly": "Adobe Firefly", "kling": "Kling"}
"""Names that mean a generator where nothing else stands in the field of the program; elsewhere they may be people's."""

_EDITORS: Final = re.compile(
    r"\b(?:photoshop|lightroom|camera raw|adobe (?:express|illustrator|indesign|bridge)|gimp|affinity"
    r"|capture one|snapseed|pixelmator|paint\.net|krita|darktable|rawtherapee|dxo|photolab|luminar|faceapp|facetune"
    r"|meitu|beautyplus|picsart|canva|photopea|pixlr|photoscape|paintshop|corel(?:draw)?|acdsee|on1|vsco|imagemagick"
    r"|graphicsmagick|irfanview|xnview(?:mp)?|inkscape|digikam|photodirector|remini|topaz|google photos|photoroom"
    r"|edited with google ai|apple photos|photos clean ?up|cleanup\.pictures|magic (?:editor|eraser)"
    r"|generative (?:fill|edit|expand|remove)|edited (?:with|by) (?:galaxy|gen(?:erative)?) ?ai|galaxy ai"
    r"|photo assist|magnific|capcut)(?![a-z])",
    re.IGNORECASE,
)

# Blanks of every kind, underscores, hyphens and dashes.
_SEPARATORS: Final = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")

_TEXT_MARKERS: Final = (
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
"""Key of a text (empty: any), its generator, and the strings that the text must all contain."""

_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TEXT_PATTERNS: Final = tuple(
    (key, generator, tuple(re.compile(pattern) for pattern in patterns))
    for key, generator, patterns in (
        # Separate short patterns, so that no long text causes excessive backtracking.
        ("", "Stable Diffusion web UI", (r"\bSteps: ?\d+", r"\b(?:Sampler|CFG scale|Seed|Model hash): ?[\w.]")),
        ("", "Midjourney", (rf"\bJob ID: ?{_UUID}",)),
        ("Dream", "InvokeAI", (r" -s ?\d", r" -S ?\d", r" -[WHC] ?\d")),
        ("Source", "NovelAI", (r"^(?:NovelAI|Stable) Diffusion.{0,20}\b[0-9A-F]{8}\b",)),
    )
)
"""The same with regular expressions, all of which must match."""
_AIGC_LABEL: Final = re.compile(r"\"?Label\"?\s*[:=]\s*\"?([123])\b", re.IGNORECASE)
_SETTING: Final = re.compile(
    r"(?:\"|\b)(ckpt_name|unet_name|model|sampler|sampler_name|steps|seed|base_model|app_version|Model|Sampler|Steps|Seed|"
    r"Version|CFG scale|Size)\"?: ?\"?([^\",{}\[\]\n]{1,120})"
)


PointsTo = Literal["synthetic", "authentic", "edited", "nothing"]
"""What a statement would mean if it were true; nothing: for information only."""


@dataclass(frozen=True)
class SourceType:
    """A code of the IPTC vocabulary of digital source types."""

    code: str
    """As in http://cv.iptc.org/newscodes/digitalsourcetype/."""
    points_to: PointsTo
    description: str
    """Completes the phrase "declares itself …"."""


_SOURCE_TYPES: Final = {
    kind.code.lower(): kind
    for kind in (
        SourceType("trainedAlgorithmicMedia", "synthetic", "synthetic"),
        SourceType("compositeWithTrainedAlgorithmicMedia", "synthetic", "synthetic in part"),
        SourceType("compositeSynthetic", "synthetic", "a composite with synthetic parts"),
        SourceType("trainedAlgorithmicData", "synthetic", "data of a trained model"),
        SourceType("digitalCapture", "authentic", "taken by a camera"),
        SourceType("computationalCapture", "authentic", "taken by a camera with computational processing"),
        SourceType("compositeCapture", "edited", "a composite of camera pictures"),
        SourceType("negativeFilm", "authentic", "scanned from film"),
        SourceType("positiveFilm", "authentic", "scanned from film"),
        SourceType("print", "authentic", "scanned from a print"),
        SourceType("minorHumanEdits", "edited", "edited a little"),
        SourceType("humanEdits", "edited", "edited by a person"),
        SourceType("algorithmicallyEnhanced", "edited", "enhanced by an algorithm"),
        SourceType("composite", "edited", "a composite"),
        SourceType("digitalCreation", "nothing", "made by a person with software"),
        SourceType("digitalArt", "nothing", "drawn by a person with software"),
        # IPTC: purely by an algorithm not based on any sampled training data, such as a fractal.
        SourceType("algorithmicMedia", "nothing", "made by an algorithm"),
        SourceType("softwareImage", "nothing", "made by software"),
        SourceType("dataDrivenMedia", "nothing", "drawn from data"),
        SourceType("screenCapture", "nothing", "taken from a screen"),
        SourceType("virtualRecording", "nothing", "recorded from a virtual event"),
    )
}


def _normalise(name: str) -> str:
    """Return a name with one blank for each run of blanks, underscores and hyphens: one name is written in all ways."""
    return _SEPARATORS.sub(" ", name[:2_000]).strip()


def find_generator(program: str, is_program: bool = False) -> str:
    """Return the AI generator that a name contains; "" if none.

    With `is_program`, for fields that name programs alone, names count that may be a person's or a camera's elsewhere.
    """
    name = _normalise(program)
    found = next((generator for generator, pattern in _GENERATORS if pattern.search(name)), "")
    return found or (_WHOLE_NAMES.get(name.lower(), "") if is_program else "")


def is_editor(program: str) -> bool:
    """Whether a program's name contains that of image-editing software."""
    return _EDITORS.search(_normalise(program)) is not None


def find_text_generator(key: str, text: str) -> str:
    """Return the generator whose metadata format the text has; "" if none is recognised.

    `key` is the keyword of a PNG text, or the name of an EXIF tag or XMP property.
    """
    for wanted, generator, pieces in _TEXT_MARKERS:
        if wanted in ("", key) and all(piece in text for piece in pieces):
            return generator
    for wanted, generator, patterns in _TEXT_PATTERNS:
        if wanted in ("", key) and all(pattern.search(text) for pattern in patterns):
            return generator
    return ""


def read_aigc_label(key: str, text: str) -> int:
    """Return the AIGC label (Chinese standard GB 45438): 1 AI-generated, 2 possibly, 3 suspected; 0 without one."""
    if key not in ("AIGC", "TC260:AIGC") and '"AIGC"' not in text:
        return 0
    found = _AIGC_LABEL.search(text)
    return int(found[1]) if found else 0


def extract_settings(text: str) -> list[tuple[str, str]]:
    """Return names and values of the settings in a generator's text, such as model, sampler, steps and seed."""
    pairs: dict[str, str] = {}
    # Of a long text, the beginning and the end: prompts and workflows come before the settings, or behind them.
    searched = text if len(text) <= 200_000 else f"{text[:100_000]}\n{text[-100_000:]}"
    for name, value in _SETTING.findall(searched):
        pairs.setdefault(name, value)
    return list(pairs.items())


def find_source_type(value: str) -> SourceType | None:
    """Return the source type of a vocabulary URI or bare code, in any case; None if unknown."""
    return _SOURCE_TYPES.get(value.strip().rstrip("/#").rpartition("/")[2].rpartition(":")[2].lower())
