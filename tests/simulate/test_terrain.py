"""Grids, terrains and footprints."""

import math

import pytest
import torch

from heph_vl.simulate.terrain import KINDS, Grid, draw_terrain, fractal, slope, swath_footprint


def test_grid_is_north_up_and_narrows_with_latitude():
    grid = Grid(5, 7, latitude_deg=60.0)
    east, north = grid.east_north()
    assert grid.dy == pytest.approx(111.32)
    assert grid.dx == pytest.approx(55.66)
    assert east[0, -1] == -east[0, 0] == pytest.approx(3 * grid.dx)
    assert north[0, 0] == -north[-1, 0] == pytest.approx(2 * grid.dy)


def test_fractal_is_standardised():
    field = fractal(Grid(200, 300), torch.Generator().manual_seed(0))
    assert field.shape == (200, 300)
    assert float(field.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(field.std()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_terrain_is_consistent(kind, seed):
    grid = Grid(320, 320)
    terrain = draw_terrain(grid, torch.Generator().manual_seed(seed), kind)
    land = float((~terrain.water).float().mean())
    assert land > 0.15
    if kind == "range":
        assert land > 0.6
    assert bool((terrain.elevation[terrain.water] == 0).all())
    assert bool((terrain.elevation >= 0).all())
    assert float(terrain.elevation.max()) > 500
    assert bool((terrain.vegetation[terrain.water] == 0).all())
    assert 0 <= float(terrain.vegetation.min()) <= float(terrain.vegetation.max()) <= 1
    assert not bool((terrain.snow & terrain.water).any())
    for volcano in terrain.volcanoes:
        assert not bool(terrain.water[int(volcano.row), int(volcano.column)])


def test_same_seed_same_terrain():
    grid = Grid(96, 96)
    one, two = (draw_terrain(grid, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(one.elevation, two.elevation)
    assert one.volcanoes == two.volcanoes
    other = draw_terrain(grid, torch.Generator().manual_seed(10))
    assert not torch.equal(one.elevation, other.elevation)


def test_humid_ground_is_greener():
    grid = Grid(160, 160)
    dry, wet = (
        draw_terrain(grid, torch.Generator().manual_seed(1), "range", humidity)
        for humidity in (0.0, 1.0)
    )
    assert float(dry.vegetation.mean()) < 0.2 < 0.6 < float(wet.vegetation.mean())


def test_slope_is_rise_over_run():
    grid = Grid(50, 50)
    terrain = draw_terrain(grid, torch.Generator().manual_seed(1))
    east, _ = grid.east_north()
    tilted = type(terrain)(
        (0.3 * east).expand(50, 50), terrain.water, terrain.vegetation, terrain.snow, ()
    )
    torch.testing.assert_close(slope(tilted, grid)[:, :-1], torch.full((50, 49), 0.3))


@pytest.mark.parametrize("heading", [-12.0, -168.0])
@pytest.mark.parametrize("seed", range(6))
def test_footprint_is_a_turned_swath(heading, seed):
    grid = Grid(480, 480)
    inside = swath_footprint(grid, heading, torch.Generator().manual_seed(seed))
    assert float(inside.float().mean()) >= 2 / 3
    assert bool(inside[240, 240])
    # The upper edge climbs across the track: its median slope is that of the range direction.
    top = inside.float().argmax(dim=0)
    crossing = (top > 0) & inside.any(dim=0)
    if int(crossing.sum()) > 200:
        steps = torch.diff(top[crossing].float())
        flat = steps[steps.abs() < 3].mean()
        # Rows grow southward; across the track north changes by -sin(heading) per cos(heading).
        assert float(flat) == pytest.approx(math.tan(math.radians(heading)), abs=0.08)


def test_footprint_on_a_small_grid():
    inside = swath_footprint(Grid(90, 90, 65.0), -18.0, torch.Generator().manual_seed(0))
    assert float(inside.float().mean()) >= 2 / 3
