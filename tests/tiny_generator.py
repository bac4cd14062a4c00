"""A generator of a few thousand parameters: autoencoder, text tower, denoiser and pipeline."""

import itertools
from collections.abc import Sequence
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from heph_vl.models.autoencoder import AutoencoderConfig, PhaseAutoencoder, set_scale
from heph_vl.models.generator import Frozen, GeneratorConfig, make_denoiser, make_scheduler
from heph_vl.models.pipeline import CaptionEncoder, InSARPipeline
from heph_vl.models.text import TextConfig, TextTower, tokenize, train_tokenizer

SIDE = 16  # px of the crops that it was made for
AUTOENCODER = AutoencoderConfig(widths=(16, 32), layers=1, latent_channels=4)
TEXT = TextConfig(vocab_size=400, context_length=160, width=32, layers=1, heads=2)
# Of latents: none is 0 or 1, so that leaving it out or turning it round shows.
CENTRE, SPREAD = [0.5, -0.25, 0.1, 0.3], [0.5, 2.0, 1.5, 0.8]
CAPTIONS = [
    f"A {kind}-type deformation of {level} intensity can be detected on the {side} side."
    for kind, level, side in itertools.product(
        ("sill", "mogi", "earthquake"), ("low", "high"), ("left", "right")
    )
] + ["No deformation activity can be detected. Turbulent mixing effect around the area."]


def config(**changes: Any) -> GeneratorConfig:
    return GeneratorConfig(**({"widths": (16, 32), "layers": 1, "heads": 2} | changes))


@cache
def tokenizer() -> Any:
    """Shared by all tests of a process: nothing changes it."""
    with TemporaryDirectory() as folder:
        return train_tokenizer(CAPTIONS, folder, TEXT.vocab_size)


def autoencoder(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    network = PhaseAutoencoder(AUTOENCODER).network.eval()
    set_scale(network, CENTRE, SPREAD)
    return network


def frozen(**changes: Any) -> Frozen:
    network = autoencoder()
    return Frozen(network, TextTower(TEXT), config(**changes))


def make(seed: int = 0, **changes: Any) -> InSARPipeline:
    """A pipeline of random weights."""
    parts = frozen(**changes)
    torch.manual_seed(seed)
    unet = make_denoiser(parts.config, AUTOENCODER.latent_channels, TEXT.width, SIDE // 2).eval()
    with torch.no_grad():  # what starts at 0 or small would hide what it multiplies
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return InSARPipeline(
        parts.autoencoder.to(memory_format=torch.contiguous_format),  # as a loaded one is
        unet,
        make_scheduler(parts.config),
        CaptionEncoder.of(parts.text),
        tokenizer(),
    )


def make_images(count: int, *, side: int = SIDE, seed: int = 0) -> dict[str, Tensor]:
    """`pixel_values` and `valid` of fringes, finer for each image, without data on the right."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(side) * (1 + torch.arange(count))[:, None] * 0.2
    phase = columns[:, None] + 0.3 * torch.randn(count, side, side, generator=generator)
    coherence = torch.rand(count, side, side, generator=generator)
    valid = (torch.arange(side) < side - 3).expand(count, side, side)
    channels = torch.stack([phase.cos(), phase.sin(), coherence], dim=1)
    return {"pixel_values": channels * valid[:, None], "valid": valid.clone()}


def make_batch(texts: Sequence[str]) -> dict[str, Tensor]:
    """Images and tokens of a training batch, one for each text."""
    return make_images(len(texts)) | tokenize(tokenizer(), texts, TEXT.context_length)
