"""The ordered map: order, how far it runs ahead, where exceptions come up, and that it ends when it is left."""

import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest

from mai_app.core.parallel import batched, ordered_map


class Source:
    """Numbers from 0 on, and how many of them were taken."""

    def __init__(self, items: int | None = None) -> None:
        self.taken = 0
        self.items = items

    def __iter__(self) -> Iterator[int]:
        for i in count() if self.items is None else range(self.items):
            self.taken += 1
            yield i


def square(x: int) -> int:
    return x * x


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_at_first(x: int) -> int:
        time.sleep(0.02 if x % 3 == 0 else 0)
        return square(x)

    assert list(ordered_map(slow_at_first, range(20), workers)) == [square(x) for x in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_items_give_no_results(workers: int) -> None:
    assert list(ordered_map(square, [], workers)) == []


@pytest.mark.parametrize(("workers", "ahead", "bound"), [(2, None, 4), (3, None, 6), (2, 1, 1), (2, 0, 0), (1, 7, 7)])
def test_the_source_is_taken_only_so_far_ahead(workers: int, ahead: int | None, bound: int) -> None:
    source = Source()
    results = ordered_map(square, source, workers, ahead)
    assert source.taken == 0
    for done in range(1, 30):
        assert next(results) == square(done - 1)
        assert source.taken == done + bound
    results.close()  # type: ignore[attr-defined]


def test_without_workers_every_item_is_taken_when_its_result_is_asked_for() -> None:
    source = Source()
    threads: set[threading.Thread] = set()

    def here(x: int) -> int:
        threads.add(threading.current_thread())
        return x

    results = ordered_map(here, source, 0)
    for done in range(1, 5):
        next(results)
        assert source.taken == done
    assert threads == {threading.current_thread()}


def test_workers_run_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=10)
    # Each waits for the other one: alone, it would wait until the barrier breaks.
    assert list(ordered_map(lambda _: together.wait() >= 0, range(4), 2)) == [True] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_is_raised_where_its_result_would_have_come(workers: int) -> None:
    def refuse_five(x: int) -> int:
        if x == 5:
            raise ValueError("five")
        return x

    results = ordered_map(refuse_five, range(10), workers)
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert list(results) == []


def test_a_map_that_is_left_early_takes_no_more_and_leaves_no_thread() -> None:
    source = Source()
    before = threading.active_count()
    results = ordered_map(square, source, 2)
    next(results)
    taken = source.taken
    results.close()  # type: ignore[attr-defined]
    assert source.taken == taken
    assert threading.active_count() == before


def test_batches_come_as_soon_as_they_are_full() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    batches = batched(items(), 2)
    assert next(batches) == [0, 1]
    assert taken == [0, 1]
    assert list(batches) == [[2, 3], [4]]
    assert list(batched([], 3)) == []
