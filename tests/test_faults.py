"""Faults of the machine: full and read-only disks, clocks that jump, two processes on one folder.

The real command line on real disks: each fault ends in one line that names a file and what to do, and without the fault
the same command carries on.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tqdm.std
from starlette.exceptions import HTTPException

from mai_app.config import FORM, CalibrateConfig, ServeLimits, TrainConfig
from mai_app.core.log import bar
from mai_app.data.prepare import prepare
from mai_app.errors import CheckpointError
from mai_app.evaluation.calibrate import calibrate_checkpoint
from mai_app.inference.reload import LiveDetector
from mai_app.serve.admission import AdmissionControl
from mai_app.training.loop import train
from tests.conftest import folder_of

ROOT = Path(__file__).parents[1]
MIB = 2**20
TRAIN = [
    *("--recipe", "baseline", "--degrade", "--name", "r", "--epochs", "2", "--batch-size", "16", "--device", "cpu"),
    *("--learning-rate", "3e-4", "--precision", "float32", "--save-minutes", "0"),
]


def mai(
    *words: object, cwd: Path, limit: int = resource.RLIM_INFINITY, output: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `mai WORDS…` with files of at most `limit` bytes, its output into a file where one is named."""
    with (output or Path(os.devnull)).open("w") as stream:
        return subprocess.run(
            [sys.executable, "-m", "mai_app", *map(str, words)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=stream if output else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command ends."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mai: ")
    return last.removeprefix("mai: ")


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=40m", "tmpfs", place):
        pytest.skip("this user may not mount a small disk (tmpfs)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mounted(*words: object) -> bool:
    return (
        bool(shutil.which("mount"))
        and not subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode
    )


@pytest.fixture(scope="module")
def prepared(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(data_set, folder, form=FORM)
    return folder


# Full disks


def test_training_on_a_full_disk_stops_and_carries_on(
    plain: TrainConfig, data_set: Path, prepared: Path, disk: Path, tmp_path: Path
) -> None:
    words = ("train", "--data", data_set, *TRAIN, "--runs", disk, "--prepared", prepared)
    said = refusal(mai(*words, cwd=tmp_path))
    assert said.startswith(f"{disk / 'r'}/")
    assert "No space left on device; free some space; what is written stays whole" in said
    assert not temporary_files(disk)
    assert mounted("-o", "remount,size=300m", disk)
    assert mai(*words, cwd=tmp_path).returncode == 0
    assert (disk / "r" / "best.safetensors").read_bytes() == (folder_of(plain) / "best.safetensors").read_bytes()


def test_training_that_may_write_no_such_file_stops_and_carries_on(
    plain: TrainConfig, data_set: Path, prepared: Path, tmp_path: Path
) -> None:
    words = ("train", "--data", data_set, *TRAIN, "--prepared", prepared)
    said = refusal(mai(*words, cwd=tmp_path, limit=25 * MIB))
    assert said.startswith("runs/r/last.pt: File too large; ")
    assert not temporary_files(tmp_path)
    assert mai(*words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "runs/r/best.safetensors").read_bytes() == (folder_of(plain) / "best.safetensors").read_bytes()


def test_a_scan_on_a_full_disk_keeps_its_whole_rows_and_carries_on(data_set: Path, tmp_path: Path) -> None:
    words = ("scan", data_set / "val", "--model", "traces", "--device", "cpu", "--out", "scan.jsonl")
    said = refusal(mai(*words, cwd=tmp_path, limit=2_000))
    assert said.startswith("scan.jsonl: File too large; ")
    assert (tmp_path / "scan.jsonl").stat().st_size == 2_000  # the last row is cut
    done = mai(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "scan.jsonl").read_text().splitlines()
    assert len(rows) == len(set(rows)) == 32
    assert done.stdout.startswith("32 files: ")


def test_preparing_on_a_full_disk_stops_and_carries_on(data_set: Path, disk: Path, tmp_path: Path) -> None:
    with (disk / "filler").open("wb") as filler:
        filler.write(bytes(38 * MIB))
    words = ("audit", data_set, "--prepared", disk / "p")
    assert "the disk is full; free some space, the same command carries on" in refusal(mai(*words, cwd=tmp_path))
    (disk / "filler").unlink()
    done = mai(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("predict", "a.png", "--format", "json"), ("models",), ("--help",)])
def test_output_into_a_full_disk_is_said_in_one_line(data_set: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    shutil.copy(next(data_set.rglob("*.png")), tmp_path / "a.png")
    more = ("--model", "traces", "--device", "cpu") if words[0] == "predict" else ()
    said = refusal(mai(*words, *more, cwd=tmp_path, output=Path("/dev/full")))
    assert said.startswith("No space left on device; free some space")


# Read-only disks


@pytest.fixture(scope="module")
def closed(trained_run: Path, data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A read-only disk with a run on it; modes alone keep root from nothing."""
    place = tmp_path_factory.mktemp("closed")
    if not mounted("-t", "tmpfs", "tmpfs", place):
        pytest.skip("this user may not mount a disk (tmpfs)")
    shutil.copytree(trained_run, place / "small")
    (place / "prepared").mkdir()
    assert mounted("-o", "remount,ro", place)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "words",
    [
        "train --data DATA --name new --device cpu --prepared PREPARED --runs CLOSED --recipe baseline",
        "train --data DATA --name small --device cpu --prepared PREPARED --runs CLOSED --recipe baseline",
        "audit DATA --prepared CLOSED/prepared",
        "audit DATA --prepared PREPARED --out CLOSED/audit",
        "scan DATA --model traces --device cpu --out CLOSED/scan.jsonl",
        "predict PICTURE --model traces --device cpu --heatmap CLOSED/maps",
        "calibrate --data DATA --model CLOSED/small --device cpu",
        "evaluate --data DATA --model CLOSED/small --device cpu",
        "export --model traces --out CLOSED/m.onnx",
        "sweep --data DATA --name s --vary ema=0 --seeds 1 --device cpu --prepared PREPARED --runs CLOSED",
        "twins --data DATA --out CLOSED/twins --device cpu --steps 1",
    ],
)
def test_what_can_not_be_written_is_said_in_one_line(
    words: str, closed: Path, data_set: Path, prepared: Path, tmp_path: Path
) -> None:
    places = {"DATA": data_set, "PREPARED": prepared, "CLOSED": closed, "PICTURE": next(data_set.rglob("*.png"))}
    for name, place in places.items():
        words = words.replace(name, str(place))
    said = refusal(mai(*words.split(), cwd=tmp_path))
    assert str(closed) in said
    assert "Read-only file system" in said


def test_a_model_on_a_read_only_disk_predicts(closed: Path, data_set: Path, tmp_path: Path) -> None:
    picture = next(data_set.rglob("*.png"))
    done = mai("predict", picture, "--model", closed / "small", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# Clocks that jump


class Jumping:
    """A clock of the wall that goes forwards and back by years."""

    def __init__(self) -> None:
        self.chance = random.Random(0)

    def __call__(self) -> float:
        return 1.8e9 + self.chance.uniform(-1e9, 1e9)


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> Jumping:
    clock = Jumping()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


def test_training_does_not_depend_on_the_clock(plain: TrainConfig, jumping: Jumping, tmp_path: Path) -> None:
    run = train(replace(plain, runs=tmp_path))
    assert (run / "best.safetensors").read_bytes() == (folder_of(plain) / "best.safetensors").read_bytes()
    again = train(replace(plain, runs=tmp_path))  # nothing is left to do
    assert (again / "best.safetensors").read_bytes() == (run / "best.safetensors").read_bytes()


def test_a_progress_bar_does_not_depend_on_the_clock(jumping: Jumping, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(total=50, desc="x", disable=False, mininterval=0) as progress:
        for _ in range(50):
            progress.update()
        assert progress.n == 50
    assert "50/50" in capsys.readouterr().err


def test_rate_limits_do_not_depend_on_the_clock(jumping: Jumping) -> None:
    control, passed = AdmissionControl(ServeLimits(requests_per_minute=60)), 0
    for _ in range(500):
        with suppress(HTTPException), control.admit("192.0.2.1"):
            passed += 1
    assert 60 <= passed <= 70  # a moment's worth beyond the first


@pytest.mark.parametrize("when", [0, 2**31, 2**33])
def test_times_of_files_may_be_any(data_set: Path, tmp_path: Path, when: int) -> None:
    data = tmp_path / "d"
    shutil.copytree(data_set / "val", data / "val")
    for path in data.rglob("*"):
        os.utime(path, (when, when))
    made = prepare(data, tmp_path / "prepared")
    assert len(made.labels) == 32
    assert prepare(data, tmp_path / "prepared").folder == made.folder
    assert len(list((tmp_path / "prepared").glob("*/prepared.json"))) == 1


def test_new_weights_are_seen_though_the_clock_was_set_back(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    path = run / "best.safetensors"
    shutil.copy(trained_run / "best.safetensors", path)
    os.utime(path, (1e9, 1e9))
    live = LiveDetector("r", tmp_path / "runs", 0, device="cpu")
    before = live.detector().checkpoint.version
    data = path.read_bytes()
    new = data[:-4] + bytes(4)  # other weights, as many bytes, and the same time
    (run / "new").write_bytes(new)
    os.utime(run / "new", (1e9, 1e9))
    (run / "new").replace(path)
    assert live.detector().checkpoint.version != before


# Two processes


HOLD = "import sys, time; from pathlib import Path; from mai_app.core.files import locked, lock\n"


@pytest.fixture
def holding() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def hold(started: list[subprocess.Popen[str]], code: str, path: Path) -> None:
    """Let another process hold a folder's or a file's lock until the test ends."""
    words = [sys.executable, "-c", f"{HOLD}{code}\n    print('held', flush=True); time.sleep(600)", str(path)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout
    assert process.stdout.readline() == "held\n"


FOLDER = "with locked(Path(sys.argv[1]), wait=False):"
FILE = "with open(sys.argv[1], 'ab') as stream:\n    lock(stream, wait=False)"


def test_a_run_that_is_trained_is_not_calibrated(
    trained_run: Path, data_set: Path, tmp_path: Path, holding: list[subprocess.Popen[str]]
) -> None:
    run = tmp_path / "r"
    shutil.copytree(trained_run, run)
    hold(holding, FOLDER, run)
    with pytest.raises(CheckpointError, match="is being trained at this moment; calibrate it once that is done"):
        calibrate_checkpoint(CalibrateConfig(data=data_set, model=str(run), device="cpu"))
    assert not (run / "calibration").exists()


def test_two_processes_do_not_score_into_one_file(
    trained_run: Path, data_set: Path, tmp_path: Path, holding: list[subprocess.Popen[str]]
) -> None:
    run = tmp_path / "r"
    shutil.copytree(trained_run, run)
    (run / "report-val").mkdir()
    hold(holding, FILE, run / "report-val" / "scores.jsonl")
    words = ("evaluate", "--data", data_set, "--split", "val", "--model", run, "--device", "cpu")
    assert "scores.jsonl: another process writes it at this moment" in refusal(mai(*words, cwd=tmp_path))


def test_two_processes_do_not_scan_into_one_file(
    data_set: Path, tmp_path: Path, holding: list[subprocess.Popen[str]]
) -> None:
    hold(holding, FILE, tmp_path / "scan.jsonl")
    words = ("scan", data_set / "val", "--model", "traces", "--device", "cpu", "--out", "scan.jsonl")
    assert "scan.jsonl: another scan writes it at this moment" in refusal(mai(*words, cwd=tmp_path))
    assert (tmp_path / "scan.jsonl").stat().st_size == 0


def test_two_processes_prepare_one_folder_one_after_the_other(data_set: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mai_app", "audit", str(data_set)]
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(words, cwd=tmp_path, env=environment, **how) for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(list((tmp_path / "prepared").glob("*/prepared.json"))) == 1


def test_two_processes_do_not_prepare_one_set(
    data_set: Path, tmp_path: Path, holding: list[subprocess.Popen[str]]
) -> None:
    hold(holding, FOLDER, tmp_path / "prepared" / "s")
    words = ("prepare", "--source", data_set, "--name", "s")
    said = refusal(mai(*words, cwd=tmp_path))
    assert "prepared/s: another process prepares it at this moment; choose another --name" in said
