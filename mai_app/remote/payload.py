"""What crosses between a caller and a remote function: settings, results and errors as plain values."""

import dataclasses
from typing import Any, Final

from mai_app.errors import ImageError, MaiError, ModelNameError

SIMULATED: Final = "simulated-demo"
"""Name of the simulated data set, which a remote machine makes for itself."""
LOCAL_FIELDS: Final = frozenset(("data", "out", "runs", "prepared", "on", "detach"))
"""Fields of a configuration that mean something on the caller's machine only."""


def extract_settings(config: Any) -> dict[str, Any]:
    """A configuration (a dataclass) as a plain dict, without LOCAL_FIELDS."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in LOCAL_FIELDS}


def error_payload(error: MaiError) -> dict[str, Any]:
    """A MaiError as a value: raised, it would be retried and come back as a stack of remote frames."""
    return {"mai_error": str(error), "kind": type(error).__name__, "reason": getattr(error, "reason", "")}


def unwrap(result: dict[str, Any]) -> dict[str, Any]:
    """A remote function's result; raises the MaiError that it stands for, of the kinds that the API tells apart."""
    if "mai_error" not in result:
        return result
    if result["kind"] == "ImageError":
        raise ImageError(result["mai_error"].removesuffix(f": {result['reason']}"), result["reason"])
    raise (ModelNameError if result["kind"] == "ModelNameError" else MaiError)(f"on Modal: {result['mai_error']}")
