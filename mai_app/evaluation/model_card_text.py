"""What every model card says alike, in words: what a detector is and is not, its limits, its use and misuse."""

from typing import Final

from mai_app.config import DOUBT_LIMITS, FPR_CEILING, SHOWN_SCORES, UNSURE_ACCURACY

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

SAME_DATA: Final = (
    "MAI keeps this part of a data set out of training, validation and calibration, near duplicates included."
)
OTHER_DATA: Final = (
    "This is another data set than the one trained on; whether the two share images was not looked at for this card."
)

TABLE_NOTE: Final = (
    "AUROC is the chance that a synthetic image scores above an authentic one: 0.5 is a coin's. *The files alone* is a "
    "baseline that sees only format, size and JPEG quality of the same files, never a pixel: what it reaches, a "
    "detector has not shown that it can. FPR and TPR are the shares of authentic and of synthetic images called "
    "synthetic at the stored threshold. *Verdicts right* leaves out the unsure ones. In brackets: 95 % intervals."
)

LIMITS: Final = f"""\
- **Unseen generators.** It knows the traces of generators like those in its training images. Others, newer ones above
  all, may pass as authentic; the tables by generator show how unevenly it finds even those that it was measured on.
- **Small, smooth and degraded images.** Shrinking and recompressing destroy the traces: compare the tiers. An image
  under {DOUBT_LIMITS.shorter_side} pixels on its shorter side, one that is next to flat or much enlarged, and a JPEG
  under quality {DOUBT_LIMITS.jpeg_quality} are always unsure, whatever the score.
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
