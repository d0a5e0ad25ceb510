"""An evaluation's figures for people: tables for the terminal, and one HTML page with plots and no outside request."""

import html
import io
from collections.abc import Mapping
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mai_app.config import CLASSES, TIERS
from mai_app.evaluation.metrics import Floats, Ints, auroc, roc_curve

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
LINES: Final = {"clean": "-", "q90": "--", "web": "-.", "hard": ":"}
COLOURS: Final = {"clean": "#0072B2", "q90": "#009E73", "web": "#E69F00", "hard": "#D55E00"}
CLASS_COLOURS: Final = ("#0072B2", "#D55E00")


def text_tables(report: Mapping[str, Any]) -> str:
    """The report as plain text, for a terminal of 110 columns."""
    lines = [heading(report), ""]
    columns = ["avg.prec.", "bal.acc.", "TPR", "FPR", "TPR@5%", "ECE", "unsure", "right", "file only"]
    lines.append(f"{'tier':<6}{'AUROC (95 %)':>20}" + "".join(f"{column:>10}" for column in columns))
    for tier in TIERS:
        figures = report["tiers"][tier]
        cells = [_number(figures[name]["value"]) for name in list(FIGURES)[1:]]
        cells += [_percent(figures["unsure"]), _percent(figures["verdicts_right"])]
        cells += [_number(figures["format_only_auroc"]["value"])]
        lines.append(f"{tier:<6}{_interval(figures['auroc']):>20}" + "".join(f"{cell:>10}" for cell in cells))
    lines.append(
        "right: share of the verdicts given, authentic or synthetic, that are right; unsure ones are not counted"
    )
    lines.append("file only: AUROC of a baseline that sees only format, size and JPEG quality of the same files")
    for column, label, rows in _group_tables(report):
        what = "false positives" if label == 0 else "found"
        lines += ["", f"{CLASSES[label]} images called synthetic ({what}), by {column}"]
        lines.append(f"{'':<44}{'images':>7}" + "".join(f"{tier:>11}" for tier in TIERS) + f"{'clean AUROC':>14}")
        for name, by_tier in rows:
            shares = "".join(f"{_percent(by_tier[tier]['called_synthetic']['value']):>11}" for tier in TIERS)
            area = _number(by_tier["clean"]["auroc"]["value"])
            lines.append(f"{_cut(name, 44):<44}{by_tier['clean']['images']:>7}{shares}{area:>14}")
    return "\n".join(lines)


def heading(report: Mapping[str, Any]) -> str:
    """What was measured on what, in a few sentences."""
    calibration = report["calibration"]
    refused = len(report["refused"])
    return (
        f"{report['model']} {report['version']} ({report['input']}), trained on {report['trained_on']}, judged on "
        f"{report['data']}, {report['split']} part: {report['authentic']} authentic and {report['synthetic']} "
        f"synthetic images{f', {refused} could not be read' if refused else ''}.\n"
        f"Threshold {calibration['threshold']:.3f}, unsure from {calibration['unsure_low']:.3f} to "
        f"{calibration['unsure_high']:.3f}, fixed beforehand on {calibration['authentic_images']} authentic and "
        f"{calibration['synthetic_images']} synthetic validation images."
        + (f"\n{report['note']}" if report["note"] else "")
    )


def html_page(report: Mapping[str, Any], curves: Curves) -> str:
    """The report as one HTML page, plots included."""
    with mpl.rc_context(
        {
            "svg.hashsalt": "mai",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.family": "sans-serif",
        }
    ):
        plots = [
            ("How well the classes are told apart: ROC curves", _svg(_plot_roc(curves))),
            ("How the scores lie, in the clean tier", _svg(_plot_scores(report, curves))),
            ("How far the scores can be taken as probabilities", _svg(_plot_reliability(curves))),
        ]
    tiers = "".join(
        f"<tr><th>{tier}<small>{html.escape(report['tier_words'][tier])}</small></th>"
        + "".join(f"<td>{_interval(report['tiers'][tier][name], html_=True)}</td>" for name in FIGURES)
        + f"<td>{_percent(report['tiers'][tier]['unsure'])}</td>"
        + f"<td>{_percent(report['tiers'][tier]['verdicts_right'])}</td>"
        + f"<td>{_interval(report['tiers'][tier]['format_only_auroc'], html_=True)}</td></tr>"
        for tier in TIERS
    )
    groups = "".join(_group_html(column, label, rows) for column, label, rows in _group_tables(report))
    figures = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for caption, svg in plots)
    command = f"mai evaluate --data {report['data']} --model {report['checkpoint']} --split {report['split']}"
    return _PAGE.format(
        title=html.escape(f"MAI: {report['model']} on {report['data']}"),
        heading=html.escape(heading(report)).replace("\n", "<br>"),
        figure_names="".join(f"<th>{name}</th>" for name in FIGURES.values()),
        tiers=tiers,
        figures=figures,
        groups=groups,
        command=html.escape(command),
        version=html.escape(report["mai_version"]),
    )


def _group_tables(report: Mapping[str, Any]) -> list[tuple[str, int, list[tuple[str, dict[str, Any]]]]]:
    """By column and class: the groups' names, each with its figures by tier; the largest groups first."""
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
        f"<tr><th>{html.escape(name)}</th><td>{cells['clean']['images']}</td>"
        + "".join(f"<td>{_interval(cells[tier]['called_synthetic'], html_=True, percent=True)}</td>" for tier in TIERS)
        + f"<td>{_interval(cells['clean']['auroc'], html_=True)}</td></tr>"
        for name, cells in rows
    )
    head = "".join(f"<th>{tier}</th>" for tier in TIERS)
    return (
        f"<h2>{CLASSES[label].capitalize()} images by {column}</h2><div class=scroll><table><thead><tr><th></th>"
        f"<th>images</th><th colspan={len(TIERS)}>{what}</th><th>AUROC, clean</th></tr>"
        f"<tr><th></th><th></th>{head}<th></th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _plot_roc(curves: Curves) -> Figure:
    figure, axes = _axes("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="chance")
    for tier, (scores, labels) in curves.items():
        axes.plot(
            *roc_curve(scores, labels),
            color=COLOURS[tier],
            linestyle=LINES[tier],
            label=f"{tier}, {auroc(scores, labels):.3f}",
        )
    axes.legend(title="tier, AUROC", loc="lower right", frameon=False)
    return figure


def _plot_scores(report: Mapping[str, Any], curves: Curves) -> Figure:
    figure, axes = _axes("p_synthetic", "share of the class")
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
    figure, axes = _axes("p_synthetic", "share synthetic, classes alike")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="perfect")
    for tier, (scores, labels) in curves.items():
        weights = np.where(labels == 1, 1 / (labels == 1).sum(), 1 / (labels == 0).sum())
        which = np.minimum((scores * 10).astype(int), 9)
        filled = [k for k in range(10) if (which == k).sum() >= 5]
        means = [np.average(scores[which == k], weights=weights[which == k]) for k in filled]
        shares = [np.average(labels[which == k], weights=weights[which == k]) for k in filled]
        axes.plot(means, shares, marker="o", markersize=3, color=COLOURS[tier], linestyle=LINES[tier], label=tier)
    axes.legend(frameon=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _interval(figure: Mapping[str, float | None], html_: bool = False, percent: bool = False) -> str:
    show = (lambda v: "–" if v is None else f"{100 * v:.0f}") if percent else _number
    value = show(figure["value"]) + (" %" if percent and figure["value"] is not None else "")
    span = f"{show(figure['low'])}–{show(figure['high'])}"
    if figure["value"] is None:
        return "–"
    return f"{value}<small>{span}</small>" if html_ else f"{value} ({span})"


def _cut(text: str, width: int) -> str:
    return text if len(text) < width else text[: width - 2] + "…"


_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --line: #d9dee4; --page: #fff; --plot: #fff }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9ee; --dim: #9aa5b1; --line: #343b44; --page: #14171b;
  --plot: #f4f5f7 }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem; margin-bottom: .2rem }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .4rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: baseline }}
th:first-child {{ text-align: left }} thead th {{ color: var(--dim); font-weight: 500; white-space: normal }}
thead th[colspan] {{ text-align: center }} tbody th {{ font-weight: 500 }}
small {{ display: block; color: var(--dim); font-weight: 400; font-size: .8em }}
.scroll {{ overflow-x: auto }} .plots {{ display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }}
figure {{ margin: 0; flex: 1 1 20rem; max-width: 26rem }} figcaption {{ color: var(--dim); font-size: .9em }}
figure svg {{ width: 100%; height: auto; background: var(--plot); border-radius: 6px }}
code {{ overflow-wrap: anywhere }} .note {{ color: var(--dim); max-width: 60rem }}
</style></head><body>
<h1>{title}</h1><p>{heading}</p>
<p class="note">AUROC 0.5 is chance. TPR: share of synthetic images called synthetic; FPR: share of authentic images
called synthetic, both at the threshold. Verdicts right: of the verdicts authentic and synthetic, unsure ones left out.
Small figures are 95 % intervals. File only: the AUROC of a baseline that sees only format, size and JPEG quality of the
same files, never a pixel; a detector that does not beat it has shown nothing. A score is no proof: no verdict of MAI's
says that an image is proven authentic.</p>
<div class="scroll"><table><thead><tr><th>tier</th>{figure_names}<th>unsure</th><th>verdicts right</th>
<th>file only</th></tr></thead>
<tbody>{tiers}</tbody></table></div>
<div class="plots">{figures}</div>
{groups}
<p class="note">Made by <code>{command}</code>, MAI {version}.</p>
</body></html>
"""
