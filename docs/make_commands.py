"""Writes docs/commands.md: the help of every command, as `mai COMMAND --help` prints it 100 columns wide.

python docs/make_commands.py
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mai_app.cli import COMMANDS  # noqa: E402 - of this folder, whatever else is installed

PAGE = ROOT / "docs" / "commands.md"
HEAD = """# Commands

Made by `python docs/make_commands.py`; a test compares. `python local_entry.py` takes the same words as `mai`.
"""


def help_of(*command: str) -> str:
    """What `mai COMMAND --help` prints, without colours."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "mai_app", *command, "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", check=True)  # noqa: S603
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands_page() -> str:
    """The whole page, as Markdown."""
    with ThreadPoolExecutor(2) as pool:
        overview, *helps = pool.map(lambda name: help_of(*name), [(), *((name,) for name in COMMANDS)])
    parts = [HEAD, f"```text\n{overview}\n```\n"]
    parts += [f"## {name}\n\n```text\n{text}\n```\n" for name, text in zip(COMMANDS, helps, strict=True)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
