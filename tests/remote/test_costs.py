"""Costs: the formula, the line before a command starts, and the README's table."""

from pathlib import Path

import pytest

from mai_app.errors import MaiError
from mai_app.remote.costs import (
    CORE_SECOND,
    GIB_SECOND,
    GPU_SECOND,
    GPUS,
    STARTUP,
    Machine,
    choose_gpus,
    describe_cost,
    per_second,
    table,
)

PAGE = Path(__file__).parents[2] / "docs" / "modal.md"


def test_the_price_of_a_container_is_that_of_its_parts() -> None:
    assert per_second("", 2, 4) == pytest.approx(2 * CORE_SECOND + 4 * GIB_SECOND)
    assert per_second("H100:2", 0, 0) == pytest.approx(2 * GPU_SECOND["H100"])
    assert per_second("H100!", 0, 0) == per_second("H100", 0, 0)
    assert per_second("H100!:2", 0, 0) == per_second("H100:2", 0, 0)
    assert per_second("X9", 1, 1) is None


def test_a_command_says_what_it_hires() -> None:
    trainer = Machine(cores=8, gib=16, timeout=24 * 3600, containers=8, gpus=("L4", "A10"))
    line = describe_cost("train", trainer, containers=1)
    assert line.startswith("train: hires 1 container (L4 or A10, 8 cores, 16 GiB), 24 h at most an attempt; $")
    assert "–" in line
    assert "at most 8 containers" in describe_cost("sweep", trainer, containers=30)
    small = Machine(cores=4, gib=4, timeout=600, containers=10)
    assert "at most 10 containers (no GPU, 4 cores, 4 GiB), 10 min" in describe_cost("predict", small)
    assert "price not known here" in describe_cost("train", Machine(8, 16, 3600, gpus=("X9",)))


def test_a_command_says_what_it_costs_at_most() -> None:
    # By hand: an L4 with 8 cores and 16 GiB is 0.000222 + 8 × 0.0000131 + 16 × 0.00000222 = 0.00036232 dollars a
    # second, 1.304 an hour; 5 attempts of 24 hours are 120 hours, 156.52 dollars.
    trainer = Machine(cores=8, gib=16, timeout=24 * 3600, containers=8, gpus=("L4",), retries=4)
    line = describe_cost("train", trainer, containers=1)
    assert line == (
        "train: hires 1 container (L4, 8 cores, 16 GiB), 24 h at most an attempt, 5 attempts at most; $1.30 an hour "
        "each (list price, October 2026); $157 if every attempt takes all of its time"
    )
    assert describe_cost("sweep", trainer, containers=30).endswith("; $4,696 if every attempt takes all of its time")
    # 4 cores and 4 GiB: 0.00006128 a second; 5 minutes 0.0184.
    judge = Machine(cores=4, gib=4, timeout=600, containers=10, idle=300)
    assert describe_cost("predict", judge).endswith(
        "a call that finds none waiting starts one, which then waits 5 min for others: $0.0184"
    )
    # Three times the price for not being preempted.
    leader = Machine(cores=1 / 8, gib=1, timeout=3600, preemptible=False)
    assert leader.prices() == pytest.approx([3 * (0.0000131 / 8 + 0.00000222)])
    assert leader.modal_kwargs()["nonpreemptible"] is True


def test_gpus_are_named_with_commas_and_spaces_and_none_means_the_usual() -> None:
    assert choose_gpus("L4, A10") == ("L4", "A10")
    assert choose_gpus("H100:2") == ("H100:2",)
    assert choose_gpus(None) == choose_gpus("") == choose_gpus(" ") == GPUS
    for wrong in ("L4,,A10", "H100:", "H100:0", "H100:two", ","):
        with pytest.raises(MaiError, match=r"MAI_GPU=.*: name GPU types as L4 or H100:2"):
            choose_gpus(wrong)
    for gpu in ("H200", "A100-40GB", "A100"):
        assert per_second(gpu, 0, 0)


def test_a_machine_as_arguments_of_modal() -> None:
    kwargs = Machine(cores=2, gib=3, timeout=1800, containers=7, gpus=("T4",)).modal_kwargs()
    assert kwargs == {
        "cpu": 2.0,
        "memory": 3072,
        "timeout": 1800,
        "startup_timeout": STARTUP,
        "max_containers": 7,
        "gpu": ["T4"],
    }


def test_the_page_shows_the_table_as_it_is_computed() -> None:
    assert table() in PAGE.read_text()
