"""A phase of a mean phasor: what a network is unsure of becomes grain, as in real pictures."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Noise is smoothed by (_SIDE, 1, _SIDE) along rows and columns: so phasors of pure grain are alike
# by 0.23 one pixel apart, 0.06 across a corner and 0.02 two apart; those of simulated previews by
# 0.22, 0.08 and 0.01 (benchmarks/grain.py prints both).
_SIDE = 0.15


# LiCSAR filters the phase: neighbouring phase steps agree by 0.985 at a coherence of 0.19, by more
# than 0.99 at 0.3 (`data.phasors`), which leaves no grain.
_GRAIN_ENDS = (0.19, 0.3)


def draw_phase(
    phasor: NDArray[np.complexfloating],
    rng: np.random.Generator,
    coherence: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Wrapped phases whose mean phasor is the given one.

    The phase is that of a fixed arrow plus complex Gaussian noise, correlated between neighbouring
    pixels; the arrow is as long as makes the mean of the unit phasors as long as asked for.

    Args:
        phasor: (..., H, W) complex, modulus at most 1.
        rng: Source of the noise.
        coherence: (..., H, W) in [0, 1]. Where it is high there is no grain: a short mean phasor
            is then the blur of who gave it.

    Returns:
        (..., H, W) float32 [rad] in (-pi, pi].
    """
    modulus = np.abs(phasor)
    if coherence is not None:
        smooth = np.interp(coherence, _GRAIN_ENDS, (0, 1))
        modulus = modulus + smooth * (1 - modulus)
    lengths, resultants = _arrows()
    arrow = np.interp(modulus, resultants, lengths) * np.exp(1j * np.angle(phasor))
    *rest, height, width = phasor.shape
    real, imaginary = rng.standard_normal((2, *rest, height + 2, width + 2), dtype=np.float32)
    noise = real + 1j * imaginary
    noise = noise[..., 1:-1] + _SIDE * (noise[..., :-2] + noise[..., 2:])
    noise = noise[..., 1:-1, :] + _SIDE * (noise[..., :-2, :] + noise[..., 2:, :])
    noise /= np.sqrt(2) * (1 + 2 * _SIDE**2)  # of unit power: its square mean is 1
    phase: NDArray[np.float32] = np.angle(arrow + noise).astype(np.float32)
    return phase


@lru_cache(maxsize=1)
def _arrows() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths of an arrow in noise of unit power, and those of the mean unit phasor.

    Mean of the cosine of a Rician phase, K = length^2 (Gudbjartsson and Patz 1995, of its Bessel
    functions): sqrt(pi K) / 2 exp(-K / 2) (I0(K / 2) + I1(K / 2)).
    """
    from scipy.special import ive

    length = np.concatenate([np.linspace(0, 12, 1201), [25, 50, 100]])
    k = length**2
    return length, np.sqrt(np.pi * k) / 2 * (ive(0, k / 2) + ive(1, k / 2))
