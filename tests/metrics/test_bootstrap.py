"""Cluster bootstrap: with every group once the plain statistic, else as wide as groups differ."""

import numpy as np
import pytest

from heph_vl.metrics.bootstrap import MIN_GROUPS, clusters, group_weights

NAMES = [f"g{i}" for i in range(10)]


def test_each_query_counts_once_however_many_groups_it_lies_in() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, (31, 10)).astype(float)
    weights[:, 0] += 1
    values = rng.random(31)
    found = clusters(weights, NAMES)
    assert found.estimate(found.mean(values))["value"] == pytest.approx(values.mean())


def test_a_draw_weights_queries_by_the_groups_it_took() -> None:
    units = clusters(np.array([[1, 0], [0, 1], [0, 1]]), ["a", "b"])
    mean = units.mean(np.array([1.0, 2.0, 6.0]))
    assert mean(np.array([[2.0, 1.0]]))[0] == pytest.approx((2 * 1 + 2 + 6) / 4)


def test_a_query_of_several_groups_is_drawn_itself() -> None:
    # One value in every group: drawing groups alone would call it certain.
    values = np.random.default_rng(4).standard_normal(30)
    units = clusters(np.ones((30, 10)), NAMES, num_draws=4000)
    low, high = units.estimate(units.mean(values))["interval"]
    standard_error = values.std() / np.sqrt(30)
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)
    # A query of one group is not: its group's draw covers it.
    mixed = clusters(np.concatenate([np.eye(10), np.ones((1, 10))]), NAMES)
    assert mixed.draws is not None
    assert mixed.draws[:, 10] == pytest.approx(1)  # the one of its kind, so always drawn once
    assert mixed.draws[:, :10].sum(axis=1) == pytest.approx(10)


def test_per_group_values_are_means_over_the_groups_queries() -> None:
    weights = np.array([[1, 0], [0, 2], [3, 3]])
    units = clusters(weights, ["a", "b"])
    found = units.estimate(units.mean(np.array([1.0, 0.0, 0.5])))
    assert found["per_group"] == pytest.approx(
        {"a": (1 + 0.5 * 0.5) / 1.5, "b": (0 + 0.5 * 0.5) / 1.5}
    )


def test_fewer_than_eight_groups_give_no_interval() -> None:
    values = np.arange(MIN_GROUPS, dtype=float)
    enough = clusters(np.eye(MIN_GROUPS), NAMES[:MIN_GROUPS])
    too_few = clusters(np.eye(MIN_GROUPS)[: MIN_GROUPS - 1], NAMES[:MIN_GROUPS])
    assert enough.estimate(enough.mean(values))["interval"] is not None
    assert too_few.names == tuple(NAMES[: MIN_GROUPS - 1])  # the eighth has no query
    few_queries = clusters(np.ones((MIN_GROUPS - 1, 10)), NAMES)
    assert few_queries.estimate(few_queries.mean(values[:-1]))["interval"] is None
    few = too_few.mean(values[:-1])
    assert too_few.estimate(few)["interval"] is None
    assert too_few.difference(few, few)["interval"] is None


def test_the_interval_reflects_groups_not_queries() -> None:
    # 10 groups of 100 equal queries: the queries hold 10 independent values, not 1000.
    rng = np.random.default_rng(1)
    level = rng.standard_normal(10)
    values = np.repeat(level, 100)
    units = clusters(np.repeat(np.eye(10), 100, axis=0), NAMES, num_draws=4000)
    found = units.estimate(units.mean(values))
    low, high = found["interval"]
    standard_error = level.std() / np.sqrt(10)
    assert low < found["value"] < high
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)


def test_a_difference_uses_the_same_draws_for_both_sides() -> None:
    rng = np.random.default_rng(2)
    baseline = np.repeat(rng.standard_normal(10) * 5, 20)
    better = baseline + 0.1
    units = clusters(np.repeat(np.eye(10), 20, axis=0), NAMES)
    found = units.difference(units.mean(better), units.mean(baseline))
    assert found["value"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.1, 0.1])  # the groups' spread cancels
    noise = [units.mean(rng.standard_normal(200)) for _ in range(2)]
    low, high = units.difference(*noise)["interval"]
    assert low < 0 < high


def test_queries_left_out_do_not_count() -> None:
    values = np.array([1.0, np.nan, 0.0, np.nan])
    units = clusters(np.eye(4), NAMES[:4])
    found = units.estimate(units.mean(values))
    assert found["value"] == 0.5
    assert found["per_group"]["g0"] == 1
    assert np.isnan(found["per_group"]["g1"])


def test_weights_count_the_images_of_a_query_by_group() -> None:
    membership = np.array([[True, True, False, True], [False, False, True, False]])
    weights, names = group_weights(membership, ["b", "a", "a", "b"])
    assert names == ["a", "b"]
    assert weights.tolist() == [[1, 2], [1, 0]]


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(3).random(10)
    intervals = []
    for seed in (0, 0, 1):
        units = clusters(np.eye(10), NAMES, seed=seed)
        intervals.append(units.estimate(units.mean(values))["interval"])
    assert intervals[0] == intervals[1] != intervals[2]
