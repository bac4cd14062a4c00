"""Errors on the circle and fringes by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from heph_vl.data.phase import wrap
from heph_vl.metrics.phase_fidelity import (
    SHORTEST,
    circular_error,
    fringe_count_error,
    fringe_counts,
)

Floats = NDArray[np.float32]
HEIGHT, WIDTH = 20, 32


def ramp(fringes: float, height: int = HEIGHT, width: int = WIDTH) -> Floats:
    """(height, width) wrapped phase [rad] of so many fringes across."""
    row = wrap(2 * np.pi * fringes * np.arange(width) / width)
    return np.tile(row, (height, 1)).astype(np.float32)


def everywhere(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    return np.ones((height, width), dtype=bool)


@pytest.mark.parametrize("turn", [0.1, -0.1, 3.0, 2 * np.pi - 0.25])
def test_the_circular_error_knows_no_cut(turn: float) -> None:
    phase = ramp(3)
    expected = min(abs(turn), 2 * np.pi - abs(turn))
    other = wrap(phase + turn).astype(np.float32)
    assert circular_error(phase, other, everywhere()) == pytest.approx(expected, abs=1e-5)
    assert circular_error(other, phase, everywhere()) == pytest.approx(expected, abs=1e-5)


def test_the_circular_error_is_the_mean_over_the_pixels_that_count() -> None:
    phase, other = np.zeros((2, 2), np.float32), np.array([[0.5, -1.5], [3, 3]], np.float32)
    where = np.array([[True, True], [False, False]])
    assert circular_error(phase, other, where) == pytest.approx(1.0)
    assert circular_error(phase, phase, where) == 0
    assert np.isnan(circular_error(phase, other, np.zeros((2, 2), dtype=bool)))


def test_unrelated_phases_are_a_quarter_turn_apart_and_opposite_ones_half_a_turn() -> None:
    rng = np.random.default_rng(0)
    phase, other = rng.uniform(-np.pi, np.pi, (2, 300, 300)).astype(np.float32)
    assert circular_error(phase, other, everywhere(300, 300)) == pytest.approx(np.pi / 2, abs=0.02)
    opposite = wrap(phase + np.pi).astype(np.float32)
    found = circular_error(phase, opposite, everywhere(300, 300))
    assert found == pytest.approx(np.pi, abs=1e-5)


@pytest.mark.parametrize("fringes", [0, 1, 3, -5, 12])
def test_a_ramp_of_k_fringes_has_k_less_its_last_step(fringes: int) -> None:
    counts = fringe_counts(ramp(fringes), everywhere())
    assert counts.dtype == np.float32
    assert counts.shape == (HEIGHT + WIDTH,)
    along = fringes * (WIDTH - 1) / WIDTH
    assert counts[:HEIGHT] == pytest.approx(np.full(HEIGHT, along), abs=1e-4)
    assert counts[HEIGHT:] == pytest.approx(np.zeros(WIDTH), abs=1e-4)


def test_columns_are_counted_downwards_after_the_rows() -> None:
    counts = fringe_counts(ramp(3, 24, 18).T.copy(), everywhere(18, 24))
    assert counts[:18] == pytest.approx(np.zeros(18), abs=1e-4)
    assert counts[18:] == pytest.approx(np.full(24, 3 * 17 / 18), abs=1e-4)


def test_a_break_makes_two_lines_of_one() -> None:
    where = np.zeros((1, 48), dtype=bool)
    where[0, 2:20], where[0, 21:47] = True, True
    phase = ramp(6, 1, 48)
    phase[0, :2] = phase[0, 20] = phase[0, 47] = 1.234  # what does not count does not count
    step = 6 / 48
    counts = fringe_counts(phase, where)
    assert counts == pytest.approx(np.array([17 * step, 25 * step]), abs=1e-4)


def test_lines_that_reach_the_edges_are_whole() -> None:
    where = np.ones((1, 40), dtype=bool)
    where[0, 20] = False
    counts = fringe_counts(ramp(5, 1, 40), where)
    assert counts == pytest.approx(np.array([19, 18]) * 5 / 40, abs=1e-4)


@pytest.mark.parametrize(("length", "lines"), [(SHORTEST - 1, 0), (SHORTEST, 1)])
def test_short_lines_are_left_out(length: int, lines: int) -> None:
    where = np.zeros((SHORTEST - 1, 40), dtype=bool)  # no column is long enough
    where[3, 5 : 5 + length] = True
    counts = fringe_counts(ramp(4, SHORTEST - 1, 40), where)
    assert counts == pytest.approx(np.full(lines, (length - 1) * 4 / 40), abs=1e-4)
    assert counts.dtype == np.float32


def test_without_pixels_there_is_no_line() -> None:
    assert fringe_counts(ramp(2), ~everywhere()).shape == (0,)
    assert fringe_count_error(ramp(2), ramp(3), ~everywhere()).shape == (0,)


def test_an_extra_fringe_is_counted_whichever_has_it() -> None:
    phase = ramp(3)
    # One more fringe in the middle of each row, slow enough to be followed.
    turn = np.zeros(WIDTH)
    turn[8:24], turn[24:] = np.linspace(0, 2 * np.pi, 16), 2 * np.pi
    other = wrap(phase + turn).astype(np.float32)
    expected = np.zeros(HEIGHT + WIDTH)
    expected[:HEIGHT] = 1
    for pair in ((phase, other), (other, phase)):
        assert fringe_count_error(*pair, everywhere()) == pytest.approx(expected, abs=1e-4)
    # Fringes the other way are twice as many wrong; a constant turn is none.
    wrong = fringe_count_error(phase, -phase, everywhere())[:HEIGHT]
    assert wrong == pytest.approx(np.full(HEIGHT, 6 * (WIDTH - 1) / WIDTH), abs=1e-4)
    shifted = wrap(phase + 2.5).astype(np.float32)
    assert fringe_count_error(phase, shifted, everywhere()).max() < 1e-4
