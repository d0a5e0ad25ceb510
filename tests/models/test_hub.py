"""Models of the Hub, by real HTTP on 127.0.0.1: named, downloaded once, checked as any checkpoint, used everywhere."""

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import TypeVar

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from mai_app import load
from mai_app.cli import main
from mai_app.config import ServeConfig
from mai_app.errors import CheckpointError
from mai_app.inference.export import metadata
from mai_app.inference.reload import LiveDetector
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.description import read_description
from mai_app.models.hub import HubName, cached_name, parse_name
from mai_app.models.registry import BEST, find_checkpoint, list_models, shipped_models
from mai_app.serve.server import local_backend
from tests.conftest import write_data_set
from tests.hub import Fault, Hub

ROOT = Path(__file__).parents[2]
TRACES = "models/me/traces"
Result = TypeVar("Result")
SHIPPED_FILE = shipped_models()["traces"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that has one model, as this process's client sees it, with an empty cache; the folder is empty, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between the client's tries
    with Hub() as hub:
        hub.add(TRACES, BEST, SHIPPED_FILE)
        hub.patch(monkeypatch, tmp_path / "hf")
        yield hub


@pytest.fixture(scope="module")
def picture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_data_set(tmp_path_factory.mktemp("one"), train=1, val=1, test=1)
    return next((data / "test" / "synthetic").rglob("*.png"))


def asked(hub: Hub) -> list[str]:
    """What was asked for since, as method and path."""
    found = [f"{method} {path.partition('?')[0]}" for method, path, _ in hub.requests if "agent-h" not in path]
    hub.requests.clear()
    return found


def wait(work: Awaitable[Result]) -> Result:
    """What a backend's function answers."""

    async def run() -> Result:
        return await work

    return asyncio.run(run())


def test_names_are_read_in_one_way() -> None:
    assert parse_name("hf:owner/name") == HubName("owner/name")
    assert parse_name("hf:o_1/n.a-me@v1.0") == HubName("o_1/n.a-me", "v1.0")
    assert parse_name("hf:o/n@refs/pr/1") == HubName("o/n", "refs/pr/1")
    assert str(parse_name("hf:o/n@main")) == "hf:o/n@main"
    for wrong in (
        *("hf:", "hf:name", "hf:a/b/c", "hf:/b", "hf:a/", "hf:a/b@", "hf:a/b@..", "hf:a/../b", "hf:a/b@x/../y"),
        *("hf:a--b/c", "hf:-a/b", "hf:a/b.", "hf:a/b@x y", "hf:a b/c", "hf:a/b@-x", "hf:a/b\n"),
    ):
        with pytest.raises(CheckpointError, match="is no name of a model on the Hub; write hf:owner/name, or "):
            parse_name(wrong)


def test_only_files_of_the_cache_have_a_repository() -> None:
    commit = 40 * "a"
    path = Path("/home/a/hub/models--me--x/snapshots") / commit / BEST
    assert cached_name(path) == HubName("me/x", commit)
    for other in (
        "best.safetensors",
        "runs/r/best.safetensors",
        f"/datasets--me--x/snapshots/{commit}/{BEST}",
        "/",
        ".",
    ):
        assert cached_name(Path(other)) is None


def test_a_model_is_one_line_and_only_its_one_file_is_fetched(hub: Hub, picture_file: Path) -> None:
    hub.add(TRACES, "pytorch_model.bin", b"\x80\x04a pickle")
    hub.add(TRACES, "config.json", b"{}")
    detector = load("hf:me/traces", device="cpu")
    assert {line.rpartition("/")[2] for line in asked(hub)} == {BEST}
    assert detector.facts.name == "hf:me/traces"
    assert detector.checkpoint.sha256 == load_checkpoint(SHIPPED_FILE).sha256
    assert list(detector.predict(picture_file)) == list(load("traces", device="cpu").predict(picture_file))
    assert not asked(hub)  # none for the other name
    load("hf:me/traces", device="cpu")
    assert asked(hub) == [f"HEAD /me/traces/resolve/main/{BEST}"]  # whether it is still the newest, and no more


def test_a_branch_a_tag_and_a_commit_are_what_they_name(hub: Hub, tmp_path: Path) -> None:
    first = hub.commit(TRACES)
    hub.tag(TRACES, "v1")
    checkpoint = load_checkpoint(SHIPPED_FILE)
    save_checkpoint(tmp_path / "new.safetensors", checkpoint.network, replace(checkpoint.info, epoch=99))
    hub.add(TRACES, BEST, tmp_path / "new.safetensors")
    hub.add(TRACES, BEST, SHIPPED_FILE, revision="exp/two")
    runs = Path("runs")
    old, new = SHIPPED_FILE.read_bytes(), (tmp_path / "new.safetensors").read_bytes()
    for revision, data in (("", new), ("@main", new), ("@v1", old), ("@exp/two", old), (f"@{first}", old)):
        assert find_checkpoint(f"hf:me/traces{revision}", runs).read_bytes() == data, revision
    asked(hub)
    assert find_checkpoint(f"hf:me/traces@{first}", runs).read_bytes() == old
    assert asked(hub) == []  # a commit does not change


def test_a_model_that_was_loaded_once_works_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture_file: Path
) -> None:
    before = list(load("hf:me/traces", device="cpu").predict(picture_file))
    first = hub.commit(TRACES)
    asked(hub)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for name in ("hf:me/traces", f"hf:me/traces@{first}"):
            assert list(load(name, device="cpu").predict(picture_file)) == before
        with pytest.raises(CheckpointError) as caught:
            load("hf:me/other")
        assert str(caught.value) == (
            "hf:me/other: is not in the cache, and HF_HUB_OFFLINE is set; load it once without that, and it works "
            "offline"
        )
    assert asked(hub) == []
    hub.__exit__(None, None, None)  # nobody answers
    try:
        assert list(load("hf:me/traces", device="cpu").predict(picture_file)) == before
        with pytest.raises(CheckpointError, match=r"^hf:me/other: can't be downloaded \(.*\); check the network, .*$"):
            load("hf:me/other")
    finally:
        hub.__enter__()


def test_the_environment_variable_alone_makes_it_work_offline(hub: Hub, tmp_path: Path) -> None:
    code = """
import sys, pathlib
from mai_app.models.registry import find_checkpoint
print(find_checkpoint("traces", pathlib.Path("runs")), "huggingface_hub" in sys.modules)
print(find_checkpoint("hf:me/traces", pathlib.Path("runs")))
"""
    paths = []
    for offline in ("0", "1"):
        environment = hub.environment(tmp_path / "own", PYTHONPATH=str(ROOT), HF_HUB_OFFLINE=offline)
        line = [sys.executable, "-c", code]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shipped, path = done.stdout.splitlines()
        assert shipped == f"{SHIPPED_FILE} False"  # the client is imported for the Hub's names alone
        paths.append(path)
        assert bool(asked(hub)) == (offline == "0")
    assert paths[0] == paths[1]
    assert Path(paths[0]).read_bytes() == SHIPPED_FILE.read_bytes()


def test_what_can_t_be_had_is_one_line_that_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models/me/empty", "README.md", b"nothing else")
    hub.add("models/me/secret", BEST, SHIPPED_FILE)
    hub.private.add("models/me/secret")
    hub.faults.append(Fault("me/broken", "status", status=500, times=-1, method=""))

    def reason(name: str) -> str:
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(name, Path("runs"))
        said = str(caught.value)
        assert said.startswith(f"{name}: ")
        assert "\n" not in said
        assert "127.0.0.1" not in said
        return said.removeprefix(f"{name}: ")

    absent = "the Hub has no such model, or it is private; check the name, or set HF_TOKEN to a token that may read it "
    assert reason("hf:me/none").startswith(absent)
    assert reason("hf:me/secret").startswith(absent)
    assert reason("hf:me/traces@v9").startswith("has no revision v9; name a branch, a tag or a whole commit")
    assert reason("hf:me/empty").startswith("holds no best.safetensors, so it is no model of MAI")
    assert reason("hf:me/broken").startswith("can't be downloaded (the Hub answers 500); check the network")
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert reason("hf:me/secret").startswith("is not open to this account; ask for access")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert cached_name(find_checkpoint("hf:me/secret", Path("runs")))
    assert not any("authorization" in headers for _, path, headers in hub.requests if path.startswith("/cdn/"))


class Trap:
    """What a pickle would do when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_a_downloaded_file_is_checked_as_any_checkpoint_and_never_unpickled(hub: Hub, tmp_path: Path) -> None:
    torch.save(Trap(), tmp_path / "zip")
    bad = {
        "pickle": pickle.dumps(Trap()),
        "zip": (tmp_path / "zip").read_bytes(),
        "cut": SHIPPED_FILE.read_bytes()[:100_000],
        "foreign": safetensors.torch.save({"a": torch.zeros(1)}),
    }
    for name, data in bad.items():
        hub.add(f"models/me/{name}", BEST, data)
        with pytest.raises(
            CheckpointError, match=rf"^hf:me/{name} \(.*{BEST}\): (truncated, or no|holds weights, but)"
        ):
            load(f"hf:me/{name}")
        with pytest.raises(CheckpointError, match=rf"^hf:me/{name} "):
            read_description(find_checkpoint(f"hf:me/{name}", Path("runs")))
    assert not Path("trapped").exists()


def test_commands_take_it_and_leave_the_cache_alone(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], picture_file: Path
) -> None:
    data = write_data_set(tmp_path / "pictures", train=2, val=1, test=4)
    named = ["--model", "hf:me/traces", "--device", "cpu"]
    assert main(["predict", str(picture_file), *named]) == 0
    assert capsys.readouterr().out.startswith("model: hf:me/traces, version ")
    cache = sorted(path for path in (tmp_path / "hf").rglob("*") if ".locks" not in path.parts)
    assert main(["scan", str(data / "test"), *named]) == 0
    assert len(Path("scan.jsonl").read_text().splitlines()) == 8
    assert main(["evaluate", "--data", str(data), *named]) == 0
    report = Path("runs/me--traces/report-test")
    told = json.loads((report / "report.json").read_text())["checkpoint"]
    assert told == f"hf:me/traces@{hub.commit(TRACES)}"
    assert main(["card", "--report", str(report)]) == 0
    assert (report / "MODEL_CARD.md").read_text().startswith("# hf:me/traces: model card\n")
    assert metadata(load("hf:me/traces", device="cpu").checkpoint)["model"] == "hf:me/traces"
    assert list_models(Path("runs")) == list_models(Path("none"))  # a folder of reports is no run
    capsys.readouterr()
    assert main(["calibrate", "--data", str(data), *named]) == 2
    said = capsys.readouterr().err
    path = find_checkpoint("hf:me/traces", Path("runs"))
    assert said == (
        f"mai: hf:me/traces: was downloaded and stays as it is; copy {path} to runs/mine/best.safetensors, and "
        f"calibrate that with --model mine\n"
    )
    copy(path, tmp_path / BEST)  # the file itself, not a link into the cache
    assert (tmp_path / BEST).read_bytes() == SHIPPED_FILE.read_bytes()
    assert sorted(path for path in (tmp_path / "hf").rglob("*") if ".locks" not in path.parts) == cache


def test_a_server_asks_the_hub_once(hub: Hub, picture_file: Path) -> None:
    live = LiveDetector("hf:me/traces", Path("runs"), 0.0, device="cpu")
    first = live.detector()
    assert asked(hub)
    hub.remove(TRACES)
    assert live.detector() is first
    assert asked(hub) == []
    hub.add(TRACES, BEST, SHIPPED_FILE)
    with local_backend(ServeConfig(model="hf:me/traces", device="cpu")) as backend:
        asked(hub)
        for _ in range(2):
            assert wait(backend.models())[0]["name"] == "hf:me/traces"
            (_, facts), *_ = wait(backend.predict([("a.png", picture_file.read_bytes())], ""))
            assert facts["name"] == "hf:me/traces"
            wait(backend.predict([("a.png", picture_file.read_bytes())], "traces"))
    assert asked(hub) == []
