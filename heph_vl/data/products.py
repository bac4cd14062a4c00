"""Wrapped phase in radians from LiCSAR GeoTIFFs and numpy files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.images import MAX_PIXELS
from heph_vl.errors import HephError

_FIX = "give wrapped phase in radians (.geo.diff_pha.tif, real .npy) or a complex .npy"
_PIXEL_SCALE, _TIEPOINT, _GDAL_NODATA = 33550, 33922, 42113


@dataclass(frozen=True)
class Radians:
    """Phase as a file states it.

    Attributes:
        phase: (H, W) float32 [rad], not yet wrapped, 0 where invalid.
        valid: (H, W) bool.
        spacing_deg: Pixel spacing [degree], None if not stated.
        origin: (longitude, latitude) [degree] of the top left corner, None if not stated.
    """

    phase: NDArray[np.float32]
    valid: NDArray[np.bool_]
    spacing_deg: float | None = None
    origin: tuple[float, float] | None = None


def read_radians(path: Path) -> Radians:
    """Phase of a `.tif` (0, NaN and the file's own no-data value are no data) or a `.npy`.

    In a `.npy` NaN is no data, or 0 if it is complex. Phases within 2 pi are accepted, so that
    [0, 2 pi) works; beyond that the values are degrees or unwrapped, which cannot be told apart.

    Args:
        path: The file.

    Returns:
        Phase and validity, with spacing and origin where a GeoTIFF states them.

    Raises:
        HephError: If it cannot be read, is larger than 64 megapixels, is not one 2-D band of
            floats, has no valid phase, or holds values beyond 2 pi.
    """
    where = str(path)
    if path.suffix.lower() == ".npy":
        return _checked(_read_npy(path, where), where)
    return _read_tiff(path, where)


def _read_npy(path: Path, where: str) -> NDArray[Any]:
    try:
        # Mapped first: the header tells the size before anything is loaded.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise HephError(where, f"not a readable .npy: {error}", _FIX) from error
    _check_shape(array.shape, where)
    return np.array(array)


def _read_tiff(path: Path, where: str) -> Radians:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            _check_shape(page.shape, where)
            tags = {tag.code: tag.value for tag in page.tags.values()}
            array = page.asarray()
    except HephError:
        raise
    except Exception as error:  # tifffile and its codecs raise many kinds on damaged files
        raise HephError(where, f"not a readable TIFF: {error}", "get the file again") from error
    scale, tie = tags.get(_PIXEL_SCALE), tags.get(_TIEPOINT)
    spacing = float(scale[0]) if scale else None
    origin = None
    if scale and tie:
        origin = (
            float(tie[3]) - float(tie[0]) * float(scale[0]),
            float(tie[4]) + float(tie[1]) * float(scale[1]),
        )
    no_data = [0.0]
    if _GDAL_NODATA in tags:
        try:
            no_data.append(float(str(tags[_GDAL_NODATA]).strip("\x00 ")))
        except ValueError as error:
            raise HephError(where, f"no-data tag {tags[_GDAL_NODATA]!r}", _FIX) from error
    return _checked(array, where, tuple(no_data), spacing, origin)


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 2:
        raise HephError(where, f"array of shape {shape}, not one band (H, W)", _FIX)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise HephError(where, f"{shape[1]} x {shape[0]} px, the limit is 64 megapixels", "cut it")


def _checked(
    array: NDArray[Any],
    where: str,
    no_data: tuple[float, ...] = (),
    spacing_deg: float | None = None,
    origin: tuple[float, float] | None = None,
) -> Radians:
    if array.dtype.kind == "c":
        valid = np.isfinite(array) & (array != 0)
        array = np.angle(np.where(valid, array, 1))
    elif array.dtype.kind == "f":
        valid = np.isfinite(array) & ~np.isin(array, no_data)
    else:
        raise HephError(where, f"values of type {array.dtype}", _FIX)
    if not valid.any():
        raise HephError(where, "no valid phase", "give a file with data")
    largest = float(np.abs(array[valid]).max())
    if largest > 2 * np.pi + 1e-3:
        raise HephError(
            where, f"values up to {largest:.4g}: degrees or unwrapped phase, not radians", _FIX
        )
    phase = np.where(valid, array, 0).astype(np.float32)
    return Radians(phase, np.asarray(valid), spacing_deg, origin)
