"""The order in time of the interferograms of one frame, and the series of them that tells most.

Pair A = (primary, secondary) comes *before* B when neither of A's dates is later and one of them is
earlier (Bountos et al. 2022, section 2.4). Pairs of which one lies inside the other have no order:

    A  |-----------|            A before B           A  |-----------|       neither is before
    B       |-----------|                            B      |---|           the other (Fig. 5)

A *series* is a chain of that order: each of its pairs is before the next. That of the greatest sum
of scores is found exactly: pairs are taken by date, and the best series that may end before a pair
is a maximum over a range of secondary dates, kept in a segment tree: O(n log n) in all.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import groupby

import numpy as np

from heph_vl.errors import HephError

Dates = tuple[date, date]

_Best = tuple[float, int, int]  # sum of scores, number of pairs, the pair that it ends with
_NONE: _Best = (0.0, 0, -1)


def is_before(a: Dates, b: Dates) -> bool:
    """Whether pair `a` comes before pair `b`: no date later, one earlier."""
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def incomparable(pairs: Sequence[Dates]) -> list[tuple[int, int]]:
    """Pairs without an order: one of them spans the other.

    Args:
        pairs: Primary and secondary date of each interferogram of a frame.

    Returns:
        Indices (outer, inner) into `pairs`, sorted. Both dates of the inner one lie strictly
        between those of the outer one.
    """
    first, last = np.array([[day.toordinal() for day in pair] for pair in pairs]).reshape(-1, 2).T
    outer, inner = np.nonzero((first[:, None] < first) & (last[:, None] > last))
    return list(zip(outer.tolist(), inner.tolist(), strict=True))


def best_series(
    pairs: Sequence[Dates],
    scores: Sequence[float],
    *,
    max_gap: int | None = None,
    primary_once: bool = False,
) -> list[int]:
    """The series with the greatest sum of scores; of equal sums one with the most pairs.

    Args:
        pairs: Primary and secondary date of each interferogram of a frame; of the same pair given
            twice, only one is taken.
        scores: What each tells, finite and at least 0, e.g. `information_score`.
        max_gap: Most days between the secondary date of a pair and the primary of the next, in
            which nothing watches the ground; None: any number. Pairs that overlap have no gap.
        primary_once: Take at most one pair of each primary date.

    Returns:
        Indices into `pairs`, in order of time.

    Raises:
        HephError: If dates are not in order, or a score or the gap is out of its range.
    """
    _check(pairs, scores, max_gap)
    order = sorted(range(len(pairs)), key=lambda i: (pairs[i], -scores[i]))
    ends = sorted({pair[1] for pair in pairs})
    tree = _LatestBest(len(ends))
    previous = [-1] * len(pairs)
    # Of a group no pair may follow another: the tree learns of them once all have asked it.
    for _, group in groupby(order, key=lambda i: pairs[i][0] if primary_once else pairs[i]):
        found = []
        for i in group:
            primary, secondary = pairs[i]
            low = 0
            if max_gap is not None and (primary - date.min).days >= max_gap:
                low = bisect_left(ends, primary - timedelta(days=max_gap))
            end = bisect_left(ends, secondary)
            total, count, previous[i] = tree.best(low, end)
            found.append((end, (total + scores[i], count + 1, i)))
        for end, best in found:
            tree.learn(end, best)
    series = []
    i = tree.best(0, len(ends) - 1)[2]
    while i >= 0:
        series.append(i)
        i = previous[i]
    return series[::-1]


class _LatestBest:
    """Best series by the secondary date they end with: maxima of ranges, in O(log n)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.nodes: list[_Best] = [_NONE] * (2 * count)  # leaf i is count + i, its parent half

    def learn(self, end: int, best: _Best) -> None:
        """A series that ends with the `end`-th date."""
        node = end + self.count
        while node and best > self.nodes[node]:
            self.nodes[node] = best
            node //= 2

    def best(self, low: int, high: int) -> _Best:
        """The best series that ends with one of the dates `low` to `high`, both included."""
        found = _NONE
        low, high = low + self.count, high + self.count + 1
        while low < high:
            if low % 2:
                found = max(found, self.nodes[low])
                low += 1
            if high % 2:
                high -= 1
                found = max(found, self.nodes[high])
            low, high = low // 2, high // 2
        return found


def _check(pairs: Sequence[Dates], scores: Sequence[float], max_gap: int | None) -> None:
    if len(scores) != len(pairs):
        raise HephError("scores", f"{len(scores)} for {len(pairs)} pairs", "give one for each")
    for primary, secondary in pairs:
        if secondary <= primary:
            what = f"{secondary} is not after {primary}"
            raise HephError("pairs", what, "give each as earlier and later date")
    for score in scores:
        if not 0 <= score < math.inf:
            raise HephError("scores", f"{score}", "a finite number, at least 0")
    if max_gap is not None and max_gap < 0:
        raise HephError("max_gap", f"{max_gap}", "a number of days, at least 0")
