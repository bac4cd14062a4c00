"""What plots of yes/no and one-of-many answers are drawn from: points, bins, counts; for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from heph_vl.metrics.bootstrap import Floats
from heph_vl.metrics.classification import NUM_BINS, Answers, Bools, equal_mass_bins

MOST_POINTS = 100  # of a curve: more would not be seen
NOTHING = "none"  # of the classes
_DIGITS = 4


def precision_recall(truth: Bools, probability: Floats) -> dict[str, list[float]]:
    """Points of the precision-recall curve, from the highest threshold to the lowest.

    One for each probability that an image of the class has: between them recall does not change.
    Where there are more than MOST_POINTS, some of them, evenly; the area under steps through all
    of them is the average precision.

    Args:
        truth: (N,) bool, at least one of them true.
        probability: (N,) any order-preserving score.

    Returns:
        ``recall`` and ``precision``, as many of each.
    """
    thresholds = np.unique(probability[truth])[::-1]
    called = len(truth) - np.searchsorted(np.sort(probability), thresholds)
    found = truth.sum() - np.searchsorted(np.sort(probability[truth]), thresholds)
    some = (
        np.linspace(0, len(thresholds) - 1, min(len(thresholds), MOST_POINTS)).round().astype(int)
    )
    return {
        "recall": _rounded(found[some] / truth.sum()),
        "precision": _rounded(found[some] / called[some]),
    }


def reliability(truth: Bools, probability: Floats) -> list[dict[str, float]]:
    """The bins of the calibration error: how probable, and how often true.

    Args:
        truth: (N,) bool.
        probability: (N,) in [0, 1].

    Returns:
        For each of the NUM_BINS of equal mass that holds images: ``images``, their mean
        ``probability`` and the ``share`` of the class.
    """
    bins = equal_mass_bins(probability, np.ones(len(truth)))
    held = [np.flatnonzero(bins == i) for i in range(NUM_BINS)]
    return [
        {
            "images": len(which),
            "probability": round(float(probability[which].mean()), _DIGITS),
            "share": round(float(truth[which].mean()), _DIGITS),
        }
        for which in held
        if len(which)
    ]


def confusion(names: Sequence[str], answers: Answers) -> dict[str, Any]:
    """How often an image of each class is taken for each.

    What is told of an image is the most probable of the classes decided on. An image of several
    classes has no row, and is counted apart.

    Args:
        names: The C classes.
        answers: Of N images.

    Returns:
        ``classes``, with NOTHING as the last unless each image has one; ``counts``, rows by truth
        and columns by what is told; ``several``, images of more than one class.
    """
    several = answers.truth.sum(axis=1) > 1
    told = np.where(answers.decided, answers.probability, -1.0).argmax(axis=1)
    told[~answers.decided.any(axis=1)] = len(names)
    truth = answers.truth.argmax(axis=1)
    truth[~answers.truth.any(axis=1)] = len(names)
    classes = [*names] if answers.exclusive else [*names, NOTHING]
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (truth[~several], told[~several]), 1)
    return {"classes": classes, "counts": counts.tolist(), "several": int(several.sum())}


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]
