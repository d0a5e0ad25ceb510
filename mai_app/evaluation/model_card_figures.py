"""Results section of a model card: Markdown tables and sentences from reports on the same images."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mai_app.config import CLASSES, TIERS
from mai_app.core.display import show_interval, show_name, show_number, show_percent

Report = Mapping[str, Any]

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
    "synthetic at the stored threshold; *FPR by source* is a mean over the authentic sources, each counting alike. "
    "*Coverage* is the share of the images that get a verdict, and *verdicts right* the share of these that are right. "
    "In brackets: 95 % intervals."
)
TABLES: Final = (
    ("kind", 0, "False positives by kind", "authentic images called synthetic"),
    ("source", 0, "False positives by source", "authentic images called synthetic"),
    ("generator", 1, "Found, by generator", "synthetic images called synthetic"),
    ("source", 1, "Found, by source", "synthetic images called synthetic"),
)
"""Tables by group: column, class, heading, and what the shares are."""
NOT_NAMED: Final = "(not named)"
"""Name of the group of images whose column is empty."""
MIN_IMAGES: Final = 20
"""Minimum images of a group that is named as the worst; in a smaller one a single image decides."""


def results_section(report: Report, others: Sequence[Report], trained_on: str) -> Iterator[str]:
    """The section's paragraphs and tables; `others`: reports of other models on the same images."""
    refused = f" ({len(report['refused']):,} more could not be read)" if report["refused"] else ""
    apart = SAME_DATA if data_name(report) == trained_on else OTHER_DATA
    yield (
        f"Judged on {escape(data_name(report))}, {report['split']} part: {report['authentic']:,} authentic and "
        f"{report['synthetic']:,} synthetic images{refused}. {apart}"
        + (f" {escape(report['note'])}" if report["note"] else "")
    )
    tiers = "; ".join(f"**{tier}**, {escape(report['tier_words'][tier])}" for tier in TIERS)
    yield f"Every image is judged in four tiers: {tiers}. {TABLE_NOTE}"
    names = [f"AUROC of {_model_label(other)}" for other in others]
    head = ("tier", "AUROC (95 %)", *names, "AUROC of the files alone", "FPR", "TPR")
    yield markdown_table(
        (*head, "FPR by source", "coverage", "verdicts right"),
        [tuple(_tier_cells(tier, report, others)) for tier in TIERS],
    )
    if others:
        yield (
            "Beside it: " + "; ".join(f"{_model_label(o)}, trained on {escape(o['trained_on'])}" for o in others) + "."
        )
    yield " ".join(_findings(report, others))
    for column, label, heading, what in TABLES:
        yield from _groups(report, column, label, heading, what)
    if report["bias"]:
        yield from _bias(report["bias"])


def _tier_cells(tier: str, report: Report, others: Sequence[Report]) -> Iterator[str]:
    shown = report["tiers"][tier]
    yield tier
    yield f"**{show_interval(shown['auroc'])}**"
    yield from (show_interval(other["tiers"][tier]["auroc"]) for other in others)
    yield show_interval(shown["format_only_auroc"])
    yield from (show_interval(shown[rate], percent=True) for rate in ("fpr", "tpr"))
    yield show_percent(shown.get("fpr_by_source"))  # not in a report of version 0.1
    yield show_percent(1 - shown["unsure"])
    yield f"{show_percent(shown['verdicts_right'])} of {shown['verdicts']:,}" if shown["verdicts"] else "none given"


def _findings(report: Report, others: Sequence[Report]) -> Iterator[str]:
    """The main findings of the table of tiers, in sentences."""
    tiers = report["tiers"]
    if min(report["authentic"], report["synthetic"]) < MIN_IMAGES:
        yield f"With fewer than {MIN_IMAGES} images of a class these figures say little, their intervals included."
    worst = max(TIERS, key=lambda tier: tiers[tier]["fpr"]["value"])
    found = sorted(tiers[tier]["tpr"]["value"] for tier in TIERS)
    yield (
        f"At the stored threshold {show_percent(tiers[worst]['fpr']['value'])} of the authentic images are called "
        f"synthetic in the worst tier ({worst}); of the synthetic ones {show_percent(found[0])} to "
        f"{show_percent(found[-1])} are found."
    )
    yield _compare("chance", report, dict.fromkeys(TIERS, 0.5))
    yield _compare("the files alone", report, {t: tiers[t]["format_only_auroc"]["value"] for t in TIERS})
    for other in others:
        yield _compare(_model_label(other), report, {t: other["tiers"][t]["auroc"]["value"] for t in TIERS})
    shares = ", ".join(f"{tier} {show_percent(tiers[tier]['doubted'])}" for tier in TIERS)
    yield f"Too small, too smooth or too degraded for a verdict: {shares}."


def _compare(rival: str, report: Report, aurocs: Mapping[str, float | None]) -> str:
    """Say whether the lower end of the AUROC's interval is above another AUROC, in each tier."""
    known = {tier: value for tier, value in aurocs.items() if value is not None}
    short = [tier for tier, value in known.items() if report["tiers"][tier]["auroc"]["low"] <= value]
    if not known:
        return f"The AUROC of {rival} could not be measured."
    if not short:
        return f"Its AUROC is above that of {rival} in every tier, interval included."
    return f"Its AUROC is not surely above that of {rival} in {', '.join(short)}."


def _model_label(report: Report) -> str:
    return f"{escape(report['model'])} `{report['version']}`"


def _groups(report: Report, column: str, label: int, heading: str, what: str) -> Iterator[str]:
    """A table of groups, the largest first; nothing if no group has a name."""
    by_tier = {
        tier: {g["name"]: g for g in report["tiers"][tier]["groups"] if (g["column"], g["label"]) == (column, label)}
        for tier in TIERS
    }
    clean = by_tier["clean"]
    if set(clean) <= {NOT_NAMED}:
        return
    yield f"### {heading}"
    names = sorted(clean, key=lambda name: (-clean[name]["images"], name))
    share = {(name, tier): by_tier[tier][name]["called_synthetic"] for name in names for tier in TIERS}
    yield markdown_table(
        (column, "images", *TIERS, "unsure (clean)"),
        (
            (
                escape(name),
                f"{clean[name]['images']:,}",
                *(show_interval(share[name, t], percent=True) for t in TIERS),
                show_percent(clean[name].get("unsure")),
            )
            for name in names
        ),
    )
    large = [key for key in share if clean[key[0]]["images"] >= MIN_IMAGES]
    if large:
        name, tier = (min if label else max)(large, key=lambda key: share[key]["value"])
        text = f"{escape(name)} in {tier}, {show_percent(share[name, tier]['value'])} of {clean[name]['images']:,}"
        yield f"Shares: {what}, with 95 % intervals. The worst of those with {MIN_IMAGES} images or more: {text}."
    else:
        yield f"Shares: {what}, with 95 % intervals. No group has {MIN_IMAGES} images: these figures say little."


def _bias(bias: Mapping[str, Any]) -> Iterator[str]:
    yield "### Do scores follow how a file is saved?"
    yield (
        f"{bias['images']['authentic']:,} authentic and {bias['images']['synthetic']:,} synthetic images saved "
        f"differently: the mean shift of p_synthetic (95 %), the AUROC where that class alone is saved so "
        f"({show_number(bias['auroc'])} as found), the share of verdicts that become others, and that of images that "
        f"cross the threshold. A detector that judges how images are made stays near 0."
    )
    head = ("saved as", *(f"shift, {name}" for name in CLASSES), *(f"AUROC, {name} alone" for name in CLASSES))
    rows = (
        (
            escape(version["name"]),
            *(show_interval(version["shift"][name], shift=True) for name in CLASSES),
            *(show_number(version["auroc_saved_alone"][name]) for name in CLASSES),
            *(show_percent(version[share]) for share in ("verdicts_flipped", "threshold_crossed")),
        )
        for version in bias["versions"]
    )
    yield markdown_table((*head, "verdicts changed", "threshold crossed"), rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are left-aligned, the others right-aligned."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def escape(name: str) -> str:
    """Escape a name for Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", show_name(str(name)))


def data_name(report: Report) -> str:
    """Name of the data set, without the path of this machine."""
    return Path(report["data"]).name
