"""Scores of yes/no and one-of-many answers, exact on ties, with intervals over volcano groups.

Every number is a `bootstrap.Statistic`: a function of how often each group counts, (B, G) -> (B,).
With each group once it is the plain value; resampled it gives the interval, one group alone gives
the value per group. What images contribute is summed for each group first, so that a draw costs a
product of small matrices; the area under the ROC curve is a ratio of quadratic forms in the draw.

A class without images in a split has no score (None with a reason): not 0, and not 1. A constant
answer, such as the majority class, is a tie of all images and goes the same way as any other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.metrics.bootstrap import Clusters, Floats, Statistic, clusters, group_weights

Bools = npt.NDArray[np.bool_]

NUM_BINS = 15  # of the calibration error, of equal mass
_AT_ONCE = 1 << 22  # elements of the largest intermediate array
METRICS = (
    *("accuracy", "precision", "recall", "f1", "auroc", "average_precision"),
    *("ece", "ece_balanced", "ece_balanced_shifted"),
)
MACRO = ("precision", "recall", "f1", "auroc", "average_precision")
_NEED_BOTH = ("auroc", "average_precision", "ece_balanced", "ece_balanced_shifted")
ABSENT = "no image of this class in the split"
ALWAYS = "every image of the split is of this class"


@dataclass(frozen=True)
class Answers:
    """One question of N images: the truth, a probability, and the decision taken from it.

    Args:
        truth: (N, C) bool, the classes of each image.
        probability: (N, C) float64 in [0, 1].
        decided: (N, C) bool, the classes that the system says an image has.
        prior: (C,) float64, how frequent each class is where the baseline learned it.
        exclusive: Whether an image has exactly one of the classes.
    """

    truth: Bools
    probability: Floats
    decided: Bools
    prior: Floats
    exclusive: bool

    def majority(self) -> "Answers":
        """What the constant answer gives: the prior for each image, and the majority class."""
        probability = np.broadcast_to(self.prior, self.truth.shape).copy()
        decided = probability >= 0.5
        if self.exclusive:
            decided = np.eye(len(self.prior), dtype=np.bool_)[np.argmax(probability, axis=1)]
        return Answers(self.truth, probability, decided, self.prior, self.exclusive)


def score_classes(
    names: Sequence[str],
    answers: Answers,
    groups: Sequence[str],
    *,
    left_out: Mapping[str, str] | None = None,
    seed: int = 0,
    num_draws: int = 2000,
) -> dict[str, Any]:
    """Scores of a question for each class and on average, beside the majority class.

    Args:
        names: The C classes.
        answers: Truth, probabilities and decisions of N images, N at least 1.
        groups: Volcano group of each image.
        left_out: Classes that macro averages leave out, and why.
        seed: Of the draws of groups.
        num_draws: Number of resamples.

    Returns:
        ``images``, ``num_groups``, ``classes`` (for each one ``support``, ``negatives``,
        ``predicted``, ``reason`` and ``metrics``: ``model`` as of `Clusters.estimate`,
        ``majority`` and ``minus_majority``, or None), ``macro`` (``classes``, ``left_out`` with
        reasons, ``metrics``, each over the classes that have it) for more than one class,
        ``accuracy`` for exclusive classes.
    """
    weights, group_names = group_weights(np.eye(len(groups), dtype=np.bool_), groups)
    units = clusters(weights, group_names, seed=seed, num_draws=num_draws)
    majority = answers.majority()
    found: dict[str, Any] = {"images": len(groups), "num_groups": len(units.names), "classes": {}}
    averaged: dict[str, _Both] = {}
    out = dict(left_out or {})
    for c, name in enumerate(names):
        support = int(answers.truth[:, c].sum())
        model, baseline = (
            binary_statistics(a.truth[:, c], a.probability[:, c], a.decided[:, c], units.members)
            for a in (answers, majority)
        )
        reason = ABSENT if not support else ALWAYS if support == len(groups) else None
        found["classes"][name] = {
            "support": support,
            "negatives": len(groups) - support,
            "predicted": int(answers.decided[:, c].sum()),
            "reason": reason,
            "metrics": {
                metric: None
                if not support or (reason and metric in _NEED_BOTH)
                else _compared(model[metric], baseline[metric], units)
                for metric in METRICS
            },
        }
        if not support:
            out[name] = ABSENT
        elif name not in out:
            averaged[name] = (model, baseline)
    if len(names) > 1:
        found["macro"] = {
            "classes": [name for name in names if name not in out],
            "left_out": {name: out[name] for name in names if name in out},
            "metrics": {
                metric: _mean_compared(
                    metric,
                    [
                        both
                        for c, both in averaged.items()
                        if found["classes"][c]["metrics"][metric]
                    ],
                    units,
                )
                for metric in MACRO
            },
        }
    if answers.exclusive:
        model_right, majority_right = (
            units.mean(np.asarray((a.decided & a.truth).any(axis=1), dtype=np.float64))
            for a in (answers, majority)
        )
        found["accuracy"] = _compared(model_right, majority_right, units)
    return found


def score_question(
    metrics: Sequence[str],
    truth: Bools,
    probability: Floats,
    groups: Sequence[str],
    *,
    threshold: float,
    prior: float,
    num_draws: int = 2000,
) -> dict[str, dict[str, Any] | None]:
    """Scores of one yes/no question, beside the majority class, ready for JSON.

    Args:
        metrics: Some of METRICS.
        truth: (N,) bool.
        probability: (N,) of yes; the answer is yes above the threshold.
        groups: Volcano group of each image.
        threshold: In [0, 1].
        prior: Share of yes where the majority class is learned.
        num_draws: Number of resamples of the groups.

    Returns:
        For each metric `value`, `interval`, `per_group` (None for a group that does not define
        it) and `majority`; or None where images of one class do not define it.
    """
    columns = truth[:, None], probability[:, None], probability[:, None] > threshold
    answers = Answers(*columns, prior=np.array([prior]), exclusive=False)
    scores = score_classes(["yes"], answers, groups, num_draws=num_draws)
    found: dict[str, dict[str, Any] | None] = {}
    for metric in metrics:
        both = scores["classes"]["yes"]["metrics"][metric]
        found[metric] = both and {
            **both["model"],
            "per_group": {
                group: None if np.isnan(value) else value
                for group, value in both["model"]["per_group"].items()
            },
            "majority": both["majority"],
        }
    return found


def plain_value(
    metric: Callable[[Bools, Floats, Floats], Statistic], truth: Bools, scores: Floats
) -> float | None:
    """A metric of all images, each counted once; None where images of one class do not define it.

    Args:
        metric: `auroc` or `average_precision`.
        truth: (N,) bool.
        scores: (N,) any order-preserving score.

    Returns:
        In [0, 1], or None.
    """
    if truth.all() or not truth.any():
        return None
    return float(metric(truth, scores, np.ones((len(truth), 1)))(np.ones((1, 1)))[0])


def binary_statistics(
    truth: Bools, probability: Floats, decided: Bools, members: Floats
) -> dict[str, Statistic]:
    """Every metric of one class.

    Args:
        truth: (N,) bool.
        probability: (N,) in [0, 1].
        decided: (N,) bool.
        members: (N, G), 1 for each image's group.

    Returns:
        Statistics by the names of METRICS. All are NaN for a draw without an image of the class,
        and those that compare both sides without an image of any other. Precision is 0 where
        nothing is predicted although there is something to find, as F1 is.
    """
    prevalence = float(truth.mean())
    shifted = shift_prior(probability, prevalence)
    return decision_statistics(truth, decided, members) | {
        "auroc": auroc(truth, probability, members),
        "average_precision": average_precision(truth, probability, members),
        "ece": calibration_error(truth, probability, members),
        "ece_balanced": calibration_error(truth, probability, members, balanced=True),
        "ece_balanced_shifted": calibration_error(truth, shifted, members, balanced=True),
    }


def decision_statistics(truth: Bools, decided: Bools, members: Floats) -> dict[str, Statistic]:
    """Accuracy, precision, recall and F1 of the class, as in the paper's Table 4."""
    hit, alarm = (members.T @ (decided & t).astype(np.float64) for t in (truth, ~truth))
    miss = members.T @ (truth & ~decided).astype(np.float64)
    rest = members.T @ (~truth & ~decided).astype(np.float64)
    some = hit + miss

    def ratio(above: Floats, below: Floats) -> Statistic:
        def statistic(draws: Floats) -> Floats:
            total = draws @ below
            value = draws @ above / np.where(total > 0, total, 1)
            value[draws @ some <= 0] = np.nan
            return value

        return statistic

    return {
        "accuracy": ratio(hit + rest, hit + alarm + miss + rest),
        "precision": ratio(hit, hit + alarm),
        "recall": ratio(hit, some),
        "f1": ratio(2 * hit, 2 * hit + alarm + miss),
    }


def auroc(truth: Bools, scores: Floats, members: Floats) -> Statistic:
    """Probability that an image of the class scores higher than another one; a tie is a half.

    Args:
        truth: (N,) bool.
        scores: (N,) any order-preserving score.
        members: (N, G), 1 for each image's group.

    Returns:
        The statistic; NaN for draws that lack one side.
    """
    groups = members.argmax(axis=1)
    num_groups = members.shape[1]
    # wins[g, h]: pairs (positive of g, negative of h) in the right order.
    wins = np.zeros((num_groups, num_groups))
    for h in range(num_groups):
        others = np.sort(scores[~truth & (groups == h)])
        low, high = (np.searchsorted(others, scores[truth], side=s) for s in ("left", "right"))
        wins[:, h] = np.bincount(groups[truth], (low + high) / 2, minlength=num_groups)
    positives, negatives = (members[side].sum(axis=0) for side in (truth, ~truth))

    def statistic(draws: Floats) -> Floats:
        pairs = (draws @ positives) * (draws @ negatives)
        value: Floats = ((draws @ wins) * draws).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
        return value

    return statistic


def average_precision(truth: Bools, scores: Floats, members: Floats) -> Statistic:
    """Mean over the images of the class of the precision at their score, ties as one threshold.

    Args:
        truth: (N,) bool.
        scores: (N,) any order-preserving score.
        members: (N, G), 1 for each image's group.

    Returns:
        The statistic; NaN for draws without an image of the class. Of a constant score it is the
        share of the class.
    """
    thresholds = np.unique(scores[truth])[::-1]  # precision counts where recall changes
    above = np.searchsorted(-thresholds, -scores)  # an image is above thresholds[above:]
    num = len(thresholds)
    steps = np.zeros((2, num + 1, members.shape[1]))
    for side, images in enumerate((truth, np.ones_like(truth))):
        np.add.at(steps[side], above[images], members[images])
    found, called = steps.cumsum(axis=1)[:, :num]  # (T, G) each
    new = steps[0, :num]

    def some(draws: Floats) -> Floats:
        gained, total = draws @ new.T, draws @ called.T
        precision = draws @ found.T / np.where(total > 0, total, 1)
        positives = gained.sum(axis=1)
        value: Floats = (gained * precision).sum(axis=1) / np.where(
            positives > 0, positives, np.nan
        )
        return value

    def statistic(draws: Floats) -> Floats:
        rows = max(1, _AT_ONCE // max(1, num))
        parts = [some(draws[i : i + rows]) for i in range(0, len(draws), rows)]
        return np.concatenate(parts)

    return statistic


def calibration_error(
    truth: Bools, probability: Floats, members: Floats, *, balanced: bool = False
) -> Statistic:
    """Expected calibration error: mean over bins of |mean probability - share of the class|.

    The NUM_BINS bins are of equal mass and found once from all images; equal probabilities share
    a bin, so that no order of the images matters.

    Args:
        truth: (N,) bool.
        probability: (N,) in [0, 1].
        members: (N, G), 1 for each image's group.
        balanced: Weight the images so that those of the class and the others sum to the same.

    Returns:
        The statistic in [0, 1]; NaN for draws without an image of the class, and with
        ``balanced`` without another.
    """
    positives, negatives = (members[side].sum(axis=0) for side in (truth, ~truth))
    weights = np.ones(len(truth))
    if balanced and 0 < truth.sum() < len(truth):
        weights = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    bins = equal_mass_bins(probability, weights)
    gap = (probability - truth)[:, None] * members
    gaps = np.zeros((2, NUM_BINS, members.shape[1]))
    for side, images in enumerate((truth, ~truth)):
        np.add.at(gaps[side], bins[images], gap[images])

    def statistic(draws: Floats) -> Floats:
        count = np.stack([draws @ positives, draws @ negatives])  # (2, B)
        part = np.einsum("bg,skg->sbk", draws, gaps)
        if balanced:
            part = part / np.where(count > 0, 2 * count, np.nan)[:, :, None]
        else:
            total = np.where(count[0] > 0, count.sum(axis=0), np.nan)
            part = part / total[None, :, None]
        error: Floats = np.abs(part.sum(axis=0)).sum(axis=1)
        return error

    return statistic


def equal_mass_bins(probability: Floats, weights: Floats) -> npt.NDArray[np.int64]:
    """(N,) bin of each image: where the middle of its value's mass lies."""
    _, value = np.unique(probability, return_inverse=True)
    mass = np.bincount(value, weights)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    bins: npt.NDArray[np.int64] = np.minimum((middle * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    return bins[value]


def shift_prior(probability: Floats, prevalence: float) -> Floats:
    """Probabilities moved by Bayes' rule from a class's own frequency to equal frequencies.

    What is calibrated on images of which a share has the class cannot be so where half of them
    have it; after this it is. Frequencies 0 and 1 change nothing.

    Args:
        probability: (N,) in [0, 1].
        prevalence: Share of the class in [0, 1].

    Returns:
        (N,) float64 in [0, 1]; 0 and 1 stay.
    """
    if not 0 < prevalence < 1:
        return probability
    yes, no = probability * (1 - prevalence), (1 - probability) * prevalence
    shifted: Floats = yes / (yes + no)
    return shifted


def _compared(model: Statistic, majority: Statistic, units: Clusters) -> dict[str, Any]:
    return {
        "model": units.estimate(model),
        "majority": units.estimate(majority)["value"],
        "minus_majority": units.difference(model, majority),
    }


_Both = tuple[dict[str, Statistic], dict[str, Statistic]]  # of the model, of the majority


def _mean_compared(metric: str, classes: Sequence[_Both], units: Clusters) -> dict[str, Any] | None:
    if not classes:
        return None
    model, majority = (mean_of_classes([both[i][metric] for both in classes]) for i in (0, 1))
    return _compared(model, majority, units)


def mean_of_classes(statistics: Sequence[Statistic]) -> Statistic:
    """Mean over the classes that a draw has."""

    def statistic(draws: Floats) -> Floats:
        values = np.stack([one(draws) for one in statistics])
        there = ~np.isnan(values)
        count = there.sum(axis=0)
        total = np.where(there, values, 0).sum(axis=0)
        mean: Floats = total / np.where(count > 0, count, np.nan)
        return mean

    return statistic
