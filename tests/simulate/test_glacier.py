"""Flowing ice: where its fringes are, which way it goes, and that it is linear in time."""

import math

import pytest
import torch

from heph_vl.simulate import glacier as ice
from heph_vl.simulate.grid import Grid


def generator(seed):
    return torch.Generator().manual_seed(seed)


def ice_cap(size=300):
    grid = Grid(size, size, 64.4)
    east, north = grid.east_north()
    r = torch.sqrt((east / 9e3) ** 2 + (north / 13e3) ** 2)
    elevation = 300.0 + 1_200.0 * (1 - r**2).clamp_min(0.0) ** 0.7
    elevation = elevation + 40.0 * torch.sin(east / 900.0) * torch.cos(north / 1_100.0)
    return grid, elevation, elevation > 700.0


def glacier(days=12.0, seed=1, snow=None, look=(-0.6, -0.1, 0.79)):
    grid, elevation, cap = ice_cap()
    slope = torch.full_like(elevation, 0.05)
    snow = cap if snow is None else snow
    return ice.glacier_phase(elevation, slope, snow, grid, look, days, generator(seed))


def test_glacier_fringes_lie_on_the_ice_only():
    _, _, snow = ice_cap()
    phase, keep = glacier()
    assert bool((phase[~snow] == 0).all())
    assert float((phase != 0).float().mean()) > 0.3 * float(snow.float().mean())
    assert 3.5 <= float(phase.abs().max()) / (2 * math.pi) <= 12.0
    far = ~torch.nn.functional.max_pool2d(snow[None].float(), 5, 1, 2)[0].bool()
    assert bool((keep[far] == 1).all())
    assert float(keep.min()) < 0.6 < float(keep.max())


def test_ice_flows_down_the_slope():
    phase, _ = glacier()
    _, _, snow = ice_cap()
    # The satellite is in the west: ice that runs west comes nearer, which makes phase negative.
    west, east = phase[:, :135][snow[:, :135]], phase[:, 165:][snow[:, 165:]]
    assert float(west.mean()) < 0
    assert float(east.mean()) > float(west.mean()) + 1.0
    mirrored, _ = glacier(look=(0.6, -0.1, 0.79))
    assert float(mirrored[:, :135][snow[:, :135]].mean()) > 0


def test_streams_are_drawn_out_along_the_slope():
    rows = torch.arange(40.0)[:, None].expand(40, 60)
    columns = torch.arange(60.0).expand(40, 60)
    zero, one = torch.zeros((40, 60)), torch.ones((40, 60))
    # As far up as down: the mean of a plane is the plane; across the slope nothing is blurred.
    along = ice._along_flow(columns, zero, one, 4)
    torch.testing.assert_close(along[:, 12:-12], columns[:, 12:-12], rtol=0, atol=0.01)
    torch.testing.assert_close(ice._along_flow(rows, zero, one, 4), rows, rtol=0, atol=0.01)
    line = (columns == 30).float()
    drawn = ice._along_flow(line, zero, one, 4)[20]
    assert float(drawn.sum()) == pytest.approx(1.0, abs=0.1)
    assert float(drawn[22:39].min()) >= 0
    assert float(drawn[:21].max()) == float(drawn[40:].max()) == 0


def test_glacier_phase_closes_around_dates():
    twelve, eighteen, thirty = (glacier(days)[0] for days in (12.0, 18.0, 30.0))
    torch.testing.assert_close(twelve + eighteen, thirty, rtol=1e-4, atol=1e-4)


def test_no_ice_no_fringes():
    grid, elevation, cap = ice_cap()
    speck = torch.zeros_like(cap)
    speck[150:170, 150:170] = True  # 4.9 square kilometres
    for snow in (torch.zeros_like(cap), speck):
        phase, keep = glacier(snow=snow)
        assert bool((phase == 0).all())
        assert bool((keep == 1).all())
    cliffs = torch.ones_like(elevation)
    look = (-0.6, -0.1, 0.79)
    phase, _ = ice.glacier_phase(elevation, cliffs, cap, grid, look, 12.0, generator(1))
    assert bool((phase == 0).all())
