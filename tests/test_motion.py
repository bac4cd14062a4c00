"""Motion of a pattern from its wrapped phase, and phase that follows height."""

import numpy as np
import pytest

from heph_vl.motion import WAVELENGTH_M, height_fit, los_change, surroundings

SIDE = 96
rows, columns = np.mgrid[:SIDE, :SIDE]


def scene(centimetres: float, radius: float = 9.0, noise: float = 0.2, ramp: float = 0.0):
    """Wrapped phase, validity, coherence, and the pattern's pixels."""
    rng = np.random.default_rng(1)
    shape = np.exp(-((rows - 50) ** 2 + (columns - 40) ** 2) / (2 * radius**2))
    # The equation itself: phase = -4 pi / wavelength * motion toward the satellite.
    phase = -4 * np.pi / WAVELENGTH_M * centimetres / 100 * shape + ramp * columns
    wrapped = np.angle(np.exp(1j * (phase + rng.normal(0, noise, phase.shape))))
    valid = np.ones((SIDE, SIDE), bool)
    return wrapped.astype(np.float32), valid, np.full((SIDE, SIDE), 0.6, np.float32), shape > 0.2


@pytest.mark.parametrize("centimetres", [1.5, 8.0, -3.0, -11.0])
def test_sense_and_size_of_a_bowl(centimetres):
    change = los_change(*scene(centimetres))
    assert change.centimetres == pytest.approx(centimetres, rel=0.12, abs=0.2)
    assert change.fringes == pytest.approx(change.centimetres / 2.773, rel=1e-3)
    assert change.sense == ("toward" if centimetres > 0 else "away")


def test_a_constant_changes_nothing_and_a_sign_turns_the_sense():
    wrapped, *rest = scene(5.0)
    first = los_change(wrapped, *rest)
    shifted = np.angle(np.exp(1j * (wrapped + 2.0))).astype(np.float32)
    assert los_change(shifted, *rest).fringes == pytest.approx(first.fringes, abs=0.03)
    assert los_change(-wrapped, *rest).fringes == pytest.approx(-first.fringes, abs=0.03)


def test_flat_ground_has_no_sense():
    change = los_change(*scene(0.0, noise=0.8, ramp=0.05))
    assert change.sense == "unknown"


def test_where_it_cannot_be_told_nothing_is():
    wrapped, valid, coherence, pattern = scene(5.0)
    dark = np.where(pattern, 0.1, coherence).astype(np.float32)
    assert los_change(wrapped, valid, dark, pattern) is None
    island = valid & pattern
    assert los_change(wrapped, island, coherence, pattern) is None
    assert los_change(wrapped, valid, coherence, np.zeros_like(pattern)) is None
    # The whole picture is one pattern: nothing to compare with.
    assert los_change(wrapped, valid, coherence, np.ones_like(pattern)) is None


def test_another_pattern_is_no_surroundings():
    wrapped, valid, coherence, pattern = scene(3.0)
    other = np.zeros_like(pattern)
    other[:, 55:] = True
    spoilt = np.where(other, np.angle(np.exp(1j * (wrapped + 2.5))), wrapped).astype(np.float32)
    clean = los_change(spoilt, valid, coherence, pattern, other)
    assert clean.centimetres == pytest.approx(3.0, rel=0.15)
    assert clean.noise_fringes < 0.5 * los_change(spoilt, valid, coherence, pattern).noise_fringes


@pytest.mark.parametrize("rad_per_km", [4.0, -2.5])
def test_stratified_air_follows_height(rad_per_km):
    height = (2500 * np.exp(-np.hypot(rows - 40, columns - 40) / 25)).astype(np.float32)
    rng = np.random.default_rng(0)
    phase = rad_per_km * height / 1000 + rng.normal(0, 0.15, height.shape) + 0.02 * rows
    wrapped = np.angle(np.exp(1j * phase)).astype(np.float32)
    valid, coherence = np.ones((SIDE, SIDE), bool), np.full((SIDE, SIDE), 0.6, np.float32)
    nothing = np.zeros((SIDE, SIDE), bool)
    fit = height_fit(wrapped, valid, coherence, height, nothing)
    assert fit.rad_per_km == pytest.approx(rad_per_km, rel=0.1)
    assert fit.significant
    assert np.sign(fit.correlation) == np.sign(rad_per_km)
    unknown = np.where(columns < 48, np.nan, height).astype(np.float32)
    half = height_fit(wrapped, valid, coherence, unknown, nothing)
    assert half.count < 0.6 * fit.count


def test_noise_and_motion_do_not_follow_height():
    height = (2500 * np.exp(-np.hypot(rows - 40, columns - 40) / 25)).astype(np.float32)
    wrapped, valid, coherence, pattern = scene(8.0)
    fit = height_fit(wrapped, valid, coherence, height, pattern)
    assert not fit.significant
    flat = np.full((SIDE, SIDE), 100.0, np.float32)
    assert height_fit(wrapped, valid, coherence, flat, pattern) is None
    assert height_fit(wrapped, ~valid, coherence, height, pattern) is None


def test_the_window_has_room_and_stays_inside():
    rows_, columns_ = surroundings([(40, 30), (60, 30), (60, 80)], (96, 200))
    assert (rows_.start, rows_.stop) == (0, 96)
    assert (columns_.start, columns_.stop) == (10, 90)
    rows_, columns_ = surroundings([(1, 1), (3, 1), (3, 3)], (96, 200))
    assert (rows_.start, rows_.stop, columns_.start, columns_.stop) == (0, 15, 0, 15)
