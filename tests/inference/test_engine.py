"""Engines: what a processor computes in half precision is nearly what it computes in float32."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mai_app.core.device import choose_precision
from mai_app.images.preprocess import to_inputs
from mai_app.inference import engine as module
from mai_app.inference.detector import Detector, load
from mai_app.inference.engine import fold_norms, make_engine
from mai_app.models.networks import TraceNet
from tests.conftest import picture

CPU = torch.device("cpu")


def scores(detector: Detector, precision: str) -> list[float]:
    detector.engine = make_engine(detector.checkpoint.network, CPU, precision)
    inputs = [
        to_inputs(picture(np.random.default_rng(i), i % 2, 300, 260 + i), detector.info.preprocessing) for i in range(6)
    ]
    return [float(score) for score in detector.p_synthetic(detector.logits(inputs))]


@pytest.mark.parametrize("model", ["mai-1", "traces"])
def test_half_precision_moves_no_score_by_more_than_a_hundredth(model: str) -> None:
    detector = load(model, "cpu", Path("none"))
    exact, half = scores(detector, "float32"), scores(detector, "bfloat16")
    assert len(set(exact)) == 6
    np.testing.assert_allclose(half, exact, atol=0.01)
    assert half != exact
    # The copy leaves the network, which heatmaps and exports take, as it was.
    assert {parameter.dtype for parameter in detector.checkpoint.network.parameters()} == {torch.float32}
    assert scores(detector, "float32") == exact


def test_the_processor_chooses_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load("traces", "cpu", Path("none"))
    assert detector.engine.name == f"{choose_precision('auto', CPU)} on cpu"
    inputs = [np.random.default_rng(i).integers(0, 256, (5, 200, 200, 3), np.uint8) for i in range(3)]
    expected = detector.logits(inputs)
    monkeypatch.setattr(module, "CROPS_ON_CPU", 4)
    other = Detector(detector.checkpoint, CPU)
    assert other.engine.inputs_at_a_time == 4
    np.testing.assert_allclose(other.logits(inputs), expected, atol=1e-3)


def test_the_baseline_stays_in_float32(trained_run: Path) -> None:
    detector = load(trained_run, "cpu")
    assert detector.engine.name == "float32 on cpu"


def test_normalisations_are_folded_into_the_convolutions() -> None:
    torch.manual_seed(0)
    network = TraceNet()
    network.train()
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64))  # statistics that are not those of a new network
    network.eval()
    images = torch.rand(2, 3, 64, 48)
    with torch.inference_mode():
        expected = network(images)
        folded = fold_norms(network)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
        torch.testing.assert_close(folded(images), expected, atol=1e-5, rtol=1e-4)


def test_a_processor_without_amx_computes_in_float32(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n")
    words = (
        "import pathlib\n"
        "import mai_app.core.processor\n"
        "mai_app.core.processor._FLAGS = pathlib.Path('cpuinfo')\n"
        "import mai_app\n"
        "print(mai_app.load('mai-1', 'cpu').engine.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", words],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "float32 on cpu\n"), done.stderr
