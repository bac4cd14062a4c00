"""Grids and random relief."""

import math
from itertools import pairwise

import pytest
import torch

from heph_vl.simulate.grid import Grid, fractal


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


@pytest.mark.parametrize("exponent", [2.8, 3.6])
@pytest.mark.parametrize("shape", [(384, 384), (383, 509)])  # the second is cut from a larger one
def test_relief_has_the_power_law_asked_for(exponent, shape):
    grid = Grid(*shape, latitude_deg=40.0)
    field = fractal(grid, torch.Generator().manual_seed(3), exponent)
    window = torch.hann_window(shape[0])[:, None] * torch.hann_window(shape[1])
    power = torch.fft.rfft2(field * window).abs() ** 2
    ky = torch.fft.fftfreq(shape[0], grid.dy)[:, None]
    kx = torch.fft.rfftfreq(shape[1], grid.dx)[None, :]
    k = torch.sqrt(kx**2 + ky**2)
    bands = torch.logspace(math.log10(1 / 10e3), math.log10(1 / 500), 9)  # wavelengths in m
    means = [power[(k >= a) & (k < b)].mean() for a, b in pairwise(bands)]
    middle = torch.sqrt(bands[1:] * bands[:-1]).log()
    rows = torch.stack([middle, torch.ones_like(middle)], 1)
    fitted = torch.linalg.lstsq(rows, torch.stack(means).log()[:, None]).solution[0]
    assert float(fitted) == pytest.approx(-exponent, abs=0.15)


def test_relief_is_flat_beyond_the_longest_wave():
    grid = Grid(400, 400)
    long, short = (
        fractal(grid, torch.Generator().manual_seed(4), 3.6, longest).mul(1.0)
        for longest in (40e3, 4e3)
    )
    box = torch.nn.functional.avg_pool2d
    # Means over 4.5 km keep most of the variance of long waves, little of short ones.
    assert float(box(long[None], 40).std()) > 0.8
    assert float(box(short[None], 40).std()) < 0.4
