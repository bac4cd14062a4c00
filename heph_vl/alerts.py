"""When detections become an alert: two pairs without a common date see the same place deform.

The air of one date is in all pairs that share it, and looks alike in them; two pairs without a
common date do not share any air. A *sighting* is one outlined pattern in one pair. Two agree where
their patterns overlap and are of like size, their pairs are near in time, and their motion is not
known to be opposite. An *alert* is a group of sightings joined by such agreement of pairs without
a common date; sightings that agree with one of them otherwise are added to it. Unrest that goes on
is one alert, until nothing has been seen for `NEAR_DAYS`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import shapely

from heph_vl.data.annotations import check_frame_id
from heph_vl.data.volcanoes import nearest
from heph_vl.errors import HephError

# Of an alert, as `Alert.row` tells them.
COLUMNS = (
    *("alert_id", "frame_id", "raised", "first_date", "last_date", "type", "probability"),
    *("longitude", "latitude", "x", "y", "volcanoes", "los_sense", "centimetres"),
    *("height_correlation", "pairs", "confirmed_by", "outline"),
)
LEAST_OVERLAP = 0.3  # intersection over the smaller pattern
MOST_LARGER = 9.0  # areas: one broad pattern must not join what is apart
NEAR_DAYS = 60  # most days between two pairs that speak of the same unrest

Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Sighting:
    """A pattern that was outlined in a pair.

    Attributes:
        frame_id: LiCSAR frame, or the folder's name.
        primary_date: First acquisition.
        secondary_date: Second acquisition.
        product: Path of the file.
        type: Of ACTIVITY_TYPES.
        probability: Of deformation, meaned over the pattern.
        ring: Its outline: longitude and latitude [deg] if `placed`, else pixels.
        placed: Whether the file said where it lies.
        los_sense: `toward`, `away` or `unknown`.
        centimetres: Motion along the line of sight; None where it could not be told.
        height_correlation: Of phase and height in its pair; None where height is unknown.
    """

    frame_id: str
    primary_date: date
    secondary_date: date
    product: str
    type: str
    probability: float
    ring: Ring
    placed: bool
    los_sense: str = "unknown"
    centimetres: float | None = None
    height_correlation: float | None = None

    @property
    def dates(self) -> frozenset[date]:
        """Both."""
        return frozenset((self.primary_date, self.secondary_date))

    @property
    def pair(self) -> str:
        """`<primary>_<secondary>`."""
        return f"{self.primary_date:%Y%m%d}_{self.secondary_date:%Y%m%d}"

    @cached_property
    def polygon(self) -> Any:
        """The outline as shapely knows it, mended where it crosses itself."""
        return shapely.make_valid(shapely.Polygon(self.ring))


@dataclass(frozen=True)
class Alert:
    """Agreeing sightings of one frame.

    Attributes:
        sightings: In order of their dates.
        raised: The first day on which two agreeing pairs without a common date were complete.
        confirmed_by: Frames of the other pass that see the same.
    """

    sightings: tuple[Sighting, ...]
    raised: date
    confirmed_by: tuple[str, ...] = ()

    @property
    def frame_id(self) -> str:
        """Of its sightings."""
        return self.sightings[0].frame_id

    @property
    def strongest(self) -> Sighting:
        """That of the highest probability."""
        return max(self.sightings, key=lambda s: s.probability)

    @property
    def alert_id(self) -> str:
        """Made of the pairs that were complete on the day it was raised, and their place."""
        early = [s for s in self.sightings if s.secondary_date <= self.raised]
        x, y = min(s.ring[0] for s in early)
        key = f"{self.frame_id} {sorted(s.pair for s in early)} {x:.4f} {y:.4f}"
        return hashlib.sha256(key.encode()).hexdigest()[:12]

    def row(self) -> dict[str, Any]:
        """What is told of it, ready for JSON and CSV."""
        strongest = self.strongest
        x, y = (float(v) for v in shapely.get_coordinates(strongest.polygon.centroid)[0])
        placed = strongest.placed
        known = [s.centimetres for s in self.sightings if s.centimetres is not None]
        heights = [s.height_correlation for s in self.sightings if s.height_correlation is not None]
        senses = {s.los_sense for s in self.sightings} - {"unknown"}
        return {
            "alert_id": self.alert_id,
            "frame_id": self.frame_id,
            "raised": self.raised.isoformat(),
            "first_date": min(s.primary_date for s in self.sightings).isoformat(),
            "last_date": max(s.secondary_date for s in self.sightings).isoformat(),
            "type": strongest.type,
            "probability": round(strongest.probability, 3),
            "longitude": round(x, 5) if placed else None,
            "latitude": round(y, 5) if placed else None,
            "x": None if placed else round(x, 1),
            "y": None if placed else round(y, 1),
            "volcanoes": [name for name, _ in nearest(x, y)] if placed else [],
            "los_sense": senses.pop() if len(senses) == 1 else "unknown",
            "centimetres": max(known, key=abs) if known else None,
            # The least of them: air that follows height in one pair need not in the others.
            "height_correlation": min(heights, key=abs) if heights else None,
            "pairs": sorted({s.pair for s in self.sightings}),
            "confirmed_by": list(self.confirmed_by),
            "outline": [list(point) for point in strongest.ring],
        }


def agree(a: Sighting, b: Sighting, near_days: int = NEAR_DAYS) -> bool:
    """Whether two sightings may be of the same unrest; those of one frame, or both placed."""
    if a.frame_id != b.frame_id and not (a.placed and b.placed):
        return False
    gap = max(a.primary_date, b.primary_date) - min(a.secondary_date, b.secondary_date)
    if a.placed != b.placed or gap.days > near_days:
        return False
    # Toward one satellite may be away from the other: senses speak within one frame only.
    if a.frame_id == b.frame_id and {a.los_sense, b.los_sense} == {"toward", "away"}:
        return False
    smaller, larger = sorted((a.polygon.area, b.polygon.area))
    if not smaller > 0 or larger > MOST_LARGER * smaller:
        return False
    return bool(a.polygon.intersection(b.polygon).area >= LEAST_OVERLAP * smaller)


def find_alerts(
    sightings: Iterable[Sighting], near_days: int = NEAR_DAYS, *, single: bool = False
) -> list[Alert]:
    """Groups of agreeing sightings with two pairs without a common date, by the day raised.

    Args:
        sightings: Of any number of frames.
        near_days: Most days between pairs that speak of the same unrest.
        single: Let one pair be enough, to see what waiting for the second is worth.

    Returns:
        The alerts; `confirmed_by` names frames of the other pass whose alerts agree with it.
    """
    frames: dict[str, list[Sighting]] = {}
    for sighting in sightings:
        frames.setdefault(sighting.frame_id, []).append(sighting)
    alerts = [alert for mine in frames.values() for alert in _of_frame(mine, near_days, single)]
    confirmed = [_confirm(alert, alerts, near_days) for alert in alerts]
    return sorted(confirmed, key=lambda alert: (alert.raised, alert.alert_id))


def _of_frame(sightings: Sequence[Sighting], near_days: int, single: bool) -> list[Alert]:
    ordered = sorted(sightings, key=lambda s: (s.primary_date, s.secondary_date, s.ring))
    joined = list(range(len(ordered)))  # of each, a sighting of its group, itself for the first

    def group_of(i: int) -> int:
        while joined[i] != i:
            i = joined[i]
        return i

    tree = shapely.STRtree([s.polygon for s in ordered])
    days: list[tuple[int, date]] = []  # from which on two that agree are both complete
    rest: list[tuple[int, int]] = []
    for i, sighting in enumerate(ordered):
        for j in sorted(tree.query(sighting.polygon).tolist()):
            if j <= i or not agree(sighting, ordered[j], near_days):
                continue
            if single or not sighting.dates & ordered[j].dates:
                first, second = sorted((group_of(i), group_of(j)))
                joined[second] = first
                days.append((i, max(sighting.secondary_date, ordered[j].secondary_date)))
            else:
                rest.append((i, j))
    if single:
        days = [(i, sighting.secondary_date) for i, sighting in enumerate(ordered)]
    raised: dict[int, date] = {}
    for i, day in days:
        raised[group_of(i)] = min(day, raised.get(group_of(i), day))
    members: dict[int, set[int]] = {i: set() for i in raised}
    for i in range(len(ordered)):
        if group_of(i) in members:
            members[group_of(i)].add(i)
    # What shares a date with all that it agrees with joins no groups, but belongs to each.
    for i, j in rest:
        for one, other in ((i, j), (j, i)):
            if group_of(one) in raised and group_of(other) not in raised:
                members[group_of(one)].add(other)
    return [Alert(tuple(ordered[k] for k in sorted(members[i])), raised[i]) for i in raised]


def _confirm(alert: Alert, alerts: Sequence[Alert], near_days: int) -> Alert:
    """The alert with the frames of the other pass that agree with one of its sightings."""
    mine = _pass_of(alert.frame_id)
    frames = {
        other.frame_id
        for other in alerts
        if {mine, _pass_of(other.frame_id)} == {"A", "D"}
        and any(agree(a, b, near_days) for a in alert.sightings for b in other.sightings)
    }
    return Alert(alert.sightings, alert.raised, tuple(sorted(frames)))


def _pass_of(frame_id: str) -> str | None:
    """`A` or `D`; None for a folder that is no LiCSAR frame."""
    try:
        return check_frame_id(frame_id, "")[3]
    except HephError:
        return None
