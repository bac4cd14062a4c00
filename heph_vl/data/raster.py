"""Polygons to pixels: class masks and which pixel belongs to which event.

A pixel (column c, row r) covers [c, c + 1) x [r, r + 1) and is inside a polygon if its centre is
(even-odd rule, half-open edges: polygons that share an edge share no pixel and leave none out).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.annotations import ACTIVITY_TYPES, Event, Point

CLASS_IDS = {name: index + 1 for index, name in enumerate(ACTIVITY_TYPES)}


def rasterise(events: Sequence[Event], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Class mask of deformation events.

    Args:
        events: Polygons in pixels; those without one are left out, parts outside are cut.
        size: Width and height in pixels.

    Returns:
        (height, width) uint8: 0 background, else 1 + index of the type in ACTIVITY_TYPES. Where
        polygons overlap the smaller one is on top.
    """
    instances = rasterise_instances(events, size)
    if not any(event.polygon for event in events):
        return instances
    class_of = np.array([0, *(CLASS_IDS[event.type] for event in events)], np.uint8)
    mask: NDArray[np.uint8] = class_of[instances]
    return mask


def rasterise_instances(events: Sequence[Event], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Which event each pixel belongs to.

    Args:
        events: At most 255 events.
        size: Width and height in pixels.

    Returns:
        (height, width) uint8: 0 background, else 1 + index of the smallest event at that pixel.
    """
    width, height = size
    instances = np.zeros((height, width), np.uint8)
    outlined = [(index, event.polygon) for index, event in enumerate(events) if event.polygon]
    for index, polygon in sorted(outlined, key=lambda item: -polygon_area(item[1])):
        fill(instances, polygon, index + 1)
    return instances


def polygon_area(polygon: Sequence[Point]) -> float:
    """Area in square pixels, whatever the sense of rotation."""
    x, y = np.asarray(polygon, np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def fill(image: NDArray[np.uint8], polygon: Sequence[Point], value: int) -> None:
    """Set the pixels inside a polygon, in place.

    A polygon too thin to hold any pixel centre marks the pixel under the middle of its box, so
    that no event is lost when polygons shrink with their image.

    Args:
        image: (H, W) uint8.
        polygon: Corners in pixels of `image`; the part outside is ignored.
        value: What to write.
    """
    height, width = image.shape
    corners = np.asarray(polygon, np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    left, top = np.maximum(np.floor(low).astype(int), 0)
    right, bottom = np.minimum(np.floor(high).astype(int) + 1, (width, height))
    if right <= left or bottom <= top:
        return
    inside = _inside(corners, left, top, right - left, bottom - top)
    if inside.any():
        image[top:bottom, left:right][inside] = value
        return
    column, row = np.floor((low + high) / 2).astype(int)
    # Only a polygon of about a pixel's width is thin; others merely have no part in the image.
    if left <= column < right and top <= row < bottom and (high - low).min() < 2:
        image[row, column] = value


def _inside(
    corners: NDArray[np.float64], left: int, top: int, width: int, height: int
) -> NDArray[np.bool_]:
    """(height, width) bool: pixel centres inside, for the window that starts at (left, top)."""
    # Each edge from its upper end, so that two polygons that share one round it alike.
    ends = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)  # (edges, 2, x and y)
    ends = np.where((ends[:, 0, 1] > ends[:, 1, 1])[:, None, None], ends[:, ::-1], ends)
    (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
    centres = top + np.arange(height) + 0.5
    crosses = (y0 <= centres[:, None]) != (y1 <= centres[:, None])  # (height, edges)
    row, edge = np.nonzero(crosses)
    at = x0[edge] + (centres[row] - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    # A crossing flips every pixel whose centre lies right of it: count flips, then sum along x.
    column = np.clip(np.ceil(at - 0.5 - left).astype(int), 0, width)
    flips = np.zeros((height, width + 1), np.int32)
    np.add.at(flips, (row, column), 1)
    return (np.cumsum(flips[:, :width], axis=1) & 1).astype(bool)
