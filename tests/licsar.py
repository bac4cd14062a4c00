"""A small LiCSAR frame in GeoTIFFs: a bowl of known motion on a cone, at 0.001 degree."""

from pathlib import Path

import numpy as np
import tifffile

from heph_vl.data.geotiff import Georeference, geotiff_tags

FRAME = "124D_05291_081406"  # Etna
SIDE = 320  # 96 native pixels
WEST, NORTH = 14.84, 37.91
LOOK = (0.6, -0.11, 0.792)
FRINGE_CM = 2.773288


def bowl(centimetres: float, row: float = 160, column: float = 160, radius: float = 45):
    """Unwrapped phase [rad] of a motion that is `centimetres` toward the satellite at most."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    shape = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
    return -2 * np.pi * centimetres / FRINGE_CM * shape


def cone(top_m: float = 3000.0):
    """Height [m] of a cone away from the middle."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows - 90, columns - 220)
    return (top_m * np.exp(-distance / 80)).astype(np.float32)


def write_tiff(
    path: Path, values: np.ndarray, spacing: float = 0.001, no_data: float = 0.0
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Georeference(WEST, NORTH, spacing)
    tifffile.imwrite(path, values, compression="zlib", extratags=geotiff_tags(place, no_data))
    return path


def write_pair(frame: Path, name: str, unwrapped: np.ndarray, noise: float = 0.1, seed: int = 0):
    """Phase and coherence of one pair; a strip in the west is no data. The phase's path."""
    rng = np.random.default_rng(seed)
    phase = unwrapped + rng.normal(0, noise, unwrapped.shape)
    wrapped = np.angle(np.exp(1j * phase)).astype(np.float32)
    wrapped[:, :20] = 0
    coherence = np.full(wrapped.shape, 204, np.uint8)
    coherence[:, :20] = 0
    folder = frame / "interferograms" / name
    write_tiff(folder / f"{name}.geo.cc.tif", coherence)
    return write_tiff(folder / f"{name}.geo.diff_pha.tif", wrapped)


def write_frame_files(frame: Path, height: np.ndarray | None = None) -> None:
    """Look vector and height of a frame."""
    for name, value in zip("ENU", LOOK, strict=True):
        layer = np.full((SIDE, SIDE), value, np.float32)
        write_tiff(frame / "metadata" / f"{frame.name}.geo.{name}.tif", layer, no_data=-9999)
    path = frame / "metadata" / f"{frame.name}.geo.hgt.tif"
    write_tiff(path, cone() if height is None else height, no_data=-9999)
