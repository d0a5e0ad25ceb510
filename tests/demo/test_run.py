"""The demo as a newcomer runs it, on few scenes: every stage, and plain words about what simulated images are worth."""

from pathlib import Path

import pytest

from mai_app.cli import main
from tests.conftest import Run

PLAIN_WORDS = "They say nothing about real images."


def test_the_demo_goes_the_whole_way_and_says_what_it_is_worth(
    tmp_path: Path, mai: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--out", "d", "--scenes", "13", "--epochs", "1"]
    done = mai(*words)
    assert done.returncode == 0, done.stderr
    assert PLAIN_WORDS in done.stderr
    assert done.stdout.count(PLAIN_WORDS) == 2
    assert "clean " in done.stdout
    judged = done.stdout.split("Files kept apart")[1]
    assert judged.count("d/data/apart/camera-") == judged.count("d/data/apart/generator-") == 6
    assert PLAIN_WORDS in (tmp_path / "d" / "runs" / "demo-13-0" / "report-test" / "report.html").read_text()

    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    again = capsys.readouterr()
    assert again.out == done.stdout
    assert "all epochs (1) are done" in again.err
