"""Wrapped phase from LiCSAR products, and phasors: what models see instead of colours.

Phase is a circle: averages and resampling are done on phasors exp(i phase), never on phases.
Sign (new palette and radians): as LiCSAR stores it, primary times conjugate secondary, that is
phase = -4 pi / wavelength * los_displacement, displacement positive toward the satellite. The
older palette's zero and sense are not documented: no sign may be read from it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import palettes, unmixing
from heph_vl.data.geotiff import Georeference
from heph_vl.data.images import indexed_colours, look_up, open_png, read_coherence
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
_GREY = "grey image: phase cannot be read from it"
_COLOUR_FIX = "give the coloured .geo.diff.png or a GeoTIFF in radians (.geo.diff_pha.tif)"
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
        place: Where it lies, and its pixel spacing, if the file states it.
    """

    wrapped_phase: NDArray[np.float32]
    valid: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    palette: str
    posterised: bool
    sense_known: bool = True
    place: Georeference | None = None


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
            place=product.place,
        )
    return decode_image(open_png(path, str(path)), palette=palette, where=str(path))


def decode_image(image: Image.Image, *, palette: str = "auto", where: str = "image") -> Decoded:
    """Wrapped phase of a coloured interferogram.

    A palette PNG is decoded through its own table of at most 256 colours. Transparent pixels are
    no data; in a picture without transparency white (or black, outside the swath) is. In the old
    palette pure greys are, too: they hold no phase.
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
    if image.mode not in ("P", "RGB", "RGBA"):
        grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")
        raise HephError(where, _GREY if grey else f"image of mode {image.mode}", _COLOUR_FIX)
    table, index, count = indexed_colours(image)
    rgb, visible = table[:, :3], (table[:, 3] >= 128) & (count > 0)
    # A palette with a transparent colour shows no data by it, even where there is none.
    declared = image.mode == "P" and "transparency" in image.info
    flat = not declared and not (table[count > 0, 3] < 255).any()
    white = visible & (rgb == 255).all(axis=1) & flat
    data = visible & ~white & (rgb > 0).any(axis=1)
    shades, shares = rgb[data], count[data]
    if len(shades) and (shades == shades[:, :1]).all():
        raise HephError(where, _GREY, _COLOUR_FIX)
    bits = kept_bits(shades)
    if palette == "auto":
        palette = _recognise(shades, shares, bits, where)
    if palette == "old":
        # A pure grey (dark water) has no hue: kept, it would be a false area of constant phase.
        data &= np.ptp(rgb, axis=1) > 0
    phase, confidence = palettes.decode_old(rgb) if palette == "old" else unmixing.decode(rgb, bits)
    ambiguous = white.any() and palette == "new" and bits[0] < 8
    kept = data | white if ambiguous else data
    wrapped_phase = look_up(np.where(kept, phase, 0).astype(np.float32), index)
    certainty = look_up(np.where(kept, confidence, 0).astype(np.float32), index)
    valid = look_up(kept, index)
    if ambiguous:
        pixels = look_up(white, index)
        lost = pixels & ~_white_phase(pixels, wrapped_phase, certainty)
        wrapped_phase[lost], certainty[lost], valid[lost] = 0, 0, False
    return Decoded(
        wrapped_phase,
        valid,
        certainty,
        palette,
        posterised=bool(data.any()) and bits[0] < 8,
        sense_known=palette == "new",
    )


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

    White is cut into blocks (7 px wide and more) and the bands between and beside them. A band is
    phase if its border has the neighbouring phases (0.91 to 0.99 of it on real patches, at most
    0.39 for no data) or if it is a line of its own; a block must be nearly enclosed and small.
    """
    from scipy import ndimage

    middle = wrapped_phase[white][0]
    near = (np.abs(wrap(wrapped_phase - middle)) < 0.6) & (confidence > 0.5) & ~white
    blocks = _opened(white)
    block, number = ndimage.label(blocks)
    small = np.bincount(block.ravel(), minlength=number + 1) <= 0.02 * white.size
    block_is_phase = small & (_border_share(block, number, near, white) > 0.8)
    band, number = ndimage.label(white & ~blocks)
    inner = ndimage.binary_erosion(white, border_value=1) | ndimage.binary_dilation(blocks)
    line = np.bincount(band[inner], minlength=number + 1) == 0
    band_is_phase = line | (_border_share(band, number, near, white) > 0.6)
    found: NDArray[np.bool_] = np.where(blocks, block_is_phase[block], band_is_phase[band])
    return found & white


def _opened(region: NDArray[np.bool_], side: int = 7) -> NDArray[np.bool_]:
    """Pixels covered by squares that fit into the region; the image goes on beyond its rim."""
    from scipy import ndimage

    around = np.pad(region, side, mode="edge")
    wide: NDArray[np.bool_] = ndimage.binary_opening(around, np.ones((side, side)))
    return wide[side:-side, side:-side]


def _border_share(
    patch: NDArray[np.integer], number: int, like: NDArray[np.bool_], white: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """(number + 1,) share of each patch's coloured neighbours that are `like`; 0 without any."""
    border, alike = np.zeros(number + 1), np.zeros(number + 1)
    for axis in (0, 1):
        for ahead in (True, False):
            here = _all_but_one(axis, ahead)
            beside = patch[_all_but_one(axis, not ahead)]
            edge = (beside > 0) & ~white[here]
            border += np.bincount(beside[edge], minlength=number + 1)
            alike += np.bincount(beside[edge & like[here]], minlength=number + 1)
    share: NDArray[np.floating] = alike / np.maximum(border, 1)
    return share


def _all_but_one(axis: int, first: bool) -> tuple[slice, slice]:
    cut = slice(None, -1) if first else slice(1, None)
    return (cut, slice(None)) if axis == 0 else (slice(None), cut)
