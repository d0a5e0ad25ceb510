"""What needs the development images or the simulator of Modal beside the checkout; `make check-shared` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mai_app.config import TIERS
from mai_app.data.prepare import prepare
from tests.conftest import Run, write_data_set
from tests.hub import Hub, add_six

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
SIMULATOR = SHARED / "modal-sim" / "modal-sim"

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not DATA.is_dir(), reason="no development images here")]


def on_modal(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script whose `modal` and `python` talk to the simulator; its state lies in the folder."""
    return subprocess.run(
        [str(SIMULATOR), "--state", str(folder / "state"), "--quiet", "--limit", "560", "--", "bash", "-c", script],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_development_image_decodes_and_trains(tmp_path: Path, mai: Run) -> None:
    prepared = prepare(DATA, tmp_path / "prepared")
    assert len(prepared) == 2208
    # The published split has 22 near duplicates across its sides, by the hash that MAI takes.
    assert prepared.facts["left_out"] == 22
    assert (prepared.folder / "refused.jsonl").read_text() == ""
    # Once more through the command line, which finds the set prepared; one epoch, and the figures of val.
    trained = mai("train", "--data", DATA, "--epochs", "1", "--device", "cpu")
    assert trained.returncode == 0, trained.stderr
    judged = mai("evaluate", "--data", DATA, "--split", "val", "--out", "report")
    assert judged.returncode == 0, judged.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["authentic"], report["synthetic"]) == (103, 99)
    assert list(report["tiers"]) == list(TIERS)
    # The files alone tell these classes apart: the trap that MAI reports beside every figure.
    assert report["tiers"]["clean"]["format_only_auroc"]["value"] > 0.7


def test_modal_run_with_no_arguments_trains_on_the_volume(tmp_path: Path) -> None:
    done = on_modal("modal run modal_app.py && modal volume ls mai runs/simulated-demo-baseline-resize", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "done: run simulated-demo-baseline-resize on the Volume" in done.stdout
    assert "runs/simulated-demo-baseline-resize/best.safetensors" in done.stdout


def test_the_hub_sets_are_prepared_on_the_volume_as_here(tmp_path: Path, mai: Run) -> None:
    words = "prepare --source posters --source diffusiondb --parts 2 --name two"
    with Hub() as hub:
        add_six(hub, images=12)
        script = f"HF_ENDPOINT={hub.url} NO_PROXY=127.0.0.1,localhost python local_entry.py {words} --on modal"
        there = on_modal(script, tmp_path)
        environment = hub.environment(tmp_path / "hf", PYTHONPATH=str(ROOT))
        here = subprocess.run(
            [sys.executable, "-m", "mai_app", *words.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert there.returncode == here.returncode == 0, there.stderr
    assert there.stdout.splitlines()[:-1] == here.stdout.splitlines()[:-1]
    home = on_modal(f"modal volume get mai prepared/two/manifest.csv {tmp_path}/", tmp_path)
    assert home.returncode == 0, home.stderr
    assert (tmp_path / "manifest.csv").read_bytes() == (tmp_path / "prepared" / "two" / "manifest.csv").read_bytes()
    trained = on_modal(
        "python local_entry.py train --data two --name two --epochs 1 --batch-size 8 --on modal", tmp_path
    )
    assert "done: run two on the Volume" in trained.stdout, trained.stderr


def test_one_command_line_two_places(tmp_path: Path, mai: Run) -> None:
    data = write_data_set(tmp_path / "pictures")
    words = f"--data {data} --name small --epochs 2 --batch-size 16 --learning-rate 3e-4 --precision float32"
    done = on_modal(f"python local_entry.py train {words} --on modal", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "done: run small on the Volume, epoch 2" in done.stdout
    home = on_modal(f"modal volume get mai runs/small/best.safetensors {tmp_path}/", tmp_path)
    assert home.returncode == 0, home.stderr

    (tmp_path / "broken.jpg").write_text("no picture")
    files = f"{data}/test/synthetic {tmp_path}/broken.jpg {tmp_path}/missing.png"
    there = on_modal(f"python local_entry.py predict {files} --model small --csv --on modal", tmp_path)
    here = mai("predict", *files.split(), "--model", tmp_path / "best.safetensors", "--csv")
    assert there.stdout == here.stdout
    assert there.returncode == here.returncode == 1
    assert "2 of 18 files could not be judged" in there.stderr

    judged = on_modal(f"python local_entry.py evaluate --data {data} --model small --on modal", tmp_path)
    assert judged.returncode == 0, judged.stderr
    assert judged.stdout.startswith("baseline ")

    for command in ("train --data nowhere", "predict x.jpg --model nowhere"):
        refused = on_modal(f"python local_entry.py {command} --on modal", tmp_path)
        assert refused.returncode == 2
        assert "mai: on Modal: " in refused.stderr
        assert "Traceback" not in refused.stderr
