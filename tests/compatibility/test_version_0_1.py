"""What version 0.1 wrote is read: a run is loaded, predicts the same and is trained further; rows and sets are used.

version-0.1.tar.xz was made by the code at commit 9fdfe77, on simulated pictures of 80×72 pixels, with these commands:

    mai train --data pictures --name old --model traces --input crop --crop-size 48 --batch-size 8 --learning-rate 3e-4
        --device cpu --precision float32 --epochs 2     (third-epoch.json: the last row of the same with --epochs 3)
    mai evaluate --data pictures --model old --device cpu
    mai scan pictures/test --model old --device cpu --out scan.jsonl
    mai predict pictures/test/ --model old --evidence --json --device cpu       (and --model traces)

prepared/few was prepared of four pictures with a manifest.csv that pairs two of them.
"""

import json
import shlex
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mai_app import cli, load
from mai_app.data.prepare import prepare
from mai_app.errors import DataError
from mai_app.inference.engine import make_engine
from mai_app.models.registry import list_models

ARCHIVE = Path(__file__).with_name("version-0.1.tar.xz")
TRAIN = (
    "train --data pictures --name old --model traces --input crop --crop-size 48 --longest 0 --batch-size 8 --ema 0 "
    "--optimizer rmsprop --learning-rate 3e-4 --device cpu --precision float32 --epochs"
)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as version 0.1 left it, which is the working folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("model", ["old", "traces"])
def test_a_model_predicts_the_same(old: Path, model: str) -> None:
    before = json.loads((old / f"predict-{model}.json").read_text())
    detector = load(model, "cpu")
    detector.engine = make_engine(detector.checkpoint.network, detector.device, "float32")  # as version 0.1
    now = [asdict(row) for row in detector.predict([row["path"] for row in before], evidence=True)]
    assert len(before) == 8
    for was, row in zip(before, json.loads(json.dumps(now)), strict=True):
        # Processors round differently, beyond the fourth digit.
        assert row.pop("p_synthetic") == pytest.approx(was.pop("p_synthetic"), abs=1e-4)
        assert row == was


def test_a_run_is_listed_and_trained_further(old: Path) -> None:
    (row,) = [model for model in list_models(Path("runs")) if model.kind == "run"]
    assert (row.name, row.model, row.epoch, row.default, row.error) == ("old", "traces", 2, True, None)
    before = rows(old / "runs/old/metrics.jsonl")
    assert cli.main([*TRAIN.split(), "3"]) == 0
    after = rows(old / "runs/old/metrics.jsonl")
    assert after[:2] == before
    expected = json.loads((old / "third-epoch.json").read_text())
    assert after[2].keys() == expected.keys()
    for figure in ("epoch", "learning_rate", "val_auroc"):
        assert after[2][figure] == expected[figure]
    for figure in ("train_loss", "val_loss"):
        assert after[2][figure] == pytest.approx(expected[figure], rel=0.05)


def test_other_settings_than_the_runs_own_are_refused(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*TRAIN.replace("3e-4", "1e-3").split(), "3"]) == 2
    assert "was started with other settings (learning_rate 0.0003 → 0.001)" in capsys.readouterr().err
    # Today's defaults are other ones: what the run has instead is named, and the options that carry it on.
    command = ["train", "--data", "pictures", "--name", "old", "--device", "cpu", "--precision", "float32"]
    before = rows(old / "runs/old/metrics.jsonl")
    assert cli.main([*command, "--epochs", "3"]) == 2
    refusal = capsys.readouterr().err
    assert "optimizer rmsprop → adamw" in refusal
    assert rows(old / "runs/old/metrics.jsonl") == before
    options = shlex.split(refusal.rpartition("choose another --name, or carry on with: ")[2])
    assert options[:2] == ["--model", "traces"]
    assert cli.main(["train", "--data", "pictures", "--name", "old", *options]) == 0
    after = rows(old / "runs/old/metrics.jsonl")
    assert (after[:2], after[2]["epoch"], len(after)) == (before, 3, 3)


def test_a_scan_and_an_evaluation_go_on_from_their_rows(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scanned, scored = (old / "scan.jsonl").read_bytes(), rows(old / "runs/old/report-test/scores.jsonl")
    report = json.loads((old / "runs/old/report-test/report.json").read_text())
    assert cli.main(["scan", "pictures", "--model", "old", "--device", "cpu", "--out", "scan.jsonl"]) == 0
    assert (old / "scan.jsonl").read_bytes().startswith(scanned)
    assert len(rows(old / "scan.jsonl")) == 32
    assert cli.main(["evaluate", "--data", "pictures", "--model", "old", "--device", "cpu"]) == 0
    assert len(rows(old / "runs/old/report-test/scores.jsonl")) == len(scored)
    again = json.loads((old / "runs/old/report-test/report.json").read_text())
    assert again.keys() == report.keys()
    for tier, figures in report["tiers"].items():
        assert again["tiers"][tier]["auroc"]["value"] == pytest.approx(figures["auroc"]["value"], abs=0.05)
    assert "AUROC" in capsys.readouterr().out


def test_a_prepared_set_and_its_manifest_are_read(old: Path) -> None:
    prepared = prepare(Path("few"), Path("prepared"))
    assert prepared.folder == Path("prepared/few")
    assert [prepared.file(row) for row in range(4)] == [
        "authentic/0.png",
        "authentic/1.png",
        "synthetic/0.png",
        "synthetic/1.png",
    ]
    assert prepared.labels.tolist() == [0, 0, 1, 1]
    assert prepared.table["tie"].to_pylist() == ["pair:p0", "", "pair:p0", ""]
    assert prepared.table["generator"].to_pylist() == ["", "", "noise", ""]
    assert prepared.window(0).shape == (64, 64, 3)
    assert prepared.stretched(3).std() > 1
    assert np.all(prepared.splits != "")
    assert prepared.form.whole == 0


def test_a_set_of_another_version_is_refused(old: Path) -> None:
    path = old / "prepared/few/prepared.json"
    path.write_text(path.read_text().replace('"version": 3', '"version": 2'))
    with pytest.raises(DataError, match="of version 2, this MAI reads 4; delete it"):
        prepare(Path("few"), Path("prepared"))
