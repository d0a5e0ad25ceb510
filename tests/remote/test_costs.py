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
    Hire,
    Machine,
    choose_gpus,
    container_hours,
    describe_bound,
    describe_cost,
    describe_training,
    limits_within,
    per_second,
    table,
    time_limits,
    upper_bound,
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


HOUR = 3600
# By hand: 0.001097 + 16 × 0.0000131 + 48 × 0.00000222 = 0.00141316 dollars a second, 5.087 an hour.
H100 = Machine(cores=16, gib=48, timeout=24 * HOUR, containers=8, gpus=("H100",), retries=4)
H100_SECOND = 0.00141316
# 3 × (0.0000131 ÷ 8 + 0.00000222) = 0.0000115725, 0.042 an hour.
WAITING = Machine(cores=1 / 8, gib=1, timeout=24 * HOUR, retries=4, preemptible=False)
WAITING_SECOND = 0.0000115725


def test_the_upper_bound_counts_attempts_starts_idle_minutes_and_preemptions() -> None:
    # Five attempts of an hour, two starts of 15 minutes, an idle minute: 5 h 31 min.
    hired = {"train": Hire(H100), "lead": Hire(WAITING, role="leader")}
    limits = time_limits(hired, HOUR)
    # The leader waits for that, and an hour of its own; so do five attempts of it.
    assert limits == {"train": HOUR, "lead": 5 * HOUR + 1860 + HOUR}
    leading = 5 * (6 * HOUR + 1860) + 1860
    assert upper_bound(hired, limits) == pytest.approx(H100_SECOND * (5 * HOUR + 1860) + WAITING_SECOND * leading)
    assert upper_bound(hired, limits) == pytest.approx(28.07 + 1.38, abs=0.01)
    assert container_hours(hired, limits, gpus=True) == pytest.approx(5 + 31 / 60)
    assert container_hours(hired, limits) == pytest.approx(5 + 31 / 60 + leading / HOUR)
    # What is not tried again is begun again where Modal preempts it: two time limits. Two GPUs count twice.
    single = {"evaluate": Hire(Machine(cores=8, gib=16, timeout=4 * HOUR, gpus=("L4", "A10:2")))}
    assert time_limits(single, 24 * HOUR) == {"evaluate": 4 * HOUR}
    dearest = 2 * 0.000306 + 8 * 0.0000131 + 16 * 0.00000222
    assert upper_bound(single, {"evaluate": 4 * HOUR}) == pytest.approx(dearest * (8 * HOUR + 1860))
    assert container_hours(single, {"evaluate": 4 * HOUR}, gpus=True) == pytest.approx(2 * (8 + 31 / 60))


def test_a_pool_is_bound_by_its_containers_whatever_the_number_of_files() -> None:
    # No file is begun after an hour; ten containers work another hour at most. 2 cores and 4 GiB: 0.00003508 a second.
    pool = Hire(Machine(cores=2, gib=4, timeout=6 * HOUR, containers=10, retries=4), 10, "pool")
    hired = {"prepare_unit": pool, "prepare": Hire(WAITING, role="leader")}
    limits = time_limits(hired, HOUR)
    assert limits == {"prepare_unit": HOUR, "prepare": 2 * HOUR + 1860 + HOUR}
    leading = WAITING_SECOND * (5 * limits["prepare"] + 1860)
    assert upper_bound(hired, limits) == pytest.approx(10 * 0.00003508 * (2 * HOUR + 1860) + leading)


def test_the_runs_of_a_sweep_take_turns_where_containers_are_fewer() -> None:
    hired = {"train": Hire(H100, 9), "run_sweep": Hire(WAITING, role="leader")}
    assert time_limits(hired, 600)["run_sweep"] == 2 * (5 * 600 + 1860) + 600
    assert upper_bound(hired, time_limits(hired, 600)) == pytest.approx(
        9 * H100_SECOND * (5 * 600 + 1860) + WAITING_SECOND * (5 * (2 * (5 * 600 + 1860) + 600) + 1860)
    )


@pytest.mark.parametrize("budget", [8.0, 20.0, 20.01, 500.0])
def test_time_limits_are_the_longest_that_a_budget_does_for(budget: float) -> None:
    hired = {"train": Hire(H100), "lead": Hire(WAITING, role="leader")}
    limits = limits_within(budget, hired)
    assert (upper_bound(hired, limits) or 0) <= budget
    longer = time_limits(hired, limits["train"] + 1)
    assert (upper_bound(hired, longer) or 0) > budget or limits["train"] == 24 * HOUR
    said = describe_bound(hired, limits, budget)
    assert said.endswith(f"(list price, October 2026): within --budget {budget:g}")
    assert said.startswith("in all at most ")


def test_a_budget_that_does_not_do_is_refused_with_what_would() -> None:
    hired = {"train": Hire(H100), "lead": Hire(WAITING, role="leader")}
    least = H100_SECOND * (5 * 600 + 1860) + WAITING_SECOND * (5 * (5 * 600 + 1860 + 600) + 1860)
    with pytest.raises(MaiError, match=rf"--budget 7: \${least:.2f} is the least, for 10 minutes .*nothing was hired"):
        limits_within(7, hired)
    assert limits_within(least + 0.01, hired)["train"] >= 600
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(MaiError, match="name an amount of dollars"):
            limits_within(wrong, hired)
    unknown = {"train": Hire(Machine(8, 16, 3600, gpus=("L4", "X9")))}
    with pytest.raises(MaiError, match="no price is known here of X9; name another GPU in MAI_GPU"):
        limits_within(20, unknown)
    assert upper_bound(unknown, {"train": 600}) is None
    assert "price not known here" in describe_bound(unknown, {"train": 600}, 0)


def test_a_training_is_told_by_images_and_refused_where_it_can_not_end() -> None:
    # 100,000 × 3 images: 500 s at 600 a second, 3,000 s at 100; 0.71 and 4.24 dollars.
    line = describe_training(100_000, 3, Hire(H100), 600, (100, 600))
    assert line == (
        "100,000 images × 3 epochs: 8 min to 50 min, $0.71 to $4.24, at 600 to 100 images/s (assumed, not measured)"
    )
    with pytest.raises(MaiError, match=r"take 1.4 h at 600 images/s \(assumed\), and there are 5 attempts of 10 min"):
        describe_training(1_000_000, 3, Hire(H100), 600, (100, 600))


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
