"""Checkpoints: bitwise there and back, found by file, folder or name, and refused in one clear line when damaged."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from mai_app.config import Preprocessing
from mai_app.errors import CheckpointError
from mai_app.models.calibration import Calibration, TierRates
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.models.description import FORMAT_VERSION, CheckpointInfo
from mai_app.models.networks import MODELS, MaiCNN
from mai_app.models.registry import BEST, find_checkpoint

INFO = CheckpointInfo(
    model="baseline",
    mai_version="0.1.0",
    preprocessing=Preprocessing(input="crop", crops=5),
    calibration=Calibration(1.25, 0.55, 0.4, 0.7, 16, 18),
    data="Größe photos",
    data_fingerprint="ab" * 32,
    epoch=3,
    val_loss=0.1 + 0.2,
    training={"seed": 0, "learning_rate": 1e-3},
)

RATES = dataclasses.asdict(TierRates(images=200, fpr=0.05, tpr=0.6, unsure=0.5, right=0.96))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return MaiCNN()


@pytest.fixture(scope="module")
def whole(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint; for reading only."""
    path = tmp_path_factory.mktemp("checkpoint") / BEST
    save_checkpoint(path, network, INFO)
    return path


def document(**changes: Any) -> str:
    """What a checkpoint says about itself, as JSON, with some of it changed."""
    return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(INFO)} | changes)


def weights(path: Path, metadata: dict[str, str] | None, tensors: Mapping[str, torch.Tensor] | None = None) -> Path:
    """A safetensors file at path, with one small tensor unless others are given."""
    path.write_bytes(safetensors.torch.save(dict(tensors or {"a": torch.zeros(2)}), metadata=metadata))
    return path


def by_hand(path: Path, header: dict[str, Any], body: bytes) -> Path:
    """A safetensors file with just this header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def refusal(path: Path) -> str:
    """The one line in which a checkpoint is refused, without the file's name, which has to stand first."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 500
    return text.removeprefix(f"{path}: ")


# There and back


def test_a_checkpoint_comes_back_bit_by_bit(network: nn.Module, whole: Path) -> None:
    checkpoint = load_checkpoint(whole)
    assert checkpoint.info == INFO
    assert checkpoint.path == whole
    assert not checkpoint.network.training
    assert checkpoint.sha256 == hashlib.sha256(whole.read_bytes()).hexdigest()
    assert checkpoint.version == checkpoint.sha256[:12]
    before, after = network.state_dict(), checkpoint.network.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor)


def test_equal_content_gives_equal_bytes(network: nn.Module, whole: Path, tmp_path: Path) -> None:
    turned_round = dataclasses.replace(INFO, training=dict(reversed(list(INFO.training.items()))))
    # Another layout in memory, as on the way to some devices, is no other content.
    other = MaiCNN().to(memory_format=torch.channels_last)
    other.load_state_dict(network.state_dict())
    save_checkpoint(tmp_path / "again.safetensors", other, turned_round)
    assert (tmp_path / "again.safetensors").read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]  # nothing temporary stays


def test_a_checkpoint_is_plain_safetensors_with_a_readable_description(whole: Path) -> None:
    with safetensors.safe_open(whole, "pt") as opened:
        facts = json.loads(opened.metadata()["mai"])
        assert len(list(opened.keys())) == 12
    assert facts["format_version"] == FORMAT_VERSION
    assert facts["calibration"]["threshold"] == 0.55
    assert facts["preprocessing"]["input"] == "crop"


def test_a_verdict_follows_the_unsure_band() -> None:
    calibration = Calibration(1.0, 0.5, 0.4, 0.7, 1, 1)
    verdicts = [calibration.verdict(score) for score in (0.0, 0.39, 0.4, 0.5, 0.7, 0.71, 1.0)]
    assert verdicts == ["authentic"] * 2 + ["unsure"] * 3 + ["synthetic"] * 2


def test_a_calibration_of_the_tiers_comes_back(network: nn.Module, whole: Path, tmp_path: Path) -> None:
    rates = {"clean": TierRates(202, 0.04, 0.6, 0.5, 0.96, 0.05, 0.95), "hard": TierRates(202, 0.05, 0.5, 1.0, None)}
    fit = dataclasses.replace(INFO.calibration, data="photos", tiers=rates, authentic_sources=12, synthetic_sources=30)
    info = dataclasses.replace(INFO, calibration=fit)
    save_checkpoint(tmp_path / "a.safetensors", network, info)
    checkpoint, before = load_checkpoint(tmp_path / "a.safetensors"), load_checkpoint(whole)
    assert checkpoint.info == info
    # Another calibration makes another version of the same weights.
    assert checkpoint.version != before.version
    assert checkpoint.weights_sha256 == before.weights_sha256


def test_other_weights_have_another_name(network: nn.Module, whole: Path, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["layers.0.bias"][0] += 1e-3
    other = weights(tmp_path / "a.safetensors", {"mai": document()}, state)
    assert load_checkpoint(other).weights_sha256 != load_checkpoint(whole).weights_sha256


def test_a_checkpoint_of_format_1_is_read(network: nn.Module, tmp_path: Path) -> None:
    later = {"data", "tiers", "authentic_sources", "synthetic_sources"}
    fit = {name: value for name, value in dataclasses.asdict(INFO.calibration).items() if name not in later}
    assert len(fit) == 6  # as MAI wrote them before it knew tiers
    old = document(format_version=1, calibration=fit)
    checkpoint = load_checkpoint(weights(tmp_path / "a.safetensors", {"mai": old}, network.state_dict()))
    assert checkpoint.info == INFO
    assert (checkpoint.info.calibration.data, checkpoint.info.calibration.tiers) == ("", {})


def test_a_checkpoint_of_format_2_is_read(network: nn.Module, tmp_path: Path) -> None:
    fit = dataclasses.asdict(INFO.calibration) | {"data": "photos"}
    del fit["authentic_sources"], fit["synthetic_sources"]
    rates = {name: value for name, value in RATES.items() if name not in ("fpr_bound", "right_bound")}
    assert len(rates) == 5  # as MAI wrote them before it knew sources
    old = document(format_version=2, calibration=fit | {"tiers": {"clean": rates}})
    checkpoint = load_checkpoint(weights(tmp_path / "a.safetensors", {"mai": old}, network.state_dict()))
    read = checkpoint.info.calibration
    assert (read.authentic_sources, read.synthetic_sources) == (0, 0)
    assert (read.tiers["clean"].fpr, read.tiers["clean"].fpr_bound, read.tiers["clean"].right_bound) == (
        0.05,
        None,
        None,
    )


# Refusals


def test_a_truncated_checkpoint_is_refused_by_name(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    cut = tmp_path / "cut.safetensors"
    for size in (0, 5, 8, 100, header - 1, header, header + 1000, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        assert refusal(cut).startswith("truncated, or no safetensors file")
    cut.write_bytes(data + b"x")
    assert "no safetensors file" in refusal(cut)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Trap()))
    assert "no safetensors file" in refusal(path)
    torch.save({"a": torch.zeros(2), "trap": Trap()}, path)
    assert "no safetensors file" in refusal(path)
    assert not ran.exists()


def test_weights_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        assert refusal(weights(path, metadata)).startswith("holds weights, but not MAI's")
    assert refusal(by_hand(path, {"__metadata__": None}, b"")).startswith("holds weights, but not MAI's")
    # A number type that this safetensors knows and torch does not read.
    foreign = {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}, "__metadata__": {"mai": document()}}
    assert refusal(by_hand(path, foreign, b"\0"))


def test_another_model_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    path = weights(tmp_path / "a.safetensors", {"mai": document(model="resnet50")})
    assert refusal(path) == f"model 'resnet50' not found; available models = {sorted(MODELS)}"


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    later = document(format_version=FORMAT_VERSION + 1, mai_version="9.0")
    reason = refusal(weights(tmp_path / "a.safetensors", {"mai": later}))
    assert reason.startswith(f"written by a newer MAI (9.0, format {FORMAT_VERSION + 1};")
    assert reason.endswith("update MAI")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '"baseline"',
        "[" * 100_000,
        document(calibration={"temperature": 1}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"temperature": "warm"}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"temperature": 0}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"threshold": math.nan}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"unsure_low": 0.6}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"tiers": {"clean": {"fpr": 0.1}}}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"tiers": {"clean": RATES | {"fpr": 1.1}}}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"tiers": {"clean": RATES | {"right": -0.1}}}),
        document(calibration=dataclasses.asdict(INFO.calibration) | {"tiers": ["clean"]}),
        document(preprocessing={"input": "resize", "zoom": 2}),
        document(preprocessing={"input": "stretch"}),
        document(preprocessing={"input": "resize", "size": 224}),
        document(preprocessing={"input": "crop", "crops": "5"}),
        document(model=["baseline"]),
        document(format_version="1"),
        json.dumps({key: value for key, value in json.loads(document()).items() if key != "epoch"}),
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(weights(tmp_path / "a.safetensors", {"mai": text})).startswith("its description is damaged (")


def test_weights_that_do_not_fit_are_refused(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = network.state_dict()
    missing = {name: tensor for name, tensor in state.items() if not name.startswith("layers.11")}
    for tensors in (
        missing,
        state | {"layers.0.bias": torch.zeros(17)},
        state | {"layers.99.bias": torch.zeros(1)},
    ):
        reason = refusal(weights(path, {"mai": document()}, tensors))
        assert reason.startswith("its weights do not fit the model 'baseline' (")
        assert "layers." in reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(network: nn.Module, tmp_path: Path, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["layers.6.bias"][3] = value
    path = weights(tmp_path / "a.safetensors", {"mai": document()}, state)
    assert refusal(path) == "holds weights that are not finite numbers; train it anew"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.safetensors") == "can't be read (No such file or directory)"
    assert refusal(tmp_path).startswith("can't be read (")


# Finding


def make_runs(runs: Path, *names: str) -> dict[str, Path]:
    """Runs with an empty checkpoint each, the first trained first."""
    paths = {name: runs / name / BEST for name in names}
    for age, path in enumerate(reversed(paths.values())):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    return paths


def test_a_checkpoint_is_found_by_file_folder_or_name(tmp_path: Path) -> None:
    there = make_runs(tmp_path / "runs", "zebra", "antelope")
    for name in (str(there["zebra"]), str(there["zebra"].parent), f"{there['zebra'].parent}/", "zebra"):
        assert find_checkpoint(name, tmp_path / "runs") == there["zebra"]


def test_without_a_name_it_is_the_run_trained_last(tmp_path: Path) -> None:
    there = make_runs(tmp_path / "runs", "zebra", "antelope", "bee")
    (tmp_path / "runs" / "unfinished").mkdir()
    assert find_checkpoint("", tmp_path / "runs") == there["bee"]
    os.utime(there["zebra"])
    assert find_checkpoint("", tmp_path / "runs") == there["zebra"]


def test_a_folder_of_the_runs_name_does_not_hide_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The data set `photos`, here, and the run `photos` that was trained on it.
    there = make_runs(tmp_path / "runs", "photos")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("photos", tmp_path / "runs") == there["photos"]


def test_what_is_not_found_is_answered_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mai_app.models.registry.FOLDER", tmp_path / "weights")  # no model comes with MAI
    make_runs(tmp_path / "runs", "zebra", "antelope")
    for name in ("lion", str(tmp_path / "runs"), str(tmp_path / "missing.safetensors")):
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(name, tmp_path / "runs")
        available = f"available runs in {tmp_path / 'runs'}/ = ['zebra', 'antelope'], shipped models = []"
        assert str(caught.value) == f"model '{name}' not found; {available}"
    for runs in (tmp_path / "none", tmp_path / "runs" / "zebra"):
        with pytest.raises(CheckpointError, match=r"no trained model in .*; train one with `mai train`"):
            find_checkpoint("", runs)
    with pytest.raises(CheckpointError, match=r"^model 'a+' can't be read \(File name too long\)$"):
        find_checkpoint("a" * 300, tmp_path / "runs")
