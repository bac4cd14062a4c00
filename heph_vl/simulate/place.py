"""The place that a frame looks at: ground, radar geometry, footprint, and the size of its images.

Everything here is shared by all interferograms of a frame, whatever their dates.
"""

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from heph_vl.data import splits
from heph_vl.data.annotations import Point
from heph_vl.data.geotiff import Georeference
from heph_vl.data.native import STRIPMAP_SPACING_DEG
from heph_vl.data.phase import NATIVE_SPACING_DEG
from heph_vl.data.raster import fill
from heph_vl.data.volcanoes import volcanoes
from heph_vl.simulate.decorrelation import LandCover, land_cover
from heph_vl.simulate.dem import dem_terrain, read_dem
from heph_vl.simulate.footprint import burst_geometry, swath_footprint
from heph_vl.simulate.glacier import glacier_phase
from heph_vl.simulate.grid import Grid, fractal, uniform
from heph_vl.simulate.sources import Look
from heph_vl.simulate.terrain import Terrain, draw_terrain, slope

FINE_PER_NATIVE = 10 / 3  # LiCSAR previews are 30 % of the grid that is processed
INCLINATION_DEG = 98.18  # Sentinel-1's orbit
ICE_CAP_M, ICE_HEIGHT_M = (14e3, 22e3), (700.0, 1_000.0)  # radius and height, as of Langjokull
LARGEST_PX = 1_500  # side of an image of a frame that is not in Hephaestus
LARGEST_DRY_PX = 90  # polygons up to this side get dry ground all over: larger ones reach the sea
_LATITUDES = {  # of frames whose names do not tell it: El Hierro, Piton de la Fournaise
    "169D_00001_020800": 27.7,
    "144A_SM_REUN_S6": -21.2,
    "151D_SM_REUN_S4": -21.2,
}

Size = tuple[int, int]


@dataclass(frozen=True)
class Site:
    """What a place must be like.

    Args:
        frame_id: LiCSAR name; the letter after the track number is the pass.
        native: Height and width of its images in native pixels, multiples of 3.
        polygons: Outlines in native pixels where deformation will be seen: dry ground.
        icy: Whether it has an ice cap.
    """

    frame_id: str
    native: Size
    polygons: tuple[tuple[Point, ...], ...] = ()
    icy: bool = False


@dataclass(frozen=True)
class Place:
    """What all interferograms of one frame share.

    Args:
        site: Name, size and polygons.
        seed: Seed of the whole simulation.
        grid: The fine grid, 10/3 of the native one: 0.001 degree.
        look: Radar geometry.
        terrain: The ground.
        cover: How its coherence falls with time and baseline.
        footprint: (H, W) bool, inside the swath.
        sub_swath: (H, W) int8 in 0..2.
        burst: (H, W) int16, counted along the flight.
        origin: Longitude and latitude [deg] of the north-west pixel's centre, on real elevation.
    """

    site: Site
    seed: int
    grid: Grid
    look: Look
    terrain: Terrain
    cover: LandCover
    footprint: Tensor
    sub_swath: Tensor
    burst: Tensor
    origin: tuple[float, float] | None = None

    @property
    def georeference(self) -> Georeference:
        """Where the fine grid lies.

        On invented ground it is centred on the frame's latitude and on the mean longitude of its
        volcanoes, so that maps of it are near them.
        """
        grid = self.grid
        if self.origin is None:
            middle = longitude_of(self.site.frame_id), grid.latitude_deg
            corner = -(grid.width - 1) / 2, -(grid.height - 1) / 2
            west, north = Georeference(*middle, grid.spacing_deg).lonlat(*corner)
        else:
            west, north = self.origin
        half = grid.spacing_deg / 2
        return Georeference(west - half, north + half, grid.spacing_deg)

    def ice(self, days: float) -> tuple[Tensor, Tensor]:
        """Phase of flowing ice between two dates [rad], and the factor it leaves of coherence.

        Linear in the days and the same flow for all pairs, so that phase closes around dates.
        """
        g = seeded(self.seed, self.site.frame_id, "glacier")
        terrain, grid = self.terrain, self.grid
        steepness = slope(terrain, grid)
        return glacier_phase(
            terrain.elevation, steepness, terrain.snow, grid, self.look.vector, days, g
        )

    def to(self, device: str) -> "Place":
        """The same place with its fields on a device."""
        terrain, cover = self.terrain, self.cover
        return replace(
            self,
            terrain=replace(
                terrain,
                elevation=terrain.elevation.to(device),
                water=terrain.water.to(device),
                vegetation=terrain.vegetation.to(device),
                snow=terrain.snow.to(device),
            ),
            cover=LandCover(cover.start.to(device), cover.rate.to(device), cover.volume.to(device)),
            footprint=self.footprint.to(device),
            sub_swath=self.sub_swath.to(device),
            burst=self.burst.to(device),
        )

    def sampled(self, field: Tensor) -> Tensor:
        """A fine field (H, W) at the centres of native pixels: (h, w), on the CPU.

        What is seen in a picture is measured there: every ninth of the fine pixels is enough.
        """
        rows, columns = (
            ((torch.arange(n, device=field.device) + 0.5) * (m / n)).long()
            for n, m in zip(self.site.native, field.shape, strict=True)
        )
        return field.index_select(0, rows).index_select(1, columns).cpu()

    @property
    def land(self) -> Tensor:
        """(H, W) bool: inside the swath and not water."""
        return self.footprint & ~self.terrain.water


def seeded(seed: int, *key: str | int, device: str = "cpu") -> torch.Generator:
    """A generator of its own for each seed and key, the same on every machine."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def latitude_of(frame_id: str) -> float:
    """Latitude [deg] of a LiCSAR frame: its middle number is the colatitude in 0.01 degree."""
    if frame_id in _LATITUDES:
        return _LATITUDES[frame_id]
    middle = frame_id.split("_")[1]
    latitude = 90.0 - int(middle) / 100.0 if middle.isdecimal() else 0.0
    return latitude if abs(latitude) < 80.0 else 0.0


def longitude_of(frame_id: str) -> float:
    """Mean longitude [deg] of the volcanoes of a frame's group; 0 where none is known."""
    frame = splits.FRAMES.get(frame_id)
    known = [v.longitude for v in volcanoes() if frame is not None and v.group == frame.group]
    return math.fsum(known) / len(known) if known else 0.0


def look_of(frame_id: str, incidence_deg: float) -> Look:
    """Sentinel-1's heading at the frame's latitude and pass: sin(heading) = cos(i) / cos(lat)."""
    cosine = math.cos(math.radians(latitude_of(frame_id)))
    sine = math.cos(math.radians(INCLINATION_DEG)) / cosine
    heading = math.degrees(math.asin(max(-1.0, sine)))
    return Look(heading if frame_id[3] == "A" else -180.0 - heading, incidence_deg)


def spacing_of(frame_id: str) -> float:
    """Pixel spacing [deg] of a frame's previews: 1/300, for StripMap frames 1/1080."""
    return STRIPMAP_SPACING_DEG if "_SM_" in frame_id else NATIVE_SPACING_DEG


@dataclass(frozen=True)
class KnownFrame:
    """A row of `tables/frame_places.csv`: what is known of a frame of Hephaestus.

    Args:
        size: Height and width of its previews [px], found by `size_search`.
        tiles: Tiles of 224 px that its previews usually have, from the published patch split.
        reach: How far its polygons reach in x and y [px].
        ground: Kind of its landscape, by where its volcanoes are.
        humidity: 0 desert to 1 rain forest, likewise.
    """

    size: Size
    tiles: int
    reach: tuple[int, int]
    ground: str
    humidity: float


@lru_cache(maxsize=1)
def known_frames() -> dict[str, KnownFrame]:
    """What is known of each frame of Hephaestus, by its id."""
    table = resources.files("heph_vl.data") / "tables" / "frame_places.csv"
    return {
        row["frame"]: KnownFrame(
            (int(row["height"]), int(row["width"])),
            int(row["tiles"]),
            (int(row["reach_x"] or 0), int(row["reach_y"] or 0)),
            row["ground"],
            float(row["humidity"]),
        )
        for row in csv.DictReader(table.read_text().splitlines())
    }


def size_of(frame_id: str, polygons: Sequence[Sequence[Point]] = ()) -> Size:
    """Height and width of a frame's images.

    A frame of Hephaestus has the size that fits its tiles, its polygons and its captions (see
    `size_search`), whatever polygons are given. Another frame gets 3 x 3 tiles, more if its
    polygons ask for it.

    Args:
        frame_id: LiCSAR name.
        polygons: Outlines in native pixels, for frames that are not in Hephaestus.

    Returns:
        Multiples of 3, so that the fine grid is exactly 10/3 of it.
    """
    known = known_frames().get(frame_id)
    if known is not None:
        return known.size
    corners = [corner for polygon in polygons for corner in polygon] or [(0.0, 0.0)]
    x, y = (min(max(axis), LARGEST_PX) for axis in zip(*corners, strict=True))
    return _usual_side(y), _usual_side(x)


def _usual_side(reach: float) -> int:
    """Three tiles and a half, or what holds the polygons; a multiple of 3."""
    return 3 * math.ceil(max(224 * 3.5, reach + 9) / 3)


def grid_of(site: Site) -> Grid:
    """The fine grid of a site's images."""
    height, width = (round(side * FINE_PER_NATIVE) for side in site.native)
    spacing = spacing_of(site.frame_id) / FINE_PER_NATIVE
    return Grid(height, width, latitude_of(site.frame_id), spacing)


read_once = lru_cache(maxsize=1)(read_dem)


def draw_place(site: Site, seed: int, dem: str | None = None) -> Place:
    """The place of this site under this seed.

    Args:
        site: Name, size, polygons.
        seed: Seed of the whole simulation.
        dem: File or folder of real elevation to take a window of, instead of a synthetic landscape.

    Returns:
        The same place for the same arguments, on any worker.
    """
    grid = grid_of(site)
    g = seeded(seed, site.frame_id, "place")
    origin = None
    if dem is None:
        known = known_frames().get(site.frame_id)
        look_like = (known.ground, known.humidity) if known else (None, None)
        terrain = draw_terrain(grid, g, *look_like, summits=_summits(site.polygons))
    else:
        terrain, (north, west) = dem_terrain(read_once(dem), grid, g)
        origin = west, north
    if site.icy:
        terrain = _ice_cap(terrain, grid, site, g)
    keep = None
    if site.polygons:
        wanted = _polygon_mask(site)
        terrain = _dry_ground(terrain, grid, wanted, g)
        keep = _enlarge(ndimage.binary_dilation(wanted, iterations=2), grid)
    look = look_of(site.frame_id, uniform(32.0, 44.0, g))
    bursts = burst_geometry(grid, look.heading_deg, g)
    footprint = swath_footprint(grid, look.heading_deg, bursts, g, keep=keep)
    cover = land_cover(
        terrain.vegetation,
        terrain.water,
        terrain.snow,
        slope(terrain, grid),
        fractal(grid, g, exponent=2.6, longest_m=6_000.0),
    )
    return Place(site, seed, grid, look, terrain, cover, footprint, *bursts, origin)


def _summits(polygons: Sequence[Sequence[Point]]) -> list[tuple[float, float]]:
    """(row, column) on the fine grid of the middles of polygons, near ones taken together."""
    middles: list[tuple[float, float]] = []
    for polygon in sorted(polygons, key=len):
        xs, ys = zip(*polygon, strict=True)
        middle = ((min(ys) + max(ys)) / 2, (min(xs) + max(xs)) / 2)
        if all(math.dist(middle, other) > 15 for other in middles):
            middles.append(middle)
    return [(row * FINE_PER_NATIVE, column * FINE_PER_NATIVE) for row, column in middles]


def _polygon_mask(site: Site) -> NDArray[np.bool_]:
    """(h, w) bool native pixels that must be dry ground inside the swath."""
    mask = np.zeros(site.native, np.uint8)
    for polygon in site.polygons:
        sides = np.ptp(np.asarray(polygon), axis=0)
        if max(sides) <= LARGEST_DRY_PX:
            fill(mask, polygon, 1)
    return mask.astype(bool)


def _enlarge(field: NDArray[Any], grid: Grid) -> Tensor:
    """A native field brought to the fine grid: (H, W), bool by the nearest pixel."""
    native = torch.from_numpy(np.ascontiguousarray(field))[None, None]
    shape = (grid.height, grid.width)
    if native.dtype == torch.bool:
        return functional.interpolate(native.float(), shape)[0, 0] > 0.5
    return functional.interpolate(native.float(), shape, mode="bilinear")[0, 0]


def _dry_ground(
    terrain: Terrain, grid: Grid, wanted: NDArray[np.bool_], g: torch.Generator
) -> Terrain:
    """The terrain raised out of the sea where it is wanted dry, with a ragged coast around."""
    distance = ndimage.distance_transform_edt(~wanted)
    ragged = fractal(grid, g, exponent=3.0, longest_m=8_000.0)
    near = torch.exp(-_enlarge(distance, grid) / 6.0)
    shore = 80.0 * near * torch.where(_enlarge(wanted, grid), 1.0, 1.0 + 0.35 * ragged) - 25.0
    raised = torch.maximum(terrain.elevation, shore)
    water = terrain.water & (raised <= 0)
    return replace(terrain, elevation=torch.where(water, 0.0, raised), water=water)


def _ice_cap(terrain: Terrain, grid: Grid, site: Site, g: torch.Generator) -> Terrain:
    """The terrain with a broad, gentle cap of ice on land, away from the site's polygons."""
    east, north = grid.east_north()
    places = (~terrain.water[::16, ::16]).nonzero() * 16
    occupied = torch.tensor(_summits(site.polygons) or [(-1e6, -1e6)])
    distance = torch.cdist(places.float(), occupied).amin(1) * grid.dy
    radius = min(uniform(*ICE_CAP_M, g), 0.2 * min(grid.height, grid.width) * grid.dy)
    free = places[distance > 1.5 * radius]
    free = free if len(free) else places
    row, column = free[int(torch.randint(0, len(free), (), generator=g))].tolist()
    r2 = ((east - east[0, column]) ** 2 + (north - north[row, 0]) ** 2) / radius**2
    inside = (1.0 - r2 * (1.0 + 0.2 * fractal(grid, g, longest_m=20_000.0))).clamp_min(0.0)
    ice = inside > 0
    base = float(terrain.elevation[row, column])
    # Ice buries the relief, the more the thicker it is.
    buried = torch.lerp(terrain.elevation, torch.full_like(inside, base), inside.sqrt())
    dome = buried + uniform(*ICE_HEIGHT_M, g) * inside.sqrt()
    return replace(
        terrain,
        elevation=torch.where(ice, dome, terrain.elevation),
        water=terrain.water & ~ice,
        snow=terrain.snow | ice,
        vegetation=torch.where(ice, 0.0, terrain.vegetation),
    )
