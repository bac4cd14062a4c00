"""One simulated frame: the place, its radar geometry, its dates, and what moves there.

Everything that the interferograms of a frame share, so that phase closes around triangles of dates
before noise: one terrain, one footprint, one atmosphere a date, one level a date for each source.
"""

import hashlib
import math
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import torch
from torch import Tensor

from heph_vl.simulate.atmosphere import DateState, draw_date, turbulence_filter
from heph_vl.simulate.sources import FRINGE_M, KINDS, Look, Source, los_to_phase, unit_los
from heph_vl.simulate.terrain import Grid, Terrain, draw_terrain, slope, swath_footprint, uniform

FINE_PER_NATIVE = 10 / 3  # LiCSAR previews are 30 % of the 0.001 degree grid
KIND_WEIGHTS = {"mogi": 0.3, "sill": 0.36, "dyke": 0.24, "spheroid": 0.06, "earthquake": 0.04}
STEEPEST = 0.45  # fringes a native pixel: denser ones would average to nothing
FAINTEST = 0.8  # fringes between any two levels of a source that differ
STRONGEST = 8.5
INCLINATION_DEG = 98.18  # Sentinel-1's orbit
_LATITUDES = {"169D_00001_020800": 27.7}  # El Hierro: its name does not tell


@dataclass(frozen=True)
class ActiveSource:
    """A source and its history.

    Args:
        source: Where and what.
        unit: (H, W) float32 LOS displacement [m] that shows one fringe, positive toward.
        levels: State at each date in fringes; a pair shows the difference of its two dates.
    """

    source: Source
    unit: Tensor
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """What all interferograms of one frame share.

    Args:
        frame_id: LiCSAR name; the letter after the track number is the pass.
        seed: Seed of the whole simulation.
        native: Height and width of its images in native pixels.
        grid: The 0.001 degree grid.
        look: Radar geometry.
        terrain: The ground.
        slope: (H, W) rise over run.
        footprint: (H, W) bool, inside the swath.
        dates: Acquisitions in order.
        sources: What moves.
        response: Turbulence filter of the grid.
    """

    frame_id: str
    seed: int
    native: tuple[int, int]
    grid: Grid
    look: Look
    terrain: Terrain
    slope: Tensor
    footprint: Tensor
    dates: tuple[date, ...]
    sources: tuple[ActiveSource, ...]
    response: Tensor

    def difference(self, source: ActiveSource, pair: tuple[int, int]) -> float:
        """Signed fringes of a source between two dates, positive toward the satellite."""
        return source.levels[pair[1]] - source.levels[pair[0]]

    def phase(self, pair: tuple[int, int]) -> Tensor:
        """Noise-free unwrapped phase (H, W) float32 [rad]: secondary state minus primary state."""
        primary, secondary = (date_state(self, index) for index in pair)
        elevation = self.terrain.elevation
        total = secondary.phase(elevation, self.grid) - primary.phase(elevation, self.grid)
        for source in self.sources:
            change = self.difference(source, pair)
            if change:
                total = total + los_to_phase(source.unit * change)
        return total


def seeded(seed: int, *key: str | int) -> torch.Generator:
    """A generator of its own for each seed and key, the same on every machine."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def latitude_of(frame_id: str) -> float:
    """Latitude [deg] of a LiCSAR frame: its middle number is the colatitude in 0.01 degree."""
    latitude = 90.0 - int(frame_id.split("_")[1]) / 100.0
    return latitude if abs(latitude) < 80.0 else _LATITUDES.get(frame_id, 0.0)


def look_of(frame_id: str, incidence_deg: float) -> Look:
    """Sentinel-1's heading at the frame's latitude and pass: sin(heading) = cos(i) / cos(lat)."""
    cosine = math.cos(math.radians(latitude_of(frame_id)))
    sine = math.cos(math.radians(INCLINATION_DEG)) / cosine
    heading = math.degrees(math.asin(max(-1.0, sine)))
    return Look(heading if frame_id[3] == "A" else -180.0 - heading, incidence_deg)


def draw_frame(frame_id: str, size: int, dates: int, seed: int) -> Frame:
    """The frame of this name under this seed.

    Args:
        frame_id: LiCSAR name of an Interferometric Wide frame.
        size: Side of its images in native pixels, a multiple of 3.
        dates: Number of acquisitions.
        seed: Seed of the whole simulation.

    Returns:
        The same frame for the same arguments, on any worker.
    """
    fine = round(size * FINE_PER_NATIVE)
    grid = Grid(fine, fine, latitude_of(frame_id))
    g = seeded(seed, frame_id, "place")
    terrain = draw_terrain(grid, g)
    look = look_of(frame_id, uniform(32.0, 44.0, g))
    footprint = swath_footprint(grid, look.heading_deg, g)
    calendar = _draw_dates(dates, seeded(seed, frame_id, "dates"))
    sources = _draw_sources(
        grid, look, terrain, footprint, dates, seeded(seed, frame_id, "sources")
    )
    return Frame(
        frame_id,
        seed,
        (size, size),
        grid,
        look,
        terrain,
        slope(terrain, grid),
        footprint,
        calendar,
        sources,
        turbulence_filter(grid),
    )


_states: dict[tuple[str, int, int, int], DateState] = {}


@lru_cache(maxsize=2)
def cached_frame(frame_id: str, size: int, dates: int, seed: int) -> Frame:
    """`draw_frame`, remembered for the next pair of the same frame."""
    return draw_frame(frame_id, size, dates, seed)


def date_state(frame: Frame, index: int) -> DateState:
    """Atmosphere and orbit of one date; the last ones used are kept."""
    key = (frame.frame_id, frame.seed, frame.grid.height, index)
    if key not in _states:
        while len(_states) >= 32:  # 4 MB each at 288 px
            del _states[next(iter(_states))]
        g = seeded(frame.seed, frame.frame_id, "date", index)
        _states[key] = draw_date(frame.grid, frame.response, g)
    return _states[key]


def choose_pairs(
    frame: Frame, count: int, deforming: float, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Pairs of date indices, most of them short, about the asked share with motion between.

    Args:
        frame: The frame.
        count: How many, at most dates * (dates - 1) / 2.
        deforming: Share of the pairs in which a source changed.
        generator: Randomness.

    Returns:
        Different pairs (primary, secondary) in the order of their dates.
    """
    number = len(frame.dates)
    pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for pair in ((i, j) for i in range(number) for j in range(i + 1, number)):
        moved = any(frame.difference(source, pair) for source in frame.sources)
        pools[moved].append(pair)
    chosen = []
    for _ in range(count):
        wanted = uniform(0.0, 1.0, generator) < deforming
        pool = pools[wanted] or pools[not wanted]
        days = torch.tensor([(frame.dates[j] - frame.dates[i]).days for i, j in pool]).float()
        weight = torch.exp(-days / 40.0) + 0.03
        chosen.append(pool.pop(int(torch.multinomial(weight, 1, generator=generator))))
    return sorted(chosen)


def _draw_dates(count: int, g: torch.Generator) -> tuple[date, ...]:
    """Acquisitions 6, 12, 24 or 36 days apart."""
    day = date(2015, 1, 1) + timedelta(days=int(torch.randint(0, 1_800, (), generator=g)))
    steps = torch.tensor([6, 12, 24, 36])[
        torch.multinomial(torch.tensor([0.3, 0.5, 0.13, 0.07]), count, True, generator=g)
    ]
    return tuple(day + timedelta(days=int(d)) for d in steps.cumsum(0) - steps[0])


def _draw_sources(
    grid: Grid,
    look: Look,
    terrain: Terrain,
    footprint: Tensor,
    dates: int,
    g: torch.Generator,
) -> tuple[ActiveSource, ...]:
    visible = footprint & ~terrain.water
    names = list(KIND_WEIGHTS)
    weights = torch.tensor(list(KIND_WEIGHTS.values()))
    places = _places(grid, terrain, visible, g)
    number = 1 + int(torch.multinomial(torch.tensor([0.45, 0.35, 0.2]), 1, generator=g))
    active = []
    for east, north in places[:number]:
        kind = names[int(torch.multinomial(weights, 1, generator=g))]
        source = Source(kind, east, north, KINDS[kind].prior(g))
        unit = unit_los(source, grid, look)
        spread = float(unit[visible].max() - unit[visible].min())
        unit = unit * (FRINGE_M / spread)
        steepest = max(
            float((torch.diff(unit, dim=d).abs()).max()) / FRINGE_M * FINE_PER_NATIVE
            for d in (0, 1)
        )
        limit = min(STRONGEST, STEEPEST / steepest)
        if limit > FAINTEST:
            levels = _draw_levels(dates, limit, kind == "earthquake", g)
            active.append(ActiveSource(source, unit, levels))
    return tuple(active)


def _places(
    grid: Grid, terrain: Terrain, visible: Tensor, g: torch.Generator
) -> list[tuple[float, float]]:
    """Where sources go, in random order: on visible land near summits, 8 km inside the image."""
    margin = round(8e3 / grid.dy)
    spots = []
    for volcano in terrain.volcanoes:
        for _ in range(8):
            row = round(volcano.row + float(torch.randn((), generator=g)) * 2e3 / grid.dy)
            column = round(volcano.column + float(torch.randn((), generator=g)) * 2e3 / grid.dx)
            inside = margin <= row < grid.height - margin and margin <= column < grid.width - margin
            if inside and bool(visible[row, column]):
                spots.append((row, column))
                break
    if not spots:
        land = visible[margin:-margin, margin:-margin].nonzero()
        if len(land):
            pick = land[int(torch.randint(0, len(land), (), generator=g))]
            spots.append((int(pick[0]) + margin, int(pick[1]) + margin))
    order = torch.randperm(len(spots), generator=g).tolist()
    return [
        (
            (spots[k][1] - (grid.width - 1) / 2) * grid.dx,
            ((grid.height - 1) / 2 - spots[k][0]) * grid.dy,
        )
        for k in order
    ]


def _draw_levels(dates: int, limit: float, once: bool, g: torch.Generator) -> tuple[float, ...]:
    """Episodes: a level that holds, then jumps; any two levels are equal or clearly apart."""
    levels = [0.0]
    jumps = 0
    for _ in range(dates - 1):
        level = levels[-1]
        if uniform(0.0, 1.0, g) < 2.5 / max(dates, 4) and not (once and jumps):
            for _ in range(12):
                size = _draw_size(limit, g)
                sign = 1.0 if uniform(0.0, 1.0, g) < 0.6 else -1.0
                gaps = [abs(level + sign * size - old) for old in set(levels)]
                if min(gaps) >= FAINTEST and max(gaps) <= limit:
                    level += sign * size
                    jumps += 1
                    break
        levels.append(level)
    return tuple(levels)


def _draw_size(limit: float, g: torch.Generator) -> float:
    bands = [(FAINTEST, 1.6), (1.8, 3.8), (4.1, STRONGEST)]
    bands = [(low, min(high, limit)) for low, high in bands if low < limit]
    weights = torch.tensor([0.25, 0.3, 0.45][: len(bands)])
    return uniform(*bands[int(torch.multinomial(weights, 1, generator=g))], g)
