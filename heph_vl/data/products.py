"""Wrapped phase in radians from LiCSAR GeoTIFFs and numpy files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.geotiff import Georeference, read_geotiff
from heph_vl.data.images import MAX_PIXELS
from heph_vl.errors import HephError

_FIX = "give wrapped phase in radians (.geo.diff_pha.tif, real .npy) or a complex .npy"


@dataclass(frozen=True)
class Radians:
    """Phase as a file states it.

    Attributes:
        phase: (H, W) float32 [rad], not yet wrapped, 0 where invalid.
        valid: (H, W) bool.
        place: Where it lies, None if not stated.
    """

    phase: NDArray[np.float32]
    valid: NDArray[np.bool_]
    place: Georeference | None = None


def read_radians(path: Path) -> Radians:
    """Phase of a `.tif` (0, NaN and the file's own no-data value are no data) or a `.npy`.

    In a `.npy` NaN is no data, or 0 if it is complex. Phases within 2 pi are accepted, so that
    [0, 2 pi) works; beyond that the values are degrees or unwrapped, which cannot be told apart.

    Args:
        path: The file.

    Returns:
        Phase and validity, with the place where a GeoTIFF states it.

    Raises:
        HephError: If it cannot be read, is larger than 64 megapixels, is not one 2-D band of
            floats, has no valid phase, holds values beyond 2 pi, or lies on another grid than one
            of degrees.
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
    band = read_geotiff(path, MAX_PIXELS)
    no_data = (0.0,) if band.no_data is None else (0.0, band.no_data)
    return _checked(band.values, where, no_data, band.place)


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 2:
        raise HephError(where, f"array of shape {shape}, not one band (H, W)", _FIX)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise HephError(where, f"{shape[1]} x {shape[0]} px, the limit is 64 megapixels", "cut it")


def _checked(
    array: NDArray[Any],
    where: str,
    no_data: tuple[float, ...] = (),
    place: Georeference | None = None,
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
    return Radians(phase, np.asarray(valid), place)
