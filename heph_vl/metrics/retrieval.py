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
presence of tied scores", ECIR 2008.) So a model that gives all images one embedding scores chance,
no more. A query without any relevant item is left out (NaN) and counted.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]
Relevance = npt.NDArray[np.bool_]

KS = (1, 5, 10)
NDCG_AT = 10


def per_query_metrics(
    scores: Scores,
    relevance: Relevance,
    gains: npt.NDArray[np.floating] | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, Floats]:
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
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, scores.shape[1] + 1))])
    found = _empty(len(scores), ks, gains is not None)
    for q, (row, relevant) in enumerate(zip(scores, relevance, strict=True)):
        ascending = np.sort(row)
        if len(row) and np.isnan(ascending[-1]):
            raise ValueError(f"scores of query {q} hold NaN")
        if not relevant.any():
            continue
        groups = _groups_with_relevant(ascending, row[relevant])
        for name, value in _from_groups(groups, ks, harmonic).items():
            found[name][q] = value
        if gains is not None:
            found[f"nDCG@{NDCG_AT}"][q] = _ndcg(ascending, row, gains[q])
    return found


def chance_per_query(
    relevance: Relevance,
    gains: npt.NDArray[np.floating] | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, Floats]:
    """Each query's expected metrics when the items come in random order.

    Args:
        relevance: (Q, N) bool.
        gains: (Q, N) in [0, 1] or None.
        ks: The k of hit@k and recall@k.

    Returns:
        The keys and shapes of ``per_query_metrics``.
    """
    num_items = relevance.shape[1]
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, num_items + 1))])
    found = _empty(len(relevance), ks, gains is not None)
    counts = relevance.sum(axis=1)
    for count in np.unique(counts[counts > 0]).tolist():
        one_group = np.array([[0], [num_items], [count]])
        for name, value in _from_groups(one_group, ks, harmonic).items():
            found[name][counts == count] = value
    if gains is not None:
        for q in np.flatnonzero(counts).tolist():
            flat = np.zeros(num_items)
            found[f"nDCG@{NDCG_AT}"][q] = _ndcg(flat, flat, gains[q])
    return found


def summarise(per_query: dict[str, Floats]) -> dict[str, float]:
    """Over the queries that have relevant items: means, and the median of ``rank``.

    Args:
        per_query: (Q,) of each metric, NaN for a query to leave out.

    Returns:
        The same keys, but ``mAP`` for ``AP``, ``median_rank`` for ``rank``; NaN without queries.
    """
    found = {}
    for name, values in per_query.items():
        kept = values[~np.isnan(values)]
        found[SUMMARY_NAMES.get(name, name)] = float(statistic(name)(kept)) if len(kept) else np.nan
    return found


SUMMARY_NAMES = {"AP": "mAP", "rank": "median_rank"}


def statistic(name: str) -> Callable[[Floats], np.floating]:
    """How a per-query metric is summarised: by its median for ``rank``, else by its mean."""
    return np.median if name == "rank" else np.mean


def retrieval_metrics(
    scores: Scores,
    relevance: Relevance,
    gains: npt.NDArray[np.floating] | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Metrics of a set of queries over one gallery.

    Args:
        scores: (Q, N), higher is better; ties are scored by expectation.
        relevance: (Q, N) bool.
        gains: (Q, N) in [0, 1] for nDCG, or None.
        ks: The k of hit@k and recall@k.

    Returns:
        ``hit@k``, ``recall@k``, ``median_rank``, ``mAP``, ``nDCG@10`` (with gains), and
        ``num_queries``, ``num_without_relevant`` (left out of all others).
    """
    found = summarise(per_query_metrics(scores, relevance, gains, ks))
    answerable = int(relevance.any(axis=1).sum())
    return found | {
        "num_queries": answerable,
        "num_without_relevant": len(relevance) - answerable,
    }


def _empty(num_queries: int, ks: Sequence[int], with_gains: bool) -> dict[str, Floats]:
    names = [f"hit@{k}" for k in ks] + [f"recall@{k}" for k in ks] + ["rank", "AP"]
    names += [f"nDCG@{NDCG_AT}"] if with_gains else []
    return {name: np.full(num_queries, np.nan) for name in names}


def _groups_with_relevant(ascending: Scores, relevant_scores: Scores) -> npt.NDArray[np.int64]:
    """Start s, size n and relevant r of each tie group with relevant items, best first: (3, G)."""
    values, counts = np.unique(relevant_scores, return_counts=True)
    values, counts = values[::-1], counts[::-1]
    starts = len(ascending) - np.searchsorted(ascending, values, side="right")
    ends = len(ascending) - np.searchsorted(ascending, values, side="left")
    return np.stack([starts, ends - starts, counts])


def _from_groups(
    groups: npt.NDArray[np.int64], ks: Sequence[int], harmonic: Floats
) -> dict[str, float]:
    s, n, r = groups
    total = r.sum()
    first_s, first_n, first_r = groups[:, 0].tolist()
    found = {}
    for k in ks:
        taken = np.arange(min(max(k - first_s, 0), first_n))  # places in the first group
        missed = np.maximum(first_n - first_r - taken, 0) / (first_n - taken)
        found[f"hit@{k}"] = float(1 - np.prod(missed))
        found[f"recall@{k}"] = float((r * np.clip(k - s, 0, n) / n).sum() / total)
    found["rank"] = first_s + (first_n + 1) / (first_r + 1)
    # sum_j (c + 1 + b (j - 1)) / (s + j) = b n + (c + 1 - b - b s) (H(s + n) - H(s))
    before = np.cumsum(r) - r
    b = (r - 1) / np.maximum(n - 1, 1)
    sums = b * n + (before + 1 - b - b * s) * (harmonic[s + n] - harmonic[s])
    found["AP"] = float((r / n * sums).sum() / total)
    return found


def _ndcg(ascending: Scores, scores: Scores, gains: npt.NDArray[np.floating]) -> float:
    top = min(NDCG_AT, len(scores))
    discounts = 1 / np.log2(np.arange(2, top + 2))
    candidates = np.flatnonzero(scores >= ascending[-top])
    _, group, sizes = np.unique(-scores[candidates], return_inverse=True, return_counts=True)
    mean_gains = np.bincount(group, weights=gains[candidates]) / sizes
    ideal = np.sort(np.partition(gains, len(gains) - top)[-top:])[::-1] @ discounts
    return float(np.repeat(mean_gains, sizes)[:top] @ discounts / ideal) if ideal > 0 else np.nan
