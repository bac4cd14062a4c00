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
WATER_COHERENCE = 0.0
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
    a11_squared, a22_squared, normal = (torch.stack(part) for part in zip(*draws, strict=True))
    spread_squared = (1.0 - coherence**2).clamp_min(0.0)
    spread = torch.sqrt(0.5 * spread_squared)  # a complex normal has half its variance in each part
    real = torch.sqrt(a11_squared).mul_(coherence).addcmul_(spread, normal[:, 0])
    imaginary = spread.mul_(normal[:, 1])
    squared = (real**2).addcmul_(imaginary, imaginary)
    inverse = torch.rsqrt(squared.clamp_min(1e-24))
    noise = torch.complex(real.mul_(inverse), imaginary.mul_(inverse))
    power = a22_squared.mul_(spread_squared).add_(squared).clamp_min_(1e-24)
    return noise, torch.sqrt(squared.div_(power))


def _bartlett(
    shape: torch.Size, looks: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    a11 = gamma(shape, float(looks), generator)
    a22 = gamma(shape, looks - 1.0, generator)
    return a11, a22, torch.randn((2, *shape), generator=generator, device=generator.device)


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
    v = _cube(1.0 + x / math.sqrt(9.0 * d))
    squeeze = (x**2).square_().mul_(-0.0331).add_(1.0)
    doubtful = (u >= squeeze).nonzero()[:, 0]
    x, u = x[doubtful], u[doubtful]
    while len(doubtful):
        w = v[doubtful]
        accepted = (w > 0) & (
            torch.log(u) < 0.5 * x**2 + d * (1.0 - w + torch.log(w.clamp_min(1e-30)))
        )
        doubtful = doubtful[~accepted]
        x, u = _proposal(len(doubtful), generator)
        v[doubtful] = _cube(1.0 + x / math.sqrt(9.0 * d))
    return (d * v).reshape(shape)


def _cube(x: Tensor) -> Tensor:
    return x * x * x  # several times faster than **3


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
    return _unit(torch.lerp(phasor, _unit(mean), share.to(phasor.dtype)))


def _unit(z: Tensor) -> Tensor:
    parts = torch.view_as_real(z)  # abs() of complex numbers is slow
    return z * torch.rsqrt(parts.square().sum(-1).clamp_min(1e-24))


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
