"""Okada (1985) against its own Table 2 and two independent libraries."""

import math

import numpy as np
import pytest
import torch
from torchdeform import OkadaSourceSimple

from heph_vl.simulate.okada import okada_surface, rectangle

STRIKE_SLIP, DIP_SLIP, OPENING = (1, 0, 0), (0, 1, 0), (0, 0, 1)


# Table 2 of the paper, cases 2, 3 and 4: L = 3, W = 2, d = 4, nu = 0.25, U = 1.
@pytest.mark.parametrize(
    ("x", "y", "dip", "slip", "expected"),
    [
        (2, 3, 70, STRIKE_SLIP, (-8.68917e-3, -4.29758e-3, -2.74741e-3)),
        (2, 3, 70, DIP_SLIP, (-4.68235e-3, -3.526727e-2, -3.563856e-2)),
        (2, 3, 70, OPENING, (-2.660e-4, 1.056407e-2, 3.21419e-3)),
        (0, 0, 90, STRIKE_SLIP, (0, 5.253e-3, 0)),
        (0, 0, 90, DIP_SLIP, (0, 0, 0)),
        (0, 0, 90, OPENING, (1.223e-2, 0, -1.606e-2)),
        (0, 0, -90, STRIKE_SLIP, (0, -1.303e-3, 0)),
        (0, 0, -90, DIP_SLIP, (0, 0, 0)),
        (0, 0, -90, OPENING, (3.507e-3, 0, -7.740e-3)),
    ],
)
def test_table_2(x, y, dip, slip, expected):
    point = torch.tensor([[float(x)]], dtype=torch.float64)
    height = torch.tensor([[float(y)]], dtype=torch.float64)
    u = okada_surface(point, height, 4.0, math.radians(dip), 3.0, 2.0, slip)
    np.testing.assert_allclose(torch.stack(u).flatten(), expected, rtol=2e-4, atol=1e-15)


@pytest.fixture(scope="module")
def plane():
    side = torch.linspace(-20e3, 20e3, 41, dtype=torch.float64)
    return torch.meshgrid(side, side, indexing="xy")


@pytest.mark.parametrize("dip", [5.0, 45.0, 75.0, 90.0])
@pytest.mark.parametrize("slip", [STRIKE_SLIP, DIP_SLIP, OPENING])
def test_equals_torchdeform(plane, dip, slip):
    # torchdeform's fault dips to the left of its strike, in a left-handed frame: turn the strike
    # by half a circle, and strike-slip changes sign.
    east, north = plane
    numbers = (1e3, -2e3, math.radians(dip), math.radians(33), 4e3, 6e3, 3e3, *map(float, slip))
    arguments = [torch.tensor([v], dtype=torch.float64) for v in numbers]
    theirs = OkadaSourceSimple()(east.reshape(1, -1), north.reshape(1, -1), *arguments)
    mirrored = (-slip[0], slip[1], slip[2])
    ours = torch.stack(rectangle(east, north, (1e3, -2e3, 4e3), 213.0, dip, 6e3, 3e3, mirrored))
    expected = torch.stack((theirs.e, theirs.n, theirs.u)).reshape(ours.shape)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dip", [5.0, 45.0, 75.0, 90.0])
@pytest.mark.parametrize("slip", [STRIKE_SLIP, DIP_SLIP, OPENING])
def test_equals_vmod(plane, dip, slip):
    okada = pytest.importorskip("vmod.source.okada").Okada
    east, north = plane
    model = okada(pytest.importorskip("vmod.data").Data())
    theirs = model.model_gen(
        east.numpy().ravel(),
        north.numpy().ravel(),
        *(1e3, -2e3, 4e3, 6e3, 3e3),
        slip=float(slip[0] + slip[1]),
        opening=float(slip[2]),
        strike=33.0,
        dip=dip,
        rake=90.0 * slip[1],
    )
    ours = torch.stack(rectangle(east, north, (1e3, -2e3, 4e3), 33.0, dip, 6e3, 3e3, slip))
    np.testing.assert_allclose(ours.reshape(3, -1), np.array(theirs), rtol=0, atol=1e-13)


def test_batch_of_faults_equals_one_by_one(plane):
    east, north = plane
    dips = torch.tensor([30.0, 90.0], dtype=torch.float64)[:, None, None]
    depths = torch.tensor([3e3, 5e3], dtype=torch.float64)[:, None, None]
    both = rectangle(east, north, (0.0, 0.0, depths), 10.0, dips, 5e3, 2e3, (0, 0, 1))
    both = torch.stack(both)
    for i in range(2):
        one = rectangle(
            east, north, (0.0, 0.0, float(depths[i])), 10.0, float(dips[i]), 5e3, 2e3, (0, 0, 1)
        )
        torch.testing.assert_close(both[:, i], torch.stack(one))


def test_single_precision_near_singular_lines(plane):
    # Shallow, long and nearly vertical: R + eta cancels along the extension of the edges.
    arguments = ((0.0, 0.0, 1_500.0), 40.0, 88.0, 9e3, 2e3, (0, 0, 1))
    exact = torch.stack(rectangle(*plane, *arguments))
    single = torch.stack(rectangle(*(axis.float() for axis in plane), *arguments))
    assert float((single - exact).abs().max() / exact.abs().max()) < 2e-3
