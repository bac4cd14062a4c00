"""Exact nearest neighbours by inner product, as fast as memory can be read."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]

SCORE_DECIMALS = 6  # float32 products of equal vectors may differ in the last bits: those are ties
_BLOCK = 256
_SCORES_AT_ONCE = 1 << 24  # 64 MB of scores


def nearest(
    images: Vectors, queries: Vectors, k: int, keep: npt.NDArray[np.bool_] | None = None
) -> list[Found]:
    """Exact nearest images by inner product.

    Args:
        images: (N, D) float32, C-contiguous.
        queries: (Q, D) float32.
        k: How many for each query.
        keep: (N,) bool, the images that may be found; None: all.

    Returns:
        For each query the scores, best first, and the positions of at most k images. Scores equal
        to ``SCORE_DECIMALS`` are ties, in order of position.
    """
    # Some images and all queries at once: the vectors are read once, however many queries.
    step = max(_BLOCK, _SCORES_AT_ONCE // max(1, len(queries)))
    parts: list[list[Found]] = [[] for _ in queries]
    for start in range(0, len(images), step):
        some = images[start : start + step]
        # One query: a matrix-vector product, bound by reading `images`.
        scores = (some @ queries[0])[None] if len(queries) == 1 else queries @ some.T
        if keep is not None:
            scores[:, ~keep[start : start + step]] = -np.inf
        for best, row in zip(parts, scores, strict=True):
            values, positions = _top(row, k)
            best.append((values, positions + start))
    return [_best(part, k) for part in parts]


def _best(parts: list[Found], k: int) -> Found:
    """The k best of parts that are in order of position."""
    values = np.concatenate([values for values, _ in parts] or [np.empty(0)])
    positions = np.concatenate([found for _, found in parts] or [np.empty(0, np.intp)])
    order = np.lexsort((positions, -values))[:k]
    return values[order], positions[order]


def _top(scores: Vectors, k: int) -> Found:
    # The k-th best block maximum bounds the k-th best score from below: one pass, all ties kept.
    whole = len(scores) // _BLOCK * _BLOCK
    blocks = scores[:whole].reshape(-1, _BLOCK).max(axis=1)
    bound = np.partition(blocks, -k)[-k] if len(blocks) >= k else -np.inf
    candidates = np.flatnonzero(scores >= bound - 10.0**-SCORE_DECIMALS)
    exact = scores[candidates].astype(np.float64)
    rounded: npt.NDArray[np.float64] = np.round(exact, SCORE_DECIMALS)
    order = np.lexsort((candidates, -rounded))[:k]
    order = order[rounded[order] > -np.inf]
    return rounded[order], candidates[order]
