"""The phase that a colour of the new palette stands for, when colours were mixed and rounded.

LiCSAR colours the phase first and shrinks the picture to 30 % afterwards, so a pixel shows a
mixture of palette colours; its PNG8 step then rounds colours coarsely. The nearest palette colour
is therefore a biased answer: a mixture across the red|blue jump is purple, and stands for +-pi.
Here the chain is run forward over fringes of all phases and slopes and over noise, and a colour is
given the mean phasor of what it may have come from. Its argument is the phase, its modulus the
confidence: 1 where all candidates agree, 0 where the colour says nothing (grain).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.palettes import new_table

# A pixel of the picture is 1 / 0.3 pixels of the coloured field.
_SHRINK = 0.3
_LANCZOS_LOBES = 3
# Slopes [rad per picture pixel] of the prior: flat land is common, 2 px fringes (3.1) are rare.
_SLOPES = np.array([0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.1, 1.4, 1.7, 2.1, 2.5])
_SLOPE_WEIGHT = 1.0 / (0.5 + _SLOPES) ** 2
# Share of the prior given to pixels without any common phase (water, decorrelated land).
_NOISE_SHARE = 0.3
_NOISE_SAMPLES = 4096
# 8-bit colours: spread [levels] that a quantiser to 256 colours leaves around the true mixture.
_SPREAD = 4.0
# Weight of an unexplained colour, as a share of the prior: foreign colours end near confidence 0.
_UNEXPLAINED = 1e-6


def posterise(rgb: NDArray[np.integer], bits: tuple[int, int, int] = (3, 3, 3)) -> NDArray[np.uint8]:
    """Colours as ImageMagick's PNG8 writer rounds them: the top bits of each channel, replicated.

    Args:
        rgb: (..., 3) colours in 0..255.
        bits: Bits kept of red, green and blue, 2 to 8.

    Returns:
        (..., 3) uint8; with 3 bits the levels are 0, 36, 73, 109, 146, 182, 219, 255.
    """
    out = np.empty(rgb.shape, dtype=np.uint8)
    for channel, kept in enumerate(bits):
        out[..., channel] = levels(kept)[np.asarray(rgb[..., channel], dtype=np.intp) >> (8 - kept)]
    return out


def levels(bits: int) -> NDArray[np.uint8]:
    """The (2 ** bits,) channel values that replicating the top bits leaves."""
    value = np.arange(2**bits) << (8 - bits)
    shift = bits
    while shift < 8:
        value = value | (value >> shift)
        shift *= 2
    return value.astype(np.uint8)


def kept_bits(rgb: NDArray[np.integer]) -> tuple[int, int, int]:
    """How many bits of each channel a picture kept.

    Args:
        rgb: (N, 3) the distinct colours of a picture, 0..255.

    Returns:
        The coarsest of (3, 3, 2), (3, 3, 3), (4, 4, 4) whose levels hold all colours, else
        (8, 8, 8).
    """
    for bits in ((3, 3, 2), (3, 3, 3), (4, 4, 4)):
        if np.array_equal(posterise(rgb, bits), rgb):
            return bits
    return (8, 8, 8)


def decode(
    rgb: NDArray[np.integer], bits: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Phase and confidence of colours of the new palette.

    Args:
        rgb: (N, 3) colours in 0..255.
        bits: Bits that the picture kept of each channel, as `kept_bits` gives them.

    Returns:
        (N,) phase [rad] in (-pi, pi], and (N,) confidence in [0, 1]: the resultant length of the
        phasors of everything that is drawn in this colour.
    """
    mean = _by_cell(rgb, bits) if bits[0] < 8 else _by_distance(rgb, _SPREAD)
    return np.angle(mean).astype(np.float32), np.minimum(np.abs(mean), 1.0).astype(np.float32)


def _by_cell(rgb: NDArray[np.integer], bits: tuple[int, int, int]) -> NDArray[np.complex128]:
    weight, phasor = cell_prior(bits)
    cell = cell_index(rgb, bits)
    known = weight[cell] > 0
    mean = np.zeros(len(rgb), dtype=np.complex128)
    mean[known] = phasor[cell[known]] / (weight[cell[known]] + _UNEXPLAINED)
    if not known.all():
        # Colours that the model never draws: judged by what is drawn a cell away.
        centres = rgb[~known].astype(np.int64) // 2 ** (8 - np.array(bits)) * 2 ** (
            8 - np.array(bits)
        ) + 2 ** (7 - np.array(bits))
        mean[~known] = _by_distance(centres, 256 / 2 ** bits[0] / 2)
    return mean


def cell_index(rgb: NDArray[np.integer], bits: tuple[int, int, int]) -> NDArray[np.intp]:
    """Number of the colour cell (..., ) in 0 .. 2 ** sum(bits) - 1 of each (..., 3) colour."""
    red, green, blue = (np.asarray(rgb[..., i], dtype=np.intp) >> (8 - bits[i]) for i in range(3))
    return (red << (bits[1] + bits[2])) | (green << bits[2]) | blue


@lru_cache(maxsize=4)
def cell_prior(
    bits: tuple[int, int, int],
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """What is drawn in each colour cell: (cells,) prior weight and (cells,) summed phasor."""
    colours, phasors, weights = forward_model()
    cell = cell_index(colours.astype(np.int64), bits)
    cells = 2 ** sum(bits)
    weight = np.bincount(cell, weights, cells)
    phasor = np.bincount(cell, weights * phasors.real, cells) + 1j * np.bincount(
        cell, weights * phasors.imag, cells
    )
    return weight, phasor


def _by_distance(rgb: NDArray[np.integer], spread: float) -> NDArray[np.complex128]:
    colours, phasors, weights = forward_model()
    mean = np.empty(len(rgb), dtype=np.complex128)
    length = (colours**2).sum(axis=1)
    table = np.stack([weights, weights * phasors.real, weights * phasors.imag], axis=1)
    table = table.astype(np.float32)
    for start in range(0, len(rgb), 256):
        block = rgb[start : start + 256].astype(np.float32)
        squared = length - 2 * block @ colours.T + (block**2).sum(axis=1, keepdims=True)
        total, real, imag = (np.exp(squared * np.float32(-0.5 / spread**2)) @ table).T
        mean[start : start + 256] = (real + 1j * imag) / (total + _UNEXPLAINED)
    return mean


@lru_cache(maxsize=1)
def forward_model() -> tuple[NDArray[np.float32], NDArray[np.complex128], NDArray[np.float64]]:
    """The chain run forward: what colour do fringes and noise get?

    Returns:
        (M, 3) float32 mixed colours before rounding; (M,) phasor exp(i phase) of the pixel's
        middle, 0 for noise; (M,) weights that sum to 1.
    """
    phase, table = new_table()
    reach = int(np.ceil(_LANCZOS_LOBES / _SHRINK))
    offset = np.arange(-reach, reach + 1) * _SHRINK
    kernel = np.sinc(offset) * np.sinc(offset / _LANCZOS_LOBES) * (np.abs(offset) < _LANCZOS_LOBES)
    kernel /= kernel.sum()
    middle = np.linspace(-np.pi, np.pi, 256, endpoint=False)
    field = middle[:, None, None] + _SLOPES[None, :, None] * offset
    mixed = np.tensordot(_colour(field, phase, table), kernel, axes=([2], [0]))
    weights = np.broadcast_to(_SLOPE_WEIGHT, mixed.shape[:2]).reshape(-1)
    rng = np.random.default_rng(0)
    noise = rng.uniform(-np.pi, np.pi, (_NOISE_SAMPLES, len(kernel), len(kernel)))
    grain = np.einsum("nijc,i,j->nc", _colour(noise, phase, table), kernel, kernel)
    colours = np.clip(np.concatenate([mixed.reshape(-1, 3), grain]), 0, 255).astype(np.float32)
    phasors = np.concatenate(
        [np.repeat(np.exp(1j * middle), len(_SLOPES)), np.zeros(_NOISE_SAMPLES)]
    )
    return (
        colours,
        phasors,
        np.concatenate(
            [
                (1 - _NOISE_SHARE) * weights / weights.sum(),
                np.full(_NOISE_SAMPLES, _NOISE_SHARE / _NOISE_SAMPLES),
            ]
        ),
    )


def _colour(
    field: NDArray[np.float64], phase: NDArray[np.float64], table: NDArray[np.float64]
) -> NDArray[np.float32]:
    wrapped = np.pi - np.mod(np.pi - field, 2 * np.pi)
    step = np.rint((wrapped - phase[0]) / (phase[1] - phase[0])).astype(np.int32)
    return table.astype(np.float32)[np.clip(step, 0, len(table) - 1)]


def fit(rgb: NDArray[np.uint8], count: NDArray[np.integer]) -> float:
    """Share of an image, in [0, 1], that the new palette can draw.

    Args:
        rgb: (N, 3) distinct colours.
        count: (N,) pixels of each.

    Returns:
        Share of pixels whose colour (in cells of 32 levels) some fringe or noise gives.
    """
    weight, _ = cell_prior((3, 3, 3))
    drawn = weight[cell_index(rgb, (3, 3, 3))] > 0
    return float(count[drawn].sum() / count.sum())
