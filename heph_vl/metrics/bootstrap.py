"""Intervals by resampling whole volcano groups.

Images of one volcano resemble one another, so the independent unit is the group, not the query.
The gallery stays fixed, and with it each query's value m_q; only the queries' weights change. A
query belongs to group g with weight w_qg, the share of its images that lie in g (they sum to 1).
A resample draws as many groups as there are, with replacement; drawn M_g times, the group counts
M_g times:

    mean* = sum_q m_q W_q / sum_q W_q,    W_q = sum_g M_g w_qg

With all M_g = 1 this is the plain mean. The median is weighted in the same way. Differences use the
same draws for both sides. Fewer than ``MIN_GROUPS`` groups give no interval: values by group then
say more than a resample of so few would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_GROUPS = 8
LEVEL = 0.95


@dataclass(frozen=True)
class Clusters:
    """Which groups the queries belong to, and the draws that all of their metrics share.

    Args:
        names: The G groups that have weight.
        weights: (Q, G) float64, rows sum to 1, or to 0 for a query without images.
        draws: (B, G), how often each draw takes each group; None with too few groups.
    """

    names: tuple[str, ...]
    weights: Floats
    draws: Floats | None

    def estimate(self, values: Floats, *, median: bool = False) -> dict[str, Any]:
        """A statistic with its interval and its value in each group.

        Args:
            values: (Q,), NaN where a query is left out.
            median: Whether to take the median, not the mean.

        Returns:
            ``value``, ``interval`` ([low, high] at 95 %, or None) and ``per_group``.
        """
        every = np.ones((1, len(self.names)))
        by_group = self._statistic(values, np.eye(len(self.names)), median)
        return {
            "value": float(self._statistic(values, every, median)[0]),
            "interval": None
            if self.draws is None
            else _interval(self._statistic(values, self.draws, median)),
            "per_group": dict(zip(self.names, by_group.tolist(), strict=True)),
        }

    def difference(
        self, values: Floats, baseline: Floats, *, median: bool = False
    ) -> dict[str, Any]:
        """Statistic of ``values`` less that of ``baseline``, both under the same draws.

        Args:
            values: (Q,), NaN where a query is left out.
            baseline: (Q,) of the same queries.
            median: Whether to take the median, not the mean.

        Returns:
            ``value`` and ``interval`` ([low, high] at 95 %, or None).
        """
        every = np.ones((1, len(self.names)))
        sides = [self._statistic(side, every, median)[0] for side in (values, baseline)]
        interval = None
        if self.draws is not None:
            drawn = [self._statistic(side, self.draws, median) for side in (values, baseline)]
            interval = _interval(drawn[0] - drawn[1])
        return {"value": float(sides[0] - sides[1]), "interval": interval}

    def _statistic(self, values: Floats, draws: Floats, median: bool) -> Floats:
        """(B,), NaN for a draw without queries."""
        kept = ~np.isnan(values)
        values, weights = values[kept], draws @ self.weights[kept].T
        totals = weights.sum(axis=1)
        with np.errstate(invalid="ignore"):
            means: Floats = weights @ values / np.where(totals > 0, totals, np.nan)
        return _weighted_median(values, weights, totals) if median else means


def clusters(
    weights: npt.ArrayLike, names: Sequence[str], *, seed: int = 0, num_draws: int = 2000
) -> Clusters:
    """Draws of groups for a set of queries.

    Args:
        weights: (Q, G), how much of each query lies in each group; rows are normalised.
        names: G groups; those without weight are dropped.
        seed: Seed of the draws.
        num_draws: Number of resamples B.

    Returns:
        The clusters, without draws if fewer than ``MIN_GROUPS`` groups have weight.
    """
    array = np.asarray(weights, dtype=np.float64)
    totals = array.sum(axis=1, keepdims=True)
    array = np.divide(array, totals, out=np.zeros_like(array), where=totals > 0)
    present = np.flatnonzero(array.sum(axis=0) > 0)
    draws = None
    if len(present) >= MIN_GROUPS:
        equal = np.full(len(present), 1 / len(present))
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(len(present), equal, size=num_draws).astype(np.float64)
    return Clusters(tuple(names[i] for i in present.tolist()), array[:, present], draws)


def group_weights(
    membership: npt.NDArray[np.bool_], groups: Sequence[str]
) -> tuple[Floats, list[str]]:
    """How many images of each query lie in each group.

    Args:
        membership: (Q, N) bool, the images of each query.
        groups: Group of each of the N images.

    Returns:
        (Q, G) float64 counts, and the G group names, sorted.
    """
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    one_hot = np.eye(len(names), dtype=np.float32)[codes]
    return (membership.astype(np.float32) @ one_hot).astype(np.float64), names.tolist()


def _interval(drawn: Floats) -> list[float]:
    tail = (1 - LEVEL) / 2
    return [float(edge) for edge in np.nanquantile(drawn, [tail, 1 - tail])]


def _weighted_median(values: Floats, weights: Floats, totals: Floats) -> Floats:
    """(B,): the middle of the values under weights (B, Q); the mean of two middle ones."""
    if not len(values):
        return np.full(len(weights), np.nan)
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    half = totals[:, None] / 2
    slack = 1e-9 * np.maximum(totals[:, None], 1)  # weights are shares: sums round
    lower = np.argmax(reached >= half - slack, axis=1)
    upper = np.argmax(reached > half + slack, axis=1)
    middle: Floats = (values[order][lower] + values[order][upper]) / 2
    return np.where(totals > 0, middle, np.nan)
