"""The autoencoders that make twins: small ones, trained here, and those of latent-diffusion models from the Hub."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from mai_app.core.device import memory_format, to_numpy
from mai_app.core.files import write_bytes
from mai_app.core.log import bar
from mai_app.data.prepared import PreparedSet
from mai_app.errors import CheckpointError
from mai_app.images.decode import Pixels
from mai_app.images.preprocess import mirrored, random_window

DECODERS: Final = ("nearest", "transposed", "shuffle")
"""How a small autoencoder's decoder upsamples: as in latent diffusion, in most GANs, and in super-resolution."""
FACTOR: Final = 8
"""Downsampling factor from pixels to the latent, per side."""
LATENT: Final = 64
"""Channels of the small autoencoders' latent: a third of the 192 values of 8×8 pixels."""
TILE: Final = 768
"""Largest side, in pixels, of a forward pass: larger images go tile by tile, to bound memory."""
HALO: Final = 64
"""Overlap of tiles, in pixels: more than the small networks' receptive field reaches."""
_CROP: Final = 96
_BATCH: Final = 16
_RATE: Final = 2e-3
_NOISE: Final = 0.1
_PATCHES: Final = 400  # crops for the principal components that initialize the weights

Reconstruct = Callable[[Pixels], Pixels]
"""Maps pixels (height, width, 3) uint8, of any size, to their reconstruction, of the same shape and dtype."""


class SmallAutoencoder(nn.Module):
    """An autoencoder with a latent of 64 channels at an eighth of the resolution; `kind` is one of DECODERS.

    Input and output are (n, 3, h, w) float, 0 to 1 from black to white; h and w are multiples of 8. Without
    normalisation and attention a pixel depends on its surroundings alone, so that tiles join without a seam. The
    encoder is one linear layer: twins need the traces of a generator's decoder only.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, LATENT, FACTOR, stride=FACTOR)
        self.first = nn.Conv2d(LATENT, 96, 3, padding=1)
        self.residual = nn.Sequential(
            nn.SiLU(), nn.Conv2d(96, 96, 3, padding=1), nn.SiLU(), nn.Conv2d(96, 96, 3, padding=1)
        )
        self.to_quarter = _Upsampling(kind, 96, 48)
        self.to_half = _Upsampling(kind, 48, 24)
        self.to_whole = _Upsampling(kind, 24, 16)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstructions (n, 3, h, w) of images of that shape."""
        x = self.first(self.encoder(images - 0.5))
        x = x + self.residual(x)
        for upsampling in (self.to_quarter, self.to_half, self.to_whole):
            x = F.silu(upsampling(x))
        reconstructed: torch.Tensor = self.last(x) + 0.5
        return reconstructed

    @torch.no_grad()
    def initialize(self, images: torch.Tensor) -> None:
        """Initialize the weights from images (n, 3, h, w) float, 0 to 1, and torch's random state.

        A few minutes of training from random weights give a blur. So the encoder starts as the principal components of
        8×8 patches and the decoder as their inverse, by way of those of 4×4 and 2×2 patches, with noise on all weights
        (He et al. 2015, scaled down). Values pass a SiLU as x and as -x: SiLU(x) - SiLU(-x) = x.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                # Of a transposed layer's 4×4 taps with stride 2, four of each channel meet in a pixel.
                taps = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else 4 * layer.in_channels
                nn.init.normal_(layer.weight, 0, _NOISE * math.sqrt(2 / taps))
                nn.init.zeros_(layer.bias)
        bases = [
            _components(images, 8, LATENT),
            _components(images, 4, 24),
            torch.eye(12).reshape(3, 2, 2, 12),
            torch.eye(3).reshape(3, 1, 1, 3),
        ]
        self.encoder.weight.copy_(bases[0].permute(3, 0, 1, 2))
        self.first.weight[:LATENT, :, 1, 1] += torch.eye(LATENT)
        for stage, upsampling in enumerate((self.to_quarter, self.to_half, self.to_whole)):
            # Of a patch's components those of its four quarters: quarter's row and column, outputs, inputs.
            quarters = bases[stage].reshape(3, 2, 4 >> stage, 2, 4 >> stage, -1)
            maps = torch.einsum("crybxi,cyxo->rboi", quarters, bases[stage + 1])
            signed = torch.stack((maps, -maps), dim=3).flatten(2, 3)
            upsampling.initialize(torch.stack((signed, -signed), dim=4).flatten(3) if stage else signed)
        for colour in range(3):
            self.last.weight[colour, 2 * colour : 2 * colour + 2, 1, 1] += torch.tensor((1.0, -1.0))


class _Upsampling(nn.Module):
    """A layer from (n, before, h, w) to (n, after, 2h, 2w) that upsamples by one of DECODERS.

    nearest: Rombach et al. 2022 (latent diffusion), after Odena et al. 2016; transposed: Radford et al. 2016 (DCGAN);
    shuffle: Shi et al. 2016 (sub-pixel convolution).
    """

    def __init__(self, kind: str, before: int, after: int) -> None:
        super().__init__()
        self.kind = kind
        self.layer: nn.Conv2d | nn.ConvTranspose2d
        if kind == "transposed":
            self.layer = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        else:
            self.layer = nn.Conv2d(before, 4 * after if kind == "shuffle" else after, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "nearest":
            x = F.interpolate(x, scale_factor=2.0)
        x = self.layer(x)
        return F.pixel_shuffle(x, 2) if self.kind == "shuffle" else x

    def initialize(self, maps: torch.Tensor) -> None:
        """Add linear maps (2, 2, outputs, inputs) to the weights: one for each of the four pixels of a cell.

        After nearest-neighbour upsampling all four pixels are the same: their mean is the closest that one layer comes.
        """
        outputs, inputs = maps.shape[2:]
        weight = self.layer.weight
        if self.kind == "transposed":
            weight[:inputs, :outputs, 1:3, 1:3] += maps.permute(3, 2, 0, 1)
        elif self.kind == "shuffle":
            weight.view(-1, 2, 2, *weight.shape[1:])[:outputs, :, :, :inputs, 1, 1] += maps.permute(2, 0, 1, 3)
        else:
            weight[:outputs, :inputs, 1, 1] += maps.mean((0, 1))


def _components(images: torch.Tensor, side: int, count: int) -> torch.Tensor:
    """The first principal components (3, side, side, count), about grey, of patches of images (n, 3, h, w)."""
    patches = torch.from_numpy(to_numpy(F.unfold(images - 0.5, side, stride=side).transpose(1, 2).flatten(0, 1)))
    _, axes = torch.linalg.eigh(patches.T @ patches)
    first: torch.Tensor = axes[:, -count:].float().reshape(3, side, side, count)
    return first


def train_small(
    kind: str,
    prepared: PreparedSet,
    rows: npt.NDArray[np.int64],
    steps: int,
    seed: int,
    device: torch.device,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[SmallAutoencoder, list[float]]:
    """Train a small autoencoder on native crops of a prepared set's rows (n,); returns it and its loss at each step.

    The loss is the mean absolute error of pixels, plus that of the differences between neighbours, so that fine detail
    counts. On a CPU the same arguments give the same weights. All is float32: bfloat16 makes layers this thin slower,
    and its rounding would be a trace that no generator leaves.

    Raises KeyboardInterrupt when `stopped` returns True.
    """
    rng = np.random.default_rng((seed, DECODERS.index(kind)))
    torch.manual_seed(seed)
    network = SmallAutoencoder(kind).to(memory_format=torch.channels_last)
    network.initialize(_crops(prepared, rows, _PATCHES, rng))
    network.to(device).to(memory_format=memory_format(device))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, betas=(0.9, 0.99), weight_decay=0)
    losses = []
    for step in bar(iterable=range(steps), desc=f"autoencoder {kind}", unit="step"):
        if stopped():
            raise KeyboardInterrupt
        for parameters in optimizer.param_groups:
            parameters["lr"] = _RATE * min(1, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))
        crops = _crops(prepared, rows, _BATCH, rng).to(device, memory_format=memory_format(device))
        error = network(crops) - crops
        loss = error.abs().mean() + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return network.eval(), losses


def _crops(prepared: PreparedSet, rows: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw random native crops (count, 3, 96, 96) float, 0 to 1, of random rows."""
    drawn = [random_window(mirrored(prepared.window(int(row)), _CROP), _CROP, rng) for row in rng.choice(rows, count)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    return pixels.float().contiguous(memory_format=torch.channels_last) / 255


def save_small(path: Path, network: SmallAutoencoder, facts: dict[str, Any]) -> None:
    """Write a small autoencoder atomically, with the settings that shaped it in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(path, safetensors.torch.save(tensors, metadata={"mai": json.dumps(facts, sort_keys=True)}))


def load_small(path: Path, kind: str) -> SmallAutoencoder:
    """Load a small autoencoder to the CPU; raises CheckpointError if its file is damaged."""
    network = SmallAutoencoder(kind)
    try:
        network.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: is damaged ({reason}); delete it, it will be trained anew") from None
    return network.eval().to(memory_format=torch.channels_last)


def small_reconstruction(network: SmallAutoencoder, device: torch.device) -> Reconstruct:
    """Make a function of pixels from a small autoencoder; it works tile by tile."""
    network.to(device).to(memory_format=memory_format(device))

    def reconstruct(pixels: Pixels) -> Pixels:
        padded = _padded(pixels, FACTOR)
        out = np.empty_like(padded)
        for y in range(0, len(padded), TILE):
            for x in range(0, padded.shape[1], TILE):
                top, left = max(0, y - HALO), max(0, x - HALO)
                tile = _through(network, padded[top : y + TILE + HALO, left : x + TILE + HALO], device)
                out[y : y + TILE, x : x + TILE] = tile[y - top :, x - left :][:TILE, :TILE]
        return out[: len(pixels), : pixels.shape[1]]

    return reconstruct


def hub_reconstruction(name: str, device: torch.device) -> Reconstruct:
    """Make a function of pixels from a latent-diffusion model's autoencoder: OWNER/NAME[@REVISION], or a local folder.

    Rombach et al. 2022 (AutoencoderKL), loaded by diffusers from safetensors only; the latent is the posterior's mode.
    Where the repository holds a whole pipeline, its folder vae/ is used. Beyond 768 pixels a side diffusers' own tiles
    are used, which overlap and are blended, for its normalisation depends on the whole of its input.

    Raises CheckpointError where diffusers is not installed, or the autoencoder is unavailable.
    """
    try:
        from diffusers import AutoencoderKL  # noqa: PLC0415 - an extra, and seconds to import
    except ImportError as error:
        raise CheckpointError(
            f"--autoencoder {name}: needs diffusers ({error}); install it with pip install 'mai-app[twins]', "
            f"or take one of mixed, {', '.join(DECODERS)}"
        ) from None
    repository, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    reasons = []
    for subfolder in (None, "vae"):
        try:
            network = AutoencoderKL.from_pretrained(  # type: ignore[no-untyped-call]
                repository,
                subfolder=subfolder,
                revision=revision or None,
                use_safetensors=True,
                torch_dtype=torch.float32,
            )
            break
        except (OSError, ValueError, KeyError, TypeError) as error:
            reasons.append(" ".join(str(error).split())[:200])
    else:
        raise CheckpointError(f"--autoencoder {name}: can't be had ({'; '.join(reasons)})")
    factor = 2 ** (len(network.config.block_out_channels) - 1)
    network.enable_tiling()
    network.tile_sample_min_size, network.tile_latent_min_size = TILE, TILE // factor
    network.eval().to(device)

    def forward(images: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = network.decode(network.encode(images * 2 - 1).latent_dist.mode()).sample
        return decoded / 2 + 0.5

    return lambda pixels: _through(forward, _padded(pixels, factor), device)[: len(pixels), : pixels.shape[1]]


def _padded(pixels: Pixels, factor: int) -> Pixels:
    """Mirror-pad pixels (height, width, 3) until both sides are multiples of `factor`."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="symmetric")


def _through(network: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels, device: torch.device) -> Pixels:
    with torch.inference_mode():
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        images = images.to(device, memory_format=memory_format(device)).float() / 255
        levels = (network(images).clamp(0, 1) * 255).round().byte()
    return to_numpy(levels[0].permute(1, 2, 0), torch.uint8)
