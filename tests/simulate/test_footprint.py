"""Bursts, sub-swaths and the footprint that they make up."""

import math
from itertools import pairwise

import pytest
import torch

from heph_vl.simulate.footprint import (
    BURST_M,
    LEAST_SHARE,
    SUB_SWATH_M,
    burst_geometry,
    swath_footprint,
)
from heph_vl.simulate.grid import Grid

WHOLE = Grid(700, 700, spacing_deg=0.004)  # 312 km: a whole frame, on a coarse grid
CUT = Grid(480, 480)


def draw(grid, heading, seed, keep=None):
    g = torch.Generator().manual_seed(seed)
    bursts = burst_geometry(grid, heading, g)
    return (*bursts, swath_footprint(grid, heading, bursts, g, keep=keep))


def along_across(grid, heading):
    east, north = grid.east_north()
    angle = math.radians(heading)
    along = east * math.sin(angle) + north * math.cos(angle)
    return along, east * math.cos(angle) - north * math.sin(angle)


@pytest.mark.parametrize("heading", [-12.0, -168.0])
def test_sub_swaths_lie_side_by_side_and_bursts_follow_the_flight(heading):
    sub_swath, burst, _ = draw(WHOLE, heading, 0)
    along, across = along_across(WHOLE, heading)
    assert (sub_swath.dtype, burst.dtype) == (torch.int8, torch.int16)
    assert sub_swath.unique().tolist() == [0, 1, 2]
    # Near range is on the left of a satellite that looks to the right.
    near, middle, far = (across[sub_swath == s] for s in range(3))
    assert (
        float(near.max()) <= float(middle.min()) + 1 <= float(middle.max()) <= float(far.min()) + 1
    )
    assert float(middle.max() - middle.min()) == pytest.approx(SUB_SWATH_M, rel=0.1)
    starts = []
    for s in range(3):
        lengths = []
        for number in (2, 3, 4):
            inside = along[(sub_swath == s) & (burst == number)]
            lengths.append(float(inside.max() - inside.min()))
            if number == 3:
                starts.append(float(inside.min()))
        # Pixels of 445 m.
        assert lengths == pytest.approx([BURST_M] * 3, rel=0.08)
    # Each sub-swath begins a third of a burst after the one before it.
    for one, two in pairwise(starts):
        assert two - one == pytest.approx(BURST_M / 3, rel=0.2)


@pytest.mark.parametrize("grid", [WHOLE, CUT, Grid(370, 150, 64.0, 0.01), Grid(90, 90, 65.0)])
@pytest.mark.parametrize("seed", range(6))
def test_footprint_consists_of_whole_bursts(grid, seed):
    heading = (-13.0, -167.0)[seed % 2]
    sub_swath, burst, inside = draw(grid, heading, seed)
    assert inside.shape == (grid.height, grid.width)
    assert inside.dtype == torch.bool
    assert float(inside.float().mean()) >= LEAST_SHARE - 0.03
    across = along_across(grid, heading)[1]
    for s in range(3):
        used = burst[inside & (sub_swath == s)]
        if len(used):
            # Along the flight nothing is missing between the first burst and the last.
            between = (sub_swath == s) & (burst >= used.min()) & (burst <= used.max())
            seen = across[inside & (sub_swath == s)]
            # Sides are straight but for the drift of bursts.
            core = between & (across > seen.min() + 1_300) & (across < seen.max() - 1_300)
            assert bool(inside[core].all())


@pytest.mark.parametrize("heading", [-12.0, -168.0])
@pytest.mark.parametrize("seed", range(4))
def test_whole_frame_is_a_turned_rectangle_with_stairs(heading, seed):
    sub_swath, _, inside = draw(WHOLE, heading, seed)
    assert 0.5 < float(inside.float().mean()) < 0.85
    # All corners of the image are outside: the swath is turned.
    assert not bool(inside[[0, 0, -1, -1], [0, -1, 0, -1]].any())
    along, _ = along_across(WHOLE, heading)
    tops = [float(along[inside & (sub_swath == s)].max()) for s in range(3)]
    steps = [abs(a - b) for a, b in pairwise(tops)]
    # Ends of neighbours differ by a number of bursts and a third.
    for step in steps:
        thirds = step / (BURST_M / 3)
        assert thirds == pytest.approx(round(thirds), abs=0.45)
        assert round(thirds) % 3


@pytest.mark.parametrize("heading", [-12.0, -168.0])
def test_upper_edge_climbs_across_the_track(heading):
    found = 0
    for seed in range(8):
        sub_swath, _, inside = draw(CUT, heading, seed)
        top = inside.float().argmax(dim=0)
        columns = torch.arange(CUT.width)
        crossing = (top > 0) & inside.any(dim=0)
        crossing[1:] &= sub_swath[top, columns][1:] == sub_swath[top, columns][:-1]
        steps = torch.diff(top.float())[crossing[1:] & crossing[:-1]]
        flat = steps[steps.abs() < 3]
        if len(flat) > 200:
            found += 1
            # Rows grow southward; across the track north changes by -sin per cos of the heading.
            expected = math.tan(math.radians(heading))
            assert float(flat.mean()) == pytest.approx(expected, abs=0.08)
    assert found


def test_keep_moves_edges_and_paints_nothing():
    moved = 0
    for seed in range(24):
        heading = (-13.0, -167.0)[seed % 2]
        sub_swath, burst, free = draw(CUT, heading, seed)
        keep = torch.zeros(CUT.height, CUT.width, dtype=torch.bool)
        corner = ((0, 0), (0, 460), (460, 0), (460, 460))[seed % 4]
        keep[corner[0] : corner[0] + 20, corner[1] : corner[1] + 20] = True
        *same, held = draw(CUT, heading, seed, keep)
        assert torch.equal(same[0], sub_swath)
        assert torch.equal(same[1], burst)
        assert bool(held[keep].all())
        assert bool((held | ~free).all())  # nothing that was inside is lost
        moved += int((held & ~free).sum() > 2 * keep.sum())
    assert moved >= 2
    empty = torch.zeros(CUT.height, CUT.width, dtype=torch.bool)
    assert torch.equal(draw(CUT, -13.0, 1, empty)[2], draw(CUT, -13.0, 1)[2])


def test_keep_holds_on_a_whole_frame():
    keep = torch.zeros(WHOLE.height, WHOLE.width, dtype=torch.bool)
    keep[2:6, 2:6] = keep[-5:, 300:310] = True
    inside = draw(WHOLE, -12.0, 0, keep)[2]
    assert bool(inside[keep].all())


def test_same_seed_same_footprint():
    one, two, other = (draw(CUT, -12.0, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[1], other[1])


def test_cuts_show_ends_and_sides_in_about_half_of_the_draws():
    full = sum(bool(draw(CUT, -12.0, seed)[2].all()) for seed in range(40))
    assert 8 <= full <= 32
