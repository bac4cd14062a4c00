"""Real elevation instead of synthetic ground: SRTM tiles and GeoTIFFs, cut and resampled.

Positions are those of pixel centres; an SRTM tile named by its south-west corner has samples on
that very corner and on the opposite one, and shares its outer rows and columns with its neighbours.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from torch import Tensor
from torch.nn import functional

from heph_vl.data.geotiff import read_geotiff
from heph_vl.errors import HephError
from heph_vl.simulate.cones import Volcano
from heph_vl.simulate.grid import COARSE, Grid
from heph_vl.simulate.terrain import Terrain, draw_humidity, ground_cover

MOST_VOIDS = 0.05  # share that is filled by interpolation; more is refused
LEAST_LAND = 0.2  # of a window
MAX_PIXELS = 100_000_000
SMALLEST_SEA_KM2 = 2.0  # smaller waters are ponds or flaws of the model: ground
SMALLEST_ISLAND_KM2 = 0.1
DEEPEST_SEA_M = -5.0  # waters whose mean is lower are dry depressions, e.g. Danakil
PROMINENCE_M = 150.0  # of a summit over the mean of the `SUMMIT_SPACING_M` around it
SUMMIT_SPACING_M = 7_000.0

_HGT_NAME = re.compile(r"([NS])(\d{2})([EW])(\d{3})", re.IGNORECASE)
_HGT_SIDES = {side * side * 2: side for side in (1201, 3601)}
_HGT_VOID = -32768
_FIX = "give SRTM tiles (.hgt) or a GeoTIFF in degrees of longitude and latitude"


@dataclass(frozen=True)
class Dem:
    """A digital elevation model on a geographic grid.

    Args:
        elevation: (H, W) float32 [m], row 0 in the north; NaN where no tile is.
        latitude: Of the centre of the north-west pixel [deg, north positive].
        longitude: Of the same [deg, east positive].
        spacing_deg: Pixel spacing [deg] along both axes.
        filled: Share of the pixels that were voids and are interpolated.
        name: Of its file or folder, for messages.
    """

    elevation: NDArray[np.float32]
    latitude: float
    longitude: float
    spacing_deg: float
    filled: float
    name: str = "dem"


def read_dem(path: Path | str) -> Dem:
    """Elevation of a `.hgt` tile, a GeoTIFF, or a folder with either.

    Args:
        path: An SRTM tile of 1201 or 3601 samples a side named like `N31E130.hgt`, a GeoTIFF in
            degrees, a folder of tiles that adjoin, or a folder with one GeoTIFF.

    Returns:
        The model, neighbouring tiles joined, its voids filled and their share told.

    Raises:
        HephError: If there is none, a file is damaged or without coordinates, tiles do not adjoin
            or differ in spacing, or more than `MOST_VOIDS` of it are voids.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise HephError(str(path), "no such file or folder", _FIX)
    if path.suffix.lower() == ".hgt":
        return _read_hgt(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_geotiff(path)
    raise HephError(str(path), f"a {path.suffix or 'nameless'} file is no elevation model", _FIX)


def dem_terrain(
    dem: Dem,
    grid: Grid,
    generator: torch.Generator,
    humidity: float | None = None,
    *,
    origin: tuple[float, float] | None = None,
) -> tuple[Terrain, tuple[float, float]]:
    """A window of a model as the ground of a frame.

    Args:
        dem: From `read_dem`.
        grid: The window's size and spacing. Its latitude, which sets the width of its columns in
            metres, is the caller's to choose.
        generator: Randomness: the window, vegetation, snow line.
        humidity: 0 (desert) to 1 (rain forest); drawn when none.
        origin: (latitude, longitude) [deg] of the window's north-west pixel centre; drawn among
            those with at least `LEAST_LAND` land when none.

    Returns:
        The terrain, elevation interpolated bilinearly, and its origin.

    Raises:
        HephError: If the model is smaller than the window, or no window in it (or not the one
            asked for) has data everywhere and enough land.
    """
    if origin is None:
        origin = _draw_origin(dem, grid, generator)
    elevation = torch.from_numpy(_window(dem, grid, origin))
    if bool(elevation.isnan().any()):
        share = float(elevation.isnan().float().mean())
        raise HephError(dem.name, f"{share:.0%} of the window at {origin} has no tile", "move it")
    water = torch.from_numpy(_sea(elevation.numpy(), grid))
    if float((~water).float().mean()) < LEAST_LAND:
        raise HephError(
            dem.name,
            f"the window at {origin} is {float(water.float().mean()):.0%} water",
            f"take one with at least {LEAST_LAND:.0%} land",
        )
    elevation = elevation.masked_fill(water, 0.0)
    volcanoes = _summits(elevation, water, grid)
    if humidity is None:
        humidity = draw_humidity(generator)
    vegetation, snow = ground_cover(grid, generator, elevation, water, volcanoes, humidity)
    return Terrain(elevation, water, vegetation, snow, volcanoes), origin


def _south_west(path: Path) -> tuple[int, int]:
    """Latitude and longitude [deg] of a tile's south-west corner, by its name."""
    match = _HGT_NAME.match(path.stem)
    if not match:
        raise HephError(str(path), "a name without coordinates", "name it like N31E130.hgt")
    south = int(match[2]) * (1 if match[1].upper() == "N" else -1)
    return south, int(match[4]) * (1 if match[3].upper() == "E" else -1)


def _read_hgt(path: Path) -> Dem:
    south, west = _south_west(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HephError(str(path), f"not readable: {error.strerror}", _FIX) from error
    if len(data) not in _HGT_SIDES:
        sizes = " or ".join(f"{size:,}" for size in _HGT_SIDES)
        raise HephError(str(path), f"{len(data):,} bytes, not {sizes}", "get the tile again")
    side = _HGT_SIDES[len(data)]
    raw = np.frombuffer(data, ">i2").reshape(side, side)
    elevation, filled = _fill_voids(raw.astype(np.float32), raw == _HGT_VOID, str(path))
    return Dem(elevation, south + 1.0, float(west), 1.0 / (side - 1), filled, path.name)


def _read_geotiff(path: Path) -> Dem:
    where = str(path)
    band = read_geotiff(path, MAX_PIXELS)
    if band.place is None:
        raise HephError(where, "no ModelPixelScale and ModelTiepoint tags", _FIX)
    raw = band.values.astype(np.float32)
    no_data = np.float32(np.nan if band.no_data is None else band.no_data)
    voids = ~np.isfinite(raw) | (raw == no_data) | (raw == _HGT_VOID)
    elevation, filled = _fill_voids(raw, voids, where)
    longitude, latitude = band.place.lonlat(0.5, 0.5)
    return Dem(elevation, latitude, longitude, band.place.spacing_deg, filled, path.name)


def _read_folder(folder: Path) -> Dem:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    tiles = [p for p in files if p.suffix.lower() == ".hgt"]
    tiffs = [p for p in files if p.suffix.lower() in (".tif", ".tiff")]
    if tiles and tiffs:
        raise HephError(str(folder), "both .hgt and .tif files", "keep one kind")
    if len(tiffs) == 1:
        return _read_geotiff(tiffs[0])
    if not tiles:
        raise HephError(str(folder), f"{len(tiffs)} GeoTIFFs and no .hgt tile in it", _FIX)
    return _join(tiles, folder)


def _join(tiles: list[Path], folder: Path) -> Dem:
    """Adjoining tiles as one model; where none is, NaN."""
    corners = [_south_west(path) for path in tiles]
    north, west = max(south for south, _ in corners), min(west for _, west in corners)
    places = [(north - south, east - west) for south, east in corners]
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    occupied = np.zeros((rows, columns), bool)
    occupied[tuple(np.array(places).T)] = True
    # Tiles that touch at a corner share one sample: they do not adjoin.
    if ndimage.label(occupied)[1] > 1:
        names = ", ".join(path.name for path in tiles[:6])
        raise HephError(str(folder), f"tiles that do not adjoin: {names}", "give one group of them")
    spacing = _read_hgt(tiles[0]).spacing_deg
    side = round(1.0 / spacing)
    if (rows * side + 1) * (columns * side + 1) > MAX_PIXELS:
        size = f"{columns} x {rows} degrees, over {MAX_PIXELS // 1_000_000} megapixels"
        raise HephError(str(folder), size, "give fewer tiles")
    joined = np.full((rows * side + 1, columns * side + 1), np.nan, np.float32)
    filled = 0.0
    for (row, column), path in zip(places, tiles, strict=True):
        tile = _read_hgt(path)
        if tile.spacing_deg != spacing:
            what = f"{path.name} is not spaced like {tiles[0].name}"
            raise HephError(str(folder), what, "keep one kind")
        box = np.s_[row * side : (row + 1) * side + 1, column * side : (column + 1) * side + 1]
        joined[box] = tile.elevation
        filled += tile.filled / len(tiles)
    return Dem(joined, north + 1.0, float(west), spacing, filled, folder.name)


def _fill_voids(
    elevation: NDArray[np.float32], voids: NDArray[np.bool_], where: str
) -> tuple[NDArray[np.float32], float]:
    """Linear interpolation across voids, and their share."""
    share = float(voids.mean())
    if share > MOST_VOIDS:
        raise HephError(
            where,
            f"{share:.1%} of it is voids, at most {MOST_VOIDS:.0%} are filled",
            "give a void-filled model",
        )
    if share:
        # Two pixels of ground around each void suffice, and are never all on one line.
        rim = ndimage.binary_dilation(voids, np.ones((3, 3)), iterations=2) & ~voids
        known, holes = np.argwhere(rim), np.argwhere(voids)
        values = elevation[rim]
        filled = LinearNDInterpolator(known, values)(holes)
        outside = np.isnan(filled)  # at the edges of the model
        if outside.any():
            filled[outside] = NearestNDInterpolator(known, values)(holes[outside])
        elevation = elevation.copy()
        elevation[voids] = filled
    return elevation, share


def room_for(dem: Dem, grid: Grid) -> tuple[float, float]:
    """How far [deg] the window can move to the south and to the east."""
    covers = [(side - 1) * dem.spacing_deg for side in dem.elevation.shape]
    needs = [(side - 1) * grid.spacing_deg for side in (grid.height, grid.width)]
    # Rounding aside, a window as large as the model fits.
    if any(need > cover + 1e-9 for need, cover in zip(needs, covers, strict=True)):
        raise HephError(
            dem.name,
            f"covers {covers[0]:.3g} x {covers[1]:.3g} degrees (north x east), the image needs "
            f"{needs[0]:.3g} x {needs[1]:.3g}",
            "give more tiles or make the image smaller",
        )
    return max(0.0, covers[0] - needs[0]), max(0.0, covers[1] - needs[1])


def _draw_origin(dem: Dem, grid: Grid, generator: torch.Generator) -> tuple[float, float]:
    """North-west pixel of a window that has data everywhere and enough land."""
    room = room_for(dem, grid)
    step = max(1, min(dem.elevation.shape) // 300)
    ground = dem.elevation[::step, ::step]
    spacing = dem.spacing_deg * step
    needs = ((side - 1) * grid.spacing_deg for side in (grid.height, grid.width))
    size = [min(1 + round(n / spacing), most) for n, most in zip(needs, ground.shape, strict=True)]
    land = _box_means(ground > 0, size)
    # A little more than needed, since only some of the pixels are looked at.
    good = (land >= 1.1 * LEAST_LAND) & (_box_means(np.isnan(ground), size) == 0)
    if not good.any():
        raise HephError(
            dem.name, f"no window in it has data and {LEAST_LAND:.0%} land", "give another model"
        )
    places = np.argwhere(good)
    place = places[int(torch.randint(0, len(places), (), generator=generator))]
    south, east = (min(float(p) * spacing, r) for p, r in zip(place, room, strict=True))
    return dem.latitude - south, dem.longitude + east


def _box_means(mask: NDArray[np.bool_], size: list[int]) -> NDArray[np.float64]:
    """Mean of a mask in every box of this size, by its north-west pixel."""
    total = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = size
    boxes = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    return np.asarray(boxes / (h * w))


def _window(dem: Dem, grid: Grid, origin: tuple[float, float]) -> NDArray[np.float32]:
    """Elevation at the pixels of the grid, bilinear: (H, W)."""
    room = room_for(dem, grid)
    offsets = dem.latitude - origin[0], origin[1] - dem.longitude
    for offset, most, toward in zip(offsets, room, ("south", "east"), strict=True):
        if not -1e-9 <= offset <= most + 1e-9:
            raise HephError(
                dem.name,
                f"a window at {origin} begins {offset:.4g} degrees {toward} of its corner",
                f"it can begin 0 to {most:.4g} degrees {toward}",
            )
    field = dem.elevation
    for axis, offset in enumerate(offsets):
        number = (grid.height, grid.width)[axis]
        at = (offset + np.arange(number) * grid.spacing_deg) / dem.spacing_deg
        at = at.clip(0, field.shape[axis] - 1)
        low = np.floor(at).astype(np.int64).clip(0, max(0, field.shape[axis] - 2))
        weight = (at - low).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight[None, :]
        lower = field.take(low, axis)
        upper = field.take(np.minimum(low + 1, field.shape[axis] - 1), axis)
        field = lower + weight * (upper - lower)
    return np.ascontiguousarray(field, np.float32)


def _sea(elevation: NDArray[np.float32], grid: Grid) -> NDArray[np.bool_]:
    """What is at or below 0 m, without ponds, flaws, rocks and dry depressions: (H, W) bool."""
    pixel_km2 = grid.dx * grid.dy / 1e6
    water = elevation <= 0
    labels, number = ndimage.label(water)
    area = np.bincount(labels.ravel(), minlength=number + 1) * pixel_km2
    total = np.bincount(labels.ravel(), elevation.ravel(), minlength=number + 1) * pixel_km2
    keep = (area >= SMALLEST_SEA_KM2) & (total >= DEEPEST_SEA_M * area)
    keep[0] = False
    water = keep[labels]
    labels, number = ndimage.label(~water)
    area = np.bincount(labels.ravel(), minlength=number + 1) * pixel_km2
    small = area < SMALLEST_ISLAND_KM2
    small[0] = False
    return np.asarray(water | small[labels])


def _summits(elevation: Tensor, water: Tensor, grid: Grid) -> tuple[Volcano, ...]:
    """Peaks that stand out of the country around them, or else the highest point."""
    height = functional.avg_pool2d(elevation[None], COARSE, ceil_mode=True)
    reach = [max(1, round(SUMMIT_SPACING_M / COARSE / step)) for step in (grid.dy, grid.dx)]
    highest, mean = height, height
    for axis in (0, 1):  # pooling by rows, then by columns
        kernel = (2 * reach[0] + 1, 1) if axis == 0 else (1, 2 * reach[1] + 1)
        padding = (kernel[0] // 2, kernel[1] // 2)
        highest = functional.max_pool2d(highest, kernel, 1, padding)
        mean = functional.avg_pool2d(mean, kernel, 1, padding, count_include_pad=False)
    peaks = (height == highest) & (height - mean > PROMINENCE_M)
    volcanoes = []
    for row, column in (peaks[0].nonzero() * COARSE + COARSE // 2).tolist():
        row, column = min(row, grid.height - 1), min(column, grid.width - 1)
        if not bool(water[row, column]):
            volcanoes.append(Volcano(float(row), float(column), SUMMIT_SPACING_M))
    if not volcanoes:
        row, column = divmod(int(elevation.masked_fill(water, -1e4).argmax()), grid.width)
        volcanoes.append(Volcano(float(row), float(column), SUMMIT_SPACING_M))
    return tuple(volcanoes)
