"""A scan has exactly one row a file, whatever is wrong with the files, and however often it was stopped."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mai_app.cli import main
from mai_app.config import ScanConfig
from mai_app.errors import DataError, ImageError, RunError
from mai_app.inference.scan import CHUNK_BYTES, CHUNK_FILES, Chunk, ScanCounts, chunks, list_files, scan
from tests.conftest import Run, picture

ROOT = Path(__file__).parents[2]


def row(path: str, version: str = "0123456789ab", **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": path,
        "p_synthetic": 0.75,
        "verdict": "synthetic",
        "threshold": 0.5,
        "unsure_low": 0.25,
        "unsure_high": 0.75,
        "model": "baseline",
        "version": version,
        "image": None,
        "notes": (),
        "evidence": None,
        "error": None,
    }
    return facts | changes


def names_of(chunk: Chunk) -> list[str]:
    return [item if isinstance(item, str) else item.name if isinstance(item, ImageError) else item[0] for item in chunk]


def all_well(given: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
    for chunk in given:
        yield [row(name) for name in names_of(chunk)]


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def config(folder: Path) -> ScanConfig:
    return ScanConfig("unused", out=folder / "scan.jsonl")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list with 76 lines that name 70 files, 8 of which can't be judged."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(3)
    for i in range(62):
        Image.fromarray(picture(rng, i % 2)).save(folder / f"{i:02}.png")
    for i in range(4):
        (folder / f"broken{i}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(i))
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    names = [*sorted(path.name for path in folder.iterdir()), "missing.png", "missing,2.png"]
    lines = [*names, "", "./00.png", *names[:3], str(folder / "05.png"), "folder.png"]
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def start(listed: Path, model: Path, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mai_app", "scan", str(listed), "--model", str(model), "--device", "cpu"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_killed_and_carried_on_it_has_the_rows_of_an_undisturbed_one(
    mai: Run, listed: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["scan", str(listed), "--model", str(trained_run), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "whole.jsonl")]) == 1
    whole = rows_in(tmp_path / "whole.jsonl")
    assert len(whole) == 70
    assert {item["path"] for item in whole if item["error"]} == {
        str(listed.parent / name)
        for name in [f"broken{i}.jpg" for i in range(4)] + ["empty.png", "folder.png", "missing.png", "missing,2.png"]
    }
    verdicts = [item["verdict"] for item in whole]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("authentic", "unsure", "synthetic"))
    assert capsys.readouterr().out == f"70 files: {counts}, 8 not judged; rows in {tmp_path / 'whole.jsonl'}\n"

    out = tmp_path / "scan.jsonl"
    process = start(listed, trained_run, tmp_path)
    deadline = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.kill()
    process.wait()
    # What a kill in the middle of a write leaves.
    lines = out.read_bytes().splitlines(keepends=True)
    assert lines
    out.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])

    done = mai(*words)
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"70 files: {counts}, 8 not judged; rows in scan.jsonl\n"
    rows = {item["path"]: item for item in rows_in(out)}
    assert len(rows) == len(rows_in(out))
    # The last digit of a score may depend on which files are judged together.
    scores = {item["path"]: item.pop("p_synthetic") for item in whole}
    assert {path: item.pop("p_synthetic") for path, item in rows.items()} == pytest.approx(scores, abs=2e-6)
    assert rows == {item["path"]: item for item in whole}


def test_nothing_is_left_to_do_and_nothing_is_written(tmp_path: Path) -> None:
    asked = []

    def judge(given: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
        for chunk in given:
            asked.extend(names_of(chunk))
            yield [row(name) for name in names_of(chunk)]

    files = ["a.png", "./a.png", "b\udcff.png", "c\u2028\n.png"]
    for _ in range(2):
        assert scan(config(tmp_path), judge, lambda: files, read=False) == ScanCounts(0, 0, 3, 0)
    assert asked == ["a.png", "b\udcff.png", "c\u2028\n.png"]
    assert [item["path"] for item in rows_in(tmp_path / "scan.jsonl")] == asked


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_cut_last_line_is_judged_again(tmp_path: Path, kept: int) -> None:
    out = tmp_path / "scan.jsonl"
    scan(config(tmp_path), all_well, lambda: ["a.png", "b.png"], read=False)
    whole = out.read_bytes()
    first = whole.index(b"\n") + 1
    out.write_bytes(whole[: first + kept])
    scan(config(tmp_path), all_well, lambda: ["a.png", "b.png"], read=False)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"[1]\n", b'{"path": "a"}\n'])
def test_a_file_that_is_no_scan_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scan.jsonl").write_bytes(content)
    with pytest.raises(RunError, match="line 1 is no row of a scan"):
        scan(config(tmp_path), all_well, lambda: ["a.png"], read=False)
    assert (tmp_path / "scan.jsonl").read_bytes() == content


def test_rows_of_other_weights_are_refused(tmp_path: Path) -> None:
    scan(config(tmp_path), all_well, lambda: ["a.png"], read=False)
    before = (tmp_path / "scan.jsonl").read_bytes()

    def other(given: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
        for chunk in given:
            yield [row(name, version="ffff") for name in names_of(chunk)]

    with pytest.raises(RunError, match=r"other weights \(0123456789ab\) than these \(ffff\); choose another --out"):
        scan(config(tmp_path), other, lambda: ["b.png"], read=False)
    assert (tmp_path / "scan.jsonl").read_bytes() == before


def test_a_second_scan_into_the_same_file_is_refused(tmp_path: Path) -> None:
    def judge(given: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
        with pytest.raises(RunError, match="another scan writes it"):
            scan(config(tmp_path), all_well, lambda: ["a.png"], read=False)
        yield from all_well(given)

    assert scan(config(tmp_path), judge, lambda: ["a.png"], read=False).files == 1


def test_chunks_may_fail_and_come_in_any_order(tmp_path: Path) -> None:
    """Of 200 files two kill whoever judges them, one is never answered; every other one is judged."""
    deadly = {"17.png": RuntimeError("out of memory"), "150.png": ValueError()}
    sizes = []

    def judge(given: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
        answers: list[list[dict[str, Any]] | Exception] = []
        for chunk in given:
            names = names_of(chunk)
            sizes.append(len(names))
            error = next((deadly[name] for name in names if name in deadly), None)
            rows = [row(name) for name in names if name != "99.png"]
            # A row twice, and one that nobody asked for.
            answers.append(error or [*rows, *rows[:1], row("stranger.png")])
        random.Random(4).shuffle(answers)
        yield from answers

    counts = scan(config(tmp_path), judge, lambda: [f"{i}.png" for i in range(200)], read=False)
    assert counts == ScanCounts(0, 0, 197, 3)
    rows = {item["path"]: item for item in rows_in(tmp_path / "scan.jsonl")}
    assert len(rows) == len(rows_in(tmp_path / "scan.jsonl")) == 200
    assert rows["17.png"] == row("17.png", p_synthetic=None, verdict=None, notes=[]) | {
        "error": "could not be judged: out of memory"
    }
    assert rows["150.png"]["error"] == "could not be judged: ValueError"
    assert rows["99.png"]["error"] == "could not be judged: it gave no row"
    # Two chunks of 32 and the file without an answer came a second time, one by one.
    assert sizes == [32] * 6 + [8] + [1] * 65


def test_an_interrupt_leaves_what_was_judged(tmp_path: Path) -> None:
    def judge(given: Iterator[Chunk]) -> Iterator[list[dict[str, Any]] | Exception]:
        yield [row(name) for name in names_of(next(given))]
        raise KeyboardInterrupt

    files = [f"{i}.png" for i in range(100)]
    with pytest.raises(KeyboardInterrupt):
        scan(config(tmp_path), judge, lambda: files, read=False)
    assert len(rows_in(tmp_path / "scan.jsonl")) == CHUNK_FILES
    assert scan(config(tmp_path), all_well, lambda: files, read=False).files == 100


def test_files_travel_with_their_bytes_and_chunks_stay_small(tmp_path: Path) -> None:
    files = []
    for i in range(5):
        files.append(str(tmp_path / f"{i}.png"))
        with Path(files[-1]).open("wb") as stream:
            stream.truncate(CHUNK_BYTES * 2 // 5 if i < 4 else CHUNK_BYTES + 1)
    missing = str(tmp_path / "missing.png")
    closed = ImageError("closed", "can't be listed")
    made = list(chunks([*files, missing, closed, files[0]], {files[3]}, read=True))
    assert [names_of(chunk) for chunk in made] == [files[:2], files[2:3], files[4:], [missing, "closed"]]
    assert all(isinstance(item, tuple) and item[1] for chunk in made[:3] for item in chunk)
    assert [str(item) for item in made[3]] == [f"{missing}: no such file", "closed: can't be listed"]
    assert [len(chunk) for chunk in chunks(map(str, range(9)), (), read=False, max_files=4)] == [4, 4, 1]


def test_folders_images_and_lists_name_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    for name in ("b.png", "inner/a.jpg", "notes.md"):
        (tmp_path / "photos" / name).touch()
    (tmp_path / "photos" / "paths.txt").write_bytes(b"\xef\xbb\xbfb.png\r\n\r\n/x/c.png\r\ninner/a.jpg")
    (tmp_path / "photos" / "table.csv").write_text('verdict,file\nunsure,"b,1.png"\nunsure,\nunsure,a.png\n')
    (tmp_path / "photos" / "wrong.csv").write_text("verdict,name\n")
    (tmp_path / "photos" / "empty.txt").write_text("\n\n")
    (tmp_path / "bare").mkdir()
    assert list(list_files("photos")) == ["photos/b.png", "photos/inner/a.jpg"]
    assert list(list_files("photos/b.png")) == ["photos/b.png"]
    assert list(list_files("photos/paths.txt")) == ["photos/b.png", "/x/c.png", "photos/inner/a.jpg"]
    assert list(list_files("photos/table.csv")) == ["photos/b,1.png", "photos/a.png"]
    for name, reason in {
        "": "an empty name",
        "nowhere": "no such file or folder",
        "bare": "without an image",
        "photos/wrong.csv": "no column 'path' or 'file'; its columns are verdict, name",
        "photos/empty.txt": "lists no file",
    }.items():
        with pytest.raises(DataError, match=reason):
            list_files(name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lists_may_have_a_byte_order_mark_or_be_utf_16(tmp_path: Path, encoding: str) -> None:
    names = ["photo.jpg", "größe, 图\u2028.png", "\u0a0d.png"]  # the last is a line's end in half of its bytes
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "list.txt").write_bytes((mark + "\r\n".join([*names, "", "z.png\r\n"])).encode(encoding))
    assert list(list_files(str(tmp_path / "list.txt"))) == [str(tmp_path / name) for name in [*names, "z.png"]]
    rows = "".join(f'"{name}",1\r\n' for name in names)
    (tmp_path / "list.csv").write_bytes(f"{mark}path,number\r\n{rows}".encode(encoding))
    assert list(list_files(str(tmp_path / "list.csv"))) == [str(tmp_path / name) for name in names]


def test_a_list_that_is_no_text_is_refused_or_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "cut.csv").write_bytes("path\r\na.png".encode("utf-16")[:-1])
    with pytest.raises(DataError, match="can't be read as comma-separated values"):
        list(list_files(str(tmp_path / "cut.csv")))
    (tmp_path / "latin.txt").write_bytes("größe.png\n".encode("latin-1"))  # a name may have any bytes
    assert [os.fsencode(str(name)) for name in list_files(str(tmp_path / "latin.txt"))] == [
        os.fsencode(tmp_path) + "/größe.png".encode("latin-1")
    ]


def test_a_mistyped_path_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        scan(config(tmp_path), all_well, lambda: list_files(str(tmp_path / "none")), read=False)
    with pytest.raises(RunError, match="can't be written"):
        scan(ScanConfig("x", out=tmp_path), all_well, lambda: ["a.png"], read=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("counts", "code"), [((1, 2, 3, 0), 0), ((1, 2, 3, 4), 1), ((0, 0, 0, 4), 2), ((0, 0, 0, 0), 2)]
)
def test_exit_codes_and_the_line_of_counts(counts: tuple[int, int, int, int], code: int) -> None:
    assert ScanCounts(*counts).exit_code == code
    shown = "{} files: {} authentic, {} unsure, {} synthetic, {} not judged; rows in scan.jsonl"
    assert ScanCounts(*counts).summary(Path("scan.jsonl")) == shown.format(sum(counts), *counts)
