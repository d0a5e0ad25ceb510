"""Evaluation report for people: tables for the terminal, and a self-contained HTML page with plots."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from mai_app.config import CLASSES, TIERS
from mai_app.core.display import cut_text, show_interval, show_name, show_number, show_percent, show_shift
from mai_app.core.metrics import Floats, Ints, auroc, roc_curve
from mai_app.evaluation.html import CLASS_COLOURS, new_axes, page, plot_style, svg_text
from mai_app.evaluation.model_card_figures import MIN_IMAGES, NOT_NAMED

Curves = Mapping[str, tuple[Floats, Ints]]
"""Scores (n,) and labels (n,) by tier."""

FIGURES: Final = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "tpr": "TPR",
    "fpr": "FPR",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
    "ece": "calibration error",
}
# Okabe and Ito's colours (2008), which people with any kind of colour vision can tell apart.
LINE_STYLES: Final = {"clean": "-", "q90": "--", "web": "-.", "hard": ":"}
COLOURS: Final = {"clean": "#0072B2", "q90": "#009E73", "web": "#E69F00", "hard": "#D55E00"}


def text_tables(report: Mapping[str, Any]) -> str:
    """The report as plain text, for a terminal of 110 columns."""
    lines = [heading(report), ""]
    columns = ["avg.prec.", "bal.acc.", "TPR", "FPR", "TPR@5%", "ECE", "coverage", "right", "file only"]
    lines.append(f"{'tier':<6}{'AUROC (95 %)':>20}" + "".join(f"{column:>10}" for column in columns))
    for tier in TIERS:
        figures = report["tiers"][tier]
        cells = [show_number(figures[name]["value"]) for name in list(FIGURES)[1:]]
        cells += [show_percent(figures["coverage"]), show_percent(figures["verdicts_right"])]
        cells += [show_number(figures["format_only_auroc"]["value"])]
        lines.append(f"{tier:<6}{show_interval(figures['auroc']):>20}" + "".join(f"{cell:>10}" for cell in cells))
    lines.append(
        "coverage: share of the images that get a verdict, authentic or synthetic; right: of these, those right"
    )
    lines.append("file only: AUROC of a baseline that sees only format, size and JPEG quality of the same files")
    lines += [_show_doubted(report), *show_by_source(report)]
    for column, label, rows in _group_tables(report):
        what = "false positives" if label == 0 else "found"
        lines += ["", f"{CLASSES[label]} images called synthetic ({what}), by {column}"]
        lines.append(
            f"{'':<38}{'images':>7}" + "".join(f"{tier:>11}" for tier in TIERS) + f"{'unsure':>11}{'clean AUROC':>14}"
        )
        for name, by_tier in rows:
            shares = "".join(f"{show_percent(by_tier[tier]['called_synthetic']['value']):>11}" for tier in TIERS)
            clean = by_tier["clean"]
            last = f"{show_percent(clean['unsure']):>11}{show_number(clean['auroc']['value']):>14}"
            lines.append(f"{cut_text(show_name(name), 38):<38}{clean['images']:>7}{shares}{last}")
    if report["bias"]:
        lines += ["", bias_heading(report["bias"])]
        head = "".join(f"{name:>26}" for name in CLASSES) + "".join(f"{name + ' only':>16}" for name in CLASSES)
        lines.append(f"{'saved as':<16}{head}{'flipped':>9}{'crossed':>9}")
        for version in report["bias"]["versions"]:
            shifts = "".join(f"{show_interval(version['shift'][name], shift=True):>26}" for name in CLASSES)
            alone = "".join(f"{show_number(version['auroc_saved_alone'][name]):>16}" for name in CLASSES)
            shares = "".join(f"{show_percent(version[k]):>9}" for k in ("verdicts_flipped", "threshold_crossed"))
            lines.append(f"{version['name']:<16}{shifts}{alone}{shares}")
    return "\n".join(lines)


def heading(report: Mapping[str, Any]) -> str:
    """Describe the model, the data and the calibration in a few sentences."""
    calibration = report["calibration"]
    refused = len(report["refused"])
    return (
        f"{report['model']} {report['version']} ({report['input']}), trained on {report['trained_on']}, judged on "
        f"{report['data']}, {report['split']} part: {report['authentic']} authentic and {report['synthetic']} "
        f"synthetic images{f', {refused} could not be read' if refused else ''}.\n"
        f"Threshold {calibration['threshold']:.3f}, unsure from {calibration['unsure_low']:.3f} to "
        f"{calibration['unsure_high']:.3f}, fixed beforehand on {calibration['authentic_images']} authentic and "
        f"{calibration['synthetic_images']} synthetic validation images"
        + (f" of {calibration['data']}, whole, in {len(TIERS)} tiers." if calibration["tiers"] else ".")
        + (f"\n{report['note']}" if report["note"] else "")
    )


def bias_heading(bias: Mapping[str, Any]) -> str:
    """Describe the bias check and its largest shift in a few sentences."""
    counts, largest = bias["images"], bias["largest"]
    return (
        f"{counts['authentic']} authentic and {counts['synthetic']} synthetic images saved differently: mean shift of "
        f"p_synthetic by class (95 %); AUROC where one\nclass only is saved so ({show_number(bias['auroc'])} as "
        f"found); share of verdicts that flip, and of images that cross the threshold.\nLargest shift: "
        f"{show_shift(largest['shift'])}, {largest['class']} images, {largest['version']}."
    )


def _show_doubted(report: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{tier} {show_percent(report['tiers'][tier]['doubted'])}" for tier in TIERS)
    return f"Unsure because too small, too smooth or too degraded to be judged: {shares}"


def show_by_source(report: Mapping[str, Any]) -> list[str]:
    """Say what the false positive rate is as a mean over sources, and of which kind of authentic images it is worst."""
    groups = {tier: [g for g in report["tiers"][tier]["groups"] if g["label"] == 0] for tier in TIERS}
    sources = sum(group["column"] == "source" for group in groups["clean"])
    shares = ", ".join(f"{tier} {show_percent(report['tiers'][tier]['fpr_by_source'])}" for tier in TIERS)
    lines = [f"FPR as a mean over the authentic sources ({sources}), each counting alike: {shares}"]
    kinds = [
        (group["called_synthetic"]["value"], tier, group)
        for tier in TIERS
        for group in groups[tier]
        if group["column"] == "kind" and group["images"] >= MIN_IMAGES and group["name"] != NOT_NAMED
    ]
    if kinds:
        share, tier, group = max(kinds, key=lambda kind: kind[0])
        name = cut_text(show_name(group["name"]), 38)
        what = f"worst kind of authentic images (of {MIN_IMAGES} or more)"
        lines.append(f"{what}: {name}, {show_percent(share)} of {group['images']} called synthetic in {tier}")
    return lines


def summary(report: Mapping[str, Any]) -> str:
    """The report's tables for a terminal, and where its page is."""
    return f"{text_tables(report)}\n\npage: {Path(report['folder']) / 'report.html'}"


def html_page(report: Mapping[str, Any], curves: Curves, pictures: Mapping[str, str]) -> str:
    """The report as one HTML page, plots included; `pictures`: data: URIs of the mistakes' images, by file."""
    with plot_style():
        plots = [
            ("How well the classes are told apart: ROC curves", svg_text(_plot_roc(curves))),
            ("How the scores lie, in the clean tier", svg_text(_plot_scores(report, curves))),
            ("How far the scores can be taken as probabilities", svg_text(_plot_reliability(curves))),
        ]
    tiers = "".join(
        f"<tr><th>{tier}<small>{html.escape(report['tier_words'][tier])}</small></th>"
        + "".join(f"<td>{show_interval(report['tiers'][tier][name], html_=True)}</td>" for name in FIGURES)
        + f"<td>{show_percent(report['tiers'][tier]['fpr_by_source'])}</td>"
        + f"<td>{show_percent(report['tiers'][tier]['coverage'])}</td>"
        + f"<td>{show_percent(report['tiers'][tier]['verdicts_right'])}</td>"
        + f"<td>{show_interval(report['tiers'][tier]['format_only_auroc'], html_=True)}</td></tr>"
        for tier in TIERS
    )
    groups = "".join(_group_html(column, label, rows) for column, label, rows in _group_tables(report))
    figures = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for caption, svg in plots)
    command = f"mai evaluate --data {report['data']} --model {report['checkpoint']} --split {report['split']}"
    title = f"MAI: {report['model']} on {report['data']}"
    body = _BODY.format(
        title=html.escape(title),
        heading=html.escape(heading(report)).replace("\n", "<br>"),
        figure_names="".join(f"<th>{name}</th>" for name in FIGURES.values()),
        tiers=tiers,
        doubted=html.escape(_show_doubted(report)),
        by_source="<br>".join(map(html.escape, show_by_source(report))),
        figures=figures,
        groups=groups,
        bias=_bias_html(report["bias"]) if report["bias"] else "",
        mistakes=_mistakes_html(report, pictures),
        command=html.escape(command),
        version=html.escape(report["mai_version"]),
    )
    return page(title, body)


def _group_tables(report: Mapping[str, Any]) -> list[tuple[str, int, list[tuple[str, dict[str, Any]]]]]:
    """Group figures by column and class: each group's name and its figures by tier, the largest groups first."""
    tables: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for tier in TIERS:
        for group in report["tiers"][tier]["groups"]:
            rows = tables.setdefault((group["column"], group["label"]), {})
            rows.setdefault(group["name"], {})[tier] = group
    return [
        (column, label, sorted(rows.items(), key=lambda row: (-row[1]["clean"]["images"], row[0])))
        for (column, label), rows in tables.items()
    ]


def _group_html(column: str, label: int, rows: list[tuple[str, dict[str, Any]]]) -> str:
    what = "called synthetic: false positives" if label == 0 else "called synthetic: found"
    body = "".join(
        f"<tr><th>{html.escape(show_name(name))}</th><td>{cells['clean']['images']}</td>"
        + "".join(
            f"<td>{show_interval(cells[tier]['called_synthetic'], html_=True, percent=True)}</td>" for tier in TIERS
        )
        + f"<td>{show_percent(cells['clean']['unsure'])}</td>"
        + f"<td>{show_interval(cells['clean']['auroc'], html_=True)}</td></tr>"
        for name, cells in rows
    )
    head = "".join(f"<th>{tier}</th>" for tier in TIERS)
    return (
        f"<h2>{CLASSES[label].capitalize()} images by {column}</h2><div class=scroll><table><thead><tr><th></th>"
        f"<th>images</th><th colspan={len(TIERS)}>{what}</th><th>unsure, clean</th><th>AUROC, clean</th></tr>"
        f"<tr><th></th><th></th>{head}<th></th><th></th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _bias_html(bias: Mapping[str, Any]) -> str:
    body = "".join(
        f"<tr><th>{html.escape(version['name'])}</th>"
        + "".join(f"<td>{show_interval(version['shift'][name], html_=True, shift=True)}</td>" for name in CLASSES)
        + "".join(f"<td>{show_number(version['auroc_saved_alone'][name])}</td>" for name in CLASSES)
        + "".join(f"<td>{show_percent(version[share])}</td>" for share in ("verdicts_flipped", "threshold_crossed"))
        + "</tr>"
        for version in bias["versions"]
    )
    head = "".join(f"<th>shift, {name}</th>" for name in CLASSES)
    head += "".join(f"<th>AUROC, {name} only</th>" for name in CLASSES)
    return (
        f"<h2>Do scores follow how a file is saved?</h2><p class=note>{html.escape(bias_heading(bias))} The pictures "
        f"stay what they are: a shift says how far the detector judges the saving instead (BIAS-ID, Ricker et al. "
        f"2026).</p><div class=scroll><table><thead><tr><th>saved as</th>{head}<th>verdicts flipped</th>"
        f"<th>threshold crossed</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _mistakes_html(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    parts = []
    for label, word in enumerate(CLASSES):
        rows = [row for row in report["mistakes"] if row["label"] == label]
        sheet = "".join(_mistake_html(row, pictures.get(row["file"], "")) for row in rows)
        what = f"{word.capitalize()} images that score {'highest' if label == 0 else 'lowest'}, wrongly"
        parts.append(f"<h2>{what}</h2>" + (f"<div class=sheet>{sheet}</div>" if rows else "<p class=note>None.</p>"))
    return "".join(parts)


def _mistake_html(row: Mapping[str, Any], picture: str) -> str:
    name = html.escape(show_name(row["file"]))
    origin = html.escape(show_name(" · ".join(filter(None, (row["source"], row["generator"])))))
    scores = " · ".join(f"{tier}&nbsp;{show_number(row['scores'][tier])}" for tier in TIERS)
    shown = f'<img src="{html.escape(picture)}" alt="">' if picture else ""
    return f"<figure>{shown}<figcaption>{name}<small>{origin}</small><small>{scores}</small></figcaption></figure>"


def _plot_roc(curves: Curves) -> Figure:
    figure, axes = new_axes("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="chance")
    for tier, (scores, labels) in curves.items():
        axes.plot(
            *roc_curve(scores, labels),
            color=COLOURS[tier],
            linestyle=LINE_STYLES[tier],
            label=f"{tier}, {auroc(scores, labels):.3f}",
        )
    axes.legend(title="tier, AUROC", loc="lower right", frameon=False)
    return figure


def _plot_scores(report: Mapping[str, Any], curves: Curves) -> Figure:
    figure, axes = new_axes("p_synthetic", "share of the class")
    scores, labels = curves["clean"]
    edges = np.linspace(0, 1, 21)
    for label, name in enumerate(CLASSES):
        part = scores[labels == label]
        shares, _ = np.histogram(part, edges)
        axes.stairs(shares / len(part), edges, color=CLASS_COLOURS[label], fill=True, alpha=0.45, label=name)
    calibration = report["calibration"]
    axes.axvspan(calibration["unsure_low"], calibration["unsure_high"], color="0.5", alpha=0.15, label="unsure")
    axes.axvline(calibration["threshold"], color="0.2", linestyle="--", linewidth=1, label="threshold")
    axes.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.7, edgecolor="none")
    axes.set_xlim(0, 1)
    return figure


def _plot_reliability(curves: Curves) -> Figure:
    figure, axes = new_axes("p_synthetic", "share synthetic, classes alike")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="perfect")
    for tier, (scores, labels) in curves.items():
        weights = np.where(labels == 1, 1 / (labels == 1).sum(), 1 / (labels == 0).sum())
        which = np.minimum((scores * 10).astype(int), 9)
        filled = [k for k in range(10) if (which == k).sum() >= 5]
        means = [np.average(scores[which == k], weights=weights[which == k]) for k in filled]
        shares = [np.average(labels[which == k], weights=weights[which == k]) for k in filled]
        axes.plot(means, shares, marker="o", markersize=3, color=COLOURS[tier], linestyle=LINE_STYLES[tier], label=tier)
    axes.legend(frameon=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure


_BODY: Final = """<h1>{title}</h1><p>{heading}</p>
<p class="note">AUROC 0.5 is chance. TPR: share of synthetic images called synthetic; FPR: share of authentic images
called synthetic, both at the threshold; FPR by source is a mean over the authentic sources, each counting alike.
Coverage: share of the images that get a verdict, authentic or synthetic. Verdicts right: of these, the share right.
Small figures are 95 % intervals; the calibration error has none. Scores are those before clipping to 0.01 and 0.99.
File only: the AUROC of a baseline that sees only format, size and JPEG quality of the same files, never a pixel; a
detector that does not beat it has shown nothing. {doubted}. A score is no proof: no verdict of MAI's says that an image
is proven authentic.</p>
<div class="scroll"><table><thead><tr><th>tier</th>{figure_names}<th>FPR by source</th><th>coverage</th>
<th>verdicts right</th><th>file only</th></tr></thead>
<tbody>{tiers}</tbody></table></div>
<p class="note">{by_source}.</p>
<div class="plots">{figures}</div>
{bias}
{groups}
{mistakes}
<p class="note">Made by <code>{command}</code>, MAI {version}.</p>
"""
