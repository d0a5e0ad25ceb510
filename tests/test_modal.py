"""MAI on Modal, with the real client against a simulator beside the checkout; `make check-shared` runs it."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import safetensors.torch
from PIL import Image

from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import Run, write_data_set
from tests.hub import Hub, add_six
from tests.modal import ROOT, SIMULATOR, on_modal, summary

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not SIMULATOR.exists(), reason="no simulator of Modal here")]

TRAIN = (
    "python local_entry.py train --name r --recipe baseline --degrade --epochs 6 --batch-size 8 --learning-rate 3e-4 "
    "--save-minutes 0 --on modal"
)
# Parts of the time between an undisturbed attempt's first save and its end; MAI_MOMENTS=5 tries five, not one.
MOMENTS = (0.1, 0.3, 0.5, 0.7, 0.95) if os.environ.get("MAI_MOMENTS") == "5" else (0.5,)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose Volume holds a prepared set and a run that was trained without disturbance; for copying only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = write_data_set(folder / "tiny", train=16, val=8, test=8)
    done = on_modal(f"{TRAIN} --data {data}", folder)
    assert done.returncode == 0, done.stderr
    return folder


def weights(folder: Path) -> bytes:
    found = list((folder / "state").rglob("runs/r/best.safetensors"))
    assert len(found) == 1
    return found[0].read_bytes()


def without_run(volume: Path, folder: Path) -> None:
    """Copy a Volume, but for its run."""
    copytree(volume / "state", folder / "state")
    for run in (folder / "state").rglob("runs/r"):
        for path in run.iterdir():
            path.unlink()


def without_caller(folder: Path) -> str:
    """A script that starts the training, is killed once nothing depends on it, and waits for the run's end."""
    said = folder / "said"
    return f"""
        {TRAIN} --data tiny --detach 2> {said} & client=$!
        for i in $(seq 900); do grep -q 'all that it needs is there' {said} && break; sleep 0.1; done
        sleep 0.5; kill -9 $client; wait $client
        for i in $(seq 150); do
            [ "$(find {folder}/state -path '*/runs/r/metrics.jsonl' -exec cat {{}} + | wc -l)" -ge 6 ] && break; sleep 1
        done
        sleep 2
    """


@pytest.mark.parametrize("caller", ["stays", "goes"])
@pytest.mark.parametrize("fault", ["preempt", "kill", "timeout"])
def test_whatever_stops_a_training_it_ends_with_the_same_weights(
    volume: Path, tmp_path: Path, fault: str, caller: str
) -> None:
    reference = weights(volume)
    found = summary(volume)
    attempt = next(row for row in found["executions"] if row["function"] == "train")
    commits = (event for event in found["events"] if event["event"] == "volume.commit")
    saved = next(event["t"] for event in commits if any("runs/r/" in path for path in event["changed"]))
    start, end = saved - attempt["started"], attempt["seconds"]
    moments = {start + part * (end - start) for part in MOMENTS}

    def disturbed(seconds: float) -> list[str]:
        folder = tmp_path / str(seconds)
        without_run(volume, folder)
        script = without_caller(folder) if caller == "goes" else f"{TRAIN} --data tiny"
        done = on_modal(script, folder, f"--{fault}", f"train@{seconds:g}")
        assert done.returncode == 0, done.stderr
        assert weights(folder) == reference, done.stderr
        return [row["status"] for row in summary(folder)["executions"] if row["function"] == "train"]

    if fault == "timeout":  # in whole seconds, and of each of the five attempts: all together they must suffice
        moments = {float(math.ceil(max(seconds, start + 0.4 * (end - start)))) for seconds in moments}
    with ThreadPoolExecutor(2) as pool:
        attempts = list(pool.map(disturbed, sorted(moments)))
    assert all("success" in one for one in attempts)
    # On a machine whose speed changes, one of them may come too late.
    assert sum(len(one) > 1 for one in attempts) >= max(1, len(attempts) - 1), attempts


def test_an_interrupted_leader_starts_no_second_training(volume: Path, tmp_path: Path) -> None:
    without_run(volume, tmp_path)
    done = on_modal(without_caller(tmp_path), tmp_path, "--kill", "lead@9")
    assert weights(tmp_path) == weights(volume), done.stderr
    rows = summary(tmp_path)["executions"]
    assert sum(row["function"] == "lead" for row in rows) >= 2
    assert sum(row["function"] == "train" for row in rows) == 1


def test_a_folder_is_sent_and_decoded_once_and_a_changed_one_is_another(volume: Path, tmp_path: Path) -> None:
    copytree(volume / "state", tmp_path / "state")
    data = copytree(volume / "tiny", tmp_path / "elsewhere" / "tiny")
    train = f"python local_entry.py train --data {data} --recipe baseline --epochs 1 --batch-size 8 --on modal"
    picture = next((data / "train" / "synthetic").rglob("*.png"))
    done = on_modal(f"{train} --name again && rm {picture} && {train} --name changed", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{data} is on the Volume already, as data/tiny@" in done.stderr
    assert done.stderr.count("uploading ") == 1
    assert "again: train: 16 authentic, 16 synthetic" in done.stderr
    assert "changed: train: 16 authentic, 15 synthetic" in done.stderr
    names = {path.name for path in (tmp_path / "state").rglob("prepared/*") if path.is_dir()}
    assert len(names) == 2
    kept = {path.name for path in (volume / "state").rglob("prepared/*") if path.is_dir()}
    assert kept < names


def test_nothing_but_the_image_is_used_and_settings_are_what_was_meant(volume: Path) -> None:
    found = summary(volume)
    # A file has one block of imports for each image, and on this machine each of them succeeds.
    assert [check for check in found["checks"] if check["check"] != "not in image"] == []
    functions = {one["tag"]: one for one in found["functions"]}
    train = functions["train"]
    assert [train["gpu"], *train["gpu_fallbacks"]] == ["L4:1", "A10:1", "T4:1"]
    assert train["timeout"] == 24 * 3600
    assert train["single_use_containers"]
    assert train["retries"]["retries"] == 4
    for name, one in functions.items():
        assert one["gpu"] is None or one["timeout"] > 3600, name
        if name.startswith(("Judge", "Scanner", "draw_", "list_")):
            assert all(mount["read_only"] for mount in one["volumes"]), name
    assert functions["Judge.*"]["snapshot"]
    assert functions["Judge.*"]["batch"] == {"max_size": 32, "wait_ms": 50}


def test_another_gpu_and_a_caller_without_torch(volume: Path, tmp_path: Path) -> None:
    copytree(volume / "state", tmp_path / "state")
    # Only the caller's Python finds these; containers have an environment of their own.
    for name in ("torch", "torchvision"):
        (tmp_path / "without" / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / "without" / f"{name}.py").write_text("raise ImportError('not on this machine')")
    without = str(tmp_path / "without")
    done = on_modal(f"{TRAIN} --data tiny --detach", tmp_path, MAI_GPU="H100:2", PYTHONPATH=without)
    assert done.returncode == 0, done.stderr
    assert "all epochs (6) are done" in done.stderr
    assert "train: hires 1 container (H100:2, 8 cores, 16 GiB), 24 h at most an attempt, 5 attempts" in done.stderr
    assert done.stdout.startswith("done: run r on the Volume; kept: epoch ")
    assert next(one["gpu"] for one in summary(tmp_path)["functions"] if one["tag"] == "train") == "H100:2"


def test_modal_run_with_no_arguments_trains_on_the_volume(tmp_path: Path) -> None:
    done = on_modal(
        "modal run modal_app.py --epochs 1 && modal volume ls mai runs/simulated-demo-baseline-resize", tmp_path
    )
    assert done.returncode == 0, done.stderr
    left = [event["reason"] for event in summary(tmp_path)["events"] if event["event"] == "app.disconnect"]
    assert left == ["APP_DISCONNECT_REASON_ENTRYPOINT_COMPLETED"]  # an exit with 0 would be a local exception
    assert "done: run simulated-demo-baseline-resize on the Volume" in done.stdout
    assert "runs/simulated-demo-baseline-resize/best.safetensors" in done.stdout


def test_the_hub_sets_are_prepared_on_the_volume_as_here(tmp_path: Path, mai: Run) -> None:
    words = "prepare --source posters --source diffusiondb --parts 2 --name two"
    with Hub() as hub:
        add_six(hub, images=12)
        there = on_modal(
            f"python local_entry.py {words} --on modal",
            tmp_path,
            "--kill",
            "prepare_unit@1",
            HF_ENDPOINT=hub.url,
            NO_PROXY="127.0.0.1,localhost",
        )
        here = subprocess.run(
            [sys.executable, "-m", "mai_app", *words.split()],
            cwd=tmp_path,
            env=hub.environment(tmp_path / "hf", PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert there.returncode == here.returncode == 0, there.stderr
    assert there.stdout.splitlines()[:-1] == here.stdout.splitlines()[:-1]
    assert "what is free there is not known here" in there.stderr
    units = [row["container"] for row in summary(tmp_path)["executions"] if row["function"] == "prepare_unit"]
    assert len(set(units)) >= 2
    home = on_modal(f"modal volume get mai prepared/two/manifest.csv {tmp_path}/", tmp_path)
    assert home.returncode == 0, home.stderr
    assert (tmp_path / "manifest.csv").read_bytes() == (tmp_path / "prepared" / "two" / "manifest.csv").read_bytes()


def test_one_command_line_two_places(volume: Path, tmp_path: Path, mai: Run) -> None:
    copytree(volume / "state", tmp_path / "state")
    (tmp_path / "broken.jpg").write_text("no picture")
    files = f"{volume}/tiny/test/synthetic {tmp_path}/broken.jpg {tmp_path}/missing.png"
    out = tmp_path / "report"
    fixed = "--vary recipe=baseline --vary epochs=1 --vary batch-size=8"
    sweep = f"sweep {fixed} --vary learning-rate=1e-3,3e-4 --seeds 1 --device cpu"
    there = on_modal(
        f"modal volume get mai runs/r/best.safetensors {tmp_path}/ >&2;"
        f"python local_entry.py predict {files} --model r --format csv --on modal > {tmp_path}/predict; echo $? >&2;"
        f"python local_entry.py evaluate --data tiny --model r --out {out} --on modal > {tmp_path}/evaluate;"
        f"python local_entry.py {sweep} --data tiny --on modal > {tmp_path}/sweep;",
        tmp_path,
    )
    assert there.returncode == 0, there.stderr
    here = mai("predict", *files.split(), "--model", tmp_path / "best.safetensors", "--format", "csv")
    assert (tmp_path / "predict").read_text() == here.stdout
    assert here.returncode == 1
    assert "2 of 10 files have no score" in there.stderr

    judged = mai("evaluate", "--data", volume / "tiny", "--model", tmp_path / "best.safetensors", "--out", out)
    assert judged.returncode == 0, judged.stderr
    *lines, card = (tmp_path / "evaluate").read_text().splitlines()
    assert lines[1:] == judged.stdout.splitlines()[1:]
    assert card == f"card: {out / 'MODEL_CARD.md'}"
    assert load_checkpoint(tmp_path / "best.safetensors").version in (out / "MODEL_CARD.md").read_text()
    assert "<html" in (out / "report.html").read_text()

    swept = mai(*sweep.split(), "--data", volume / "tiny")
    assert swept.returncode == 0, swept.stderr
    table, _, results = swept.stdout.partition("results: ")
    assert (
        tmp_path / "sweep"
    ).read_text() == f"{table}results: {results.strip()}; the runs are on the Volume, in runs/\n"


def test_twins_and_calibration_on_the_volume(volume: Path, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "more", train=8, val=24, test=1)
    copytree(volume / "state", tmp_path / "state")
    script = f"""
        python local_entry.py twins --data {data} --out more-twins --autoencoder nearest --steps 2 --on modal
        python local_entry.py calibrate --data more --model r --on modal
        modal volume ls mai data/more-twins/train/synthetic/twins
    """
    done = on_modal(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "more-twins: 32 twins" in done.stdout
    assert "24 authentic images and 24 synthetic images, in four tiers" in done.stdout
    assert "calibrated: run r on the Volume" in done.stdout
    assert done.stdout.count("train/synthetic/twins/source") == 3
    assert "twins: hires 1 container (L4 or A10 or T4" in done.stderr
    assert weights(tmp_path) != weights(volume)  # the calibration stands in the checkpoint


def test_hosted_for_python_and_http_and_new_weights_go_live(volume: Path, tmp_path: Path, mai: Run) -> None:
    copytree(volume / "state", tmp_path / "state")
    picture = next((volume / "tiny" / "test" / "synthetic").rglob("*.png"))
    checkpoint = load_checkpoint(next((volume / "state").rglob("runs/r/best.safetensors")))
    new = tmp_path / "new"
    save_checkpoint(new / "best.safetensors", checkpoint.network, replace(checkpoint.info, epoch=99))
    version = load_checkpoint(new / "best.safetensors").version
    code = (
        "import sys, modal, modal_client; file = ('p', open(sys.argv[1], 'rb').read());"
        "rows = [modal_client.hosted_judge('r').remote(file)];"
        "rows += modal.Function.from_name('mai', 'predict').remote([file], 'r');"
        "print(*[row['version'] for row in rows])"
    )
    key = '-H "Modal-Key: $MODAL_SIM_PROXY_KEY" -H "Modal-Secret: $MODAL_SIM_PROXY_SECRET"'
    script = f"""
        modal deploy modal_app.py > {tmp_path}/deploy 2>&1
        url=$(grep -o 'http://127.0.0.1:[0-9]* 🔑' {tmp_path}/deploy | cut -d' ' -f1)
        page=$(grep -o 'http://127.0.0.1:[0-9]* (unauth' {tmp_path}/deploy | cut -d' ' -f1)
        python -c "{code}" {picture}
        curl -s -o /dev/null -w '%{{http_code}}\\n' -F a=@{picture} $url/v1/predict
        curl -s {key} -F a=@{picture} -F b=@README.md $url/v1/predict?model=r; echo
        curl -s -o /dev/null -w '%{{http_code}}\\n' {key} -F a=@{picture} $url/v1/predict?model=nowhere
        curl -s {key} -F a=@{picture} -o {tmp_path}/map.png -w '%{{content_type}}\n' $url/v1/heatmap?model=r
        curl -s {key} $url/v1/models; echo
        curl -s $page/ | grep -c '<html'
        modal volume put mai {new}/best.safetensors runs/r/best.safetensors --force >&2
        sleep 2
        python -c "{code}" {picture}
        python local_entry.py predict {picture} --on hosted --model r --format jsonl
    """
    done = on_modal(script, tmp_path, MAI_LIVE_SECONDS="1", MAI_OPEN_PAGE="1")
    lines = done.stdout.splitlines()
    assert len(lines) == 9, done.stdout + done.stderr
    before = checkpoint.version
    assert lines[0] == f"{before} {before}"
    assert lines[1] == "401"
    rows = json.loads(lines[2])["predictions"]
    assert [row["version"] for row in rows] == [before, before]
    assert rows[0]["error"] is None
    assert "is no JPEG" in rows[1]["error"]
    here = mai("predict", picture, "--model", checkpoint.path, "--evidence", "--format", "json")
    assert rows[0] == json.loads(here.stdout)[0] | {"path": rows[0]["path"]}
    assert lines[3] == "422"
    assert lines[4] == "image/png"
    with Image.open(tmp_path / "map.png") as heatmap:
        assert heatmap.size == (220, 210)
    models = {facts["name"]: facts["version"] for facts in json.loads(lines[5])["models"]}
    assert models["r"] == before
    assert {"r", "traces"} <= set(models)
    assert lines[6] == "1"
    assert lines[7] == f"{version} {version}"
    assert json.loads(lines[8])["p_synthetic"] == rows[0]["p_synthetic"]


def test_a_scan_of_two_thousand_files_goes_on_where_it_was_stopped(volume: Path, tmp_path: Path) -> None:
    copytree(volume / "state", tmp_path / "state")
    pictures = sorted((volume / "tiny").rglob("*.png"))
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(1990):
        os.link(pictures[i % len(pictures)], folder / f"{i:04}.png")
    for i in range(10):
        (folder / f"broken{i}.jpg").write_text("no picture")
    out = tmp_path / "scan.jsonl"
    scan = f"modal run modal_app.py::app.scan --path {folder} --out {out} --model r"
    script = f"""
        {scan} >&2 & client=$!
        for i in $(seq 600); do [ -s {out} ] && break; sleep 0.1; done
        kill -9 $client; wait $client
        wc -l < {out}
        {scan}
        modal run modal_app.py::app.scan --path tiny --out {tmp_path}/there.jsonl --model r
    """
    done = on_modal(script, tmp_path, "--kill", "Scanner.*@1")
    first = int(done.stdout.splitlines()[0])
    assert 0 < first < 2000, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == len({row["path"] for row in rows}) == 2000
    assert sum(row["error"] is not None for row in rows) == 10
    assert "2000 files: " in done.stdout
    assert "10 not judged" in done.stdout
    there = [json.loads(line)["path"] for line in (tmp_path / "there.jsonl").read_text().splitlines()]
    upload = there[0].partition("/")[0]
    assert upload.startswith("tiny@")
    assert sorted(there) == sorted(f"{upload}/tiny/{path.relative_to(volume / 'tiny')}" for path in pictures)


def test_what_goes_wrong_there_is_one_line_here(volume: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(next((volume / "state").rglob("runs/r/best.safetensors")))
    tensors = safetensors.torch.load_file(checkpoint.path)
    document = json.dumps({"format_version": 9, "mai_version": "9.0"})
    safetensors.torch.save_file(tensors, tmp_path / "newer.safetensors", metadata={"mai": document})
    picture = next((volume / "tiny").rglob("*.png"))
    commands = {
        "train --data nowhere --on modal": "nowhere",
        f"predict {picture} --model lion --on modal": "model 'lion' not found",
        f"scan {picture} --out {tmp_path}/s.jsonl --model lion --on modal": "model 'lion' not found",
        f"predict {picture} --on hosted": "modal deploy",
        "sweep --data nowhere --on modal": "nowhere",
    }
    script = "".join(f"python local_entry.py {words} >&2; echo $?;" for words in commands)
    script += f"modal volume put mai {tmp_path}/newer.safetensors runs/n/best.safetensors >/dev/null 2>&1;"
    script += f"python local_entry.py predict {picture} --on modal >&2; echo $?"
    done = on_modal(script, tmp_path)
    assert done.stdout.split() == ["2"] * 6, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("mai: ")]
    for line, words in zip(said, [*commands.values(), "written by a newer MAI (9.0, format 9"], strict=True):
        assert words in line
    assert "Traceback" not in done.stderr
