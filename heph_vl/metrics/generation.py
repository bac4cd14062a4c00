"""How near generated images are to real ones, in a frozen encoder and in their phase.

Features are (N, D) float64, one row for each image.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from heph_vl.data.phasors import phasor
from heph_vl.errors import HephError

Floats = NDArray[np.float64]

STEP_BINS = 64  # of absolute phase steps over [0, pi]
_LEAST = 1e-12  # of a share of power: -120 dB
_AT_ONCE = 1024  # rows of a table of distances, which bounds memory


def kid(x: Floats, y: Floats) -> float:
    """Kernel distance: unbiased squared MMD with the kernel (x . y / D + 1)^3.

    Binkowski et al., Demystifying MMD GANs, ICLR 2018.

    Args:
        x: (N, D).
        y: (M, D).

    Returns:
        0 on average for two sets of one distribution, so it may be negative.

    Raises:
        HephError: Fewer than 2 images, or features of different length.
    """
    _check(x, y, 2)
    dim = x.shape[1]
    xx, yy, xy = ((a @ b.T / dim + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    inside = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(inside - 2 * xy.mean())


def frechet_distance(x: Floats, y: Floats) -> float:
    """Distance of two Gaussians with the means and covariances of the sets (FID).

    Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017:
    |m - n|^2 + tr(A + B - 2 (A B)^(1/2)). The trace of the root is the sum of the singular values
    of R S' with A = R' R, B = S' S, which needs no root and holds for fewer images than D; R and S
    are triangles of the centred features, so that many images cost no more than D.

    Args:
        x: (N, D).
        y: (M, D).

    Returns:
        At least 0; grows as the sets shrink, so only equal sizes may be compared.

    Raises:
        HephError: Fewer than 2 images, or features of different length.
    """
    _check(x, y, 2)
    centred = [(z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y)]
    r, s = (np.asarray(np.linalg.qr(z, mode="r")) for z in centred)
    root = np.linalg.svd(r @ s.T, compute_uv=False).sum()
    spread = sum(float((z**2).sum()) for z in centred)
    means = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    return max(0.0, means + spread - 2 * float(root))


def normalised(value: float, floor: float, ceiling: float) -> float:
    """Where a distance lies between those of two halves of the reference and of noise.

    Args:
        value: Of a set to the reference.
        floor: Of the reference's halves.
        ceiling: Of phase-scrambled reference images to the reference.

    Returns:
        0 at the floor, 1 at the ceiling; NaN if they are not in order.
    """
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")


def coverage_scores(real: Floats, fake: Floats, k: int = 5) -> dict[str, float]:
    """Precision and recall, density and coverage, by nearest neighbours.

    Kynkaanniemi et al., NeurIPS 2019; Naeem et al., ICML 2020. A ball around each image reaches to
    its k-th nearest neighbour in its own set.

    Args:
        real: (N, D).
        fake: (M, D).
        k: Of the neighbour, which an image itself is not; at least 1.

    Returns:
        `precision`: share of the generated in a real ball; `recall`: of the real in a generated
        one; `density`: real balls that a generated image lies in, of k; `coverage`: share of real
        balls with a generated image in them.

    Raises:
        HephError: At most k images, k below 1, or features of different length.
    """
    if k < 1:
        raise HephError("k", f"{k} neighbours", "give at least 1")
    _check(real, fake, k + 1)
    across = cdist(real, fake)
    real_ball, fake_ball = (np.sort(cdist(z, z), axis=1)[:, k] for z in (real, fake))
    inside = across <= real_ball[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((across <= fake_ball[None]).any(1).mean()),
        "density": float(inside.sum(0).mean() / k),
        "coverage": float(inside.any(1).mean()),
    }


def nearest_distances(x: Floats, y: Floats) -> Floats:
    """(N,) Euclidean distance of each of x (N, D) to the nearest of y (M, D)."""
    _check(x, y, 1)
    parts = [x[start : start + _AT_ONCE] for start in range(0, len(x), _AT_ONCE)]
    return np.concatenate([cdist(part, y).min(1) for part in parts])


def copying(fake: Floats, train: Floats, held_out: Floats) -> dict[str, float]:
    """How near generated images come to training images, beside held-out ones.

    Args:
        fake: (N, D) generated.
        train: (M, D) that the generator learnt from.
        held_out: (K, D) real ones that it has not seen.

    Returns:
        `median` distance of generated images to the nearest training image, `held_out_median` that
        of the held-out ones, their `ratio` (NaN if that is 0), and `nearer`, the share of the
        generated that are nearer than all but 1 % of the held-out: about 0.01 if nothing is copied,
        given 100 held-out and more. Held-out volcanoes lie farther from the training ones than
        these from one another, so a generator that copies nothing may exceed it too.

    Raises:
        HephError: No two images, or features of different length.
    """
    _check(fake, train, 2)
    _check(held_out, train, 2)
    near, yardstick = (nearest_distances(z, train) for z in (fake, held_out))
    median, other = float(np.median(near)), float(np.median(yardstick))
    return {
        "median": median,
        "held_out_median": other,
        "ratio": median / other if other > 0 else float("nan"),
        "nearer": float((near < np.quantile(yardstick, 0.01)).mean()),
    }


def phase_gradient_histogram(
    wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_]
) -> Floats:
    """Absolute wrapped phase steps between neighbours along rows and columns.

    Args:
        wrapped_phase: (H, W) [rad].
        valid: (H, W) bool.

    Returns:
        (STEP_BINS,) counts over [0, pi] rad.
    """
    counts = np.zeros(STEP_BINS)
    for phase, kept in ((wrapped_phase, valid), (wrapped_phase.T, valid.T)):
        steps = np.abs(np.angle(np.exp(1j * np.diff(phase, axis=1))))
        both = kept[:, 1:] & kept[:, :-1]
        counts += np.histogram(steps[both], bins=STEP_BINS, range=(0, np.pi))[0]
    return counts


def wasserstein(counts: Floats, other: Floats, top: float) -> float:
    """1-D Wasserstein distance of two histograms of the same bins over [0, top]; NaN if empty."""
    if not counts.sum() > 0 or not other.sum() > 0:
        return float("nan")
    difference = counts / counts.sum() - other / other.sum()
    return float(np.abs(np.cumsum(difference)).sum() * top / len(counts))


def radial_spectrum(wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_]) -> Floats:
    """Power of the phasor by wavenumber, 0 where there is no data, under a Hann window.

    Args:
        wrapped_phase: (H, W) [rad].
        valid: (H, W) bool.

    Returns:
        (min(H, W) // 2,) mean power in rings of one cycle per image, of sum 1; 0 without data.
    """
    height, width = valid.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.fft2(phasor(wrapped_phase, valid) * window)) ** 2
    down, right = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    number = min(height, width) // 2
    ring = np.rint(np.hypot(down, right) * 2 * number).astype(int)
    inside = ring < number
    total = np.bincount(ring[inside], power[inside], minlength=number)
    mean = total / np.bincount(ring[inside], minlength=number)
    return np.asarray(mean / max(mean.sum(), _LEAST))


def log_spectral_distance(spectrum: Floats, other: Floats) -> float:
    """Root mean square difference [dB] of two spectra, each a share of its sum; NaN if empty."""
    if not spectrum.sum() > 0 or not other.sum() > 0:
        return float("nan")
    levels = [10 * np.log10(np.maximum(s / s.sum(), _LEAST)) for s in (spectrum, other)]
    return float(np.sqrt(np.mean((levels[0] - levels[1]) ** 2)))


def _check(x: Floats, y: Floats, least: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        what = f"features of shapes {x.shape} and {y.shape}"
        raise HephError("generation metrics", what, "both (N, D) of one encoder")
    if min(len(x), len(y)) < least:
        what = f"{min(len(x), len(y))} images"
        raise HephError("generation metrics", what, f"give at least {least}")
