"""Frames: closure of phase, geometry from the name, histories, choice of pairs."""

import math
from itertools import combinations

import pytest
import torch

from heph_vl.simulate.frame import (
    FAINTEST,
    STRONGEST,
    choose_pairs,
    draw_frame,
    latitude_of,
    look_of,
    seeded,
)
from heph_vl.simulate.sources import FRINGE_M


def test_phase_closes_around_every_triangle_of_dates(small_frame):
    for i, j, k in ((0, 3, 7), (1, 2, 5), (0, 1, 6)):
        ij, jk, ik = (small_frame.phase(pair) for pair in ((i, j), (j, k), (i, k)))
        assert float(ik.std()) > 0.1
        torch.testing.assert_close(ij + jk, ik, atol=1e-3, rtol=1e-5)


def test_deformation_is_in_the_phase_with_its_sign(small_frame):
    moved = [
        (source, pair)
        for source in small_frame.sources
        for pair in combinations(range(8), 2)
        if small_frame.difference(source, pair) > 0
    ]
    assert moved
    source, pair = moved[0]
    without = small_frame.__class__(
        **{
            name: getattr(small_frame, name)
            for name in small_frame.__dataclass_fields__
            if name != "sources"
        },
        sources=tuple(s for s in small_frame.sources if s is not source),
    )
    added = small_frame.phase(pair) - without.phase(pair)
    fringes = small_frame.difference(source, pair)
    # One fringe, 2 pi, for each FRINGE_M toward the satellite, and the phase falls.
    expected = -2 * math.pi * fringes * source.unit / FRINGE_M
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=1e-3)


def test_unit_of_a_source_is_one_visible_fringe(small_frame):
    visible = small_frame.footprint & ~small_frame.terrain.water
    for source in small_frame.sources:
        seen = source.unit[visible]
        assert float(seen.max() - seen.min()) == pytest.approx(FRINGE_M, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_levels_are_equal_or_clearly_apart(seed):
    frame = draw_frame("022D_04826_121209", size=96, dates=20, seed=seed)
    for source in frame.sources:
        assert len(source.levels) == 20
        for a, b in combinations(source.levels, 2):
            assert a == b or FAINTEST - 1e-9 <= abs(a - b) <= STRONGEST


@pytest.mark.parametrize(
    ("frame_id", "latitude", "heading"),
    [
        ("124D_04854_171313", 41.46, -169.05),
        ("049A_07091_051113", 19.09, -8.66),
        ("155D_02484_191814", 65.16, -160.2),
        ("169D_00001_020800", 27.7, -170.75),
    ],
)
def test_geometry_comes_from_the_name(frame_id, latitude, heading):
    assert latitude_of(frame_id) == pytest.approx(latitude)
    look = look_of(frame_id, 39.0)
    assert look.heading_deg == pytest.approx(heading, abs=0.1)
    assert (look.vector[0] > 0) == (frame_id[3] == "D")


def test_dates_rise_by_repeat_cycles(small_frame):
    gaps = [(b - a).days for a, b in zip(small_frame.dates, small_frame.dates[1:], strict=False)]
    assert set(gaps) <= {6, 12, 24, 36}


def test_frames_and_pairs_are_reproducible(small_frame):
    again = draw_frame("128D_09016_110500", size=144, dates=8, seed=5)
    assert torch.equal(again.phase((0, 4)), small_frame.phase((0, 4)))
    assert again.dates == small_frame.dates
    other = draw_frame("128D_09016_110500", size=144, dates=8, seed=6)
    assert not torch.equal(other.terrain.elevation, small_frame.terrain.elevation)


def test_chosen_pairs(small_frame):
    pairs = choose_pairs(small_frame, 28, 0.5, seeded(0, "x"))
    assert pairs == list(combinations(range(8), 2))
    few = choose_pairs(small_frame, 5, 1.0, seeded(0, "x"))
    assert len(set(few)) == 5
    assert all(any(small_frame.difference(s, p) for s in small_frame.sources) for p in few)
