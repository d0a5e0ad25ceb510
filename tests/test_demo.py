"""The demo as a newcomer runs it, on few scenes: every stage, and plain words about what simulated images are worth."""

from pathlib import Path

from tests.conftest import Run

PLAIN_WORDS = "They say nothing about real images."


def test_the_demo_goes_the_whole_way_and_says_what_it_is_worth(tmp_path: Path, mai: Run) -> None:
    done = mai("demo", "--out", "d", "--scenes", "40", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert PLAIN_WORDS in done.stderr
    assert done.stdout.count(PLAIN_WORDS) == 2
    assert "clean " in done.stdout
    judged = done.stdout.split("Files kept apart")[1]
    assert judged.count("d/data/apart/camera-") == judged.count("d/data/apart/generator-") == 6
    assert PLAIN_WORDS in (tmp_path / "d" / "runs" / "demo-40-0" / "report-test" / "report.html").read_text()

    again = mai("demo", "--out", "d", "--scenes", "40", "--epochs", "1")
    assert again.returncode == 0
    assert again.stdout == done.stdout
    assert "all epochs (1) are done" in again.stderr
