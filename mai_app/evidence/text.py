"""What stands in a file as words that can be shown: printable, on one line, shortened."""

from collections.abc import Iterable
from typing import Final

MAX_FIELD: Final = 500
"""Characters of a field."""
MAX_FIELDS: Final = 12
_MAX_NAME: Final = 80  # characters of what stands within a statement


def printable(text: str, most: int = MAX_FIELD) -> str:
    """At most so many characters, on one line: what is not printable is escaped, what is left out shown by …."""
    words = " ".join(text[: 4 * most].split())[: most + 1]
    # Also escapes what turns the direction of writing, and what has no width.
    words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return words if len(words) <= most else words[: most - 1] + "…"


def short(text: str) -> str:
    """A name for use within a statement."""
    return printable(text, _MAX_NAME)


def shown(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The fields of a statement as they are shown: the first MAX_FIELDS that are not empty."""
    kept = [(short(name), printable(value)) for name, value in fields]
    return tuple((name, value) for name, value in kept if value)[:MAX_FIELDS]
