"""Several processes at one batch: the same training as one, the same end however often stopped, and no hanging."""

import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mai_app.config import TrainConfig
from mai_app.errors import RunError
from mai_app.training.distributed import Group, check_processes, processes
from mai_app.training.loop import train
from tests.conftest import folder_of, small
from tests.training.test_loop import metrics

KEYS = ("epoch", "train_loss", "val_loss", "val_auroc", "learning_rate")


@pytest.fixture(scope="module")
def shared(plain: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """A run of two processes, undisturbed: its settings and its folder, for reading only."""
    config = replace(plain, processes=2, runs=tmp_path_factory.mktemp("two"))
    return config, train(config)


def first_step(config: TrainConfig) -> dict[str, Any]:
    """The state that a run saves after its first step, where it is stopped."""

    def stop() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, on_save=stop)
    state: dict[str, Any] = torch.load(folder_of(config) / "last.pt", weights_only=True)
    assert state["step"] == 1
    return state


def test_two_processes_take_the_first_step_that_one_takes(plain: TrainConfig, tmp_path: Path) -> None:
    # The same batch, half of it in each process: the mean of their losses and gradients is the whole batch's.
    two, one = (first_step(replace(plain, processes=size, runs=tmp_path / str(size))) for size in (2, 1))
    assert two["loss_sum"] == pytest.approx(one["loss_sum"], rel=1e-5)
    assert two["optimizer"]["state"].keys() == one["optimizer"]["state"].keys()
    for number, state in one["optimizer"]["state"].items():
        # RMSprop's mean of squares: after one step it holds that step's gradients, but for their sign.
        theirs, ours = (of["square_avg"].sqrt() for of in (state, two["optimizer"]["state"][number]))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.max().item())


def test_two_processes_learn_what_one_does(shared: tuple[TrainConfig, Path], plain: TrainConfig) -> None:
    # Sums over two halves are rounded otherwise than over the whole, and each step makes more of it.
    two, one = metrics(shared[1]), metrics(folder_of(plain))
    for key in ("epoch", "learning_rate"):
        assert [row[key] for row in two] == [row[key] for row in one]
    for key in ("train_loss", "val_loss"):
        assert [row[key] for row in two] == pytest.approx([row[key] for row in one], rel=0.05)


def test_stopped_it_carries_on_to_the_very_same_end(shared: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    # 4 steps an epoch: an error after the second save, a signal after the second epoch's first step, then to the end.
    config, undisturbed = shared
    config = replace(config, runs=tmp_path)

    def at_save(number: int, do: Callable[[], None]) -> Callable[[], None]:
        saves: list[int] = []

        def saved() -> None:
            saves.append(1)
            if len(saves) == number:
                do()

        return saved

    with pytest.raises(ZeroDivisionError):
        train(config, on_save=at_save(2, lambda: print(1 / 0)))
    with pytest.raises(KeyboardInterrupt):
        train(config, on_save=at_save(4, lambda: signal.raise_signal(signal.SIGINT)))
    assert multiprocessing.active_children() == []
    run = train(config)
    assert (run / "best.safetensors").read_bytes() == (undisturbed / "best.safetensors").read_bytes()
    assert [[row[key] for key in KEYS] for row in metrics(run)] == [
        [row[key] for key in KEYS] for row in metrics(undisturbed)
    ]


def test_a_killed_process_ends_the_run_and_is_named(shared: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    config = replace(shared[0], runs=tmp_path, epochs=50)
    threads = torch.get_num_threads()
    saves: list[float] = []

    def kill() -> None:
        saves.append(time.monotonic())
        if len(saves) == 1:
            pid = multiprocessing.active_children()[0].pid
            assert pid
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(RunError, match=r"process 1 of 0 to 1 ended too early \(SIGKILL\)"):
        train(config, on_save=kill)
    assert time.monotonic() - saves[0] < 10
    assert multiprocessing.active_children() == []
    assert torch.get_num_threads() == threads  # while they trained, each had its share of them
    assert not torch.distributed.is_initialized()


def end_slowly(group: Group) -> None:
    """What the system does to a killed process, drawn out: its pipes close a second before it has an exit code."""
    for number in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.close(number)
        except OSError:
            continue  # no such file
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_takes_long_to_end_is_named_too() -> None:
    with (
        pytest.raises(RunError, match=r"process 1 of 0 to 1 ended too early \(SIGKILL\)"),
        processes(2, torch.device("cpu"), end_slowly),
    ):
        raise RuntimeError("connection reset by peer")  # as torch has it


@pytest.mark.parametrize(
    ("size", "batch", "device", "message"),
    [
        (3, 16, "cpu", "--processes 3: can't share --batch-size 16 evenly"),
        (0, 16, "cpu", "at least 1"),
        (64, 64, "cuda", "GPUs; it takes one a process"),
        (2, 16, "mps", "not mps"),
    ],
)
def test_sharing_that_can_not_work_is_refused(size: int, batch: int, device: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        check_processes(size, batch, torch.device(device))


def test_odd_sharing_starts_nothing(data_set: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't share --batch-size 16 evenly"):
        train(replace(small(data_set, tmp_path), processes=3))
    assert not (tmp_path / "runs").exists()


def test_a_batch_is_shared_whole() -> None:
    groups = [Group(rank, 3, torch.device("cpu")) for rank in range(3)]
    assert [group.share(range(6)) for group in groups] == [[0, 1], [2, 3], [4, 5]]


def test_alone_everything_stays_as_it_is() -> None:
    alone, values = Group(0, 1, torch.device("cpu")), np.arange(3.0)
    network = torch.nn.Linear(1, 1)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.mean([0.1, 0.2]) == [0.1, 0.2]
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.gather(values) is values
    assert alone.wrap(network) is network
