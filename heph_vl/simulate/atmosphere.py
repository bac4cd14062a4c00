"""Atmospheric and orbital phase, one state per acquisition date.

An interferogram's phase is the difference of its two dates' states, so that phase closes around
every triangle of dates. Spectra and strengths follow Hanssen (2001), Radar Interferometry, ch. 4.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from heph_vl.simulate.terrain import Grid, uniform

CORNER_M = 2_000.0  # wavelength at which turbulence turns from -8/3 to -11/3
STRATIFICATION_RAD_PER_KM = 2.8  # standard deviation of the difference of two dates


@dataclass(frozen=True)
class DateState:
    """What the air and the orbit add to the phase of one acquisition.

    Args:
        turbulence: (H, W) float32 [rad].
        stratification: Phase per height [rad/km].
        ramp: Phase gradient (eastward, northward) [rad/m] from the orbit error.
        clarity: Factor on the coherence of pairs that use the date, in [0, 1]; low after rain or
            snow.
    """

    turbulence: Tensor
    stratification: float
    ramp: tuple[float, float]
    clarity: float

    def phase(self, elevation: Tensor, grid: Grid) -> Tensor:
        """Everything the date adds to the phase: (H, W) float32 [rad], unwrapped."""
        return self.turbulence + stratified(elevation, self.stratification) + plane(grid, self.ramp)


def turbulence_filter(grid: Grid) -> Tensor:
    """Amplitude response that turns white noise into turbulence of unit variance.

    The two-dimensional power spectrum falls as wavenumber to -8/3 above `CORNER_M` and to -11/3
    below it; the mean is removed.

    Args:
        grid: Where.

    Returns:
        (H, W // 2 + 1) float32, for a real 2-D FFT.
    """
    ky = torch.fft.fftfreq(grid.height, grid.dy)[:, None]
    kx = torch.fft.rfftfreq(grid.width, grid.dx)[None, :]
    k = torch.sqrt(kx**2 + ky**2) * CORNER_M
    k[0, 0] = 1.0
    amplitude = torch.where(k < 1.0, k ** (-4.0 / 3.0), k ** (-11.0 / 6.0))
    amplitude[0, 0] = 0.0
    # Parseval: columns other than the first (and the last of an even width) stand for two.
    twice = torch.full((kx.shape[1],), 2.0)
    twice[0] = 1.0
    if grid.width % 2 == 0:
        twice[-1] = 1.0
    power = float((amplitude.double() ** 2 * twice).sum()) / (grid.height * grid.width)
    return amplitude / math.sqrt(power)


def turbulence(white_noise: Tensor, response: Tensor) -> Tensor:
    """Turbulent phase screens.

    Args:
        white_noise: (..., H, W) float32, standard normal.
        response: From `turbulence_filter` for the same H and W.

    Returns:
        (..., H, W) float32 [rad] of unit variance in expectation.
    """
    screen: Tensor = torch.fft.irfft2(
        torch.fft.rfft2(white_noise) * response, s=white_noise.shape[-2:]
    )
    return screen


def stratified(elevation: Tensor, rad_per_km: float | Tensor) -> Tensor:
    """Phase [rad] tied to the height: (..., H, W), from elevation [m]."""
    return elevation * (rad_per_km / 1_000.0)


def plane(grid: Grid, ramp: tuple[float, float]) -> Tensor:
    """Phase ramp (H, W) [rad] with the given eastward and northward gradient [rad/m]."""
    east, north = grid.east_north()
    return east * ramp[0] + north * ramp[1]


def draw_date(grid: Grid, response: Tensor, generator: torch.Generator) -> DateState:
    """The state of one acquisition date.

    Turbulence is stronger in some parts of the scene than in others, and calm on some dates.

    Args:
        grid: Where.
        response: From `turbulence_filter`.
        generator: Randomness.

    Returns:
        The state.
    """
    noise = torch.randn((grid.height, grid.width), generator=generator)
    strength = math.exp(math.log(0.55) + 0.4 * float(torch.randn((), generator=generator)))
    broad = torch.randn((1, 1, 4, 4), generator=generator)
    weight = torch.exp(0.4 * functional.interpolate(broad, noise.shape, mode="bicubic")[0, 0])
    field = turbulence(noise, response) * (strength * weight)
    # N(0, 2.8) holds for a pair: each date has 1 / sqrt(2) of it.
    stratification = (
        STRATIFICATION_RAD_PER_KM / math.sqrt(2) * float(torch.randn((), generator=generator))
    )
    ramp = (0.0, 0.0)
    if uniform(0.0, 1.0, generator) < 0.03:
        fringes = uniform(2.0, 5.0, generator)
        azimuth = uniform(0.0, 2.0 * math.pi, generator)
        slope = 2.0 * math.pi * fringes / (grid.height * grid.dy)
        ramp = (slope * math.sin(azimuth), slope * math.cos(azimuth))
    rainy = uniform(0.0, 1.0, generator) < 0.03
    clarity = uniform(0.05, 0.4, generator) if rainy else uniform(0.85, 1.0, generator)
    return DateState(field, stratification, ramp, clarity)
