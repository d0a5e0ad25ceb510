"""Model card of a checkpoint, in Markdown, from its evaluation report and other models' on the same images."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from mai_app.config import (
    CALIBRATION_CONFIDENCE,
    FPR_CEILING,
    QUALITY_LIMITS,
    SHOWN_SCORES,
    TIERS,
    UNSURE_ACCURACY,
    CardConfig,
)
from mai_app.core.display import show_name, show_percent
from mai_app.core.files import write_text
from mai_app.errors import CheckpointError, DataError
from mai_app.evaluation.model_card_figures import Report, data_name, escape, markdown_table, results_section
from mai_app.models.checkpoint import Checkpoint, load_checkpoint
from mai_app.models.description import CheckpointInfo, training_flags
from mai_app.models.hub import is_hub_name
from mai_app.models.registry import find_checkpoint, name_of

KEYS: Final = {
    "mai_version",
    "note",
    "model",
    "version",
    "checkpoint",
    "trained_on",
    "data",
    "split",
    "authentic",
    "synthetic",
    "refused",
    "tier_words",
    "tiers",
    "bias",
}
"""Keys of a report that a card needs."""
LICENCES: Final = (
    "What they mean for weights is not settled: where one forbids commercial use, or none is stated, ask before such "
    "use"
)
"""What follows from the licences of the images."""
TIER_KEYS: Final = {
    "auroc",
    "tpr",
    "fpr",
    "unsure",
    "doubted",
    "verdicts",
    "verdicts_right",
    "format_only_auroc",
    "groups",
}
"""Keys of each tier that a card needs."""


def write_card(config: CardConfig) -> Path:
    """Write the card that `config` asks for, and return its file.

    Raises DataError for reports that can't be read or are of other images than one another, CheckpointError where the
    checkpoint is not the one that the report is of.
    """
    report = _read(config.report)
    others = [_read(folder) for folder in config.beside]
    for folder, other in zip(config.beside, others, strict=True):
        if _images(other) != _images(report):
            raise DataError(
                f"{folder}: is a report on other images than {config.report}; evaluate both models on the same part of "
                f"the same data set"
            )
    named = config.model or report["checkpoint"]
    path = find_checkpoint(named, config.runs) if config.model or is_hub_name(named) else Path(named)
    if not path.is_file():
        raise CheckpointError(f"{path}: {config.report} names it, and it is not there; name the file with --model")
    checkpoint = load_checkpoint(path)
    if checkpoint.version != report["version"]:
        raise CheckpointError(
            f"{path}: has version {checkpoint.version}, but {config.report} is of {report['version']}; run "
            f"`mai evaluate` again, or name the right file with --model"
        )
    own_data = {checkpoint.info.data, checkpoint.info.calibration.data}
    if report["split"] not in ("test", "all") or (report["split"] == "all" and data_name(report) in own_data):
        raise DataError(
            f"{config.report}: holds images of training or calibration; a card needs a report on the test part"
        )
    out = config.out or config.report / "MODEL_CARD.md"
    write_text(out, render_card(checkpoint, report, others))
    return out


def render_card(checkpoint: Checkpoint, report: Report, others: Sequence[Report]) -> str:
    """Render the card as Markdown; `others`: reports of other models on the same images."""
    name = name_of(checkpoint.path)
    info = checkpoint.info
    sections = [
        f"# {escape(name)}: model card",
        HEAD.format(name=escape(name), version=checkpoint.version, mai=escape(report["mai_version"])),
        "## What it is, and what it is not",
        WHAT,
        "## The network and its training",
        markdown_table(("", ""), _training(checkpoint), left=2),
        "## How well it does",
        *results_section(report, others, info.data),
        "## Calibration",
        *_calibration(checkpoint),
        "## What it can't do",
        LIMITS,
        "## How to make it again",
        *_commands(checkpoint, report, others),
        "## Use and misuse",
        USE,
    ]
    return "\n\n".join(sections) + "\n"


def _read(folder: Path) -> Report:
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); `mai evaluate` writes it") from None
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); run `mai evaluate` again") from None
    if (
        not isinstance(report, dict)
        or not report.keys() >= KEYS
        or not all(report["tiers"].get(tier, {}).keys() >= TIER_KEYS for tier in TIERS)
    ):
        raise DataError(f"{path}: was written by another MAI, or is no report; run `mai evaluate` again")
    return report


def _images(report: Report) -> tuple[object, ...]:
    """What identifies a report's images: reports on the same ones agree in it."""
    groups = [(g["column"], g["label"], g["name"], g["images"]) for g in report["tiers"]["clean"]["groups"]]
    counts = (report["authentic"], report["synthetic"], len(report["refused"]))
    return data_name(report), report["split"], counts, report["tier_words"], groups


def _training(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    info, how = checkpoint.info, checkpoint.info.preprocessing
    numbers = sum(parameter.numel() for parameter in checkpoint.network.parameters())
    views = f"up to {how.crops} crops of native pixels, their logits averaged" if how.crops > 1 else "one native crop"
    windows = "five native windows" if how.crops > 1 else "one native window, the centre"
    seen = {
        "crop": views,
        "resize": "the whole image, stretched",
        "views": f"the whole image's central square, scaled to it, and {windows}",
    }[how.input]
    yield "network", f"{escape(info.model)}: {_network_words(info)}; {numbers:,} parameters"
    if info.weights_licence:
        yield "pretrained weights", f"licence {escape(info.weights_licence)}, as timm states it"
    yield "file", f"safetensors, {checkpoint.path.stat().st_size / 1e6:.1f} MB, SHA-256 `{checkpoint.sha256}`"
    scaled = f", of images scaled down to {how.longest} pixels where a side is longer" if how.longest else ""
    yield "sees", f"{how.size}×{how.size} pixels: {seen}{scaled}"
    yield "trained on", f"{escape(info.data)} (fingerprint `{info.data_fingerprint[:12]}`)"
    chosen = "the last" if info.training.get("folds") else "the ones of least validation loss"
    if info.data_licences:
        stated = [f"{escape(name)}: {escape(licence or 'not known')}" for name, licence in info.data_licences.items()]
        yield "licences of its data sets", f"{'; '.join(stated)}. {LICENCES}"
    yield "epochs", f"{info.epoch} behind these weights, {chosen} (validation loss {info.val_loss:.4f})"
    settings = (
        (name.replace("_", " "), value)
        for name, value in sorted(info.training.items())
        if not isinstance(value, Mapping)  # those of a fused model's traces
    )
    yield (
        "settings",
        ", ".join(f"{escape(name)} {escape(value)}" for name, value in settings if value != ""),
    )
    yield "trained by", f"MAI {escape(info.mai_version)}"


def _network_words(info: CheckpointInfo) -> str:
    """What kind of network it is, in words."""
    if (built := info.architecture) is None:
        return NETWORKS[info.model]
    blocks = f"blocks {', '.join(map(str, built.blocks))}" if built.blocks else "all blocks"
    head = "a linear layer" if built.head == "linear" else "an MLP"
    fused = "; a TraceNet, which sees small neighbourhoods of native pixels, scores the windows, too" * built.traces
    return (
        f"timm's network of that name, pretrained; {head} for the whole image and one for native windows on the "
        f"features of {blocks}, their scores weighted and added{fused}"
    )


def _calibration(checkpoint: Checkpoint) -> Iterator[str]:
    fit = checkpoint.info.calibration
    on = f"{fit.authentic_images:,} authentic and {fit.synthetic_images:,} synthetic validation images"
    sources = {"authentic": fit.authentic_sources, "synthetic": fit.synthetic_sources}
    where = f"of {escape(fit.data)}, whole files, in all four tiers" if fit.tiers else "in training, undamaged alone"
    yield (
        f"A score is sigmoid(logit / {fit.temperature:.3f}). From {fit.threshold:.3f} on an image counts as synthetic "
        f"where a yes or no is needed; from {fit.unsure_low:.3f} to {fit.unsure_high:.3f} the verdict is unsure. All "
        f"this was fixed beforehand on {on} {where}, both classes counting alike: a score supposes that synthetic and "
        f"authentic images are equally common, and is too high where synthetic ones are rarer."
    )
    never = [
        verdict
        for verdict, closed in (("authentic", fit.unsure_low <= 0), ("synthetic", fit.unsure_high >= 1))
        if closed
    ]
    if never:
        yield (
            f"It never says {' or '.join(never)}: on those validation images no score was high or low enough for such "
            f"verdicts to be right often enough, or too few images lay beyond it."
        )
    if fit.tiers:
        counted = [
            f"{count} {name} sources" if count else f"each {name} image as a source of its own"
            for name, count in sources.items()
        ]
        yield (
            f"What that comes to on those very images, the best case therefore. It counts alike "
            f"{' and '.join(counted)}; bounds are one-sided {100 * CALIBRATION_CONFIDENCE:.0f} % bounds over these."
        )
        rates = (
            (
                tier,
                f"{r.images:,}",
                *map(show_percent, (r.fpr, r.fpr_bound, r.tpr, 1 - r.unsure, r.right, r.right_bound)),
            )
            for tier, r in ((tier, fit.tiers[tier]) for tier in TIERS if tier in fit.tiers)
        )
        head = ("tier", "images", "FPR", "FPR, bound", "TPR", "coverage", "verdicts right", "right, bound")
        yield markdown_table(head, rates)


def _commands(checkpoint: Checkpoint, report: Report, others: Sequence[Report]) -> Iterator[str]:
    info, name = checkpoint.info, name_of(checkpoint.path)
    lines = [["mai", "train", "--data", info.data, "--name", name, *training_flags(info.training)]]
    if info.calibration.tiers:
        lines.append(["mai", "calibrate", "--data", info.calibration.data, "--model", name])
    bias = ["--bias", "--bias-images", str(sum(report["bias"]["images"].values()))] if report["bias"] else []
    lines.append(["mai", "evaluate", "--data", data_name(report), "--model", name, "--split", report["split"], *bias])
    folder = f"runs/{name}/report-{report['split']}"
    beside = [word for number in range(len(others)) for word in ("--beside", f"REPORT-{number + 1}")]
    lines.append(["mai", "card", "--report", folder, *beside])
    yield "```sh\n" + "\n".join(show_name(shlex.join(words)) for words in lines) + "\n```"
    yield (
        f"With MAI {escape(info.mai_version)} and the images whose fingerprint stands above. The seed fixes every "
        f"draw; on another processor the weights come out a little different, and with them version and figures."
    )


HEAD: Final = (
    "**{name}** is a detector of MAI, the Multilayer Authenticity Identifier. It gives an image file a score, "
    f"`p_synthetic`, from {SHOWN_SCORES[0]} (authentic) to {SHOWN_SCORES[1]} (synthetic), and a verdict: authentic, "
    "unsure or synthetic. Version `{version}` names its weights and calibration, and stands in each of its predictions."
    "\n\nEvery figure on this card was measured by the commands of MAI {mai} and written down by `mai card`."
)

WHAT: Final = """\
- It looks at an image's pixels for what generators leave there, and says how much the image looks like the synthetic or
  like the authentic images that it was trained on. It reads no metadata and no Content Credentials.
- **It is no proof, in either direction.** *Authentic* means that it found none of the traces that it knows, never that
  an image is proven authentic. *Synthetic* is wrong for the share of authentic images below, and more often on images
  unlike those measured.
- It judges an image as a whole. It does not say which generator made it, whether what it shows is true, whether it was
  edited, or who made it."""

NETWORKS: Final[dict[str, str]] = {
    "baseline": "the first MAI's convolutional network",
    "traces": "a small convolutional network that sees no more than small neighbourhoods of native pixels",
    "resnet18": "torchvision's ResNet-18 with one logit",
    "convnext-base": "torchvision's ConvNeXt-Base with one logit",
}

LIMITS: Final = f"""\
- **Unseen generators.** It knows the traces of generators like those in its training images. Others, newer ones above
  all, may pass as authentic; the tables by generator show how unevenly it finds even those that it was measured on.
- **Small, smooth and degraded images.** Shrinking and recompressing destroy the traces: compare the tiers. An image
  under {QUALITY_LIMITS.shorter_side} pixels on its shorter side, as the network sees it, a strip over
  {QUALITY_LIMITS.sides_ratio} times as long as wide, one that is next to flat or much enlarged, and a JPEG
  under quality {QUALITY_LIMITS.jpeg_quality} are always unsure, whatever the score.
- **Retouching, inpainting and other local edits** are not detected: each image here counts as synthetic or
  authentic as a whole. Screenshots, scans and heavily processed photographs were not measured apart.
- **Content.** What it learned comes from its training sources, and what is known of it from the sources in the tables.
  Pictures of kinds that are not among them may be judged far worse, for nothing but what they show.
- **Those who mean to deceive it** can: noise, rescaling or recompression chosen for the purpose were not measured.
- **The figures hold for these images.** The threshold aims at {100 * FPR_CEILING:.0f} % false positives, and the unsure
  band at {100 * UNSURE_ACCURACY:.0f} % right verdicts, on validation images; on others both come out otherwise, as the
  tables show. Intervals tell what chance does in drawing images from these sources, and nothing about other sources.
  Where synthetic images are rare, most of those called synthetic may be authentic even at a low FPR."""

USE: Final = """\
Made for sorting large numbers of images, for looking closer at some of them, and for research. Measure it on images of
your own (`mai evaluate --data FOLDER`) before you rely on it, and give a verdict together with its error rates.

Not for accusing anyone, for grading, moderating or punishing by its verdict alone, for evidence in court, for calling
an image genuine, or for judging people by the pictures that they share. A person has to look, and other signs have to
agree: where an image was first published, its metadata and Content Credentials, what is known of its maker."""
