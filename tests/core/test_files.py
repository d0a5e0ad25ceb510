"""Files are written whole or not at all, and a log of rows loses at most the row that a kill interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mai_app.core.files import append_rows, describe_changes, locked, read_rows, resume_rows, write_bytes, write_text

ROWS = [{"n": 1, "name": "é"}, {"n": 2, "name": "x"}, {"n": 3, "name": ""}]
HEADER = {"weights": "abc", "tiers": ["clean"]}


def write(path: Path, *rows: dict[str, object]) -> bytes:
    with path.open("ab") as stream:
        append_rows(stream, rows)
    return path.read_bytes()


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(TypeError):
        write_bytes(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == "é".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_locked_for_one_holder_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "new", wait=False), pytest.raises(BlockingIOError), locked(tmp_path / "new", wait=False):
        pass
    with locked(tmp_path / "new", wait=False):
        pass


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert resume_rows(path) == []
    assert not path.exists()
    written = write(path, *ROWS)
    assert written == b'{"n": 1, "name": "\\u00e9"}\n{"n": 2, "name": "x"}\n{"n": 3, "name": ""}\n'
    assert resume_rows(path) == ROWS
    assert path.read_bytes() == written


@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_file_name_can_stand_in_a_row(tmp_path: Path, ascii_only: bool) -> None:
    path, row = tmp_path / "log.jsonl", {"path": "b\udcff\u2028\n\U0001f600é.png"}
    with path.open("ab") as stream:
        append_rows(stream, [row], ascii_only=ascii_only, sync=True)
    assert path.read_bytes().count(b"\n") == 1
    assert ("é".encode() in path.read_bytes()) != ascii_only
    assert resume_rows(path) == [row]


@pytest.mark.parametrize("header", [None, HEADER])
def test_cut_anywhere_it_keeps_the_whole_rows_and_goes_on(tmp_path: Path, header: dict[str, object] | None) -> None:
    path = tmp_path / "log.jsonl"
    resume_rows(path, header)
    start = path.stat().st_size if header else 0
    whole = write(path, *ROWS)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        done = resume_rows(path, header)
        assert done == ROWS[: whole[start:length].count(b"\n")]
        assert write(path, *ROWS[len(done) :]) == whole


def test_another_header_starts_the_log_anew(tmp_path: Path) -> None:
    path = tmp_path / "made" / "log.jsonl"
    assert resume_rows(path, HEADER) == []
    first = path.read_bytes()
    write(path, *ROWS)
    assert resume_rows(path, HEADER) == ROWS
    assert resume_rows(path, HEADER | {"weights": "xyz"}) == []
    assert path.read_bytes() == first.replace(b"abc", b"xyz")


def test_rows_from_the_first_unwanted_one_on_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, *ROWS)
    assert resume_rows(path, keep=lambda row: bool(row["n"] != 2)) == ROWS[:1]
    assert resume_rows(path) == ROWS[:1]


def test_what_is_no_log_of_rows_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    for content, line in ((b"my notes\n", 1), (b'{"n": 1}\nmy notes\n{"n"', 2)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"line {line} is no row"):
            resume_rows(path)
        assert path.read_bytes() == content
    path.write_bytes(b"my notes")
    with path.open("a+b") as stream, pytest.raises(ValueError, match="line 1 is no row"):
        list(read_rows(stream, start=b'{"n": '))
    assert path.read_bytes() == b"my notes"
    path.write_bytes(b'{"n')
    with path.open("a+b") as stream:
        assert list(read_rows(stream, start=b'{"n": ')) == []
    assert path.read_bytes() == b""


def test_a_killed_process_leaves_the_rows_that_it_appended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = (
        "import sys; from mai_app.core.files import append_rows\n"
        "with open(sys.argv[1], 'ab') as stream:\n"
        "    append_rows(stream, [{'n': 1}])\n"
        "    stream.write(b'{\"n\": 2'); sys.stdin.read()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 60
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert resume_rows(path) == [{"n": 1}]


def test_changed_settings_are_named_with_both_values() -> None:
    old = {"steps": 600, "mix": 0.0, "mai_version": "0.1"}
    assert describe_changes(old, {"mix": 0.0, "steps": 600}) == ""
    assert describe_changes(old, {"steps": 2, "mix": 0.0, "side": 64}) == "steps 600 → 2; side None → 64"
