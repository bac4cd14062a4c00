"""Multilook noise against closed forms, and the filter."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from heph_vl.simulate.decorrelation import (
    decorrelate,
    gamma,
    ground_coherence,
    smooth_coherent,
)


def noise_of(coherence, looks, size=256, seed=0):
    g = torch.Generator().manual_seed(seed)
    return decorrelate(torch.full((1, size, size), coherence), [g], looks)


def phase_cdf(coherence, looks):
    """Distribution of the multilook phase: Lee et al. (1994), eq. 18, integrated."""
    phi = np.linspace(-math.pi, math.pi, 4_001)
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
    noise, _ = noise_of(coherence, looks)
    phase = torch.angle(noise).flatten()[::8].double().numpy()
    assert stats.kstest(phase, phase_cdf(coherence, looks)).pvalue > 1e-3


def test_sample_coherence_is_biased_when_low_and_right_when_high():
    # Touzi et al. (1999), eq. 8: E|g| for zero coherence is G(L) G(3/2) / G(L + 1/2).
    _, low = noise_of(0.0, 50)
    expected = math.exp(math.lgamma(50) + math.lgamma(1.5) - math.lgamma(50.5))
    assert float(low.mean()) == pytest.approx(expected, rel=0.01)
    _, high = noise_of(0.9, 50)
    assert float(high.mean()) == pytest.approx(0.9, abs=0.005)
    assert float(low.min()) >= 0
    assert float(high.max()) <= 1


def test_noise_phasors_are_unit_and_do_not_depend_on_the_batch():
    coherence = torch.rand((2, 64, 64), generator=torch.Generator().manual_seed(5))
    seeds = (7, 8)
    both, _ = decorrelate(coherence, [torch.Generator().manual_seed(s) for s in seeds])
    torch.testing.assert_close(both.abs(), torch.ones(2, 64, 64))
    for i, seed in enumerate(seeds):
        one, _ = decorrelate(coherence[i : i + 1], [torch.Generator().manual_seed(seed)])
        assert torch.equal(both[i], one[0])


@pytest.mark.parametrize("alpha", [1.0, 2.5, 50.0])
def test_gamma(alpha):
    sample = gamma(torch.Size((20_000,)), alpha, torch.Generator().manual_seed(1)).double()
    assert stats.kstest(sample.numpy(), stats.gamma(alpha).cdf).pvalue > 1e-3


def test_ground_coherence():
    zeros = torch.zeros((1, 4))
    vegetation = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    water = torch.tensor([[False, False, True, False]])
    snow = torch.tensor([[False, False, False, True]])
    near = ground_coherence(vegetation, water, snow, zeros, 12.0)[0]
    far = ground_coherence(vegetation, water, snow, zeros, 120.0)[0]
    lava, forest, sea, white = range(4)
    assert near[lava] > near[forest] > near[sea]
    assert near[lava] > near[white]
    assert bool((far <= near).all())
    assert far[lava] / near[lava] == pytest.approx(math.exp(-108 / 900))
    assert float(near[sea]) == 0.0
    steep = ground_coherence(vegetation, water, snow, zeros + 1.0, 12.0)[0]
    assert steep[lava] < 0.1 * near[lava]


def test_filter_smooths_land_and_leaves_water():
    coherence = torch.full((1, 128, 128), 0.4)
    coherence[..., 64:] = 0.0
    noise, sample = decorrelate(coherence, [torch.Generator().manual_seed(3)])
    valid = torch.ones((128, 128), dtype=torch.bool)
    out = smooth_coherent(noise, sample, valid)
    torch.testing.assert_close(out.abs(), torch.ones(1, 128, 128))
    land = (..., slice(0, 60))
    water = (..., slice(68, 128))
    assert float(torch.angle(out)[land].std()) < 0.45 * float(torch.angle(noise)[land].std())
    torch.testing.assert_close(out[water], noise[water], atol=0.6, rtol=0)
    assert float((out[water] - noise[water]).abs().mean()) < 0.05
    # Neighbouring water pixels stay independent.
    z = out[water][0]
    assert float((z[:, 1:] * z[:, :-1].conj()).mean().abs()) < 0.05


def test_filter_keeps_fringes():
    columns = torch.arange(128).float()
    phase = (2 * math.pi * columns / 13.3).expand(1, 128, 128)  # 4 native pixels a fringe
    phasor = torch.polar(torch.ones_like(phase), phase)
    valid = torch.ones((128, 128), dtype=torch.bool)
    out = smooth_coherent(phasor, torch.full_like(phase, 0.8), valid)
    error = torch.angle(out * phasor.conj())[..., 4:-4]
    assert float(error.abs().max()) < 1e-3
