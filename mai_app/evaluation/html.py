"""HTML page template and plot style of MAI's reports."""

import html
import io
from contextlib import AbstractContextManager
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), which people with any kind of colour vision can tell apart.
CLASS_COLOURS: Final = ("#0072B2", "#D55E00")


def page(title: str, body: str, style: str = "") -> str:
    """A self-contained HTML page in MAI's style; `body` is HTML, `title` plain text, `style` additional CSS."""
    text = f"{_HEAD.replace('{title}', html.escape(title))}{style}</style></head><body>\n{body}</body></html>\n"
    return text.encode(errors="backslashreplace").decode()  # a folder's name may not be valid UTF-8


def plot_style() -> AbstractContextManager[None]:
    """Context manager for MAI's plot style, with deterministic SVG output."""
    return mpl.rc_context(
        {
            "svg.hashsalt": "mai",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.family": "sans-serif",
        }
    )


def new_axes(x: str, y: str) -> tuple[Figure, Axes]:
    """A figure of the usual size with one plot; `x` and `y` label its axes."""
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def svg_text(figure: Figure) -> str:
    """Render a figure as SVG text, deterministically."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    return text[text.index("<svg") :]


_HEAD: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --line: #d9dee4; --page: #fff; --plot: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #9aa5b1; --line: #343b44; --page: #14171b;
  --plot: #f4f5f7 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: baseline }
th:first-child { text-align: left } thead th { color: var(--dim); font-weight: 500; white-space: normal }
thead th[colspan] { text-align: center } tbody th { font-weight: 500 }
small { display: block; color: var(--dim); font-weight: 400; font-size: .8em }
.scroll { overflow-x: auto } .plots { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
figure { margin: 0; flex: 1 1 20rem; max-width: 26rem } figcaption { color: var(--dim); font-size: .9em }
figure svg { width: 100%; height: auto; background: var(--plot); border-radius: 6px }
code { overflow-wrap: anywhere } .note { color: var(--dim); max-width: 60rem }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1rem }
.sheet figure { max-width: none; min-width: 0; overflow-wrap: anywhere } .sheet img { display: block; height: 160px;
  max-width: 100%; object-fit: contain; object-position: left bottom; margin-bottom: .3rem }
"""
