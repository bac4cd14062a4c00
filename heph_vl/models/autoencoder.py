"""Phase autoencoder: a crop as latents a quarter of its side, and back; and its loss.

    B images, H x W pixels, h x w = H/f x W/f cells, C latent channels

    pixel_values (B, 3, H, W), valid (B, H, W) -> channels: Re, Im, coherence (-1 = no data)
    AutoencoderKL.encode -> latents (B, C, h, w)
    AutoencoderKL.decode -> mean phasor (its modulus tells how sure the phase is), coherence

Phasors in and out are means: of length 1 on ground, 0 in grain, which has no phase to be told.
`data.grain` draws a phase of such a mean, so that decoded pictures have grain again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.errors import HephError
from heph_vl.hub import located
from heph_vl.models.gather import gather_rows

# Of the third channel: no data is -1, and the least measured coherence about 0.1.
_NO_DATA_BELOW = -0.45
# Between these coherences grain ends: neighbouring phase steps agree by 0.8 and by 0.985
# (`data.phasors`).
_PHASE_BEGINS = (0.13, 0.19)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the networks and weights of the loss.

    Raises:
        HephError: If a size does not fit.
    """

    widths: tuple[int, ...] = (64, 128, 128)  # each but the last halves the side
    layers: int = 2  # residual blocks of each width
    latent_channels: int = 4
    coherence_floor: float = 0.1  # weight of the phase where coherence is 0; 1 where it is 1
    coherence_weight: float = 1.0  # of the third channel against the phase
    # Of the latents' mean divergence from the normal distribution; with ten times as much (and
    # another weight of the phase) they were whiter (eval/LOG.md).
    kl_weight: float = 1e-3

    def __post_init__(self) -> None:
        if not self.widths or any(width % 16 or width < 16 for width in self.widths):
            raise HephError("model.widths", f"{list(self.widths)}", "multiples of 16")
        if self.layers < 1 or self.latent_channels < 1:
            what = f"{self.layers}, {self.latent_channels}"
            raise HephError("model.layers, latent_channels", what, "at least 1 each")


class Decoded(NamedTuple):
    """What latents mean.

    Attributes:
        phasor: (B, H, W) complex64, mean phasor, modulus at most 1, 0 without data.
        coherence: (B, H, W) float32 in [0, 1], 0 without data.
        valid: (B, H, W) bool.
    """

    phasor: Tensor
    coherence: Tensor
    valid: Tensor


class PhaseAutoencoder(nn.Module):
    """Diffusers' AutoencoderKL on phasor and coherence.

    Args:
        config: Its sizes.
        network: One to use instead of a new one.
    """

    def __init__(self, config: AutoencoderConfig, network: AutoencoderKL | None = None) -> None:
        super().__init__()
        self.config = config
        count = len(config.widths)
        self.network = network or AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * count,
            up_block_types=("UpDecoderBlock2D",) * count,
            block_out_channels=config.widths,
            layers_per_block=config.layers,
            latent_channels=config.latent_channels,
            norm_num_groups=16,
        )
        # A quarter faster in bfloat16 on CPU.
        self.network.to(memory_format=torch.channels_last)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Channels, their reconstruction from sampled latents, and the latents' moments."""
        _check_size(self.network, batch["valid"])
        channels = to_channels(batch["pixel_values"], batch["valid"])
        posterior = self.network.encode(channels).latent_dist
        latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        return {
            "channels": channels,
            "decoded": self.network.decode(latents).sample.float(),
            "mean": posterior.mean.float(),
            "logvar": posterior.logvar.float(),
        }


def factor(network: AutoencoderKL) -> int:
    """Pixels along the side of a latent cell."""
    return int(2 ** (len(network.config.block_out_channels) - 1))


def to_channels(pixel_values: Tensor, valid: Tensor) -> Tensor:
    """Network input: the mean of what may be seen, not one draw of its noise.

    Grain has no mean phase, so its phasors are 0; the speckle of the coherence is averaged over
    3 x 3 pixels. Latents that keep such noise cannot be predicted by a denoiser, only reproduced.

    Args:
        pixel_values: (B, 3, H, W) float32: Re and Im of the phasor, coherence.
        valid: (B, H, W) bool.

    Returns:
        (B, 3, H, W) float32: Re, Im, and coherence, -1 without data.
    """
    level, share = (
        F.avg_pool2d(values[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        for values in (pixel_values[:, 2] * valid, valid.float())
    )
    level = level / share.clamp(min=1e-6)
    low, high = _PHASE_BEGINS
    sure = ((level - low) / (high - low)).clamp(0, 1)
    coherence = torch.where(valid, level, -1.0)
    return torch.cat([pixel_values[:, :2] * sure[:, None], coherence[:, None]], dim=1)


def encode(network: AutoencoderKL, pixel_values: Tensor, valid: Tensor) -> Tensor:
    """Latents of images: the posterior's mean, of mean 0 and deviation 1 on its training images.

    Args:
        network: A trained one, with `latents_mean` and `latents_std`.
        pixel_values: (B, 3, H, W) float32, H and W multiples of `factor`.
        valid: (B, H, W) bool.

    Returns:
        (B, C, h, w) float32.
    """
    _check_size(network, valid)
    mean = network.encode(to_channels(pixel_values, valid)).latent_dist.mean.float()
    centre, spread = _scale(network, mean)
    latents: Tensor = (mean - centre) / spread
    return latents


def decode(network: AutoencoderKL, latents: Tensor) -> Decoded:
    """Images of latents.

    Args:
        network: As for `encode`.
        latents: (B, C, h, w) float32.

    Returns:
        What they mean.
    """
    centre, spread = _scale(network, latents)
    mean = (latents * spread + centre).to(network.dtype)
    return from_channels(network.decode(mean).sample.float())


def from_channels(channels: Tensor) -> Decoded:
    """What the network's output means.

    Args:
        channels: (B, 3, H, W) float32, as of `to_channels`, not bounded.

    Returns:
        The same in bounds.
    """
    valid = channels[:, 2] > _NO_DATA_BELOW
    phasor = torch.complex(channels[:, 0], channels[:, 1])
    phasor = phasor / phasor.abs().clamp(min=1) * valid
    return Decoded(phasor, channels[:, 2].clamp(0, 1) * valid, valid)


def _check_size(network: AutoencoderKL, valid: Tensor) -> None:
    height, width = valid.shape[1:]
    if height % factor(network) or width % factor(network):
        what = f"images of {width} x {height} px"
        fix = f"sides must be multiples of {factor(network)} px: leave out images below the crop"
        raise HephError("autoencoder", what, fix)


def _scale(network: AutoencoderKL, like: Tensor) -> tuple[Tensor, Tensor]:
    values = network.config.latents_mean, network.config.latents_std
    if None in values:
        fix = "train it with training/train_autoencoder.py, which measures it"
        raise HephError("autoencoder", "it does not say the scale of its latents", fix)
    centre, spread = (torch.tensor(v, device=like.device)[:, None, None] for v in values)
    return centre, spread


def set_scale(network: AutoencoderKL, centre: list[float], spread: list[float]) -> None:
    """Record what latents of training images are like, for `encode` and `decode`.

    Args:
        network: The trained one.
        centre: Mean of each of C channels.
        spread: Standard deviation of each.
    """
    network.register_to_config(latents_mean=centre, latents_std=spread)


def autoencoder_loss(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Circular reconstruction loss, coherent ground counting most; the same on every rank.

    |m - z|^2 of a mean phasor m and a unit one z is 1 + |m|^2 - 2 |m| cos(phase error): it knows
    no cut of the circle, and is least at the mean of all z that the latents leave open. In grain z
    is 0 (`to_channels`).

    Args:
        model: A `PhaseAutoencoder`, possibly wrapped for several ranks.
        batch: Of `data.transforms.collate`, or at least `pixel_values` and `valid`.

    Returns:
        The loss (), and scalars to log.
    """
    unwrapped: Any = getattr(model, "module", model)
    config: AutoencoderConfig = unwrapped.config
    out = model(batch)
    wanted, given, valid = out["channels"].float(), out["decoded"], batch["valid"]
    floor = config.coherence_floor
    weight = valid * (floor + (1 - floor) * wanted[:, 2].clamp(min=0))
    phase = (given[:, :2] - wanted[:, :2]).square().sum(1) * weight
    third = (given[:, 2] - wanted[:, 2]).square()
    kl = 0.5 * (out["mean"].square() + out["logvar"].exp() - 1 - out["logvar"])
    terms = torch.stack(
        [
            *(phase.sum(), weight.sum()),
            *(third.sum(), third.new_tensor(third.numel())),
            *(kl.sum(), kl.new_tensor(kl.numel())),
        ]
    )
    sums = gather_rows(terms[None])[0].sum(0)
    phase, third, kl = (sums[::2] / sums[1::2].clamp(min=1e-6)).unbind()
    loss = phase + config.coherence_weight * third + config.kl_weight * kl
    logs: dict[str, Tensor | float] = {
        "phase": phase.detach(),
        "coherence": third.detach(),
        "kl": kl.detach(),
    }
    return loss, logs


def save_autoencoder(network: AutoencoderKL, folder: str | Path) -> None:
    """Write a diffusers folder: config.json and safetensors."""
    network.save_pretrained(str(folder))


def load_autoencoder(folder: str | Path, *, revision: str | None = None) -> AutoencoderKL:
    """Read a folder of `save_autoencoder`, in evaluation mode.

    Args:
        folder: Where it was saved, or `user/repo` of the Hub.
        revision: Branch, tag or commit there.

    Returns:
        The network.

    Raises:
        HephError: The folder is incomplete, broken, or holds another model.
    """
    folder = located(folder, revision)
    if not (folder / "config.json").is_file():
        fix = "name the folder that training/train_autoencoder.py left as model/"
        raise HephError(str(folder), "no autoencoder here: no config.json", fix)
    try:
        network: Any = AutoencoderKL.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        what = f"not a saved autoencoder: {str(error).splitlines()[0]}"
        raise HephError(str(folder), what, "copy the whole folder again") from error
    if network.config.in_channels != 3:
        what = f"it has {network.config.in_channels} channels, not phasor and coherence"
        raise HephError(str(folder), what, "name one of training/train_autoencoder.py")
    return network.eval()
