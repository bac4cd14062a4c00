"""What frozen features know: nearest neighbours and a linear probe, from train rows to others.

    N train rows, M test rows, D features, C classes of a target

Both give a score (M, C) for each class; AUROC, average precision and accuracy come with what
guessing gives. A class that only one kind of row has gives None, not 0 or 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from heph_vl.data.examples import ATMOSPHERE
from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.embed import embed_images
from heph_vl.errors import HephError
from heph_vl.metrics.classification import auroc, average_precision, plain_value

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CLASSES = {
    "deformation": ("deformation",),
    "atmosphere": ATMOSPHERE,
    "quality": QUALITY_FLAGS,
}
EXCLUSIVE = ("atmosphere",)  # exactly one class is true
NEIGHBOURS = 20
L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NUM_FOLDS = 3
_KNN_TEMPERATURE = 0.07  # Wu et al. (2018): nearer neighbours count more, and ties are rare


@dataclass(frozen=True)
class Rows:
    """Features and labels of the rows of a split that could be read.

    Attributes:
        vectors: (N, D) float32.
        labels: (N, C) bool of each target of CLASSES.
        groups: Volcano group of each row; the linear probe's folds share none.
        unreadable: A line for each row left out.
    """

    vectors: npt.NDArray[np.float32]
    labels: Mapping[str, Bools]
    groups: Sequence[str]
    unreadable: Sequence[str] = ()


def read_rows(
    encoder: Any,
    rows: Any,
    *,
    features: Literal["pooled", "mean"] = "pooled",
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Rows:
    """Frozen features and labels of dataset rows, whole images, nothing varied.

    Args:
        encoder: A `models.encoder.Encoder`.
        rows: A `datasets.Dataset` with labels.
        features: The pooled latent, or the mean over the image's tokens.
        limit: At most so many rows, drawn at random.
        seed: Of the draw.
        progress: Called with the number of rows done and of all.

    Returns:
        Features and labels.

    Raises:
        HephError: If the dataset has no labels, or no row could be read.
    """
    if "activity_types" not in rows.column_names:
        raise HephError("dataset", "it has no labels to probe", "give one with annotations")
    if limit is not None and limit < len(rows):
        chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
        rows = rows.select(np.sort(chosen))
    embedded = embed_images(_Frozen(encoder, features), rows, progress=progress)
    kept = rows.remove_columns([n for n in ("image", "coherence", "mask") if n in rows.features])
    kept = kept.select(embedded.positions)
    flags = [[value not in ("none", False, None) for value in kept[name]] for name in QUALITY_FLAGS]
    labels = {
        "deformation": np.array([[len(kinds) > 0] for kinds in kept["activity_types"]]),
        "atmosphere": np.array(kept["atmosphere"])[:, None] == np.arange(len(ATMOSPHERE)),
        "quality": np.array(flags).T,
    }
    problems = [str(problem) for problem in embedded.problems]
    return Rows(embedded.vectors, labels, list(kept["volcano_group"]), problems)


class _Frozen:
    """An encoder as `embed.ImageEmbedder`."""

    def __init__(self, encoder: Any, features: str) -> None:
        self.encoder, self.features = encoder, features
        self.training = bool(encoder.training)

    @property
    def logit_scale(self) -> Any:
        return next(self.encoder.parameters())

    def train(self, mode: bool = True) -> Any:
        self.training = mode
        return self.encoder.train(mode)

    def encode_images(self, pixel_values: Any, valid: Any, size: Any) -> Any:
        seen = self.encoder(pixel_values, valid, size)
        if self.features == "pooled":
            return seen.pooled
        return seen.tokens.sum(1) / seen.token_mask.sum(1, keepdim=True).clamp(min=1)


def probe(train: Rows, test: Rows, *, linear: bool = True, k: int = NEIGHBOURS) -> dict[str, Any]:
    """Scores of both probes on all targets, with chance beside.

    Args:
        train: Rows to learn from.
        test: Rows to score, of other volcanoes.
        linear: Whether to fit the linear probe, too.
        k: Number of neighbours.

    Returns:
        For each target: `knn` and `linear` (with `l2`), each of `score_target`; and `chance`.
    """
    report: dict[str, Any] = {}
    for target, names in CLASSES.items():
        known, truth, exclusive = train.labels[target], test.labels[target], target in EXCLUSIVE
        scores = knn_scores(train.vectors, known, test.vectors, k=k)
        entry = {"knn": score_target(scores, truth, names, exclusive=exclusive)}
        if linear:
            l2 = choose_l2(train.vectors, known, train.groups, exclusive=exclusive)
            fitted = fit_linear(train.vectors, known, l2, exclusive=exclusive)
            scored = score_target(fitted(test.vectors), truth, names, exclusive=exclusive)
            entry["linear"] = scored | {"l2": l2}
        entry["chance"] = chance(known, truth, names, exclusive=exclusive)
        report[target] = entry
    return report


def knn_scores(
    train: npt.ArrayLike, labels: Bools, queries: npt.ArrayLike, *, k: int = NEIGHBOURS
) -> Floats:
    """Weighted votes of the k train rows with the largest cosine.

    Args:
        train: (N, D) features; their mean is taken from all, so that what all images have in
            common does not make them alike.
        labels: (N, C).
        queries: (M, D) features.
        k: Number of neighbours; all rows if there are fewer.

    Returns:
        (M, C) in [0, 1].
    """
    known, asked = np.asarray(train, np.float64), np.asarray(queries, np.float64)
    mean = known.mean(axis=0)
    known, asked = _unit(known - mean), _unit(asked - mean)
    k = min(k, len(known))
    scores = np.empty((len(asked), labels.shape[1]))
    for start in range(0, len(asked), 1024):  # bounds memory
        cosines = asked[start : start + 1024] @ known.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        votes = np.exp((np.take_along_axis(cosines, nearest, 1) - 1) / _KNN_TEMPERATURE)
        votes /= votes.sum(axis=1, keepdims=True)
        scores[start : start + 1024] = np.einsum("mk,mkc->mc", votes, labels[nearest])
    return scores


def fit_linear(
    train: npt.ArrayLike, labels: Bools, l2: float, *, exclusive: bool
) -> Callable[[npt.ArrayLike], Floats]:
    """Logistic regression on standardised features, by L-BFGS.

    Args:
        train: (N, D) features.
        labels: (N, C).
        l2: Weight of half the squared norm of the weights (not of the biases) beside the mean
            loss.
        exclusive: One softmax over the classes rather than a sigmoid for each.

    Returns:
        Features (M, D) -> probabilities (M, C).
    """
    import torch
    from torch.nn import functional as F

    known = np.asarray(train, np.float64)
    mean, std = known.mean(axis=0), known.std(axis=0)
    std = np.where(std > 1e-6, std, 1)
    x = torch.from_numpy((known - mean) / std)
    y = torch.from_numpy(labels.astype(np.float64))
    weight = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = x @ weight + bias
        if exclusive:
            loss = F.cross_entropy(logits, y)
        else:
            loss = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1).mean()
        loss = loss + 0.5 * l2 * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]

    def predict(features: npt.ArrayLike) -> Floats:
        with torch.no_grad():
            standard = torch.from_numpy((np.asarray(features, np.float64) - mean) / std)
            logits = standard @ weight + bias
            found: Floats = (logits.softmax(1) if exclusive else logits.sigmoid()).numpy()
        return found

    return predict


def choose_l2(
    train: npt.ArrayLike, labels: Bools, groups: Sequence[str], *, exclusive: bool
) -> float:
    """The L2 weight with the least log loss over folds of the train rows.

    Args:
        train: (N, D) features.
        labels: (N, C).
        groups: Group of each row; no group is in two folds, if there are enough of them.
        exclusive: As for `fit_linear`.

    Returns:
        One of L2_GRID.
    """
    known, folds = np.asarray(train, np.float64), make_folds(groups)
    losses = []
    for l2 in L2_GRID:
        total = 0.0
        for fold in np.unique(folds):
            out = folds == fold
            if out.all():
                continue
            p = fit_linear(known[~out], labels[~out], l2, exclusive=exclusive)(known[out])
            p, truth = np.clip(p, 1e-12, 1 - 1e-12), labels[out]
            total -= np.log(p[truth]).sum()
            total -= 0 if exclusive else np.log1p(-p[~truth]).sum()
        losses.append(total)
    return L2_GRID[int(np.argmin(losses))]


def make_folds(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """Fold of each row (N,): whole groups, the largest first into the smallest fold.

    With fewer than NUM_FOLDS groups rows are dealt out instead.
    """
    names, number, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < NUM_FOLDS:
        return np.arange(len(number)) % NUM_FOLDS
    sizes, fold = np.zeros(NUM_FOLDS, np.int64), np.zeros(len(names), np.int64)
    for group in np.argsort(-counts, kind="stable"):
        fold[group] = np.argmin(sizes)
        sizes[fold[group]] += counts[group]
    found: npt.NDArray[np.int64] = fold[number]
    return found


def score_target(
    scores: Floats, truth: Bools, names: Sequence[str], *, exclusive: bool
) -> dict[str, Any]:
    """Metrics of one target.

    Args:
        scores: (M, C) in [0, 1].
        truth: (M, C).
        names: Names of the C classes.
        exclusive: Whether a row has exactly one class: the largest score is the answer, otherwise
            each class with a score above 0.5.

    Returns:
        `auroc` and `ap` (means over the classes that have them), `accuracy` (of a mean class
        unless exclusive), and `classes`: `auroc`, `ap`, `positives` of each.
    """
    answers = scores == scores.max(1, keepdims=True) if exclusive else scores > 0.5
    right = (answers & truth).any(1) if exclusive else answers == truth
    classes = {
        name: {
            "auroc": plain_value(auroc, truth[:, c], scores[:, c]),
            "ap": plain_value(average_precision, truth[:, c], scores[:, c]),
            "positives": int(truth[:, c].sum()),
        }
        for c, name in enumerate(names)
    }
    means = {key: _mean([entry[key] for entry in classes.values()]) for key in ("auroc", "ap")}
    return means | {"accuracy": float(right.mean()), "classes": classes}


def chance(known: Bools, truth: Bools, names: Sequence[str], *, exclusive: bool) -> dict[str, Any]:
    """What guessing gives: AUROC 0.5, average precision = share, accuracy of the train majority."""
    share = known.mean(axis=0)
    right = truth[:, np.argmax(share)] if exclusive else truth == (share > 0.5)
    scores = np.broadcast_to(share, truth.shape)  # one score for all rows
    found = score_target(scores, truth, names, exclusive=exclusive)
    return found | {"accuracy": float(right.mean())}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _unit(vectors: Floats) -> Floats:
    found: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found
