"""The README's commands exist: each parses with the real command line, and each make target is there."""

import re
import shlex
from pathlib import Path

import pytest

from local_entry import take_place
from mai_app.cli import parse

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """Command lines in the README's indented blocks, comments cut off."""
    lines = (ROOT / "README.md").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("    ")]


def test_every_mai_command_parses() -> None:
    parsed = 0
    for command in commands():
        if found := re.search(r"(?:^|\| )(?:mai|python local_entry\.py) ([^>|]+)", command):
            parse(take_place(shlex.split(found[1]))[0])
            parsed += 1
    assert parsed >= 7


def test_a_wrong_command_would_not_parse() -> None:
    with pytest.raises(SystemExit):
        parse(["train", "--dta", "photos"])


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert {"demo", "test"} <= used <= targets


def test_every_file_that_it_links_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    local = [link for link in links if not link.startswith("http")]
    assert len(local) >= 4
    assert all((ROOT / link.split("#")[0]).exists() for link in local)
