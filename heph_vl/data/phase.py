"""Wrapped phase from LiCSAR products, and phasors: what models see instead of colours.

Phase is a circle: averages and resampling are done on phasors exp(i phase), never on phases.
Sign (new palette and radians): as LiCSAR stores it, primary times conjugate secondary, that is
phase = -4 pi / wavelength * los_displacement, displacement positive toward the satellite. The
older palette's zero and sense are not documented: no sign may be read from it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import palettes, unmixing
from heph_vl.data.images import open_png, read_coherence
from heph_vl.data.phasors import (
    estimate_coherence,
    phasor,
    phasor_channels,
    resample_phasor,
)
from heph_vl.data.preview import kept_bits
from heph_vl.data.products import read_radians
from heph_vl.errors import HephError

__all__ = [
    "NATIVE_SPACING_DEG",
    "Decoded",
    "colour",
    "decode_image",
    "estimate_coherence",
    "open_png",
    "phasor",
    "phasor_channels",
    "read_coherence",
    "read_interferogram",
    "resample_phasor",
    "wrap",
]

NATIVE_SPACING_DEG = 1 / 300
_COLOUR_FIX = "give the coloured .geo.diff.png or a GeoTIFF in radians (.geo.diff_pha.tif)"
# Below these many pixels the plain numpy way is as fast as a large table.
_PAIRS_FROM, _TABLE_FROM = 100_000, 300_000
# Share of an image's pixels that must have colours which its palette can mix.
_LEAST_FIT = 0.95


@dataclass(frozen=True)
class Decoded:
    """Wrapped phase read from a product.

    Attributes:
        wrapped_phase: (H, W) float32 [rad] in (-pi, pi], 0 where invalid.
        valid: (H, W) bool, False where there is no data.
        confidence: (H, W) float32 in [0, 1]: how sharply the colour names a phase; low for
            mixed colours and grain, 0 where invalid, 1 for valid radians.
        palette: "new", "old" or "radians".
        posterised: Whether the picture keeps at most 4 bits a channel.
        sense_known: Whether zero and sign of the phase are known (not in the old palette).
        spacing_deg: Pixel spacing [degree] if the file states it.
        origin: (longitude, latitude) [degree] of the top left corner if the file states it.
    """

    wrapped_phase: NDArray[np.float32]
    valid: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    palette: str
    posterised: bool
    sense_known: bool = True
    spacing_deg: float | None = None
    origin: tuple[float, float] | None = None


def wrap(phase: NDArray[np.floating]) -> NDArray[np.floating]:
    """Phase of any shape [rad], wrapped into (-pi, pi]; the float type is kept."""
    two_pi = phase.dtype.type(2 * np.pi)
    half = phase.dtype.type(np.pi)
    wrapped: NDArray[np.floating] = half - np.mod(half - phase, two_pi)
    return wrapped


def colour(
    wrapped_phase: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
    palette: str = "new",
) -> NDArray[np.uint8]:
    """Colours of a wrapped phase, each pixel for itself.

    Args:
        wrapped_phase: (H, W) [rad] in (-pi, pi].
        valid: (H, W) bool; white where False.
        palette: "new" or "old" (at full amplitude).

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: If the palette is unknown.
    """
    if palette not in palettes.PALETTES:
        raise ValueError(f"unknown palette {palette!r}: one of {palettes.PALETTES}")
    paint = palettes.new_colours if palette == "new" else palettes.old_colours
    rgb = paint(wrapped_phase)
    if valid is not None:
        rgb[~valid] = 255
    return rgb


def read_interferogram(path: Path | str, *, palette: str = "auto") -> Decoded:
    """Wrapped phase of a file: PNG preview, GeoTIFF in radians, or a numpy array.

    Args:
        path: `.png`, `.tif`/`.tiff` or `.npy`.
        palette: "auto", "new" or "old"; only for PNG.

    Returns:
        Phase, validity and confidence at the file's own resolution.

    Raises:
        HephError: If the file cannot be read or holds no wrapped phase.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff", ".npy"):
        product = read_radians(path)
        phase = np.where(product.valid, wrap(product.phase), 0).astype(np.float32)
        return Decoded(
            phase,
            product.valid,
            product.valid.astype(np.float32),
            "radians",
            posterised=False,
            spacing_deg=product.spacing_deg,
            origin=product.origin,
        )
    return decode_image(open_png(path, str(path)), palette=palette, where=str(path))


def decode_image(image: Image.Image, *, palette: str = "auto", where: str = "image") -> Decoded:
    """Wrapped phase of a coloured interferogram.

    A palette PNG is decoded through its own table of at most 256 colours. Transparent pixels are
    no data; in a picture without transparency white (or black, outside the swath) is.
    Posterising turns the light blue at -0.5 rad white as well: white patches that are bordered by
    the neighbouring phases are phase.

    Args:
        image: A loaded picture, mode P, RGB or RGBA.
        palette: "auto", "new" or "old".
        where: How errors name the image.

    Returns:
        Phase, validity and confidence, (H, W) each.

    Raises:
        HephError: If the image is grey, or its colours fit no palette.
    """
    if palette not in ("auto", *palettes.PALETTES):
        raise HephError(where, f"unknown palette {palette!r}", "one of auto, new, old")
    table, index, count = _indexed(image, where)
    rgb, visible = table[:, :3], (table[:, 3] >= 128) & (count > 0)
    flat = not (table[count > 0, 3] < 255).any()
    white = visible & (rgb == 255).all(axis=1) & flat
    data = visible & ~white & (rgb > 0).any(axis=1)
    shades, shares = rgb[data], count[data]
    if len(shades) and (shades == shades[:, :1]).all():
        raise HephError(where, "grey image: phase cannot be read from it", _COLOUR_FIX)
    bits = kept_bits(shades)
    if palette == "auto":
        palette = _recognise(shades, shares, bits, where)
    phase, confidence = palettes.decode_old(rgb) if palette == "old" else unmixing.decode(rgb, bits)
    no_data = ~data
    if palette == "new" and bits[0] < 8 and white.any():
        no_data = ~data & ~white
        white_pixels = look_up(white, index)
    wrapped_phase, certainty, valid = (
        look_up(np.where(no_data, 0, phase).astype(np.float32), index),
        look_up(np.where(no_data, 0, confidence).astype(np.float32), index),
        look_up(~no_data, index),
    )
    if not np.array_equal(no_data, ~data):
        lost = white_pixels & ~_white_phase(white_pixels, wrapped_phase, certainty)
        wrapped_phase[lost], certainty[lost], valid[lost] = 0, 0, False
    return Decoded(
        wrapped_phase,
        valid,
        certainty,
        palette,
        posterised=bool(data.any()) and bits[0] < 8,
        sense_known=palette == "new",
    )


def look_up(table: NDArray[Any], index: NDArray[np.integer]) -> NDArray[Any]:
    """`table[index]`; for uint8 indices two pixels at a time, about twice as fast.

    Args:
        table: (N,) values of at most 4 bytes, 256 of them if the index is uint8.
        index: (H, W) uint8 or intp.

    Returns:
        (H, W) values.
    """
    if index.dtype != np.uint8 or index.size % 2 or index.size < _PAIRS_FROM:
        return table[index]
    pairs = np.empty((256, 256, 2), dtype=table.dtype)
    # Little or big endian alike: both bytes of a pair keep their order in memory.
    pairs[...] = np.stack(np.broadcast_arrays(table[None, :], table[:, None]), axis=-1)
    if sys.byteorder == "big":
        pairs = pairs[..., ::-1]
    wide = np.ascontiguousarray(pairs).view(f"V{2 * table.itemsize}").reshape(65536)
    found = wide.take(np.ascontiguousarray(index).reshape(-1).view(np.uint16), mode="clip")
    values: NDArray[Any] = found.view(table.dtype).reshape(index.shape)
    return values


def _indexed(
    image: Image.Image, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.integer], NDArray[np.integer]]:
    """(N, 4) colours with alpha, (H, W) index into them, (N,) pixels of each."""
    if image.mode == "P":
        # The conversion of a 256 x 1 strip applies palette and transparency in all their forms.
        strip = Image.frombytes("P", (256, 1), bytes(range(256)))
        strip.putpalette(image.getpalette() or [])
        strip.info = dict(image.info)
        table = np.asarray(strip.convert("RGBA"))[0]
        return table, np.asarray(image), np.array(image.histogram())
    if image.mode not in ("RGB", "RGBA"):
        grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")
        what = "grey image: phase cannot be read from it" if grey else f"mode {image.mode} image"
        raise HephError(where, what, _COLOUR_FIX)
    packed = np.asarray(image.convert("RGBA")).view("<u4")[..., 0]
    colours, index, count = _distinct(packed)
    return colours.astype("<u4")[:, None].view(np.uint8), index, count


def _distinct(
    packed: NDArray[np.uint32],
) -> tuple[NDArray[np.uint32], NDArray[np.integer], NDArray[np.integer]]:
    """`numpy.unique` with inverse and counts, by a table of 24-bit colours where that is faster."""
    if packed.size < _TABLE_FROM or (packed >> 24 != packed.flat[0] >> 24).any():
        colours, index, count = np.unique(packed, return_inverse=True, return_counts=True)
        return colours, index.reshape(packed.shape), count
    colour = packed & 0xFFFFFF
    rank = np.zeros(1 << 24, dtype=np.int32)
    rank[colour] = 1
    present = np.flatnonzero(rank)
    rank[present] = np.arange(len(present))
    index = rank[colour]
    count = np.bincount(index.reshape(-1), minlength=len(present))
    return present.astype(np.uint32) | packed.flat[0] & 0xFF000000, index, count


def _recognise(
    rgb: NDArray[np.uint8],
    count: NDArray[np.integer],
    bits: tuple[int, int, int],
    where: str,
) -> str:
    if len(rgb) == 0:
        return "new"
    # The old palette first needs the new one excluded: the new one's grain is pale enough for
    # any wheel. Pictures of the new palette fit it to 0.99 and more.
    new = unmixing.fit(rgb, count)
    if new >= _LEAST_FIT:
        return "new"
    old = palettes.fit_old(rgb, count, 24.0 if bits[0] == 8 else 60.0)
    if old >= _LEAST_FIT:
        return "old"
    raise HephError(
        where,
        f"colours of no LiCSAR palette (fit new {new:.2f}, old {old:.2f})",
        _COLOUR_FIX + ", or name the palette",
    )


def _white_phase(
    white: NDArray[np.bool_], wrapped_phase: NDArray[np.floating], confidence: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """White pixels that are the phase near -0.5 rad, not no data.

    These are lines (no pixel with white on all four sides), and patches whose border has the
    neighbouring phases: 0.91 to 0.99 of it on real patches, at most 0.39 for no data.
    """
    from scipy import ndimage

    middle = wrapped_phase[white][0]
    near = (np.abs(wrap(wrapped_phase - middle)) < 0.6) & (confidence > 0.5) & ~white
    patch, number = ndimage.label(white)
    border, like = np.zeros(number + 1), np.zeros(number + 1)
    for axis in (0, 1):
        for ahead in (True, False):
            here = _all_but_one(axis, ahead)
            beside = patch[_all_but_one(axis, not ahead)]
            edge = (beside > 0) & ~white[here]
            border += np.bincount(beside[edge], minlength=number + 1)
            like += np.bincount(beside[edge & near[here]], minlength=number + 1)
    thick = ndimage.binary_erosion(white, border_value=1)
    is_phase = like > 0.6 * np.maximum(border, 1)
    is_phase |= np.bincount(patch[thick], minlength=number + 1) == 0
    is_phase[0] = False
    rescued: NDArray[np.bool_] = is_phase[patch]
    return rescued


def _all_but_one(axis: int, first: bool) -> tuple[slice, slice]:
    cut = slice(None, -1) if first else slice(1, None)
    return (cut, slice(None)) if axis == 0 else (slice(None), cut)
