"""Opening pictures safely: the header is checked before anything is decoded."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.errors import HephError

MAX_PIXELS = 64_000_000
# Below these many pixels plain numpy is as fast as building a large table.
_PAIRS_FROM, _TABLE_FROM = 100_000, 300_000
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
    data = source if isinstance(source, bytes) else read_png(source, where)
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


def read_png(path: Path, where: str | None = None) -> bytes:
    """The bytes of a PNG file whose header is sound.

    Args:
        path: The file.
        where: How errors name it; its path if None.

    Returns:
        The whole file.

    Raises:
        HephError: If it cannot be read, is no PNG, or is over 64 megapixels by its header.
    """
    where = str(path) if where is None else where
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
    table, index, count = indexed_colours(image)
    rgb, alpha = table[:, :3], table[:, 3]
    seen = rgb[(count > 0) & (alpha > 0)].astype(np.int16)
    if np.ptp(seen, axis=1).max(initial=0) > 8:
        raise HephError(where, "coloured image: coherence is grey", "give the .geo.cc.png")
    grey = rgb.mean(axis=-1, dtype=np.float32) / np.float32(255)
    level: NDArray[np.float32] = look_up(np.where(alpha < 128, 0, grey).astype(np.float32), index)
    return level


def indexed_colours(
    image: Image.Image,
) -> tuple[NDArray[np.uint8], NDArray[np.integer], NDArray[np.integer]]:
    """A picture as a table of colours and an index into it.

    Args:
        image: Mode P, RGB or RGBA.

    Returns:
        (N, 4) colours with alpha, (H, W) index (uint8 and N = 256 for mode P), and (N,) the pixels
        of each.
    """
    if image.mode == "P":
        # The conversion of a 256 x 1 strip applies palette and transparency in all their forms.
        strip = Image.frombytes("P", (256, 1), bytes(range(256)))
        strip.putpalette(image.getpalette() or [])
        strip.info = dict(image.info)
        return np.asarray(strip.convert("RGBA"))[0], np.asarray(image), np.array(image.histogram())
    packed = np.asarray(image.convert("RGBA")).view("<u4")[..., 0]
    alpha = packed >> 24
    if packed.size < _TABLE_FROM or (alpha != alpha.flat[0]).any():
        colours, index, count = np.unique(packed, return_inverse=True, return_counts=True)
        return _unpacked(colours), index.reshape(packed.shape), count
    # A table of all 24-bit colours is faster than sorting the pixels.
    colour = packed & 0xFFFFFF
    rank = np.zeros(1 << 24, dtype=np.int32)
    rank[colour] = 1
    present = np.flatnonzero(rank)
    rank[present] = np.arange(len(present))
    count = np.bincount(rank[colour].reshape(-1), minlength=len(present))
    return _unpacked(present | int(alpha.flat[0]) << 24), rank[colour], count


def _unpacked(colours: NDArray[np.integer]) -> NDArray[np.uint8]:
    return colours.astype("<u4")[:, None].view(np.uint8)


def look_up(table: NDArray[Any], index: NDArray[np.integer]) -> NDArray[Any]:
    """`table[index]`; for uint8 indices two pixels at a time, which is several times as fast.

    Args:
        table: (N,) values of at most 4 bytes, 256 of them if the index is uint8.
        index: (H, W) integers.

    Returns:
        (H, W) values.
    """
    values: NDArray[Any]
    if index.dtype != np.uint8 or index.size % 2 or index.size < _PAIRS_FROM:
        values = table[index]
        return values
    # pairs[second, first] holds the values of two neighbours, numbered as a little-endian uint16.
    pairs = np.stack(np.broadcast_arrays(table[None, :], table[:, None]), axis=-1)
    wide = pairs.view(f"V{2 * table.itemsize}").reshape(1 << 16)
    found = wide.take(np.ascontiguousarray(index).reshape(-1).view("<u2"), mode="clip")
    values = found.view(table.dtype).reshape(index.shape)
    return values
