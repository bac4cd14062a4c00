"""Terrains: land, water, volcanoes and cover."""

import math

import pytest
import torch

from heph_vl.simulate.grid import Grid
from heph_vl.simulate.terrain import KINDS, OPEN, draw_terrain, slope


def test_threads_do_not_change_the_terrain():
    before = torch.get_num_threads()
    try:
        drawn = []
        for number in (1, 2):
            torch.set_num_threads(number)
            drawn.append(draw_terrain(Grid(330, 290), torch.Generator().manual_seed(2)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0].elevation, drawn[1].elevation)
    assert torch.equal(drawn[0].vegetation, drawn[1].vegetation)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(320, 320), (203, 750)])
def test_terrain_is_consistent(kind, seed, shape):
    grid = Grid(*shape)
    terrain = draw_terrain(grid, torch.Generator().manual_seed(seed), kind)
    fields = (terrain.elevation, terrain.water, terrain.vegetation, terrain.snow)
    assert {field.shape for field in fields} == {shape}
    land = float((~terrain.water).float().mean())
    assert land >= 0.2
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


def distances(grid, place):
    rows = torch.arange(grid.height)[:, None] - place[0]
    columns = torch.arange(grid.width)[None, :] - place[1]
    return torch.sqrt((rows * grid.dy) ** 2 + (columns * grid.dx) ** 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_summits_are_dry_open_and_on_a_volcano(kind, seed):
    grid = Grid(400, 620, latitude_deg=35.0)
    # The last is in a corner; the first two share a volcano.
    summits = [(100.0, 120.5), (140.0, 150.0), (300.0, 420.0), (397.0, 3.0)]
    g = torch.Generator().manual_seed(seed)
    terrain = draw_terrain(grid, g, kind, 1.0, summits=summits)
    steepness = slope(terrain, grid)
    for place in summits:
        near = distances(grid, place) < 3_000
        assert not bool(terrain.water[near].any())
        assert not bool(terrain.snow[near].any())
        assert float(terrain.vegetation[near].max()) <= OPEN + 0.01
        assert float(steepness[near].median()) < 0.4
        centers = [distances(grid, (v.row, v.column)) for v in terrain.volcanoes]
        row, column = int(place[0]), int(place[1])
        assert min(float(d[row, column]) for d in centers) < 6_000
    assert float(terrain.vegetation.max()) > 0.6  # humid elsewhere


def test_summits_apart_have_volcanoes_of_their_own():
    grid = Grid(500, 500)
    near, apart = (
        draw_terrain(grid, torch.Generator().manual_seed(0), "islands", summits=summits)
        for summits in ([(250.0, 250.0), (250.0, 300.0)], [(250.0, 150.0), (250.0, 350.0)])
    )
    held = [v for v in near.volcanoes if abs(v.row - 250) < 40 and abs(v.column - 275) < 40]
    assert len(held) == 1
    for column in (150, 350):
        held = [v for v in apart.volcanoes if abs(v.row - 250) < 12]
        assert sum(abs(v.column - column) < 12 for v in held) == 1


def test_a_summit_outside_is_refused():
    with pytest.raises(ValueError, match=r"summit \(50.0, 120.0\) outside 100 x 100"):
        draw_terrain(Grid(100, 100), torch.Generator(), summits=[(50.0, 120.0)])


def test_a_shield_has_a_caldera():
    grid = Grid(400, 400)
    terrain = draw_terrain(
        grid, torch.Generator().manual_seed(1), "islands", summits=[(200.0, 200.0)]
    )
    volcano = min(terrain.volcanoes, key=lambda v: math.dist((v.row, v.column), (200, 200)))
    distance = distances(grid, (volcano.row, volcano.column))
    ring = [
        float(terrain.elevation[(distance >= a) & (distance < a + 300)].mean())
        for a in range(0, 9_000, 300)
    ]
    rim = max(range(len(ring)), key=ring.__getitem__)
    assert 2 <= rim <= 14  # the floor is lower than the rim, the flank falls away from it
    assert ring[rim] - ring[0] > 40
    assert ring[rim] - ring[-1] > 300
