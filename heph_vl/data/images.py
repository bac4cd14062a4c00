"""Opening pictures safely: the header is checked before anything is decoded."""

import io
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.errors import HephError

MAX_PIXELS = 64_000_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NOT_PNG = "give a LiCSAR preview (.geo.diff.png, .geo.cc.png)"


def open_png(source: Path | bytes, where: str) -> Image.Image:
    """A decoded 8-bit PNG.

    Args:
        source: Path of the file, or its bytes.
        where: How errors name the image.

    Returns:
        The loaded image, mode L, LA, P, RGB or RGBA, as stored (palette and transparency kept).

    Raises:
        HephError: If the file is missing or unreadable, no PNG, over 64 megapixels by its header,
            16-bit, 1-bit, animated, or damaged.
    """
    data = source if isinstance(source, bytes) else _read(source, where)
    _check_header(data, where)
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        frames = getattr(image, "n_frames", 1)
        image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise HephError(
            where, f"PNG cannot be decoded: {error}", "the file is cut or damaged: get it again"
        ) from error
    if frames > 1:
        raise HephError(where, f"animated PNG of {frames} frames", "save one frame as a PNG")
    return image


def _read(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(33)
            # The rest is only read when the header is sound: a wrong file may be huge.
            _check_header(head, where)
            return head + file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise HephError(where, f"cannot be read: {reason}", "check the path") from error


def _check_header(data: bytes, where: str) -> None:
    if not data:
        raise HephError(where, "empty file", "get the file again")
    if not data.startswith(_SIGNATURE):
        raise HephError(where, f"not a PNG (starts with {data[:8]!r})", _NOT_PNG)
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise HephError(where, "PNG header is cut", "get the file again")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    if width == 0 or height == 0:
        raise HephError(where, f"image of {width} x {height} px", "get the file again")
    if width * height > MAX_PIXELS:
        raise HephError(
            where,
            f"image of {width} x {height} px by its header, the limit is 64 megapixels",
            "cut or shrink it",
        )
    if depth == 16:
        raise HephError(where, "16-bit PNG", "give the 8-bit LiCSAR preview, or a GeoTIFF")
    if depth < 8 and kind != 3:
        raise HephError(where, f"{depth}-bit grey PNG", "give the 8-bit LiCSAR preview")


def read_coherence(source: Path | bytes, shape: tuple[int, int], where: str) -> NDArray[np.float32]:
    """Coherence from a LiCSAR coherence preview (linear grey, 255 = 1).

    Args:
        source: Path or bytes of a `.geo.cc.png`.
        shape: (H, W) of the interferogram it belongs to.
        where: How errors name the image.

    Returns:
        (H, W) float32 in [0, 1]; 0 where there is no data (transparent or black).

    Raises:
        HephError: If it cannot be read, has another size, or is coloured.
    """
    image = open_png(source, where)
    if (image.height, image.width) != tuple(shape):
        raise HephError(
            where,
            f"coherence of {image.width} x {image.height} px beside an interferogram of "
            f"{shape[1]} x {shape[0]} px",
            "give the .geo.cc.png of the same pair",
        )
    if image.mode == "L" and "transparency" not in image.info:
        return np.asarray(image, dtype=np.float32) / np.float32(255)
    rgba = np.asarray(image.convert("RGBA"))
    if np.ptp(rgba[rgba[..., 3] > 0][:, :3].astype(np.int16), axis=1).max(initial=0) > 8:
        raise HephError(where, "coloured image: coherence is grey", "give the .geo.cc.png")
    grey = rgba[..., :3].mean(axis=-1, dtype=np.float32)
    return np.where(rgba[..., 3] < 128, 0, grey / np.float32(255)).astype(np.float32)
