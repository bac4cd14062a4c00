"""LiCSAR's preview chain: wrapped phase to the palette PNG that Hephaestus was labelled from.

Colour first, shrink the picture second, round the colours last: in this order fringes lose
colours that no palette has, decorrelated areas get their salmon-grey grain, and neither can be
imitated by colouring a phase that was already coarse.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import palettes
from heph_vl.data.unmixing import posterise


@dataclass(frozen=True)
class Rendering:
    """How a preview is drawn.

    Attributes:
        downsample: Side of the picture as a share of the field's.
        palette: "new" or "old".
        posterise: Round each channel to its top 3 bits, as the real patches are; otherwise the
            colours are quantised to at most 255.
        flatten: Draw no-data white in an opaque RGB picture, as the real patches have it,
            instead of transparent in a palette picture.
    """

    downsample: float = 0.3
    palette: str = "new"
    posterise: bool = False
    flatten: bool = False


def render(
    wrapped_phase: NDArray[np.floating],
    valid: NDArray[np.bool_],
    coherence: NDArray[np.floating],
    options: Rendering,
    amplitude: NDArray[np.floating] | None = None,
) -> tuple[Image.Image, Image.Image]:
    """Previews that look like LiCSAR's.

    Args:
        wrapped_phase: (H, W) [rad] in (-pi, pi], at 0.001 degree.
        valid: (H, W) bool, False outside the swath.
        coherence: (H, W) in [0, 1].
        options: How to draw.
        amplitude: (H, W) radar amplitude in [0, 1]; only for the old palette.

    Returns:
        The coloured interferogram (mode P, or RGB if flattened) and the coherence (mode P, grey,
        255 = 1), both (round(0.3 H), round(0.3 W)) px, no-data transparent.
    """
    if options.palette == "new":
        rgb = palettes.new_colours(wrapped_phase)
    else:
        rgb = palettes.old_colours(wrapped_phase, amplitude)
    alpha = np.where(valid, np.uint8(255), np.uint8(0))
    small = _shrink(np.dstack([rgb, alpha]), options.downsample)
    shown = small[..., 3] >= 128
    picture = _quantise(small[..., :3], shown, options)
    grey = np.rint(255 * np.clip(coherence, 0, 1)).astype(np.uint8)
    level = _shrink(np.dstack([grey, alpha]), options.downsample)[..., 0]
    return picture, _grey_png8(level, shown)


def _shrink(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    # Pillow weights RGBA and LA by alpha while resizing, as ImageMagick does: no dark rims.
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _quantise(
    rgb: NDArray[np.uint8], shown: NDArray[np.bool_], options: Rendering
) -> Image.Image:
    if options.posterise:
        rgb = posterise(rgb)
    if options.flatten:
        flat = rgb if options.posterise else _adaptive(rgb, shown)
        return Image.fromarray(np.where(shown[..., None], flat, np.uint8(255)))
    if not options.posterise:
        rgb = _adaptive(rgb, shown)
    packed = np.where(shown, rgb.astype(np.int32) @ np.array([65536, 256, 1], np.int32), -1)
    colours, index = np.unique(packed, return_inverse=True)
    table = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1)
    clear = colours < 0
    table[clear] = 0
    return _palette_image(index.reshape(shown.shape), table, clear)


def _adaptive(rgb: NDArray[np.uint8], shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture in at most 255 colours of its own (median cut: the same bytes every time)."""
    visible = np.where(shown[..., None], rgb, rgb[shown][:1] if shown.any() else 0)
    image = Image.fromarray(visible.astype(np.uint8))
    few = image.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return np.asarray(few.convert("RGB"))


def _grey_png8(level: NDArray[np.uint8], shown: NDArray[np.bool_]) -> Image.Image:
    # Index 0 is the transparent black of no data; a measured 0 keeps its place as 1 of 255.
    index = np.where(shown, np.maximum(level, 1), 0)
    return _palette_image(index, np.repeat(np.arange(256)[:, None], 3, axis=1), np.arange(256) == 0)


def _palette_image(
    index: NDArray[np.integer], table: NDArray[np.integer], clear: NDArray[np.bool_]
) -> Image.Image:
    image = Image.fromarray(index.astype(np.uint8), mode="P")
    image.putpalette(table.astype(np.uint8).tobytes())
    if clear.any():
        image.info["transparency"] = int(np.flatnonzero(clear)[0])
    return image
