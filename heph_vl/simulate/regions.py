"""Where in the picture an effect is seen: measured on the fields, named as captions name places.

The image is cut into 3 x 3. A strip (a third of the image) is called top, left, right or bottom, a
corner cell top-left and so on, the middle cell center; `everywhere` is the whole image.
"""

import math
from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from heph_vl.data.captions import CELLS, region_box
from heph_vl.simulate.grid import Grid

BLOCKS = 12  # blocks along each side on which strength is measured: 8 km of a 288 px image
AFFECTED = 0.45  # share of a region's visible blocks that must show the effect
WIDESPREAD = 0.6  # share of all visible blocks that makes it `everywhere`
# Standard deviation of the phase in a square from which annotators tell of an atmospheric effect.
# Two real images with a "low" impact have 0.6 rad, noise included, in squares of 6.3 km and 0.8 in
# 10.6 km; twelve with turbulence 0.6 to 0.9 and 0.7 to 1.2.
VISIBLE_RAD, VISIBLE_M = 0.5, 6_300.0
SEEN = 0.15  # share of a block, and of a region, that must be visible to count

_THIRDS = (slice(0, BLOCKS // 3), slice(BLOCKS // 3, 2 * BLOCKS // 3), slice(2 * BLOCKS // 3, None))
_ALL = slice(None)
_STRIPS = {
    "top": (_THIRDS[0], _ALL),
    "left": (_ALL, _THIRDS[0]),
    "right": (_ALL, _THIRDS[2]),
    "bottom": (_THIRDS[2], _ALL),
}
_CELLS = {
    "top-left": (_THIRDS[0], _THIRDS[0]),
    "top-right": (_THIRDS[0], _THIRDS[2]),
    "center": (_THIRDS[1], _THIRDS[1]),
    "bottom-left": (_THIRDS[2], _THIRDS[0]),
    "bottom-right": (_THIRDS[2], _THIRDS[2]),
}


def block_mean(field: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a field over the visible pixels of each block.

    Args:
        field: (H, W) float32.
        visible: (H, W) bool.

    Returns:
        mean: (BLOCKS, BLOCKS), 0 where nothing is visible.
        share: (BLOCKS, BLOCKS) share of visible pixels.
    """
    weight = visible.float()
    pooled = functional.adaptive_avg_pool2d(torch.stack((field * weight, weight))[None], BLOCKS)[0]
    return pooled[0] / pooled[1].clamp_min(1e-6), pooled[1]


def block_spread(field: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation of a field over the visible pixels of each block, and their share."""
    sampled = field[visible]
    centred = field - sampled.mean() if len(sampled) else field
    mean, share = block_mean(centred, visible)
    square, _ = block_mean(centred**2, visible)
    return torch.sqrt((square - mean**2).clamp_min(0.0)), share


def visible_spread(grid: Grid) -> float:
    """Standard deviation [rad] in a block of this grid from which an effect is seen."""
    block_m = math.sqrt(grid.height * grid.dy * grid.width * grid.dx) / BLOCKS
    return float(VISIBLE_RAD * (block_m / VISIBLE_M) ** 0.4)


def name_regions(affected: Tensor, share: Tensor) -> frozenset[str]:
    """Names of the regions where an effect is seen.

    Strips are named where the effect fills enough of them, then corner cells that lie in no named
    strip, then the middle cell; where it fills most of the image it is `everywhere` alone.

    Args:
        affected: (BLOCKS, BLOCKS) bool, blocks that show the effect.
        share: (BLOCKS, BLOCKS) visible share of each block.

    Returns:
        Region names; empty when the effect is not seen in any region.
    """
    counted = share >= SEEN
    if not bool(counted.any()):
        return frozenset()
    if float((affected & counted).sum() / counted.sum()) >= WIDESPREAD:
        return frozenset({"everywhere"})
    strips = [name for name, where in _STRIPS.items() if _fills(affected, counted, where)]
    cells = [
        name
        for name, where in _CELLS.items()
        if _fills(affected, counted, where) and not set(name.split("-")) & set(strips)
    ]
    return frozenset(strips + cells)


def _fills(affected: Tensor, counted: Tensor, where: tuple[slice, slice]) -> bool:
    inside = counted[where]
    total = int(inside.sum())
    if total < max(2.0, SEEN * inside.numel()):
        return False
    return float((affected[where] & inside).sum()) >= AFFECTED * total


def cell_of(polygon: Iterable[tuple[float, float]], native: tuple[int, int]) -> str:
    """The cell of the 3 x 3 grid that holds the middle of a polygon's bounding box.

    Args:
        polygon: Corners (x, y) in native pixels.
        native: Height and width of the image.

    Returns:
        One of the nine cell names, e.g. `top-left`, `left` or `center`.
    """
    xs, ys = zip(*polygon, strict=True)
    column = min(2, int(3 * (min(xs) + max(xs)) / 2 / native[1]))
    row = min(2, int(3 * (min(ys) + max(ys)) / 2 / native[0]))
    words = [("top", "", "bottom")[row], ("left", "", "right")[column]]
    return "-".join(word for word in words if word) or "center"


def block_weight(where: Collection[str]) -> Tensor:
    """How much each block belongs to the named regions, with soft edges.

    Args:
        where: Region names; none, or one that is no place in the grid, means the whole image.

    Returns:
        (BLOCKS, BLOCKS) float32 in [0, 1].
    """
    if not where or not set(where) <= set(CELLS):
        return torch.ones(BLOCKS, BLOCKS)
    inside = torch.zeros(1, 1, BLOCKS, BLOCKS)
    for name in where:
        x0, y0, x1, y1 = region_box(name, (0.0, 0.0, BLOCKS, BLOCKS), strips=True)
        inside[..., round(y0) : round(y1), round(x0) : round(x1)] = 1.0
    blurred = functional.avg_pool2d(functional.pad(inside, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return blurred[0, 0]
