"""Costs: the formula, the line before a command starts, and the README's table."""

from pathlib import Path

import pytest

from mai_app.remote.costs import CORE_SECOND, GIB_SECOND, GPU_SECOND, Machine, describe_cost, per_second, table

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


def test_a_machine_as_arguments_of_modal() -> None:
    kwargs = Machine(cores=2, gib=3, timeout=1800, containers=7, gpus=("T4",)).modal_kwargs()
    assert kwargs == {"cpu": 2.0, "memory": 3072, "timeout": 1800, "max_containers": 7, "gpu": ["T4"]}


def test_the_page_shows_the_table_as_it_is_computed() -> None:
    assert table() in PAGE.read_text()
