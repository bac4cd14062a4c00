"""Multilook noise against closed forms, the ground's coherence, and the filter."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from heph_vl.simulate.decorrelation import (
    CRITICAL_BASELINE_M,
    FOREST_DAYS,
    MOSAIC,
    decorrelate,
    land_cover,
    smooth_coherent,
)


def noise_of(coherence, looks=50, size=256, seed=0):
    g = torch.Generator().manual_seed(seed)
    return decorrelate(torch.full((1, size, size), coherence), [g], looks)


def angle(phasor):
    return torch.atan2(phasor[:, 1], phasor[:, 0])


def phase_cdf(coherence, looks):
    """Distribution of the multilook phase: Lee et al. (1994), eq. 18, integrated."""
    phi = np.linspace(-math.pi, math.pi, 8_001)
    beta = coherence * np.cos(phi)
    density = (
        special.gamma(looks + 0.5) / special.gamma(looks) * (1 - coherence**2) ** looks * beta
    ) / (2 * math.sqrt(math.pi) * (1 - beta**2) ** (looks + 0.5)) + (1 - coherence**2) ** looks / (
        2 * math.pi
    ) * special.hyp2f1(looks, 1, 0.5, beta**2)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(phi)
    return lambda x: np.interp(x, phi, np.concatenate(([0], np.cumsum(steps))))


@pytest.mark.parametrize("coherence", [0.0, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("looks", [2, 8, 50])
def test_phase_follows_the_closed_form(coherence, looks):
    noise, _ = noise_of(coherence, looks, size=1_000)  # a million samples
    phase = angle(noise).flatten().double().numpy()
    assert stats.kstest(phase, phase_cdf(coherence, looks)).pvalue > 1e-3


@pytest.mark.parametrize("looks", [2, 50])
def test_squared_coherence_of_no_coherence_is_a_beta(looks):
    # Touzi et al. (1999), eq. 6: |g|^2 ~ Beta(1, L - 1).
    _, sample = noise_of(0.0, looks, size=500)
    squared = sample.flatten().double().square().numpy()
    assert stats.kstest(squared, stats.beta(1, looks - 1).cdf).pvalue > 1e-3


def test_sample_coherence_is_biased_when_low_and_right_when_high():
    # Touzi et al. (1999), eq. 8: E|g| for zero coherence is G(L) G(3/2) / G(L + 1/2).
    _, low = noise_of(0.0)
    expected = math.exp(math.lgamma(50) + math.lgamma(1.5) - math.lgamma(50.5))
    assert float(low.mean()) == pytest.approx(expected, rel=0.01)
    _, high = noise_of(0.9)
    assert float(high.mean()) == pytest.approx(0.9, abs=0.005)
    assert float(low.min()) >= 0
    assert float(high.max()) <= 1


def test_neighbours_and_parts_are_independent():
    noise, sample = noise_of(0.0, size=500)
    re, im = noise[0].double()
    for a, b in (
        (re[:, 1:], re[:, :-1]),
        (re[1:], im[:-1]),
        (re, im),
        (re, sample[0]),
        (im, sample[0]),
    ):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.01


def test_noise_phasors_are_unit_and_do_not_depend_on_the_batch():
    coherence = torch.rand((2, 64, 64), generator=torch.Generator().manual_seed(5))
    seeds = (7, 8)
    both, sample = decorrelate(coherence, [torch.Generator().manual_seed(s) for s in seeds])
    torch.testing.assert_close(both.square().sum(1), torch.ones(2, 64, 64))
    for i, seed in enumerate(seeds):
        one, seen = decorrelate(coherence[i : i + 1], [torch.Generator().manual_seed(seed)])
        assert torch.equal(both[i], one[0])
        assert torch.equal(sample[i], seen[0])


LAVA, FOREST, SEA, WHITE = range(4)
VEGETATION = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
WATER = torch.tensor([[False, False, True, False]])
SNOW = torch.tensor([[False, False, False, True]])
FLAT = torch.zeros((1, 4))


def coherence_of(days, baseline=0.0, clarity=1.0, slope=FLAT, texture=None):
    cover = land_cover(VEGETATION, WATER, SNOW, slope, texture)
    return cover.coherence(days, baseline, clarity)[0]


def test_coherence_falls_with_time():
    near, far = coherence_of(12.0), coherence_of(120.0)
    assert near[LAVA] > near[FOREST] > near[SEA] == 0.0
    assert near[LAVA] > near[WHITE]
    assert far[LAVA] / near[LAVA] == pytest.approx(math.exp(-108 / 900))
    assert far[FOREST] / near[FOREST] == pytest.approx(math.exp(-108 / FOREST_DAYS))
    assert far[WHITE] / near[WHITE] == pytest.approx(math.exp(-108 / 15))
    torch.testing.assert_close(coherence_of(12.0, clarity=0.5), 0.5 * near)
    steep = coherence_of(12.0, slope=FLAT + 1.0)
    assert steep[LAVA] < 0.1 * near[LAVA]


def test_coherence_falls_with_the_perpendicular_baseline():
    none, some, most = (coherence_of(12.0, b) for b in (0.0, -1_000.0, CRITICAL_BASELINE_M))
    assert some[LAVA] / none[LAVA] == pytest.approx(0.8)
    assert float(most.max()) == 0.0
    # A canopy of 25 m: k h = 4 pi * 25 * 200 / (0.0555 * 880e3 * sin 39) = 2.046, sinc(k h / 2).
    ratio = coherence_of(12.0, 200.0) / coherence_of(12.0, 0.0)
    assert ratio[FOREST] / ratio[LAVA] == pytest.approx(math.sin(1.023) / 1.023, rel=0.01)


def test_texture_scales_the_rate():
    days = FOREST_DAYS
    far, plain = coherence_of(days, texture=FLAT + 1.0), coherence_of(days)
    start = coherence_of(0.0)
    assert far[FOREST] / start[FOREST] == pytest.approx(math.exp(-math.exp(MOSAIC)))
    assert plain[FOREST] / start[FOREST] == pytest.approx(math.exp(-1))


WHOLE = torch.ones((128, 128), dtype=torch.bool)


def test_filter_smooths_land_and_leaves_water():
    coherence = torch.full((1, 128, 128), 0.4)
    coherence[..., 64:] = 0.0
    noise, sample = decorrelate(coherence, [torch.Generator().manual_seed(3)])
    phase = torch.full_like(coherence, 2.0)
    wrapped = smooth_coherent(phase, noise, sample, WHOLE)
    error = torch.remainder(wrapped - 2.0 + math.pi, 2 * math.pi) - math.pi
    land = (..., slice(0, 60))
    water = (..., slice(68, 128))
    # The pyramid leaves 19 / 81 of the deviation of independent noise.
    share = float(error[land].std() / angle(noise)[land].std())
    assert share == pytest.approx(19 / 81, rel=0.15)
    unchanged = torch.remainder(error - angle(noise) + math.pi, 2 * math.pi) - math.pi
    assert float((unchanged[water].abs() < 1e-3).float().mean()) > 0.8
    # Neighbouring water pixels stay independent.
    z = torch.polar(torch.ones_like(wrapped), wrapped)[water][0]
    assert float((z[:, 1:] * z[:, :-1].conj()).mean().abs()) < 0.05


def test_filter_keeps_fringes_and_the_sense_of_the_phase():
    columns = torch.arange(128).float()
    phase = (2 * math.pi * columns / 13.3).expand(1, 128, 128)  # 4 native pixels a fringe
    still = torch.stack((torch.ones(1, 128, 128), torch.zeros(1, 128, 128)), dim=1)
    wrapped = smooth_coherent(phase, still, torch.full_like(phase, 0.8), WHOLE)
    error = torch.remainder(wrapped - phase + math.pi, 2 * math.pi) - math.pi
    assert float(error[..., 4:-4].abs().max()) < 1e-3


def test_filter_takes_nothing_from_outside():
    noise, sample = noise_of(0.5, size=128)
    valid = WHOLE.clone()
    valid[:, 60:] = False
    phase = torch.zeros((1, 128, 128))
    inside = smooth_coherent(phase, noise, sample, valid)
    phase[..., 60:] = 2.0
    assert torch.equal(smooth_coherent(phase, noise, sample, valid)[..., :60], inside[..., :60])
    assert not torch.equal(smooth_coherent(phase, noise, sample, WHOLE)[..., :60], inside[..., :60])


def test_filtering_in_strips_leaves_no_seam(monkeypatch):
    noise, sample = noise_of(0.3, size=100)
    phase = torch.zeros((1, 100, 100))
    whole = smooth_coherent(phase, noise, sample, WHOLE[:100, :100])
    monkeypatch.setattr("heph_vl.simulate.decorrelation._CACHED", 700)
    strips = smooth_coherent(phase, noise, sample, WHOLE[:100, :100])
    torch.testing.assert_close(strips, whole, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_and_filter_on_a_gpu():
    g = torch.Generator("cuda").manual_seed(1)
    noise, sample = decorrelate(torch.full((1, 512, 512), 0.6, device="cuda"), [g])
    phase = angle(noise).flatten().double().cpu().numpy()
    assert stats.kstest(phase, phase_cdf(0.6, 50)).pvalue > 1e-3
    fields = torch.zeros_like(sample), noise, sample, torch.ones_like(sample, dtype=torch.bool)
    wrapped = smooth_coherent(*fields)
    expected = smooth_coherent(*(field.cpu() for field in fields))
    torch.testing.assert_close(wrapped.cpu(), expected, atol=1e-4, rtol=0)
