"""Leave-sources-out folds: whole sources, spread; cached features; fused models; the same end after kills."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mai_app.config import FuseConfig, TrainConfig, from_recipe, prepared_form
from mai_app.data.prepare import prepare
from mai_app.errors import DataError, RunError
from mai_app.images.decode import decode_file
from mai_app.images.preprocess import to_inputs
from mai_app.inference.detector import Detector, load
from mai_app.models.calibration import Calibration
from mai_app.models.checkpoint import load_checkpoint, save_checkpoint
from mai_app.training.folds import describe_kinds, fit_fusion, make_folds, read_folds, source_weights, train_folds
from mai_app.training.fuse import fuse
from mai_app.training.loop import train
from mai_app.training.run_folder import Run, check_options
from tests.conftest import picture

WORDS = ("--model", "test_vit", "--start-from", "", "--blocks", "1,3", "--view-size", "64", "--batch-size", "8")


def views_config(data: Path, folder: Path, **more: Any) -> TrainConfig:
    """A short run of a tiny network of views."""
    settings = {
        "model": "test_vit",
        "start_from": "",
        "blocks": "1,3",
        "view_size": 64,
        "batch_size": 8,
        "epochs": 2,
        "folds": 0,
        "device": "cpu",
        "precision": "float32",
        "runs": folder / "runs",
        "prepared": folder / "prepared",
        "name": "v",
    }
    return from_recipe("views", data, **settings | more)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of six sources of either class, with val images, as PNG and JPEG by turns."""
    root = tmp_path_factory.mktemp("sources") / "d"
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        for label, name in enumerate(("authentic", "synthetic")):
            for i in range(count):
                folder = root / split / name / f"{name}-{i % 6}"
                folder.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(picture(rng, label, 130, 150))
                image.save(folder / f"{i:02}.{'png' if i % 2 else 'jpg'}")
    return root


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0, 1]), st.integers(1, 40)), min_size=8, max_size=60),
    st.integers(2, 4),
)
def test_folds_hold_whole_sources_of_both_classes(made: list[tuple[int, int, int]], count: int) -> None:
    named = [(f"s{number}", label) for number, label, images in made for _ in range(images)]
    names, labels = [name for name, _ in named], np.array([label for _, label in named])
    try:
        folds = make_folds(Path("r"), names, labels, count)
    except DataError:  # too few sources
        return
    assert sorted(source for fold in folds for source in fold.sources) == sorted(set(names))
    for fold in folds:
        held = np.isin(names, sorted(fold.sources))
        assert set(labels[held]) == {0, 1}
        assert set(labels[~held]) == {0, 1}
    assert folds == make_folds(Path("r"), names[::-1], labels[::-1], count)


def test_folds_are_about_as_large() -> None:
    rng = np.random.default_rng(0)
    sizes = [(f"s{i}", int(i % 2), int(n)) for i, n in enumerate(rng.integers(1, 100, 100))]
    names = [name for name, _, n in sizes for _ in range(n)]
    labels = np.array([label for _, label, n in sizes for _ in range(n)])
    for fold in make_folds(Path("r"), names, labels, 5):
        held = np.isin(names, sorted(fold.sources))
        for label in (0, 1):
            assert 0.1 < (held & (labels == label)).sum() / (labels == label).sum() < 0.3


def test_sources_count_alike_in_the_fusion() -> None:
    # One large synthetic source that only the second column finds, ten small ones that only the first finds.
    rng = np.random.default_rng(0)
    sources = ["big"] * 1000 + [f"small{i // 5}" for i in range(50)] + [f"real{i // 5}" for i in range(100)]
    labels = np.array([1] * 1050 + [0] * 100)
    columns = rng.normal(size=(1150, 2))
    columns[:1000, 1] += 3
    columns[1000:1050, 0] += 3
    weights = source_weights(labels, sources)
    assert weights[:1000].sum() == pytest.approx(1 / 11)
    assert weights[labels == 0].sum() == pytest.approx(1)
    first, second, _ = fit_fusion({"clean": columns}, labels, sources)
    assert first > 1.5 * second > 0


def test_kinds_show_what_is_called_synthetic_and_what_is_left_unsure() -> None:
    kinds, doubts = ["scan", "scan", "scan", "portrait", "flux"], [None, None, "too small", None, None]
    tiers = ("clean", "q90", "web", "hard")
    rows = [
        {"kind": kind, "label": int(kind == "flux"), "source": f"s{at % 2}", "doubts": dict.fromkeys(tiers, doubt)}
        for at, (kind, doubt) in enumerate(zip(kinds, doubts, strict=True))
    ]
    logits = {tier: np.array([4.0, 0.5, -4.0, -4.0, 4.0]) for tier in tiers} | {"hard": np.full(5, -4.0)}
    calibration = Calibration(1, 0.6, 0.1, 0.9, 4, 1)
    scan, portrait = describe_kinds(logits, rows, calibration)
    assert (scan["kind"], scan["images"], scan["sources"]) == ("scan", 3, 2)
    assert scan["fpr"] == pytest.approx({"clean": 2 / 3, "q90": 2 / 3, "web": 2 / 3, "hard": 0})
    assert scan["unsure"] == pytest.approx({"clean": 2 / 3, "q90": 2 / 3, "web": 2 / 3, "hard": 1 / 3})
    assert (portrait["images"], portrait["fpr"]["clean"], portrait["unsure"]["clean"]) == (1, 0, 0)


def test_each_image_is_scored_without_its_source_and_the_model_is_fitted_on_that(sources: Path, tmp_path: Path) -> None:
    run = train(views_config(sources, tmp_path, folds=3))
    folds = json.loads((run / "folds.json").read_text())
    assert sorted(source for fold in folds for source in fold) == sorted(
        f"{name}-{i}" for name in ("authentic", "synthetic") for i in range(6)
    )
    files = []
    for number, fold in enumerate(folds, 1):
        head, *rows = (run / f"fold-{number}" / "out-of-source" / "scores.jsonl").read_text().splitlines()
        assert head
        scored = [json.loads(row) for row in rows]
        assert {row["source"] for row in scored} == set(fold)
        assert all(len(row["views"][tier]) == 2 for row in scored for tier in ("clean", "q90", "web", "hard"))
        files += [row["file"] for row in scored]
    assert len(files) == len(set(files)) == 72  # train and val, each once
    report = json.loads((run / "out-of-source.json").read_text())
    checkpoint = load_checkpoint(run / "best.safetensors")
    assert report["images"] == 72
    assert sum(kind["images"] for kind in report["kinds"]) == 36
    np.testing.assert_allclose(checkpoint.network.state_dict()["fusion"], report["fusion"], rtol=1e-5)
    assert checkpoint.info.calibration.tiers.keys() == {"clean", "q90", "web", "hard"}
    assert checkpoint.info.epoch == 2  # the last: no source is left to choose by
    # The same command once more changes nothing.
    again = (run / "best.safetensors").read_bytes()
    train(views_config(sources, tmp_path, folds=3))
    assert (run / "best.safetensors").read_bytes() == again


def test_a_fold_is_trained_without_its_sources(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = check_options(views_config(sources, tmp_path, folds=3))
    prepared = prepare(sources, config.prepared, form=prepared_form(config.view_size))
    rows = prepared.rows("train")
    run = Run(config, tmp_path / "r", prepared, rows, prepared.rows("val"), "float32")
    parts: list[Run] = []
    monkeypatch.setattr("mai_app.training.folds.score_fold", lambda *_: [])
    train_folds(run, parts.append, torch.device("cpu"))
    everything = {prepared.sources[row] for row in rows}
    for part, fold in zip(parts, read_folds(run.folder), strict=True):
        seen = {prepared.sources[row] for row in part.train_rows}
        assert not seen & fold.sources
        assert seen | fold.sources == everything


def test_with_and_without_the_cache_the_weights_are_the_same(sources: Path, tmp_path: Path) -> None:
    cached = load_checkpoint(train(views_config(sources, tmp_path, name="a")) / "best.safetensors").network
    fresh = load_checkpoint(train(views_config(sources, tmp_path, name="b", cache=False)) / "best.safetensors").network
    assert list((tmp_path / "prepared").glob("*/features/*/000000.npy"))
    for name, tensor in cached.state_dict().items():
        torch.testing.assert_close(tensor, fresh.state_dict()[name], atol=2e-4, rtol=1e-3)
    trained = [name for name in cached.state_dict() if name.startswith("heads.")]
    start = views_config(sources, tmp_path, name="c", seed=1)
    other = load_checkpoint(train(start) / "best.safetensors").network
    assert not all(torch.allclose(cached.state_dict()[n], other.state_dict()[n], atol=2e-3) for n in trained)


def test_features_are_computed_anew_where_what_they_depend_on_changed(sources: Path, tmp_path: Path) -> None:
    train(views_config(sources, tmp_path, name="a"))
    (first,) = (tmp_path / "prepared").glob("*/features/*")
    before = (first / "000000.npy").stat().st_mtime_ns
    train(views_config(sources, tmp_path, name="b", learning_rate=1e-2))
    assert (first / "000000.npy").stat().st_mtime_ns == before
    changes: list[dict[str, Any]] = [{"draws": 5}, {"seed": 5}, {"blocks": "2"}, {"source_cap": 3}]
    for number, change in enumerate(changes):
        train(views_config(sources, tmp_path, name=f"c{number}", **change))
        assert len(list((tmp_path / "prepared").glob("*/features/*"))) == number + 2


@pytest.mark.parametrize("cache", [True, False])
def test_stopped_within_an_epoch_drop_out_goes_on_where_it_was(sources: Path, tmp_path: Path, cache: bool) -> None:
    config = views_config(sources, tmp_path, head="mlp", cache=cache, save_minutes=0, epochs=1)
    reference = train(config)
    saves: list[int] = []

    def stop_once() -> None:
        saves.append(1)
        if len(saves) == 2:
            raise ZeroDivisionError

    again = replace(config, name="stopped")
    with pytest.raises(ZeroDivisionError):
        train(again, on_save=stop_once)
    stopped = train(again)
    assert (stopped / "best.safetensors").read_bytes() == (reference / "best.safetensors").read_bytes()


def test_few_files_hold_the_features_however_many_there_are(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = load_checkpoint(train(views_config(sources, tmp_path, name="a")) / "best.safetensors").network
    monkeypatch.setattr("mai_app.training.features.PER_FILE", 10)
    monkeypatch.setattr("mai_app.training.features.MAX_FILES", 3)
    many = load_checkpoint(train(views_config(sources, tmp_path, name="b")) / "best.safetensors").network
    folders = sorted((tmp_path / "prepared").glob("*/features/*"), key=lambda folder: len(list(folder.glob("*.npy"))))
    assert [len(list(folder.glob("*.npy"))) for folder in folders] == [1, 3]
    for name, tensor in few.state_dict().items():
        torch.testing.assert_close(tensor, many.state_dict()[name])


@pytest.mark.parametrize(("tune", "folds"), [("head", 2), ("last:1", 0)])
def test_killed_again_and_again_it_ends_with_the_very_same_weights(
    sources: Path, tmp_path: Path, tune: str, folds: int
) -> None:
    config = views_config(sources, tmp_path / "undisturbed", folds=folds, tune=tune, epochs=2)
    reference = train(config)
    prepare(sources, tmp_path / "prepared", form=prepared_form(config.view_size))
    words = [sys.executable, "-m", "mai_app", "train", "--data", str(sources), "--recipe", "views", *WORDS]
    words += ["--folds", str(folds), "--tune", tune, "--epochs", "2", "--device", "cpu", "--precision", "float32"]
    words += ["--name", "v", "--save-minutes", "0"]
    chance = random.Random(1)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=chance.uniform(4, 9) * (1 + kills / 3))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            time.sleep(0.01)
            continue
        assert process.returncode == 0, errors
        break
    assert kills >= 1
    ours, theirs = (load_checkpoint(run / "best.safetensors") for run in (tmp_path / "runs" / "v", reference))
    assert ours.weights_sha256 == theirs.weights_sha256
    assert ours.info.calibration == theirs.info.calibration


def test_views_and_traces_are_fused_to_one_model(sources: Path, tmp_path: Path) -> None:
    views = train(views_config(sources, tmp_path, folds=3))
    traces = train(
        TrainConfig(
            data=sources,
            name="t",
            epochs=1,
            batch_size=8,
            folds=2,
            device="cpu",
            precision="float32",
            runs=tmp_path / "runs",
            prepared=tmp_path / "prepared",
        )
    )
    config = FuseConfig(
        data=sources, views="v", traces="t", name="f", device="cpu", runs=tmp_path / "runs", prepared=tmp_path / "p"
    )
    with pytest.raises(RunError, match="other data"):
        fuse(replace(config, traces=str(retold(traces))))
    folder = fuse(config)
    network = load_checkpoint(folder / "best.safetensors").network
    of_views = load_checkpoint(views / "best.safetensors").network.state_dict()
    of_traces = load_checkpoint(traces / "best.safetensors").network.state_dict()
    for name, tensor in network.state_dict().items():
        if name.startswith("traces."):
            assert torch.equal(tensor, of_traces[name.removeprefix("traces.")])
        elif name != "fusion":
            assert torch.equal(tensor, of_views[name])
    assert network.fusion.shape == (4,)
    files = sorted((sources / "val").rglob("*.jpg"))[:4]
    detector = load(folder, "cpu")
    assert all(row.error is None and row.image.crops == 2 for row in detector.predict(files) if row.image)
    # The column that stood for TraceNet in the fusion is what the fused network computes of the same image: here by
    # the fold's own network in the fused one's place.
    fold = traces / "fold-1"
    rows = [json.loads(line) for line in (fold / "out-of-source" / "native.jsonl").read_text().splitlines()[1:]]
    stand_in = load_checkpoint(folder / "best.safetensors")
    stand_in.network.get_submodule("traces").load_state_dict(
        load_checkpoint(fold / "best.safetensors").network.state_dict()
    )
    for row in rows[:5]:
        inputs = to_inputs(decode_file(sources / row["file"]).pixels, stand_in.info.preprocessing)
        columns = Detector(stand_in, torch.device("cpu")).view_logits([inputs])
        assert columns[0, 2] == pytest.approx(row["logits"]["clean"], abs=1e-2)
    with pytest.raises(RunError, match="is one of the two runs"):
        fuse(replace(config, name="v"))


def retold(run: Path) -> Path:
    """A copy of a run's checkpoint that says to be trained on other data."""
    read = load_checkpoint(run / "best.safetensors")
    path = run / "other.safetensors"
    save_checkpoint(path, read.network, replace(read.info, data_fingerprint="0"))
    return path
