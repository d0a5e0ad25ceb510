"""From the Hub's data sets to a detector with a report, by two commands on Modal, with the real client and a simulator.

What stands for the Hub is on this machine, data sets and start weights alike; the network is a small one of timm's.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from mai_app.models.checkpoint import load_checkpoint
from tests.data.stand_ins import add_benchmark, add_modern
from tests.hub import Hub
from tests.modal import SIMULATOR, on_modal, summary

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not SIMULATOR.exists(), reason="no simulator of Modal here")]

MAI = "python local_entry.py"
PREPARE = f"{MAI} prepare --preset modern --view-size 64 --on modal"
SMALL = "--model test_vit --blocks 1,3 --view-size 64 --tune lora:2 --epochs 12 --batch-size 8 --save-minutes 0"
TRAIN = f"{MAI} train --data modern --recipe strong {SMALL} --name s --on modal"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub() as hub:
        add_modern(hub)
        add_benchmark(hub)
        torch.manual_seed(5)
        path = tmp_path_factory.mktemp("weights") / "model.safetensors"
        safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), path)
        hub.add("models/timm/test_vit.r160_in1k", "model.safetensors", path)
        yield hub


def weights(folder: Path) -> bytes:
    (found,) = (folder / "state").rglob("runs/s/best.safetensors")
    return found.read_bytes()


def test_two_commands_and_a_report_comes_home(hub: Hub, tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1,localhost"}
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    report = disturbed / "report"
    done = on_modal(f"{PREPARE} && {TRAIN}", undisturbed, **environment)
    assert done.returncode == 0, done.stderr
    found = summary(undisturbed)
    (trained,) = (row for row in found["executions"] if row["function"] == "train_strong")
    commits = (event for event in found["events"] if event["event"] == "volume.commit")
    saved = next(event["t"] for event in commits if any("runs/s/" in path for path in event["changed"]))
    first_save = saved - trained["started"]
    # Amid the saves, and early: the second training, whose files are in memory, may be twice as quick.
    moment = first_save + 0.3 * (trained["seconds"] - first_save)

    refused = on_modal(f"{PREPARE} --budget 0.05", disturbed, **environment)
    assert refused.returncode == 2
    assert "nothing was hired" in refused.stderr
    assert not summary(disturbed)["executions"]

    faults = ("--kill", "prepare_unit@1", "--preempt", f"train_strong@{moment:.1f}")
    done = on_modal(f"{PREPARE} --budget 60 && {TRAIN} --budget 60", disturbed, *faults, **environment)
    assert done.returncode == 0, done.stderr
    assert "--budget 60" in done.stderr
    attempts = [row for row in summary(disturbed)["executions"] if row["function"] == "train_strong"]
    assert len(attempts) == 2
    assert weights(disturbed) == weights(undisturbed)

    done = on_modal(
        f"{MAI} prepare --preset benchmark --view-size 64 --on modal &&"
        f"{MAI} evaluate --data benchmark --model s --out {report} --on modal && "
        f"modal volume get mai runs/s/best.safetensors {disturbed}/ >&2",
        disturbed,
        **environment,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((report / "report.json").read_text())
    assert facts["authentic"] >= 1
    assert facts["synthetic"] >= 1
    assert "<html" in (report / "report.html").read_text()
    info = load_checkpoint(disturbed / "best.safetensors").info
    assert info.model == "test_vit"
    assert info.weights_licence == "apache-2.0"
    assert info.data_licences["openfake"] == "CC BY-NC 4.0"
    card = (report / "MODEL_CARD.md").read_text()
    assert "licence apache-2.0" in card
    assert "openfake: CC BY-NC 4.0" in card
