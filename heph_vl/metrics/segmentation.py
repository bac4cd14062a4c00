"""Scores of deformation masks: IoU and F1 per class and binary, and false alarms on the ground.

Only pixels with data count: where there is none a mask can be neither right nor wrong. Pixel
averages sum over all images (large patterns weigh most), image averages take the mean over the
images that show the class (every image weighs the same). What is called deformation on images
without any shows in ``false_area``, the share of valid, undeforming pixels called deformation,
and ``false_alarm_images``, the share of undeforming images with any such pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.errors import HephError
from heph_vl.metrics.bootstrap import Clusters, Floats, Statistic, clusters, group_weights
from heph_vl.metrics.classification import ABSENT, mean_of_classes

CLASSES = ("deformation", *ACTIVITY_TYPES)  # column 0 is binary: any class
METRICS = ("iou", "f1", "iou_image", "f1_image")
FALSE_ALARMS = ("false_area", "false_alarm_images")
_NUM_IDS = len(ACTIVITY_TYPES) + 1

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskCounts:
    """Pixels of one image, or of N images stacked, for each column of CLASSES.

    Args:
        hit: (..., 7) float64, in both masks.
        alarm: (..., 7) in the predicted mask only.
        miss: (..., 7) in the true mask only.
        ground: (...) valid pixels of no class.
        no_data: (...) pixels of the true mask without data, which no other count has.
    """

    hit: Floats
    alarm: Floats
    miss: Floats
    ground: Floats
    no_data: Floats

    @classmethod
    def stack(cls, counts: "Sequence[MaskCounts]") -> "MaskCounts":
        """N images as one, in order."""
        return cls(*(np.stack([getattr(c, name) for c in counts]) for name in vars(counts[0])))

    def empty(self) -> "MaskCounts":
        """What an empty mask gives on the same images."""
        none = np.zeros_like(self.hit)
        return MaskCounts(none, none, self.hit + self.miss, self.ground, self.no_data)


def count_pixels(
    predicted: Mask, truth: Mask, valid: npt.NDArray[np.bool_], where: str = "mask"
) -> MaskCounts:
    """Compare two masks of one image.

    Args:
        predicted: (H, W) uint8 class ids, 0 background, 1..6 as in ACTIVITY_TYPES.
        truth: (H, W) uint8, of the same ids.
        valid: (H, W) bool, where there is data.
        where: How errors name the predicted mask.

    Returns:
        Its counts.

    Raises:
        HephError: If the sizes differ, or the predicted mask has other ids.
    """
    if predicted.shape != truth.shape or valid.shape != truth.shape:
        sizes = [" x ".join(map(str, array.shape[::-1])) for array in (predicted, truth)]
        raise HephError(
            where, f"{sizes[0]} px, its image {sizes[1]} px", "give a mask of the image's size"
        )
    if predicted.size and int(predicted.max()) >= _NUM_IDS:
        raise HephError(
            where, f"class id {int(predicted.max())}", f"use 0 to {_NUM_IDS - 1}: {CLASSES[1:]}"
        )
    pairs = truth[valid].astype(np.intp) * _NUM_IDS + predicted[valid]
    table = np.bincount(pairs, minlength=_NUM_IDS**2).reshape(_NUM_IDS, _NUM_IDS).astype(float)
    same = table.diagonal()[1:]
    hit = np.concatenate([[table[1:, 1:].sum()], same])
    alarm = np.concatenate([[table[0, 1:].sum()], table[:, 1:].sum(axis=0) - same])
    miss = np.concatenate([[table[1:, 0].sum()], table[1:].sum(axis=1) - same])
    lost = np.array(float(((truth > 0) & ~valid).sum()))
    return MaskCounts(hit, alarm, miss, np.array(table[0].sum()), lost)


def score_masks(
    counts: MaskCounts,
    groups: Sequence[str],
    *,
    left_out: Mapping[str, str] | None = None,
    seed: int = 0,
    num_draws: int = 2000,
) -> dict[str, Any]:
    """Scores of N masks beside those of empty ones.

    Args:
        counts: Stacked, of N images, N at least 1.
        groups: Volcano group of each image.
        left_out: Classes that macro averages leave out, and why.
        seed: Of the draws of groups.
        num_draws: Number of resamples.

    Returns:
        ``images``, ``num_groups``, ``pixels_without_data`` (share of the true masks' pixels),
        ``classes`` (``support`` in images, ``support_pixels``, ``predicted_pixels``, ``reason``,
        ``metrics`` with ``model``, ``empty`` and ``minus_empty``, or None), ``macro`` over the
        types that the split has, and ``false_alarms``.
    """
    weights, names = group_weights(np.eye(len(groups), dtype=np.bool_), groups)
    units = clusters(weights, names, seed=seed, num_draws=num_draws)
    empty = counts.empty()
    shown = counts.hit + counts.miss
    lost, seen = float(counts.no_data.sum()), float(shown[:, 0].sum())
    out = dict(left_out or {})
    found: dict[str, Any] = {
        "images": len(groups),
        "num_groups": len(units.names),
        "pixels_without_data": lost / (lost + seen) if lost + seen else None,
        "classes": {},
    }
    for c, name in enumerate(CLASSES):
        support = int((shown[:, c] > 0).sum())
        found["classes"][name] = {
            "support": support,
            "support_pixels": int(shown[:, c].sum()),
            "predicted_pixels": int((counts.hit + counts.alarm)[:, c].sum()),
            "reason": None if support else ABSENT,
            "metrics": _compared(_statistics(counts, c, units), _statistics(empty, c, units), units)
            if support
            else dict.fromkeys(METRICS),
        }
        if not support and c:
            out[name] = ABSENT
    columns = [c for c, name in enumerate(CLASSES) if c and name not in out]
    found["macro"] = {
        "classes": [CLASSES[c] for c in columns],
        "left_out": {name: out[name] for name in CLASSES if name in out},
        "metrics": _compared(_macro(counts, columns, units), _macro(empty, columns, units), units)
        if columns
        else dict.fromkeys(METRICS),
    }
    alarms = _compared(_false_alarms(counts, units), _false_alarms(empty, units), units)
    found["false_alarms"] = {
        name: alarms[name] if np.isfinite(alarms[name]["model"]["value"]) else None
        for name in FALSE_ALARMS
    }
    return found


def _statistics(counts: MaskCounts, column: int, units: Clusters) -> dict[str, Statistic]:
    hit, alarm, miss = (a[:, column] for a in (counts.hit, counts.alarm, counts.miss))
    shown = hit + miss > 0
    iou = np.divide(hit, hit + alarm + miss, out=np.full(len(hit), np.nan), where=shown)
    f1 = np.divide(2 * hit, 2 * hit + alarm + miss, out=np.full(len(hit), np.nan), where=shown)
    needed = units.members.T @ (hit + miss)
    return {
        "iou": _ratio(hit, hit + alarm + miss, units, needed),
        "f1": _ratio(2 * hit, 2 * hit + alarm + miss, units, needed),
        "iou_image": units.mean(iou),
        "f1_image": units.mean(f1),
    }


def _macro(counts: MaskCounts, columns: Sequence[int], units: Clusters) -> dict[str, Statistic]:
    by_class = [_statistics(counts, c, units) for c in columns]
    return {metric: mean_of_classes([one[metric] for one in by_class]) for metric in METRICS}


def _false_alarms(counts: MaskCounts, units: Clusters) -> dict[str, Statistic]:
    alarm, shown = counts.alarm[:, 0], (counts.hit + counts.miss)[:, 0]
    undeforming = (shown == 0) & (counts.no_data == 0)
    any_alarm = np.where(undeforming, (alarm > 0).astype(np.float64), np.nan)
    ground = units.members.T @ counts.ground
    return {
        "false_area": _ratio(alarm, counts.ground, units, ground),
        "false_alarm_images": units.mean(any_alarm),
    }


def _ratio(above: Floats, below: Floats, units: Clusters, needed: Floats) -> Statistic:
    """Ratio of sums; NaN for draws without what is ``needed`` (G,)."""
    top, bottom = (units.members.T @ values for values in (above, below))

    def statistic(draws: Floats) -> Floats:
        total = draws @ bottom
        value: Floats = draws @ top / np.where(total > 0, total, 1)
        return np.where(draws @ needed > 0, value, np.nan)

    return statistic


def _compared(
    model: Mapping[str, Statistic], empty: Mapping[str, Statistic], units: Clusters
) -> dict[str, Any]:
    return {
        name: {
            "model": units.estimate(statistic),
            "empty": units.estimate(empty[name])["value"],
            "minus_empty": units.difference(statistic, empty[name]),
        }
        for name, statistic in model.items()
    }
