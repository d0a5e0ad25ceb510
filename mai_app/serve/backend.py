"""The interface between the HTTP API and whatever runs the models: this machine's queue, or Modal's containers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mai_app.errors import MaiError

Files = list[tuple[str, bytes]]
"""Names and contents of image files."""
FileResult = tuple[dict[str, Any], dict[str, Any]]
"""The fields of a file's Prediction, and the fields of the ModelFacts behind it, as plain values."""


class BusyError(MaiError):
    """The server has no capacity for the request now; it becomes a 503 with Retry-After."""


@dataclass(frozen=True)
class Backend:
    """The functions that answer requests. A model name is "" for the default, or matches registry.MODEL_NAME.

    Each raises ModelNameError for an unknown model, BusyError if there is no capacity, or another MaiError if the
    model is unavailable.
    """

    predict: Callable[[Files, str], Awaitable[list[FileResult]]]
    """Files and a model name: one result per file, in order."""
    heatmap: Callable[[str, bytes, str], Awaitable[bytes]]
    """A file's name, its bytes and a model name: a PNG. Raises ImageError for a file that can't be scored."""
    models: Callable[[], Awaitable[list[dict[str, Any]]]]
    """The fields of the ModelFacts of every usable model, the default first."""
