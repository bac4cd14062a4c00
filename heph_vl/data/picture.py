"""One product on its own: a LiCSAR folder's GeoTIFFs or preview, or a numpy phase, at 1/300 degree.

    <frame>/interferograms/<pair>/<pair>.geo.diff_pha.tif   wrapped phase [rad]
    <frame>/interferograms/<pair>/<pair>.geo.cc.tif         coherence, 0 to 255
    <frame>/metadata/<frame>.geo.{E,N,U}.tif                look vector, ground to satellite
    <frame>/metadata/<frame>.geo.hgt.tif                    height [m]

GeoTIFFs are preferred to the preview (`.geo.diff.png`, `.geo.cc.png`) of the same pair: they say
where they lie, and their phase has been through no palette.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heph_vl.data import phase
from heph_vl.data.geotiff import Georeference, read_geotiff
from heph_vl.data.images import MAX_PIXELS, read_coherence
from heph_vl.data.samples import decoded_pixels
from heph_vl.errors import HephError

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
# What lies beside loose interferograms: by the words between the dots of a name.
_OTHERS = {"cc", "unw", "mask", "los", "overlay", "explain"}
# Folders of a LiCSAR frame without interferograms.
_OTHER_FOLDERS = {"metadata", "epochs"}
PHASE_TIFF, COHERENCE_TIFF = ".geo.diff_pha.tif", ".geo.cc.tif"
PHASE_PNG, COHERENCE_PNG = ".geo.diff.png", ".geo.cc.png"

Box = tuple[float, float, float, float]  # west, south, east, north [deg]
Float = NDArray[np.float32]


class OutsideBoxError(HephError):
    """A picture that does not reach into the box asked for: nothing is wrong with it."""


@dataclass(frozen=True)
class Picture:
    """A product, or a cut of it, at 1/300 degree.

    Args:
        path: Its file.
        channels: (3, H, W) float32, model input.
        valid: (H, W) bool.
        wrapped_phase: (H, W) float32 [rad].
        size: Width and height of the file, or of the cut [px of the file].
        corner: Where a cut begins, (x, y) in pixels of the file.
        measured: Whether coherence is measured; else it is estimated from the phase.
        sense_known: Whether the sign of the phase is known.
        place: Where it lies, if the file says so.
    """

    path: Path
    channels: Float
    valid: NDArray[np.bool_]
    wrapped_phase: Float
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    measured: bool = False
    sense_known: bool = True
    place: Georeference | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the file a pixel of these arrays, along x and y."""
        height, width = self.valid.shape
        return self.size[0] / width, self.size[1] / height


@dataclass(frozen=True)
class Layers:
    """What a frame's own files say of the ground of a picture.

    Args:
        look_vector: (3, H, W) float32, unit, ground to satellite: east, north, up; NaN where
            unknown. None where the frame has no such files.
        height: (H, W) float32 [m], NaN where unknown; None likewise.
    """

    look_vector: Float | None
    height: Float | None


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are; of folders, all interferograms in them, each pair once.

    Args:
        paths: Files and folders.

    Returns:
        Files in order. Coherence, unwrapped or unfiltered phase, masks and a frame's own files are
        left out, and the preview of a pair whose GeoTIFF is there.

    Raises:
        HephError: A folder without any.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [p for p in sorted(_files_in(path)) if is_interferogram(p)]
        tiffs = {(p.parent, stem_of(p)) for p in inside if p.name.endswith(PHASE_TIFF)}
        inside = [
            p
            for p in inside
            if not (p.name.endswith(PHASE_PNG) and (p.parent, stem_of(p)) in tiffs)
        ]
        if not inside:
            fix = f"give a folder with {', '.join(SUFFIXES)} files"
            raise HephError(str(path), "holds no interferogram", fix)
        found += inside
    return found


def is_interferogram(path: Path) -> bool:
    """Whether a file is one by its name; of a LiCSAR pair's many files one or two are."""
    if ".geo." in path.name:
        return path.name.endswith((PHASE_TIFF, PHASE_PNG))
    others = _OTHERS.intersection(path.name.split(".")[1:-1])
    return path.suffix.lower() in SUFFIXES and not others


def _files_in(folder: Path) -> Iterator[Path]:
    """Visible files of all depths; linked folders are followed, each folder once."""
    been = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(name)
        if here in been:
            folders.clear()
            continue
        been.add(here)
        folders[:] = [f for f in folders if f not in _OTHER_FOLDERS and not f.startswith(".")]
        yield from (Path(name) / file for file in files if not file.startswith("."))


def placed(path: Path) -> Path:
    """The GeoTIFF of the pair whose preview this is, if it is there; else the path itself."""
    tiff = path.with_name(stem_of(path) + PHASE_TIFF)
    return tiff if tiff.is_file() else path


def stem_of(path: Path) -> str:
    """`20200101_20200113` of `20200101_20200113.geo.diff.png`."""
    return path.name.split(".geo.")[0] if ".geo." in path.name else path.stem


def read_picture(path: str | Path, bbox: Box | None = None) -> Picture:
    """A LiCSAR GeoTIFF or PNG, or a numpy phase, with the coherence that lies beside it.

    Args:
        path: The file; coherence is looked for under its name.
        bbox: Cut this box out of it: west, south, east, north [deg].

    Returns:
        The picture; what is finer than 1/300 degree is averaged as phasors.

    Raises:
        OutsideBoxError: It does not reach into the box.
        HephError: It cannot be read, is no interferogram, or has no valid phase.
    """
    path = Path(path)
    decoded = phase.read_interferogram(path)
    wrapped, valid, place = decoded.wrapped_phase, decoded.valid, decoded.place
    coherence = _coherence_beside(path, wrapped.shape)
    corner = (0, 0)
    if bbox is not None:
        corner, window = _window(path, place, wrapped.shape, bbox)
        wrapped, valid = wrapped[window], valid[window]
        coherence = None if coherence is None else coherence[window]
        place = None if place is None else place.shifted(*corner)
    return native_picture(
        path, wrapped, valid, coherence, place, corner=corner, sense_known=decoded.sense_known
    )


def native_picture(
    path: Path,
    wrapped_phase: Float,
    valid: NDArray[np.bool_],
    coherence: Float | None,
    place: Georeference | None,
    *,
    corner: tuple[int, int] = (0, 0),
    sense_known: bool = True,
) -> Picture:
    """A picture of arrays.

    Args:
        path: Where they come from.
        wrapped_phase: (H, W) float32 [rad].
        valid: (H, W) bool.
        coherence: (H, W) float32 in [0, 1], 0 where there is none; estimated if None.
        place: Where they lie, and their spacing; 1/300 degree if None.
        corner: See `Picture`.
        sense_known: Likewise.

    Returns:
        The picture; what is finer than 1/300 degree is averaged as phasors.

    Raises:
        HephError: Nothing is valid, or it is coarser than 1/300 degree.
    """
    height, width = wrapped_phase.shape
    factor = phase.NATIVE_SPACING_DEG / (place.spacing_deg if place else phase.NATIVE_SPACING_DEG)
    if factor < 0.95:
        what = f"pixels of {phase.NATIVE_SPACING_DEG / factor:g} degrees"
        raise HephError(str(path), what, "give it at 1/300 degree or finer")
    if factor > 1.05:
        z, coarse = phase.resample_phasor(phase.phasor(wrapped_phase, valid), valid, factor)
        if coherence is not None:
            coherence = _coarser(coherence, valid & (coherence > 0), factor)
        wrapped_phase, valid = np.angle(z).astype(np.float32), coarse
        place = place.coarser(factor) if place else None
    if not valid.any():
        raise HephError(str(path), "no valid phase", "all that was asked for is no-data")
    channels, valid = decoded_pixels(wrapped_phase, valid, coherence)
    return Picture(
        path,
        channels,
        valid,
        wrapped_phase,
        (width, height),
        corner,
        measured=coherence is not None,
        sense_known=sense_known,
        place=place,
    )


def read_layers(picture: Picture, *, look: bool = True) -> Layers:
    """Look vector and height of a picture that says where it lies, if its frame has them.

    Args:
        picture: Of `read_picture`.
        look: Whether the look vector is asked for.

    Returns:
        The layers at the picture's pixels.

    Raises:
        HephError: A file is damaged or does not reach over the picture; of E, N and U some are
            missing.
    """
    found = frame_files(picture.path)
    if picture.place is None:
        return Layers(None, None)
    components = [found[name] for name in ("E", "N", "U")]
    vector = None
    if look and any(components):
        missing = [name for name in ("E", "N", "U") if found[name] is None]
        if missing:
            there = next(path for path in components if path is not None)
            what = f"no .geo.{missing[0]}.tif beside it"
            raise HephError(str(there), what, "give all of E, N and U, or none")
        vector = np.stack([_layer(path, picture) for path in components if path is not None])
    height = None if found["hgt"] is None else _layer(found["hgt"], picture)
    return Layers(vector, height)


def coherence_of(path: Path) -> Path | None:
    """Where the coherence of a pair would lie, by the name of its phase; None for other names."""
    for mine, its in ((PHASE_PNG, COHERENCE_PNG), (PHASE_TIFF, COHERENCE_TIFF)):
        if path.name.endswith(mine):
            return path.with_name(path.name.removesuffix(mine) + its)
    return None


def _coherence_beside(path: Path, shape: tuple[int, ...]) -> Float | None:
    """Coherence of a pair at the file's resolution, 0 where there is none; None without a file."""
    beside = coherence_of(path)
    if beside is None or not beside.is_file():
        return None
    if beside.suffix == ".png":
        return read_coherence(beside.read_bytes(), (shape[0], shape[1]), str(beside))
    return _read_coherence_tiff(beside, shape)


def _read_coherence_tiff(path: Path, shape: tuple[int, ...]) -> Float:
    band = read_geotiff(path, MAX_PIXELS)
    values = np.nan_to_num(band.values.astype(np.float32))
    if band.no_data is not None:
        values[band.values == band.no_data] = 0
    if band.values.shape != shape:
        what = f"{values.shape[1]} x {values.shape[0]} px, the phase has {shape[1]} x {shape[0]}"
        raise HephError(str(path), what, "get both of the same product")
    if band.values.dtype == np.uint8:
        return values / np.float32(255)
    if not 0 <= values.min() <= values.max() <= 1 + 1e-6:
        what = f"values from {values.min():.4g} to {values.max():.4g}"
        raise HephError(str(path), what, "coherence is 0 to 1, or 0 to 255 in bytes")
    return values


def _coarser(values: Float, known: NDArray[np.bool_], factor: float) -> Float:
    """Mean over the known pixels, 0 where most are not."""
    mean, there = phase.resample_phasor(values.astype(np.complex64), known, factor)
    return np.where(there, mean.real, 0).astype(np.float32)


def _window(
    path: Path, place: Georeference | None, shape: tuple[int, ...], bbox: Box
) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """Corner (x, y) and slices of the pixels that a box covers."""
    west, south, east, north = bbox
    if place is None:
        raise HephError(str(path), "does not say where it lies", "--bbox needs GeoTIFFs")
    left, top = (int(np.floor(v + 1e-6)) for v in place.pixel(west, north))
    right, bottom = (int(np.ceil(v - 1e-6)) for v in place.pixel(east, south))
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, shape[1]), min(bottom, shape[0])
    if right - left < 1 or bottom - top < 1:
        (w, n), (e, s) = place.lonlat(0, 0), place.lonlat(shape[1], shape[0])
        what = f"lies outside the box: {w:.3f} to {e:.3f} east, {s:.3f} to {n:.3f} north"
        raise OutsideBoxError(str(path), what, "choose a box that it reaches into")
    return (left, top), (slice(top, bottom), slice(left, right))


def frame_files(path: Path) -> dict[str, Path | None]:
    """Files of a frame's look vector (E, N, U) and height (hgt): in its folder or `metadata`."""
    frame = path.parent.parent.parent if path.parent.parent.name == "interferograms" else None
    folders = [path.parent] if frame is None else [frame / "metadata", frame]
    return {
        name: next(
            (f for folder in folders for f in sorted(folder.glob(f"*.geo.{name}.tif"))), None
        )
        for name in ("E", "N", "U", "hgt")
    }


def _layer(path: Path, picture: Picture) -> Float:
    """A frame's file at the pixels of a picture: the mean of each; (H, W) float32, NaN: unknown."""
    band, place = read_geotiff(path, MAX_PIXELS), picture.place
    if band.place is None or place is None:
        raise HephError(str(path), "does not say where it lies", "get the frame's file again")
    values = band.values.astype(np.float32)
    known = np.isfinite(values)
    if band.no_data is not None:
        known &= values != np.float32(band.no_data)
    factor = place.spacing_deg / band.place.spacing_deg
    left, top = (round(v) for v in band.place.pixel(place.west, place.north))
    # The last pixels of a picture may reach over the edge of the files, by less than a half.
    rows, columns = picture.valid.shape
    bottom = min(top + round(rows * factor), values.shape[0])
    right = min(left + round(columns * factor), values.shape[1])
    missing = max(rows * factor - (bottom - top), columns * factor - (right - left))
    if left < 0 or top < 0 or missing > factor / 2 + 1:
        raise HephError(str(path), "does not reach over the picture", "get the frame's own file")
    window = np.s_[top:bottom, left:right]
    mean, there = phase.resample_phasor(
        np.where(known, values, 0)[window].astype(np.complex64), known[window], max(factor, 1.0)
    )
    found = np.where(there, mean.real, np.nan).astype(np.float32)
    if found.shape != picture.valid.shape:
        what = f"{found.shape[1]} x {found.shape[0]} px over the picture"
        raise HephError(str(path), what, "get the frame's own file")
    return found
