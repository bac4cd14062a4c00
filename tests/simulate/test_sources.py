"""Sources, line of sight, fringes and outlines."""

import math

import numpy as np
import pytest
import shapely
import torch

from heph_vl.simulate import sources
from heph_vl.simulate.sources import FRINGE_M, KINDS, Look, Source, los_to_phase, outline, unit_los
from heph_vl.simulate.terrain import Grid


def displacement(kind, parameters, east):
    e = torch.tensor([[float(v) for v in east]], dtype=torch.float64)
    return KINDS[kind].displace(parameters, e, torch.zeros((1, 1), dtype=torch.float64))


def test_mogi_reference_values():
    # d = 5 km, dV = pi * 500^3 * 1e-3 m3; the kind's unit is 1e6 m3.
    up = displacement("mogi", {"depth": 5_000.0}, [0, 2e3, 5e3, 10e3])[2, 0]
    up = up * math.pi * 500**3 * 1e-3 / 1e6
    np.testing.assert_allclose(up, [3.75e-3, 3.00154e-3, 1.32583e-3, 3.3541e-4], rtol=2e-5)


def test_spheroid_becomes_a_sphere():
    sphere = {"depth": 5e3, "radius": 500.0, "aspect": 1.0 + 1e-4, "tilt": 0.0, "azimuth": 0.0}
    up = displacement("spheroid", sphere, [0, 2e3, 5e3, 10e3])[2, 0]
    # P / mu = 1e-3 in the reference; the kind has 10 MPa over torchdeform's 30 GPa.
    up = up * 1e-3 / (1e7 / 3e10)
    np.testing.assert_allclose(up, [3.72671e-3, 2.98414e-3, 1.3196e-3, 3.3415e-4], rtol=1e-2)


@pytest.mark.parametrize("kind", ["mogi", "sill", "spheroid"])
def test_inflation_lifts_the_ground_toward_the_satellite(kind):
    g = torch.Generator().manual_seed(4)
    grid = Grid(120, 120)
    parameters = KINDS[kind].prior(g)
    for heading in (-10.0, -170.0):
        los = unit_los(Source(kind, 0.0, 0.0, parameters), grid, Look(heading, 35.0))
        assert float(los[60, 60]) > 0
        assert float(los_to_phase(los)[60, 60]) < 0


def test_look_vectors():
    east, north, up = Look(-12.0, 39.0).vector
    # Right-looking and ascending: the satellite stands in the west.
    np.testing.assert_allclose((east, north, up), (-0.6156, -0.1308, 0.7771), atol=1e-4)
    assert Look(-168.0, 39.0).vector[0] > 0.6
    assert east**2 + north**2 + up**2 == pytest.approx(1.0)


def test_one_fringe_is_2773_mm():
    assert pytest.approx(0.02773, abs=5e-6) == FRINGE_M
    assert float(los_to_phase(torch.tensor(FRINGE_M))) == pytest.approx(-2 * math.pi, rel=1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
def test_interpolated_field_equals_the_exact_one(kind):
    g = torch.Generator().manual_seed(11)
    grid = Grid(240, 300, latitude_deg=40.0)
    look = Look(-12.0, 39.0)
    for _ in range(3):
        source = Source(kind, 2_345.0, -1_234.0, KINDS[kind].prior(g))
        east, north = grid.east_north(torch.float64)
        moved = KINDS[kind].displace(source.parameters, east - source.east, north - source.north)
        exact = sum(c * m for c, m in zip(look.vector, moved, strict=True))
        error = (unit_los(source, grid, look) - exact).abs().max() / exact.abs().max()
        assert float(error) < 2e-3


def test_priors_stay_below_ground():
    g = torch.Generator().manual_seed(0)
    for kind in KINDS.values():
        for _ in range(50):
            p = kind.prior(g)
            half = p.get("width", 0.0) / 2 * math.sin(math.radians(p.get("dip", 0.0)))
            assert p["depth"] - half >= 500.0 - 1e-6


@pytest.mark.parametrize(
    ("fringes", "level"),
    [(0.49, None), (0.5, "low"), (1.5, "low"), (1.6, "medium"), (3.5, "medium"), (3.6, "high")],
)
def test_intensity(fringes, level):
    assert sources.intensity_of(fringes) == level


def mogi_field(fringes, size=480, depth=3_000.0):
    grid = Grid(size, size)
    los = unit_los(Source("mogi", 0.0, 0.0, {"depth": depth}), grid, Look(-12.0, 39.0))
    everywhere = torch.ones_like(los, dtype=torch.bool)
    return los * (fringes * FRINGE_M / float(los.max())), everywhere


@pytest.mark.parametrize("fringes", [0.8, 2.0, 6.0])
def test_outline_holds_the_fringes(fringes):
    los, everywhere = mogi_field(fringes)
    found = outline(los, everywhere, everywhere, (144, 144))
    assert found is not None
    level = max(min(0.25, 0.5 * fringes), 0.12 * fringes)
    # One-signed: what is inside runs from the contour to the peak.
    assert found.fringe_count == pytest.approx(fringes - level, abs=0.12 * fringes)
    assert found.toward
    assert found.seen_share == 1.0
    polygon = shapely.Polygon(found.polygon)
    assert polygon.is_valid
    # Where |LOS| is clearly above the level is inside, clearly below is outside.
    rows, columns = torch.meshgrid(torch.arange(480), torch.arange(480), indexing="ij")
    points = shapely.points((columns + 0.5).numpy() * 0.3, (rows + 0.5).numpy() * 0.3)
    inside = torch.from_numpy(shapely.contains(polygon, points))
    strength = los.abs() / FRINGE_M
    assert bool(inside[strength > 1.3 * level].all())
    assert not bool(inside[strength < 0.7 * level].any())


def test_outline_is_signed_and_cut_at_the_coast():
    los, everywhere = mogi_field(3.0)
    visible = everywhere.clone()
    visible[:, 250:] = False  # x >= 75 native px
    found = outline(-los, visible, everywhere, (144, 144))
    assert found is not None
    assert not found.toward
    assert max(x for x, _ in found.polygon) <= 76


def test_outline_of_nothing():
    los, everywhere = mogi_field(0.4)
    assert outline(los, everywhere, everywhere, (144, 144)) is None
    strong, _ = mogi_field(4.0)
    assert outline(strong, ~everywhere, everywhere, (144, 144)) is None


def test_outline_keeps_the_largest_piece():
    los = torch.zeros((480, 480))
    los[50:80, 50:80] = 2 * FRINGE_M
    los[300:400, 300:400] = FRINGE_M
    everywhere = torch.ones_like(los, dtype=torch.bool)
    found = outline(los, everywhere, everywhere, (144, 144))
    assert found is not None
    assert min(x for x, _ in found.polygon) > 80
