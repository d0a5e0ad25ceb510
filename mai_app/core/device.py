"""Compute device and precision: CUDA, MPS or CPU; what each of them can; and the way of results back to numpy."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import numpy.typing as npt
import torch

from mai_app.core.processor import cpu_precision
from mai_app.errors import RunError

_LOCK: Final = threading.Lock()
_overlapping = 0
_threads_before = 1


def choose_device(wanted: str) -> torch.device:
    """The torch device of that name; auto takes CUDA, then MPS, then the CPU. Raises RunError if it is unavailable."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"--device {wanted}: unavailable on this machine ({reason}); try --device auto") from None
    return device


def describe_device(device: torch.device) -> str:
    """A device as text, with the GPU's name or the number of CPU threads."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


def choose_precision(wanted: str, device: torch.device) -> str:
    """float32 or bfloat16; auto takes bfloat16 where the hardware computes in it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        return cpu_precision()
    return "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which a network computes in that precision, float32 or bfloat16, with float32 weights."""
    # Not entered for float32: some devices have no autocast, which then is no reason to fail.
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch compute with one thread in each thread that is started meanwhile, for work that is itself in threads.

    It holds for the whole process, also where several overlap, and ends with the last of them.
    """
    global _overlapping, _threads_before  # noqa: PLW0603
    with _LOCK:
        if not _overlapping:
            _threads_before = torch.get_num_threads()
            torch.set_num_threads(1)
        _overlapping += 1
    try:
        yield
    finally:
        with _LOCK:
            _overlapping -= 1
            if not _overlapping:
                torch.set_num_threads(_threads_before)


def memory_format(device: torch.device) -> torch.memory_format:
    """The order of an image's values in memory in which a device is fast, and right."""
    # On MPS torch's average pooling and batch normalisation give wrong values for some channels-last views.
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def to_numpy(tensor: torch.Tensor, dtype: torch.dtype = torch.float64) -> npt.NDArray[Any]:
    """A tensor of any device and floating-point type as numpy's array, of the same shape, in that type.

    Every result leaves its device through this function.
    """
    # To the CPU first: MPS has no float64. Then the type: numpy has no bfloat16.
    return tensor.detach().cpu().to(dtype).numpy()


def loader_workers(device: torch.device) -> int:
    """Number of data loader processes: one per spare CPU core, up to 8; 0 when training on the CPU."""
    return 0 if device.type == "cpu" else min(8, max(1, (os.cpu_count() or 1) - 1))
