"""Coherence of the ground, exact multilook phase noise, and the filter LiCSAR applies.

Noise comes from the sample covariance of two radar images, a 2 x 2 complex Wishart matrix. By
Bartlett's decomposition it takes two gamma variates and one complex normal per pixel, whatever the
number of looks. With W = T A A^H T^H / L, T the Cholesky factor of the covariance
((1, g), (g, 1)), A lower triangular with A11^2 ~ Gamma(L), A22^2 ~ Gamma(L - 1), A21 ~ CN(0, 1):

    W11 = A11^2,  W12 = A11 (g A11 + s A21),  W22 = |g A11 + s A21|^2 + s^2 A22^2,  s^2 = 1 - g^2.

Phasors are carried as two real planes, (B, 2, H, W) with cosine and sine: complex tensors are
several times slower on a CPU.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional

LOOKS = 50  # effective number of LiCSAR's 20 x 4 looks, see Morishita et al. (2020)
LAVA_DAYS, FOREST_DAYS, SNOW_DAYS = 900.0, 15.0, 15.0  # e-folding times of the coherence
MOSAIC = 0.7  # standard deviation of the logarithm of the rate within one kind of ground
CRITICAL_BASELINE_M = 5_000.0  # of Sentinel-1's Interferometric Wide swaths on flat ground
CANOPY_M = 25.0  # height of the volume that scatters where vegetation is 1
# Vertical wavenumber [rad/m] of the interferometric phase for 1 m of perpendicular baseline,
# 4 pi / (wavelength * range * sin(incidence)): 0.0555 m, 880 km, 39 degrees.
WAVENUMBER_PER_BASELINE = 4.0 * math.pi / (0.05546576 * 880e3 * math.sin(math.radians(39.0)))
# Length of the local mean of (sample coherence)^2 * phasor up to which the filter leaves a pixel as
# it is, and from which it replaces it; where there is no coherence it is 0.0085 (rms).
QUIET, SURE = 0.012, 0.024
_CACHED = 600_000  # pixels filtered at a time: what fits the cache is three times as fast
_LEVELS = 65_536  # quantiles in a table: what 16 random bits can address


@dataclass(frozen=True)
class LandCover:
    """What the ground of a place does to the coherence of any pair.

    Attributes:
        start: (H, W) float32, coherence of a pair without baselines; 0 on water.
        rate: (H, W) float32 [1/day], at which it is lost with time.
        volume: (H, W) float32 [m2], square of the canopy's height over 24.
    """

    start: Tensor
    rate: Tensor
    volume: Tensor

    def coherence(
        self,
        temporal_baseline_days: float,
        perpendicular_baseline_m: float = 0.0,
        clarity: float = 1.0,
    ) -> Tensor:
        """True coherence of the ground between two dates.

        The product of (Zebker and Villasenor 1992; Hanssen 2001, section 4.4) temporal
        decorrelation, exponential in the days; spatial decorrelation, 1 - |B| / B_crit; and
        volume decorrelation of a canopy of height h, sinc(k h / 2) at the vertical wavenumber k,
        which is proportional to B: here exp(-(k h)^2 / 24), the same to third order.

        Args:
            temporal_baseline_days: Days between the two dates, not negative.
            perpendicular_baseline_m: Distance of the two orbits across the line of sight [m], of
                either sign.
            clarity: Factor for the weather of both dates, in [0, 1].

        Returns:
            (H, W) float32 in [0, 1].
        """
        spatial = max(0.0, 1.0 - abs(perpendicular_baseline_m) / CRITICAL_BASELINE_M)
        wavenumber = WAVENUMBER_PER_BASELINE * perpendicular_baseline_m
        loss = (self.rate * -temporal_baseline_days).add_(self.volume, alpha=-(wavenumber**2))
        return loss.exp_().mul_(self.start).mul_(clarity * spatial)


def land_cover(
    vegetation: Tensor,
    water: Tensor,
    snow: Tensor,
    slope: Tensor,
    texture: Tensor | None = None,
) -> LandCover:
    """The part of the coherence that depends on the place only.

    Args:
        vegetation: (H, W) in [0, 1], 0 rock, 1 forest.
        water: (H, W) bool.
        snow: (H, W) bool.
        slope: (H, W) rise over run; steep walls fold over in the radar image.
        texture: (H, W) standard normal mosaic of clearings, fields and flows; uniform cover if
            none.

    Returns:
        The cover.
    """
    rate = torch.lerp(
        torch.full_like(vegetation, 1.0 / LAVA_DAYS),
        torch.full_like(vegetation, 1.0 / FOREST_DAYS),
        vegetation,
    )
    start = (0.92 - 0.25 * vegetation) * torch.exp(-((slope / 0.45) ** 2))
    rate = torch.where(snow, 1.0 / SNOW_DAYS, rate)
    if texture is not None:
        rate = rate * torch.exp(MOSAIC * texture)
    return LandCover(
        torch.where(water, 0.0, start),
        rate,
        (CANOPY_M * vegetation) ** 2 / 24.0,
    )


def decorrelate(
    coherence: Tensor, generators: list[torch.Generator], looks: int = LOOKS
) -> tuple[Tensor, Tensor]:
    """Phase noise and sample coherence of multilooked pixels.

    Each pixel takes 64 random bits of its record's generator. Four times 16 of them pick the two
    gammas and the two normals from 65,536 equally likely quantiles: right to 1 / 65,536 in the
    distribution function, at a quarter of the cost of drawing them. A normal so drawn stays below
    4.3 standard deviations, which the phase does not show.

    Args:
        coherence: (B, H, W) float32 true coherence in [0, 1].
        generators: B generators on the device of the coherence, one a record, so that noise does
            not depend on the batch.
        looks: Number of independent looks, at least 2.

    Returns:
        noise: (B, 2, H, W) float32 cosine and sine of the phase noise.
        sample_coherence: (B, H, W) float32 in [0, 1], biased upward when low.
    """
    a11, a22_squared, normal_re, normal_im = _bartlett(coherence.shape, generators, looks)
    spread_squared = (coherence * coherence).neg_().add_(1.0).clamp_min_(0.0)
    spread = spread_squared.sqrt()
    noise = torch.empty(
        (len(coherence), 2, *coherence.shape[1:]), dtype=torch.float32, device=coherence.device
    )
    real, imaginary = noise.unbind(1)
    torch.mul(a11, coherence, out=real).addcmul_(spread, normal_re)
    torch.mul(spread, normal_im, out=imaginary)
    squared = (real * real).addcmul_(imaginary, imaginary).clamp_min_(1e-24)
    power = a22_squared.mul_(spread_squared).add_(squared)
    noise *= squared.rsqrt()[:, None]
    return noise, squared.div_(power).sqrt_()


def _bartlett(
    shape: torch.Size, generators: list[torch.Generator], looks: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, H, W) each: A11, A22^2, and real and imaginary part of A21."""
    device = generators[0].device
    bits = torch.empty(shape, dtype=torch.int64, device=device)
    for record, generator in zip(bits, generators, strict=True):
        record.random_(-(2**63), None, generator=generator)
    halves = bits.view(torch.int32).view(*shape, 2).unbind(-1)
    # The arithmetic shift leaves the sign, hence the step up.
    ranks = [r for half in halves for r in (half & (_LEVELS - 1), (half >> 16).add_(_LEVELS // 2))]
    gamma, gamma_less, normal = _quantiles(looks, device)
    a11, a22_squared, re, im = (
        table.index_select(0, rank.view(-1)).view(shape)  # five times faster than take()
        for table, rank in zip((gamma, gamma_less, normal, normal), ranks, strict=True)
    )
    return a11, a22_squared, re, im


@lru_cache(maxsize=8)
def _quantiles(looks: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(65536,) float32 each: root of Gamma(L), Gamma(L - 1), and a normal of variance 1/2."""
    middle = (np.arange(_LEVELS) + 0.5) / _LEVELS
    tables = (
        np.sqrt(special.gammaincinv(looks, middle)),
        special.gammaincinv(looks - 1, middle),
        special.ndtri(middle) * math.sqrt(0.5),
    )
    a, b, c = (torch.tensor(table, dtype=torch.float32, device=device) for table in tables)
    return a, b, c


def smooth_coherent(
    phase: Tensor, noise: Tensor, sample_coherence: Tensor, valid: Tensor
) -> Tensor:
    """The noisy phase, averaged locally where the ground is coherent, as it is where it is not.

    A stand-in for LiCSAR's Goldstein filter at a fixed cost: coherent land becomes smooth, coasts
    stay sharp because each pixel counts with its squared coherence, water keeps its grain.

    Args:
        phase: (B, H, W) float32 [rad], noise-free, unwrapped.
        noise: (B, 2, H, W) float32 unit phasors; see `decorrelate`.
        sample_coherence: (B, H, W) float32 in [0, 1].
        valid: (H, W) or (B, H, W) bool; what is outside counts for nothing.

    Returns:
        (B, H, W) float32 wrapped phase [rad] in (-pi, pi].
    """
    wrapped = torch.empty_like(sample_coherence)
    height, width = phase.shape[1:]
    strip = max(1, _CACHED // width)
    records = zip(phase, noise, sample_coherence, valid.expand_as(phase), wrapped, strict=True)
    for true, phasor, sample, seen, out in records:
        for first in range(0, height, strip):
            top = max(first - 2, 0)  # what the pyramid reaches to
            rows = slice(top, first + strip + 2)
            smooth = _smoothed(_rotated(phasor[:, rows], true[rows]), sample[rows] * seen[rows])
            cosine, sine = smooth[:, first - top : first - top + strip]
            torch.atan2(sine, cosine, out=out[first : first + strip])
    return wrapped


def _rotated(phasor: Tensor, phase: Tensor) -> Tensor:
    """Phasors (2, H, W) turned by a phase (H, W) [rad]."""
    cosine, sine = torch.cos(phase), torch.sin(phase)
    turned = torch.empty_like(phasor)
    torch.mul(phasor[0], cosine, out=turned[0]).addcmul_(phasor[1], sine, value=-1.0)
    torch.mul(phasor[1], cosine, out=turned[1]).addcmul_(phasor[0], sine)
    return turned


def _smoothed(phasor: Tensor, coherence: Tensor) -> Tensor:
    """Phasors (2, H, W) whose direction is filtered, from unit ones and coherence (H, W)."""
    mean = _pyramid(phasor * (coherence * coherence))
    length = (mean[0] * mean[0]).addcmul_(mean[1], mean[1]).sqrt_().clamp_min_(1e-12)
    share = ((length - QUIET) * (1.0 / (SURE - QUIET))).clamp_(0.0, 1.0)
    mean *= share / length
    return mean.addcmul_(phasor, share.neg_().add_(1.0))


def _pyramid(layers: Tensor) -> Tensor:
    """Mean of 5 x 5 neighbours with weights (1, 2, 3, 2, 1), edges repeated: (C, H, W).

    Two boxes of 3 along each axis, added as slices: far faster than pooling or a convolution.
    """
    layers = functional.pad(layers[None], (2, 2, 2, 2), mode="replicate")[0]
    for dim in (-2, -1, -2, -1):
        length = layers.shape[dim] - 2
        total = layers.narrow(dim, 0, length) + layers.narrow(dim, 1, length)
        layers = total.add_(layers.narrow(dim, 2, length))
    return layers.mul_(1.0 / 81.0)
