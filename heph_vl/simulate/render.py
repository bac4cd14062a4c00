"""LiCSAR's preview chain: wrapped phase to the palette PNG that Hephaestus was labelled from.

Colour first, shrink the picture second, round the colours last: in this order fringes lose
colours that no palette has, decorrelated areas get their salmon-grey grain, and neither can be
imitated by colouring a phase that was already coarse.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from heph_vl.data import palettes
from heph_vl.data.preview import (
    DOWNSAMPLE,
    Filter,
    cell_colours,
    cell_index,
    filter_weights,
    source_reach,
)


@dataclass(frozen=True)
class Rendering:
    """How a preview is drawn.

    Attributes:
        downsample: Side of the picture as a share of the field's.
        filter: How the picture is shrunk; see `heph_vl.data.preview`.
        palette: "new" or "old".
        posterise: Round each channel to its top 3 bits, as the real patches are; otherwise the
            colours are quantised to at most 255.
        flatten: Draw no-data white in an opaque RGB picture, as the real patches have it,
            instead of transparent in a palette picture.
    """

    downsample: float = DOWNSAMPLE
    filter: Filter = "mitchell"
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
    grey = np.rint(255 * np.clip(coherence, 0, 1)).astype(np.uint8)
    small, shown = _shrink(np.dstack([rgb, grey]), valid, options)
    return _quantise(small[..., :3], shown, options), _grey_png8(small[..., 3], shown)


def _shrink(
    rgb: NDArray[np.uint8], valid: NDArray[np.bool_], options: Rendering
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(h, w, C) uint8 shrunk channels and (h, w) bool where at least half is covered."""
    rows = shrink_matrix(valid.shape[0], options.downsample, options.filter)
    columns = shrink_matrix(valid.shape[1], options.downsample, options.filter)
    # Colours are weighted by alpha, as ImageMagick does: no dark rims along the swath.
    alpha = valid.astype(np.float32)
    layers = [alpha, *(rgb[..., channel] * alpha for channel in range(rgb.shape[-1]))]
    small = [(columns @ (rows @ layer).T).T for layer in layers]
    covered = small[0] >= 0.5
    colours = np.stack(small[1:], axis=-1) / np.where(covered, small[0], 1)[..., None]
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8), covered


@lru_cache(maxsize=8)
def shrink_matrix(length: int, scale: float, name: Filter) -> csr_array:
    """Sparse (round(scale * length), length) float32 matrix: shrinks one axis; rows sum to 1."""
    short = max(1, int(length * scale + 0.5))
    ratio = length / short
    middle = (np.arange(short) + 0.5) * ratio - 0.5
    taps = np.arange(-source_reach(1 / ratio, name), source_reach(1 / ratio, name) + 1)
    source = np.rint(middle)[:, None].astype(np.int64) + taps
    weight = filter_weights((source - middle[:, None]) / ratio, name)
    weight *= (source >= 0) & (source < length)
    weight /= weight.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(short)[:, None], source.shape)
    used = weight != 0
    return csr_array(
        (weight[used].astype(np.float32), (row[used], source[used])), shape=(short, length)
    )


def _quantise(rgb: NDArray[np.uint8], shown: NDArray[np.bool_], options: Rendering) -> Image.Image:
    index, table = _top_bits(rgb, shown) if options.posterise else _median_cut(rgb, shown)
    if options.flatten:
        return Image.fromarray(np.where(shown[..., None], table[index], np.uint8(255)))
    clear = np.arange(len(table) + 1) == len(table)
    table = np.concatenate([table, np.zeros((1, 3), np.uint8)])
    return _palette_image(np.where(shown, index, len(table) - 1), table, clear)


def _top_bits(
    rgb: NDArray[np.uint8], shown: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """(h, w) index and (N, 3) colours of 3 bits a channel; 3-3-2 if 255 colours do not hold them.

    Mixtures of the new palette make about 100; only the hue wheel's amplitudes overflow.
    """
    for bits in ((3, 3, 3), (3, 3, 2)):
        cell = cell_index(rgb, bits)
        cells = np.flatnonzero(np.bincount(cell[shown], minlength=2 ** sum(bits)))
        if len(cells) < 256:
            break
    cells = cells[:255]  # 3-3-2 has 256: the last is white, which no hue wheel draws
    rank = np.zeros(2 ** sum(bits), dtype=np.uint8)
    rank[cells] = np.arange(len(cells))
    return rank[cell], cell_colours(bits)[cells]


def _median_cut(
    rgb: NDArray[np.uint8], shown: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """(h, w) index and (N, 3) colours, at most 255 of the picture's own; same in, same out."""
    if not shown.any():
        return np.zeros(shown.shape, np.uint8), np.zeros((0, 3), np.uint8)
    # What is not shown must not take a share of the colours.
    visible = Image.fromarray(np.where(shown[..., None], rgb, rgb[shown][0]))
    few = visible.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    table = np.array(few.getpalette(), dtype=np.uint8).reshape(-1, 3)
    return np.asarray(few), table[:255]


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
