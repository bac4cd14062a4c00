"""The footprint of the radar swath: sub-swaths, bursts, and where a frame has data.

Interferometric Wide frames are assembled from bursts in three sub-swaths of about 83 km across.
The beam visits the sub-swaths in turn, so the bursts of each start a third of a burst later than
those of its neighbour on the near side: hence the stairs along the first and the last bursts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from heph_vl.simulate.grid import Grid, uniform

BURST_M = 18.7e3  # along track from burst to burst: 2.758 s at 6.8 km/s over ground
SUB_SWATH_M = 83e3
WHOLE_M = 190e3  # an image this wide across the track shows a whole frame, else a cut of one
LEAST_SHARE = 0.5  # of the grid inside; whole frames at 64 degrees of latitude fill 0.62


def burst_geometry(
    grid: Grid, heading_deg: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which sub-swath and which burst every pixel belongs to, inside the footprint or not.

    A missing burst, or a phase step between sub-swaths, follows the edges of these.

    Args:
        grid: Where.
        heading_deg: Flight azimuth [deg, clockwise from north].
        generator: Randomness.

    Returns:
        Sub-swath (H, W) int8, 0 at near range to 2 at far range (the radar looks to the right),
        and burst (H, W) int16, counted along the flight in each sub-swath; those of the frame
        that the grid shows begin with about 0.
    """
    (east_along, north_along), (east_across, north_across) = _axes(grid, heading_deg)
    length, width, whole = _swath(grid, heading_deg)
    step = length / _num_bursts(length)
    if whole:  # sub-swath 1 is centred, its neighbours end a third of a burst off
        near, sub_swath_m, phase = -width / 2, width / 3, 1 / 3
    else:  # the middle of the grid is well inside a frame
        inside = 0.2 * min(width, SUB_SWATH_M)
        near = -uniform(inside, 3 * SUB_SWATH_M - inside, generator)
        sub_swath_m, phase = SUB_SWATH_M, uniform(0.0, 1.0, generator)
    beyond = [east_across > near + k * sub_swath_m - north_across for k in (1, 2)]
    sub_swath = beyond[0].view(torch.int8) + beyond[1].view(torch.int8)
    burst = east_along / step + ((north_along + length / 2) / step + phase)
    return sub_swath, burst.sub_(sub_swath, alpha=1 / 3).floor_().to(torch.int16)


def swath_footprint(
    grid: Grid,
    heading_deg: float,
    bursts: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    keep: Tensor | None = None,
) -> Tensor:
    """Where the frame has data: whole bursts of a swath that is turned by the heading.

    An image of a whole frame just holds its swath; a smaller one is cut from a frame at random,
    with about half of the edges in view.

    Args:
        grid: Where.
        heading_deg: Flight azimuth [deg, clockwise from north].
        bursts: From `burst_geometry` for the same grid and heading.
        generator: Randomness.
        keep: (H, W) bool that must be inside: edges move outward as far as it needs.

    Returns:
        (H, W) bool, True inside. At least `LEAST_SHARE` of the grid is.
    """
    sub_swath, burst = bursts
    east, north = _axes(grid, heading_deg)[1]
    thin = slice(None, None, 1 + min(grid.height, grid.width) // 150)
    few = sub_swath[thin, thin], burst[thin, thin], east[:, thin], north[thin]
    sides = _draw_sides(grid, heading_deg, few[0], few[2] + few[3], generator)
    edges = _draw_edges(grid, heading_deg, sides, generator)
    if keep is not None:
        rows, columns = keep.nonzero(as_tuple=True)
        across = east[0, columns] + north[rows, 0]
        edges = edges.around(sub_swath[rows, columns], burst[rows, columns], across, grid.dy)
    while float(edges.inside(*few).float().mean()) < LEAST_SHARE:
        edges = edges.wider()
    return edges.inside(sub_swath, burst, east, north)


@dataclass(frozen=True)
class _Edges:
    """Where the frame ends.

    Args:
        ends: (3, 2) first and last burst of each sub-swath.
        sides: Left and right side [m across the track].
        drift: (num_drifts,) [m] how far to the left each burst lies, from burst 0 on and around:
            small stairs on the sides as well.
    """

    ends: Tensor
    sides: tuple[float, float]
    drift: Tensor

    def inside(self, sub_swath: Tensor, burst: Tensor, east: Tensor, north: Tensor) -> Tensor:
        """(H, W) bool; `east` (1, W) + `north` (H, 1) is the distance across the track [m]."""
        base, top = (int(bound) for bound in burst.aminmax())
        number = torch.arange(base, top + 1)
        drift = self.drift[number.remainder(len(self.drift))]
        used = (number >= self.ends[:, :1]) & (number <= self.ends[:, 1:])
        # One look-up for ends and drift: what is compared with NaN is outside.
        table = torch.where(used, drift, torch.nan).flatten()
        result = torch.empty(burst.shape, dtype=torch.bool)
        for start in range(0, len(burst), 64):  # blocks that fit the cache: three times faster
            at = slice(start, start + 64)
            place = sub_swath[at].int().mul_(len(number)).add_(burst[at]).sub_(base)
            shifted = table.index_select(0, place.flatten()).view(place.shape).add_(east)
            result[at] = (shifted > self.sides[0] - north[at]) & (
                shifted < self.sides[1] - north[at]
            )
        return result

    def around(self, sub_swath: Tensor, burst: Tensor, across: Tensor, margin: float) -> "_Edges":
        """Moved outward until they hold the given pixels, `margin` [m] beside the sides."""
        if not len(burst):
            return self
        ends = self.ends.clone()
        for index in range(3):
            here = burst[sub_swath == index]
            if len(here):
                ends[index, 0] = min(int(ends[index, 0]), int(here.min()))
                ends[index, 1] = max(int(ends[index, 1]), int(here.max()))
        low = min(self.sides[0], float(across.min() + self.drift.min()) - margin)
        high = max(self.sides[1], float(across.max() + self.drift.max()) + margin)
        return _Edges(ends, (low, high), self.drift)

    def wider(self) -> "_Edges":
        """Moved outward by a burst, and by a tenth sideways."""
        low, high = self.sides
        return _Edges(self.ends + torch.tensor([-1, 1]), (1.1 * low, 1.1 * high), self.drift)


def _draw_edges(
    grid: Grid, heading_deg: float, sides: tuple[float, float], generator: torch.Generator
) -> _Edges:
    length, _, whole = _swath(grid, heading_deg)
    number = _num_bursts(length)
    if whole:  # some sub-swaths have a burst or two less
        odds, cut = [0.75, 0.2, 0.05], torch.zeros(2)
    else:  # a cut shows one end at most: frames are longer
        odds, cut = [0.6, 0.4], number * (1.35 * torch.rand(2, generator=generator) - 1.0)
        cut[int(torch.randint(0, 2, (), generator=generator))] = -number
    fewer = torch.multinomial(torch.tensor(odds), 6, True, generator=generator).view(3, 2)
    ends = torch.tensor([0, number - 1]) + (cut.round().long() + fewer) * torch.tensor([1, -1])
    drift = torch.rand(64, generator=generator) * (0.03 * length / number)
    return _Edges(ends, sides, drift)


def _draw_sides(
    grid: Grid, heading_deg: float, sub_swath: Tensor, across: Tensor, generator: torch.Generator
) -> tuple[float, float]:
    """Near and far side of the frame [m across the track]; three sub-swaths lie between them."""
    _, width, whole = _swath(grid, heading_deg)
    if whole:
        near, far = (uniform(0.485, 0.5, generator) * width for _ in range(2))
        return -near, far
    for index in (0, 1):
        here, beyond = across[sub_swath == index], across[sub_swath == index + 1]
        if len(here) and len(beyond):
            near = float(here.max() + beyond.min()) / 2 - (index + 1) * SUB_SWATH_M
            return near, near + 3 * SUB_SWATH_M
    side = uniform(0.2, 0.6, generator) * min(width, SUB_SWATH_M)
    only = int(sub_swath[0, 0])
    return (-side if only == 0 else -math.inf), (side if only == 2 else math.inf)


def _num_bursts(length: float) -> int:
    """How many bursts make up a frame of this length [m]; they stretch a little to fit."""
    return max(1, round(length / BURST_M))


def _swath(grid: Grid, heading_deg: float) -> tuple[float, float, bool]:
    """Length along and width across the track [m] of what the grid shows; is it a whole frame?"""
    sine = abs(math.sin(math.radians(heading_deg)))
    cosine = abs(math.cos(math.radians(heading_deg)))
    height, width = grid.height * grid.dy, grid.width * grid.dx
    # The grid is the box around a turned rectangle: width = across * cosine + along * sine, and
    # so on; solved for the rectangle.
    along = (height * cosine - width * sine) / (cosine**2 - sine**2)
    across = (width * cosine - height * sine) / (cosine**2 - sine**2)
    if across > WHOLE_M and along > 2 * BURST_M:
        return along, across, True
    return height, width, False


Axes = tuple[Tensor, Tensor]


def _axes(grid: Grid, heading_deg: float) -> tuple[Axes, Axes]:
    """Distances [m] from the centre along the flight, and to its right.

    Each is the sum of a part for the columns (1, W) and one for the rows (H, 1).
    """
    east, north = grid.east_north()
    sine, cosine = math.sin(math.radians(heading_deg)), math.cos(math.radians(heading_deg))
    return (east * sine, north * cosine), (east * cosine, -north * sine)
