"""From text to latents of an interferogram: the denoiser, and the loss it is trained with.

    B images, C x h x w latents, T tokens of W features

    image turned to mean phase 0 -> autoencoder (frozen) -> latents x
    text -> text tower (frozen) -> states (B, T, W), state_mask (B, T), pooled (B, W)
    x (B, C, h, w), noise n, time -> z between x and n
    UNet2DConditionModel(z, time; states, pooled) -> velocity
    loss = weighted mean square of its error

`flow` (rectified flow: Liu et al. 2022; Esser et al. 2024): z = (1 - s) x + s n, velocity n - x,
s drawn logit-normal. `v` (Salimans and Ho 2022): z = a x + s n with a^2 + s^2 = 1 on a cosine
schedule, velocity a n - s x, weighted by min-SNR (Hang et al. 2023).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr
from torch import Tensor, nn

from heph_vl.errors import HephError
from heph_vl.models.autoencoder import encode
from heph_vl.models.gather import gather_rows
from heph_vl.models.text import TextTower
from heph_vl.models.weights import state_sha256

TRAIN_STEPS = 1000  # of time, from 0 (data) to noise


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the denoiser, and how it learns.

    Raises:
        HephError: If a size or a share does not fit.
    """

    widths: tuple[int, ...] = (128, 256, 256)  # each but the last halves the side of the latents
    # Text is read at all widths but the first: at full resolution it costs most and tells least.
    layers: int = 2
    heads: int = 4
    prediction: Literal["flow", "v"] = "flow"
    caption_dropout: float = 0.1  # share of texts that are left out, for guidance
    min_snr: float = 5.0  # of `v`: weights of times with less noise are capped there

    def __post_init__(self) -> None:
        uneven = [w for w in self.widths if w % 16 or w % self.heads]
        if len(self.widths) < 2 or uneven or self.layers < 1:
            what = f"{list(self.widths)}, {self.layers}, {self.heads}"
            fix = "at least two multiples of 16 and of the heads, and at least 1 layer"
            raise HephError("model.widths, layers, heads", what, fix)
        if not 0 <= self.caption_dropout < 1 or self.min_snr <= 0:
            what = f"{self.caption_dropout}, {self.min_snr}"
            raise HephError("model.caption_dropout, min_snr", what, "0 to 1, and above 0")


def make_denoiser(
    config: GeneratorConfig, latent_channels: int, text_width: int, side: int
) -> UNet2DConditionModel:
    """A new denoiser.

    Args:
        config: Its sizes.
        latent_channels: C.
        text_width: W.
        side: Latent cells along a training crop.

    Returns:
        Diffusers' U-Net; the whole text's features join those of the time.
    """
    reading = ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * (len(config.widths) - 1)
    writing = [name.replace("Down", "Up") for name in reversed(reading)]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=tuple(reading),
        up_block_types=tuple(writing),
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        cross_attention_dim=text_width,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
        norm_num_groups=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=text_width,
    )


def make_scheduler(config: GeneratorConfig) -> SchedulerMixin:
    """The sampler that fits the prediction: Euler's steps of the flow, or DPM-Solver++ for `v`."""
    if config.prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_STEPS)
    return DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def text_features(tower: TextTower, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """What the denoiser sees of texts.

    Args:
        tower: The text tower.
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64; a text without any token is read as an empty one.

    Returns:
        `states` (B, T, W), `state_mask` (B, T) bool, with at least one token each, and `pooled`
        (B, W).
    """
    states, pooled = tower.states(input_ids, attention_mask)
    mask = attention_mask.bool()
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    # The first token of a text is always seen: of an empty one it is the end.
    return {"states": states, "state_mask": mask | first, "pooled": pooled}


@dataclass
class Frozen:
    """What the denoiser builds on and never changes.

    Attributes:
        autoencoder: With the scale of its latents.
        text: The text tower.
        config: Of the denoiser's training.
    """

    autoencoder: AutoencoderKL
    text: TextTower
    config: GeneratorConfig
    noising: DDPMScheduler = field(
        default_factory=lambda: DDPMScheduler(
            num_train_timesteps=TRAIN_STEPS,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
        )
    )

    def __post_init__(self) -> None:
        for module in (self.autoencoder, self.text):
            module.requires_grad_(False).eval()

    def to(self, device: torch.device) -> "Frozen":
        """The same, there."""
        self.autoencoder.to(device)
        self.text.to(device)
        return self

    @property
    def identity(self) -> str:
        """Sha256 of both networks and of the scale of the latents."""
        states = [self.autoencoder.state_dict(), self.text.state_dict()]
        parts = [state_sha256({k: v.contiguous() for k, v in s.items()}) for s in states]
        scale = self.autoencoder.config.latents_mean, self.autoencoder.config.latents_std
        return hashlib.sha256(json.dumps([parts, scale]).encode()).hexdigest()

    @torch.no_grad()
    def read(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """`text_features` of the frozen tower."""
        return text_features(self.text, input_ids, attention_mask)

    def nothing(self, count: int) -> dict[str, Tensor]:
        """As `read`, of so many empty texts."""
        device = next(self.text.parameters()).device
        ids = torch.zeros(count, 1, dtype=torch.int64, device=device)
        return self.read(ids, ids)

    @torch.no_grad()
    def prepare(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch of `data.transforms.collate` as latents, `centred`, and text features."""
        latents = encode(self.autoencoder, centred(batch["pixel_values"]), batch["valid"])
        return {"latents": latents, **self.read(batch["input_ids"], batch["attention_mask"])}


def centred(pixel_values: Tensor) -> Tensor:
    """Images turned so that their coherent ground has a mean phase of 0.

    A constant of the phase means nothing, so the denoiser need not learn all of its values: it
    draws images so turned, and the pipeline turns each by a constant drawn from the whole circle.

    Args:
        pixel_values: (B, 3, H, W) float32: Re and Im of the phasor, coherence.

    Returns:
        Of the same shape; no-data stays 0.
    """
    real, imaginary, coherence = pixel_values.unbind(1)
    z = torch.complex(real, imaginary)
    mean = (z * coherence.square()).sum((1, 2))  # grain, which has no phase, hardly counts
    turned = z * torch.polar(torch.ones_like(mean.real), -mean.angle())[:, None, None]
    return torch.stack([turned.real, turned.imag, coherence], dim=1)


def generator_loss(
    model: nn.Module, batch: Mapping[str, Tensor], frozen: Frozen
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The denoiser's loss, its mean over the batches of all ranks.

    Args:
        model: The denoiser, possibly wrapped for several ranks.
        batch: Of `data.transforms.collate`, or already `latents` and text features of
            `Frozen.prepare`.
        frozen: Autoencoder, text tower and config.

    Returns:
        The loss (), and scalars to log.
    """
    seen = dict(batch) if "latents" in batch else frozen.prepare(batch)
    latents = seen["latents"].float()
    left_out = torch.rand(len(latents), device=latents.device) < frozen.config.caption_dropout
    texts = without(seen, left_out, frozen.nothing(1))
    noise = torch.randn_like(latents)
    if frozen.config.prediction == "flow":
        noised, time, velocity, weight = flow_step(latents, noise, _logit_normal(len(latents)))
    else:
        time = torch.randint(TRAIN_STEPS, (len(latents),), device=latents.device)
        noised, velocity, weight = v_step(latents, noise, time, frozen)
    found = denoise(model, noised, time, texts)
    each = (found.float() - velocity).square().mean((1, 2, 3)) * weight
    terms = torch.stack([each.sum(), each.new_tensor(float(len(each)))])
    total, count = gather_rows(terms[None])[0].sum(0)
    loss = total / count
    return loss, {"without_text": left_out.float().mean()}


def flow_step(
    latents: Tensor, noise: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rectified flow at a share s of noise.

    Args:
        latents: (B, C, h, w).
        noise: Of the same shape.
        share: (B,) in [0, 1].

    Returns:
        What is seen, its time (B,), the velocity, and the weight (B,) of its error.
    """
    share = share.to(latents.device)
    s = share[:, None, None, None]
    return (
        (1 - s) * latents + s * noise,
        share * TRAIN_STEPS,
        noise - latents,
        torch.ones_like(share),
    )


def v_step(
    latents: Tensor, noise: Tensor, time: Tensor, frozen: Frozen
) -> tuple[Tensor, Tensor, Tensor]:
    """v-prediction at some times.

    Args:
        latents: (B, C, h, w).
        noise: Of the same shape.
        time: (B,) int64 in 0..TRAIN_STEPS - 1.
        frozen: Its noise schedule and cap.

    Returns:
        What is seen, the velocity, and the min-SNR weight (B,) of its error.
    """
    noising = frozen.noising
    snr = compute_snr(noising, time)
    weight = snr.clamp(max=frozen.config.min_snr) / (snr + 1)
    noised = noising.add_noise(latents, noise, time)
    return noised, noising.get_velocity(latents, noise, time), weight


def denoise(model: Any, noised: Tensor, time: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
    """The denoiser's velocity (B, C, h, w)."""
    found: Tensor = model(
        noised,
        time,
        encoder_hidden_states=texts["states"].to(noised.dtype),
        encoder_attention_mask=texts["state_mask"],
        class_labels=texts["pooled"].to(noised.dtype),
        return_dict=False,
    )[0]
    return found


def without(
    texts: Mapping[str, Tensor], left_out: Tensor, nothing: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Text features with those of an empty text in some places.

    Args:
        texts: `states` (B, T, W), `state_mask` (B, T), `pooled` (B, W).
        left_out: (B,) bool.
        nothing: The same of one empty text, T = 1.

    Returns:
        New tensors of the same shapes.
    """
    row = left_out[:, None]
    states, mask = texts["states"].clone(), texts["state_mask"].clone()
    states[left_out, :1] = nothing["states"].to(states)
    mask[left_out] = False
    mask[left_out, 0] = True
    pooled = torch.where(row, nothing["pooled"].to(texts["pooled"]), texts["pooled"])
    return {"states": states, "state_mask": mask, "pooled": pooled}


def _logit_normal(count: int) -> Tensor:
    share: Tensor = compute_density_for_timestep_sampling(
        "logit_normal", count, logit_mean=0.0, logit_std=1.0
    )
    return share
