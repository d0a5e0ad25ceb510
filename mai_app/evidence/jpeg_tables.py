"""From a JPEG's quantisation tables to one statement on how it was saved: it speaks for nothing."""

from collections.abc import Iterator, Mapping
from typing import Final

from mai_app.evidence.statements import Evidence
from mai_app.images.decode import jpeg_quality

# The tables of ITU-T T.81, annex K, in zigzag order as a file has them; the IJG's library scales them by quality.
# fmt: off
_LUMINANCE: Final = (
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51,
    61, 60, 57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77,
    113, 121, 112, 100, 120, 92, 101, 103, 99,
)
_CHROMINANCE: Final = (17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99) + (99,) * 48
# fmt: on


def tables_evidence(tables: Mapping[int, list[int]]) -> Iterator[Evidence]:
    """One statement on the tables (by number, 64 values each, in zigzag order); none without tables."""
    quality = jpeg_quality({number: list(table) for number, table in tables.items()})
    if quality is None:
        return
    first, *others = (tuple(tables[number]) for number in sorted(tables))
    if first == _scaled(_LUMINANCE, quality) and all(
        table in (first, _scaled(_CHROMINANCE, quality)) for table in others
    ):
        says = f"saved with the standard tables at quality {quality}, as most software writes them"
        kind = "standard (IJG)"
    else:
        says = f"saved with tables of a camera's or a program's own, near quality {quality}"
        kind = "own"
    fields = (("tables", kind), ("quality", str(quality)), ("first values", " ".join(map(str, first[:8]))))
    yield Evidence("JPEG tables", "nothing", "hint", says, fields)


def _scaled(table: tuple[int, ...], quality: int) -> tuple[int, ...]:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(max((value * scale + 50) // 100, 1), 255) for value in table)
