"""Synthetic volcanic islands, coasts and ranges, and the footprint of the radar swath on them.

One terrain belongs to one frame: every interferogram of the frame shares it. Heights, coast and
vegetation are what the stratified atmosphere and the coherence of `atmosphere` and
`decorrelation` hang on.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FINE_SPACING_DEG = 0.001  # LiCSAR's geocoded grid, about 111 m
METRES_PER_DEGREE = 111_320.0
BURST_M = 20e3  # length along track of a Sentinel-1 burst
KINDS = ("islands", "coast", "range")


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


@dataclass(frozen=True)
class Volcano:
    """A cone of the terrain: where deformation sources are placed.

    Args:
        row: Row of the summit [pixels of the grid].
        column: Column of the summit [pixels of the grid].
        radius: Foot radius [m].
    """

    row: float
    column: float
    radius: float


@dataclass(frozen=True)
class Terrain:
    """What the ground of one frame looks like.

    Args:
        elevation: (H, W) float32 [m], 0 on water.
        water: (H, W) bool.
        vegetation: (H, W) float32 in [0, 1]: 0 bare rock or lava, 1 dense forest; 0 on water.
        snow: (H, W) bool: ground above the snow line.
        volcanoes: Cones, at least one of them on land.
    """

    elevation: Tensor
    water: Tensor
    vegetation: Tensor
    snow: Tensor
    volcanoes: tuple[Volcano, ...]


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
    noise = torch.randn((grid.height, grid.width), generator=generator)
    ky = torch.fft.fftfreq(grid.height, grid.dy)[:, None]
    kx = torch.fft.rfftfreq(grid.width, grid.dx)[None, :]
    k = torch.sqrt(kx**2 + ky**2).clamp_min(1.0 / longest_m)
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * k ** (-exponent / 2), s=noise.shape)
    field = field - field.mean()
    return field / field.std()


def draw_terrain(
    grid: Grid, generator: torch.Generator, kind: str | None = None, humidity: float | None = None
) -> Terrain:
    """A volcanic landscape.

    Args:
        grid: Where.
        generator: Randomness.
        kind: One of `KINDS`; drawn when none.
        humidity: 0 (desert) to 1 (rain forest), how much of the ground is overgrown; drawn when
            none.

    Returns:
        The terrain. At least a fifth of it is land.
    """
    if kind is None:
        kind = KINDS[int(torch.multinomial(torch.tensor([0.5, 0.2, 0.3]), 1, generator=generator))]
    if humidity is None:
        humidity = uniform(0.0, 1.0, generator) ** 1.7  # dry frames are the commoner ones
    relief = fractal(grid, generator)
    height = _base(grid, generator, kind, relief)
    cones, volcanoes = _cones(grid, generator, kind, relief)
    # Ravines: relief grows with the height of the cone that it is cut into.
    height = (
        height
        + cones * (1.0 + 0.06 * relief)
        + (20.0 + 0.02 * cones) * fractal(grid, generator, exponent=2.8, longest_m=6_000.0)
    )
    if float((height > 0).float().mean()) < 0.2:
        height = height - torch.quantile(height[::7, ::7].flatten(), 0.75)
    water = height <= 0
    elevation = height.clamp_min(0.0)
    vegetation = _vegetation(grid, generator, elevation, water, volcanoes, humidity)
    snow_line = uniform(1_500.0, 3_500.0, generator) + (0.0 if kind == "range" else 2_000.0)
    on_land = tuple(v for v in volcanoes if not bool(water[int(v.row), int(v.column)]))
    if not on_land:
        row, column = divmod(int(elevation.argmax()), grid.width)
        on_land = (Volcano(float(row), float(column), 10_000.0),)
    return Terrain(elevation, water, vegetation, elevation > snow_line, on_land)


def _base(grid: Grid, generator: torch.Generator, kind: str, relief: Tensor) -> Tensor:
    if kind == "range":
        plain = uniform(300.0, 1_500.0, generator)
        return plain + uniform(100.0, 400.0, generator) * relief + 0.3 * plain
    if kind == "coast":
        east, north = grid.east_north()
        azimuth = uniform(0.0, 2 * math.pi, generator)
        inland = east * math.sin(azimuth) + north * math.cos(azimuth)
        extent = min(grid.height * grid.dy, grid.width * grid.dx)
        shore = uniform(-0.2, 0.2, generator) * extent
        return (inland - shore) * 0.02 + 180.0 * relief
    return -uniform(350.0, 700.0, generator) + 130.0 * relief


def _cones(
    grid: Grid, generator: torch.Generator, kind: str, relief: Tensor
) -> tuple[Tensor, tuple[Volcano, ...]]:
    """Shields and stratovolcanoes with craters or calderas, summed by their upper envelope."""
    east, north = grid.east_north()
    extent = min(grid.height * grid.dy, grid.width * grid.dx)
    count = 2 + int(torch.randint(0, 4, (), generator=generator))
    ragged = fractal(grid, generator, exponent=2.8, longest_m=8_000.0)
    total = torch.zeros((grid.height, grid.width))
    volcanoes = []
    for index in range(count):
        span = 0.25 if index == 0 else 0.42
        e0 = uniform(-span, span, generator) * grid.width * grid.dx
        n0 = uniform(-span, span, generator) * grid.height * grid.dy
        shield = kind == "islands" or uniform(0.0, 1.0, generator) < 0.4
        radius = min(uniform(9e3, 20e3, generator) * (1.0 if shield else 0.8), 0.25 * extent)
        top = uniform(900.0, 1_700.0, generator) if shield else uniform(1_200.0, 2_600.0, generator)
        stretch, turn = uniform(0.75, 1.33, generator), uniform(0.0, math.pi, generator)
        u = (east - e0) * math.cos(turn) + (north - n0) * math.sin(turn)
        v = (north - n0) * math.cos(turn) - (east - e0) * math.sin(turn)
        r = torch.sqrt((u * stretch) ** 2 + (v / stretch) ** 2) / radius
        # Bending the radius by the relief gives capes and bays instead of ellipses.
        r = (r + (0.16 * relief + 0.05 * ragged) * r.clamp_max(1.0)).clamp_min(0.0)
        flank = (1.0 - r).clamp_min(0.0)
        profile = flank**1.1 if shield else flank**2.0
        crater = uniform(1.2e3, 4.0e3, generator) if shield else 600.0
        crater = min(crater / radius, 0.3)
        floor = float((1.0 - crater) ** (1.1 if shield else 2.0)) - (0.18 if shield else 0.05)
        wall = torch.sigmoid((r - crater) / (0.12 * crater))
        total = torch.maximum(total, top * (wall * profile + (1.0 - wall) * max(floor, 0.05)))
        row = (grid.height - 1) / 2 - n0 / grid.dy
        column = (grid.width - 1) / 2 + e0 / grid.dx
        volcanoes.append(Volcano(row, column, radius))
    return total, tuple(volcanoes)


def _vegetation(
    grid: Grid,
    generator: torch.Generator,
    elevation: Tensor,
    water: Tensor,
    volcanoes: tuple[Volcano, ...],
    humidity: float,
) -> Tensor:
    """Forest where it is wet and low, lava around the summits."""
    patches = fractal(grid, generator, exponent=2.6, longest_m=15_000.0)
    wetness = 4.0 * (humidity - 0.55) + 0.9 * patches - elevation / 2_500.0
    vegetation = torch.sigmoid(2.5 * wetness)
    east, north = grid.east_north()
    for volcano in volcanoes:
        e0 = (volcano.column - (grid.width - 1) / 2) * grid.dx
        n0 = ((grid.height - 1) / 2 - volcano.row) * grid.dy
        distance = torch.sqrt((east - e0) ** 2 + (north - n0) ** 2) / volcano.radius
        vegetation = vegetation * torch.sigmoid((distance - 0.3 + 0.08 * patches) / 0.06)
    return torch.where(water, 0.0, vegetation)


def slope(terrain: Terrain, grid: Grid) -> Tensor:
    """Steepness of the ground: (H, W) float32, rise over run."""
    down = torch.diff(terrain.elevation, dim=0, append=terrain.elevation[-1:]) / grid.dy
    right = torch.diff(terrain.elevation, dim=1, append=terrain.elevation[:, -1:]) / grid.dx
    return torch.sqrt(down**2 + right**2)


def swath_footprint(grid: Grid, heading_deg: float, generator: torch.Generator) -> Tensor:
    """Where the frame has data: a swath turned by the heading, with the stairs of its bursts.

    Interferometric Wide swaths are assembled from bursts of about 20 km along track in three
    sub-swaths of about 80 km across; each sub-swath starts and ends at a burst of its own, and
    bursts drift sideways, hence the stairs on all four sides.

    Args:
        grid: Where.
        heading_deg: Flight azimuth [deg, clockwise from north].
        generator: Randomness.

    Returns:
        (H, W) bool, True inside. At least two thirds of the grid are.
    """
    east, north = grid.east_north()
    heading = math.radians(heading_deg)
    along = east * math.sin(heading) + north * math.cos(heading)
    across = east * math.cos(heading) - north * math.sin(heading)
    half_along = 0.5 * grid.height * grid.dy
    half_across = 0.5 * grid.width * grid.dx
    for attempt in range(12):  # smaller stairs each time: they may be larger than a small grid
        inside = _stairs(along, across, half_along, half_across, 0.7**attempt, generator)
        if float(inside.float().mean()) >= 2 / 3:
            return inside
    return torch.ones_like(inside)


def _stairs(
    along: Tensor,
    across: Tensor,
    half_along: float,
    half_across: float,
    scale: float,
    generator: torch.Generator,
) -> Tensor:
    """Inside of four edges with steps; lengths in m, `scale` shrinks the steps."""
    inside = torch.ones_like(along + across, dtype=torch.bool)
    seam = uniform(-0.8, 0.8, generator) * half_across
    sub_swath = (across > seam).long() + (across > seam + 80e3).long()
    for side in (1.0, -1.0):
        edge = uniform(0.45, 1.5, generator) * half_along
        steps = torch.rand(3, generator=generator) - 0.5
        inside &= side * along < edge + (0.7 * scale * BURST_M * steps)[sub_swath]
    burst = (along / BURST_M).floor().long()
    for side in (1.0, -1.0):
        edge = uniform(0.5, 2.2, generator) * half_across
        drift = torch.rand(64, generator=generator) * 1.2e3 * scale
        inside &= side * across < edge + drift[(burst + 32).clamp(0, 63)]
    return inside
