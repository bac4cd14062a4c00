"""Phasors exp(i phase): the form in which phase may be averaged, resampled and shown to a model."""

import numpy as np
from numpy.typing import NDArray

# Mean measured coherence (50 looks) at each agreement, over simulated pairs with up to 0.6 fringes
# in 5 pixels, decoded from their previews; benchmarks/coherence_calibration.py prints it.
# It is steep: LiCSAR filters the phase, so from a coherence of 0.25 on it looks almost noise-free.
_AGREEMENT = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.997, 0.9995, 0.9999)
_COHERENCE = (0.126, 0.132, 0.138, 0.148, 0.16, 0.174, 0.19, 0.234, 0.4, 0.528, 0.566, 0.61, 0.729)
_WINDOW = 5


def phasor(wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.complex64]:
    """Unit phasors exp(i phase), (H, W) complex64, 0 where invalid."""
    phase = np.asarray(wrapped_phase, dtype=np.float32)
    z = np.empty(phase.shape, dtype=np.complex64)
    z.real, z.imag = np.cos(phase), np.sin(phase)
    z[~valid] = 0
    return z


def phasor_channels(
    z: NDArray[np.complexfloating], coherence: NDArray[np.floating]
) -> NDArray[np.float32]:
    """What a model sees.

    Args:
        z: (H, W) complex phasor, modulus at most 1, 0 where there is no data.
        coherence: (H, W) in [0, 1].

    Returns:
        (3, H, W) float32: real part, imaginary part, coherence; (0, 0, 0) where z is 0.
    """
    channels = np.empty((3, *z.shape), dtype=np.float32)
    channels[0], channels[1] = z.real, z.imag
    channels[2] = np.where(z == 0, 0, coherence)
    return channels


def resample_phasor(
    z: NDArray[np.complexfloating], valid: NDArray[np.bool_], factor: float
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Phasors on a coarser grid: the area mean over valid pixels, never renormalised.

    Args:
        z: (H, W) complex phasor.
        valid: (H, W) bool.
        factor: Side of an output pixel in input pixels, at least 1, any fraction.

    Returns:
        (round(H / factor), round(W / factor)) complex64, modulus at most 1 where z's is, 0 where
        invalid; and validity: at least half of the output pixel is valid.

    Raises:
        ValueError: If the factor is below 1.
    """
    if not factor >= 1:
        raise ValueError(f"factor {factor} < 1: phasors are averaged, not interpolated")
    if factor == 1:
        return np.where(valid, z, 0).astype(np.complex64), valid.copy()
    total = _area_sum(_area_sum(np.where(valid, z, 0), factor, 0), factor, 1)
    area = _area_sum(_area_sum(valid.astype(np.float64), factor, 0), factor, 1)
    inside = _area_sum(_area_sum(np.ones(z.shape), factor, 0), factor, 1)
    coarse_valid = (area >= 0.5 * inside - 1e-9) & (area > 0)
    mean = np.where(coarse_valid, total / np.maximum(area, 1e-12), 0)
    return mean.astype(np.complex64), coarse_valid


def _area_sum(values: NDArray[np.inexact], factor: float, axis: int) -> NDArray[np.inexact]:
    """Sums over consecutive intervals of `factor` pixels along one axis, ends taken in part."""
    length = values.shape[axis]
    edges = np.minimum(np.arange(max(1, round(length / factor)) + 1) * factor, length)
    wide = np.complex128 if np.iscomplexobj(values) else np.float64
    running = np.insert(np.cumsum(values, axis=axis, dtype=wide), 0, 0, axis=axis)
    below = np.minimum(edges.astype(np.intp), length - 1)
    part = (edges - below).reshape((-1, 1) if axis == 0 else (1, -1))
    low, high = running.take(below, axis), running.take(below + 1, axis)
    result: NDArray[np.inexact] = np.diff(low + part * (high - low), axis=axis)
    return result


def estimate_coherence(
    z: NDArray[np.complexfloating], valid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Coherence where none was measured, from how steadily the phase changes.

    Args:
        z: (H, W) complex phasor; unit or shorter.
        valid: (H, W) bool.

    Returns:
        (H, W) float32 in [0, 1], 0 where invalid: `agreement` calibrated on simulated pairs.
    """
    estimate = np.interp(agreement(z, valid), _AGREEMENT, _COHERENCE)
    return np.where(valid, estimate, 0).astype(np.float32)


def agreement(z: NDArray[np.complexfloating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How well neighbouring phase steps agree within 5 x 5 pixels.

    A plain mean of phasors vanishes on fringes about 5 px apart, however coherent: exactly where
    the deformation is. The steps z(x + 1) conj z(x) are the same all along a slope, so their mean
    keeps its modulus there, and loses it in noise. Over fringes of all slopes its rank correlation
    with the measured coherence is 0.63; that of the plain mean 0.19.

    Args:
        z: (H, W) complex phasor.
        valid: (H, W) bool.

    Returns:
        (H, W) float32 in [0, 1]: square root of the geometric mean of the moduli along x and y.
    """
    z = np.where(valid, z, 0).astype(np.complex64)
    moduli = []
    for axis in (0, 1):
        head = tuple(slice(1, None) if i == axis else slice(None) for i in (0, 1))
        tail = tuple(slice(None, -1) if i == axis else slice(None) for i in (0, 1))
        step = np.zeros_like(z)
        both = np.zeros(z.shape, dtype=np.float32)
        step[tail] = z[head] * z[tail].conj()
        both[tail] = valid[head] & valid[tail]
        moduli.append(np.abs(_box_sum(step)) / np.maximum(_box_sum(both), 1))
    result: NDArray[np.float32] = np.sqrt(np.sqrt(moduli[0] * moduli[1])).astype(np.float32)
    return np.minimum(result, 1, out=result)


def _box_sum(values: NDArray[np.inexact]) -> NDArray[np.inexact]:
    height, width = values.shape
    padded = np.pad(values, _WINDOW // 2)
    rows = padded[:height].copy()
    for i in range(1, _WINDOW):
        rows += padded[i : i + height]
    total = rows[:, :width].copy()
    for i in range(1, _WINDOW):
        total += rows[:, i : i + width]
    return total
