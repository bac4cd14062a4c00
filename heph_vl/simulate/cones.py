"""Volcanoes of a terrain: where cones stand, how they are shaped, and their craters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heph_vl.simulate.grid import Grid, box_around, coarse_east_north, coarsen, fractal, uniform

SUMMIT_M = 3_000.0  # ground that is dry and open around a given summit
APART_M = 8_000.0  # summits nearer than this share a volcano


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
class Chain:
    """The bent line that volcanoes are strung on.

    Args:
        azimuth: Of the line in the middle of the grid [rad, clockwise from north].
        shift: Distance [m] of the line to the right of the middle of the grid.
        bend: Offset to the right over the square of the distance along the line [1/m].
        extent: Shorter side of the grid [m].
    """

    azimuth: float
    shift: float
    bend: float
    extent: float

    @classmethod
    def draw(cls, grid: Grid, generator: torch.Generator) -> "Chain":
        """A line of random direction through the middle third of the grid."""
        extent = min(grid.height * grid.dy, grid.width * grid.dx)
        azimuth = uniform(0.0, math.pi, generator)
        shift = uniform(-0.15, 0.15, generator) * extent
        return cls(azimuth, shift, uniform(-0.7, 0.7, generator) / extent, extent)

    def offset(self, grid: Grid) -> Tensor:
        """Distance (h, w) [m] to the right of the line, on the coarse grid."""
        east, north = coarse_east_north(grid, (grid.height - 1) / 2, (grid.width - 1) / 2)
        sine, cosine = math.sin(self.azimuth), math.cos(self.azimuth)
        along = east * sine + north * cosine
        return east * cosine - north * sine - self.shift - self.bend * along**2

    def place(self, grid: Grid, along: float, offset: float) -> tuple[float, float]:
        """(row, column) of a point `offset` m to the right of the line, moved into the grid."""
        across = offset + self.shift + self.bend * along**2
        sine, cosine = math.sin(self.azimuth), math.cos(self.azimuth)
        east, north = along * sine + across * cosine, along * cosine - across * sine
        row = (grid.height - 1) / 2 - north / grid.dy
        column = (grid.width - 1) / 2 + east / grid.dx
        return _within(row, grid.height, 0.06), _within(column, grid.width, 0.06)


@dataclass(frozen=True)
class Cone:
    """A shield, or a stratovolcano with concave flanks and ravines.

    Args:
        volcano: Place and foot radius.
        shield: Whether it is a shield.
        top: Height above its foot [m].
        crater: Radius of its crater or caldera [m].
        depth: Of the crater [m].
    """

    volcano: Volcano
    shield: bool
    top: float
    crater: float
    depth: float

    def built(self, grid: Grid, bend: Tensor, generator: torch.Generator) -> Tensor:
        """Height (h, w) [m] above its foot on the coarse grid; `bend` moves the contours."""
        east, north = coarse_east_north(grid, self.volcano.row, self.volcano.column)
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
) -> Cone:
    """A cone at (row, column); one that must hold places up to `reach` m away is gentle."""
    extent = min(grid.height * grid.dy, grid.width * grid.dx)
    shield = kind == "islands" or uniform(0.0, 1.0, generator) < 0.4
    radius = uniform(9e3, max(20e3, 0.1 * extent), generator) * (1.0 if shield else 0.8)
    radius = max(min(radius, 0.25 * extent), 1.8 * reach)
    top = uniform(900.0, 1_800.0, generator) if shield else uniform(1_200.0, 2_600.0, generator)
    top = min(top, (0.11 if reach else 0.2) * radius)
    crater = uniform(1.0e3, 3.5e3, generator) if shield else uniform(300.0, 800.0, generator)
    depth = uniform(0.08, 0.2, generator) * top
    return Cone(Volcano(*place, radius), shield, top, min(crater, 0.25 * radius), depth)


def held_cones(
    grid: Grid, generator: torch.Generator, kind: str, summits: Sequence[tuple[float, float]]
) -> list[Cone]:
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


def other_cones(
    grid: Grid,
    generator: torch.Generator,
    kind: str,
    chain: Chain,
    summits: Sequence[tuple[float, float]],
) -> list[Cone]:
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


def envelope(
    grid: Grid, generator: torch.Generator, cones: Sequence[Cone], relief: Tensor
) -> Tensor:
    """The highest of the cones everywhere (h, w) [m], on the coarse grid."""
    ragged = fractal(coarsen(grid), generator, exponent=2.8, longest_m=8_000.0)
    # Bending the radius gives capes and bays instead of ellipses.
    bend = 0.12 * relief + 0.05 * ragged
    total = torch.zeros_like(relief)
    for cone in cones:
        total = torch.maximum(total, cone.built(grid, bend, generator))
    return total


def dig_crater(elevation: Tensor, grid: Grid, cone: Cone, generator: torch.Generator) -> None:
    """Sink the floor of a crater or caldera into the fine elevation (H, W), in place."""
    box, east, north = box_around(grid, (cone.volcano.row, cone.volcano.column), 2.0 * cone.crater)
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


def _metres(grid: Grid, one: tuple[float, float], two: tuple[float, float]) -> float:
    return math.hypot((one[0] - two[0]) * grid.dy, (one[1] - two[1]) * grid.dx)


def _within(position: float, size: int, margin: float = 0.0) -> float:
    """A position moved into a side of this many pixels, a share of it away from its ends."""
    return min(max(position, margin * size), (1 - margin) * size - 1)
