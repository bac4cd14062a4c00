"""Solve a source so that it shows a given number of fringes inside a given polygon.

An evolution of candidates: geometries drawn from the prior of the kind, all seen at once on a
coarse window around the polygon, are scored by the overlap of their outline with the polygon; the
best are moved and scaled to match its centroid and area (a pattern scales with all its lengths),
varied, and seen again. One of the best is then refined against the outline that
`heph_vl.simulate.outline.outline` draws at full resolution.

Lengths follow the polygon and may leave the prior; what stays is that no source comes closer to
the surface than `SHALLOWEST_M`, dips stay within those of the kind, and fringes stay wide enough
to be seen at native spacing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import shapely
import torch
from torch import Tensor

from heph_vl.errors import HephError
from heph_vl.simulate.candidates import (
    UNGRADED,
    first_candidates,
    look_at,
    scaled,
    vary,
    window_around,
)
from heph_vl.simulate.fields import unit_los
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.outline import LOW_FROM, Outline, intensity_of, outline
from heph_vl.simulate.sources import FRINGE_M, KINDS, Look, Source

STEEPEST = 0.45  # fringes a native pixel: denser ones would average to nothing
ROUNDS = 4
REFINEMENTS = 4  # corrections of one candidate at full resolution
ATTEMPTS = 3  # candidates refined until one has the intensity asked for
NEAR_BEST = 0.03  # overlap lost at most by choosing among the best at random


@dataclass(frozen=True)
class Fit:
    """A source that shows the fringes asked for, as nearly as it can.

    Args:
        source: Its position [m] from the middle of the grid, and geometry.
        fringes: Factor on the source's field of `one_fringe`; its sign is that of the source's
            strength (positive: inflation, opening), and makes the strongest motion inside the
            outline one toward or away from the satellite, as asked.
        fringe_count: Fringes inside the outline: (max - min) of the LOS displacement.
        iou: Intersection over union of the polygon and the source's outline; 0 if none is seen.
    """

    source: Source
    fringes: float
    fringe_count: float
    iou: float


@dataclass(frozen=True)
class _Drawn:
    """A source at a strength, as it is drawn at full resolution.

    Args:
        source: The source, relative to the middle of the whole grid.
        scale: Factor on its LOS displacement at unit strength.
        outline: Its outline in native pixels of the whole image.
    """

    source: Source
    scale: float
    outline: Outline | None


@dataclass(frozen=True)
class _Wanted:
    """What is asked for, at full resolution.

    Args:
        shape: The polygon [native pixels].
        native: Height and width of the image in native pixels.
        grid: The fine grid of the same extent.
        look: From where it is seen.
        fringe_count: Fringes inside the outline.
    """

    shape: shapely.Geometry
    native: tuple[int, int]
    grid: Grid
    look: Look
    fringe_count: float

    @property
    def native_m(self) -> tuple[float, float]:
        """Spacing of native pixels to the east and north [m]."""
        height, width = self.native
        return self.grid.dx * self.grid.width / width, self.grid.dy * self.grid.height / height

    def metres(self, point: shapely.Point) -> tuple[float, float]:
        """East and north [m] from the middle of the grid of a point in native pixels."""
        dx, dy = self.native_m
        return (point.x - self.native[1] / 2) * dx, (self.native[0] / 2 - point.y) * dy

    def iou(self, drawn: _Drawn) -> float:
        """Intersection over union of the polygon and an outline."""
        if drawn.outline is None:
            return 0.0
        other = shapely.make_valid(shapely.Polygon(drawn.outline.polygon))
        return float(other.intersection(self.shape).area / other.union(self.shape).area)

    def keeps_class(self, drawn: _Drawn) -> bool:
        """Whether the fringes are of the intensity asked for, where the kind has one."""
        if drawn.outline is None:
            return False
        asked, got = intensity_of(self.fringe_count), intensity_of(drawn.outline.fringe_count)
        return asked == got or drawn.source.kind in UNGRADED

    def worth(self, drawn: _Drawn) -> float:
        """The overlap, or less than any where the intensity is another."""
        return self.iou(drawn) - (not self.keeps_class(drawn)) - (drawn.outline is None)


def one_fringe(
    source: Source, grid: Grid, look: Look, device: torch.device | str = "cpu"
) -> Tensor:
    """LOS displacement of a source that spans one fringe over the grid.

    Args:
        source: The source.
        grid: Where.
        look: From where it is seen.
        device: Where the field is computed and stays.

    Returns:
        (H, W) float32 [m], positive toward the satellite: max - min is one fringe.
    """
    los = unit_los(source, grid, look, device)
    return los * (FRINGE_M / (los.max() - los.min()))


def fit_source(
    kind: str,
    polygon: Sequence[tuple[float, float]],
    native: tuple[int, int],
    grid: Grid,
    look: Look,
    fringe_count: float,
    toward: bool,
    generator: torch.Generator,
) -> Fit:
    """A source of a kind whose outline is a polygon.

    Args:
        kind: A key of `KINDS`.
        polygon: Corners (x, y) in native pixels, x right and y down from the top left.
        native: Height and width of the image in native pixels.
        grid: The fine grid of the same extent.
        look: From where it is seen.
        fringe_count: Fringes asked for inside the outline, (max - min) of the LOS displacement.
            Fewer are given, if possible of the same intensity, where they would be too dense.
        toward: Whether the strongest motion is toward the satellite.
        generator: Randomness.

    Returns:
        The source, its strength, and how well it fits.

    Raises:
        HephError: If the kind is unknown, the polygon has no area, or the fringes are too few.
    """
    if kind not in KINDS:
        raise HephError("fit_source: kind", f"{kind!r} is unknown", f"use one of {list(KINDS)}")
    shape = shapely.make_valid(shapely.Polygon(polygon)) if len(polygon) >= 3 else None
    if shape is None or shape.area == 0:
        raise HephError("fit_source: polygon", f"{polygon} has no area", "give 3 or more corners")
    if fringe_count < LOW_FROM:
        fix = f"use {LOW_FROM} or more"
        raise HephError("fit_source: fringe_count", f"{fringe_count} cannot be seen", fix)
    window = window_around(shape, native, grid)
    candidates = first_candidates(kind, window, generator)
    sources: list[Source] = []
    scores: list[float] = []
    for turn in range(ROUNDS):
        seen = look_at(candidates, window, look, fringe_count, STEEPEST)
        sources += candidates
        scores += seen.score.tolist()
        if turn < ROUNDS - 1:
            candidates = vary(candidates, seen, window, 0.5**turn, generator)
    order = _order(torch.tensor(scores), generator)
    wanted = _Wanted(shape, native, grid, look, fringe_count)
    best = _Drawn(sources[order[0]], 0.0, None)
    for i in order[:ATTEMPTS]:
        best = max(best, _refine(sources[i], wanted), key=wanted.worth)
        if wanted.keeps_class(best):
            break
    return _fit(best, wanted, toward)


def _order(scores: Tensor, g: torch.Generator) -> list[int]:
    """Candidates to try: those near the best in random order, then the others from the best on."""
    order = scores.argsort(descending=True, stable=True)
    near = int((scores >= scores.max() - NEAR_BEST).sum())
    mixed = order[:near][torch.randperm(near, generator=g)]
    return [*mixed.tolist(), *order[near:].tolist()]


def _refine(source: Source, wanted: _Wanted) -> _Drawn:
    """Scale and place corrected against the real outline; the best of the tries."""
    best = _Drawn(source, 0.0, None)
    for _ in range(REFINEMENTS):
        drawn = _draw(source, wanted)
        best = max(best, drawn, key=wanted.worth)
        if drawn.outline is None:  # too small or too shallow
            source = scaled(source, 1.3)
            continue
        shape = shapely.make_valid(shapely.Polygon(drawn.outline.polygon))
        factor = min(max(math.sqrt(wanted.shape.area / shape.area), 0.7), 1.4)
        if not wanted.keeps_class(drawn):
            factor = max(factor, 1.0) * 1.15  # wider fringes come first
        (east, north), (now_east, now_north) = map(
            wanted.metres, (wanted.shape.centroid, shape.centroid)
        )
        east += (source.east - now_east) * factor
        north += (source.north - now_north) * factor
        source = scaled(Source(source.kind, east, north, source.parameters), factor)
    return best


def _draw(source: Source, wanted: _Wanted) -> _Drawn:
    """The source at the strength that shows the fringes asked for, or as many as it can."""
    grid, native, offset = _crop(wanted)
    height, width = wanted.grid.height, wanted.grid.width
    row, column = (
        o * n // m for o, n, m in zip(offset, (height, width), wanted.native, strict=True)
    )
    moved = replace(
        source,
        east=source.east - (column + grid.width / 2 - width / 2) * grid.dx,
        north=source.north - (height / 2 - row - grid.height / 2) * grid.dy,
    )
    los = unit_los(moved, grid, wanted.look)
    everywhere = torch.ones_like(los, dtype=torch.bool)
    step_m = max(wanted.native_m)
    steep = max(
        float(los.diff(dim=0).abs().max()) / grid.dy, float(los.diff(dim=1).abs().max()) / grid.dx
    )
    limit = STEEPEST * FRINGE_M / (steep * step_m)
    scale = min(wanted.fringe_count * FRINGE_M / float(los.max() - los.min()), limit)
    found = outline(los * scale, everywhere, everywhere, native)
    for _ in range(3):
        count = found.fringe_count if found else 0.5 * wanted.fringe_count
        factor = min(wanted.fringe_count / count, limit / scale)
        if abs(factor - 1.0) < 0.02:
            break
        scale *= factor
        found = outline(los * scale, everywhere, everywhere, native)
    if found:
        polygon = tuple((x + offset[1], y + offset[0]) for x, y in found.polygon)
        found = replace(found, polygon=polygon)
    return _Drawn(source, scale, found)


def _crop(wanted: _Wanted) -> tuple[Grid, tuple[int, int], tuple[int, int]]:
    """The grid around the polygon, its native size, and its native offset (row, column)."""
    x0, y0, x1, y1 = wanted.shape.bounds
    margin = 0.6 * max(x1 - x0, y1 - y0) + 12
    bounds = []
    sizes = zip((y0, x0), (y1, x1), wanted.native, _shape(wanted.grid), strict=True)
    for low, high, native, fine in sizes:
        # Both spacings must divide the crop: three native pixels are ten fine ones.
        unit = native // math.gcd(native, fine)
        first = max(0, int(low - margin) // unit * unit)
        last = min(native, math.ceil((high + margin) / unit) * unit)
        bounds.append((first, last, first * fine // native, last * fine // native))
    (top, bottom, fine_top, fine_bottom), (left, right, fine_left, fine_right) = bounds
    grid = replace(wanted.grid, height=fine_bottom - fine_top, width=fine_right - fine_left)
    return grid, (bottom - top, right - left), (top, left)


def _shape(grid: Grid) -> tuple[int, int]:
    return grid.height, grid.width


def _fit(drawn: _Drawn, wanted: _Wanted, toward: bool) -> Fit:
    los = unit_los(drawn.source, wanted.grid, wanted.look)
    spread = float(los.max() - los.min())
    found = drawn.outline
    if found is None:
        return Fit(drawn.source, drawn.scale * spread / FRINGE_M, 0.0, 0.0)
    sign = 1.0 if found.toward == toward else -1.0
    fringes = sign * drawn.scale * spread / FRINGE_M
    return Fit(drawn.source, fringes, found.fringe_count, wanted.iou(drawn))
