"""Turbulence spectrum, stratification, ramps, and what makes phase close."""

import math

import pytest
import torch

from heph_vl.simulate.atmosphere import (
    ORBIT_M,
    REFERENCE_M,
    STRATIFICATION_RAD_PER_KM,
    coarse_shape,
    draw_date,
    plane,
    stratified,
    to_grid,
    turbulence,
)
from heph_vl.simulate.grid import Grid

GRID = Grid(480, 480)


def screens(grid, count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([to_grid(turbulence(grid, g), grid) for _ in range(count)])


def slope_of_spectrum(fields, grid, longest, shortest):
    """Exponent of the two-dimensional power spectrum between two wavelengths [m]."""
    taper = torch.outer(*(torch.hann_window(n, periodic=False) for n in fields.shape[1:]))
    power = torch.fft.fft2(fields * taper).abs().square().mean(0)
    ky, kx = torch.fft.fftfreq(grid.height, grid.dy), torch.fft.fftfreq(grid.width, grid.dx)
    k = torch.sqrt(ky[:, None] ** 2 + kx[None, :] ** 2)
    band = (k > 1 / longest) & (k < 1 / shortest)
    x, y = torch.log(k[band]).double(), torch.log(power[band]).double()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize("grid", [GRID, Grid(401, 600, latitude_deg=60.0)])
@pytest.mark.parametrize(
    ("longest", "shortest", "exponent"), [(20e3, 2.2e3, -8 / 3), (1.8e3, 0.5e3, -11 / 3)]
)
def test_spectrum_slopes(grid, longest, shortest, exponent):
    fields = screens(grid, 12)
    assert slope_of_spectrum(fields, grid, longest, shortest) == pytest.approx(exponent, abs=0.06)


def test_level_of_turbulence_is_the_same_on_every_grid():
    # Variance in waves of 4 to 20 km: the integral of the spectrum between them.
    expected = ((20e3 / REFERENCE_M) ** (2 / 3)) - ((4e3 / REFERENCE_M) ** (2 / 3))
    for grid in (Grid(720, 720), Grid(500, 900, latitude_deg=50.0)):
        fields = screens(grid, 12, seed=1)
        taper = torch.outer(*(torch.hann_window(n, periodic=False) for n in fields.shape[1:]))
        power = torch.fft.fft2(fields * taper).abs().square().mean(0) / taper.square().sum()
        ky, kx = torch.fft.fftfreq(grid.height, grid.dy), torch.fft.fftfreq(grid.width, grid.dx)
        k = torch.sqrt(ky[:, None] ** 2 + kx[None, :] ** 2)
        band = (k > 1 / 20e3) & (k < 1 / 4e3)
        variance = float(power[band].sum()) / (grid.height * grid.width)
        assert variance == pytest.approx(expected, rel=0.1)


def test_opposite_edges_are_no_neighbours():
    fields = screens(GRID, 40, seed=2)
    across = (fields[:, 0] - fields[:, -1]).square().mean()
    beside = (fields[:, 0] - fields[:, 1]).square().mean()
    assert float(across) > 50 * float(beside)


@pytest.mark.parametrize("grid", [Grid(40, 60), Grid(41, 59)])
def test_interpolation_is_exact_for_planes_and_linear(grid):
    h, w = coarse_shape(grid)
    rows, columns = torch.arange(h).float()[:, None], torch.arange(w).float()
    # A coarse pixel is the middle of fine pixels 2 j and 2 j + 1.
    fine = to_grid(3.0 * (2 * rows + 0.5) - (2 * columns + 0.5), grid)
    expected = 3.0 * torch.arange(grid.height)[:, None] - torch.arange(grid.width)
    assert fine.shape == expected.shape
    inside = (slice(1, -1), slice(1, -1))
    torch.testing.assert_close(fine[inside], expected[inside].float(), atol=1e-3, rtol=0)
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn((2, h, w), generator=g)
    torch.testing.assert_close(to_grid(a - b, grid), to_grid(a, grid) - to_grid(b, grid))
    assert torch.equal(to_grid(torch.stack((a, b)), grid)[1], to_grid(b, grid))


def test_phase_closes_around_triangles():
    g = torch.Generator().manual_seed(4)
    states = [draw_date(Grid(90, 120), g) for _ in range(3)]

    def leg(i, j):
        return to_grid(states[j].turbulence - states[i].turbulence, Grid(90, 120))

    residue = leg(0, 1) + leg(1, 2) - leg(0, 2)
    assert float(residue.abs().max()) < 1e-5
    assert float(leg(0, 1).std()) > 0.1


def test_stratification_follows_the_height():
    elevation = torch.tensor([[0.0, 1_000.0, 2_500.0]])
    assert stratified(elevation, 2.0).tolist() == [[0.0, 2.0, 5.0]]


def test_plane_rises_east_and_north():
    tilt = plane(GRID, (2e-4, 1e-4))
    assert float(tilt[0, -1] - tilt[0, 0]) == pytest.approx(2e-4 * 479 * GRID.dx, rel=1e-5)
    assert float(tilt[0, 0] - tilt[-1, 0]) == pytest.approx(1e-4 * 479 * GRID.dy, rel=1e-5)


def test_dates_have_the_published_spread():
    small = Grid(16, 16)
    g = torch.Generator().manual_seed(2)
    drawn = [draw_date(small, g) for _ in range(4_000)]
    pairs = torch.tensor(
        [b.stratification - a.stratification for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    ).abs()
    # Of a normal half lies within 0.6745 deviations; the wide dates are the tail.
    middle = float(pairs.median()) / 0.6745
    assert middle == pytest.approx(STRATIFICATION_RAD_PER_KM, rel=0.1)
    assert 0.002 < float((pairs > 10).float().mean()) < 0.02
    assert all(0 < d.clarity <= 1 for d in drawn)
    assert 0.015 < sum(d.clarity < 0.5 for d in drawn) / 4_000 < 0.045
    orbits = torch.tensor([d.orbit_m for d in drawn])
    assert float(orbits.std()) == pytest.approx(ORBIT_M, rel=0.05)
    ramps = [d.ramp for d in drawn if d.ramp != (0.0, 0.0)]
    assert 0.015 < len(ramps) / 4_000 < 0.045
    fringes = [math.hypot(*r) * 16 * small.dy / (2 * math.pi) for r in ramps]
    assert min(fringes) > 1.99
    assert max(fringes) < 5.01
    assert {(east > 0, north > 0) for east, north in ramps} == {
        (a, b) for a in (True, False) for b in (True, False)
    }


def test_what_is_given_is_taken_and_changes_nothing_else():
    def date(**given):
        return draw_date(GRID, torch.Generator().manual_seed(6), **given)

    free = date()
    fixed = date(strength=1.0, stratification=3.0, ramp=(1e-4, 0.0), clarity=0.7, orbit_m=12.0)
    assert (fixed.stratification, fixed.ramp, fixed.clarity) == (3.0, (1e-4, 0.0), 0.7)
    assert fixed.orbit_m == 12.0
    ratio = fixed.turbulence / free.turbulence
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])))
    torch.testing.assert_close(date(strength=2.0).turbulence, 2.0 * fixed.turbulence)
    assert date(strength=1.0).stratification == free.stratification
    assert date(stratification=0.0).orbit_m == free.orbit_m
    assert not date(strength=0.0).turbulence.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dates_on_a_gpu():
    state = draw_date(GRID, torch.Generator("cuda").manual_seed(1), strength=1.0)
    assert state.turbulence.is_cuda
    assert 0.2 < float(to_grid(state.turbulence, GRID).std()) < 3.0
