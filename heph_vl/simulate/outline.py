"""What is seen of deformation: the outline of an event's fringes, their number and intensity."""

from dataclasses import dataclass

import contourpy
import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from heph_vl.simulate.sources import FRINGE_M

LOW_FROM, MEDIUM_FROM, HIGH_FROM = 0.5, 1.5, 3.5  # fringes inside the outline
OUTLINE_FRINGES = 0.25  # the outline is the contour of |LOS| at this many fringes ...
OUTLINE_SHARE = 0.12  # ... or at this share of its peak, where that is more
GAP = 3  # lobes up to twice this many native pixels apart are one pattern


@dataclass(frozen=True)
class Outline:
    """Where a pattern is seen, and how strong.

    Args:
        polygon: Corners (x, y) in native pixels, origin at the top left of the image.
        fringe_count: (max - min) of the LOS displacement inside, in fringes.
        toward: Whether the strongest motion inside is toward the satellite.
        seen_share: Share of the outline's pixels that pass `clear` (see `outline`).
    """

    polygon: tuple[tuple[float, float], ...]
    fringe_count: float
    toward: bool
    seen_share: float


def intensity_of(fringe_count: float) -> str | None:
    """Hephaestus' intensity level of a number of fringes; None when too weak to be seen."""
    if fringe_count < LOW_FROM:
        return None
    if fringe_count <= MEDIUM_FROM:
        return "low"
    return "medium" if fringe_count <= HIGH_FROM else "high"


def outline(los: Tensor, visible: Tensor, clear: Tensor, native: tuple[int, int]) -> Outline | None:
    """Outline of the fringes that one event shows.

    The contour of |LOS| at `OUTLINE_FRINGES` of a fringe (or `OUTLINE_SHARE` of the peak), gaps of
    up to six native pixels closed so that the lobes of one source stay together, cut at coasts
    and at the swath's edge; the largest piece of it.

    Args:
        los: (H, W) float32 [m] of the event alone.
        visible: (H, W) bool: inside the swath and not water.
        clear: (H, W) bool: coherent enough for fringes to be seen.
        native: Height and width of the image at native spacing.

    Returns:
        The outline in native pixels, or None when nothing is seen.
    """
    peak = float(torch.where(visible, los.abs(), 0.0).max()) / FRINGE_M
    if peak < LOW_FROM:
        return None
    level = max(min(OUTLINE_FRINGES, 0.5 * peak), OUTLINE_SHARE * peak) * FRINGE_M
    # One sample a native pixel is enough: no source has detail below its depth.
    rows, columns = (
        ((torch.arange(short) + 0.5) * (long / short)).long()
        for short, long in zip(native, los.shape, strict=True)
    )
    land = visible[rows][:, columns].numpy()
    blob = close_gaps((los[rows][:, columns].abs() >= level).numpy() & land, GAP) & land
    pieces, count = ndimage.label(blob, structure=np.ones((3, 3)))
    if count == 0:
        return None
    piece: NDArray[np.bool_] = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    extent = ndimage.find_objects(piece.astype(np.int32))[0]
    polygon = _trace(piece[extent], (extent[1].start, extent[0].start), native)
    if polygon is None:
        return None
    # Count on the full grid, inside the piece's window only.
    index = [(torch.arange(n) * (m / n)).long() for n, m in zip(los.shape, native, strict=True)]
    box = [(i >= side.start) & (i < side.stop) for i, side in zip(index, extent, strict=True)]
    window = tuple(slice(int(b.nonzero()[0]), int(b.nonzero()[-1]) + 1) for b in box)
    inside = torch.from_numpy(piece)[index[0][window[0]]][:, index[1][window[1]]] & visible[window]
    if not bool(inside.any()):
        return None
    values = los[window][inside]
    return Outline(
        polygon,
        float(values.max() - values.min()) / FRINGE_M,
        bool(values[values.abs().argmax()] > 0),
        float(clear[window][inside].float().mean()),
    )


def close_gaps(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Morphological closing by a square: gaps of up to 2 * reach pixels are filled.

    Args:
        mask: (..., H, W) bool.
        reach: Half the side of the square, without its middle [pixels].

    Returns:
        (..., H, W) bool, at least ``mask``.
    """
    grown = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(2 * reach, 2 * reach)] * 2)
    for join in (np.logical_or, np.logical_and):
        for axis in (-1, -2):
            count = grown.shape[axis] - 2 * reach
            moved = np.moveaxis(grown, axis, -1)
            joined = moved[..., :count].copy()
            for shift in range(1, 2 * reach + 1):
                join(joined, moved[..., shift : shift + count], out=joined)
            grown = np.moveaxis(joined, -1, axis)
    return grown


def _trace(
    piece: NDArray[np.bool_], offset: tuple[int, int], native: tuple[int, int]
) -> tuple[tuple[float, float], ...] | None:
    """Corners of the outline of a connected mask that starts at `offset`, slightly smoothed."""
    filled = ndimage.binary_fill_holes(np.pad(piece, 2))
    rings = contourpy.contour_generator(z=ndimage.gaussian_filter(filled * 1.0, 0.7)).lines(0.5)
    areas = [shapely.Polygon(ring) for ring in rings if len(ring) >= 4]
    if not areas:
        return None
    largest = max(areas, key=lambda area: area.area).simplify(0.4)
    if largest.geom_type != "Polygon" or largest.area < 12:  # under 12 px nothing can be read
        return None
    # Padding moved index i to i + 2; the centre of pixel i lies at i + 0.5.
    xy = np.asarray(largest.exterior.coords)[:-1] - 1.5 + np.asarray(offset)
    xy = np.clip(xy, 0.0, (native[1], native[0]))
    return tuple((round(float(x), 1), round(float(y), 1)) for x, y in xy)
