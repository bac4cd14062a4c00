"""One band of a GeoTIFF with its place on a grid of longitude and latitude."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from heph_vl.errors import HephError

_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _NO_DATA = 33550, 33922, 34264, 42113
_GEOGRAPHIC, _PIXEL_IS_POINT = 2, 2  # of GTModelTypeGeoKey and GTRasterTypeGeoKey
_DEGREES_FIX = "give it in degrees of longitude and latitude (EPSG:4326)"


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a picture lie. Row 0 is in the north, column 0 in the west.

    Attributes:
        west: Longitude of the outer edge of column 0 [deg, east positive].
        north: Latitude of the outer edge of row 0 [deg, north positive].
        spacing_deg: Side of a pixel [deg].
    """

    west: float
    north: float
    spacing_deg: float

    def lonlat(self, x: float, y: float) -> tuple[float, float]:
        """Longitude and latitude [deg] of a point in pixels; (0, 0) is the outer corner."""
        return self.west + x * self.spacing_deg, self.north - y * self.spacing_deg

    def pixel(self, longitude: float, latitude: float) -> tuple[float, float]:
        """The point (x, y) in pixels of a longitude and latitude [deg]."""
        return (
            (longitude - self.west) / self.spacing_deg,
            (self.north - latitude) / self.spacing_deg,
        )

    def coarser(self, factor: float) -> "Georeference":
        """That of the same picture with pixels `factor` times as large."""
        return Georeference(self.west, self.north, self.spacing_deg * factor)

    def shifted(self, x: float, y: float) -> "Georeference":
        """That of a cut which begins at the point (x, y) in pixels."""
        return Georeference(*self.lonlat(x, y), self.spacing_deg)


@dataclass(frozen=True)
class Band:
    """What a file holds.

    Attributes:
        values: (H, W), of the file's own type.
        place: None where the file does not say.
        no_data: The value that the file itself calls none, if it names one.
    """

    values: NDArray[Any]
    place: Georeference | None
    no_data: float | None


def read_geotiff(path: Path, max_pixels: int) -> Band:
    """The only band of a TIFF.

    Args:
        path: The file.
        max_pixels: What is larger is refused, before it is unpacked.

    Returns:
        Values, place and no-data value.

    Raises:
        HephError: It is damaged, has several bands or too many pixels, or lies on a grid that is
            not one of degrees with square pixels, north up.
    """
    import tifffile

    where = str(path)
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            shape = page.shape
            if len(shape) == 2 and shape[0] * shape[1] <= max_pixels:
                tags = {tag.code: tag.value for tag in page.tags.values()}
                keys: dict[str, Any] = page.geotiff_tags or {}
                values = page.asarray()
    except Exception as error:  # tifffile and its codecs raise many kinds on damaged files
        raise HephError(where, f"not a readable TIFF: {error}", "get the file again") from error
    if len(shape) != 2:
        raise HephError(where, f"array of shape {shape}, not one band (H, W)", "give one band")
    if shape[0] * shape[1] > max_pixels:
        limit = f"{max_pixels / 1e6:.0f} megapixels"
        raise HephError(where, f"{shape[1]} x {shape[0]} px, the limit is {limit}", "cut it")
    return Band(values, _place(tags, keys, where), _no_data(tags, where))


def middle_of(path: Path) -> tuple[float, float] | None:
    """Longitude and latitude [deg] of the middle of a GeoTIFF; no pixel is read.

    Args:
        path: Any file.

    Returns:
        The point, or None if the file does not say, or is no TIFF.
    """
    import tifffile

    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tags = {tag.code: tag.value for tag in page.tags.values()}
            place = _place(tags, page.geotiff_tags or {}, str(path))
            height, width = page.shape
    except Exception:  # whoever reads the file itself says what is wrong with it
        return None
    return None if place is None else place.lonlat(width / 2, height / 2)


def _place(tags: Mapping[int, Any], keys: Mapping[str, Any], where: str) -> Georeference | None:
    scale, tie = tags.get(_PIXEL_SCALE), tags.get(_TIEPOINT)
    model = int(keys.get("GTModelTypeGeoKey", _GEOGRAPHIC))
    if model != _GEOGRAPHIC:
        name = keys.get("GTCitationGeoKey") or keys.get("ProjectedCSTypeGeoKey") or f"type {model}"
        raise HephError(where, f"in another projection ({name})", _DEGREES_FIX)
    if _TRANSFORMATION in tags and not scale:
        raise HephError(where, "on a rotated grid", _DEGREES_FIX)
    if not scale or not tie:
        return None
    if not 0 < scale[0] < 1:
        raise HephError(where, f"pixels of {scale[0]:g}: not in degrees", _DEGREES_FIX)
    if abs(scale[0] - scale[1]) > 1e-3 * scale[0]:
        what = f"pixels of {scale[0]:g} by {scale[1]:g} degrees"
        raise HephError(where, what, "make them square")
    # The tie point is a corner unless the file says that its samples are points.
    point = int(keys.get("GTRasterTypeGeoKey", 1)) == _PIXEL_IS_POINT
    before = 0.5 if point else 0.0
    west = float(tie[3]) - (float(tie[0]) + before) * float(scale[0])
    north = float(tie[4]) + (float(tie[1]) + before) * float(scale[0])
    return Georeference(west, north, float(scale[0]))


def _no_data(tags: Mapping[int, Any], where: str) -> float | None:
    if _NO_DATA not in tags:
        return None
    try:
        return float(str(tags[_NO_DATA]).strip("\x00 "))
    except ValueError as error:
        raise HephError(where, f"no-data tag {tags[_NO_DATA]!r}", "write it as a number") from error


def geotiff_tags(place: Georeference, no_data: float = 0.0) -> list[tuple[Any, ...]]:
    """TIFF tags (`extratags` of tifffile) of a picture at this place, WGS 84, corners as ties."""
    step = place.spacing_deg
    # Version 1.1.0, then three keys: geographic model, pixels are areas, EPSG:4326.
    keys = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)
    return [
        (_PIXEL_SCALE, "d", 3, (step, step, 0.0), True),
        (_TIEPOINT, "d", 6, (0.0, 0.0, 0.0, place.west, place.north, 0.0), True),
        (34735, "H", len(keys), keys, True),
        (_NO_DATA, "s", 0, f"{no_data:g}", True),
    ]
