"""docs/commands.md is what the commands' help says now."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_commands", ROOT / "docs" / "make_commands.py")
    assert spec
    assert spec.loader
    make_commands = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_commands)
    page = make_commands.commands_page()
    assert page.count("usage: mai ") == len(make_commands.COMMANDS) + 1
    assert make_commands.PAGE.read_text() == page, "run python docs/make_commands.py"
