"""Label groups in the order of their outputs, and how often rows are drawn to balance them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.annotations import ACTIVITY_TYPES, INTENSITIES
from heph_vl.data.examples import ATMOSPHERE
from heph_vl.data.samples import QUALITY_FLAGS, VOLCANO_PHASES

LABELS: dict[str, tuple[str, ...]] = {
    "deformation": ("deformation",),
    "activity_types": ACTIVITY_TYPES,
    "intensities": INTENSITIES,
    "volcano_phase": VOLCANO_PHASES,
    "atmosphere": ATMOSPHERE,
    "quality": QUALITY_FLAGS,
}
SOFTMAX = ("volcano_phase", "atmosphere")  # one of their classes; of the others any number


def row_labels(rows: Any) -> dict[str, NDArray[np.float64]]:
    """What the rows say of whole images: (N, K) of 0 and 1 for each label group, NaN = unknown."""
    said = {name: rows[name] for name in ("activity_types", "intensities", *SOFTMAX)}
    found = {
        "deformation": np.array([[len(kinds) > 0] for kinds in said["activity_types"]]),
        "quality": np.array(
            [[v not in ("none", None) and bool(v) for v in rows[f]] for f in QUALITY_FLAGS]
        ).T,
    }
    for name in ("activity_types", "intensities"):
        found[name] = np.array([[label in has for label in LABELS[name]] for has in said[name]])
    phases, kinds = np.array(said["volcano_phase"]), np.array(said["atmosphere"])
    found["volcano_phase"] = phases[:, None] == np.array(LABELS["volcano_phase"])
    found["atmosphere"] = kinds[:, None] == np.arange(len(LABELS["atmosphere"]))
    labels = {name: found[name].astype(np.float64) for name in LABELS}
    labels["intensities"][~found["deformation"][:, 0]] = np.nan
    labels["volcano_phase"][~found["volcano_phase"].any(1)] = np.nan
    return labels


def sampling_weights(
    labels: Mapping[str, NDArray[np.float64]],
    balance: str,
    rare_share: float,
    *,
    sizes: Sequence[int] = (),
    rest_share: float = 0.5,
    groups: Sequence[str] = (),
    group_power: float = 0.0,
) -> NDArray[np.float64] | None:
    """How often each row is drawn, up to a factor.

    Args:
        labels: Of `row_labels`, N rows.
        balance: `deformation`: rows with and without it are drawn equally often; or `none`.
        rare_share: Types and flags rarer than this are drawn more often (repeat factors).
        sizes: Rows of each of several sets, one after another, each balanced for itself; N in all.
        rest_share: Share of all draws that are of sets after the first, of each equally often.
        groups: Volcano group of each row.
        group_power: A row of a group of n rows of its set is drawn n^-power times as often, before
            sets and deformation are balanced.

    Returns:
        (N,), or None: equally often.
    """
    count = len(labels["deformation"])
    classes = np.concatenate([labels["activity_types"], labels["quality"]], axis=1)
    factor = np.sqrt(rare_share / np.maximum(classes.mean(0), 1e-9)).clip(min=1)
    weights: NDArray[np.float64] = np.where(classes > 0, factor, 1).max(1)
    deforming = labels["deformation"][:, 0] > 0
    number = np.repeat(np.arange(max(1, len(sizes))), sizes or count)
    parts = [number == i for i in range(number[-1] + 1)]
    for part in parts if group_power else ():
        _, group, members = np.unique(
            np.array(groups)[part], return_inverse=True, return_counts=True
        )
        weights[part] *= members[group] ** -group_power
    for part in parts:
        sides = part & deforming, part & ~deforming
        if balance == "deformation" and all(side.any() for side in sides):
            for side in sides:
                weights[side] /= weights[side].sum()
    rest = len(parts) - 1
    if rest:
        shares = [1 - rest_share] + [rest_share / rest] * rest
        for part, share in zip(parts, shares, strict=True):
            weights[part] *= share / weights[part].sum()
    return None if (weights == weights[0]).all() else weights


def label_shares(
    labels: Mapping[str, NDArray[np.float64]], weights: NDArray[np.float64] | None
) -> dict[str, NDArray[np.float64]]:
    """Share of each label among the draws of which it is known, one more of each kind assumed."""
    shares = {}
    for name, values in labels.items():
        known = ~np.isnan(values[:, 0])
        drawn = np.ones(len(values)) if weights is None else weights * len(weights) / weights.sum()
        sums = (values[known] * drawn[known, None]).sum(0)
        kinds = len(sums) if name in SOFTMAX else 2
        shares[name] = (sums + 1) / (drawn[known].sum() + kinds)
    return shares
