"""Progress: quiet where nobody watches, lines where a log is watched."""

import time

import pytest

from mai_app.cli import run
from mai_app.core.log import bar, say
from mai_app.errors import MaiError


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


def test_a_name_in_a_message_does_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    say("left out: a\x1b[2J\r\u202eb.png\nis damaged")
    assert capsys.readouterr().err == "left out: a\\x1b[2J\\r\\u202eb.png\nis damaged\n"
    code = run(lambda: refuse("a\x1b[2J.png: no such file"))
    assert (code, capsys.readouterr().err) == (2, "mai: a\\x1b[2J.png: no such file\n")


def refuse(what: str) -> int:
    raise MaiError(what)
