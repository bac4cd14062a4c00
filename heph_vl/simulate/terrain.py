"""Synthetic volcanic islands, coasts and ranges.

One terrain belongs to one frame: every interferogram of the frame shares it. Heights, coast and
vegetation are what the stratified atmosphere and the coherence of `atmosphere` and
`decorrelation` hang on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

FINE_SPACING_DEG = 0.001  # LiCSAR's geocoded grid, about 111 m
METRES_PER_DEGREE = 111_320.0
COARSE = 4  # fine pixels a side of one of the grid that smooth fields are made on
SUMMIT_M = 3_000.0  # ground that is dry and open around a given summit
APART_M = 8_000.0  # summits nearer than this share a volcano
OPEN = 0.25  # most vegetation around a given summit
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


def draw_terrain(
    grid: Grid,
    generator: torch.Generator,
    kind: str | None = None,
    humidity: float | None = None,
    *,
    summits: Sequence[tuple[float, float]] = (),
) -> Terrain:
    """A volcanic landscape.

    Everything smooth is made on a `COARSE` times coarser grid; ravines and craters are fine.

    Args:
        grid: Where.
        generator: Randomness.
        kind: One of `KINDS`; drawn when none.
        humidity: 0 (desert) to 1 (rain forest), how much of the ground is overgrown; drawn when
            none.
        summits: (row, column) places [pixels of the grid] where deformation will be put: dry, open
            ground within `SUMMIT_M`, on a volcano of their own or, if near one another, on the
            flanks of one.

    Returns:
        The terrain. At least a fifth of it is land.

    Raises:
        ValueError: If a summit is outside the grid.
    """
    for row, column in summits:
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            raise ValueError(f"summit {(row, column)} outside {grid.height} x {grid.width} pixels")
    if kind is None:
        kind = KINDS[int(torch.multinomial(torch.tensor([0.5, 0.2, 0.3]), 1, generator=generator))]
    if humidity is None:
        humidity = draw_humidity(generator)
    relief = fractal(_coarse(grid), generator, longest_m=60_000.0)
    chain = _Chain.draw(grid, generator)
    cones = _held_cones(grid, generator, kind, summits)
    cones += _other_cones(grid, generator, kind, chain, summits)
    land = _base(grid, generator, kind, relief, chain)
    built = _envelope(grid, generator, cones, relief)
    height = land + built * (1.0 + 0.06 * relief)
    height = height - _flood(height)
    fine = fractal(grid, generator, exponent=2.8, longest_m=6_000.0)
    # Ravines: relief grows with the height of the cone that it is cut into.
    elevation = _refine(height, grid, "bicubic") + _refine(20.0 + 0.016 * built, grid) * fine
    for cone in cones:
        _dig_crater(elevation, grid, cone, generator)
    for place in summits:
        _dry(elevation, grid, place)
    water = elevation <= 0
    elevation = elevation.clamp_min_(0.0)
    volcanoes = tuple(c.volcano for c in cones if not bool(water[_pixel(c.volcano)]))
    if not volcanoes:
        row, column = divmod(int(elevation.argmax()), grid.width)
        volcanoes = (Volcano(float(row), float(column), 10_000.0),)
    vegetation, snow = ground_cover(grid, generator, elevation, water, volcanoes, humidity, summits)
    return Terrain(elevation, water, vegetation, snow, volcanoes)


def draw_humidity(generator: torch.Generator) -> float:
    """How overgrown a frame is, 0 to 1; dry ones are the commoner."""
    return float(uniform(0.0, 1.0, generator) ** 1.7)


def ground_cover(
    grid: Grid,
    generator: torch.Generator,
    elevation: Tensor,
    water: Tensor,
    volcanoes: Sequence[Volcano],
    humidity: float,
    summits: Sequence[tuple[float, float]] = (),
) -> tuple[Tensor, Tensor]:
    """Forest where it is wet and low, lava around the summits, snow on what is high.

    Args:
        grid: Where.
        generator: Randomness.
        elevation: (H, W) float32 [m].
        water: (H, W) bool.
        volcanoes: Cones, bare around their summits.
        humidity: 0 to 1.
        summits: (row, column) places [pixels of the grid] that must be open and free of snow.

    Returns:
        Vegetation (H, W) float32 in [0, 1], 0 on water, and snow (H, W) bool.
    """
    patches = fractal(_coarse(grid), generator, exponent=2.6, longest_m=30_000.0)
    height = functional.avg_pool2d(elevation[None], COARSE, ceil_mode=True)[0]
    green = torch.sigmoid(2.5 * (4.0 * (humidity - 0.55) + 0.9 * patches - height / 2_500.0))
    for volcano in volcanoes:
        distance = _distance(grid, volcano.row, volcano.column) / volcano.radius
        green *= torch.sigmoid((distance - 0.3 + 0.08 * patches) / 0.06)
    inland = not bool(water.any())
    snow_line = uniform(1_500.0, 3_500.0, generator) + (0.0 if inland else 2_000.0)
    for row, column in summits:
        distance = _distance(grid, row, column)
        green = green.minimum(OPEN + ((distance - 4e3) / 6e3).clamp_min(0.0))
        snow_line = max(snow_line, float(height[distance < 4e3].max()) + 100.0)
    vegetation = _refine(green, grid).masked_fill(water, 0.0)
    return vegetation, (elevation > snow_line) & ~water


def slope(terrain: Terrain, grid: Grid) -> Tensor:
    """Steepness of the ground: (H, W) float32, rise over run."""
    down = torch.diff(terrain.elevation, dim=0, append=terrain.elevation[-1:]) / grid.dy
    right = torch.diff(terrain.elevation, dim=1, append=terrain.elevation[:, -1:]) / grid.dx
    return torch.sqrt(down**2 + right**2)


@dataclass(frozen=True)
class _Chain:
    """The bent line that volcanoes are strung on; lengths in m from the middle of the grid."""

    azimuth: float
    shift: float
    bend: float
    extent: float

    @classmethod
    def draw(cls, grid: Grid, generator: torch.Generator) -> "_Chain":
        extent = min(grid.height * grid.dy, grid.width * grid.dx)
        azimuth = uniform(0.0, math.pi, generator)
        shift = uniform(-0.15, 0.15, generator) * extent
        return cls(azimuth, shift, uniform(-0.7, 0.7, generator) / extent, extent)

    def offset(self, grid: Grid) -> Tensor:
        """Distance to the right of the line, on the coarse grid."""
        east, north = _east_north(grid, (grid.height - 1) / 2, (grid.width - 1) / 2)
        sine, cosine = math.sin(self.azimuth), math.cos(self.azimuth)
        along = east * sine + north * cosine
        return east * cosine - north * sine - self.shift - self.bend * along**2

    def place(self, grid: Grid, along: float, offset: float) -> tuple[float, float]:
        """(row, column) of a point beside the line, moved into the grid."""
        across = offset + self.shift + self.bend * along**2
        sine, cosine = math.sin(self.azimuth), math.cos(self.azimuth)
        east, north = along * sine + across * cosine, along * cosine - across * sine
        row = (grid.height - 1) / 2 - north / grid.dy
        column = (grid.width - 1) / 2 + east / grid.dx
        return _within(row, grid.height, 0.06), _within(column, grid.width, 0.06)


@dataclass(frozen=True)
class _Cone:
    """A shield, or a stratovolcano with concave flanks and ravines; lengths in m."""

    volcano: Volcano
    shield: bool
    top: float
    crater: float
    depth: float

    def built(self, grid: Grid, bend: Tensor, generator: torch.Generator) -> Tensor:
        """Height [m] above its foot on the coarse grid; `bend` moves the contours."""
        east, north = _east_north(grid, self.volcano.row, self.volcano.column)
        stretch, turn = uniform(0.8, 1.25, generator), uniform(0.0, math.pi, generator)
        u = (east * math.cos(turn) + north * math.sin(turn)) * stretch
        v = (north * math.cos(turn) - east * math.sin(turn)) / stretch
        r = torch.sqrt(u**2 + v**2) / self.volcano.radius
        r = (r + bend * r.clamp_max(1.0)).clamp_min_(0.0)
        flank = (1.0 - r).clamp_min_(0.0)
        if self.shield:
            return self.top * flank**1.2
        number = int(torch.randint(9, 18, (), generator=generator))
        ravine = torch.sin(number * torch.atan2(v, u) + 10.0 * bend).abs()
        return self.top * flank**2 * (1.0 - 0.2 * (1.0 - ravine) * (r * flank * 4.0))


def _draw_cone(
    grid: Grid, generator: torch.Generator, kind: str, place: tuple[float, float], reach: float = 0
) -> _Cone:
    """A cone at (row, column); one that must hold places up to `reach` m away is gentle."""
    extent = min(grid.height * grid.dy, grid.width * grid.dx)
    shield = kind == "islands" or uniform(0.0, 1.0, generator) < 0.4
    radius = uniform(9e3, max(20e3, 0.1 * extent), generator) * (1.0 if shield else 0.8)
    radius = max(min(radius, 0.25 * extent), 1.8 * reach)
    top = uniform(900.0, 1_800.0, generator) if shield else uniform(1_200.0, 2_600.0, generator)
    top = min(top, (0.11 if reach else 0.2) * radius)
    crater = uniform(1.0e3, 3.5e3, generator) if shield else uniform(300.0, 800.0, generator)
    depth = uniform(0.08, 0.2, generator) * top
    return _Cone(Volcano(*place, radius), shield, top, min(crater, 0.25 * radius), depth)


def _held_cones(
    grid: Grid, generator: torch.Generator, kind: str, summits: Sequence[tuple[float, float]]
) -> list[_Cone]:
    """A cone for each summit or group of summits less than `APART_M` from one another."""
    groups: list[list[tuple[float, float]]] = []
    for place in summits:
        near = [g for g in groups if any(_metres(grid, place, p) < APART_M for p in g)]
        groups = [g for g in groups if g not in near]
        groups.append([place, *(p for g in near for p in g)])
    cones = []
    for group in groups:
        middle = [sum(p[axis] for p in group) / len(group) for axis in (0, 1)]
        row = _within(middle[0] + uniform(-1e3, 1e3, generator) / grid.dy, grid.height)
        column = _within(middle[1] + uniform(-1e3, 1e3, generator) / grid.dx, grid.width)
        reach = max(_metres(grid, (row, column), p) for p in group) + SUMMIT_M
        cones.append(_draw_cone(grid, generator, kind, (row, column), reach))
    return cones


def _other_cones(
    grid: Grid,
    generator: torch.Generator,
    kind: str,
    chain: _Chain,
    summits: Sequence[tuple[float, float]],
) -> list[_Cone]:
    """Cones along the chain, more in larger frames, none whose flanks hold a summit."""
    area = grid.height * grid.dy * grid.width * grid.dx
    count = round(uniform(2.0, 6.0, generator) * (1.0 + area / 180e3**2))
    half = 0.5 * math.hypot(grid.height * grid.dy, grid.width * grid.dx)
    cones = []
    for index in range(count):
        along = uniform(-0.9, 0.9, generator) * half * (0.3 if index == 0 else 1.0)
        offset = 0.07 * chain.extent * float(torch.randn((), generator=generator))
        cone = _draw_cone(grid, generator, kind, chain.place(grid, along, offset))
        center = (cone.volcano.row, cone.volcano.column)
        reach = 0.8 * cone.volcano.radius + SUMMIT_M
        if all(_metres(grid, center, place) > reach for place in summits):
            cones.append(cone)
    return cones


def _base(
    grid: Grid, generator: torch.Generator, kind: str, relief: Tensor, chain: _Chain
) -> Tensor:
    """The ground [m] that volcanoes stand on, on the coarse grid; below 0 it is sea."""
    if kind == "coast":
        inland = chain.offset(grid) - uniform(-0.2, 0.2, generator) * chain.extent
        if uniform(0.0, 1.0, generator) < 0.5:
            inland = -inland
        return 900.0 * torch.tanh(inland * (0.02 / 900.0)) + 180.0 * relief
    swell = torch.exp(-((chain.offset(grid) / (uniform(0.08, 0.2, generator) * chain.extent)) ** 2))
    if kind == "range":
        plain = uniform(300.0, 1_500.0, generator)
        ridge = uniform(0.0, 900.0, generator) * swell
        return (1.3 * plain + ridge + uniform(100.0, 400.0, generator) * relief).clamp_min_(30.0)
    sea = uniform(350.0, 700.0, generator)
    return uniform(0.4, 1.1, generator) * sea * swell - sea + 130.0 * relief


def _flood(height: Tensor) -> float:
    """Sea level [m] at which at least a fifth of the ground is land, at most 0."""
    if float((height > 0).float().mean()) >= 0.22:
        return 0.0
    return float(torch.quantile(height[::2, ::2].flatten(), 0.75))


def _envelope(
    grid: Grid, generator: torch.Generator, cones: Sequence[_Cone], relief: Tensor
) -> Tensor:
    """The highest of the cones everywhere [m], on the coarse grid."""
    ragged = fractal(_coarse(grid), generator, exponent=2.8, longest_m=8_000.0)
    # Bending the radius gives capes and bays instead of ellipses.
    bend = 0.12 * relief + 0.05 * ragged
    total = torch.zeros_like(relief)
    for cone in cones:
        total = torch.maximum(total, cone.built(grid, bend, generator))
    return total


def _dig_crater(elevation: Tensor, grid: Grid, cone: _Cone, generator: torch.Generator) -> None:
    """Sink the floor of a crater or caldera into the fine elevation (H, W), in place."""
    box, east, north = _box(grid, (cone.volcano.row, cone.volcano.column), 2.0 * cone.crater)
    ground = elevation[box]
    if not ground.numel():
        return
    turn = uniform(0.0, 2 * math.pi, generator)
    theta = torch.atan2(north, east) + turn
    wobble = 1.0 + 0.10 * torch.cos(2 * theta) + 0.06 * torch.cos(3 * theta + turn)
    r = torch.sqrt(east**2 + north**2) / (cone.crater * wobble)
    rim = ground[(r > 0.85) & (r < 1.15)]
    if not rim.numel():
        return
    level = float(rim.mean())
    # The floor of a crater whose rim is dry stays dry.
    floor = level - (min(cone.depth, 0.7 * level) if level > 0 else cone.depth)
    wall = torch.sigmoid((r - 1.0) / 0.1)
    elevation[box] = floor + 0.15 * (ground - level) * (1 - wall) + wall * (ground - floor)


def _dry(elevation: Tensor, grid: Grid, place: tuple[float, float]) -> None:
    """Raise what is low around a summit out of the sea, in place."""
    box, east, north = _box(grid, place, 2.0 * SUMMIT_M)
    distance = torch.sqrt(east**2 + north**2)
    ground = elevation[box]
    weight = 0.9 * (2.0 - distance / SUMMIT_M).clamp_(0.0, 1.0)
    ground = ground + weight * (120.0 - ground).clamp_min_(0.0)
    elevation[box] = torch.where(distance < SUMMIT_M, ground.clamp_min(15.0), ground)


def _box(
    grid: Grid, place: tuple[float, float], reach: float
) -> tuple[tuple[slice, slice], Tensor, Tensor]:
    """Fine pixels within `reach` m of (row, column), and their offsets east and north of it [m]."""
    box = (
        _span(place[0], reach / grid.dy, grid.height),
        _span(place[1], reach / grid.dx, grid.width),
    )
    rows, columns = torch.arange(grid.height)[box[0]], torch.arange(grid.width)[box[1]]
    return box, ((columns - place[1]) * grid.dx)[None], ((place[0] - rows) * grid.dy)[:, None]


def _span(middle: float, reach: float, size: int) -> slice:
    return slice(max(0, math.floor(middle - reach)), min(size, math.ceil(middle + reach) + 1))


def _coarse(grid: Grid) -> Grid:
    """`COARSE` times coarser: pixel j lies in the middle of the fine ones from j * COARSE on."""
    return Grid(
        -(-grid.height // COARSE),
        -(-grid.width // COARSE),
        grid.latitude_deg,
        grid.spacing_deg * COARSE,
    )


def _refine(field: Tensor, grid: Grid, mode: str = "bilinear") -> Tensor:
    """A field of the coarse grid on the fine one: (H, W)."""
    fine = functional.interpolate(field[None, None], scale_factor=COARSE, mode=mode)[0, 0]
    return fine[: grid.height, : grid.width]


def _east_north(grid: Grid, row: float, column: float) -> tuple[Tensor, Tensor]:
    """East (1, w) and north (h, 1) [m] of the coarse pixels from a place in fine pixels."""
    coarse, middle = _coarse(grid), (COARSE - 1) / 2
    east = (torch.arange(coarse.width) * COARSE + middle - column) * grid.dx
    north = (row - middle - torch.arange(coarse.height) * COARSE) * grid.dy
    return east[None, :], north[:, None]


def _distance(grid: Grid, row: float, column: float) -> Tensor:
    """Distance [m] of the coarse pixels from a place in fine pixels."""
    east, north = _east_north(grid, row, column)
    return torch.sqrt(east**2 + north**2)


def _metres(grid: Grid, one: tuple[float, float], two: tuple[float, float]) -> float:
    return math.hypot((one[0] - two[0]) * grid.dy, (one[1] - two[1]) * grid.dx)


def _within(position: float, size: int, margin: float = 0.0) -> float:
    """A position moved into a side of this many pixels, a share of it away from its ends."""
    return min(max(position, margin * size), (1 - margin) * size - 1)


def _pixel(volcano: Volcano) -> tuple[int, int]:
    return int(volcano.row), int(volcano.column)
