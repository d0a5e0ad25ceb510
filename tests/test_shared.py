"""What needs the development images beside the checkout; `make check-shared` runs it."""

import json
from pathlib import Path

import pytest

from mai_app.config import TIERS
from mai_app.data.prepare import prepare
from tests.conftest import Run

DATA = Path(__file__).parents[2] / "shared" / "data"

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not DATA.is_dir(), reason="no development images here")]


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
