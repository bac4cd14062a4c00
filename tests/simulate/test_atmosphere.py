"""Turbulence spectrum, stratification, ramps."""

import math

import pytest
import torch

from heph_vl.simulate.atmosphere import (
    STRATIFICATION_RAD_PER_KM,
    draw_date,
    plane,
    stratified,
    turbulence,
    turbulence_filter,
)
from heph_vl.simulate.terrain import Grid

GRID = Grid(480, 480)


def screens(count=24, seed=0):
    noise = torch.randn((count, 480, 480), generator=torch.Generator().manual_seed(seed))
    return turbulence(noise, turbulence_filter(GRID))


def test_turbulence_has_unit_variance_and_no_mean():
    fields = screens()
    assert float(fields.var(dim=(1, 2), correction=0).mean()) == pytest.approx(1.0, rel=0.1)
    assert float(fields.mean(dim=(1, 2)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("longest", "shortest", "exponent"), [(25e3, 2.2e3, -8 / 3), (1.8e3, 0.5e3, -11 / 3)]
)
def test_spectrum_slopes(longest, shortest, exponent):
    power = torch.fft.fft2(screens()).abs().square().mean(0)
    axis = torch.fft.fftfreq(480, GRID.dy)
    k = torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)
    band = (k > 1 / longest) & (k < 1 / shortest)
    x, y = torch.log(k[band]).double(), torch.log(power[band]).double()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert float(slope) == pytest.approx(exponent, abs=0.05)


def test_stratification_follows_the_height():
    elevation = torch.tensor([[0.0, 1_000.0, 2_500.0]])
    assert stratified(elevation, 2.0).tolist() == [[0.0, 2.0, 5.0]]


def test_plane_rises_east_and_north():
    tilt = plane(GRID, (2e-4, 1e-4))
    assert float(tilt[0, -1] - tilt[0, 0]) == pytest.approx(2e-4 * 479 * GRID.dx, rel=1e-5)
    assert float(tilt[0, 0] - tilt[-1, 0]) == pytest.approx(1e-4 * 479 * GRID.dy, rel=1e-5)


def test_dates_have_the_published_stratification():
    small = Grid(16, 16)
    response = turbulence_filter(small)
    g = torch.Generator().manual_seed(2)
    drawn = [draw_date(small, response, g) for _ in range(1_000)]
    pairs = torch.tensor(
        [b.stratification - a.stratification for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    )
    assert float(pairs.std()) == pytest.approx(STRATIFICATION_RAD_PER_KM, rel=0.1)
    assert all(0 < d.clarity <= 1 for d in drawn)
    ramps = [d.ramp for d in drawn if d.ramp != (0.0, 0.0)]
    assert 10 < len(ramps) < 60
    fringes = [math.hypot(*r) * 16 * small.dy / (2 * math.pi) for r in ramps]
    assert min(fringes) > 1.99
    assert max(fringes) < 5.01
