"""Labels and a mask to caption facts: what a classifier and a segmenter can say in words.

Image-level labels do not tell where noise or turbulence is. Where the annotators nearly always say
the same of a label, that is said; otherwise the place stays open. How often they do, counted on the
captions of the training part of the grouped split:

    corrupted                           nothing but that                             99 %
    no information                      that and noise, nothing else                 74 %
    turbulence, no deformation          everywhere                                  100 %
    stratification, no deformation      at high altitude                            100 %
    both, no deformation                both everywhere                             100 %
    stratification alone, deformation   at high altitude                             51 %
    turbulence or both, deformation     no place (the commonest has 26 to 31 %)
    no atmosphere, deformation          low atmospheric impact                       90 %
    low coherence                       noise, no place (9 % say the center)        100 %
    processing error                    swath merging, the commoner of two kinds     74 %

True labels and masks so give fact F1 0.967 on the test part (0.943 on the training part), patterns
alone 0.93 (0.89); without any place of an area effect 0.794, with `everywhere` for all of them
0.934. Optimistic in the cells: annotations hold no image sizes, so these were fitted to captions.

A pattern is a connected component of the mask: its type is the commonest class, its place the cell
of the 3 x 3 grid at the middle of its box. The intensity is the likeliest one for each pattern;
earthquakes have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.captions.facts import CELLS, MAX_PATTERNS, Atom, CaptionFacts, Pattern

MIN_PIXELS = 16  # smaller components are specks: real outlines have about 100 and more
_FLAG_ATOMS: dict[str, Atom] = {
    "low_coherence": ("noise",),
    "processing_error": ("processing_error", "swath_merging"),
    "image_artifacts": ("image_artifacts",),
    "orbital_fringes": ("orbital_fringes",),
    "glacier_fringes": ("glacier_fringes",),
}
_EVERYWHERE = "everywhere"


def facts_from_labels(
    labels: Mapping[str, Any],
    mask: npt.NDArray[np.uint8] | None = None,
    thresholds: Mapping[str, Any] | None = None,
    *,
    min_pixels: int = MIN_PIXELS,
) -> CaptionFacts:
    """Facts that labels and a mask support.

    Args:
        labels: Probabilities in [0, 1] as in a line of `predictions.jsonl`: `deformation`,
            `activity_types`, `intensities`, `atmosphere` and `quality`, the last four by name.
            What is not there is not said.
        mask: (H, W) uint8 class ids, 0 background, 1..6 as in ACTIVITY_TYPES; or None.
        thresholds: Of `deformation`, and of `activity_types` and `quality` by name; 0.5 if absent.
        min_pixels: Smaller components of the mask are left out.

    Returns:
        Facts; `compose` makes a caption of them. Deformation is told if its probability reaches
        the threshold, whatever the mask has; without a component its types come from the labels
        and have no place. At most MAX_PATTERNS patterns, the largest first.
    """
    limits = thresholds or {}
    quality, flag_limits = labels.get("quality", {}), limits.get("quality", {})
    flags = {name for name, p in quality.items() if p >= flag_limits.get(name, 0.5)}
    if "corrupted" in flags:
        return CaptionFacts(frozenset({("corrupted",)}))
    if "no_info" in flags:
        return CaptionFacts(frozenset({("no_information",), ("noise",)}))
    deforming = labels["deformation"] >= limits.get("deformation", 0.5)
    scene = {atom for name, atom in _FLAG_ATOMS.items() if name in flags}
    scene |= _atmosphere(labels.get("atmosphere", {}), deforming)
    if not deforming:
        return CaptionFacts(frozenset(scene | {("no_deformation",)}))
    kinds = _placed(mask, min_pixels) if mask is not None else []
    kinds = kinds or [(kind, None) for kind in _types(labels, limits)]
    level = _likeliest(labels.get("intensities", {}))
    patterns = tuple(
        Pattern(
            kind,
            None if kind == "earthquake" else level,
            frozenset() if cell is None else frozenset({cell}),
        )
        for kind, cell in kinds[:MAX_PATTERNS]
    )
    return CaptionFacts(frozenset(scene), patterns)


def _atmosphere(probabilities: Mapping[str, float], deforming: bool) -> set[Atom]:
    name = _likeliest(probabilities)
    vertical: Atom = ("vertical_stratification",)
    turbulent: Atom = ("turbulent_mixing",)
    if name == "vertical_stratification":
        return {(*vertical, "high-altitude")}
    if name == "turbulent_mixing":
        return {turbulent} if deforming else {(*turbulent, _EVERYWHERE)}
    if name == "both":
        both = {vertical, turbulent}
        return both if deforming else {(*effect, _EVERYWHERE) for effect in both}
    return {("low_atmospheric_impact",)} if name == "none" and deforming else set()


def _placed(mask: npt.NDArray[np.uint8], min_pixels: int) -> list[tuple[str, str | None]]:
    """Type and cell of each component, the largest first."""
    from scipy import ndimage

    height, width = mask.shape
    component, number = ndimage.label(mask > 0, np.ones((3, 3)))
    found = []
    boxes = ndimage.find_objects(component)
    for index, (rows, columns) in zip(range(1, number + 1), boxes, strict=True):
        part = mask[rows, columns][component[rows, columns] == index]
        if len(part) < min_pixels:
            continue
        kind = ACTIVITY_TYPES[int(np.bincount(part).argmax()) - 1]
        # The middle of [start, stop) in thirds of the side; exact in integers.
        row = min(3 * (rows.start + rows.stop) // (2 * height), 2)
        column = min(3 * (columns.start + columns.stop) // (2 * width), 2)
        found.append((len(part), kind, CELLS[3 * row + column]))
    return [(kind, cell) for _, kind, cell in sorted(found, key=lambda item: -item[0])]


def cell_of(polygon: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """The place of an outline: where the middle of its box lies.

    Args:
        polygon: Corners (x, y) [px].
        size: Width and height of the image [px].

    Returns:
        One of CELLS.
    """
    column, row = (
        min(2, max(0, int(1.5 * (min(axis) + max(axis)) / side)))
        for axis, side in zip(zip(*polygon, strict=True), size, strict=True)
    )
    return CELLS[3 * row + column]


def _types(labels: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """Types above their thresholds, else the likeliest, in the order of ACTIVITY_TYPES."""
    types = labels.get("activity_types", {})
    by_name = limits.get("activity_types", {})
    present = [k for k in ACTIVITY_TYPES if types.get(k, 0) >= by_name.get(k, 0.5)]
    return present or [_likeliest(types) or "unspecified"]


def _likeliest(probabilities: Mapping[str, float]) -> str | None:
    return max(probabilities, key=probabilities.__getitem__) if probabilities else None
