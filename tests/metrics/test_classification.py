"""Classification: equal to slow references, exact on ties, silent on what a split does not show."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.metrics.classification import (
    ABSENT,
    ALWAYS,
    METRICS,
    NUM_BINS,
    Answers,
    auroc,
    average_precision,
    binary_statistics,
    calibration_error,
    decision_statistics,
    plain_value,
    score_classes,
    score_question,
    shift_prior,
)

TEN = [f"g{i}" for i in range(10)]


def members(groups: np.ndarray, number: int = 10) -> np.ndarray:
    return np.eye(number)[groups]


def weighted(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Pair by pair, and threshold by threshold."""
    pairs = won = 0.0
    for i in np.flatnonzero(truth):
        for j in np.flatnonzero(~truth):
            pairs += weights[i] * weights[j]
            won += (
                weights[i] * weights[j] * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
            )
    precision, positives = 0.0, weights[truth].sum()
    for i in np.flatnonzero(truth):
        above = scores >= scores[i]
        total = weights[above].sum()
        if weights[i]:
            precision += weights[i] * weights[above & truth].sum() / total
    return {
        "auroc": won / pairs if pairs else math.nan,
        "average_precision": precision / positives if positives else math.nan,
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2)), min_size=1))
def test_ranks_with_ties_under_any_draw_equal_pairs(rows: list[tuple[int, bool, int]]) -> None:
    scores, truth, group = (np.array(column) for column in zip(*rows, strict=True))
    truth = truth.astype(bool)
    units = members(group, 3)
    for draw in ([1, 1, 1], [2, 0, 1], [0, 3, 0]):
        expected = weighted(scores, truth, np.array(draw, float)[group])
        for name, statistic in (("auroc", auroc), ("average_precision", average_precision)):
            found = statistic(truth, scores.astype(float), units)(np.array([draw], float))[0]
            assert found == pytest.approx(expected[name], nan_ok=True), (name, draw)


@pytest.mark.parametrize(
    ("scores", "truth", "area", "precision"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 1.0, 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0, (1 / 3 + 2 / 4) / 2),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], 0.75, (1 + 2 / 3) / 2),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 0.5, 0.25),  # ties: chance
        ([0.9, 0.5, 0.5, 0.1], [0, 1, 0, 0], 0.5, 1 / 3),
        ([0.1, 0.2, 0.3], [0, 0, 0], None, None),
        ([0.1, 0.2, 0.3], [1, 1, 1], None, None),
    ],
)
def test_plain_values_by_hand(
    scores: list[float], truth: list[int], area: float | None, precision: float | None
) -> None:
    columns = np.array(truth, bool), np.array(scores)
    assert plain_value(auroc, *columns) == pytest.approx(area)
    assert plain_value(average_precision, *columns) == pytest.approx(precision)


def test_one_question_is_ready_for_json() -> None:
    names = ("accuracy", "precision", "recall", "auroc")
    options: dict[str, Any] = {"groups": ("a", "a", "b", "b"), "threshold": 0.5, "prior": 0.1}
    probability = np.array([0.9, 0.6, 0.2, 0.3])
    assert score_question(names, np.zeros(4, bool), probability, **options) == dict.fromkeys(names)
    truth = np.array([True, False, False, False])
    found = score_question(names, truth, probability, **options)
    assert list(found) == list(names)
    precision, recall, accuracy, area = (
        found[name] or {} for name in ("precision", "recall", "accuracy", "auroc")
    )
    assert (precision["value"], precision["interval"]) == (0.5, None)
    assert (accuracy["value"], accuracy["majority"]) == (0.75, 0.75)
    assert (area["value"], area["majority"]) == (1.0, 0.5)
    assert recall["per_group"] == {"a": 1.0, "b": None}
    json.dumps(found, allow_nan=False)
    options["threshold"] = 0.7
    precision = score_question(names, truth, probability, **options)["precision"] or {}
    assert precision["value"] == 1.0


def test_known_values() -> None:
    truth = np.array([True, False, True, False])
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    one = np.ones((1, 1))
    units = np.ones((4, 1))
    assert auroc(truth, scores, units)(one)[0] == pytest.approx(3 / 4)
    assert average_precision(truth, scores, units)(one)[0] == pytest.approx((1 + 2 / 3) / 2)
    # A flipped sign is the mirror image.
    assert auroc(truth, -scores, units)(one)[0] == pytest.approx(1 / 4)
    decided = decision_statistics(truth, scores >= 0.75, units)
    values = {name: statistic(one)[0] for name, statistic in decided.items()}
    assert values == pytest.approx({"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5})
    decided = decision_statistics(truth, scores >= 0.85, units)
    values = {name: statistic(one)[0] for name, statistic in decided.items()}
    expected = {"accuracy": 0.75, "precision": 1, "recall": 0.5, "f1": 2 / 3}
    assert values == pytest.approx(expected)


def test_equal_to_torchmetrics() -> None:
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.functional import classification as reference

    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.2
    scores = np.round(np.clip(0.3 * truth + 0.6 * rng.random(300), 0, 1), 2)
    cut = 0.505  # between scores: torchmetrics calls a score at the threshold negative
    found = binary_statistics(truth, scores, scores >= cut, np.ones((300, 1)))
    both = torch.from_numpy(scores), torch.from_numpy(truth).long()
    expected = {
        name: getattr(reference, f"binary_{name}")(*both) for name in ("auroc", "average_precision")
    } | {
        reported: getattr(reference, f"binary_{name}")(*both, threshold=cut)
        for name, reported in (
            ("accuracy", "accuracy"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1_score", "f1"),
        )
    }
    for name, value in expected.items():
        assert found[name](np.ones((1, 1)))[0] == pytest.approx(float(value), abs=1e-6), name


def test_calibration_of_known_gaps() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(60_000)
    truth = rng.random(60_000) < p
    units, one = np.ones((len(p), 1)), np.ones((1, 1))

    def error(probability: np.ndarray, **more: bool) -> float:
        return float(calibration_error(truth, probability, units, **more)(one)[0])

    assert error(p) < 0.01
    assert error(np.clip(p - 0.1, 0, 1)) == pytest.approx(0.1, abs=0.01)
    assert error(np.full_like(p, 0.8)) == pytest.approx(0.8 - truth.mean())
    assert error(1 - p) == pytest.approx(np.abs(1 - 2 * np.linspace(0, 1, 999)).mean(), abs=0.02)
    order = rng.permutation(len(p))
    coarse = np.round(p, 1)  # ties share a bin, so the order does not matter
    shuffled = calibration_error(truth[order], coarse[order], units)(one)[0]
    assert error(coarse) == pytest.approx(shuffled, abs=1e-12)


def test_bins_have_equal_mass_where_probabilities_crowd() -> None:
    # Bins of equal width would put 98 % into one, whose errors cancel.
    low = np.linspace(0.0, 0.02, 980)
    p = np.concatenate([low, np.linspace(0.9, 1, 20)])
    truth = np.zeros(1000, bool)
    truth[-20:] = True
    truth[:20] = True  # the lowest ones: the error is in the first bins
    found = calibration_error(truth, p, np.ones((1000, 1)))(np.ones((1, 1)))[0]
    size = 1000 / NUM_BINS
    first = 20 - p[: int(size)].sum()
    assert found > 0.9 * first / 1000


def test_balanced_calibration_needs_the_prior_shifted() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(0.3, 3, 50_000)
    truth = rng.random(50_000) < p
    found = {
        name: float(statistic(np.ones((1, 1)))[0])
        for name, statistic in binary_statistics(truth, p, p >= 0.5, np.ones((50_000, 1))).items()
    }
    assert found["ece"] < 0.01
    assert found["ece_balanced"] > 0.2  # half of the images now have the class
    assert found["ece_balanced_shifted"] < 0.02
    assert shift_prior(np.array([0.0, 0.1, 1.0]), 0.1) == pytest.approx([0, 0.5, 1])
    assert shift_prior(np.array([0.3]), 0.0) == pytest.approx([0.3])


def answers(truth: Any, probability: Any, prior: Any, *, exclusive: bool = False) -> Answers:
    probability = np.asarray(probability, float)
    decided = probability >= 0.5
    if exclusive:
        decided = np.eye(probability.shape[1], dtype=bool)[probability.argmax(axis=1)]
    return Answers(np.asarray(truth, bool), probability, decided, np.asarray(prior), exclusive)


def test_an_absent_class_has_no_score_and_no_part_in_the_mean() -> None:
    truth = [[True, False, True], [False, False, True]]
    found = score_classes(
        ["some", "absent", "always"],
        answers(truth, [[0.9, 0.8, 0.6], [0.2, 0.1, 0.4]], [0.5, 0.1, 0.9]),
        ["a", "a"],
    )
    absent = found["classes"]["absent"]
    assert (absent["support"], absent["negatives"], absent["predicted"]) == (0, 2, 1)
    assert absent["reason"] == ABSENT
    assert absent["metrics"] == dict.fromkeys(METRICS)
    always = found["classes"]["always"]
    assert always["reason"] == ALWAYS
    assert always["metrics"]["auroc"] is None
    assert always["metrics"]["average_precision"] is None
    assert always["metrics"]["recall"]["model"]["value"] == 0.5
    assert found["macro"]["classes"] == ["some", "always"]
    assert found["macro"]["left_out"] == {"absent": ABSENT}
    assert found["macro"]["metrics"]["recall"]["model"]["value"] == pytest.approx((1 + 0.5) / 2)
    # Of "some" alone: an average precision of 1 without negatives is no merit.
    for name in ("auroc", "average_precision"):
        assert found["macro"]["metrics"][name] == found["classes"]["some"]["metrics"][name]


def test_a_class_is_left_out_of_the_mean_with_its_reason() -> None:
    found = score_classes(
        ["a", "b"],
        answers([[True, True], [False, False]], [[0.9, 0.1], [0.1, 0.9]], [0.5, 0.5]),
        ["g", "g"],
        left_out={"b": "why"},
    )
    assert found["macro"]["classes"] == ["a"]
    assert found["macro"]["left_out"] == {"b": "why"}
    assert found["macro"]["metrics"]["f1"]["model"]["value"] == 1
    assert found["classes"]["b"]["metrics"]["auroc"]["model"]["value"] == 0


def test_the_majority_class_is_a_tie_of_all_images() -> None:
    truth = np.array([[True], [False], [False], [False]])
    found = score_classes(["x"], answers(truth, [[0.9], [0.1], [0.1], [0.1]], [0.3]), list("aabb"))
    metrics = found["classes"]["x"]["metrics"]
    majority = {name: metrics[name]["majority"] for name in METRICS}
    expected = {"accuracy": 0.75, "precision": 0, "recall": 0, "f1": 0, "auroc": 0.5}
    assert {name: majority[name] for name in expected} == expected
    assert majority["average_precision"] == pytest.approx(0.25)
    assert majority["ece"] == pytest.approx(0.05)  # prior 0.3 of elsewhere, share 0.25 here
    assert metrics["accuracy"]["minus_majority"]["value"] == pytest.approx(0.25)
    # Group b has no image of the class: nothing to say there.
    assert metrics["f1"]["model"]["per_group"] == pytest.approx(
        {"a": 1, "b": math.nan}, nan_ok=True
    )
    assert metrics["accuracy"]["model"]["interval"] is None


def test_exclusive_classes_have_an_accuracy() -> None:
    truth = np.eye(3, dtype=bool)[[0, 1, 2, 2]]
    probability = [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]
    found = score_classes(
        list("abc"), answers(truth, probability, [0.1, 0.2, 0.7], exclusive=True), list("gggg")
    )
    assert found["accuracy"]["model"]["value"] == pytest.approx(3 / 4)
    assert found["accuracy"]["majority"] == pytest.approx(2 / 4)  # always c
    assert found["classes"]["c"]["metrics"]["recall"]["majority"] == 1
    assert found["classes"]["a"]["predicted"] == 2


def test_intervals_from_eight_groups_on_cover_the_value() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(10, size=400)
    truth = rng.random(400) < 0.3
    p = np.clip(0.4 * truth + 0.6 * rng.random(400) + 0.02 * group - 0.1, 0, 1)
    asked = answers(truth[:, None], p[:, None], [0.3])
    found = score_classes(["x"], asked, [TEN[g] for g in group])["classes"]["x"]["metrics"]
    for name in METRICS:
        low, high = found[name]["model"]["interval"]
        assert low < high
        if not name.startswith("ece"):  # resampling adds to a mean of absolute values
            assert low <= found[name]["model"]["value"] <= high, name
    few = score_classes(["x"], asked, [TEN[g % 7] for g in group])["classes"]["x"]["metrics"]
    assert few["auroc"]["model"]["interval"] is None
    assert len(few["auroc"]["model"]["per_group"]) == 7
    assert few["auroc"]["model"]["value"] == pytest.approx(found["auroc"]["model"]["value"])
