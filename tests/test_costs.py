"""Costs: the formula, the line before a command starts, and the README's table."""

from pathlib import Path

import pytest

from mai_app.costs import CORE_SECOND, GIB_SECOND, GPU_SECOND, hire, per_second, table

README = Path(__file__).parents[1] / "README.md"


def test_the_price_of_a_container_is_that_of_its_parts() -> None:
    assert per_second("", 2, 4) == pytest.approx(2 * CORE_SECOND + 4 * GIB_SECOND)
    assert per_second("H100:2", 0, 0) == pytest.approx(2 * GPU_SECOND["H100"])
    assert per_second("H100!", 0, 0) == per_second("H100", 0, 0)
    assert per_second("H100!:2", 0, 0) == per_second("H100:2", 0, 0)
    assert per_second("X9", 1, 1) is None


def test_a_command_says_what_it_hires() -> None:
    line = hire("train", ("L4", "A10"), 8, 16, 1, 24)
    assert line.startswith("train: hires 1 container (L4 or A10, 8 cores, 16 GiB), 24 h at most an attempt; $")
    assert "–" in line
    assert "at most 10 containers (no GPU, 4 cores, 4 GiB), 10 min" in hire("predict", (), 4, 4, 10, 1 / 6)
    assert "price not known here" in hire("train", ("X9",), 8, 16, 1, 24)


def test_the_readme_shows_the_table_as_it_is_computed() -> None:
    assert table() in README.read_text()
