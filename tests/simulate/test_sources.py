"""Sources and their line of sight."""

import math

import numpy as np
import pytest
import torch

from heph_vl.simulate.fields import displacement, unit_los
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.sources import FRINGE_M, KINDS, Look, Source, los_to_phase, parts_of

TILTED = {"dip": 8.0, "length": 4e3, "width": 3e3, "strike": 33.0, "depth": 4e3}


def along_east(kind, parameters, east):
    """East, north, up (3, N) on a line through the source."""
    e = torch.tensor([[float(v) for v in east]], dtype=torch.float64)
    zero = torch.zeros((1, 1), dtype=torch.float64)
    return displacement(Source(kind, 0.0, 0.0, parameters), e, zero)[:, 0]


@pytest.fixture(scope="module")
def plane():
    side = torch.linspace(-15e3, 15e3, 25, dtype=torch.float64) + 11.0
    return side[None, :], side[:, None]


def vmod(module, name, plane, *arguments, **keywords):
    """Displacement (3, H, W) of a model of vmod-geodesy."""
    model = getattr(pytest.importorskip(f"vmod.source.{module}"), name)
    data = pytest.importorskip("vmod.data").Data()
    east, north = torch.broadcast_tensors(*plane)
    call = getattr(model(data), "model_gen" if name == "Okada" else "model")
    u = call(east.numpy().ravel(), north.numpy().ravel(), *arguments, **keywords)
    return np.array(u).reshape(3, *east.shape)


def test_mogi_reference_values():
    # d = 5 km, dV = pi * 500^3 * 1e-3 m3; the kind's unit is 1e6 m3.
    up = along_east("mogi", {"depth": 5_000.0}, [0, 2e3, 5e3, 10e3])[2]
    up = up * math.pi * 500**3 * 1e-3 / 1e6
    np.testing.assert_allclose(up, [3.75e-3, 3.00154e-3, 1.32583e-3, 3.3541e-4], rtol=2e-5)


def test_spheroid_becomes_a_sphere():
    sphere = {"depth": 5e3, "radius": 500.0, "aspect": 1.0 + 1e-4, "tilt": 0.0, "azimuth": 0.0}
    up = along_east("spheroid", sphere, [0, 2e3, 5e3, 10e3])[2]
    # P / mu = 1e-3 in the reference; the kind has 10 MPa over torchdeform's 30 GPa.
    up = up * 1e-3 / (1e7 / 3e10)
    np.testing.assert_allclose(up, [3.72671e-3, 2.98414e-3, 1.3196e-3, 3.3415e-4], rtol=1e-2)


def test_penny_reference_values():
    # R = 2 km, H / R = 2, in units of dP R / mu. Another solution of the same integral equations;
    # torchdeform's does not change in the sixth digit with more quadrature nodes.
    up = along_east("sill", {"depth": 4e3, "radius": 2e3}, [0, 2e3, 5e3, 10e3])[2]
    up = up / (1e7 / 3e10 * 2e3)
    np.testing.assert_allclose(up, [0.201510, 0.134165, 0.0265342, 0.00189965], rtol=1.5e-3)


def test_mogi_equals_vmod(plane):
    theirs = vmod("mogi", "Mogi", plane, 1e3, -2e3, 4e3, 1e6)
    ours = displacement(Source("mogi", 1e3, -2e3, {"depth": 4e3}), *plane)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_penny_equals_vmod(plane):
    theirs = vmod("penny", "Penny", plane, 1e3, -2e3, 4e3, 1e7, 2e3, mu=3e10)
    ours = displacement(Source("sill", 1e3, -2e3, {"depth": 4e3, "radius": 2e3}), *plane)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * np.abs(theirs).max())


def test_deep_spheroid_equals_vmod(plane):
    # Yang et al. (1988) with a vertical long axis, small against its depth.
    theirs = vmod("yang", "Yang", plane, 1e3, -2e3, 9e3, 1e7, 600.0, 400.0, 0.0, 90.0, mu=3e10)
    p = {"depth": 9e3, "radius": 400.0, "aspect": 1.5, "tilt": 0.0, "azimuth": 0.0}
    ours = displacement(Source("spheroid", 1e3, -2e3, p), *plane)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("kind", "dip", "rake", "strength"),
    [
        ("sill", 5.0, None, (0.0, 1.0)),
        ("dyke", 80.0, None, (0.0, 1.0)),
        ("earthquake", 30.0, 90.0, (1.0, 0.0)),
        ("earthquake", 60.0, -90.0, (1.0, 0.0)),
        ("earthquake", 85.0, 10.0, (1.0, 0.0)),
    ],
)
def test_rectangles_equal_vmod(plane, kind, dip, rake, strength):
    p = {"dip": dip, "length": 6e3, "width": 3e3, "strike": 33.0, "depth": 4e3}
    p |= {} if rake is None else {"rake": rake}
    geometry = (1e3, -2e3, 4e3, 6e3, 3e3)
    theirs = vmod(
        *("okada", "Okada", plane, *geometry),
        **{"slip": strength[0], "opening": strength[1], "strike": 33.0, "dip": dip},
        rake=rake or 0.0,
    )
    ours = displacement(Source(kind, 1e3, -2e3, p), *plane)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["mogi", "sill", "spheroid"])
def test_inflation_lifts_the_ground_toward_the_satellite(kind):
    g = torch.Generator().manual_seed(4)
    parameters = KINDS[kind].prior(g)
    for heading in (-10.0, -170.0):
        los = unit_los(Source(kind, 0.0, 0.0, parameters), Grid(120, 120), Look(heading, 35.0))
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
    # One centimetre of uplift seen from straight above: the path is 2 cm shorter.
    up = torch.tensor(0.01) * Look(-12.0, 0.0).vector[2]
    expected = -2 * math.pi * 0.02 / 0.05546576
    assert float(los_to_phase(up)) == pytest.approx(expected, rel=1e-6)


def test_a_pattern_scales_with_its_lengths():
    small, large = TILTED, TILTED | {k: 2 * TILTED[k] for k in ("length", "width", "depth")}
    near = along_east("sill", small, [1e3, 3e3])
    far = along_east("sill", large, [2e3, 6e3])
    torch.testing.assert_close(near, far)


def test_priors_stay_below_ground():
    g = torch.Generator().manual_seed(0)
    for name, kind in KINDS.items():
        for _ in range(50):
            for part in parts_of(Source(name, 0.0, 0.0, kind.prior(g))):
                p = part.parameters
                half = p.get("width", 0.0) / 2 * math.sin(math.radians(p.get("dip", 0.0)))
                assert p["depth"] - half >= 500.0 - 1e-6


def test_sills_are_rectangles_and_cracks_and_earthquakes_of_three_styles():
    g = torch.Generator().manual_seed(0)
    models = [parts_of(Source("sill", 0, 0, KINDS["sill"].prior(g)))[0].model for _ in range(90)]
    assert 15 < models.count("penny") < 45
    assert set(models) == {"penny", "tensile"}
    rakes = {round(KINDS["earthquake"].prior(g)["rake"] / 90) * 90 for _ in range(60)}
    assert rakes == {0, 90, 180, -90}
