"""The order in time, and the best series against brute force and against all real frames."""

from collections import defaultdict
from datetime import date, timedelta
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.data.annotations import read_annotations
from heph_vl.data.timeseries import Dates, best_series, incomparable, is_before
from heph_vl.errors import HephError

DAY = date(2020, 1, 1)


def pair(first: int, last: int) -> Dates:
    return DAY + timedelta(days=first), DAY + timedelta(days=last)


def may_follow(a: Dates, b: Dates, max_gap: int | None, primary_once: bool) -> bool:
    """Whether `b` may come next after `a`, by the definition."""
    gap = (b[0] - a[1]).days
    once = a[0] != b[0] or not primary_once
    return is_before(a, b) and (max_gap is None or gap <= max_gap) and once


def best_by_trying(pairs, scores, max_gap, primary_once) -> float:
    """The greatest sum over all subsets that are series."""
    best = 0.0
    for count in range(1, len(pairs) + 1):
        for chosen in combinations(range(len(pairs)), count):
            ordered = sorted(chosen, key=lambda i: pairs[i])
            if all(
                may_follow(pairs[a], pairs[b], max_gap, primary_once) for a, b in pairwise(ordered)
            ):
                best = max(best, sum(scores[i] for i in ordered))
    return best


def best_by_table(pairs, scores, max_gap, primary_once) -> float:
    """The same, by the plain recursion over all pairs of pairs."""
    order = sorted(range(len(pairs)), key=lambda i: pairs[i])
    ends: list[float] = []
    for place, i in enumerate(order):
        before = [
            ends[k]
            for k in range(place)
            if may_follow(pairs[order[k]], pairs[i], max_gap, primary_once)
        ]
        ends.append(scores[i] + max(before, default=0.0))
    return max(ends, default=0.0)


PAIRS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 6), st.integers(0, 5)), min_size=0, max_size=8
)


@settings(max_examples=300, deadline=None)
@given(PAIRS, st.one_of(st.none(), st.integers(0, 5)), st.booleans())
def test_best_series_is_that_of_brute_force(drawn, max_gap, primary_once) -> None:
    pairs = [pair(first, first + days) for first, days, _ in drawn]
    scores = [float(score) for *_, score in drawn]
    found = best_series(pairs, scores, max_gap=max_gap, primary_once=primary_once)
    for a, b in pairwise(found):
        assert may_follow(pairs[a], pairs[b], max_gap, primary_once)
    assert sum(scores[i] for i in found) == best_by_trying(pairs, scores, max_gap, primary_once)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_two_pairs_are_ordered_or_alike_or_one_spans_the_other(drawn) -> None:
    pairs = [pair(first, first + days) for first, days, _ in drawn]
    nested = set(incomparable(pairs))
    for i, j in combinations(range(len(pairs)), 2):
        a, b = pairs[i], pairs[j]
        states = [a == b, is_before(a, b), is_before(b, a), (i, j) in nested or (j, i) in nested]
        assert sum(states) == 1


def test_figure_5_of_the_paper() -> None:
    """A pair inside another one, with both dates strictly between, has no order to it."""
    outer, inner, later = pair(0, 24), pair(6, 12), pair(6, 30)
    assert not is_before(outer, inner)
    assert not is_before(inner, outer)
    assert incomparable([inner, later, outer]) == [(2, 0)]
    assert is_before(outer, later)
    assert is_before(outer, pair(0, 30))
    assert is_before(outer, pair(6, 24))


def test_gap_is_counted_between_the_pairs_and_ties_take_more_pairs() -> None:
    pairs = [pair(0, 6), pair(18, 24), pair(25, 31)]
    assert best_series(pairs, [1, 1, 1]) == [0, 1, 2]
    assert best_series(pairs, [1, 1, 1], max_gap=12) == [0, 1, 2]
    assert best_series(pairs, [1, 1, 1], max_gap=11) == [1, 2]
    assert best_series(pairs, [0, 0, 0]) == [0, 1, 2]
    assert best_series([], []) == []


def test_bad_input_names_what_is_wrong() -> None:
    with pytest.raises(HephError, match="is not after"):
        best_series([pair(6, 0)], [1])
    with pytest.raises(HephError, match="at least 0"):
        best_series([pair(0, 6)], [float("nan")])
    with pytest.raises(HephError, match="2 for 1 pairs"):
        best_series([pair(0, 6)], [1, 2])
    with pytest.raises(HephError, match="max_gap"):
        best_series([pair(0, 6)], [1], max_gap=-1)


@pytest.mark.real_data
@pytest.mark.parametrize("max_gap", [None, 24])
@pytest.mark.parametrize("primary_once", [False, True])
def test_all_real_frames(shared: Path, max_gap: int | None, primary_once: bool) -> None:
    """As good as the plain recursion on each of the 38 frames."""
    records = read_annotations(shared / "data" / "hephaestus" / "annotations.tar.gz").annotations
    frames = defaultdict(list)
    for record in records:
        frames[record.frame_id].append(record)
    assert len(frames) == 38
    for found in frames.values():
        pairs = [(record.primary_date, record.secondary_date) for record in found]
        scores = [record.confidence * (1 - record.low_coherence) for record in found]
        chosen = best_series(pairs, scores, max_gap=max_gap, primary_once=primary_once)
        total = sum(scores[i] for i in chosen)
        assert total == pytest.approx(best_by_table(pairs, scores, max_gap, primary_once))
