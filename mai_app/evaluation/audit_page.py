"""Audit report for people: text for the terminal, and a self-contained HTML page with plots."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mai_app.config import CLASSES
from mai_app.core.display import cut_text, show_interval, show_number
from mai_app.evaluation.audit import PROPERTIES, table_properties
from mai_app.evaluation.audit_counts import Floats, Ints, encode_column
from mai_app.evaluation.html import CLASS_COLOURS, new_axes, page, plot_style, svg_text

WIDTH: Final = 110
MAX_ROWS: Final = {"text": 15, "page": 200}
"""Maximum rows of a table of counts; a set from the web has thousands of sources."""
TABLES: Final = {"splits": "split", "sources": "source", "kinds": "kind", "generators": "generator"}
COLOUR: Final = "#009E73"
"""For both classes together; from the palette of Okabe and Ito, as the classes' colours are."""
NOTE: Final = (
    "AUROC: the chance that a synthetic image gets a higher score than an authentic one; 0.5 is chance, 1 is certain. "
    "The scores come from boosted trees that see properties of the file alone, never a pixel; each image is scored by "
    "trees that have seen none of its duplicates. A file that is no JPEG counts as JPEG quality 0. New sources: whole "
    "sources held out, with intervals over sources; the others are over images. The bias: Grommelt et al. 2024."
)
REMEDY: Final = (
    "What MAI does about it: training degrades the images of both classes alike, by the same rescaling and JPEG "
    "compression, so that the file says less about the class; and mai evaluate measures in tiers of degradation that "
    "are the same for both classes, beside the same baseline of the files alone: a detector that does not beat it has "
    "shown nothing. No training corrects a set whose classes come from different sources. Add synthetic images in the "
    "formats and sizes of the authentic ones, and authentic ones in those of the synthetic ones."
)


def headline(report: Mapping[str, Any]) -> str:
    """The audit's result in a few plain sentences."""
    whole, held_out = report["all"], report["sources_held_out"]
    area = whole["auroc"]
    if area["value"] is None:
        return f"How well the files alone tell the classes apart can't be measured: {whole['reason']}."
    worst = report["properties"][0]
    if area["low"] <= 0.5:
        words = f"The files alone do not tell the classes apart: AUROC {_rounded(area)}, where 0.5 is chance."
    else:
        words = (
            f"The files alone tell the classes apart with AUROC {_rounded(area)}: a detector can reach that without "
            f"looking at a pixel. Worst: {worst['name']}, {worst['predicts']:.2f}."
        )
    beyond = held_out["auroc"]
    if beyond["value"] is None:
        return f"{words} Whether that carries over to new sources can't be measured: {held_out['reason']}."
    words += f" With whole sources held out, AUROC {_rounded(beyond)}: "
    if area["low"] <= 0.5 and beyond["low"] <= 0.5:
        return f"{words}nothing to carry over."
    if beyond["low"] <= 0.5:
        return f"{words}the files name the source more than the class; nothing sure carries over to new sources."
    return f"{words}the shortcut carries over to new sources{'' if held_out['gap'] < 0.05 else ', in part'}."


def text_report(report: Mapping[str, Any]) -> str:
    """The report as plain text, for a terminal of 110 columns."""
    lines = [*_wrap(headline(report)), "", *_wrap(_describe_data(report))]
    lines += ["", f"{'property':<16}{'AUROC (95 %)':<22}how the classes differ"]
    for name, area, words in _auroc_rows(report):
        for i, line in enumerate(textwrap.wrap(words, WIDTH - 38) or [""]):
            lines.append(f"{'' if i else name:<16}{'' if i else show_interval(area):<22}{line}".rstrip())
    for title, items in _findings(report):
        lines += ["", *_wrap(title), *(f"  {cut_text(item, WIDTH - 2)}" for item in items)]
    for key, word in TABLES.items():
        rows = report[key]
        lines += ["", f"{'by ' + word:<66}" + "".join(f"{column:>11}" for column in _columns(key))]
        for row in rows[: MAX_ROWS["text"]]:
            cells = "".join(f"{row[column.replace(' ', '_')]:>11,}" for column in _columns(key))
            lines.append(f"{cut_text(_one_line(row['name']), 66):<66}{cells}")
        if len(rows) > MAX_ROWS["text"]:
            lines.append(f"… and {len(rows) - MAX_ROWS['text']:,} more, listed on the page")
    return "\n".join([*lines, "", *_wrap(REMEDY)])


def html_page(report: Mapping[str, Any], table: pa.Table) -> str:
    """The report as one HTML page; the distributions are those of the manifest's images that are not left out."""
    with plot_style():
        plots = [("AUROC of each property, with 95 % intervals", svg_text(_plot_areas(report)))]
        if report["all"]["auroc"]["value"] is not None:
            plots.append(("All properties together: ROC curve", svg_text(_plot_roc(report))))
        plots += [(f"{caption}, by class", svg_text(figure)) for caption, figure in _distributions(table)]
    figures = "".join(f"<figure>{svg}<figcaption>{_escape(caption)}</figcaption></figure>" for caption, svg in plots)
    areas = "".join(
        f"<tr><th>{_escape(name)}</th><td>{show_interval(area, html_=True)}</td>"
        f"<td class=words>{_escape(words)}</td></tr>"
        for name, area, words in _auroc_rows(report)
    )
    findings = "".join(
        f"<h2>{_escape(title)}</h2>"
        + (f"<ul>{''.join(f'<li>{_escape(item)}</li>' for item in items)}</ul>" if items else "")
        for title, items in _findings(report)
    )
    body = (
        f"<h1>{_escape('Audit of ' + report['name'])}</h1>"
        f"<p><strong>{_escape(headline(report))}</strong></p>\n<p>{_escape(_describe_data(report))}</p>\n"
        f'<p class="note">{NOTE}</p>\n<div class="scroll"><table><thead><tr><th></th><th>AUROC</th>'
        f"<th class=words>how the classes differ</th></tr></thead><tbody>{areas}</tbody></table></div>\n"
        f'<div class="plots">{figures}</div>\n<h2>What to do about it</h2><p>{REMEDY}</p>\n'
        + findings
        + "".join(_table_html(report, key) for key in TABLES)
        + f'<p class="note">Made by <code>mai audit {_escape(report["name"])}</code>, MAI '
        f"{_escape(report['mai_version'])}, seed {report['seed']}.</p>\n"
    )
    style = ".words { text-align: left; white-space: normal; width: 60% } li { overflow-wrap: anywhere }\n"
    return page(f"MAI: audit of {report['name']}", body, style)


def _describe_data(report: Mapping[str, Any]) -> str:
    """Describe the data set and what was measured on it."""
    used = report["used"]
    words = (
        f"{report['name']}: {used['authentic']:,} authentic and {used['synthetic']:,} synthetic images in the set, "
        f"{report['images'] - sum(used.values()):,} of those read left out, {report['refused']['count']:,} unreadable."
    )
    if report["sampled"]:
        words += f" The AUROCs are those of a random sample of {report['measured']:,} of them (seed {report['seed']})."
    balanced = report["all"]["balanced_accuracy"]
    if balanced["value"] is not None:
        words += (
            f" Balanced accuracy of all properties at score 0.5: {_rounded(balanced)}; "
            f"{report['all']['folds']} folds by duplicate group."
        )
    return words


def _auroc_rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Rows of the AUROC table: what was measured, its AUROC, and a note."""
    held_out = report["sources_held_out"]
    gap = "" if held_out["gap"] is None else f"{held_out['gap']:+.3f} is what knowing the source adds"
    before = report.get("before_matching")
    return [
        ("all together", report["all"]["auroc"], report["all"]["reason"]),
        *(
            [("before --match", before["auroc"], before["reason"] or "all together, no image left out")]
            if before
            else []
        ),
        ("new sources", held_out["auroc"], held_out["reason"] or f"all together, whole sources held out; {gap}"),
        *((row["name"], row["auroc"], "; ".join(row["statements"])) for row in report["properties"]),
    ]


def _findings(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Duplicates, images left out and unreadable files: a title each, and what to list below it."""
    found, refused = report["duplicates"], report["refused"]
    across, both = found["across_given_splits"], found["both_labels"]
    left_out = sum(report["left_out"].values())
    return [
        (
            f"Duplicates: {found['groups']:,} groups of alike images, {found['images']:,} images in all; "
            f"{found['exact_images']:,} images in {found['exact_groups']:,} groups are alike to the pixel",
            [],
        ),
        (
            f"Across the given splits stood {across['groups']:,} groups of alike images, {across['images']:,} images",
            _examples(across["examples"]),
        ),
        (
            f"Under both labels stood {both['groups']:,} groups of alike images, {both['images']:,} images",
            _examples(both["examples"]),
        ),
        (f"Left out: {left_out:,} images", [f"{n:,}: {_one_line(reason)}" for reason, n in report["left_out"].items()]),
        (
            f"Unreadable: {refused['count']:,} files",
            [f"{n:,}: {_one_line(reason)}" for reason, n in refused["reasons"].items()]
            + [f"{_one_line(row['file'])}: {_one_line(row['reason'])}" for row in refused["files"]],
        ),
        *(
            [("Said while reading the folder", [_one_line(note) for note in notes])]
            if (notes := report.get("notes", []))
            else []
        ),
    ]


def _examples(examples: Sequence[Mapping[str, str]]) -> list[str]:
    return [" = ".join(f"{_one_line(file)} ({value})" for value, file in example.items()) for example in examples]


def _columns(key: str) -> list[str]:
    """The columns that apply to a table of counts."""
    if key == "generators":
        return ["synthetic", "left out"]
    return [*CLASSES, *(["left out"] if key != "splits" else []), *(["refused"] if key == "sources" else [])]


def _table_html(report: Mapping[str, Any], key: str) -> str:
    rows = report[key]
    head = "".join(f"<th>{column}</th>" for column in _columns(key))
    body = "".join(
        f"<tr><th>{_escape(row['name'])}</th>"
        + "".join(f"<td>{row[column.replace(' ', '_')]:,}</td>" for column in _columns(key))
        + "</tr>"
        for row in rows[: MAX_ROWS["page"]]
    )
    more = f"<p class=note>… and {len(rows) - MAX_ROWS['page']:,} more</p>" if len(rows) > MAX_ROWS["page"] else ""
    return (
        f'<h2>Images by {TABLES[key]}</h2><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}\n"
    )


def _plot_areas(report: Mapping[str, Any]) -> Figure:
    figure, axes = new_axes("AUROC", "")
    rows = [(name, area) for name, area, _ in _auroc_rows(report) if area["value"] is not None][::-1]
    for at, (name, area) in enumerate(rows):
        colour = CLASS_COLOURS[0] if name in PROPERTIES else COLOUR
        axes.barh(at, area["value"] - 0.5, left=0.5, color=colour, height=0.6)
        axes.plot([area["low"], area["high"]], [at, at], color="0.1", linewidth=1.2)
        axes.annotate(f"{area['value']:.2f}", (1.02, at), va="center", annotation_clip=False)
    axes.axvline(0.5, color="0.3", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlim(min([0.4, *(area["low"] for _, area in rows)]), 1)
    axes.set_title("0.5, dashed, is chance", fontsize=8, color="0.35", loc="left")
    return figure


def _plot_roc(report: Mapping[str, Any]) -> Figure:
    figure, axes = new_axes("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="chance")
    area = show_number(report["all"]["auroc"]["value"])
    axes.plot(report["roc"]["fpr"], report["roc"]["tpr"], color=COLOUR, label=f"files alone, {area}")
    axes.legend(loc="lower right", frameon=False)
    return figure


def _distributions(table: pa.Table) -> list[tuple[str, Figure]]:
    """A histogram of each property, by class."""
    codes, reasons = encode_column(table, "left_out")
    used = np.array([not reason for reason in reasons], dtype=bool)[codes]
    values = table_properties(table)[used]
    labels = np.asarray(table.column("label").to_numpy(), dtype=np.int64)[used]
    formats, names = encode_column(table.filter(pa.array(used)), "format")
    plots = [("format", _plot_formats(formats, names, labels))]
    for i, name in enumerate(PROPERTIES[1:], 1):
        rows = values[:, i] > 0
        if rows.any():
            caption = f"{name} of the JPEG files" if name == "JPEG quality" else name
            plots.append((caption, _plot_numbers(name, values[rows, i], labels[rows])))
    return plots


def _plot_formats(codes: Ints, names: Sequence[str], labels: Ints) -> Figure:
    figure, axes = new_axes("", "share of the class")
    order = np.argsort(-np.bincount(codes, minlength=len(names)), kind="stable")[:8]
    for label, name in enumerate(CLASSES):
        part = codes[labels == label]
        shares = np.bincount(part, minlength=len(names))[order] / max(1, len(part))
        axes.bar(np.arange(len(order)) + 0.4 * label - 0.2, shares, 0.38, color=CLASS_COLOURS[label], label=name)
    # A dollar sign would start a formula.
    axes.set_xticks(range(len(order)), [cut_text(_one_line(names[i]), 12).replace("$", r"\$") for i in order])
    axes.legend(frameon=False)
    return figure


def _plot_numbers(name: str, values: Floats, labels: Ints) -> Figure:
    quality = name == "JPEG quality"
    figure, axes = new_axes({"width": "pixels", "height": "pixels", "aspect": "width / height"}.get(name, name), "")
    axes.set_ylabel("share of the class")
    # The outermost thousandths go into the outer bins: one huge image must not squeeze all others into one.
    low, high = np.quantile(values, [0.001, 0.999])
    low, high = (low, high) if high > 1.5 * low else (low / 1.25, high * 1.25)
    edges = np.linspace(low - 0.5, 100.5, 41) if quality else np.geomspace(low, high, 41)
    for label, word in enumerate(CLASSES):
        part = values[labels == label].clip(edges[0], edges[-1])
        shares = np.histogram(part, edges)[0] / max(1, len(part))
        axes.stairs(shares, edges, color=CLASS_COLOURS[label], fill=True, alpha=0.45, label=word)
    if not quality:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.legend(frameon=True, framealpha=0.7, edgecolor="none", fontsize=8)
    return figure


def _rounded(area: Mapping[str, float]) -> str:
    return f"{area['value']:.2f} ({area['low']:.2f}–{area['high']:.2f})"


def _one_line(name: str) -> str:
    """A name on one line, without control characters and what UTF-8 can't encode."""
    return "".join(letter if letter.isprintable() else "�" for letter in name)


def _escape(name: str) -> str:
    return html.escape(_one_line(name))


def _wrap(words: str) -> list[str]:
    return textwrap.wrap(_one_line(words), WIDTH)
