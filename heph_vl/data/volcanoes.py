"""Names of volcanoes near a place.

`tables/volcanoes.csv` has the volcanoes of Hephaestus with their coordinates in the lists of the
Smithsonian Institution's Global Volcanism Program (volcano.si.edu, Volcanoes of the World) as of
spring 2020; its column `source` tells Holocene from Pleistocene lists. A volcanic field has its
nominal centre. Other volcanoes have no name here.
"""

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

EARTH_RADIUS_KM = 6371.0
FAR_KM = 50.0  # a volcano farther away is not said to be near


@dataclass(frozen=True)
class Volcano:
    """A volcano of the table.

    Attributes:
        name: As in `tables/volcano_groups.csv`.
        group: Its volcano group.
        latitude: [deg, north positive].
        longitude: [deg, east positive].
    """

    name: str
    group: str
    latitude: float
    longitude: float


@lru_cache(maxsize=1)
def volcanoes() -> tuple[Volcano, ...]:
    """All volcanoes of the table."""
    table = resources.files("heph_vl.data") / "tables" / "volcanoes.csv"
    with table.open(encoding="utf-8") as file:
        return tuple(
            Volcano(row["name"], row["group"], float(row["latitude"]), float(row["longitude"]))
            for row in csv.DictReader(file)
        )


def nearest(longitude: float, latitude: float, count: int = 3) -> list[tuple[str, float]]:
    """Names of the nearest volcanoes within 50 km, and how far they are [km], nearest first."""
    distances = {
        (v.name, distance_km((longitude, latitude), (v.longitude, v.latitude))) for v in volcanoes()
    }
    near = sorted((km, name) for name, km in distances if km <= FAR_KM)
    return [(name, round(km, 1)) for km, name in near[:count]]


def distance_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance [km] of two points (longitude, latitude) [deg]; haversine formula."""
    (lon_a, lat_a), (lon_b, lat_b) = ((math.radians(v) for v in point) for point in (a, b))
    half = (
        math.sin((lat_b - lat_a) / 2) ** 2
        + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(half))
