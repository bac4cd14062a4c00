"""Frames: closure of phase, histories, choice of pairs."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from heph_vl.simulate.frame import (
    CLEAR,
    GROWTHS,
    STRONGEST,
    UNSEEN,
    Episode,
    choose_pairs,
    draw_frame,
)
from heph_vl.simulate.place import seeded
from heph_vl.simulate.sources import FRINGE_M


def test_phase_closes_around_every_triangle_of_dates(small_frame):
    for frame in (small_frame, replace(small_frame, icy=True)):
        for i, j, k in ((0, 3, 7), (1, 2, 5), (0, 1, 6)):
            pairs = ((i, j), (j, k), (i, k))
            ij, jk, ik = (frame.layers(pair).unwrapped_phase for pair in pairs)
            assert float(ik.std()) > 0.1
            torch.testing.assert_close(ij + jk, ik, atol=1e-3, rtol=1e-5)


def test_deformation_is_in_the_phase_with_its_sign(small_frame):
    moved = [
        (source, pair)
        for source in small_frame.sources
        for pair in combinations(range(8), 2)
        if small_frame.difference(source, pair) > 0.1
    ]
    assert moved
    source, pair = moved[0]
    others = tuple(s for s in small_frame.sources if s is not source)
    without = replace(small_frame, sources=others)
    added = small_frame.layers(pair).unwrapped_phase - without.layers(pair).unwrapped_phase
    fringes = small_frame.difference(source, pair)
    # One fringe, 2 pi, for each FRINGE_M toward the satellite, and the phase falls.
    expected = -2 * math.pi * fringes * source.unit / FRINGE_M
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=1e-3)


def test_unit_of_a_source_is_one_visible_fringe(small_frame):
    visible = small_frame.place.land
    for source in small_frame.sources:
        seen = source.unit[visible]
        assert float(seen.max() - seen.min()) == pytest.approx(FRINGE_M, rel=1e-4)


@pytest.mark.parametrize("growth", GROWTHS)
def test_episodes_start_at_nothing_and_end_at_all(growth):
    episode = Episode(growth, 100.0, 50.0, -3.0)
    levels = [episode.level(day) for day in (0.0, 99.9, 100.0, 125.0, 150.0, 400.0)]
    assert levels[0] == levels[1] == 0.0
    assert levels[4] == levels[5] == pytest.approx(-3.0)
    assert levels == sorted(levels, reverse=True)
    half = {"step": -3.0, "linear": -1.5, "decaying": -2.453, "s-curve": -1.5}[growth]
    assert levels[3] == pytest.approx(half, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_histories_grow_with_time_within_bounds(seed):
    frame = draw_frame("022D_04826_121209", size=96, dates=20, seed=seed)
    assert len(frame.dates) == 20
    for source in frame.sources:
        assert len(source.levels) == 20
        assert CLEAR <= max(source.levels) - min(source.levels) <= STRONGEST


def test_a_fixed_primary_date_shows_an_evolving_pattern():
    levels = []
    for seed in range(12):
        frame = draw_frame("022D_04826_121209", size=96, dates=16, seed=seed)
        levels += [len(set(source.levels)) for source in frame.sources]
    assert max(levels) >= 6  # some grow over many dates ...
    assert min(levels) == 2  # ... and some come at once


def test_dates_rise_by_repeat_cycles(small_frame):
    gaps = [(b - a).days for a, b in zip(small_frame.dates, small_frame.dates[1:], strict=False)]
    assert set(gaps) <= {6, 12, 24, 36}


def test_frames_and_pairs_are_reproducible(small_frame):
    again = draw_frame("128D_09016_110500", size=144, dates=8, seed=5)
    ours, theirs = small_frame.layers((0, 4)), again.layers((0, 4))
    assert torch.equal(ours.unwrapped_phase, theirs.unwrapped_phase)
    assert torch.equal(ours.coherence, theirs.coherence)
    assert ours.flaws == theirs.flaws
    assert again.dates == small_frame.dates
    other = draw_frame("128D_09016_110500", size=144, dates=8, seed=6)
    assert not torch.equal(other.place.terrain.elevation, small_frame.place.terrain.elevation)


def test_kinds_of_sources_can_be_asked_for():
    kinds = []
    for seed in range(3):  # one too steep to be seen is left out
        frame = draw_frame("022D_04826_121209", size=96, dates=6, seed=seed, kinds=("mogi",))
        kinds += [source.source.kind for source in frame.sources]
    assert set(kinds) == {"mogi"}


def test_chosen_pairs(small_frame):
    pairs = choose_pairs(small_frame, 28, 0.5, seeded(0, "x"))
    assert pairs == list(combinations(range(8), 2))

    def most(pair):
        return max(abs(small_frame.difference(s, pair)) for s in small_frame.sources)

    clear = [pair for pair in pairs if most(pair) >= CLEAR]
    still = [pair for pair in pairs if most(pair) <= UNSEEN]
    few = choose_pairs(small_frame, min(5, len(clear)), 1.0, seeded(0, "x"))
    assert len(set(few)) == min(5, len(clear))
    assert set(few) <= set(clear)
    assert set(choose_pairs(small_frame, 3, 0.0, seeded(0, "x"))) <= set(still)
