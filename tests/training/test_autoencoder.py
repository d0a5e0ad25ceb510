"""The small autoencoders learn, take images of any size, and join tiles without a seam; a Hub one is read as well."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mai_app.data.prepare import prepare
from mai_app.errors import CheckpointError
from mai_app.training import autoencoder
from mai_app.training.autoencoder import (
    DECODERS,
    FACTOR,
    HALO,
    SmallAutoencoder,
    hub_reconstruction,
    load_small,
    save_small,
    small_reconstruction,
    train_small,
)
from tests.conftest import picture, write_data_set

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_learns_and_a_seed_gives_the_same_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "_BATCH", 4)
    monkeypatch.setattr(autoencoder, "_PATCHES", 40)
    prepared = prepare(write_data_set(tmp_path / "d", 4, 1, 1), tmp_path / "prepared")
    rows = prepared.rows("train")[prepared.labels[prepared.rows("train")] == 0]
    network, losses = train_small(kind, prepared, rows, 12, 0, CPU)
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
    again, same = train_small(kind, prepared, rows, 12, 0, CPU)
    assert same == losses
    save_small(tmp_path / "a.safetensors", network, {})
    save_small(tmp_path / "b.safetensors", again, {})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    pixels = picture(np.random.default_rng(1), 0, 53, 75)
    stored = small_reconstruction(load_small(tmp_path / "a.safetensors", kind), CPU)(pixels)
    assert np.array_equal(stored, small_reconstruction(network, CPU)(pixels))
    assert np.abs(stored.astype(int) - pixels).mean() < 25


@pytest.mark.parametrize("kind", DECODERS)
def test_tiles_join_without_a_seam(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = SmallAutoencoder(kind).eval()
    network.initialize(torch.from_numpy(rng.random((8, 3, 64, 64), np.float32)))
    reconstruct = small_reconstruction(network, CPU)
    pixels = rng.integers(0, 256, (301, 217, 3), np.uint8)
    whole = reconstruct(pixels)
    monkeypatch.setattr(autoencoder, "TILE", 64)
    tiled = reconstruct(pixels)
    # The order of sums may differ with the tile's size, and a rounding with it.
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert HALO % FACTOR == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (8, 8, 3), (9, 30, 3)])
def test_any_size_is_taken(shape: tuple[int, int, int]) -> None:
    pixels = np.full(shape, 90, np.uint8)
    assert small_reconstruction(SmallAutoencoder("nearest").eval(), CPU)(pixels).shape == shape


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="delete it"):
        load_small(tmp_path / "x.safetensors", "nearest")


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CheckpointError, match=r"mai-app\[twins\]"):
        hub_reconstruction("owner/name", CPU)


@pytest.mark.parametrize("subfolder", ["", "vae"])
@pytest.mark.filterwarnings("default")
def test_a_latent_diffusion_autoencoder_is_read_from_a_folder(subfolder: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the extra twins is not installed")
    torch.manual_seed(0)
    made = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=32,
    )
    made.save_pretrained(tmp_path / subfolder)
    reconstruct = hub_reconstruction(str(tmp_path), CPU)
    pixels = picture(np.random.default_rng(1), 0, 37, 51)
    assert reconstruct(pixels).shape == pixels.shape
    images = torch.from_numpy(np.pad(pixels, ((0, 1), (0, 1), (0, 0)), "symmetric")).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = made.eval().decode(made.encode(images).latent_dist.mode()).sample[0, :, :37, :51] / 2 + 0.5
    levels = (expected.clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    assert np.abs(levels - reconstruct(pixels)).max() < 0.51

    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="can't be had"):
        hub_reconstruction(str(tmp_path), CPU)
