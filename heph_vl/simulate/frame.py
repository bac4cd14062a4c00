"""One simulated frame in free mode: a place, its dates, and what moves there over time.

Everything that its interferograms share, so that phase closes around triangles of dates before
noise: one ground, one atmosphere and one orbit error a date, one history for each source.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache

import torch
from torch import Tensor

from heph_vl.simulate.atmosphere import DateState, draw_date, stratified, to_grid
from heph_vl.simulate.candidates import scaled
from heph_vl.simulate.fields import unit_los
from heph_vl.simulate.flaws import draw_flaws
from heph_vl.simulate.grid import Grid, uniform
from heph_vl.simulate.outline import OUTLINE_SHARE
from heph_vl.simulate.place import FINE_PER_NATIVE, Place, Site, draw_place, seeded
from heph_vl.simulate.scene import Layers, Motion
from heph_vl.simulate.sources import FRINGE_M, KINDS, Source

KIND_WEIGHTS = {
    "mogi": 0.3,
    "sill": 0.34,
    "dyke": 0.22,
    "spheroid": 0.06,
    "earthquake": 0.05,
    "unidentified": 0.03,
}
STEEPEST = 0.45  # fringes a native pixel: denser ones would average to nothing
CLEAR = 0.8  # fringes from which a change between two dates counts as seen
UNSEEN = 0.3  # fringes below which it counts as none; pairs in between are not chosen
STRONGEST = 8.5
# Fringes of a first episode, how wide its pattern is [native px] as strong ones are wider, and the
# share of sources: more of the strong, for a pair often shows a part only.
BANDS = ((CLEAR, 1.6, 22.0, 0.2), (1.8, 3.8, 28.0, 0.3), (4.1, STRONGEST, 50.0, 0.5))
ICY = 0.15  # share of the frames with snow whose glaciers flow
GROWTHS = ("step", "linear", "decaying", "s-curve")


@dataclass(frozen=True)
class Episode:
    """A change of a source's strength.

    Args:
        growth: One of `GROWTHS`: at once; steadily; fast, then slower (a magma chamber that fills
            through a conduit); slow, fast, slow.
        start: Day it begins, counted from the first acquisition.
        duration: Days it lasts.
        fringes: Change in fringes, positive toward the satellite.
    """

    growth: str
    start: float
    duration: float
    fringes: float

    def level(self, day: float) -> float:
        """What has come of it at a day, in fringes."""
        t = min(max((day - self.start) / self.duration, 0.0), 1.0)
        if self.growth == "step":
            return self.fringes * (day >= self.start)
        if self.growth == "decaying":
            t = (1.0 - math.exp(-3.0 * t)) / (1.0 - math.exp(-3.0))
        elif self.growth == "s-curve":
            t = t * t * (3.0 - 2.0 * t)
        return self.fringes * t


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
        place: Ground, geometry, footprint.
        seed: Seed of the whole simulation.
        dates: Acquisitions in order.
        sources: What moves.
        icy: Whether its glaciers flow.
    """

    place: Place
    seed: int
    dates: tuple[date, ...]
    sources: tuple[ActiveSource, ...]
    icy: bool = False

    def to(self, device: str) -> "Frame":
        """The same frame with its fields on a device: its interferograms are made there."""
        moved = tuple(replace(s, unit=s.unit.to(device)) for s in self.sources)
        return replace(self, place=self.place.to(device), sources=moved)

    def difference(self, source: ActiveSource, pair: tuple[int, int]) -> float:
        """Signed fringes of a source between two dates, positive toward the satellite."""
        return source.levels[pair[1]] - source.levels[pair[0]]

    def layers(self, pair: tuple[int, int]) -> Layers:
        """What one pair of dates shows before noise."""
        days = (self.dates[pair[1]] - self.dates[pair[0]]).days
        frame_id = self.place.site.frame_id
        states = [date_state(self.place, self.seed, self.dates[index]) for index in pair]
        motions = tuple(
            Motion(source.source, source.unit * change)
            for source in self.sources
            if (change := self.difference(source, pair))
        )
        layers = layers_between(self.place, states[0], states[1], days, motions)
        if self.icy:
            ice, kept = self.place.ice(days)
            layers = replace(layers, ice=ice, coherence=layers.coherence * kept)
        g = seeded(self.seed, frame_id, "flaws", *pair)
        return replace(layers, flaws=draw_flaws(self.place, self.place.land, g))


def layers_between(
    place: Place, primary: DateState, secondary: DateState, days: int, motions: tuple[Motion, ...]
) -> Layers:
    """Secondary state minus primary state, the ground's motion, and the coherence between."""
    rate = secondary.stratification - primary.stratification
    turbulence = (secondary.turbulence - primary.turbulence).to(place.footprint.device)
    return Layers(
        place=place,
        days=days,
        turbulence=to_grid(turbulence, place.grid),
        stratification=stratified(place.terrain.elevation, rate),
        ramp=(secondary.ramp[0] - primary.ramp[0], secondary.ramp[1] - primary.ramp[1]),
        motions=motions,
        offset=secondary.offset - primary.offset,
        coherence=place.cover.coherence(
            float(days), secondary.orbit_m - primary.orbit_m, primary.clarity * secondary.clarity
        ),
    )


def draw_frame(
    frame_id: str,
    size: int,
    dates: int,
    seed: int,
    *,
    dem: str | None = None,
    kinds: tuple[str, ...] = (),
    icy: bool = False,
) -> Frame:
    """The frame of this name under this seed.

    Args:
        frame_id: LiCSAR name.
        size: Side of its images in native pixels, a multiple of 3.
        dates: Number of acquisitions.
        seed: Seed of the whole simulation.
        dem: File or folder of real elevation to take a window of.
        kinds: Types of the sources; drawn when none.
        icy: Whether it gets an ice cap that flows; else some of those with snow have glaciers.

    Returns:
        The same frame for the same arguments, on any worker.
    """
    place = draw_place(Site(frame_id, (size, size), icy=icy), seed, dem)
    calendar = _draw_dates(dates, seeded(seed, frame_id, "dates"))
    days = [float((day - calendar[0]).days) for day in calendar]
    sources = _draw_sources(place, days, kinds, seeded(seed, frame_id, "sources"))
    flows = icy or uniform(0.0, 1.0, seeded(seed, frame_id, "ice")) < ICY
    return Frame(place, seed, calendar, sources, flows and bool(place.terrain.snow.any()))


@lru_cache(maxsize=2)
def cached_frame(frame_id: str, size: int, dates: int, seed: int, dem: str | None = None) -> Frame:
    """`draw_frame`, remembered for the next pair of the same frame."""
    return draw_frame(frame_id, size, dates, seed, dem=dem)


_states: OrderedDict[tuple[object, ...], DateState] = OrderedDict()


def date_state(place: Place, seed: int, day: date) -> DateState:
    """Atmosphere and orbit of one date of a frame; the last ones used are kept."""
    key = (seed, place.site.frame_id, day, place.site.native)
    if key not in _states:
        while len(_states) >= 32:  # up to 7 MB each
            _states.popitem(last=False)
        g = seeded(seed, place.site.frame_id, "date", day.isoformat())
        _states[key] = draw_date(place.grid, g)
    return _states[key]


def choose_pairs(
    frame: Frame, count: int, deforming: float, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Pairs of date indices, most of them short, about the asked share with motion between.

    Pairs with a change that is neither clearly seen nor clearly not are taken last.

    Args:
        frame: The frame.
        count: How many, at most dates * (dates - 1) / 2.
        deforming: Share of the pairs in which a source changed.
        generator: Randomness.

    Returns:
        Different pairs (primary, secondary) in the order of their dates.
    """
    number = len(frame.dates)
    pools: dict[str, list[tuple[int, int]]] = {"moved": [], "still": [], "doubtful": []}
    for pair in ((i, j) for i in range(number) for j in range(i + 1, number)):
        most = max((abs(frame.difference(s, pair)) for s in frame.sources), default=0.0)
        name = "moved" if most >= CLEAR else "still" if most <= UNSEEN else "doubtful"
        pools[name].append(pair)
    chosen = []
    for _ in range(count):
        wanted = (
            ("moved", "still") if uniform(0.0, 1.0, generator) < deforming else ("still", "moved")
        )
        pool = next(pools[name] for name in (*wanted, "doubtful") if pools[name])
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
    place: Place, days: list[float], kinds: tuple[str, ...], g: torch.Generator
) -> tuple[ActiveSource, ...]:
    names = list(KIND_WEIGHTS)
    weights = torch.tensor(list(KIND_WEIGHTS.values()))
    number = 1 + int(torch.multinomial(torch.tensor([0.45, 0.35, 0.2]), 1, generator=g))
    wanted = kinds or tuple(
        names[int(k)] for k in torch.multinomial(weights, number, True, generator=g)
    )
    active = []
    for kind, (east, north) in zip(wanted, _spots(place, g), strict=False):
        shares = torch.tensor([share for *_, share in BANDS])
        low, high, width, _ = BANDS[int(torch.multinomial(shares, 1, generator=g))]
        drawn = Source(kind, 0.0, 0.0, KINDS[kind].prior(g))
        source = replace(_of_usual_size(drawn, width, place, g), east=east, north=north)
        unit = unit_los(source, place.grid, place.look)
        seen = unit[place.land]
        unit = unit * (FRINGE_M / float(seen.max() - seen.min()))
        limit = min(STRONGEST, STEEPEST / steepest_gradient(unit))
        if limit > CLEAR:
            fringes = uniform(min(low, limit), min(high, limit), g)
            history = _draw_history(kind, days[-1], fringes, g)
            levels = tuple(sum(episode.level(day) for episode in history) for day in days)
            active.append(ActiveSource(source, unit, levels))
    return tuple(active)


def _of_usual_size(source: Source, width: float, place: Place, g: torch.Generator) -> Source:
    """The source scaled so that its pattern is about as wide as asked [native px].

    All lengths scaled by s make the pattern s times as wide. Of the real polygons the larger side
    is 15 / 23 / 24 / 45 / 92 native pixels at 5 / 25 / 50 / 75 / 95 %.
    """
    around = Grid(128, 128, place.grid.latitude_deg, 3 * place.grid.spacing_deg)
    los = unit_los(source, around, place.look).abs()
    seen = los > OUTLINE_SHARE * los.max()
    sides = [int(seen.any(dim).sum()) * 3 / FINE_PER_NATIVE for dim in (0, 1)]
    spread = 0.4 * float(torch.randn((), generator=g))
    return scaled(source, min(max(width * math.exp(spread), 12.0), 110.0) / max(sides))


def steepest_gradient(los: Tensor) -> float:
    """Largest number of fringes between neighbouring native pixels of an LOS field (H, W) [m]."""
    steps = max(float(torch.diff(los, dim=d).abs().max()) for d in (0, 1))
    return steps / FRINGE_M * FINE_PER_NATIVE


def _draw_history(
    kind: str, last_day: float, first: float, g: torch.Generator
) -> tuple[Episode, ...]:
    """One or two episodes; any two dates are at most `first` fringes apart."""
    sign = 1.0 if uniform(0.0, 1.0, g) < 0.6 else -1.0
    sudden = kind == "earthquake" or (kind == "dyke" and uniform(0.0, 1.0, g) < 0.7)
    if sudden:
        return (Episode("step", uniform(0.2, 0.8, g) * last_day, 1.0, sign * first),)
    growth = GROWTHS[int(torch.randint(0, len(GROWTHS), (), generator=g))]
    start, share = uniform(0.0, 0.5, g), uniform(0.15, 0.6, g)
    history = [Episode(growth, start * last_day, max(share * last_day, 1.0), sign * first)]
    # A relapse: some of what came goes again, as at calderas that fill and erupt.
    if start + share < 0.85 and uniform(0.0, 1.0, g) < 0.3:
        back = -sign * uniform(0.5, 1.0, g) * first
        begin = uniform(start + share, 0.95, g) * last_day
        history.append(Episode("step", begin, 1.0, back))
    return tuple(history)


def _spots(place: Place, g: torch.Generator) -> list[tuple[float, float]]:
    """Where sources go [m east, north], in random order: visible land near summits, 8 km inside."""
    grid, visible = place.grid, place.land
    margin = round(8e3 / grid.dy)
    spots = []
    for volcano in place.terrain.volcanoes:
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
