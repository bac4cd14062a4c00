"""Candidates for a source whose outline is a polygon, seen in a coarse window around it.

The search of `heph_vl.simulate.fit`: geometries from the prior of the kind, scored by the overlap
of their outlines with the polygon; the best are moved and scaled to match its centroid and area (a
pattern scales with all its lengths), varied, and seen again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import shapely
import torch
from scipy import ndimage
from torch import Tensor

from heph_vl.simulate.fields import los_batch
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.outline import (
    GAP,
    HIGH_FROM,
    LOW_FROM,
    MEDIUM_FROM,
    OUTLINE_FRINGES,
    OUTLINE_SHARE,
    close_gaps,
)
from heph_vl.simulate.sources import KINDS, Look, Parameters, Source

SHALLOWEST_M = 300.0  # depth of a source's top
CANDIDATES = 28  # geometries a round
ELITE = 6  # of them that the next round varies
WINDOW = 44  # pixels of a candidate's coarse window
UNGRADED = ("earthquake",)  # kinds whose records have no intensity to keep

_LENGTHS = ("depth", "top", "length", "width", "radius", "east", "north")
_ANGLES = {"strike": 15.0, "rake": 10.0, "azimuth": 20.0, "dip": 5.0, "tilt": 5.0}  # variation, deg
_DIPS = {"sill": (0.0, 15.0), "dyke": (70.0, 90.0), "earthquake": (20.0, 90.0)}


@dataclass(frozen=True)
class Window:
    """The polygon on a coarse square of pixels around it.

    Args:
        east: (WINDOW,) [m] from the middle of the grid.
        north: (WINDOW,) [m].
        target: (WINDOW, WINDOW) bool, inside the polygon.
        native_m: Mean spacing of native pixels [m].
    """

    east: Tensor
    north: Tensor
    target: Tensor
    native_m: float

    @property
    def shallowest_m(self) -> float:
        """Depth above which the window could not resolve a source."""
        return max(SHALLOWEST_M, self.pixel_m)

    @property
    def pixel_m(self) -> float:
        """Spacing [m]."""
        return float(self.east[1] - self.east[0])


@dataclass(frozen=True)
class Seen:
    """What candidates show in the window.

    Args:
        score: (B,) overlap with the polygon, less what the fringes fall short of the class.
        short: (B,) share of the fringes that are missing for the class.
        area: (B,) of the outlines [m2].
        east: (B,) of their centroids [m].
        north: (B,) of their centroids [m].
    """

    score: Tensor
    short: Tensor
    area: Tensor
    east: Tensor
    north: Tensor


def window_around(shape: shapely.Geometry, native: tuple[int, int], grid: Grid) -> Window:
    """The window: the polygon's box and its surroundings, at least three native pixels wide."""
    x0, y0, x1, y1 = shape.bounds
    dx, dy = grid.dx * grid.width / native[1], grid.dy * grid.height / native[0]
    half = 0.8 * max((x1 - x0) * dx, (y1 - y0) * dy) + 3 * dy
    side = (torch.arange(WINDOW) - (WINDOW - 1) / 2) * (2 * half / WINDOW)
    x = (x0 + x1) / 2 + side / dx
    y = (y0 + y1) / 2 + side / dy
    inside = shapely.contains_xy(shape, *np.meshgrid(x.numpy(), y.numpy()))
    east, north = (x - native[1] / 2) * dx, (native[0] / 2 - y) * dy
    return Window(east, north, torch.from_numpy(inside), math.sqrt(dx * dy))


def first_candidates(kind: str, window: Window, g: torch.Generator) -> list[Source]:
    """Candidates from the prior, in the middle of the polygon and about as large as it."""
    area, east, north = (float(v[0]) for v in _moments(window.target[None], window))
    radius = math.sqrt(area / math.pi)
    candidates = []
    for _ in range(CANDIDATES):
        p = KINDS[kind].prior(g)
        candidates.append(
            scaled(Source(kind, east, north, p), radius / _reach(p), window.shallowest_m)
        )
    return candidates


def _reach(p: Parameters) -> float:
    """About the radius of the outline of a source [m]."""
    if "parts" in p:
        return max(_reach(part) + math.hypot(part["east"], part["north"]) for part in p["parts"])
    size = 0.5 * math.sqrt(p.get("length", 0.0) * p.get("width", 0.0))
    return float(p["depth"] + size + (p.get("radius", 0.0) if "aspect" not in p else 0.0))


def scaled(source: Source, factor: float, shallowest_m: float = SHALLOWEST_M) -> Source:
    """The same source with all its lengths changed, its top kept at a depth or below.

    Args:
        source: The source.
        factor: Factor on its lengths.
        shallowest_m: Least depth of its top [m].

    Returns:
        The new source, at the same place.
    """
    p = _scale_lengths(source.parameters, factor)
    top = min(_top(part) for part in p.get("parts", [p]))
    if top < shallowest_m:
        p = _map_parts(p, lambda part: part | {"depth": part["depth"] + shallowest_m - top})
    return replace(source, parameters=_map_parts(p, _settled))


def _scale_lengths(p: Parameters, factor: float) -> Parameters:
    return _map_parts(p, lambda q: {k: v * factor if k in _LENGTHS else v for k, v in q.items()})


def _map_parts(p: Parameters, change: Callable[[Parameters], Parameters]) -> Parameters:
    if "parts" in p:
        return {"parts": [change(part) for part in p["parts"]]}
    return change(p)


def _top(p: Parameters) -> float:
    return float(p["depth"] - p.get("width", 0.0) / 2 * math.sin(math.radians(p.get("dip", 0.0))))


def _settled(p: Parameters) -> Parameters:
    return p | {"top": _top(p)} if "top" in p else p


def vary(
    candidates: list[Source], seen: Seen, window: Window, spread: float, g: torch.Generator
) -> list[Source]:
    """The best ones matched to the polygon's area and centroid, and variations of them."""
    area, east, north = (float(v[0]) for v in _moments(window.target[None], window))
    best = seen.score.topk(ELITE).indices.tolist()
    matched = []
    for i in best:
        source = candidates[i]
        factor = min(max(math.sqrt(area / max(float(seen.area[i]), 1.0)), 0.5), 2.0)
        if source.kind not in UNGRADED:
            factor *= 1.0 + min(float(seen.short[i]), 0.5)  # wider fringes can be more
        # The source keeps its place within its own outline, which changes size.
        place = (
            east + (source.east - float(seen.east[i])) * factor,
            north + (source.north - float(seen.north[i])) * factor,
        )
        matched.append(
            scaled(Source(source.kind, *place, source.parameters), factor, window.shallowest_m)
        )
    varied = [
        _varied(matched[i % ELITE], spread, math.sqrt(area), window.shallowest_m, g)
        for i in range(CANDIDATES - ELITE)
    ]
    return matched + varied


def _varied(
    source: Source, spread: float, size: float, shallowest_m: float, g: torch.Generator
) -> Source:
    """A source with its lengths, angles and place changed a little, each by its own draw."""

    def change(p: Parameters) -> Parameters:
        new = dict(p)
        keys = [k for k in p if (k in _LENGTHS and k != "top") or k in _ANGLES]
        for key, draw in zip(keys, torch.randn(len(keys), generator=g).tolist(), strict=True):
            if key in _ANGLES:
                new[key] = p[key] + 2 * _ANGLES[key] * spread * draw
            else:
                new[key] = p[key] * math.exp(0.35 * spread * draw)
        if "dip" in p:
            low, high = _DIPS.get(source.kind, (0.0, 90.0))
            new["dip"] = min(max(new["dip"], low), high)
        if "tilt" in p:
            new["tilt"] = min(max(new["tilt"], 0.0), 90.0)
        return new

    shift = 0.05 * spread * size * torch.randn(2, generator=g)
    moved = Source(
        source.kind,
        source.east + float(shift[0]),
        source.north + float(shift[1]),
        _map_parts(source.parameters, change),
    )
    return scaled(moved, 1.0, shallowest_m)


def _moments(mask: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor]:
    """Areas [m2] and centroids (east, north) [m] of masks (B, WINDOW, WINDOW)."""
    count = mask.sum((1, 2)).clamp_min(1).float()
    east = (mask.sum(1) * window.east).sum(1) / count
    north = (mask.sum(2) * window.north).sum(1) / count
    return count * window.pixel_m**2, east, north


def look_at(
    candidates: list[Source], window: Window, look: Look, fringe_count: float, steepest: float
) -> Seen:
    """Outlines of the candidates at the strength that shows the fringes asked for."""
    los = los_batch(candidates, window.east, window.north, look).nan_to_num()
    los = los / los.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    mask, peak, count = _solve(los, window, fringe_count)
    native = window.native_m / window.pixel_m
    steep = torch.maximum(los.diff(dim=1).abs().amax((1, 2)), los.diff(dim=2).abs().amax((1, 2)))
    weaker = (0.95 * steepest / (steep * peak * native)).clamp(max=1.0)
    both = (mask & window.target).sum((1, 2))
    iou = both / (mask | window.target).sum((1, 2))
    # What the fringes must reach to stay in the class, and how far they fall short of it.
    short = (1.0 - count * weaker / least_of_class(fringe_count)).clamp_min(0.0)
    weight = 0.0 if candidates[0].kind in UNGRADED else 2.0
    return Seen(iou - weight * short, short, *_moments(mask, window))


def least_of_class(fringe_count: float) -> float:
    """A count that is safely in the intensity class of another."""
    level = max(v for v in (LOW_FROM, MEDIUM_FROM, HIGH_FROM) if v <= fringe_count)
    return min(1.05 * level, fringe_count)


def _solve(los: Tensor, window: Window, fringe_count: float) -> tuple[Tensor, Tensor, Tensor]:
    """Outlines (B, H, W), peak |LOS| and count [fringes] (B,) of fields with peak 1."""
    peak = torch.full((len(los),), fringe_count)
    mask, count = _cut(los, peak)
    for _ in range(2):
        peak = peak * (fringe_count / count).clamp(0.3, 3.0)
        mask, count = _cut(los, peak)
    reach = round(GAP * window.native_m / window.pixel_m)
    mask = _largest(torch.from_numpy(close_gaps(mask.numpy(), reach)))
    return mask, peak, _span(los, mask) * peak


def _cut(los: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """What passes the level of an outline, and the fringes in it."""
    level = (0.5 * peak).clamp(max=OUTLINE_FRINGES).maximum(OUTLINE_SHARE * peak) / peak
    mask = los.abs() >= level[:, None, None]
    return mask, _span(los, mask) * peak


def _span(los: Tensor, mask: Tensor) -> Tensor:
    high = torch.where(mask, los, -1.0).amax((1, 2))
    low = torch.where(mask, los, 1.0).amin((1, 2))
    return (high - low).clamp_min(1e-3)


def _largest(mask: Tensor) -> Tensor:
    """The largest piece of each mask (B, H, W)."""
    joined = np.zeros((3, 3, 3), dtype=int)
    joined[1] = 1  # neighbours in the plane, not across the batch
    pieces, count = ndimage.label(mask.numpy(), structure=joined)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = sizes[pieces].max((1, 2), keepdims=True)
    return torch.from_numpy((sizes[pieces] == largest) & (pieces > 0))
