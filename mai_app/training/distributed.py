"""Several processes that share each batch of a training: starts them, ends them, and carries numbers between them."""

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
PATIENCE = timedelta(minutes=60)


@dataclass(frozen=True)
class Group:
    """One process's place among those that train together; alone, every method hands back what it was given."""

    rank: int
    """0 is the process that the user started: it alone writes files and speaks."""
    size: int
    device: torch.device
    """Where this process computes."""

    def share(self, batch: Sequence[Item]) -> list[Item]:
        """This process's part of a batch, of which every process gets as much."""
        part = len(batch) // self.size
        return list(batch[self.rank * part : (self.rank + 1) * part])

    def mean(self, values: list[float]) -> list[float]:
        """Each number, averaged over the processes: the same everywhere, to the bit."""
        if self.size == 1:
            return values
        return [total / self.size for total in self._sum(torch.tensor(values, dtype=torch.float64)).tolist()]

    def say(self, text: str) -> None:
        """One line to the user, however many processes would say it."""
        if self.rank == 0:
            say(text)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return self.mean([float(flag)])[0] > 0

    def gather(self, part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The whole of the rows (n, …) that were dealt rows[rank::size], in their order."""
        if self.size == 1:
            return part
        count = int(self._sum(torch.tensor([len(part)], dtype=torch.float64)).item())
        whole = np.zeros((count, *part.shape[1:]))
        whole[self.rank :: self.size] = part
        return self._sum(torch.from_numpy(whole)).numpy()  # nothing but zeros is added, which is exact

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over the processes; its weights are the first process's."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.rank] if self.device.type == "cuda" else None)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()


def check_processes(size: int, batch_size: int, device: torch.device) -> None:
    """Raise RunError where so many processes can't share a batch on such a device."""
    if size < 1:
        raise RunError(f"--processes {size}: must be at least 1")
    if batch_size % size:
        raise RunError(f"--processes {size}: can't share --batch-size {batch_size} evenly; choose a multiple of {size}")
    if size > 1 and device.type not in ("cpu", "cuda"):
        raise RunError(f"--processes {size}: only CUDA's GPUs, and the processor, train together, not {device.type}")
    if size > 1 and device.type == "cuda" and torch.cuda.device_count() < size:
        raise RunError(f"--processes {size}: this machine has {torch.cuda.device_count()} GPUs; it takes one a process")


@contextmanager
def processes(size: int, device: torch.device, work: Callable[..., None], *arguments: Any) -> Iterator[Group]:
    """Start the other processes, each at work(*arguments, its group), and hand out this one's group.

    Raises RunError, saying which, when one of them ends before its work is done.
    """
    if size == 1:
        yield Group(0, 1, device)
        return
    threads = torch.get_num_threads()
    part = max(1, threads // size) if device.type == "cpu" else threads
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Semaphore(0)
    finished = threading.Event()
    with tempfile.TemporaryDirectory(prefix="mai-") as folder:
        # No daemons: those may not start a loader's processes. _end_with_parent does what daemons would.
        children = [
            spawn.Process(target=_child, args=(rank, size, device, folder, part, ready, work, arguments), daemon=False)
            for rank in range(1, size)
        ]
        try:
            for child in children:
                child.start()
            for _ in children:  # to meet one that is dead already would take for ever
                while not ready.acquire(timeout=0.2):
                    _raise_if_dead(children)
            torch.set_num_threads(part)
            group = _join(0, size, device, folder)
            if device.type == "cuda":
                threading.Thread(target=_abort_when_one_ends, args=(children, finished), daemon=True).start()
            yield group
            finished.set()
            for child in children:
                child.join(20)
        except RuntimeError:  # torch's, when another process no longer answers; its end may take a moment to show
            wait([child.sentinel for child in children], timeout=5)
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
    """Enter the group of the processes that know the folder; returns when all have."""
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=(Path(folder) / "meeting").as_uri(),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    return Group(rank, size, device)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _abort_when_one_ends(children: list[SpawnProcess], finished: threading.Event) -> None:
    """GPUs wait for a dead process as for a slow one: make the waiting fail, which the processor's way does itself."""
    wait([child.sentinel for child in children])
    if not finished.is_set() and dist.is_initialized() and dist.group.WORLD:
        dist.group.WORLD.abort()
