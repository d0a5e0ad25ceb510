"""One preprocessing everywhere: training, validation, evaluation and prediction see the same numbers."""

from pathlib import Path

import numpy as np
import pytest

from mai_app import load
from mai_app.config import SHOWN_SCORES, InputMode, Preprocessing
from mai_app.data.batches import TrainingImages, validation_batches
from mai_app.data.prepare import prepare
from mai_app.images.decode import decode_file
from mai_app.images.preprocess import to_inputs
from mai_app.training.loop import predict_logits


def test_training_and_prediction_see_the_same_pixels(data_set: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    preprocessing = Preprocessing(input="resize")
    batch, _ = TrainingImages(prepared, preprocessing, seed=0, epoch=0).__getitems__([(4, 0), (99, 1)])
    for row, pixels in zip((4, 99), batch.numpy(), strict=True):
        decoded = decode_file(data_set / prepared.file(row)).pixels
        np.testing.assert_array_equal(to_inputs(decoded, preprocessing), pixels[None])


@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_validation_and_prediction_see_the_same_pixels(data_set: Path, tmp_path: Path, mode: InputMode) -> None:
    # The pictures are smaller than a prepared window, so that it holds all that prediction crops from.
    prepared = prepare(data_set, tmp_path)
    ((pixels, _),) = validation_batches(prepared, np.array([4, 99]), Preprocessing(input=mode), batch_size=8)
    for row, validated in zip((4, 99), pixels.numpy(), strict=True):
        decoded = decode_file(data_set / prepared.file(row)).pixels
        np.testing.assert_array_equal(to_inputs(decoded, Preprocessing(input=mode))[0], validated)


def test_validation_and_prediction_give_the_same_logits(data_set: Path, trained_run: Path, tmp_path: Path) -> None:
    prepared = prepare(data_set, tmp_path)
    detector = load(trained_run, "cpu")
    preprocessing = detector.info.preprocessing
    rows = np.arange(0, 128, 9)
    validated = predict_logits(detector.checkpoint.network, prepared, rows, preprocessing, 16, detector.device)
    files = [data_set / prepared.file(int(row)) for row in rows]
    inputs = [to_inputs(decode_file(path).pixels, preprocessing) for path in files]
    np.testing.assert_allclose(detector.logits(inputs), validated, atol=1e-5)
    scores = [prediction.p_synthetic for prediction in detector.predict(files)]
    shown = detector.p_synthetic(validated).clip(*SHOWN_SCORES)
    np.testing.assert_allclose(np.array(scores, dtype=float), shown, atol=1e-5)
