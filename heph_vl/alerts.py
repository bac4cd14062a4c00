"""When detections become an alert: two pairs without a common date see the same place deform.

The air of one date is in all pairs that share it, and looks alike in them; two pairs without a
common date do not share any air. A *sighting* is one outlined pattern in one pair. Sightings agree
where their patterns overlap, their pairs are near in time, and their motion is not known to be
opposite. An *alert* is a group of agreeing sightings with two such pairs among them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import combinations
from typing import Any

import shapely

from heph_vl.data.volcanoes import nearest

# Of an alert, as `Alert.row` tells them.
COLUMNS = (
    *("alert_id", "frame_id", "raised", "first_date", "last_date", "type", "probability"),
    *("longitude", "latitude", "x", "y", "volcanoes", "los_sense", "centimetres", "pairs"),
    *("confirmed_by", "outline"),
)
LEAST_OVERLAP = 0.3  # intersection over the smaller pattern
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

    @property
    def dates(self) -> frozenset[date]:
        """Both."""
        return frozenset((self.primary_date, self.secondary_date))

    @cached_property
    def polygon(self) -> Any:
        """The outline as shapely knows it, mended where it crosses itself."""
        return shapely.make_valid(shapely.Polygon(self.ring))


@dataclass(frozen=True)
class Alert:
    """Agreeing sightings of one frame.

    Attributes:
        sightings: In order of their dates.
        raised: The first day on which two pairs without a common date were complete.
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
    def alert_id(self) -> str:
        """The same for the same place and first pair, whatever joins it later."""
        first = self.sightings[0]
        key = f"{first.frame_id} {first.primary_date} {first.secondary_date} {first.ring[0]}"
        return hashlib.sha256(key.encode()).hexdigest()[:12]

    def row(self) -> dict[str, Any]:
        """What is told of it, ready for JSON and CSV."""
        strongest = max(self.sightings, key=lambda s: s.probability)
        x, y = (float(v) for v in shapely.get_coordinates(strongest.polygon.centroid)[0])
        placed = strongest.placed
        known = [s.centimetres for s in self.sightings if s.centimetres is not None]
        senses = {s.los_sense for s in self.sightings} - {"unknown"}
        pairs = {f"{s.primary_date:%Y%m%d}_{s.secondary_date:%Y%m%d}" for s in self.sightings}
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
            "pairs": sorted(pairs),
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
    smaller = min(a.polygon.area, b.polygon.area)
    return bool(smaller > 0 and a.polygon.intersection(b.polygon).area >= LEAST_OVERLAP * smaller)


def find_alerts(sightings: Iterable[Sighting], near_days: int = NEAR_DAYS) -> list[Alert]:
    """Groups of agreeing sightings with two pairs without a common date, by the day raised.

    Args:
        sightings: Of any number of frames.
        near_days: Most days between pairs that speak of the same unrest.

    Returns:
        The alerts; `confirmed_by` names frames of the other pass whose alerts agree with it.
    """
    frames: dict[str, list[Sighting]] = {}
    for sighting in sightings:
        frames.setdefault(sighting.frame_id, []).append(sighting)
    alerts = [alert for mine in frames.values() for alert in _of_frame(mine, near_days)]
    confirmed = [_confirm(alert, alerts, near_days) for alert in alerts]
    return sorted(confirmed, key=lambda alert: (alert.raised, alert.alert_id))


def _of_frame(sightings: Sequence[Sighting], near_days: int) -> list[Alert]:
    ordered = sorted(sightings, key=lambda s: (s.primary_date, s.secondary_date, s.ring))
    group = list(range(len(ordered)))  # of each, the first sighting that it is joined to

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    # The day from which on two that agree, without a common date, are both complete.
    days: dict[int, list[date]] = {}
    independent = []
    for i, j in combinations(range(len(ordered)), 2):
        a, b = ordered[i], ordered[j]
        if agree(a, b, near_days):
            first, second = sorted((root(i), root(j)))
            group[second] = first
            if not a.dates & b.dates:
                independent.append((i, max(a.secondary_date, b.secondary_date)))
    for i, day in independent:
        days.setdefault(root(i), []).append(day)
    members: dict[int, list[Sighting]] = {}
    for i, sighting in enumerate(ordered):
        members.setdefault(root(i), []).append(sighting)
    return [Alert(tuple(members[i]), min(found)) for i, found in sorted(days.items())]


def _confirm(alert: Alert, alerts: Sequence[Alert], near_days: int) -> Alert:
    """The alert with the frames of the other pass that agree with one of its sightings."""
    frames = {
        other.frame_id
        for other in alerts
        if {alert.frame_id[3:4], other.frame_id[3:4]} == {"A", "D"}
        and any(agree(a, b, near_days) for a in alert.sightings for b in other.sightings)
    }
    return Alert(alert.sightings, alert.raised, tuple(sorted(frames)))
