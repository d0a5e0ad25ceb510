"""How figures and file names are written for people: digits, percent, intervals, one line a name."""

from collections.abc import Mapping


def show_number(value: float | None) -> str:
    """Three digits, or a dash for what is not known."""
    return "–" if value is None else f"{value:.3f}"


def show_percent(value: float | None) -> str:
    """In percent, one digit."""
    return "–" if value is None else f"{100 * value:.1f} %"


def show_interval(
    figure: Mapping[str, float | None], html_: bool = False, percent: bool = False, shift: bool = False
) -> str:
    """A figure with its interval, or alone if it has none; as text or for an HTML table.

    A share is shown in percent, a shift with its sign; a value that is unknown as a dash.
    """
    show = (lambda v: "–" if v is None else f"{100 * v:.0f}") if percent else show_shift if shift else show_number
    value = show(figure["value"]) + (" %" if percent and figure["value"] is not None else "")
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return value
    # A dash between signs would read as a minus.
    span = f"{show(figure['low'])}{' to ' if shift else '–'}{show(figure['high'])}"
    return f"{value}<small>{span}</small>" if html_ else f"{value} ({span})"


def show_name(name: str) -> str:
    """A file's or a folder's name on one line, whatever it holds: what is not printable stands as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def show_text(text: str) -> str:
    """A text with names in it, for a terminal: nothing in it moves the cursor, and its lines stay."""
    return "\n".join(map(show_name, text.split("\n")))


def bounded(what: object, most: int = 300) -> str:
    """A foreign error or name within a message: on one line, printable, of at most so many characters."""
    text = show_name(" ".join(str(what)[: 4 * most].split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def show_shift(value: float | None) -> str:
    """A difference of scores with its sign, three digits."""
    return "–" if value is None else f"{round(value, 3) + 0.0:+.3f}"  # + 0.0: no -0.000


def cut_text(text: str, width: int) -> str:
    """The text, cut to fit a column."""
    return text if len(text) < width else text[: width - 2] + "…"
