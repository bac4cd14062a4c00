"""Grids of a frame, and what is drawn and interpolated on them.

Smooth fields are made on a grid `COARSE` times coarser than the pixels and refined.
"""

import math
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

FINE_SPACING_DEG = 0.001  # LiCSAR's geocoded grid, about 111 m
METRES_PER_DEGREE = 111_320.0
COARSE = 4  # fine pixels a side of a coarse one


@dataclass(frozen=True)
class Grid:
    """A geographic grid of pixels, row 0 in the north, column 0 in the west.

    Args:
        height: Rows.
        width: Columns.
        latitude_deg: Latitude of the centre [deg, north positive]; columns are narrower than rows
            by its cosine.
        spacing_deg: Pixel spacing [deg] along both axes.
    """

    height: int
    width: int
    latitude_deg: float = 0.0
    spacing_deg: float = FINE_SPACING_DEG

    @property
    def dx(self) -> float:
        """Column spacing [m]."""
        return self.dy * math.cos(math.radians(self.latitude_deg))

    @property
    def dy(self) -> float:
        """Row spacing [m]."""
        return self.spacing_deg * METRES_PER_DEGREE

    def east_north(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """East (1, W) and north (H, 1) of the pixel centres [m] from the middle of the grid."""
        east = (torch.arange(self.width, dtype=dtype) - (self.width - 1) / 2) * self.dx
        north = ((self.height - 1) / 2 - torch.arange(self.height, dtype=dtype)) * self.dy
        return east[None, :], north[:, None]


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number drawn uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def fractal(
    grid: Grid, generator: torch.Generator, exponent: float = 3.6, longest_m: float = 40_000.0
) -> Tensor:
    """A random relief with a power-law spectrum.

    Args:
        grid: Where.
        generator: Randomness.
        exponent: The two-dimensional power spectrum falls as wavenumber to minus this.
        longest_m: Wavelength [m] beyond which the spectrum is flat.

    Returns:
        (H, W) float32 with zero mean and unit standard deviation.
    """
    shape = (next_fast_len(grid.height), next_fast_len(grid.width, real=True))
    noise = torch.fft.rfft2(torch.randn(shape, generator=generator))
    ky = torch.fft.fftfreq(shape[0], grid.dy)[:, None]
    kx = torch.fft.rfftfreq(shape[1], grid.dx)[None, :]
    power = (kx**2 + ky**2).clamp_min_(longest_m**-2)
    noise *= power.log_().mul_(-exponent / 4).exp_()
    field: Tensor = torch.fft.irfft2(noise, s=shape)[: grid.height, : grid.width].contiguous()
    # Sums by rows: their result does not depend on the number of threads.
    field -= field.mean(1).double().mean().float()
    field /= (field**2).mean(1).double().mean().sqrt().float()
    return field


def coarsen(grid: Grid) -> Grid:
    """`COARSE` times coarser: pixel j lies in the middle of the fine ones from j * COARSE on."""
    return Grid(
        -(-grid.height // COARSE),
        -(-grid.width // COARSE),
        grid.latitude_deg,
        grid.spacing_deg * COARSE,
    )


def refine(field: Tensor, grid: Grid, mode: str = "bilinear") -> Tensor:
    """A field (h, w) of the coarse grid on the fine one: (H, W)."""
    fine = functional.interpolate(field[None, None], scale_factor=COARSE, mode=mode)[0, 0]
    return fine[: grid.height, : grid.width]


def coarse_east_north(grid: Grid, row: float, column: float) -> tuple[Tensor, Tensor]:
    """East (1, w) and north (h, 1) [m] of the coarse pixels from a place in fine pixels."""
    coarse, middle = coarsen(grid), (COARSE - 1) / 2
    east = (torch.arange(coarse.width) * COARSE + middle - column) * grid.dx
    north = (row - middle - torch.arange(coarse.height) * COARSE) * grid.dy
    return east[None, :], north[:, None]


def coarse_distance(grid: Grid, row: float, column: float) -> Tensor:
    """Distance (h, w) [m] of the coarse pixels from a place in fine pixels."""
    east, north = coarse_east_north(grid, row, column)
    return torch.sqrt(east**2 + north**2)


def box_around(
    grid: Grid, place: tuple[float, float], reach: float
) -> tuple[tuple[slice, slice], Tensor, Tensor]:
    """Fine pixels around a place, and their offsets east and north of it.

    Args:
        grid: Where.
        place: (row, column) [pixels of the grid].
        reach: Half a side [m].

    Returns:
        Slices of rows and columns, cut at the edges of the grid; offsets (1, w) and (h, 1) [m].
    """
    box = (
        _span(place[0], reach / grid.dy, grid.height),
        _span(place[1], reach / grid.dx, grid.width),
    )
    rows, columns = torch.arange(grid.height)[box[0]], torch.arange(grid.width)[box[1]]
    return box, ((columns - place[1]) * grid.dx)[None], ((place[0] - rows) * grid.dy)[:, None]


def _span(middle: float, reach: float, size: int) -> slice:
    return slice(max(0, math.floor(middle - reach)), min(size, math.ceil(middle + reach) + 1))
