"""Calibration of classifiers on a validation split: temperature, bias and thresholds.

Temperature with a bias for each class (Alexandari et al., 2020) rather than a temperature alone
(Guo et al., 2017): balanced batches and logit adjustment move the logits by a constant, which no
temperature takes back. What the split cannot tell, a class that never or always occurs, is left as
it is and named in `fitted`.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from heph_vl.models.prediction import LabelCalibration


def fit_labels(logits: Tensor, labels: Tensor, known: Tensor | None = None) -> LabelCalibration:
    """Calibrate K independent labels, and find the thresholds of best F1.

    Args:
        logits: (N, K).
        labels: (N, K) bool.
        known: (N,) bool, the rows to use; all if None.

    Returns:
        The calibration.
    """
    if known is not None:
        logits, labels = logits[known], labels[known]
    found = LabelCalibration([], [], [], [], [])
    for column, truth in zip(logits.double().unbind(1), labels.double().unbind(1), strict=True):
        fitted = bool(0 < truth.sum() < len(truth))
        scale, bias = (1.0, torch.zeros(1))
        if fitted:
            scale, bias = _fit(_binary_loss(column, truth), 1, len(truth))
        found.temperature.append(1 / scale)
        found.bias.append(float(bias))
        p = (column * scale + bias.to(column)).sigmoid()
        found.threshold.append(best_f1_threshold(p.numpy(), truth.numpy() > 0) if fitted else 0.5)
        found.prevalence.append(float(truth.mean()) if len(truth) else 0.0)
        found.fitted.append(fitted)
    return found


def fit_classes(logits: Tensor, targets: Tensor) -> LabelCalibration:
    """Calibrate a softmax of K classes.

    Args:
        logits: (N, K).
        targets: (N,) int64, -1 = unknown.

    Returns:
        The calibration.
    """
    logits, targets = logits[targets >= 0].double(), targets[targets >= 0]
    counts = torch.bincount(targets, minlength=logits.shape[1])
    fitted = (counts > 0) & bool((counts > 0).sum() > 1)
    scale, bias = 1.0, torch.zeros(len(counts))
    if fitted.any():
        scale, bias = _fit(_softmax_loss(logits, targets, fitted), len(counts), len(targets))
        bias = bias * fitted
    prevalence = counts.double() / max(1, len(targets))
    return LabelCalibration([1 / scale], bias.tolist(), [], prevalence.tolist(), fitted.tolist())


def best_f1_threshold(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """The threshold of best F1, half-way between two neighbouring scores.

    Args:
        scores: (N,).
        labels: (N,) bool, at least one True.

    Returns:
        `score >= threshold` has the highest F1; the highest such threshold of equals.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + labels.sum())
    cuts = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # ties stay together
    best = int(cuts[np.argmax(f1[cuts])])
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


_Loss = Callable[[Tensor, Tensor], Tensor]


def _binary_loss(logits: Tensor, truth: Tensor) -> _Loss:
    return lambda scale, bias: F.binary_cross_entropy_with_logits(logits * scale + bias, truth)


def _softmax_loss(logits: Tensor, targets: Tensor, free: Tensor) -> _Loss:
    return lambda scale, bias: F.cross_entropy(logits * scale + bias * free, targets)


def _fit(loss: _Loss, count: int, number: int) -> tuple[float, Tensor]:
    """Scale and `count` biases of least loss, kept from infinity by a unit normal prior each.

    The prior counts as much as one of `number` rows: a few rows of perfect scores would diverge.
    """
    parameters = torch.zeros(1 + count, dtype=torch.float64, requires_grad=True)  # log of scale
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(parameters[0].exp(), parameters[1:]) + 0.5 * parameters.square().sum() / number
        torch.autograd.backward(total)
        return total

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = parameters.detach()
    return math.exp(float(found[0])), found[1:]
