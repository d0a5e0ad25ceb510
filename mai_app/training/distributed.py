"""Data-parallel training: processes that share each batch, how they start and end, and what they exchange."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mai_app.core.log import say
from mai_app.errors import RunError

Item = TypeVar("Item")

# While the first process saves, the others wait for it; a dead process is noticed long before.
TIMEOUT = timedelta(minutes=60)


@dataclass(frozen=True)
class Group:
    """One process of a data-parallel training; with a size of 1 every method returns its argument."""

    rank: int
    """0 is the process that the user started: it alone writes files and messages."""
    size: int
    device: torch.device
    """Device of this process."""

    def share(self, batch: Sequence[Item]) -> list[Item]:
        """This process's share of a batch; all processes get equal shares."""
        part = len(batch) // self.size
        return list(batch[self.rank * part : (self.rank + 1) * part])

    def mean(self, values: list[float]) -> list[float]:
        """Each number's mean over the processes, in float64: the same in all of them, to the bit."""
        if self.size == 1:
            return values
        return [total / self.size for total in self._sum(torch.tensor(values, dtype=torch.float64)).tolist()]

    def say(self, text: str) -> None:
        """Write one line to the user, from rank 0 alone."""
        if self.rank == 0:
            say(text)

    def any(self, flag: bool) -> bool:
        """Whether the flag is True in any process."""
        return self.mean([float(flag)])[0] > 0

    def gather(self, part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """All rows (n, …), in order, from the parts rows[rank::size] of the processes."""
        if self.size == 1:
            return part
        count = int(self._sum(torch.tensor([len(part)], dtype=torch.float64)).item())
        whole = np.zeros((count, *part.shape[1:]))
        whole[self.rank :: self.size] = part
        return self._sum(torch.from_numpy(whole)).numpy()  # nothing but zeros is added, which is exact

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the processes (DDP); all start from the weights of rank 0."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.rank] if self.device.type == "cuda" else None)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()


def check_processes(size: int, batch_size: int, device: torch.device) -> None:
    """Raise RunError where `size` processes can't share a batch on the device."""
    if size < 1:
        raise RunError(f"--processes {size}: must be at least 1")
    if batch_size % size:
        raise RunError(f"--processes {size}: can't share --batch-size {batch_size} evenly; choose a multiple of {size}")
    if size > 1 and device.type not in ("cpu", "cuda"):
        raise RunError(f"--processes {size}: only CUDA GPUs and the CPU train together, not {device.type}")
    if size > 1 and device.type == "cuda" and torch.cuda.device_count() < size:
        raise RunError(f"--processes {size}: this machine has {torch.cuda.device_count()} GPUs; it takes one a process")


@contextmanager
def processes(size: int, device: torch.device, work: Callable[..., None], *arguments: Any) -> Iterator[Group]:
    """Start the other processes, each with work(*arguments, its group), and yield this one's group.

    Raises RunError, with the rank, when one of them ends before its work is done.
    """
    if size == 1:
        yield Group(0, 1, device)
        return
    threads = torch.get_num_threads()
    share = max(1, threads // size) if device.type == "cpu" else threads
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Semaphore(0)
    finished = threading.Event()
    with tempfile.TemporaryDirectory(prefix="mai-") as folder:
        # No daemons: those may not start a loader's processes. _end_with_parent does what daemons would.
        children = [
            spawn.Process(target=_child, args=(rank, size, device, folder, share, ready, work, arguments), daemon=False)
            for rank in range(1, size)
        ]
        try:
            for child in children:
                child.start()
            for _ in children:  # to meet one that is dead already would take for ever
                while not ready.acquire(timeout=0.2):
                    _raise_if_dead(children)
            torch.set_num_threads(share)
            group = _join(0, size, device, folder)
            if device.type == "cuda":
                threading.Thread(target=_abort_when_one_ends, args=(children, finished), daemon=True).start()
            yield group
            finished.set()
            for child in children:
                child.join(20)
        except RuntimeError:  # torch's, when another process no longer answers; its end may take a moment to show
            _await_an_end(children, 5)
            _raise_if_dead(children)
            raise
        finally:
            finished.set()
            for child in children:
                if child.pid:
                    child.kill()  # at once, or it would complain about the end of this one
                    child.join()
            torch.set_num_threads(threads)
            if dist.is_initialized():
                dist.destroy_process_group()


def _await_an_end(children: list[SpawnProcess], seconds: float) -> None:
    """Wait until at least one process has ended and has an exit code, or the time is over."""
    ended = wait([child.sentinel for child in children], timeout=seconds)
    for child in children:
        # The system closes a dying process's files, by which wait knows, before it has an exit code.
        if child.sentinel in ended:
            child.join(seconds)


def _raise_if_dead(children: list[SpawnProcess]) -> None:
    for rank, child in enumerate(children, start=1):
        code = child.exitcode
        if code is not None:
            cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            raise RunError(
                f"process {rank} of 0 to {len(children)} ended too early ({cause}), and the training with it; the same "
                f"command carries on from the last save"
            )


def _child(
    rank: int,
    size: int,
    device: torch.device,
    folder: str,
    threads: int,
    ready: Semaphore,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all processes; the first one answers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    ready.release()
    try:
        work(*arguments, _join(rank, size, device, folder))
    except (KeyboardInterrupt, RunError):
        raise SystemExit(1) from None  # the first process says the same
    dist.destroy_process_group()


def _join(rank: int, size: int, device: torch.device, folder: str) -> Group:
    """Join the process group whose meeting file is in the folder; returns when all have joined."""
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=(Path(folder) / "meeting").as_uri(),
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    return Group(rank, size, device)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _abort_when_one_ends(children: list[SpawnProcess], finished: threading.Event) -> None:
    """Abort NCCL when a process ends: it waits for a dead process as for a slow one, where gloo notices by itself."""
    wait([child.sentinel for child in children])
    if not finished.is_set() and dist.is_initialized() and dist.group.WORLD:
        dist.group.WORLD.abort()
