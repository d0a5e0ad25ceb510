"""Ordered parallel map over threads, bounded: it holds only a few items at a time; and items in batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of that size, the last one shorter, each as soon as it is full."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int | None = None
) -> Iterator[Result]:
    """Results of function(item), in the items' order, computed by threads at most `ahead` items early.

    Threads are enough: reading, decoding, scaling and hashing all run outside Python's lock.
    An exception of the function is raised where its result would have come.
    """
    if workers < 1:
        yield from map(function, items)
        return
    ahead = 2 * workers if ahead is None else ahead
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="mai") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
