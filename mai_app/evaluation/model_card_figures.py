"""The figures of a model card: from reports on the same images to Markdown tables, and what they say in sentences."""

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
    "synthetic at the stored threshold. *Verdicts right* leaves out the unsure ones. In brackets: 95 % intervals."
)
TABLES: Final = (
    ("kind", 0, "False positives by kind", "authentic images called synthetic"),
    ("source", 0, "False positives by source", "authentic images called synthetic"),
    ("generator", 1, "Found, by generator", "synthetic images called synthetic"),
    ("source", 1, "Found, by source", "synthetic images called synthetic"),
)
"""Groups that have a table: column, class, the table's heading, and what its shares are."""
ENOUGH: Final = 20
"""Images of a group from which on it may be named as the worst: of fewer, one more or less decides."""


def figures(report: Report, others: Sequence[Report], trained_on: str) -> Iterator[str]:
    """The section's paragraphs and tables; `others`: reports of other models on the same images."""
    refused = f" ({len(report['refused']):,} more could not be read)" if report["refused"] else ""
    apart = SAME_DATA if data_name(report) == trained_on else OTHER_DATA
    yield (
        f"Judged on {escaped(data_name(report))}, {report['split']} part: {report['authentic']:,} authentic and "
        f"{report['synthetic']:,} synthetic images{refused}. {apart}"
        + (f" {escaped(report['note'])}" if report["note"] else "")
    )
    tiers = "; ".join(f"**{tier}**, {escaped(report['tier_words'][tier])}" for tier in TIERS)
    yield f"Every image is judged in four tiers: {tiers}. {TABLE_NOTE}"
    names = [f"AUROC of {_called(other)}" for other in others]
    head = ("tier", "AUROC (95 %)", *names, "AUROC of the files alone", "FPR", "TPR", "unsure", "verdicts right")
    yield table(head, [tuple(_tier_cells(tier, report, others)) for tier in TIERS])
    if others:
        yield "Beside it: " + "; ".join(f"{_called(o)}, trained on {escaped(o['trained_on'])}" for o in others) + "."
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
    yield show_percent(shown["unsure"])
    yield f"{show_percent(shown['verdicts_right'])} of {shown['verdicts']:,}" if shown["verdicts"] else "none given"


def _findings(report: Report, others: Sequence[Report]) -> Iterator[str]:
    """What the tiers' table says, in sentences."""
    tiers = report["tiers"]
    if min(report["authentic"], report["synthetic"]) < ENOUGH:
        yield f"With fewer than {ENOUGH} images of a class these figures say little, their intervals included."
    worst = max(TIERS, key=lambda tier: tiers[tier]["fpr"]["value"])
    found = sorted(tiers[tier]["tpr"]["value"] for tier in TIERS)
    yield (
        f"At the stored threshold {show_percent(tiers[worst]['fpr']['value'])} of the authentic images are called "
        f"synthetic in the worst tier ({worst}); of the synthetic ones {show_percent(found[0])} to "
        f"{show_percent(found[-1])} are found."
    )
    yield _against("chance", report, dict.fromkeys(TIERS, 0.5))
    yield _against("the files alone", report, {t: tiers[t]["format_only_auroc"]["value"] for t in TIERS})
    for other in others:
        yield _against(_called(other), report, {t: other["tiers"][t]["auroc"]["value"] for t in TIERS})
    shares = ", ".join(f"{tier} {show_percent(tiers[tier]['doubted'])}" for tier in TIERS)
    yield f"Too small, too smooth or too degraded for a verdict: {shares}."


def _against(rival: str, report: Report, aurocs: Mapping[str, float | None]) -> str:
    """Whether the AUROC, its interval's lower end, is above that of something else in each tier."""
    known = {tier: value for tier, value in aurocs.items() if value is not None}
    short = [tier for tier, value in known.items() if report["tiers"][tier]["auroc"]["low"] <= value]
    if not known:
        return f"The AUROC of {rival} could not be measured."
    if not short:
        return f"Its AUROC is above that of {rival} in every tier, interval included."
    return f"Its AUROC is not surely above that of {rival} in {', '.join(short)}."


def _called(report: Report) -> str:
    return f"{escaped(report['model'])} `{report['version']}`"


def _groups(report: Report, column: str, label: int, heading: str, what: str) -> Iterator[str]:
    """One table of groups, the largest first; nothing where no group has a name."""
    by_tier = {
        tier: {g["name"]: g for g in report["tiers"][tier]["groups"] if (g["column"], g["label"]) == (column, label)}
        for tier in TIERS
    }
    clean = by_tier["clean"]
    if set(clean) <= {"(not named)"}:
        return
    yield f"### {heading}"
    names = sorted(clean, key=lambda name: (-clean[name]["images"], name))
    share = {(name, tier): by_tier[tier][name]["called_synthetic"] for name in names for tier in TIERS}
    yield table(
        (column, "images", *TIERS),
        (
            (escaped(name), f"{clean[name]['images']:,}", *(show_interval(share[name, t], percent=True) for t in TIERS))
            for name in names
        ),
    )
    large = [key for key in share if clean[key[0]]["images"] >= ENOUGH]
    if large:
        name, tier = (min if label else max)(large, key=lambda key: share[key]["value"])
        text = f"{escaped(name)} in {tier}, {show_percent(share[name, tier]['value'])} of {clean[name]['images']:,}"
        yield f"Shares: {what}, with 95 % intervals. The worst of those with {ENOUGH} images or more: {text}."
    else:
        yield f"Shares: {what}, with 95 % intervals. No group has {ENOUGH} images: these figures say little."


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
            escaped(version["name"]),
            *(show_interval(version["shift"][name], shift=True) for name in CLASSES),
            *(show_number(version["auroc_saved_alone"][name]) for name in CLASSES),
            *(show_percent(version[share]) for share in ("verdicts_flipped", "threshold_crossed")),
        )
        for version in bias["versions"]
    )
    yield table((*head, "verdicts changed", "threshold crossed"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: the first `left` columns stand left, the others, figures, right."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def escaped(name: str) -> str:
    """A name as Markdown that shows it as it is: on one line, and with no character that marks anything up."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", show_name(str(name)))


def data_name(report: Report) -> str:
    """Name of the data set: its path is nobody's concern."""
    return Path(report["data"]).name
