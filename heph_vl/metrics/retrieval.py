"""Retrieval metrics whose value does not depend on how ties are broken.

Items with equal scores come in random order: every metric is its expectation over that order, in
closed form. Within a tie group that starts after s items, has n items of which r are relevant, and
follows c relevant ones:

    hit@k        1 - C(n - r, m) / C(n, m), m = k - s, for the first group with a relevant item
    recall@k     relevant items in the first k over all: a group has r min(max(k - s, 0), n) / n
    rank         s + (n + 1) / (r + 1), of the first relevant item
    AP           sum over places j = 1..n of r/n (c + 1 + (j - 1)(r - 1)/(n - 1)) / (s + j)
    nDCG@10      each item of a group has the group's mean gain; gains are linear, discount log2

(McSherry & Najork, "Computing information retrieval performance measures efficiently in the
presence of tied scores", ECIR 2008.) The median rank is that of the ranks over queries and orders,
not of expected ranks: those exceed the usual rank where few items are relevant, so that chance
would look worse than a random model. A model that gives all images one embedding scores exactly
chance. A query without any relevant item is left out (NaN) and counted.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]
Relevance = npt.NDArray[np.bool_]
PerQuery = dict[str, Floats]

KS = (1, 5, 10)
NDCG_AT = 10
SUMMARY_NAMES = {"AP": "mAP", "rank": "mean_rank"}
_AT_ONCE = 1 << 22  # scores handled at once: some 200 MB of temporary arrays


def retrieval_metrics(
    scores: Scores, relevance: Relevance, gains: Scores | None = None, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Metrics of a set of queries over one gallery.

    Args:
        scores: (Q, N), higher is better; ties are scored by expectation.
        relevance: (Q, N) bool.
        gains: (Q, N) in [0, 1] for nDCG, or None.
        ks: The k of hit@k and recall@k.

    Returns:
        Means ``hit@k``, ``recall@k``, ``mean_rank``, ``mAP``, ``nDCG@10`` (with gains), the
        ``median_rank``, ``num_queries`` and ``num_without_relevant`` (left out of all others).
    """
    per_query = per_query_metrics(scores, relevance, gains, ks)
    kept = relevance.any(axis=1)
    found = {
        SUMMARY_NAMES.get(name, name): float(values[kept].mean()) if kept.any() else np.nan
        for name, values in per_query.items()
    }
    ranks = rank_distribution(first_groups(scores, relevance), np.ones((len(scores), 1)))
    return found | {
        "median_rank": float(median_rank(ranks, np.ones((1, 1)))[0]),
        "num_queries": int(kept.sum()),
        "num_without_relevant": int((~kept).sum()),
    }


def per_query_metrics(
    scores: Scores, relevance: Relevance, gains: Scores | None = None, ks: Sequence[int] = KS
) -> PerQuery:
    """Each query's metrics.

    Args:
        scores: (Q, N), higher is better; equal values are ties (round first where they should be).
        relevance: (Q, N) bool.
        gains: (Q, N) in [0, 1] for nDCG; None leaves nDCG out.
        ks: The k of hit@k and recall@k; beyond N they count the whole gallery.

    Returns:
        ``hit@k``, ``recall@k``, ``rank``, ``AP`` and, with gains, ``nDCG@10``: (Q,) float64, NaN
        for a query without relevant items.

    Raises:
        ValueError: If the shapes differ or a score is NaN.
    """
    if scores.shape != relevance.shape or (gains is not None and gains.shape != scores.shape):
        raise ValueError(f"scores {scores.shape} and relevance {relevance.shape} must agree")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    parts = [_empty(0, ks, gains is not None)]
    for rows in _chunks(scores.shape):
        order = np.argsort(-scores[rows], axis=1)
        ranked = np.take_along_axis(scores[rows], order, axis=1)
        relevant = np.take_along_axis(relevance[rows], order, axis=1)
        new = np.ones(ranked.shape, dtype=bool)
        new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
        starts = np.flatnonzero(new)
        found = _from_groups(_groups_with_relevant(starts, relevant), relevant.shape, ks)
        if gains is not None:
            ideal = _ideal_dcg(gains[rows])
            ranked_gains = np.take_along_axis(gains[rows], order, axis=1)
            found[f"nDCG@{NDCG_AT}"] = _expected_dcg(ranked_gains, new, starts) / ideal
            found[f"nDCG@{NDCG_AT}"][~relevant.any(axis=1)] = np.nan
        parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def chance_per_query(
    relevance: Relevance, gains: Scores | None = None, ks: Sequence[int] = KS
) -> PerQuery:
    """Each query's expected metrics when the items come in random order.

    Args:
        relevance: (Q, N) bool.
        gains: (Q, N) in [0, 1] or None.
        ks: The k of hit@k and recall@k.

    Returns:
        The keys and shapes of ``per_query_metrics``.
    """
    num_items = relevance.shape[1]
    counts = relevance.sum(axis=1)
    rows = np.flatnonzero(counts)
    one_group = np.stack([rows, rows * 0, rows * 0 + num_items, counts[rows]])
    found = _from_groups(one_group, relevance.shape, ks)
    if gains is not None:
        top = min(NDCG_AT, num_items)
        ideal = np.concatenate([_ideal_dcg(gains[some]) for some in _chunks(gains.shape)])
        expected = gains.mean(axis=1, dtype=np.float64) * _discounts(top).sum()
        found[f"nDCG@{NDCG_AT}"] = np.where(counts > 0, expected / ideal, np.nan)
    return found


def first_groups(scores: Scores, relevance: Relevance) -> Ints:
    """Where the first relevant item of each query can be.

    Args:
        scores: (Q, N).
        relevance: (Q, N) bool.

    Returns:
        (Q, 4) int64: start s, size n and relevant items r of the first tie group that has any
        (r = 0 for a query without), and N.
    """
    best = np.where(relevance, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    tied = scores == best
    counts = [(scores > best).sum(1), tied.sum(1), (tied & relevance).sum(1)]
    counts[2] *= relevance.any(axis=1)
    return np.stack([*counts, np.full(len(scores), scores.shape[1])], axis=1).astype(np.int64)


def rank_distribution(first: Ints, weights: npt.ArrayLike) -> Floats:
    """How much of each unit's queries find their first relevant item by rank k.

    Args:
        first: (Q, 4) of ``first_groups``.
        weights: (Q, U), how much each query counts in each unit.

    Returns:
        (N + 1, U) float64, row k: sum over queries of weight x P(rank <= k), k = 0..N.
    """
    array = np.asarray(weights, dtype=np.float64)
    num_items = int(first[0, 3]) if len(first) else 0
    mass = np.zeros((num_items + 1, array.shape[1]))
    cases, case = np.unique(first, axis=0, return_inverse=True)
    shares = np.zeros((len(cases), array.shape[1]))
    np.add.at(shares, case.ravel(), array)
    for (s, n, r, _), share in zip(cases.tolist(), shares, strict=True):
        if r:
            # P(no relevant item in the first j places) = prod over i < j of (n - r - i) / (n - i)
            places = np.arange(n - r + 1)
            missed = np.cumprod((n - r - places) / (n - places))
            found_at = -np.diff(missed, prepend=1.0)
            mass[s + 1 : s + n - r + 2] += found_at[:, None] * share
    return np.cumsum(mass, axis=0)


def median_rank(distribution: Floats, draws: npt.ArrayLike) -> Floats:
    """The median rank of the first relevant item, over queries and orders of ties.

    Args:
        distribution: (N + 1, U) of ``rank_distribution``.
        draws: (B, U), how often each unit counts.

    Returns:
        (B,): the mean of the lower and the upper median; NaN where no query counts.
    """
    array = np.asarray(draws, dtype=np.float64)
    totals = array @ distribution[-1]
    slack = 1e-9 * np.maximum(totals, 1)  # shares of queries: their sums round
    edges = []
    for target in (totals / 2 - slack, totals / 2 + slack):
        low = np.zeros(len(array), dtype=np.int64)
        high = np.full(len(array), len(distribution) - 1)
        while (low < high).any():
            middle = (low + high) // 2
            reached = (array * distribution[middle]).sum(axis=1) >= target
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        edges.append(low)
    middle_rank: Floats = (edges[0] + edges[1]) / 2
    return np.where(totals > slack, middle_rank, np.nan)


def _empty(num_queries: int, ks: Sequence[int], with_gains: bool) -> PerQuery:
    names = [f"hit@{k}" for k in ks] + [f"recall@{k}" for k in ks] + ["rank", "AP"]
    names += [f"nDCG@{NDCG_AT}"] if with_gains else []
    return {name: np.full(num_queries, np.nan) for name in names}


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _AT_ONCE // max(1, shape[1]))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _groups_with_relevant(starts: npt.NDArray[np.intp], relevant: Relevance) -> Ints:
    """(4, G): row, start s, size n and relevant r of the tie groups that have relevant items."""
    # `starts`: flat places in the ranked (C, N) `relevant` where a tie group starts.
    counts = np.add.reduceat(relevant.ravel(), starts, dtype=np.int64)
    found = np.flatnonzero(counts)
    ends = np.append(starts, relevant.size)[found + 1]
    rows, places = np.divmod(starts[found], relevant.shape[1])
    return np.stack([rows, places, ends - starts[found], counts[found]])


def _from_groups(groups: Ints, shape: tuple[int, ...], ks: Sequence[int]) -> PerQuery:
    num_queries, num_items = shape
    found = _empty(num_queries, ks, with_gains=False)
    row, s, n, r = groups
    if not len(row):
        return found
    rows, firsts = np.unique(row, return_index=True)
    totals = np.bincount(row, r, num_queries)[rows]
    first_s, first_n, first_r = groups[1:, firsts]
    missed = np.ones(len(rows))  # P(no relevant item in the first k places)
    for k in range(1, max(ks) + 1):
        place = k - 1 - first_s
        inside = (place >= 0) & (place < first_n)
        left = np.maximum(first_n - first_r - place, 0) / np.maximum(first_n - place, 1)
        missed = np.where(inside, missed * left, missed)
        if k in ks:
            found[f"hit@{k}"][rows] = 1 - missed
            taken = r * np.clip(k - s, 0, n) / n
            found[f"recall@{k}"][rows] = np.bincount(row, taken, num_queries)[rows] / totals
    found["rank"][rows] = first_s + (first_n + 1) / (first_r + 1)
    # sum_j (c + 1 + b (j - 1)) / (s + j) = b n + (c + 1 - b - b s) (H(s + n) - H(s))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, num_items + 1))])
    before = np.cumsum(r) - r
    before -= np.repeat(before[firsts], np.diff(firsts, append=len(row)))
    b = (r - 1) / np.maximum(n - 1, 1)
    sums = b * n + (before + 1 - b - b * s) * (harmonic[s + n] - harmonic[s])
    found["AP"][rows] = np.bincount(row, r / n * sums, num_queries)[rows] / totals
    return found


def _expected_dcg(
    ranked_gains: Scores, new: npt.NDArray[np.bool_], starts: npt.NDArray[np.intp]
) -> Floats:
    sums = np.add.reduceat(ranked_gains.ravel(), starts, dtype=np.float64)
    top = min(NDCG_AT, ranked_gains.shape[1])
    # Each row starts a group, so the groups before a row number the groups up to its start.
    before_row = np.searchsorted(starts, np.arange(len(new)) * new.shape[1])
    group = before_row[:, None] + np.cumsum(new[:, :top], axis=1) - 1
    ends = np.append(starts, new.size)
    means = sums[group] / (ends[group + 1] - ends[group])
    dcg: Floats = means @ _discounts(top)
    return dcg


def _ideal_dcg(gains: Scores) -> Floats:
    top = min(NDCG_AT, gains.shape[1])
    best = -np.sort(-np.partition(gains, gains.shape[1] - top, axis=1)[:, -top:], axis=1)
    ideal: Floats = best.astype(np.float64) @ _discounts(top)
    return np.where(ideal > 0, ideal, np.nan)


def _discounts(top: int) -> Floats:
    discounts: Floats = 1 / np.log2(np.arange(2, top + 2))
    return discounts
