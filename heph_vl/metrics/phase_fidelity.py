"""How well a phase is kept: circular error and fringes counted along lines."""

import numpy as np
from numpy.typing import NDArray

COHERENT = 0.3  # LiCSAR filters the phase: from here on it is smooth
SHORTEST = 16  # px of a line that is counted along

Floats = NDArray[np.float32]


def circular_error(wrapped_phase: Floats, other: Floats, where: NDArray[np.bool_]) -> float:
    """Mean absolute difference of two phases on the circle.

    Args:
        wrapped_phase: (H, W) float32 [rad].
        other: (H, W) float32 [rad].
        where: (H, W) bool, pixels that count.

    Returns:
        In [0, pi] rad; pi / 2 for unrelated phases; NaN without pixels.
    """
    if not where.any():
        return float("nan")
    return float(np.abs(np.angle(np.exp(1j * (wrapped_phase - other)[where]))).mean())


def fringe_counts(wrapped_phase: Floats, where: NDArray[np.bool_]) -> Floats:
    """Net fringes from end to end of each line of pixels.

    Args:
        wrapped_phase: (H, W) float32 [rad].
        where: (H, W) bool; each unbroken run along a row or a column is a line.

    Returns:
        (N,) float32: sum of the wrapped steps along each line of at least `SHORTEST` pixels in
        units of 2 pi, rows first.
    """
    found: list[float] = []
    for phase, kept in ((wrapped_phase, where), (wrapped_phase.T, where.T)):
        known = np.where(kept, phase, 0)
        steps = np.angle(np.exp(1j * np.diff(known, axis=1))) / (2 * np.pi)
        total = np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))
        edges = np.diff(np.pad(kept, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        rows, starts = np.nonzero(edges == 1)
        _, stops = np.nonzero(edges == -1)
        long = stops - starts >= SHORTEST
        rows, starts, stops = rows[long], starts[long], stops[long] - 1
        found += (total[rows, stops] - total[rows, starts]).tolist()
    return np.array(found, dtype=np.float32)


def fringe_count_error(wrapped_phase: Floats, other: Floats, where: NDArray[np.bool_]) -> Floats:
    """(N,) float32, how many fringes each line of `fringe_counts` has too many or too few."""
    wrong: Floats = np.abs(fringe_counts(wrapped_phase, where) - fringe_counts(other, where))
    return wrong
