"""The two steps that turn a coloured phase into a LiCSAR preview: shrinking and PNG8 rounding.

LiCSAR calls ImageMagick (``convert -transparent black -resize 30% PNG8:``). With transparency
ImageMagick shrinks by the Mitchell filter (Lanczos is its choice for opaque pictures), and its
PNG8 writer keeps the top bits of each channel once there are more than 256 colours: 4, then 3,
then 3-3-2. Both are seen in the real patches: their water has the colours of random phase so
treated (total variation distance 0.03; with Lanczos 0.13), and their levels are those of 3 bits.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

DOWNSAMPLE = 0.3
Filter = Literal["mitchell", "lanczos"]
# Half width of a filter in pixels of the shrunk picture.
_REACH = {"mitchell": 2.0, "lanczos": 3.0}


def filter_weights(offset: NDArray[np.floating], name: Filter) -> NDArray[np.floating]:
    """Weight of a source pixel in a shrunk pixel.

    Args:
        offset: (...) distance of the source from the middle [pixels of the shrunk picture].
        name: "mitchell" (B = C = 1/3; Mitchell and Netravali 1988, eq. 8) or "lanczos" (3 lobes).

    Returns:
        (...) weights, not normalised.
    """
    x = np.abs(offset)
    if name == "lanczos":
        lanczos: NDArray[np.floating] = np.sinc(x) * np.sinc(x / 3) * (x < _REACH[name])
        return lanczos
    near = (7 * x**3 - 12 * x**2 + 16 / 3) / 6
    far = (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
    return np.where(x < 1, near, np.where(x < _REACH[name], far, 0.0))


def source_reach(scale: float, name: Filter) -> int:
    """How many source pixels to each side of its middle a shrunk pixel draws on."""
    return int(np.ceil(_REACH[name] / scale))


def levels(bits: int) -> NDArray[np.uint8]:
    """The (2 ** bits,) channel values that replicating the top bits leaves."""
    value = np.arange(2**bits) << (8 - bits)
    shift = bits
    while shift < 8:
        value = value | (value >> shift)
        shift *= 2
    return value.astype(np.uint8)


def posterise(
    rgb: NDArray[np.integer], bits: tuple[int, int, int] = (3, 3, 3)
) -> NDArray[np.uint8]:
    """Colours as ImageMagick's PNG8 writer rounds them: the top bits of each channel, replicated.

    Args:
        rgb: (..., 3) colours in 0..255.
        bits: Bits kept of red, green and blue, 2 to 8.

    Returns:
        (..., 3) uint8; with 3 bits the levels are 0, 36, 73, 109, 146, 182, 219, 255.
    """
    out = np.empty(rgb.shape, dtype=np.uint8)
    for channel, kept in enumerate(bits):
        out[..., channel] = levels(kept)[np.asarray(rgb[..., channel]) >> (8 - kept)]
    return out


def kept_bits(rgb: NDArray[np.integer]) -> tuple[int, int, int]:
    """How many bits of each channel a picture kept.

    Args:
        rgb: (N, 3) the distinct colours of a picture, 0..255.

    Returns:
        The coarsest of (3, 3, 2), (3, 3, 3), (4, 4, 4) whose levels hold all colours, else
        (8, 8, 8).
    """
    for bits in ((3, 3, 2), (3, 3, 3), (4, 4, 4)):
        if np.array_equal(posterise(rgb, bits), rgb):
            return bits
    return (8, 8, 8)


def cell_index(rgb: NDArray[np.integer], bits: tuple[int, int, int]) -> NDArray[np.intp]:
    """Number of the colour cell (..., ) in 0 .. 2 ** sum(bits) - 1 of each (..., 3) colour."""
    red, green, blue = (np.asarray(rgb[..., i], dtype=np.intp) >> (8 - bits[i]) for i in range(3))
    return (red << (bits[1] + bits[2])) | (green << bits[2]) | blue


def cell_colours(bits: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The (2 ** sum(bits), 3) colours that the cells of `cell_index` are rounded to."""
    steps = (levels(kept) for kept in bits)
    return np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
