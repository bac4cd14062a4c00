"""Atmospheric and orbital phase, one state per acquisition date.

An interferogram's phase is the difference of its two dates' states, so that phase closes around
every triangle of dates. Spectra and strengths follow Hanssen (2001), Radar Interferometry, ch. 4.

Turbulence is kept at half the resolution of the grid, which is enough for waves longer than 444 m,
and interpolated once a pair, after the difference: everything here is linear in the states.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from heph_vl.simulate.grid import Grid

CORNER_M = 2_000.0  # wavelength at which turbulence turns from -8/3 to -11/3
REFERENCE_M = 75_000.0  # waves shorter than a patch is wide have unit variance
STRENGTH_RAD = 0.7  # median over dates of the turbulence's standard deviation in these waves
STRATIFICATION_RAD_PER_KM = 2.8  # standard deviation of the difference of two dates ...
WIDE_SHARE, WIDE_RAD_PER_KM = 0.05, 5.0  # ... but for a few dates; so differences reach 10
RAMP_SHARE, RAINY_SHARE = 0.03, 0.03
ORBIT_M = 50.0  # radius of the tube that Sentinel-1 is kept in
_MARGIN = 1.25  # Fourier synthesis is periodic: opposite edges must not be neighbours


@dataclass(frozen=True)
class DateState:
    """What the air and the orbit add to the phase of one acquisition.

    Attributes:
        turbulence: (h, w) float32 [rad] of `coarse_shape`; see `to_grid`.
        stratification: Phase per height [rad/km].
        ramp: Phase gradient (eastward, northward) [rad/m] from the orbit error.
        clarity: Factor on the coherence of pairs that use the date, in [0, 1]; low after rain or
            snow.
        orbit_m: Position of the orbit across the line of sight [m]; the perpendicular baseline of
            a pair is the difference of its dates.
        offset: Phase [rad] of the whole image: that of an interferogram has no absolute zero.
    """

    turbulence: Tensor
    stratification: float
    ramp: tuple[float, float]
    clarity: float
    orbit_m: float
    offset: float = 0.0


def coarse_shape(grid: Grid) -> tuple[int, int]:
    """Height and width of the turbulence of a date: half the grid's, rounded up."""
    return (grid.height + 1) // 2, (grid.width + 1) // 2


def to_grid(field: Tensor, grid: Grid) -> Tensor:
    """A coarse field on the fine grid, by linear interpolation.

    Args:
        field: (..., h, w) float32 of `coarse_shape`; each pixel covers 2 x 2 of the grid.
        grid: Where.

    Returns:
        (..., H, W) float32.
    """
    h, w = coarse_shape(grid)
    fine = functional.interpolate(
        field.reshape(1, -1, h, w), size=(2 * h, 2 * w), mode="bilinear", align_corners=False
    )
    return fine.reshape(*field.shape[:-2], 2 * h, 2 * w)[..., : grid.height, : grid.width]


@lru_cache(maxsize=4)
def turbulence_filter(grid: Grid) -> Tensor:
    """Amplitude response that turns white noise into turbulence, for any grid at the same level.

    The two-dimensional power spectrum falls as wavenumber to -8/3 above `CORNER_M` and to -11/3
    below it; the integral over wavenumbers above 1 / `REFERENCE_M` is 1 (the slope above the
    corner taken for all), hence 2 pi (3 / 2) C `REFERENCE_M` ^ (2 / 3) = 1. What linear
    interpolation by `to_grid` will take from short waves is added here.

    Args:
        grid: Where.

    Returns:
        (P, Q // 2 + 1) float32, for a real 2-D FFT of a (P, Q) field, larger than `coarse_shape`.
    """
    height, width = _padded_shape(grid)
    dy, dx = 2.0 * grid.dy, 2.0 * grid.dx
    ky = torch.fft.fftfreq(height, dy)[:, None]
    kx = torch.fft.rfftfreq(width, dx)[None, :]
    k = torch.sqrt(kx**2 + ky**2)
    k[0, 0] = torch.inf  # no mean
    amplitude = k ** (-4.0 / 3.0) * (k * CORNER_M).clamp_min(1.0) ** -0.5
    level = 1.0 / (3.0 * math.pi * REFERENCE_M ** (2.0 / 3.0))
    gain = _linear_gain(ky * dy) * _linear_gain(kx * dx)
    return amplitude / gain * math.sqrt(level / (dx * dy))


def _linear_gain(frequency: Tensor) -> Tensor:
    """What is left of a wave [cycles per sample] at a quarter of a step between samples."""
    turn = 2.0 * math.pi * frequency
    return 0.75 * torch.cos(turn / 4) + 0.25 * torch.cos(turn * 3 / 4)


def turbulence(grid: Grid, generator: torch.Generator) -> Tensor:
    """One turbulent phase screen.

    Args:
        grid: Where.
        generator: Randomness; the result is on its device.

    Returns:
        (h, w) float32 [rad] of `coarse_shape`, homogeneous; see `turbulence_filter`.
    """
    response = turbulence_filter(grid).to(generator.device)
    shape = _padded_shape(grid)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    screen: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * response, s=shape)
    h, w = coarse_shape(grid)
    return screen[:h, :w]


def _padded_shape(grid: Grid) -> tuple[int, int]:
    height, width = (next_fast_len(math.ceil(n * _MARGIN), real=True) for n in coarse_shape(grid))
    return height, width


def stratified(elevation: Tensor, rad_per_km: float | Tensor) -> Tensor:
    """Phase [rad] tied to the height: (..., H, W), from elevation [m]."""
    return elevation * (rad_per_km / 1_000.0)


def plane(grid: Grid, ramp: tuple[float, float], device: torch.device | str = "cpu") -> Tensor:
    """Phase ramp (H, W) [rad] with the given eastward and northward gradient [rad/m]."""
    east, north = grid.east_north()
    return (east * ramp[0]).to(device) + (north * ramp[1]).to(device)


def draw_date(
    grid: Grid,
    generator: torch.Generator,
    *,
    strength: float | None = None,
    stratification: float | None = None,
    ramp: tuple[float, float] | None = None,
    clarity: float | None = None,
    orbit_m: float | None = None,
) -> DateState:
    """The state of one acquisition date.

    Turbulence is stronger in some parts of the scene than in others, and calm on some dates. What
    is given is taken instead of drawn, and changes nothing else.

    Args:
        grid: Where.
        generator: Randomness; the turbulence is on its device.
        strength: Standard deviation of the turbulence [rad] in waves up to `REFERENCE_M`.
        stratification: See `DateState`.
        ramp: See `DateState`; (0, 0) for none.
        clarity: See `DateState`.
        orbit_m: See `DateState`.

    Returns:
        The state.
    """
    device = generator.device
    field = turbulence(grid, generator)
    broad = torch.randn((1, 1, 4, 4), generator=generator, device=device)
    weight = functional.interpolate(broad, field.shape, mode="bicubic")[0, 0].mul_(0.4).exp_()
    calm, tied, orbit = torch.randn(3, generator=generator, device=device).tolist()
    chance = torch.rand(7, generator=generator, device=device).tolist()
    if strength is None:
        strength = STRENGTH_RAD * math.exp(0.4 * calm)
    if stratification is None:
        # N(0, 2.8) holds for a pair: each date has 1 / sqrt(2) of it.
        usual = STRATIFICATION_RAD_PER_KM / math.sqrt(2)
        stratification = tied * (WIDE_RAD_PER_KM if chance[0] < WIDE_SHARE else usual)
    if ramp is None:
        ramp = _ramp(grid, 2.0 + 3.0 * chance[2], chance[3]) if chance[1] < RAMP_SHARE else (0, 0)
    if clarity is None:
        low, high = (0.05, 0.4) if chance[4] < RAINY_SHARE else (0.85, 1.0)
        clarity = low + (high - low) * chance[5]
    orbit_m = ORBIT_M * orbit if orbit_m is None else orbit_m
    offset = 2.0 * math.pi * chance[6]
    field = weight.mul_(field).mul_(strength)
    return DateState(field, stratification, ramp, clarity, orbit_m, offset)


def _ramp(grid: Grid, fringes: float, turn: float) -> tuple[float, float]:
    """Gradient [rad/m] of so many fringes over the grid's height; azimuth in turns."""
    slope = 2.0 * math.pi * fringes / (grid.height * grid.dy)
    return slope * math.sin(2.0 * math.pi * turn), slope * math.cos(2.0 * math.pi * turn)
