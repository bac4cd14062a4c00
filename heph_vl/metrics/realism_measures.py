"""What one patch adds to the totals of its set: sums of colours, fringes, grain and edges."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.palettes import new_table
from heph_vl.data.phasors import agreement, estimate_coherence
from heph_vl.data.preview import cell_index

Floats = NDArray[np.float64]

# Phase steps agree above 0.9 on land and below 0.8 in grain; between lie the pixels of the border.
GRAIN_BELOW = 0.8
BITS = (3, 3, 3)  # of red, green and blue that posterised pictures keep
LAGS = 6  # px
GROUND_LAGS = (1, 4, 16, 32)  # px
STEPS, _COHERENCES, _TILTS = 64, 100, 18  # numbers of bins
_WAVENUMBERS = np.geomspace(1 / 64, 1 / 2, 17)  # cycles per px, edges of bins
_LEAST_WINDOW = 0.05  # share of the window's energy that must lie on data
_LEAST_PIECE = 50  # px: smaller pieces are white phase, or steady by chance


def measure(
    rgb: NDArray[np.uint8], wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_]
) -> dict[str, Floats]:
    """What one patch adds to the totals of its set.

    Args:
        rgb: (H, W, 3) uint8 colours.
        wrapped_phase: (H, W) [rad] in (-pi, pi], decoded from them.
        valid: (H, W) bool.

    Returns:
        By name, (K,) float64 sums; every name of every patch has the same K.
    """
    z = np.exp(1j * np.asarray(wrapped_phase, dtype=np.float64)) * valid
    steadiness = agreement(z, valid)
    ground, ground_pieces = _large_pieces(valid & (steadiness >= GRAIN_BELOW))
    return {
        "patches": np.ones(1),
        "pixels": _sum(valid),
        "ground": _sum(ground),
        "ground_pieces": np.asarray([float(ground_pieces)]),
        "outline": _sum(_outline(ground, valid)),
        "coherence": _histogram(estimate_coherence(z, valid)[valid], _COHERENCES, 1.0),
        **_colours(rgb, valid),
        **_spectrum(z, valid),
        "step": _histogram(_steps(z, valid), STEPS, np.pi),
        "ground_step": _histogram(_steps(z, ground), STEPS, np.pi),
        **_level(z, ground),
        **_coherence_of_lags(z, ground),
        **_grain(rgb, valid & ~ground),
        **_no_data(valid),
    }


def _sum(values: NDArray[np.generic]) -> Floats:
    return np.asarray([values.sum()], dtype=np.float64)


def _histogram(values: NDArray[np.floating], bins: int, top: float) -> Floats:
    return np.histogram(values, bins, (0.0, top))[0].astype(np.float64)


def _colours(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> dict[str, Floats]:
    shown = rgb[valid]
    cells = cell_index(shown, BITS)
    levels = shown.astype(np.float64)
    packed = shown @ np.array([1 << 16, 1 << 8, 1])
    return {
        "colour": np.bincount(cells, minlength=2 ** sum(BITS)).astype(np.float64),
        "level": levels.sum(axis=0),
        "level_squared": (levels**2).sum(axis=0),
        "distinct": np.asarray([len(np.unique(packed))], dtype=np.float64),
        "palette": _sum(np.isin(cells, _palette_cells())),
    }


@lru_cache(maxsize=1)
def _palette_cells() -> NDArray[np.intp]:
    return np.unique(cell_index(np.rint(new_table()[1]).astype(np.int64), BITS))


def _spectrum(z: NDArray[np.complexfloating], valid: NDArray[np.bool_]) -> dict[str, Floats]:
    """Mean log10 power of the phasor in rings of wavenumber, as (16,) and the weight 0 or 1."""
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in z.shape))
    energy = float((window**2 * valid).sum())
    if energy < _LEAST_WINDOW * float((window**2).sum()):
        return {"spectrum": np.zeros(len(_WAVENUMBERS) - 1), "spectra": np.zeros(1)}
    power = np.abs(np.fft.fft2(z * window)) ** 2 / energy
    wavenumber = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, z.shape), indexing="ij"))
    ring = np.digitize(wavenumber.ravel(), _WAVENUMBERS)
    total = np.bincount(ring, power.ravel(), len(_WAVENUMBERS) + 1)[1:-1]
    count = np.bincount(ring, minlength=len(_WAVENUMBERS) + 1)[1:-1]
    return {"spectrum": np.log10(total / count + 1e-12), "spectra": np.ones(1)}


def _steps(z: NDArray[np.complexfloating], inside: NDArray[np.bool_]) -> NDArray[np.floating]:
    """(N,) absolute wrapped differences [rad] of neighbours that both lie inside."""
    found = []
    for head, tail in _neighbours():
        both = inside[head] & inside[tail]
        found.append(np.abs(np.angle(z[head] * z[tail].conj())[both]))
    return np.concatenate(found)


def _outline(ground: NDArray[np.bool_], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(2,) pairs of neighbours, ground beside grain, down and across."""
    pairs = [
        np.sum((ground[head] != ground[tail]) & valid[head] & valid[tail])
        for head, tail in _neighbours()
    ]
    return np.array(pairs)


def _neighbours(lag: int = 1) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    every, head, tail = slice(None), slice(lag, None), slice(None, -lag)
    return [((head, every), (tail, every)), ((every, head), (every, tail))]


def _grain(rgb: NDArray[np.uint8], grain: NDArray[np.bool_]) -> dict[str, Floats]:
    """Products of colour deviations at lags 0 to 6 px, and the numbers of pairs, in grain only."""
    levels = rgb.astype(np.float64)
    mean = levels[grain].mean(axis=0) if grain.any() else np.zeros(3)
    deviation = (levels - mean) * grain[..., None]
    product, pairs = [float((deviation**2).sum())], [float(grain.sum())]
    for lag in range(1, LAGS + 1):
        both = [(deviation[h] * deviation[t], grain[h] & grain[t]) for h, t in _neighbours(lag)]
        product.append(sum(float(values.sum()) for values, _ in both))
        pairs.append(sum(float(mask.sum()) for _, mask in both))
    return {"grain_product": np.array(product), "grain_pairs": np.array(pairs)}


def _level(z: NDArray[np.complexfloating], ground: NDArray[np.bool_]) -> dict[str, Floats]:
    """The patch's mean phasor on ground: its length and real part, times the pixels of ground."""
    total = complex(z[ground].sum())
    return {"ground_length": np.array([abs(total)]), "ground_cosine": np.array([total.real])}


def _coherence_of_lags(
    z: NDArray[np.complexfloating], ground: NDArray[np.bool_]
) -> dict[str, Floats]:
    """Sums of cos(phase difference) on ground at each of `GROUND_LAGS`, and numbers of pairs."""
    product, pairs = [], []
    for lag in GROUND_LAGS:
        both = [(z[h] * z[t].conj(), ground[h] & ground[t]) for h, t in _neighbours(lag)]
        product.append(sum(float(values[mask].real.sum()) for values, mask in both))
        pairs.append(sum(float(mask.sum()) for _, mask in both))
    return {"ground_product": np.array(product), "ground_pairs": np.array(pairs)}


def _large_pieces(region: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """The region without small connected pieces, and how many are left."""
    from scipy import ndimage

    pieces, number = ndimage.label(region)
    large = np.bincount(pieces.ravel(), minlength=number + 1) >= _LEAST_PIECE
    large[0] = False
    return large[pieces], int(large.sum())


def _no_data(valid: NDArray[np.bool_]) -> dict[str, Floats]:
    """Area, pieces and the directions of the edges of what has no data."""
    from scipy import ndimage

    empty, pieces = _large_pieces(~valid)
    slope = [
        ndimage.gaussian_filter(empty.astype(np.float64), 2.0, order=o) for o in ((0, 1), (1, 0))
    ]
    edge = empty & ndimage.binary_dilation(~empty)
    tilt = np.degrees(np.arctan2(slope[1], slope[0]))[edge] % 90.0
    return {
        "no_data": _sum(empty),
        "area": np.asarray([valid.size], dtype=np.float64),
        "with_no_data": np.asarray([float(empty.any())]),
        "pieces": np.asarray([float(pieces)]),
        "edge_tilt": _histogram(tilt, _TILTS, 90.0),
    }
