"""What the caption of an image still says of a crop of it.

Two kinds of places (DESIGN decision 5): for a deformation pattern a region is a cell of the 3 x 3
grid; for an area effect (noise, atmosphere) it is a third of the image: a strip for top, left,
right and bottom, a cell for the corners and the center. All boxes are (x0, y0, x1, y1) in pixels
of the full image, origin top-left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heph_vl.data.captions.facts import (
    AREA_EFFECTS,
    CELLS,
    Atom,
    CaptionFacts,
    Pattern,
    sort_regions,
)

if TYPE_CHECKING:
    from heph_vl.data.annotations import Event, Point

Box = tuple[float, float, float, float]

_KEPT = 0.25  # share of the crop that a region covers, or of a region inside, for it to be told
_ALL = 0.75  # share of the crop from which an effect is everywhere
_MOST = 0.7  # share of one of the crop's regions from which the effect is told to be there
# Matching costs, in image sizes of distance: by type, then place; intensity decides between near
# ones. Caption and labels of 80 real records disagree on a type or an intensity, so neither is a
# condition.
_INTENSITY_COST = 0.1
_TYPE_COST = 3.0
_UNMATCHED_COST = 10.0
_TIE = 0.05  # assignments nearer than this, in image sizes, cannot be told apart
_UNBOUND = frozenset({"everywhere", "high-altitude"})


@dataclass(frozen=True)
class Crop:
    """Facts of a crop.

    Args:
        facts: What holds in the crop, places relative to the crop.
        ambiguous: Patterns whose polygon is not certain: none of their type, or two as near.
        matches: For each remaining pattern the index of its event, or None.
    """

    facts: CaptionFacts
    ambiguous: int
    matches: tuple[int | None, ...]


def crop(
    facts: CaptionFacts,
    window: Box,
    size: tuple[int, int],
    events: Sequence[Event],
    noise_regions: Iterable[str] | None = None,
) -> Crop:
    """Facts that hold in a window of the image, worded relative to the window.

    An area effect in region R stays if R covers at least 25 % of the crop or at least 25 % of R is
    inside; an effect without a place stays. A pattern follows its event (matched by type, then
    intensity and place): it stays if at least 25 % of the polygon's bounding box is inside, and its
    place is the cell of the polygon's centroid. A pattern without polygon follows its cells.
    `everywhere` and `high-altitude` stay. If no pattern is left and no polygon reaches into the
    crop, `no_deformation` holds; where a sliver of one does, or a pattern's place is unknown,
    neither is said.

    Args:
        facts: Facts of the whole image.
        window: The crop, pixels of the full image.
        size: (width, height) of the full image [px].
        events: Deformation events of the image, polygons in pixels of the full image.
        noise_regions: Regions of noise in the crop, from its coherence (empty: no noise); None
            treats noise like the atmosphere.

    Returns:
        The facts of the crop and how certain they are.

    Raises:
        ValueError: If the window has no area or does not touch the image.
    """
    image: Box = (0.0, 0.0, float(size[0]), float(size[1]))
    if _area(window) <= 0 or _area(_intersection(window, image)) <= 0:
        raise ValueError(f"window {window} has no area in an image of size {size}")
    matches, ambiguous = _match(facts.patterns, events, image)
    whole = _intersection(window, image) == image == window
    patterns, kept_matches, unplaced = [], [], False
    for pattern, match in zip(facts.patterns, matches, strict=True):
        polygon = None if match is None else events[match].polygon
        if whole:
            regions: frozenset[str] | None = pattern.regions
        elif polygon is not None:
            regions = _polygon_regions(pattern, polygon, window)
        else:
            regions = _cell_regions(pattern, window, image)
            unplaced |= regions is None and not pattern.regions & set(CELLS)
        if regions is not None:
            patterns.append(Pattern(pattern.type, pattern.intensity, regions))
            kept_matches.append(match)
    scene = _scene(facts, window, image, noise_regions)
    reached = any(e.polygon and _share_inside(e.polygon, window) > 0 for e in events)
    if facts.patterns and not (patterns or reached or unplaced):
        scene |= {("no_deformation",)}
    return Crop(CaptionFacts(scene, tuple(patterns)), ambiguous, tuple(kept_matches))


def _scene(
    facts: CaptionFacts, window: Box, image: Box, noise_regions: Iterable[str] | None
) -> frozenset[Atom]:
    atoms: set[Atom] = {atom for atom in facts.scene if atom[0] not in AREA_EFFECTS}
    for effect in {atom[0] for atom in facts.scene if atom[0] in AREA_EFFECTS}:
        if effect == "noise" and noise_regions is not None:
            continue
        regions = facts.regions_of(effect)
        told = {word for region in regions for word in _reword(region, window, image)}
        if told or not regions:
            atoms |= {(effect,), *((effect, region) for region in told)}
    atoms |= {("noise", region) for region in noise_regions or ()}
    return frozenset(atoms)


def _reword(region: str, window: Box, image: Box) -> set[str]:
    """The crop's own words for the part of an area effect's region that is inside."""
    if region in _UNBOUND:
        return {region}
    box = region_box(region, image, strips=True)
    inside = _intersection(box, window)
    covered = _area(inside) / _area(window)
    if max(covered, _area(inside) / _area(box)) < _KEPT:
        return set()
    if covered >= _ALL:
        return {"everywhere"}
    # Regions that are mostly covered, without those that are part of another; if there are none,
    # the one most like the part inside (intersection over union; all of them on a tie).
    boxes = {cell: region_box(cell, window, strips=True) for cell in CELLS}
    shared = {cell: _area(_intersection(inside, boxes[cell])) for cell in CELLS}
    chosen = {cell for cell in CELLS if shared[cell] >= _MOST * _area(boxes[cell])}
    if chosen:
        return {
            cell
            for cell in chosen
            if not any(
                _intersection(boxes[cell], boxes[other]) == boxes[cell] for other in chosen - {cell}
            )
        }
    likeness = {
        cell: shared[cell] / (_area(inside) + _area(boxes[cell]) - shared[cell]) for cell in CELLS
    }
    best = max(likeness.values())
    return {cell for cell in CELLS if likeness[cell] >= best - 1e-9}


def _polygon_regions(
    pattern: Pattern, polygon: Sequence[Point], window: Box
) -> frozenset[str] | None:
    """Place of a pattern whose polygon is known; None where it is mostly outside."""
    if not shows(polygon, window):
        return None
    return pattern.regions & _UNBOUND | {_cell_at(_centroid(polygon), window)}


def _cell_regions(pattern: Pattern, window: Box, image: Box) -> frozenset[str] | None:
    """Place of a pattern without polygon, from the cells its caption names."""
    regions = set(pattern.regions & {"everywhere"})
    for region in sort_regions(pattern.regions - _UNBOUND):
        box = region_box(region, image, strips=False)
        inside = _intersection(box, window)
        if max(_area(inside) / _area(box), _area(inside) / _area(window)) >= _KEPT:
            center = (inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2
            regions.add(_cell_at(center, window))
    return frozenset(regions | pattern.regions & {"high-altitude"}) if regions else None


def _match(
    patterns: Sequence[Pattern], events: Sequence[Event], image: Box
) -> tuple[list[int | None], int]:
    """Event of each pattern, and the number of patterns for which it is not certain."""
    if not patterns:
        return [], 0
    from scipy.optimize import linear_sum_assignment  # slow to import

    cost = np.array([[_cost(p, e, image) for e in events] for p in patterns])
    cost = cost.reshape(len(patterns), len(events))
    # One column of leaving each pattern unmatched.
    padded = np.hstack([cost, np.full((len(patterns),) * 2, _UNMATCHED_COST)])
    columns = linear_sum_assignment(padded)[1].tolist()
    matches = [j if j < len(events) else None for j in columns]
    uncertain = [_is_uncertain(i, matches, patterns, cost) for i in range(len(patterns))]
    return matches, sum(uncertain)


def _cost(pattern: Pattern, event: Event, image: Box) -> float:
    """How badly an event fits: distance to the pattern's nearest cell center, and penalties."""
    if event.polygon is None:
        return 2 * _UNMATCHED_COST
    x, y = _centroid(event.polygon)
    centers = [_center(region_box(r, image, strips=False)) for r in pattern.regions - _UNBOUND]
    distance = min(
        (float(np.hypot((x - cx) / image[2], (y - cy) / image[3])) for cx, cy in centers),
        default=0.0,
    )
    differs = None not in (pattern.intensity, event.intensity) and (
        pattern.intensity != event.intensity
    )
    mistyped = pattern.type not in (event.type, "unspecified")
    return distance + _INTENSITY_COST * differs + _TYPE_COST * mistyped


def _is_uncertain(
    i: int, matches: Sequence[int | None], patterns: Sequence[Pattern], cost: np.ndarray
) -> bool:
    """Whether another event would do for pattern i as well, and say something else."""
    own = matches[i]
    if own is None or cost[i, own] >= _TYPE_COST:
        return True
    owners = {j: m for m, j in enumerate(matches) if j is not None}
    for j in range(cost.shape[1]):
        rival = owners.get(j)
        if j == own or cost[i, j] >= _TYPE_COST:
            continue
        if rival is None:
            extra = cost[i, j] - cost[i, own]
        elif (patterns[rival].type, patterns[rival].intensity) == (
            patterns[i].type,
            patterns[i].intensity,
        ):
            continue  # twins may trade polygons: the facts stay the same
        else:
            extra = cost[i, j] + cost[rival, own] - cost[i, own] - cost[rival, j]
        if extra < _TIE:
            return True
    return False


def shows(polygon: Sequence[Point], window: Box) -> bool:
    """Whether a window shows enough of a polygon to tell of it: a quarter of its bounding box."""
    return _share_inside(polygon, window) >= _KEPT


def region_box(region: str, frame: Box, *, strips: bool) -> Box:
    """Box that a region means in a frame.

    Args:
        region: One of `REGIONS`.
        frame: The image, or a crop of it.
        strips: Whether a side is a whole strip (area effects) or a grid cell (patterns).

    Returns:
        The box; the whole frame for a region that is no place in the grid.
    """
    if region in _UNBOUND:
        return frame
    x0, y0, x1, y1 = frame
    column = 0 if "left" in region else 2 if "right" in region else 1
    row = 0 if "top" in region else 2 if "bottom" in region else 1
    xs = (x0 + (x1 - x0) * column / 3, x0 + (x1 - x0) * (column + 1) / 3)
    ys = (y0 + (y1 - y0) * row / 3, y0 + (y1 - y0) * (row + 1) / 3)
    if strips and region in ("top", "bottom"):
        xs = (x0, x1)
    if strips and region in ("left", "right"):
        ys = (y0, y1)
    return xs[0], ys[0], xs[1], ys[1]


def _cell_at(point: tuple[float, float], frame: Box) -> str:
    """Cell of the frame at a point; the nearest one for a point outside."""
    x0, y0, x1, y1 = frame
    column = min(max(int(3 * (point[0] - x0) / (x1 - x0)), 0), 2)
    row = min(max(int(3 * (point[1] - y0) / (y1 - y0)), 0), 2)
    return CELLS[3 * row + column]


def _share_inside(polygon: Sequence[Point], window: Box) -> float:
    """Share of the polygon's bounding box inside the window; at least one pixel a side."""
    xs, ys = zip(*polygon, strict=True)
    box = (min(xs), min(ys), max(max(xs), min(xs) + 1), max(max(ys), min(ys) + 1))
    return _area(_intersection(box, window)) / _area(box)


def _centroid(polygon: Sequence[Point]) -> tuple[float, float]:
    """Centroid of the enclosed area; of the vertices where the area is zero."""
    x, y = np.asarray(polygon, dtype=np.float64).T
    # Relative to the first vertex: far from the origin the products would cancel.
    dx, dy = x - x[0], y - y[0]
    cross = dx * np.roll(dy, -1) - np.roll(dx, -1) * dy
    area = cross.sum() / 2
    if abs(area) < 1e-9:
        return float(x.mean()), float(y.mean())
    cx = ((dx + np.roll(dx, -1)) * cross).sum() / (6 * area)
    cy = ((dy + np.roll(dy, -1)) * cross).sum() / (6 * area)
    return float(x[0] + cx), float(y[0] + cy)


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
