"""Coherence of the ground, exact multilook phase noise, and the filter LiCSAR applies.

Noise comes from the sample covariance of two radar images, a 2 x 2 complex Wishart matrix. By
Bartlett's decomposition it takes two gamma variates and one complex normal per pixel, whatever the
number of looks. With W = T A A^H T^H / L, T the Cholesky factor of the covariance
((1, g), (g, 1)), A lower triangular with A11^2 ~ Gamma(L), A22^2 ~ Gamma(L - 1), A21 ~ CN(0, 1):

    W11 = A11^2,  W12 = A11 (g A11 + s A21),  W22 = |g A11 + s A21|^2 + s^2 A22^2,  s^2 = 1 - g^2.
"""

import math

import torch
from torch import Tensor

LOOKS = 50  # effective number of LiCSAR's 20 x 4 looks, see Morishita et al. (2020)
WATER_COHERENCE = 0.01
LAVA_DAYS, FOREST_DAYS, SNOW_DAYS = 900.0, 40.0, 15.0  # e-folding times of the coherence


def ground_coherence(
    vegetation: Tensor,
    water: Tensor,
    snow: Tensor,
    slope: Tensor,
    temporal_baseline_days: float,
    clarity: float = 1.0,
) -> Tensor:
    """True coherence of the ground between two dates.

    Args:
        vegetation: (H, W) in [0, 1], 0 rock, 1 forest.
        water: (H, W) bool.
        snow: (H, W) bool.
        slope: (H, W) rise over run; steep walls fold over in the radar image.
        temporal_baseline_days: Days between the two dates, not negative.
        clarity: Factor for the weather of both dates, in [0, 1].

    Returns:
        (H, W) float32 in [0, 1].
    """
    rate = vegetation / FOREST_DAYS + (1.0 - vegetation) / LAVA_DAYS
    rate = torch.where(snow, 1.0 / SNOW_DAYS, rate)
    start = 0.92 - 0.25 * vegetation
    coherence = clarity * start * torch.exp(-rate * temporal_baseline_days)
    coherence = coherence * torch.exp(-((slope / 0.45) ** 2))
    return torch.where(water, WATER_COHERENCE, coherence)


def decorrelate(
    coherence: Tensor, generators: list[torch.Generator], looks: int = LOOKS
) -> tuple[Tensor, Tensor]:
    """Phase noise and sample coherence of multilooked pixels.

    Args:
        coherence: (B, H, W) true coherence in [0, 1].
        generators: B generators, one a record, so that noise does not depend on the batch.
        looks: Number of independent looks, at least 2.

    Returns:
        noise: (B, H, W) complex64 unit phasors, to be multiplied with the true phasor.
        sample_coherence: (B, H, W) float32 in [0, 1], biased upward when low.
    """
    shape = coherence.shape[1:]
    draws = [_bartlett(shape, looks, g) for g in generators]
    a11_squared, a22_squared, a21 = (torch.stack(part) for part in zip(*draws, strict=True))
    spread = torch.sqrt((1.0 - coherence**2).clamp_min(0.0))
    second = coherence * torch.sqrt(a11_squared) + spread * a21
    magnitude = second.abs()
    noise = second / magnitude.clamp_min(1e-12)
    power = torch.sqrt(magnitude**2 + spread**2 * a22_squared)
    return noise, magnitude / power.clamp_min(1e-12)


def _bartlett(
    shape: torch.Size, looks: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    a11 = gamma(shape, float(looks), generator)
    a22 = gamma(shape, looks - 1.0, generator)
    a21 = torch.randn(shape, dtype=torch.complex64, generator=generator, device=generator.device)
    return a11, a22, a21


def gamma(shape: torch.Size, alpha: float, generator: torch.Generator) -> Tensor:
    """Gamma variates of unit scale by Marsaglia and Tsang (2000), exact.

    Written out because torch offers no public gamma sampler with a generator, and because at these
    shapes nearly every first proposal is accepted by the squeeze: three times faster.

    Args:
        shape: Shape of the result.
        alpha: Shape parameter, at least 1.
        generator: Randomness; the result is on its device.

    Returns:
        Float32 of the shape asked for.
    """
    d = alpha - 1.0 / 3.0
    count = math.prod(shape)
    x, u = _proposal(count, generator)
    v = (1.0 + x / math.sqrt(9.0 * d)) ** 3
    doubtful = (u >= 1.0 - 0.0331 * x**4).nonzero()[:, 0]
    x, u = x[doubtful], u[doubtful]
    while len(doubtful):
        w = v[doubtful]
        accepted = (w > 0) & (
            torch.log(u) < 0.5 * x**2 + d * (1.0 - w + torch.log(w.clamp_min(1e-30)))
        )
        doubtful = doubtful[~accepted]
        x, u = _proposal(len(doubtful), generator)
        v[doubtful] = (1.0 + x / math.sqrt(9.0 * d)) ** 3
    return (d * v).reshape(shape)


def _proposal(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    device = generator.device
    x = torch.randn(count, generator=generator, device=device)
    return x, torch.rand(count, generator=generator, device=device).clamp_min(1e-30)


def smooth_coherent(phasor: Tensor, sample_coherence: Tensor, valid: Tensor) -> Tensor:
    """Local averaging where the ground is coherent, nothing where it is not.

    A stand-in for LiCSAR's Goldstein filter at a fixed cost: coherent land becomes smooth, coasts
    stay sharp because each pixel counts with its squared coherence, water keeps its grain.

    Args:
        phasor: (B, H, W) complex64 unit phasors.
        sample_coherence: (B, H, W) in [0, 1].
        valid: (H, W) or (B, H, W) bool; what is outside counts for nothing.

    Returns:
        (B, H, W) complex64 unit phasors.
    """
    weighted = phasor * torch.where(valid, sample_coherence**2, 0.0)
    mean = _box(_box(weighted))  # two boxes of 3: a pyramid of 5 x 5 pixels, 1.5 native ones
    agreement = _box(_box(sample_coherence)) / 81.0
    share = ((agreement - 0.15) / 0.15).clamp(0.0, 1.0)
    mixed = torch.lerp(phasor, mean / mean.abs().clamp_min(1e-12), share.to(phasor.dtype))
    return mixed / mixed.abs().clamp_min(1e-12)


def _box(field: Tensor) -> Tensor:
    """Sum over 3 x 3 neighbours, edges repeated; adds slices, which is faster than pooling."""
    for dim in (-2, -1):
        length = field.shape[dim]
        total = field.clone()
        total.narrow(dim, 1, length - 1).add_(field.narrow(dim, 0, length - 1))
        total.narrow(dim, 0, length - 1).add_(field.narrow(dim, 1, length - 1))
        total.narrow(dim, 0, 1).add_(field.narrow(dim, 0, 1))
        total.narrow(dim, length - 1, 1).add_(field.narrow(dim, length - 1, 1))
        field = total
    return field
