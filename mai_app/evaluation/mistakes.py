"""The images that a detector gets most wrong: which they are, and small pictures of them for the report's page."""

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from mai_app.config import TIERS
from mai_app.core.metrics import Floats, Ints
from mai_app.errors import ImageError
from mai_app.images.decode import decode, encode_jpeg
from mai_app.images.preprocess import shrink

MOST: Final = 12
"""Images of a class."""
SIDE: Final = 160
"""Longest side of a thumbnail, in pixels."""
QUALITY: Final = 75
"""JPEG quality of a thumbnail."""


def worst_mistakes(
    judged: list[dict[str, Any]], curves: Mapping[str, tuple[Floats, Ints]], threshold: float
) -> list[dict[str, Any]]:
    """The judged images that are farthest on the wrong side of the threshold as found, at most MOST a class.

    `curves`: scores (n,) and labels (n,) of the judged rows by tier. Returns file, label, source, generator and the
    scores by tier, authentic images first, the worst first.
    """
    scores, labels = curves["clean"]
    mistakes = []
    for label in (0, 1):
        wrong = np.flatnonzero((labels == label) & ((scores >= threshold) != (label == 1)))
        for i in sorted(wrong.tolist(), key=lambda i: (-abs(scores[i] - label), judged[i]["file"]))[:MOST]:
            names = {name: judged[i][name] for name in ("file", "label", "source", "generator")}
            mistakes.append(names | {"scores": {tier: float(curves[tier][0][i]) for tier in TIERS}})
    return mistakes


def thumbnail(read: Callable[[], bytes], name: str) -> str:
    """A small JPEG of an image file's bytes, as a data: URI; empty for what can no longer be read."""
    try:
        pixels = shrink(decode(read(), name).pixels, SIDE)
    except ImageError:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(pixels, QUALITY)).decode()}"
