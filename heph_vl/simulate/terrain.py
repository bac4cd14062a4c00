"""Synthetic volcanic islands, coasts and ranges.

One terrain belongs to one frame: every interferogram of the frame shares it. Heights, coast and
vegetation are what the stratified atmosphere and the coherence of `atmosphere` and
`decorrelation` hang on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from heph_vl.simulate.cones import (
    SUMMIT_M,
    Chain,
    Volcano,
    dig_crater,
    envelope,
    held_cones,
    other_cones,
)
from heph_vl.simulate.grid import (
    COARSE,
    Grid,
    box_around,
    coarse_distance,
    coarsen,
    fractal,
    refine,
    uniform,
)

OPEN = 0.25  # most vegetation around a given summit
KINDS = ("islands", "coast", "range")


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


def draw_terrain(
    grid: Grid,
    generator: torch.Generator,
    kind: str | None = None,
    humidity: float | None = None,
    *,
    summits: Sequence[tuple[float, float]] = (),
) -> Terrain:
    """A volcanic landscape.

    Everything smooth is made on a grid `COARSE` times coarser; ravines and craters are fine.

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
    relief = fractal(coarsen(grid), generator, longest_m=60_000.0)
    chain = Chain.draw(grid, generator)
    cones = held_cones(grid, generator, kind, summits)
    cones += other_cones(grid, generator, kind, chain, summits)
    land = _base(grid, generator, kind, relief, chain)
    built = envelope(grid, generator, cones, relief)
    height = land + built * (1.0 + 0.06 * relief)
    height = height - _flood(height)
    fine = fractal(grid, generator, exponent=2.8, longest_m=6_000.0)
    # Ravines: relief grows with the height of the cone that it is cut into.
    elevation = refine(height, grid, "bicubic") + refine(20.0 + 0.016 * built, grid) * fine
    for cone in cones:
        dig_crater(elevation, grid, cone, generator)
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
    patches = fractal(coarsen(grid), generator, exponent=2.6, longest_m=30_000.0)
    height = functional.avg_pool2d(elevation[None], COARSE, ceil_mode=True)[0]
    green = torch.sigmoid(2.5 * (4.0 * (humidity - 0.55) + 0.9 * patches - height / 2_500.0))
    for volcano in volcanoes:
        distance = coarse_distance(grid, volcano.row, volcano.column) / volcano.radius
        green *= torch.sigmoid((distance - 0.3 + 0.08 * patches) / 0.06)
    inland = not bool(water.any())
    snow_line = uniform(1_500.0, 3_500.0, generator) + (0.0 if inland else 2_000.0)
    for row, column in summits:
        distance = coarse_distance(grid, row, column)
        green = green.minimum(OPEN + ((distance - 4e3) / 6e3).clamp_min(0.0))
        snow_line = max(snow_line, float(height[distance < 4e3].max()) + 100.0)
    vegetation = refine(green, grid).masked_fill(water, 0.0)
    return vegetation, (elevation > snow_line) & ~water


def slope(terrain: Terrain, grid: Grid) -> Tensor:
    """Steepness of the ground: (H, W) float32, rise over run."""
    down = torch.diff(terrain.elevation, dim=0, append=terrain.elevation[-1:]) / grid.dy
    right = torch.diff(terrain.elevation, dim=1, append=terrain.elevation[:, -1:]) / grid.dx
    return torch.sqrt(down**2 + right**2)


def _base(
    grid: Grid, generator: torch.Generator, kind: str, relief: Tensor, chain: Chain
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


def _dry(elevation: Tensor, grid: Grid, place: tuple[float, float]) -> None:
    """Raise what is low around a summit out of the sea, in place."""
    box, east, north = box_around(grid, place, 2.0 * SUMMIT_M)
    distance = torch.sqrt(east**2 + north**2)
    ground = elevation[box]
    weight = 0.9 * (2.0 - distance / SUMMIT_M).clamp_(0.0, 1.0)
    ground = ground + weight * (120.0 - ground).clamp_min_(0.0)
    elevation[box] = torch.where(distance < SUMMIT_M, ground.clamp_min(15.0), ground)


def _pixel(volcano: Volcano) -> tuple[int, int]:
    return int(volcano.row), int(volcano.column)
