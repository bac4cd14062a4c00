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
    assert found.estimate(values)["value"] == pytest.approx(values.mean())
    assert found.estimate(values, median=True)["value"] == pytest.approx(np.median(values))


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_the_unweighted_median_is_numpys(n: int) -> None:
    values = np.random.default_rng(n).random(n)
    found = clusters(np.ones((n, 3)) / 3, NAMES[:3])
    assert found.estimate(values, median=True)["value"] == pytest.approx(np.median(values))


def test_per_group_values_are_means_over_the_groups_queries() -> None:
    weights = np.array([[1, 0], [0, 2], [3, 3]])
    found = clusters(weights, ["a", "b"]).estimate(np.array([1.0, 0.0, 0.5]))
    assert found["per_group"] == pytest.approx(
        {"a": (1 + 0.5 * 0.5) / 1.5, "b": (0 + 0.5 * 0.5) / 1.5}
    )


def test_fewer_than_eight_groups_give_no_interval() -> None:
    values = np.arange(MIN_GROUPS, dtype=float)
    enough = clusters(np.eye(MIN_GROUPS), NAMES[:MIN_GROUPS])
    too_few = clusters(np.eye(MIN_GROUPS)[: MIN_GROUPS - 1], NAMES[:MIN_GROUPS])
    assert enough.estimate(values)["interval"] is not None
    assert too_few.names == tuple(NAMES[: MIN_GROUPS - 1])  # the eighth has no query
    assert too_few.estimate(values[:-1])["interval"] is None
    assert too_few.difference(values[:-1], values[:-1])["interval"] is None


def test_the_interval_reflects_groups_not_queries() -> None:
    # 10 groups of 100 equal queries: the queries hold 10 independent values, not 1000.
    rng = np.random.default_rng(1)
    level = rng.standard_normal(10)
    values = np.repeat(level, 100)
    found = clusters(np.repeat(np.eye(10), 100, axis=0), NAMES, num_draws=4000).estimate(values)
    low, high = found["interval"]
    standard_error = level.std() / np.sqrt(10)
    assert low < found["value"] < high
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)


def test_a_difference_uses_the_same_draws_for_both_sides() -> None:
    rng = np.random.default_rng(2)
    baseline = np.repeat(rng.standard_normal(10) * 5, 20)
    better = baseline + 0.1
    found = clusters(np.repeat(np.eye(10), 20, axis=0), NAMES).difference(better, baseline)
    assert found["value"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.1, 0.1])  # the groups' spread cancels
    unrelated = rng.standard_normal(200)
    low, high = clusters(np.repeat(np.eye(10), 20, axis=0), NAMES).difference(
        unrelated, rng.standard_normal(200)
    )["interval"]
    assert low < 0 < high


def test_queries_left_out_do_not_count() -> None:
    values = np.array([1.0, np.nan, 0.0, np.nan])
    found = clusters(np.eye(4), NAMES[:4]).estimate(values)
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
    first, again, other = (clusters(np.eye(10), NAMES, seed=s).estimate(values) for s in (0, 0, 1))
    assert first == again
    assert first["interval"] != other["interval"]
