"""Files of a simulated archive, each whole or not there at all.

<frame>/interferograms/<pair>/<pair>.geo.diff.png, .geo.cc.png    as in the raw archive
<frame>/interferograms/<pair>/<pair>.geo.mask.png                 twin mode: what was rendered
<frame>/interferograms/<pair>/<pair>.geo.diff_pha.tif, .geo.cc.tif   with GeoTIFFs: at 0.001 degree
<frame>/metadata/<frame>.geo.{E,N,U,hgt}.tif                      likewise: look vector, height
<frame>/interferograms/<pair>/<pair>.geo.los.tif                  with truth: LOS [m], float32
truth/<uniqueID>.json                                             sources and findings
annotations/<uniqueID>.json                                       last: the pair is complete

Temporary names end in .part.
"""

import json
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from heph_vl.data.annotations import Annotation
from heph_vl.data.archive import COHERENCE_SUFFIX, IMAGE_SUFFIX, MASK_SUFFIX
from heph_vl.data.geotiff import Georeference, geotiff_tags
from heph_vl.data.picture import COHERENCE_TIFF, PHASE_TIFF
from heph_vl.errors import HephError

LOS_SUFFIX = ".geo.los.tif"
_LOS = "line-of-sight displacement [m], positive toward the satellite"


@dataclass(frozen=True)
class Fine:
    """A pair and its frame at LiCSAR's full resolution.

    Args:
        wrapped_phase: (H, W) float32 [rad], 0 where there is no data.
        coherence: (H, W) uint8, 255 = 1; 0 where there is no data.
        look_vector: Unit, ground to satellite: east, north, up; the same for all pixels.
        height: (H, W) float32 [m].
        place: Where it lies.
    """

    wrapped_phase: NDArray[np.float32]
    coherence: NDArray[np.uint8]
    look_vector: tuple[float, float, float]
    height: NDArray[np.float32]
    place: Georeference


@dataclass(frozen=True)
class Product:
    """One interferogram ready to be written.

    Args:
        annotation: Its record.
        picture: The coloured interferogram.
        coherence: The coherence picture.
        mask: (h, w) uint8 class ids as rendered; None where the record's polygons say it.
        los: (h, w) float32 [m] at native spacing, positive toward the satellite; None unless
            asked for.
        truth: What was simulated, for JSON.
        recorded: Whether the record is written; without, nobody has said what the pair shows.
        fine: What GeoTIFFs show; None unless asked for.
        notice: Written into the pictures as their description, if any.
    """

    annotation: Annotation
    picture: Image.Image
    coherence: Image.Image
    mask: NDArray[np.uint8] | None
    los: NDArray[np.float32] | None
    truth: dict[str, Any]
    recorded: bool = True
    notice: str | None = None
    fine: Fine | None = None


def write_product(out: Path, product: Product) -> None:
    """Writes the files of a pair, its record last.

    Args:
        out: Root of the archive.
        product: What to write; its record's frame and dates name the files.

    Raises:
        HephError: The disk is full or read-only. What is there then is whole.
    """
    record = product.annotation
    name = record.pair_name
    folder = out / record.frame_id / "interferograms" / name
    try:
        for path in (folder, out / "truth", *[out / "annotations"] * product.recorded):
            path.mkdir(parents=True, exist_ok=True)
        write(folder / f"{name}{IMAGE_SUFFIX}", _png(product.picture, product.notice))
        write(folder / f"{name}{COHERENCE_SUFFIX}", _png(product.coherence, product.notice))
        if product.mask is not None:
            write(folder / f"{name}{MASK_SUFFIX}", _png(Image.fromarray(product.mask)))
        if product.los is not None:
            write(folder / f"{name}{LOS_SUFFIX}", _tiff(product.los, description=_LOS))
        if product.fine is not None:
            _write_fine(folder, record.frame_id, product.fine)
        write(truth_file(out, record.unique_id), _json(product.truth))
        if product.recorded:
            write(record_file(out, record.unique_id), _json(record.to_record()))
    except OSError as error:
        raise disk_error(error, out) from error


def _write_fine(folder: Path, frame_id: str, fine: Fine) -> None:
    """The GeoTIFFs of a pair, and those of its frame unless they are there."""
    tags = geotiff_tags(fine.place)
    write(folder / f"{folder.name}{PHASE_TIFF}", _tiff(fine.wrapped_phase, extratags=tags))
    write(folder / f"{folder.name}{COHERENCE_TIFF}", _tiff(fine.coherence, extratags=tags))
    shared = folder.parents[1] / "metadata"
    shared.mkdir(exist_ok=True)
    flat = [np.full(fine.height.shape, value, np.float32) for value in fine.look_vector]
    # A height or a component of 0 is a value like any other: no-data is one that none can have.
    tags = geotiff_tags(fine.place, no_data=-9999)
    for name, layer in zip(("E", "N", "U", "hgt"), (*flat, fine.height), strict=True):
        path = shared / f"{frame_id}.geo.{name}.tif"
        if not path.is_file():
            write(path, _tiff(layer, extratags=tags))


def record_file(out: Path, unique_id: int) -> Path:
    """Where a record lies."""
    return out / "annotations" / f"{unique_id}.json"


def truth_file(out: Path, unique_id: int) -> Path:
    """Where the truth of a record lies."""
    return out / "truth" / f"{unique_id}.json"


def is_complete(out: Path, unique_id: int, *, truth: bool, twin: bool, geotiff: bool) -> bool:
    """Whether all files of a record are there."""
    try:
        record = json.loads(record_file(out, unique_id).read_text())
        name = f"{record['primary_date']}_{record['secondary_date']}"
        folder = out / record["frameID"] / "interferograms" / name
    except (OSError, ValueError, KeyError, TypeError):
        return False
    suffixes = [IMAGE_SUFFIX, COHERENCE_SUFFIX, *[MASK_SUFFIX] * twin, *[LOS_SUFFIX] * truth]
    suffixes += [PHASE_TIFF, COHERENCE_TIFF] * geotiff
    files = [folder / f"{name}{suffix}" for suffix in suffixes]
    return all(file.is_file() for file in (*files, truth_file(out, unique_id)))


def write(path: Path, content: bytes) -> None:
    """All of the content under this name, or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def disk_error(error: OSError, out: Path) -> HephError:
    """What to tell when a file cannot be written."""
    return HephError(
        str(error.filename or out),
        f"cannot be written: {error.strerror or error}",
        "free space or choose a folder you can write to; the same command resumes",
    )


def _png(image: Image.Image, notice: str | None = None) -> bytes:
    buffer, words = BytesIO(), PngInfo()
    if notice is not None:
        words.add_text("Description", notice)
    image.save(buffer, format="PNG", pnginfo=words)
    return buffer.getvalue()


def _tiff(field: NDArray[Any], **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, field, compression="zlib", metadata=None, **options)
    return buffer.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
