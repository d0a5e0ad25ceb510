"""What the caller of a remote function and its container agree on: paths, settings, and errors as plain values."""

import dataclasses
import functools
import traceback
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Final, ParamSpec

from mai_app.errors import ImageError, MaiError, ModelNameError

VOLUME: Final = PurePosixPath("/mai")
"""Where containers have the Volume: data sets, prepared sets and runs, in folders of the names below."""
DATA: Final = VOLUME / "data"
PREPARED: Final = VOLUME / "prepared"
RUNS: Final = VOLUME / "runs"
DEMO: Final = "simulated-demo"
"""Name of the simulated data set."""

LOCAL_FIELDS: Final = ("data", "prepared", "runs", "on", "detach", "budget")
"""Fields of a config that mean something on the caller's machine only."""

Payload = dict[str, Any]
"""A remote function's result: plain values, or an error as `error_payload` has it."""
P = ParamSpec("P")


def extract_settings(config: Any, *dropped: str) -> dict[str, Any]:
    """The fields of a config dataclass that a remote function takes: all but LOCAL_FIELDS and those `dropped`."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in LOCAL_FIELDS and k not in dropped}


def error_payload(error: MaiError) -> Payload:
    """An error as a value: raised, the function would be retried and the caller would see remote stack frames."""
    return {"mai_error": str(error), "kind": type(error).__name__, "reason": getattr(error, "reason", "")}


def unwrap(result: Payload, where: str = "on Modal: ") -> Payload:
    """A remote function's result. Raises ImageError, ModelNameError or MaiError if it is an error's payload."""
    if "mai_error" not in result:
        return result
    if result["kind"] == "ImageError":
        raise ImageError(result["mai_error"].removesuffix(f": {result['reason']}"), result["reason"])
    raise (ModelNameError if result["kind"] == "ModelNameError" else MaiError)(f"{where}{result['mai_error']}")


def return_errors(function: Callable[P, Payload]) -> Callable[P, Payload]:
    """The function with what it raises returned as `error_payload`, but for what another attempt may not meet.

    A crash is printed with its traceback, which stays in the container's log.
    """

    @functools.wraps(function)
    def returning(*args: P.args, **kwargs: P.kwargs) -> Payload:
        try:
            return function(*args, **kwargs)
        except MaiError as error:
            return error_payload(error)
        except Exception as error:
            if may_pass(error):
                raise
            traceback.print_exc()
            return error_payload(MaiError(f"{type(error).__name__}: {error}"))

    return returning


def may_pass(error: Exception) -> bool:
    """Whether another attempt, on another machine, may not meet the error: of disk, network, service or GPU."""
    is_from_service = type(error).__module__.partition(".")[0] == "modal"
    says = str(error)
    return isinstance(error, OSError | EOFError) or is_from_service or "CUDA error" in says or "NCCL" in says
