"""The simulator of Modal that lies beside the checkout: commands whose `modal` and `python` talk to it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIMULATOR = ROOT.parent / "shared" / "modal-sim" / "modal-sim"


# A reload after each commit, times of files that say nothing, and no word of free space: all that Modal may do.
STRICT = ("--reload-after-commit", "--volume-mtimes", "now", "--volume-statfs", "zero")


def on_modal(script: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the checkout, against a strict cloud.

    The Volume lies in the folder, and so does summary.json in the end.
    """
    words = ["--state", str(folder / "state"), "--summary", str(folder / "summary.json"), "--limit", "300", "--quiet"]
    return subprocess.run(
        [str(SIMULATOR), *words, *STRICT, *options, "--", "bash", "-c", script],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def summary(folder: Path) -> dict[str, Any]:
    """What the simulator wrote down of the last command: functions with their settings, executions, checks."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
