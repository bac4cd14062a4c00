"""Retrieval metrics equal the plain definitions averaged over every order of the tied items."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.metrics.retrieval import (
    chance_per_query,
    first_groups,
    median_rank,
    per_query_metrics,
    rank_distribution,
    retrieval_metrics,
)

KS = (1, 2, 3, 5, 10)


def one_order(order: tuple[int, ...], relevant: np.ndarray, gains: np.ndarray) -> dict[str, float]:
    """The textbook definitions for one ranking without ties."""
    hits = [bool(relevant[i]) for i in order]
    total = sum(hits)
    found = {f"hit@{k}": float(any(hits[:k])) for k in KS}
    found |= {f"recall@{k}": sum(hits[:k]) / total for k in KS}
    found["rank"] = hits.index(True) + 1
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i]]
    found["AP"] = sum(precisions) / total
    ranked = [gains[i] for i in order][:10]
    dcg = sum(gain / math.log2(i + 2) for i, gain in enumerate(ranked))
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(sorted(gains, reverse=True)[:10]))
    found["nDCG@10"] = dcg / ideal
    return found


def over_all_orders(
    scores: np.ndarray, relevant: np.ndarray, gains: np.ndarray
) -> dict[str, float]:
    """The mean over every permutation that sorts the scores."""
    n = len(scores)
    orders = [
        order
        for order in permutations(range(n))
        if all(scores[order[i]] >= scores[order[i + 1]] for i in range(n - 1))
    ]
    found = [one_order(order, relevant, gains) for order in orders]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 6))
    scores = np.array([draw(st.integers(0, 2)) for _ in range(n)], dtype=np.float32)
    relevant = np.array([draw(st.booleans()) for _ in range(n)])
    relevant[draw(st.integers(0, n - 1))] = True
    gains = np.where(relevant, 1.0, [draw(st.sampled_from([0.0, 0.25, 0.7])) for _ in range(n)])
    return scores, relevant, gains


@settings(max_examples=150, deadline=None)
@given(rankings())
def test_metrics_equal_the_mean_over_all_orders_of_ties(
    ranking: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, relevant, gains = ranking
    fast = per_query_metrics(scores[None], relevant[None], gains[None], KS)
    slow = over_all_orders(scores, relevant, gains)
    assert set(fast) == set(slow)
    for name, expected in slow.items():
        assert fast[name][0] == pytest.approx(expected, abs=1e-9), name


@settings(max_examples=50, deadline=None)
@given(rankings())
def test_all_tied_is_chance_and_chance_is_the_mean_over_all_orders(
    ranking: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, relevant, gains = ranking
    chance = chance_per_query(relevant[None], gains[None], KS)
    tied = per_query_metrics(np.full_like(scores, 0.3)[None], relevant[None], gains[None], KS)
    slow = over_all_orders(np.zeros(len(scores)), relevant, gains)
    for name, expected in slow.items():
        assert chance[name][0] == pytest.approx(expected, abs=1e-9), name
        assert tied[name][0] == pytest.approx(expected, abs=1e-9), name


@settings(max_examples=50, deadline=None)
@given(st.lists(rankings(), min_size=1, max_size=4), st.data())
def test_the_median_rank_is_that_over_queries_and_orders(
    queries: list[tuple[np.ndarray, np.ndarray, np.ndarray]], data: st.DataObject
) -> None:
    n = min(len(scores) for scores, _, _ in queries)
    scores = np.stack([q[0][:n] for q in queries])
    relevance = np.stack([q[1][:n] for q in queries])
    weights = np.array([[data.draw(st.integers(1, 3))] for _ in queries], dtype=float)
    # Every query counts `weight` times, every order of its ties equally (their number divides 6!).
    pooled: list[float] = []
    for row, relevant, [weight] in zip(scores, relevance, weights, strict=True):
        if relevant.any():
            orders = [
                order
                for order in permutations(range(n))
                if all(row[order[i]] >= row[order[i + 1]] for i in range(n - 1))
            ]
            ranks = [next(i for i, o in enumerate(order, 1) if relevant[o]) for order in orders]
            pooled += ranks * (int(weight) * 720 // len(orders))
    distribution = rank_distribution(first_groups(scores, relevance), weights)
    found = median_rank(distribution, np.ones((1, 1)))[0]
    if pooled:
        assert found == np.median(pooled)
    else:
        assert np.isnan(found)


def test_chance_and_a_random_model_have_one_median_rank() -> None:
    rng = np.random.default_rng(0)
    relevance = np.zeros((3000, 200), dtype=bool)
    relevance[:, 0] = True
    relevance[:1000, :30] = True
    random = retrieval_metrics(rng.random((3000, 200)), relevance)
    tied = retrieval_metrics(np.zeros((3000, 200)), relevance)
    assert random["median_rank"] == pytest.approx(tied["median_rank"], rel=0.08)
    assert random["mean_rank"] == pytest.approx(tied["mean_rank"], rel=0.05)
    assert tied["median_rank"] < 0.8 * np.median([*[201 / 31] * 1000, *[201 / 2] * 2000])


@pytest.mark.parametrize("at_once", [1, 50, 10_000])
def test_the_size_of_the_chunks_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 4, (9, 20)).astype(np.float32)
    relevance = rng.random((9, 20)) < 0.1
    gains = np.where(relevance, 1, rng.random((9, 20)))
    whole = per_query_metrics(scores, relevance, gains)
    monkeypatch.setattr("heph_vl.metrics.retrieval._AT_ONCE", at_once)
    for name, values in per_query_metrics(scores, relevance, gains).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


def test_values_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.8, 0.1]])
    relevance = np.array([[False, True, False, True]])
    found = per_query_metrics(scores, relevance, ks=(1, 2, 3))
    assert found["hit@1"][0] == 0
    assert found["hit@2"][0] == pytest.approx(1 / 2)  # one of the two tied items at place 2
    assert found["hit@3"][0] == 1
    assert found["recall@2"][0] == pytest.approx(1 / 4)
    assert found["recall@3"][0] == pytest.approx(1 / 2)
    assert found["rank"][0] == pytest.approx(2.5)
    # Relevant at 2 or 3 (precision 1/2 or 1/3), then at 4 (2/4).
    assert found["AP"][0] == pytest.approx(((1 / 2 + 1 / 3) / 2 + 2 / 4) / 2)


def test_chance_on_a_large_gallery() -> None:
    relevance = np.zeros((1, 20_000), dtype=bool)
    relevance[0, :3] = True
    chance = chance_per_query(relevance)
    assert chance["hit@1"][0] == pytest.approx(3 / 20_000)
    assert chance["hit@10"][0] == pytest.approx(1 - math.comb(19_997, 10) / math.comb(20_000, 10))
    assert chance["recall@10"][0] == pytest.approx(10 / 20_000)
    assert chance["rank"][0] == pytest.approx(20_001 / 4)
    # Expected precision at place i, given a relevant item there.
    i = np.arange(1, 20_001)
    assert chance["AP"][0] == pytest.approx(np.mean((1 + (i - 1) * 2 / 19_999) / i), rel=1e-9)


def test_queries_without_relevant_items_are_left_out_and_counted() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    relevance = np.array([[True, False, False], [False, False, False], [True, False, False]])
    found = retrieval_metrics(scores, relevance, relevance.astype(float), ks=(1,))
    assert found == {
        "hit@1": 0.5,
        "recall@1": 0.5,
        "mean_rank": 2.0,
        "median_rank": 2.0,
        "mAP": pytest.approx((1 + 1 / 3) / 2),
        "nDCG@10": pytest.approx((1 + 0.5) / 2),
        "num_queries": 2,
        "num_without_relevant": 1,
    }
    assert np.isnan(per_query_metrics(scores, relevance)["AP"]).tolist() == [False, True, False]
    nothing = retrieval_metrics(scores, np.zeros_like(relevance))
    assert nothing["num_queries"] == 0
    assert math.isnan(nothing["mAP"])


def test_a_larger_score_ranks_first_whatever_the_sign_or_scale() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((5, 40))
    relevance = rng.random((5, 40)) < 0.2
    relevance[:, 0] = True
    base = per_query_metrics(scores, relevance)
    scaled = per_query_metrics(scores * 7 - 3, relevance)
    reverse = per_query_metrics(-scores, relevance)
    for name in base:
        assert base[name] == pytest.approx(scaled[name])
    assert (base["rank"] != reverse["rank"]).any()
    perfect = per_query_metrics(relevance.astype(float), relevance)
    assert perfect["AP"] == pytest.approx(1)
    assert retrieval_metrics(relevance.astype(float), relevance)["median_rank"] == 1


def test_bad_scores_are_refused() -> None:
    relevance = np.ones((1, 3), dtype=bool)
    with pytest.raises(ValueError, match="NaN"):
        per_query_metrics(np.array([[1.0, np.nan, 0.0]]), relevance)
    with pytest.raises(ValueError, match="must agree"):
        per_query_metrics(np.zeros((1, 4)), relevance)
