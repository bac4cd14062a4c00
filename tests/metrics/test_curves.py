"""Points, bins and counts that plots are drawn from, against plain loops and stored scores."""

import numpy as np
import pytest

from heph_vl.metrics.classification import Answers, score_classes
from heph_vl.metrics.curves import MOST_POINTS, confusion, precision_recall, reliability


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and probabilities with ties that know a little of it."""
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.3
    return truth, ((random.random(n) + 0.4 * truth) / 1.4).round(2)


def test_points_are_those_of_every_threshold() -> None:
    truth, probability = drawn(60)
    wanted = []
    for threshold in sorted(set(probability[truth]), reverse=True):
        called = probability >= threshold
        hits = (called & truth).sum()
        wanted.append((hits / truth.sum(), hits / called.sum()))
    found = precision_recall(truth, probability)
    points = list(zip(found["recall"], found["precision"], strict=True))
    np.testing.assert_allclose(points, wanted, atol=6e-5)


def test_the_area_under_the_steps_is_the_average_precision() -> None:
    truth, probability = drawn(80, seed=1)
    found = precision_recall(truth, probability)
    steps = np.diff([0.0, *found["recall"]])
    answers = Answers(truth[:, None], probability[:, None], truth[:, None], np.array([0.3]), False)
    scored = score_classes(["x"], answers, ["a"] * 80, num_draws=10)["classes"]["x"]["metrics"]
    area = float((steps * found["precision"]).sum())
    assert area == pytest.approx(scored["average_precision"]["model"]["value"], abs=1e-3)


def test_many_points_are_thinned_and_keep_their_ends() -> None:
    truth = np.arange(1000) % 2 == 0
    found = precision_recall(truth, np.linspace(0, 1, 1000))
    assert len(found["recall"]) == MOST_POINTS
    assert found["recall"][-1] == 1.0
    assert found["recall"][0] == pytest.approx(1 / 500)


def test_bins_give_the_calibration_error_back() -> None:
    truth, probability = drawn(200, seed=2)
    bins = reliability(truth, probability)
    assert sum(b["images"] for b in bins) == 200
    error = sum(b["images"] * abs(b["probability"] - b["share"]) for b in bins) / 200
    answers = Answers(truth[:, None], probability[:, None], truth[:, None], np.array([0.3]), False)
    scored = score_classes(["x"], answers, ["a"] * 200, num_draws=10)["classes"]["x"]["metrics"]
    assert error == pytest.approx(scored["ece"]["model"]["value"], abs=1e-4)
    assert [b["probability"] for b in bins] == sorted(b["probability"] for b in bins)


def test_confusion_counts_truth_down_and_told_across() -> None:
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [1, 1], [0, 1], [1, 0]], bool)
    probability = np.array(
        [[0.9, 0.1], [0.4, 0.6], [0.8, 0.9], [0.2, 0.1], [0.9, 0.9], [0.9, 0.3], [0, 1]]
    )
    decided = probability > 0.5
    answers = Answers(truth, probability, decided, np.array([0.5, 0.5]), False)
    found = confusion(["a", "b"], answers)
    assert found["classes"] == ["a", "b", "none"]
    # Of both decided on, the more probable is told; who has both classes has no row.
    assert found["counts"] == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert found["several"] == 1
    alone = [0, 1, 2, 5, 6]
    one = Answers(truth[alone], probability[alone], np.eye(2, dtype=bool)[[0, 1, 1, 0, 1]],
                  np.array([0.5, 0.5]), True)  # fmt: skip
    found = confusion(["a", "b"], one)
    assert found == {"classes": ["a", "b"], "counts": [[1, 2], [1, 1]], "several": 0}
