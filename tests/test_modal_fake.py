"""modal_app.py and modal_client.py against an in-process fake of Modal: every command, its results and its settings."""

import contextlib
import importlib.metadata
import inspect
import io
import json
import os
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import copytree
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from huggingface_hub import constants as hub_constants
from modal.exception import FunctionTimeoutError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.testclient import TestClient

from mai_app import cli
from mai_app.config import RUNS, SHIPPED
from mai_app.models.registry import shipped_models
from mai_app.remote.packages import EXPORT, TESTS, THERE, TORCH, WEB, Needs, locked
from tests import fake_modal
from tests.conftest import write_data_set
from tests.data.test_hub import point_at
from tests.data.test_prepare_hub import archive
from tests.fake_modal import Function, World, crossing
from tests.hub import Hub, add_six

ROOT = Path(__file__).parents[1]
STAYS_HERE = {"data", "runs", "prepared", "on", "detach", "budget"}
"""Settings that mean something on the caller's machine only."""
TAKES = ("train", "train_strong", "evaluate", "draw_heatmap")
"""Functions that a model of the Hub can be named for, beside the classes."""
TRAIN = "--recipe baseline --epochs 1 --batch-size 8 --device cpu"  # of the networks the quickest to predict with


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Cloud:
    """The fake, both modules as imported with it, and a data set on this machine that is on the Volume, too."""

    world: World
    app: ModuleType
    client: ModuleType
    data: Path

    def mai(self, words: str) -> Done:
        """Run a command line in this process."""
        return run(lambda: cli.main(words.split()))

    def run(self, entrypoint: str, *args: Any) -> Done:
        """What `modal run modal_app.py` does with an entrypoint, in this process."""
        with self.app.app.run():
            return run(lambda: self.world.entrypoints[entrypoint](*args))

    def called(self, since: int = 0) -> list[str]:
        """Names of the remote functions that were called, without repetitions in a row."""
        names = [name for name, _ in self.world.calls[since:]]
        return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def run(work: Callable[[], Any]) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = work()
        except SystemExit as stop:
            code = stop.code
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def fake_cloud(folder: Path, **environment: str) -> Iterator[tuple[World, ModuleType, ModuleType]]:
    """Both modules, imported anew with a fake Modal whose Volume is a folder below this one."""
    world = World(folder / "volume")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAI_GPU", "MAI_OPEN_PAGE", "MAI_LIVE_SECONDS", "HF_TOKEN", "HF_ENDPOINT"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.syspath_prepend(ROOT)
        patch.setitem(sys.modules, "modal", world.module())
        for name in ("modal_client", "modal_app"):
            # Set first, so that in the end it is gone again.
            patch.setitem(sys.modules, name, ModuleType(name))
            del sys.modules[name]
        import modal_app  # noqa: PLC0415
        import modal_client  # noqa: PLC0415

        mount = PurePosixPath(world.folder)
        patch.setenv("MAI_IGNORE_FILE_TIMES", "1")  # as the images have it
        patch.setattr(modal_app, "VOLUME", mount)
        for name in ("data", "prepared", "runs"):
            patch.setattr(modal_app, name.upper(), mount / name)
        yield world, modal_app, modal_client


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud on whose Volume a folder was brought and a run "r" trained, by one command."""
    folder = tmp_path_factory.mktemp("cloud")
    data = write_data_set(folder / "tiny", train=8, val=20, test=4)
    with fake_cloud(folder) as (world, app, client):
        cloud = Cloud(world, app, client, data)
        done = cloud.mai(f"train --data {data} --name r {TRAIN} --on modal --detach")
        assert done.code == 0, done.err
        assert done.out.startswith("done: run r on the Volume; kept: epoch 1 of 1, val loss ")
        yield cloud


def test_a_folder_is_brought_decoded_and_trained_to_the_weights_of_this_machine(cloud: Cloud, tmp_path: Path) -> None:
    assert cloud.called()[:3] == ["lead", "prepare_folder", "train"]
    assert cloud.world.runs[0] == {"detach": True}
    assert cloud.world.commits["prepare_folder"] == 1
    assert cloud.world.commits["train"] >= 2  # at each save, and in the end
    (_, (_, upload, *_)), _, (_, (data, settings)) = cloud.world.calls[:3]
    assert upload == next(cloud.world.path("data").iterdir()).name
    assert upload.startswith("tiny@")
    assert data == next(cloud.world.path("prepared").iterdir()).name  # not the folder, which it would look through
    assert settings["name"] == "r"
    assert settings["recipe"] == settings["model"] == "baseline"
    assert not set(settings) & STAYS_HERE
    here = cloud.mai(f"train --data {cloud.data} --name r {TRAIN} --runs {tmp_path} --prepared {tmp_path}/p")
    assert here.code == 0, here.err
    there = cloud.world.path("runs/r/best.safetensors")
    assert there.read_bytes() == (tmp_path / "r" / "best.safetensors").read_bytes()
    # What is there and what it costs is said before; the caller's own folders stay empty.
    assert not RUNS.exists()


def test_a_folder_is_sent_and_decoded_once_and_a_changed_one_is_another(cloud: Cloud, tmp_path: Path) -> None:
    photos = copytree(cloud.data, tmp_path / "photos")

    def prepared_by(words: str) -> str:
        since = len(cloud.world.calls)
        done = cloud.mai(f"train --data {photos} {TRAIN} --on modal {words}")
        assert done.code == 0, done.err
        return str(next(args[0] for name, args in cloud.world.calls[since:] if name == "train"))

    first = prepared_by("--name once")
    before = len(cloud.world.sent), len(list(cloud.world.path("prepared").iterdir()))
    for path in photos.rglob("*"):
        os.utime(path, (1, 1))
    assert prepared_by("--name twice") == first
    assert (len(cloud.world.sent), len(list(cloud.world.path("prepared").iterdir()))) == before

    # A file deleted here is not there; what was trained before keeps its data, and is not trained on the other.
    next((photos / "train" / "synthetic").rglob("*.png")).unlink()
    again = cloud.mai(f"train --data {photos} {TRAIN} --on modal --name once --epochs 2")
    assert again.code == 2
    assert "was started on other data" in again.err
    assert prepared_by("--name changed") != first

    # Another folder of the same name, elsewhere on this machine.
    other = tmp_path / "elsewhere" / "photos"
    write_data_set(other, train=4, val=4, test=1)
    done = cloud.mai(f"train --data {other} {TRAIN} --on modal --name other")
    assert done.code == 0, done.err
    assert "train: 4 authentic, 4 synthetic" in done.err
    assert len(list(cloud.world.path("data").glob("photos@*"))) == 3


def test_what_is_outdated_there_is_removed_or_named(cloud: Cloud, tmp_path: Path) -> None:
    photos = write_data_set(tmp_path / "moods", train=4, val=4, test=1)
    for name in ("one", "two"):
        assert cloud.mai(f"train --data {photos} {TRAIN} --name {name} --on modal").code == 0
        next((photos / "test").rglob("*.png")).unlink()
    done = cloud.mai("prepare --clean --on modal")
    assert done.code == 0, done.err
    assert done.out.count("moods was uploaded anew since") == 1
    outdated = [path.name for path in cloud.world.path("data").glob("moods@*")]
    assert any(f"outdated: {name}; `modal volume rm -r mai data/{name}` removes it" in done.out for name in outdated)
    assert cloud.mai("prepare --clean --on modal").out.startswith("0.00 GB freed")


def test_an_interrupted_upload_is_not_trained_on(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_data_set(tmp_path / "halves", train=4, val=4, test=1)
    monkeypatch.setattr(cloud.client, "FILES_AT_ONCE", 4)
    put_file, sent = fake_modal.Volume.put_file, []

    def break_off(self: Any, here: Any, there: str) -> None:
        sent.append(there)
        if len(sent) == 10:
            raise ConnectionResetError("the line is dead")
        put_file(self, here, there)

    with monkeypatch.context() as patch:
        patch.setattr(fake_modal.Volume, "put_file", break_off)
        with pytest.raises(ConnectionResetError):
            cloud.mai(f"train --data {photos} {TRAIN} --name half --on modal")
    [upload] = [path.name for path in cloud.world.path("data").glob("halves@*")]
    done = cloud.mai(f"train --data {upload} {TRAIN} --name half --on modal")
    assert (done.code, "its upload was interrupted" in done.err) == (2, True)
    assert cloud.mai(f"train --data {photos} {TRAIN} --name whole --on modal").code == 0


def test_a_demo_beside_a_real_run_judges_nobodys_photographs(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = SimpleNamespace(scenes=24, seed=0, epochs=1, learning_rate=3e-4)
    for module in (cloud.app, cloud.client):
        monkeypatch.setattr(module, "DemoConfig", demo)
    monkeypatch.chdir(tmp_path)
    done = cloud.run("main", "", "", "demo-run")
    assert done.code is None, done.err
    picture = next(cloud.data.rglob("*.png"))
    newest = max(cloud.world.path("runs").glob("*/best.safetensors"), key=lambda path: path.stat().st_mtime)
    assert newest.parent.name == "demo-run"
    there = cloud.mai(f"predict {picture} --on modal")
    assert there.out.startswith("model: ")
    assert not there.out.startswith("model: demo-run,")
    assert cloud.mai(f"predict {picture} --model demo-run --on modal").out.startswith("model: demo-run, version ")


def test_a_run_that_another_command_trains_is_left_alone(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    other = fake_modal.FunctionCall(cloud.world, cloud.app.list_models, ())
    monkeypatch.setattr(other, "running", True)
    cloud.world.state["trains/busy"] = other.object_id
    words = f"train --data tiny {TRAIN} --name busy --on modal"
    done = cloud.mai(words)
    assert done.code == 2
    assert "mai: on Modal: busy: is being trained by another command" in done.err
    monkeypatch.setattr(other, "running", False)
    assert cloud.mai(words).code == 0


def test_a_training_that_never_comes_to_save_is_given_up(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where the container is killed for want of memory: it is started again, and again.
    def preempted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def killed(*_: object, **__: object) -> None:
        raise OSError("killed")

    settings = {"name": "large", "processes": 1, "workers": 0}
    monkeypatch.setattr(cloud.app, "train_model", preempted)
    with cloud.app.app.run():
        for _ in range(5):  # is no fault of the training
            with pytest.raises(KeyboardInterrupt):
                cloud.app.train._one("tiny", settings, call="fc-same")
    monkeypatch.setattr(cloud.app, "train_model", killed)
    with cloud.app.app.run():
        for _ in range(3):
            with pytest.raises(OSError, match="killed"):
                cloud.app.train._one("tiny", settings, call="fc-same")
        given_up = cloud.app.train._one("tiny", settings, call="fc-same")
        assert "3 attempts ended before they saved anything" in given_up["mai_error"]
        with pytest.raises(OSError, match="killed"):  # the same command, by hand
            cloud.app.train._one("tiny", settings, call="fc-other")


def test_an_interrupted_leader_finds_what_it_had_started(cloud: Cloud) -> None:
    with cloud.app.app.run():
        settings = {"name": "r", "recipe": "baseline", "input": "resize", "folds": 0}
        started = len(cloud.world.spawned)

        def lead() -> dict[str, Any]:
            result: dict[str, Any] = cloud.app.lead._one("train", "tiny", settings, {}, call="fc-leader")
            return result

        first = lead()
        begun = len(cloud.world.spawned)
        assert begun == started + 2  # decoding and training
        assert lead() == first
        assert len(cloud.world.spawned) == begun


def test_what_this_machine_can_tell_is_told_before_anything_is_built(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    copytree(cloud.world.path("runs/r"), tmp_path / "runs" / "here")
    runs = len(cloud.world.runs)
    for words, said in {
        "train --data bad": "no image in a class folder",
        "sweep --data tiny --vary lion=3": "`mai train` has no such setting",
        "predict a.png --model runs/here": "`modal volume put mai runs/here runs/here` brings a run there",
        "serve": "mai serve runs on this machine only",
    }.items():
        done = cloud.mai(f"{words} --on modal")
        assert (done.code, said in done.err) == (2, True), done.err
    assert len(cloud.world.runs) == runs
    done = cloud.mai("evaluate --data tiny --model here --on modal")
    assert "runs/here is on this machine: `modal volume put mai runs/here runs/here`" in done.err


def test_what_a_budget_does_not_do_for_is_refused_before_anything_is_hired(cloud: Cloud, tmp_path: Path) -> None:
    few = write_data_set(tmp_path / "few", train=4, val=4, test=1)
    calls, sent = len(cloud.world.calls), len(cloud.world.sent)
    for words, said in {
        f"train --data {few} {TRAIN} --budget 2": "mai: --budget 2: $3.09 is the least, for 10 minutes of each attempt",
        f"train --data {few} {TRAIN} --budget 20 --epochs 40000000": "(assumed), and there are 5 attempts of ",
        f"train --data {few} {TRAIN} --budget -3": "mai: --budget -3: name an amount of dollars",
        f"train --data {few} {TRAIN} --budget nan": "mai: --budget nan: name an amount of dollars",
        f"sweep --data {few} --vary batch-size=8,16 --budget 8": "is the least",
        "prepare --source posters --budget 0.1": "is the least",
        "evaluate --data tiny --budget 1": "is the least",
        "calibrate --data tiny --budget 1": "is the least",
        f"twins --data {few} --out x --budget 1": "is the least",
    }.items():
        done = cloud.mai(f"{words} --on modal")
        assert (done.code, said in done.err) == (2, True), done.err
        assert len([line for line in done.err.splitlines() if line.startswith("mai: ")]) == 1
    assert (len(cloud.world.calls), len(cloud.world.sent)) == (calls, sent)
    assert cloud.mai(f"train --data {few} --budget 3").err == (
        "mai: --budget is for --on modal: work on this machine costs nothing\n"
    )


def test_a_budget_sets_the_time_limits_there(cloud: Cloud) -> None:
    cloud.world.options.clear()
    done = cloud.mai(f"train --data {cloud.data} {TRAIN} --on modal --name bounded --budget 20")
    assert done.code == 0, done.err
    assert "64 images × 1 epochs: " in done.err
    limits = {name: options["timeout"] for name, options in cloud.world.options.items()}
    seconds = limits["train"]
    # By hand: a decoder and an A10 with 8 cores and 16 GiB, each for five time limits, two starts of 15 minutes and an
    # idle minute; and a leader that waits for both, five times too, at three times the price.
    decoder, trainer = 4 * 0.0000131 + 4 * 0.00000222, 0.000306 + 8 * 0.0000131 + 16 * 0.00000222
    leader = 3 * (0.0000131 / 8 + 0.00000222)
    assert limits == {"prepare_folder": seconds, "train": seconds, "lead": 2 * (5 * seconds + 1860) + seconds}

    def cost(limit: int) -> float:
        waiting = 2 * (5 * limit + 1860) + limit
        return (decoder + trainer) * (5 * limit + 1860) + leader * (5 * waiting + 1860)

    assert cost(seconds) <= 20 < cost(seconds + 1)
    assert f"${cost(seconds):.2f} (list price, October 2026): within --budget 20" in done.err
    for words, functions in {
        "evaluate --data tiny --model bounded": {"prepare_folder", "evaluate", "lead"},
        "calibrate --data tiny --model bounded": {"prepare_folder", "calibrate", "lead"},
        "sweep --data tiny --name bound --vary epochs=1 --vary batch-size=8 --vary crop-size=32 --seeds 1": {
            "prepare_folder",
            "train",
            "run_sweep",
        },
    }.items():
        cloud.world.options.clear()
        done = cloud.mai(f"{words} --on modal --budget 30")
        assert done.code == 0, done.err
        # Each that was called has its limit; what was decoded before is not decoded again.
        assert set(cloud.world.options) | {"prepare_folder"} == functions
        assert all(600 <= options["timeout"] <= 24 * 3600 for options in cloud.world.options.values())


def test_an_attempt_that_begins_after_its_time_does_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    # Modal begins anew, with all of its time, what it has preempted.
    now = cloud.app.time.time()
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(cloud.app, "time", clock)
    settings = {"name": "bounded", "processes": 1, "workers": 0}
    trained: list[str] = []

    def preempted(*_: object, **__: object) -> None:
        trained.append("once more")
        raise KeyboardInterrupt

    monkeypatch.setattr(cloud.app, "train_model", preempted)
    cloud.world.state["limits/fc-late"] = {"begin": 2400, "end": 3000}  # as for five attempts of ten minutes
    with cloud.app.app.run():
        for seconds in (0, 600, 2399):
            clock.time = lambda seconds=seconds: now + seconds
            with pytest.raises(KeyboardInterrupt):
                cloud.app.train._one("tiny", settings, call="fc-late")
        clock.time = lambda: now + 2401
        late = cloud.app.train._one("tiny", settings, call="fc-late")
        assert late["mai_error"] == cloud.app.OVER
        assert len(trained) == 3

        # One that goes on ends at its next save, whatever has become of its time limit.
        def saving(*_: object, on_save: Callable[[], None]) -> None:
            trained.append("again")
            on_save()
            clock.time = lambda: now + 3001
            on_save()

        monkeypatch.setattr(cloud.app, "train_model", saving)
        clock.time = lambda: now + 2000
        assert cloud.app.train._one("tiny", settings, call="fc-late")["mai_error"] == cloud.app.OVER
    assert len(trained) == 4


def test_time_that_ran_out_is_said_in_one_line(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed_out(*_: object) -> None:
        raise FunctionTimeoutError("10 minutes")

    monkeypatch.setattr(cloud.app.calibrate, "raw", timed_out)
    done = cloud.mai("calibrate --data tiny --model r --on modal --budget 20")
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "mai: on Modal: calibrate: the time that --budget leaves is over; what is done is kept, and the same command "
        "carries on"
    )


def test_the_recipe_strong_is_trained_on_a_machine_of_its_own(cloud: Cloud) -> None:
    since = len(cloud.world.calls)
    tiny = "--model test_vit --start-from= --blocks 1,3 --view-size 64 --tune lora:2 --batch-size 8 --epochs 1"
    words = f"train --data {cloud.data} --recipe strong {tiny} --device cpu --name large --on modal --detach"
    done = cloud.mai(f"{words} --budget 30")
    assert done.code == 0, done.err
    machine = cloud.app.STRONG
    assert f"train_strong: hires 1 container (H100, {machine.cores} cores, {machine.gib} GiB), " in done.err
    assert "64 images × 1 epochs: " in done.err
    assert "at 300 to 100 images/s (assumed, not measured)" in done.err
    assert "within --budget 30" in done.err
    assert cloud.called(since) == ["lead", "prepare_folder", "train_strong"]
    # The prepared form has the size that its views need: half as large again.
    assert cloud.world.calls[since + 1][1][1] == 64
    settings = cloud.world.calls[since + 2][1][1]
    assert (settings["recipe"], settings["workers"]) == ("strong", -1)
    few = "--vary recipe=strong,traces --vary model=resnet18 --vary input=crop --vary epochs=1 --seeds 1"
    done = cloud.mai(f"sweep --data nowhere {few} --on modal")
    assert "train_strong: hires 1 container (H100, " in done.err
    assert "train: hires 1 container (L4 " in done.err


def test_linked_folders_of_a_data_set_are_brought_too(cloud: Cloud, tmp_path: Path) -> None:
    data = tmp_path / "linked"
    data.mkdir()
    (data / "train").symlink_to(cloud.data / "train", target_is_directory=True)
    name = cloud.client.upload_data(data)
    sent = sorted(path.name for path in cloud.world.path(f"data/{name}/linked/train").rglob("*.*"))
    assert sent == sorted(path.name for path in (cloud.data / "train").rglob("*.*"))


def test_modal_run_with_no_arguments_trains_the_demo_settings(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = SimpleNamespace(scenes=24, seed=0, epochs=1, learning_rate=3e-4)
    for module in (cloud.app, cloud.client):
        monkeypatch.setattr(module, "DemoConfig", demo)
    since = len(cloud.world.calls)
    done = cloud.run("main")
    assert done.code is None, done.err  # an exit with 0 would be reported as an exception
    assert done.out.startswith("done: run simulated-demo-baseline-resize on the Volume; kept: epoch 1 of 1, val loss ")
    assert "train: hires 1 container (L4 or A10 or T4, 8 cores, 16 GiB), 24 h" in done.err
    assert cloud.called(since) == ["make_demo_data", "lead", "prepare_folder", "train"]
    settings = cloud.world.calls[-1][1][1]
    assert (settings["recipe"], settings["optimizer"], settings["degrade"]) == ("baseline", "rmsprop", False)
    assert cloud.world.commits["make_demo_data"]


def test_modal_run_with_data_trains_a_recipe(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    answer = {
        "run": "tiny-x",
        "last_epoch": {"epoch": 7, "val_loss": 20.5},
        "best_epoch": {"epoch": 3, "val_loss": 0.5},
    }

    def train(*call: Any) -> dict[str, Any]:
        sent.append(call)
        return answer

    monkeypatch.setattr(cloud.app.train, "raw", train)
    assert cloud.run("main", "tiny", "baseline", "x", 7).out == (
        "done: run tiny-x on the Volume; kept: epoch 3 of 7, val loss 0.5000\n"
        "Next: mai evaluate --data tiny --model tiny-x --on modal; modal volume get mai runs/tiny-x runs/\n"
    )
    assert cloud.run("main", "tiny").code is None
    [upload] = [path.name for path in cloud.world.path("data").glob("tiny@*")]
    assert cloud.run("main", upload).code is None
    assert sent.pop()[1]["name"] == "tiny-traces-crop"
    wrong = cloud.run("main", "tiny", "lion")
    baseline, traces = (settings for _, settings in sent)
    assert (baseline["model"], baseline["name"], baseline["epochs"]) == ("baseline", "x", 7)
    assert (traces["model"], traces["name"], traces["epochs"]) == ("traces", "tiny-traces-crop", 24)
    assert wrong.code == 2
    assert "lion" in wrong.err


def test_predict_prints_what_it_prints_here(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no picture")
    weights = cloud.world.path("runs/r/best.safetensors")
    files = f"{cloud.data}/test/synthetic {tmp_path}/broken.jpg {tmp_path}/missing.png"
    for form in ("--format csv", "--format jsonl", "--format json --evidence", ""):
        there = cloud.mai(f"predict {files} {form} --model r --on modal")
        here = cloud.mai(f"predict {files} {form} --model {weights}")
        assert there.out == here.out
        assert there.out.count("synthetic") >= 4
        assert there.code == here.code == 1
        assert "mai: 2 of 6 files have no score" in there.err
        assert "predict: hires at most 10 containers (no GPU, 4 cores, 4 GiB), 10 min" in there.err


def test_an_unknown_model_is_said_once_however_many_files_there_are(cloud: Cloud, tmp_path: Path) -> None:
    picture = next(cloud.data.rglob("*.png"))
    for i in range(40):
        (tmp_path / f"{i:02}.png").symlink_to(picture)
    done = cloud.mai(f"predict {tmp_path} --model lion --on modal")
    assert (done.code, done.out.count(".png")) == (2, 0)
    said = [line for line in done.err.splitlines() if line.startswith("mai: ")]
    assert len(said) == 1
    assert said[0].startswith("mai: on Modal: model 'lion' not found")


def test_evaluate_brings_the_report_home(cloud: Cloud, tmp_path: Path) -> None:
    weights = cloud.world.path("runs/r/best.safetensors")
    words, commits = f"evaluate --out {tmp_path}/report", cloud.world.commits["evaluate"]
    there = cloud.mai(f"{words} --data tiny --model r --on modal")
    assert there.code == 0, there.err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<html" in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["authentic"] == 4
    here = cloud.mai(f"{words} --data {cloud.data} --model {weights} --prepared {tmp_path}/p")
    assert there.out.splitlines()[1:-1] == here.out.splitlines()[1:]
    assert there.out.endswith(f"\n\npage: {tmp_path}/report/report.html\ncard: {tmp_path}/report/MODEL_CARD.md\n")
    assert ": model card\n" in (tmp_path / "report" / "MODEL_CARD.md").read_text()
    assert cloud.world.commits["evaluate"] == commits + 1
    # Without --out it goes into the run's folder here, which has no weights.
    assert cloud.mai(f"evaluate --data tiny --model r --runs {tmp_path}/runs --on modal").code == 0
    assert (tmp_path / "runs" / "r" / "report-test" / "report.json").is_file()


def test_a_model_of_the_hub_is_fetched_by_the_containers(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, images = "--model hf:me/traces", cloud.data / "test"
    with Hub() as hub:
        hub.add("models/me/traces", "best.safetensors", shipped_models()["traces"])
        hub.private.add("models/me/traces")
        hub.patch(monkeypatch, tmp_path / "hf")
        monkeypatch.setenv("HF_TOKEN", hub.token)
        there, here = (cloud.mai(f"predict {images} {name} --format json {on}") for on in ("--on modal", ""))
        assert there.code == 0, there.err
        assert there.out == here.out
        assert cloud.mai(f"scan {images} --out {tmp_path}/rows.jsonl {name} --on modal").code == 0
        assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 8
        there = cloud.mai(f"evaluate --data tiny {name} --runs {tmp_path}/runs --on modal")
        assert there.code == 0, there.err
        assert (tmp_path / "runs" / "me--traces" / "report-test" / "report.html").is_file()
    for one in (*(cloud.world.classes[name] for name in ("Judge", "Scanner")), *map(cloud.world.functions.get, TAKES)):
        assert one is not None
        assert one.settings["secrets"] is cloud.app.hub
    runs = len(cloud.world.runs)
    for words, reason in (
        (
            f"calibrate --data tiny {name}",
            "hf:me/traces: a model of the Hub stays as it is; calibrate a run of the Vol",
        ),
        (f"predict {images} --model hf:traces", "hf:traces: is no name of a model on the Hub; write hf:owner/name"),
    ):
        done = cloud.mai(f"{words} --on modal")
        assert done.code == 2
        assert reason in done.err
    assert len(cloud.world.runs) == runs  # told before anything is built


def test_calibrate_and_twins_change_the_volume(cloud: Cloud, tmp_path: Path) -> None:
    before = cloud.world.path("runs/r/best.safetensors").read_bytes()
    cloud.mai(f"train --data tiny --name other {TRAIN} --on modal")
    commits = cloud.world.commits["calibrate"]
    done = cloud.mai("calibrate --data tiny --model other --on modal")
    assert done.code == 0, done.err
    assert "20 authentic images and 20 synthetic images, in four tiers" in done.out
    assert done.out.endswith("calibrated: run other on the Volume\n")
    assert cloud.world.path("runs/other/best.safetensors").read_bytes() != before
    assert cloud.world.path("runs/r/best.safetensors").read_bytes() == before

    data = write_data_set(tmp_path / "few", train=2, val=1, test=1)
    done = cloud.mai(f"twins --data {data} --out few-twins --autoencoder nearest --steps 1 --on modal")
    assert done.code == 0, done.err
    assert "few-twins: 3 twins" in done.out
    assert len(list(cloud.world.path("data/few-twins/train/synthetic/twins").rglob("*.png"))) == 2
    assert (cloud.world.commits["calibrate"], cloud.world.commits["twins"]) == (commits + 1, 1)


def test_a_sweep_shows_runs_that_finished_and_why_others_did_not(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = cloud.app.train.raw

    def failing(data: str, settings: dict[str, Any]) -> dict[str, Any]:
        if settings["seed"] == 2:
            raise ValueError("the machine burnt")
        error = {"mai_error": "no such weights", "kind": "CheckpointError", "reason": ""}
        return error if settings["seed"] else train(data, settings)

    monkeypatch.setattr(cloud.app.train, "raw", failing)
    monkeypatch.chdir(tmp_path)  # where no folder is called tiny
    since = len(cloud.world.calls)
    done = cloud.run("sweep", "tiny", "epochs=1; batch-size=8;crop-size=32; precision=float32", 3, "s")
    assert done.code == 1, done.err
    name = "s-epochs-1-batch-size-8-crop-size-32-precision-float32"
    assert f"{name}-seed1: no such weights" in done.out
    assert f"{name}-seed2: ValueError: the machine burnt" in done.out
    assert "1 of 3" in done.out
    assert done.out.endswith("results: runs/s/sweep.json; the runs are on the Volume, in runs/\n")
    assert "train: hires at most 3 containers" in done.err
    assert (tmp_path / "runs/s/sweep.json").read_bytes() == cloud.world.path("runs/s/sweep.json").read_bytes()
    assert cloud.called(since) == ["run_sweep", "prepare_folder", "train"]
    for called, (_, settings, *_) in cloud.world.calls[since:]:
        assert called == "prepare_folder" or not set(settings) & STAYS_HERE


def test_a_scan_of_files_here_and_there(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "many").mkdir()
    pictures = sorted(cloud.data.rglob("*.png"))
    for i in range(39):
        (tmp_path / "many" / f"{i:02}.png").symlink_to(pictures[i % len(pictures)])
    (tmp_path / "many" / "broken.jpg").write_text("no picture")
    out = tmp_path / "scan.jsonl"
    done = cloud.run("scan", str(tmp_path / "many"), str(out), "r")
    assert done.code == 1, done.err
    assert done.out.startswith("40 files: ")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({row["path"] for row in rows}) == len(rows) == 40
    assert sum(row["error"] is not None for row in rows) == 1
    # Again, with half of the rows: the others alone are sent.
    out.write_text("".join(line + "\n" for line in out.read_text().splitlines()[:30]))
    since = len(cloud.world.calls)
    assert cloud.mai(f"scan {tmp_path}/many --out {out} --model r --on modal").code == 1
    assert sum(len(chunk) for _, (chunk,) in cloud.world.calls[since:]) == 10
    assert len(out.read_text().splitlines()) == 40

    # A folder of the Volume that is not here: names are sent, and no file.
    monkeypatch.chdir(tmp_path)
    since = len(cloud.world.calls)
    there = cloud.mai(f"scan tiny --out {tmp_path}/there.jsonl --model r --on modal")
    assert there.code == 0, there.err
    chunks = [chunk for name, (chunk, *_) in cloud.world.calls[since:] if name.startswith("Scanner")]
    assert chunks
    assert all(isinstance(item, str) for chunk in chunks for item in chunk)
    paths = [json.loads(line)["path"] for line in (tmp_path / "there.jsonl").read_text().splitlines()]
    [upload] = [path.name for path in cloud.world.path("data").glob("tiny@*")]
    assert sorted(paths) == sorted(f"{upload}/tiny/{path.relative_to(cloud.data)}" for path in pictures)


def test_prepare_makes_a_set_a_container_a_file(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as hub:
        add_six(hub, images=6)
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        # What the Hub's client read from the environment when it was imported.
        template = hub_constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub_constants.ENDPOINT, hub.url)
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
        since = len(cloud.world.calls)
        words = "prepare --source posters --source diffusiondb --parts 2 --name two --retry-seconds 0.01"
        there = cloud.mai(f"{words} --on modal")
        here = cloud.mai(f"{words} --prepared {tmp_path}")
        assert there.code == here.code == 0, there.err
        assert there.out.splitlines()[:-1] == here.out.splitlines()[:-1]
        assert "two: about " in there.err  # before anything is hired
        assert "GB fetched, " in there.err.partition("hires")[0]
        assert there.out.endswith("Next: mai train --data two --on modal\n")
        manifest = cloud.world.path("prepared/two/manifest.csv")
        as_it_is = manifest.read_bytes()
        assert as_it_is == (tmp_path / "two" / "manifest.csv").read_bytes()
        assert cloud.called(since) == ["prepare", "prepare_unit"]
        files = [unit.name for _, (unit, *_) in cloud.world.calls[since + 1 :]]
        assert len(set(files)) == len(files) >= 2
        assert cloud.world.commits["prepare_unit"] == len(files)
        # Each sees what the leader has committed just before.
        assert cloud.world.reloads["prepare_unit"] == len(files)
        assert not set(cloud.world.calls[since][1][0]) & STAYS_HERE


def test_a_set_is_matched_there_as_here(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "prepare --source a/photographs --source a/drawings --label authentic --label synthetic --name alike"
    with Hub() as hub:
        hub.add("a/photographs", "0.zip", archive(6))
        hub.add("a/drawings", "0.zip", archive(12, 100))
        point_at(hub, tmp_path / "hf", monkeypatch)
        since = len(cloud.world.calls)
        assert cloud.mai(f"{words} --on modal").code == 0
        manifest = cloud.world.path("prepared/alike/manifest.csv")
        as_it_is = manifest.read_bytes()
        there = cloud.mai(f"{words} --match --on modal")
        here = cloud.mai(f"{words} --match --prepared {tmp_path}")
    assert there.code == here.code == 0, there.err
    assert "matched: " in there.out
    # No container stores an image again.
    assert [name for name, _ in cloud.world.calls[since:] if name == "prepare_unit"] == ["prepare_unit"] * 2
    assert as_it_is != manifest.read_bytes()
    assert manifest.read_bytes() == (tmp_path / "alike" / "manifest.csv").read_bytes()


def test_a_set_that_its_budget_does_not_suffice_for_is_not_made(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub() as hub:
        add_six(hub, images=6)
        hub.patch(monkeypatch, tmp_path / "hf")
        words = "prepare --source posters --source diffusiondb --parts 2 --name late --budget 5 --on modal"
        now = cloud.app.time.time()
        units: list[Any] = []

        def clock() -> float:
            return float(now + 100_000 * (len(units) > 1))

        def unit(*call: Any) -> Any:
            units.append(call)
            return raw(*call)

        raw = cloud.app.prepare_unit.raw
        with monkeypatch.context() as patch:
            patch.setattr(cloud.app.prepare_unit, "raw", unit)
            patch.setattr(cloud.app, "time", SimpleNamespace(time=clock))
            done = cloud.mai(words)
        assert done.code == 2, done.out
        assert "files were not begun: the time that --budget leaves is over; what is done is kept" in done.err
        assert not cloud.world.path("prepared/late/manifest.csv").exists()
        again = cloud.mai(words)  # where it stopped
        assert again.code == 0, again.err
        assert "within --budget 5" in again.err


def test_what_goes_wrong_there_is_one_line_and_exit_code_2_here(cloud: Cloud, tmp_path: Path) -> None:
    picture = next(cloud.data.rglob("*.png"))
    commands = {
        "train --data nowhere --on modal": "mai: on Modal: ",
        "evaluate --data nowhere --on modal": "mai: on Modal: ",
        "calibrate --data tiny --model lion --on modal": "mai: on Modal: model 'lion' not found",
        f"predict {picture} --model lion --on modal": "mai: on Modal: model 'lion' not found",
        f"scan {picture} --out {tmp_path}/s.jsonl --model lion --on modal": "mai: on Modal: model 'lion' not found",
        f"scan nowhere --out {tmp_path}/s.jsonl --on modal": "mai: on Modal: ",
        "sweep --data nowhere --on modal": "mai: on Modal: ",
        "twins --data nowhere --out x --on modal": "mai: on Modal: ",
        "prepare --source posters --require lion --on modal": "mai: --require lion: not among the sources",
        "prepare --list --on modal": "mai: --list and folders are for this machine",
        f"predict {picture} --heatmap {tmp_path} --on modal": "mai: --heatmap runs on the local machine only",
        f"predict {picture} --on hosted": "mai: not found on Modal (App 'mai' not found in environment 'main'); "
        "`modal deploy modal_app.py` hosts the app",
    }
    for words, said in commands.items():
        done = cloud.mai(words)
        assert done.code == 2, words
        assert done.out == "", words
        errors = [line for line in done.err.splitlines() if line.startswith("mai: ")]
        assert len(errors) == 1, done.err
        assert errors[0].startswith(said), errors[0]
        assert "Traceback" not in done.err


def test_a_crash_there_is_one_line_here_too(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cloud.app.calibrate, "raw", crash)
    done = cloud.mai("calibrate --data tiny --on modal")
    assert (done.code, done.err.splitlines()[-1]) == (2, "mai: on Modal: ZeroDivisionError: division by zero")


def test_local_entry_is_the_same_command_line(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["predict", str(cloud.data / "test" / "authentic"), "--model", "r", "--format", "csv", "--on", "modal"]
    monkeypatch.setattr(sys, "argv", ["local_entry.py", *words])
    done = run(lambda: runpy.run_path(str(ROOT / "local_entry.py"), run_name="__main__"))
    assert done.code == 0, done.err
    assert done.out == cloud.mai(" ".join(words)).out


def test_the_hosted_app_answers_python_and_http_with_the_same_rows(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.world, "deployed", True)
    picture = next((cloud.data / "test" / "synthetic").rglob("*.png"))
    weights = cloud.world.path("runs/r/best.safetensors")
    row = json.loads(cloud.mai(f"predict {picture} --evidence --format json --model {weights}").out)[0]
    file = ("p", picture.read_bytes())
    hosted = cloud.client.hosted_judge("r").remote(file)
    assert hosted.pop("facts")["name"] == "r"
    assert json.loads(json.dumps(hosted)) == row | {"path": "p"}
    [again] = cloud.app.predict.remote([file], "r")
    assert again["p_synthetic"] == row["p_synthetic"]
    words = f"predict {picture} --evidence --format json --model r"
    assert json.loads(cloud.mai(f"{words} --on hosted").out)[0] == row

    client = TestClient(cloud.world.serve("api"), base_url="https://mai.modal.run")
    files = [("a", ("p", file[1])), ("b", ("README.md", b"# no picture"))]
    answer = client.post("/v1/predict?model=r", files=files)
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["predictions"]
    assert first == row | {"path": "p"}
    assert "is no JPEG" in second["error"]
    assert client.post("/v1/predict?model=nowhere", files=files).status_code == 422
    heatmap = client.post("/v1/heatmap?model=r", files=files[:1])
    assert heatmap.headers["content-type"] == "image/png"
    names = [facts["name"] for facts in client.get("/v1/models").json()["models"]]
    assert {"r", "traces"} <= set(names)
    assert "page" not in cloud.world.functions


def test_another_gpu_and_the_open_page(tmp_path: Path, data_set: Path) -> None:
    with fake_cloud(tmp_path, MAI_GPU="H100:2", MAI_OPEN_PAGE="1") as (world, app, _client):
        assert world.functions["train"].settings["gpu"] == ["H100:2"]
        assert world.functions["prepare_folder"].settings["gpu"] is None
        assert app.STRONG.gpus == ("H100:2",)
        assert world.functions["train_strong"].settings["gpu"] == ["H100:2"]
        assert app.page is world.functions["page"]
        assert app.page.raw.fake_options == {"max_inputs": 32}
        world.deployed = True
        client = TestClient(world.serve("page"), base_url="https://mai.modal.run")
        assert "<html" in client.get("/").text
        picture = next(data_set.rglob("*.png"))
        answer = client.post("/v1/predict?model=lion", files=[("a", ("p", picture.read_bytes()))])
        assert answer.json()["models"][0]["name"] == SHIPPED  # whatever is asked for
        assert [facts["name"] for facts in client.get("/v1/models").json()["models"]] == [SHIPPED]


def test_machines_limits_and_mounts_are_what_was_meant(cloud: Cloud) -> None:
    hours = 3600
    found = {name: one.settings for name, one in cloud.world.functions.items()}
    found |= {name: one.settings for name, one in cloud.world.classes.items()}
    assert {name: (one["gpu"], one["timeout"] / hours, one["max_containers"]) for name, one in found.items()} == {
        "make_demo_data": (None, 24, 1),
        "prepare_folder": (None, 24, 1),
        "prepare": (None, 24, 1),
        "prepare_unit": (None, 6, 10),
        "train": (["L4", "A10", "T4"], 24, 8),
        "train_strong": (["H100"], 24, 8),
        "run_sweep": (None, 24, 8),
        "lead": (None, 24, 8),
        "clean": (None, 24, 1),
        "evaluate": (["L4", "A10", "T4"], 4, 1),
        "calibrate": (["L4", "A10", "T4"], 4, 1),
        "twins": (["L4", "A10", "T4"], 24, 1),
        "Judge": (None, 1 / 6, 10),
        "draw_heatmap": (None, 1 / 6, 10),
        "list_models": (None, 1 / 6, 2),
        "predict": (None, 1 / 2, 4),
        "api": (None, 1 / 2, 4),
        "Scanner": (None, 1 / 2, 20),
        "list_images": (None, 1 / 6, 2),
    }
    assert {one["startup_timeout"] for one in found.values()} == {900}
    carried_on = {name for name, one in found.items() if one.get("retries") == {"initial_delay": 0.0, "max_retries": 4}}
    making = {"make_demo_data", "prepare_folder", "prepare", "prepare_unit", "clean"}
    assert carried_on == {*making, "train", "train_strong", "run_sweep", "twins", "lead"}
    assert {name for name, one in found.items() if one.get("nonpreemptible")} == {"prepare", "run_sweep", "lead"}
    assert {name for name, one in found.items() if one.get("single_use_containers")} == {
        "prepare_folder",
        "prepare",
        "train",
        "train_strong",
    }
    writing = {name for name, one in found.items() if any(v.writable for v in one.get("volumes", {}).values())}
    assert writing == {"evaluate", "calibrate", *carried_on} - {"lead"}
    for name in writing:
        assert "commit()" in inspect.getsource(inspect.unwrap(cloud.world.functions[name].raw)), name
    assert found["Judge"]["enable_memory_snapshot"]
    assert cloud.world.classes["Judge"].marked["judge"].fake_options == {"max_batch_size": 32, "wait_ms": 50}
    assert cloud.app.api.raw.fake_options == {"max_inputs": 32, "requires_proxy_auth": True}


def test_the_image_has_the_lock_and_the_whole_package(cloud: Cloud) -> None:
    installed = {}
    for needs in get_args(Needs):
        calls = {name: (args, options) for name, args, options in getattr(cloud.app, f"{needs}_image").calls}
        assert calls["debian_slim"][1] == {"python_version": "3.11"}
        assert calls["add_local_python_source"] == (("mai_app",), {"ignore": ["**/__pycache__/**"]})
        installed[needs] = set(calls["pip_install"][0])
    assert installed["web"] < installed["data"] < installed["torch"]
    assert not any(line.startswith(("torch", "nvidia")) for line in installed["data"])


def test_every_command_of_the_table_has_its_function(cloud: Cloud) -> None:
    for name, command in cli.COMMANDS.items():
        if command.on_modal:
            taken = inspect.signature(getattr(cloud.client, command.on_modal)).parameters
            assert list(taken) == ["config", "output"], name


HIDE = """
import sys
hidden = set(sys.argv[1].split(","))
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def without(packages: str, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code where these packages can't be imported."""
    words = [sys.executable, "-c", HIDE + code, packages, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_callers_machine_needs_none_of_the_heavy_packages() -> None:
    heavy = "torch,torchvision,timm,pyarrow,matplotlib,scipy,sklearn,fastapi"
    done = without(heavy, "import modal_client; print(modal_client.modal_app.train)")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_each_image_has_what_its_functions_import() -> None:
    # What a container does: the file itself, of whose blocks of imports those count that its image is for.
    source = (ROOT / "modal_app.py").read_text().split("\n")
    blocks = {}
    for needs in get_args(Needs):
        start = next(i for i, line in enumerate(source) if line.startswith(f"with {needs}_image.imports()")) + 1
        end = next(i for i, line in enumerate(source[start:], start) if line and not line.startswith(" "))
        blocks[needs] = "\n".join(line.removeprefix("    ") for line in source[start:end])
    closures = {needs: closure(needs) for needs in blocks}
    modules = importlib.metadata.packages_distributions()
    for needs, block in blocks.items():
        absent = [name for name, owners in modules.items() if not {normal(owner) for owner in owners} & closures[needs]]
        done = without(",".join(absent), f"import modal_app\n{block}")
        assert done.returncode == 0, (needs, done.stderr)


@pytest.mark.parametrize(
    ("needs", "work"),
    [
        ("web", "print(known_models(ServeConfig(runs=Path(sys.argv[3]))))"),
        ("data", "print(prepare_images(Path(sys.argv[2]), Path(sys.argv[4]), workers=2))"),
        ("data", "make_demo(Path(sys.argv[4]), 24, 0)"),
        ("data", "print(list(list_files(sys.argv[2])))"),
        ("data", "print(best_epoch(Path(sys.argv[3]) / 'r'), plan(SweepConfig(data=Path('x'))))"),
    ],
)
def test_an_image_suffices_for_the_work(cloud: Cloud, tmp_path: Path, needs: Needs, work: str) -> None:
    present = closure(needs)
    modules = importlib.metadata.packages_distributions()
    absent = [name for name, owners in modules.items() if not {normal(owner) for owner in owners} & present]
    code = f"from modal_app import *\nfrom mai_app.training.sweep import plan\n{work}"
    if needs == "web":
        code = f"from modal_app import *\n{work}"
    if "make_demo" in work:
        code = f"if __name__ == '__main__':\n    from modal_app import *\n    {work}"
    done = without(",".join(absent), code, cloud.data, cloud.world.path("runs"), tmp_path / "out")
    assert done.returncode == 0, done.stderr


def normal(name: str) -> str:
    return canonicalize_name(name)


def closure(needs: Needs) -> set[str]:
    """The packages of the lock that an image has."""
    return {normal(Requirement(line).name) for line in locked(ROOT / "requirements.lock", needs)}


def test_no_image_lacks_what_its_packages_require() -> None:
    for needs in get_args(Needs):
        present = closure(needs)
        for name in present:
            try:
                required = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # for other systems
            for text in required:
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    assert normal(requirement.name) in present, (needs, name, text)
    lock = map(Requirement, (ROOT / "requirements.lock").read_text().splitlines())
    everything = {normal(one.name) for one in lock if one.marker is None or one.marker.evaluate(THERE)}
    assert everything - closure("torch") == TESTS | EXPORT
    assert {name for name in closure("torch") - closure("data") if not name.startswith("nvidia-")} == TORCH
    assert closure("web") == WEB


def test_an_installed_wheel_has_what_modal_needs() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["only-include"]) == {"mai_app", "modal_app.py", "modal_client.py"}
    assert wheel["force-include"] == {"requirements.lock": "mai_app/requirements.lock"}


def test_the_fake_finds_mistakes(tmp_path: Path) -> None:
    world = World(tmp_path / "volume")
    fake: Any = world.module()
    app, volume = fake.App("mai"), fake.Volume.from_name("mai", version=2)
    mistakes: list[Callable[[], Any]] = [
        lambda: app.function(gpus=["L4"]),
        lambda: fake.Volume.from_name("mai", create=True),
        lambda: fake.Image.debian_slim(python="3.11"),
        lambda: fake.batched(max_size=3),
        lambda: fake.Retries(initial_delay=0.0, retries=3),
        lambda: crossing({"folder": [Path("here")]}),
    ]
    for mistake in mistakes:
        with pytest.raises(TypeError):
            mistake()

    def write(commit: bool) -> None:
        world.path("file").write_text("new" if commit else "newer")
        if commit:
            volume.commit()

    function: Function = app.function(volumes={PurePosixPath("/mai"): volume})(write)
    with pytest.raises(Exception, match="not found"):
        function.remote(True)
    with app.run():
        function.remote(True)
        with pytest.raises(AssertionError, match=r"write has not committed .*file"):
            function.remote(False)
    assert world.commits == {"write": 1}
