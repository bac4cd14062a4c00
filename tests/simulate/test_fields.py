"""Fields of sources: interpolated, in batches and as sums of parts."""

import pytest
import torch

from heph_vl.simulate.fields import displacement, los_batch, unit_los
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.sources import KINDS, Look, Source

TILTED = {"dip": 8.0, "length": 4e3, "width": 3e3, "strike": 33.0, "depth": 4e3}


def exact_los(source, grid, look):
    u = displacement(source, *grid.east_north(torch.float64))
    return sum(c * m for c, m in zip(look.vector, u, strict=True))


@pytest.mark.parametrize("kind", list(KINDS))
def test_interpolated_field_equals_the_exact_one(kind):
    g = torch.Generator().manual_seed(11)
    grid, look = Grid(160, 200, latitude_deg=40.0), Look(-12.0, 39.0)
    for _ in range(4):
        source = Source(kind, 2_345.0, -1_234.0, KINDS[kind].prior(g))
        exact = exact_los(source, grid, look)
        error = float((unit_los(source, grid, look) - exact).abs().max())
        # 0.02 of 5 fringes peak to peak
        assert error < 0.004 * float(exact.max() - exact.min())


@pytest.mark.parametrize("place", [(40e3, -3e3), (-9e3, 9e3)])
def test_source_at_or_beyond_the_edge_of_the_grid(place):
    grid, look = Grid(100, 120), Look(-168.0, 39.0)
    source = Source("dyke", *place, TILTED | {"dip": 85.0, "depth": 2_500.0})
    exact = exact_los(source, grid, look)
    torch.testing.assert_close(
        unit_los(source, grid, look).double(),
        exact,
        rtol=0,
        atol=0.004 * float(exact.max() - exact.min()),
    )


def test_batch_equals_one_by_one():
    g = torch.Generator().manual_seed(2)
    look = Look(-12.0, 39.0)
    sources = [Source(k, 500.0, -800.0, KINDS[k].prior(g)) for k in KINDS for _ in range(2)]
    east = torch.linspace(-9e3, 9e3, 20, dtype=torch.float64)
    batch = los_batch(sources, east, east.flip(0), look)
    for source, los in zip(sources, batch, strict=True):
        u = displacement(source, east[None], east.flip(0)[:, None])
        exact = sum(c * m for c, m in zip(look.vector, u, strict=True))
        torch.testing.assert_close(los, exact, rtol=0, atol=1e-4 * float(exact.abs().max()))


def test_composite_is_the_sum_of_its_parts():
    mogi = {"model": "mogi", "east": 1e3, "north": 0.0, "strength": 2.0, "depth": 3e3}
    sill = {"model": "tensile", "east": 0.0, "north": -2e3, "strength": -0.5} | TILTED
    grid, look = Grid(60, 70), Look(-12.0, 39.0)
    both = unit_los(Source("unidentified", 100.0, 200.0, {"parts": [mogi, sill]}), grid, look)
    one = unit_los(Source("mogi", 1_100.0, 200.0, {"depth": 3e3}), grid, look)
    other = unit_los(Source("sill", 100.0, -1_800.0, TILTED), grid, look)
    torch.testing.assert_close(both, 2.0 * one - 0.5 * other)
