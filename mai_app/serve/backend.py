"""What the HTTP API asks of whoever judges for it: this machine's worker, or Modal's containers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mai_app.errors import MaiError

Files = list[tuple[str, bytes]]
"""Names with the bytes of image files."""
Judged = tuple[dict[str, Any], dict[str, Any]]
"""What is said of a file: a Prediction's fields, and the fields of the ModelFacts behind it, as plain values."""


class BusyError(MaiError):
    """There is more to do than is taken on; the same request is welcome in a moment."""


@dataclass(frozen=True)
class Backend:
    """Who judges. A model's name is "" for the default, or matches registry.MODEL_NAME.

    Each raises ModelNameError for a model that there is none of, BusyError for too much to do, or another MaiError
    where the model can't be had.
    """

    judge: Callable[[Files, str], Awaitable[list[Judged]]]
    """Files and a model's name: what is said of each file, in order."""
    heatmap: Callable[[str, bytes, str], Awaitable[bytes]]
    """A file's name and bytes and a model's name: a PNG. Raises ImageError for a file that can't be judged."""
    models: Callable[[], Awaitable[list[dict[str, Any]]]]
    """Fields of the ModelFacts of every model that can be used, the default first."""
