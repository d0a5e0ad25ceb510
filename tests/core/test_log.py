"""Progress: quiet where nobody watches, lines where a log is watched."""

import time

import pytest

from mai_app.core.log import bar


def work(steps: int) -> None:
    with bar(total=steps, desc="epoch 1/2") as shown:
        for _ in range(steps):
            time.sleep(0.02)
            shown.update()


def test_without_a_terminal_it_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    work(5)
    assert capsys.readouterr().err == ""


def test_a_watched_log_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MAI_PROGRESS_SECONDS", "0.05")
    work(20)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 9
    assert all(line.startswith("epoch 1/2: ") and "/20" in line for line in lines)
    assert "\r" not in "".join(lines)
