"""The information score: in [0, 1], monotone in each factor, 0 for what is useless."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.errors import HephError
from heph_vl.metrics.information import (
    FLAG_WEIGHTS,
    information_score,
    mean_coherence,
)

unit = st.floats(0, 1)
GOOD = {
    "mean_coherence": 0.8,
    "temporal_baseline": 12.0,
    "confidence": 0.8,
}


def test_by_hand() -> None:
    found = information_score({"low_coherence": 0.5, "orbital_fringes": 0.1}, **GOOD)
    usable = 0.75 * 0.97
    expected = (usable**2 * 0.8**2 * math.exp(-0.1) * 0.8) ** (1 / 6)
    assert found == pytest.approx(expected)
    assert information_score({}) == 1
    assert information_score({}, mean_coherence=0.3) == pytest.approx(0.3**0.5)
    assert set(FLAG_WEIGHTS) == set(QUALITY_FLAGS)


@settings(max_examples=100, deadline=None)
@given(st.lists(unit, min_size=7, max_size=7), unit, st.floats(0, 2000), unit, st.data())
def test_monotone_in_each(
    quality: list[float], coherence: float, days: float, confidence: float, data: st.DataObject
) -> None:
    def score(q: list[float], **changes: float) -> float:
        known = {"mean_coherence": coherence, "temporal_baseline": days, "confidence": confidence}
        return information_score(dict(zip(QUALITY_FLAGS, q, strict=True)), **(known | changes))

    base = score(quality)
    assert 0 <= base <= 1
    for i, p in enumerate(quality):
        worse = [*quality[:i], data.draw(st.floats(p, 1)), *quality[i + 1 :]]
        assert score(worse) <= base + 1e-12
    assert score(quality, mean_coherence=data.draw(st.floats(coherence, 1))) >= base - 1e-12
    assert score(quality, confidence=data.draw(st.floats(confidence, 1))) >= base - 1e-12
    assert score(quality, temporal_baseline=days + data.draw(st.floats(0, 500))) <= base + 1e-12


@pytest.mark.parametrize("flag", QUALITY_FLAGS)
def test_strictly_worse_with_each_flag_and_older(flag: str) -> None:
    base = information_score({flag: 0.2}, **GOOD)
    assert information_score({flag: 0.3}, **GOOD) < base
    assert information_score({flag: 0.2}, **GOOD | {"temporal_baseline": 13}) < base
    assert information_score({flag: 0.2}, **GOOD | {"mean_coherence": 0.81}) > base
    assert information_score({flag: 0.2}, **GOOD | {"confidence": 0.81}) > base


def test_nothing_is_told_by_a_corrupted_or_empty_image() -> None:
    assert information_score({"corrupted": 1}, **GOOD) == 0
    assert information_score({"no_info": 1}, **GOOD) == 0
    assert information_score({"low_coherence": 1}, **GOOD) > 0.4


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"quality": {"cloud": 0.1}}, "unknown flag cloud"),
        ({"quality": {"corrupted": 1.1}}, "quality.corrupted: 1.1"),
        ({"quality": {"corrupted": math.nan}}, "nan"),
        ({"quality": {}, "temporal_baseline": -1}, "at least 0"),
        ({"quality": {}, "temporal_baseline": math.inf}, "finite"),
        ({"quality": {}, "mean_coherence": 2}, "from 0 to 1"),
    ],
)
def test_wrong_values_are_told(wrong: dict, says: str) -> None:
    with pytest.raises(HephError, match=says):
        information_score(**wrong)


def test_mean_coherence_over_valid_land() -> None:
    coherence = np.array([[0.2, 0.4], [0.9, 0.6]])
    valid = np.array([[True, True], [False, True]])
    water = np.array([[True, False], [False, False]])
    assert mean_coherence(coherence, valid) == pytest.approx(0.4)
    assert mean_coherence(coherence, valid, water) == pytest.approx(0.5)
    assert mean_coherence(coherence, valid, valid) is None
