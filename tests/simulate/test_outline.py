"""Intensities and outlines of fringes."""

import numpy as np
import pytest
import shapely
import torch
from scipy import ndimage

from heph_vl.simulate import outline as outlines
from heph_vl.simulate.fields import unit_los
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.outline import close_gaps, outline
from heph_vl.simulate.sources import FRINGE_M, Look, Source


@pytest.mark.parametrize(
    ("fringes", "level"),
    [(0.49, None), (0.5, "low"), (1.5, "low"), (1.6, "medium"), (3.5, "medium"), (3.6, "high")],
)
def test_intensity(fringes, level):
    assert outlines.intensity_of(fringes) == level


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


def test_lobes_up_to_six_native_pixels_apart_are_one_pattern():
    everywhere = torch.ones((240, 240), dtype=torch.bool)
    for gap, together in ((6, True), (7, False)):
        los = torch.zeros((240, 240))
        los[80:120, 60:100] = 2 * FRINGE_M
        los[80:120, 100 + gap : 130] = -FRINGE_M
        found = outline(los, everywhere, everywhere, (240, 240))
        assert found is not None
        assert found.fringe_count == pytest.approx(3.0 if together else 0.0)
        assert (max(x for x, _ in found.polygon) > 110) == together


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_closing_equals_the_definition(reach):
    mask = np.random.default_rng(reach).random((2, 40, 50)) < 0.08
    square = np.ones((2 * reach + 1, 2 * reach + 1), dtype=bool)
    for one, closed in zip(mask, close_gaps(mask, reach), strict=True):
        padded = np.pad(one, 10)
        expected = ndimage.binary_closing(padded, square)[10:-10, 10:-10]
        np.testing.assert_array_equal(closed, expected)
