"""Exact nearest neighbours by inner product, as fast as memory can be read."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

SCORE_DECIMALS = 6  # float32 products of equal vectors may differ in the last bits: those are ties
_BLOCK = 256
_SCORES_AT_ONCE = 1 << 24  # 64 MB of scores


def nearest(
    images: Vectors, queries: Vectors, k: int, keep: npt.NDArray[np.bool_] | None = None
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]]:
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
    found = []
    step = max(1, _SCORES_AT_ONCE // max(1, len(images)))
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        # One query: a matrix-vector product, bound by reading `images` once.
        scores = (images @ some[0])[None] if len(some) == 1 else some @ images.T
        if keep is not None:
            scores[:, ~keep] = -np.inf
        found += [_top(row, k) for row in scores]
    return found


def _top(scores: Vectors, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
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
