"""Intervals by resampling whole volcano groups.

Images of one volcano resemble one another, so the independent unit is the group, not the query.
The gallery stays fixed, and with it each query's value m_q; only the queries' weights change. A
query belongs to group g with weight w_qg, the share of its images that lie in g (they sum to 1).
A resample draws as many groups as there are, with replacement; drawn M_g times, the group counts
M_g times:

    mean* = sum_q m_q W_q / sum_q W_q,    W_q = P_q sum_g M_g w_qg

With all M_g = P_q = 1 this is the plain mean. P_q is 1 for a query of one group, whose chance
drawing the group covers. A query of several groups has one value in all of them, whose chance no
draw of groups would show: such queries are drawn too (P_q times; the pigeonhole bootstrap, Owen
2007). Without that, embeddings of pure noise would often differ "significantly" from chance.

Differences use the same draws for both sides. Fewer than ``MIN_GROUPS`` groups, or queries, give no
interval: values by group then say more than a resample of so few.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # how often each unit counts (B, U) -> values (B,)

MIN_GROUPS = 8
LEVEL = 0.95


@dataclass(frozen=True)
class Clusters:
    """Which groups the queries belong to, and the draws that all of their metrics share.

    What is drawn are U units: the groups, or the queries where some lie in several groups.

    Args:
        names: The G groups that have weight.
        members: (Q, U) float64, how much of each query lies in each unit.
        by_group: (G, U), how often each unit counts for a group's own value.
        draws: (B, U), how often each draw counts each unit; None with too few groups.
    """

    names: tuple[str, ...]
    members: Floats
    by_group: Floats
    draws: Floats | None

    def mean(self, values: Floats) -> Statistic:
        """The mean over the queries, as a function of how often each unit counts.

        Args:
            values: (Q,), NaN where a query is left out.

        Returns:
            Draws (B, U) -> means (B,), NaN for a draw without queries.
        """
        kept = ~np.isnan(values)
        sums = self.members[kept].T @ values[kept]
        counts = self.members[kept].sum(axis=0)

        def statistic(draws: Floats) -> Floats:
            totals = draws @ counts
            means: Floats = draws @ sums / np.where(totals > 0, totals, np.nan)
            return means

        return statistic

    def estimate(self, statistic: Statistic) -> dict[str, Any]:
        """A statistic with its interval and its value in each group.

        Args:
            statistic: Of ``mean``, or another function of draws.

        Returns:
            ``value``, ``interval`` ([low, high] at 95 %, or None) and ``per_group``.
        """
        by_group = statistic(self.by_group).tolist()
        return {
            "value": self._value(statistic),
            "interval": None if self.draws is None else _interval(statistic(self.draws)),
            "per_group": dict(zip(self.names, by_group, strict=True)),
        }

    def difference(self, statistic: Statistic, baseline: Statistic) -> dict[str, Any]:
        """A statistic less that of a baseline, both under the same draws.

        Args:
            statistic: Of the system.
            baseline: Of what it is compared with, over the same queries.

        Returns:
            ``value`` and ``interval`` ([low, high] at 95 %, or None).
        """
        interval = None
        if self.draws is not None:
            interval = _interval(statistic(self.draws) - baseline(self.draws))
        return {"value": self._value(statistic) - self._value(baseline), "interval": interval}

    def _value(self, statistic: Statistic) -> float:
        return float(statistic(np.ones((1, self.members.shape[1])))[0])


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
        The clusters, without draws if fewer than ``MIN_GROUPS`` groups or queries have weight.
    """
    array = np.asarray(weights, dtype=np.float64)
    totals = array.sum(axis=1, keepdims=True)
    array = np.divide(array, totals, out=np.zeros_like(array), where=totals > 0)
    present = np.flatnonzero(array.sum(axis=0) > 0)
    array = array[:, present]
    draws = None
    if min(len(present), int((totals > 0).sum())) >= MIN_GROUPS:
        rng = np.random.default_rng(seed)
        draws = _draw(rng, len(present), num_draws)
    members, by_group = array, np.eye(len(present))
    crossing = np.flatnonzero((array > 0).sum(axis=1) > 1)
    if len(crossing):
        members, by_group = np.eye(len(array)), array.T
        if draws is not None:
            draws = draws @ array.T
            draws[:, crossing] *= _draw(rng, len(crossing), num_draws)
    return Clusters(tuple(names[i] for i in present.tolist()), members, by_group, draws)


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


def _draw(rng: np.random.Generator, num_units: int, num_draws: int) -> Floats:
    """How often each of the units is drawn when as many are drawn with replacement: (B, U)."""
    equal = np.full(num_units, 1 / num_units)
    return rng.multinomial(num_units, equal, size=num_draws).astype(np.float64)


def _interval(drawn: Floats) -> list[float] | None:
    if np.isnan(drawn).all():
        return None
    tail = (1 - LEVEL) / 2
    return [float(edge) for edge in np.nanquantile(drawn, [tail, 1 - tail])]
