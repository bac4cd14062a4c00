"""Uploads: checked by their content and header, and copied to names of ours.

Nothing of an upload's name is used but the dates in it.
"""

import re
import shutil
import struct
from pathlib import Path

import numpy as np

from heph_vl.data.picture import (
    COHERENCE_PNG,
    COHERENCE_TIFF,
    PHASE_PNG,
    PHASE_TIFF,
    Picture,
    read_picture,
)
from heph_vl.errors import HephError

# Uploads are counted before they are decoded; a GeoTIFF of a whole frame has 10 million.
MAX_PIXELS = 16_000_000
_SIGNATURES = {
    b"\x89PNG": "PNG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",  # over 4 GB by its offsets, whatever its size
    b"MM\x00+": "TIFF",
}
_NAMES = {"PNG": (PHASE_PNG, COHERENCE_PNG), "TIFF": (PHASE_TIFF, COHERENCE_TIFF)}
_DATES = re.compile(r"(?<!\d)\d{8}_\d{8}(?!\d)")


def read_upload(work: Path, image: str | None, coherence: str | None) -> Picture:
    """The picture of an upload.

    Args:
        work: Folder for a copy of it, empty.
        image: Path of a LiCSAR PNG or GeoTIFF of wrapped phase, under any name.
        coherence: Path of its coherence, of the same format; None: estimated from the phase.

    Returns:
        The picture; its path tells the dates of the pair if the name of the upload does.

    Raises:
        HephError: It is missing, too large, of another format, or cannot be read.
    """
    return read_picture(take_upload(work, image, coherence))


def take_upload(work: Path, image: str | None, coherence: str | None) -> Path:
    """Copy an upload to where the library finds phase and coherence together.

    Args:
        work: As for `read_upload`.
        image: Likewise.
        coherence: Likewise.

    Returns:
        Path of the phase; nothing of it but the dates comes from the name of the upload.

    Raises:
        HephError: It is missing, too large, or of another format.
    """
    if image is None:
        raise HephError("upload", "there is no interferogram", "choose a LiCSAR PNG or GeoTIFF")
    kind = _checked_kind(Path(image), "interferogram")
    dates = _DATES.search(Path(image).name)
    stem = dates[0] if dates else "interferogram"
    path = work / f"{stem}{_NAMES[kind][0]}"
    shutil.copyfile(image, path)
    if coherence is not None:
        if _checked_kind(Path(coherence), "coherence") != kind:
            what = f"it is of another format than the interferogram, a {kind}"
            raise HephError("coherence", what, "give both as LiCSAR PNGs, or both as GeoTIFFs")
        shutil.copyfile(coherence, work / f"{stem}{_NAMES[kind][1]}")
    return path


def _checked_kind(path: Path, where: str) -> str:
    """PNG or TIFF by the content, whatever the name, of a size that can be looked at."""
    with path.open("rb") as file:
        head = file.read(24)
    kind = _SIGNATURES.get(head[:4])
    if kind is None:
        what = f"neither PNG nor TIFF (starts with {head[:8]!r})" if head else "empty file"
        fix = "give a LiCSAR preview (.geo.diff.png) or a GeoTIFF of wrapped phase in radians"
        raise HephError(where, what, fix)
    # What is too short or damaged to be counted is told better by who reads it.
    width, height = _size(path, head, kind)
    if width * height > MAX_PIXELS:
        what = f"{width} x {height} px by its header, the limit is {MAX_PIXELS / 1e6:.0f} million"
        raise HephError(where, what, "cut the part of interest out of it")
    return kind


def _size(path: Path, head: bytes, kind: str) -> tuple[int, int]:
    """Width and height by the header; nothing is decoded."""
    if kind == "PNG":
        width, height = struct.unpack(">II", head[16:24].ljust(8, b"\x00"))
        return width, height
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            shape = file.pages.first.shape
    except Exception:  # tifffile raises many kinds on damaged files
        return 0, 0
    return int(np.prod(shape[1:])), int(shape[0]) if shape else 0
