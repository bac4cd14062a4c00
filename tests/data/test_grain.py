"""Drawn phases keep the mean phasor, and are as coarse as the grain of real pictures."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from heph_vl.data.grain import draw_phase

SIDE = 400  # px: the mean of so many phasors is good to 0.003, grain of 2 px counted


def drawn(modulus: float, angle: float = 2.0, seed: int = 0) -> NDArray[np.complex128]:
    """(SIDE, SIDE) unit phasors of a constant."""
    phasor = np.full((SIDE, SIDE), modulus * np.exp(1j * angle))
    phase = draw_phase(phasor, np.random.default_rng(seed))
    assert phase.dtype == np.float32
    assert np.abs(phase).max() <= np.float32(np.pi)
    z: NDArray[np.complex128] = np.exp(1j * phase.astype(np.float64))
    return z


@pytest.mark.parametrize("modulus", [0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99])
def test_the_mean_phasor_is_the_one_asked_for(modulus: float) -> None:
    for angle in (2.0, -0.4, np.pi):
        mean = drawn(modulus, angle).mean()
        assert mean == pytest.approx(modulus * np.exp(1j * angle), abs=0.01), angle


def test_each_pixel_has_its_own_mean() -> None:
    rng = np.random.default_rng(0)
    phasor = rng.uniform(0, 1, (1, 5, 7)) * np.exp(1j * rng.uniform(-np.pi, np.pi, (1, 5, 7)))
    many = draw_phase(np.repeat(phasor, 20000, axis=0), rng)
    assert many.shape == (20000, 5, 7)
    mean = np.exp(1j * many).mean(axis=0)
    modulus = np.minimum(np.abs(phasor[0]), 0.998) * np.exp(1j * np.angle(phasor[0]))
    assert mean == pytest.approx(modulus, abs=0.03)


@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_in_grain_are_alike_and_those_after_not(axis: int) -> None:
    z = np.moveaxis(drawn(0.0), axis, 0)
    alike = [np.mean(z[lag:] * z[:-lag].conj()) for lag in (1, 2, 3)]
    assert alike[0] == pytest.approx(0.22, abs=0.02)
    assert alike[1] == pytest.approx(0, abs=0.03)
    assert alike[2] == pytest.approx(0, abs=0.015)


def test_grain_across_a_corner_is_alike_by_less() -> None:
    z = drawn(0.0)
    corner, other = z[1:, 1:] * z[:-1, :-1].conj(), z[1:, :-1] * z[:-1, 1:].conj()
    assert corner.mean() == pytest.approx(0.064, abs=0.015)
    assert other.mean() == pytest.approx(0.064, abs=0.015)


def test_pictures_of_a_batch_have_grain_of_their_own() -> None:
    phase = draw_phase(np.zeros((2, SIDE, SIDE), dtype=complex), np.random.default_rng(0))
    a, b = np.exp(1j * phase)
    assert abs(np.mean(a * b.conj())) < 0.01


def test_grain_is_uniform_on_the_circle() -> None:
    counts, _ = np.histogram(np.angle(drawn(0.0)), 16, (-np.pi, np.pi))
    assert counts == pytest.approx(np.full(16, SIDE**2 / 16), rel=0.05)


def test_what_is_certain_stays() -> None:
    error = np.abs(np.angle(drawn(1.0, 2.0) * np.exp(-2j)))
    assert error.mean() < 0.05
    assert np.quantile(error, 0.999) < 0.25
    assert np.angle(drawn(1.0).mean()) == pytest.approx(2, abs=0.002)
    # Fringes go on across the cut.
    ramp = np.linspace(0, 8 * np.pi, SIDE)
    phase = draw_phase(np.exp(1j * np.tile(ramp, (SIDE, 1))), np.random.default_rng(1))
    assert np.abs(np.angle(np.exp(1j * (phase - ramp)))).mean() < 0.05


def test_more_modulus_is_less_noise() -> None:
    spread = [np.abs(np.angle(drawn(m) * np.exp(-2j))).mean() for m in (0, 0.3, 0.8, 0.99, 1)]
    assert spread[0] == pytest.approx(np.pi / 2, abs=0.03)
    assert all(a > b for a, b in pairwise(spread))


def test_the_same_generator_gives_the_same_phase() -> None:
    one, again, other = drawn(0.5, seed=3), drawn(0.5, seed=3), drawn(0.5, seed=4)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_phasor_is_left_as_it_was() -> None:
    phasor = np.full((8, 8), 0.5 + 0.1j)
    draw_phase(phasor, np.random.default_rng(0))
    assert (phasor == 0.5 + 0.1j).all()


def test_coherent_ground_has_no_grain_however_short_its_mean_phasor():
    short = np.full((3, 64, 64), 0.5 * np.exp(1j))
    level = np.stack([np.full((64, 64), c) for c in (0.15, 0.245, 0.4)])
    off = np.abs(np.angle(np.exp(1j * (draw_phase(short, np.random.default_rng(0), level) - 1))))
    assert off[0].mean() == pytest.approx(
        np.abs(np.angle(np.exp(1j * (draw_phase(short[0], np.random.default_rng(1)) - 1)))).mean(),
        abs=0.05,
    )
    assert off[0].mean() > off[1].mean() + 0.2 > off[2].mean() + 0.3
    assert off[2].max() < 0.1
