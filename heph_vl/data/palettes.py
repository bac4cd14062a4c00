"""Colour tables of LiCSAR interferograms: which colour a wrapped phase is drawn in.

Two palettes are in use. Since 2020-10-08 LiCSAR draws with a colour table of its own (``new``):
Brewer's RdYlBu reversed, dark blue at -pi, light yellow at 0, dark red at +pi, in steps of
0.025 rad; it is not cyclic, so a red|blue jump stands at +-pi. Before, GAMMA's ``rasmph_pwr``
drew a cyclic hue wheel times the radar amplitude (``old``).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PALETTES = ("new", "old")

# Brewer's 11-class RdYlBu (colorbrewer2.org, as in matplotlib), from blue to red.
_RDYLBU_R = np.array(
    [
        (49, 54, 149),
        (69, 117, 180),
        (116, 173, 209),
        (171, 217, 233),
        (224, 243, 248),
        (255, 255, 191),
        (254, 224, 144),
        (253, 174, 97),
        (244, 109, 67),
        (215, 48, 39),
        (165, 0, 38),
    ],
    dtype=np.float64,
)
# LiCSAR's table (misc/pha.cpt of licsar_proc) joins 20 of matplotlib's 256 steps of it by straight
# lines over [-3.15, 3.15], which is why its zero, (250, 248, 191), is a little off Brewer's.
_NODES = 20
_LIMIT = 3.15
NEW_STEP_RAD = 0.025

# The hue wheel: the darkest channel is 0.42 of the brightest (measured on LiCSAR previews).
OLD_SATURATION = 0.58
# Yellow at 0, magenta at 2 pi / 3, cyan at 4 pi / 3: an arbitrary zero and sense, neither is
# documented.
_OLD_HUE_AT_ZERO = 60.0


@lru_cache(maxsize=1)
def new_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The new palette, step by step.

    Returns:
        (252,) phase [rad] at the middle of each step of 0.025 rad in (-3.15, 3.15), and
        (252, 3) colours in 0..255, not rounded.
    """
    picked = np.minimum(np.arange(_NODES) * 256 // (_NODES - 1), 255) / 25.5
    nodes = np.stack([np.floor(np.interp(picked, np.arange(11), c)) for c in _RDYLBU_R.T], axis=1)
    steps = round(2 * _LIMIT / NEW_STEP_RAD)
    phase = np.linspace(-_LIMIT, _LIMIT, steps, endpoint=False) + NEW_STEP_RAD / 2
    at = (phase + _LIMIT) / (2 * _LIMIT) * (_NODES - 1)
    colours = np.stack([np.interp(at, np.arange(_NODES), channel) for channel in nodes.T], axis=1)
    return phase, colours


def new_colours(wrapped_phase: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours of the new palette.

    Args:
        wrapped_phase: Any shape (...) [rad] in (-pi, pi].

    Returns:
        (..., 3) uint8.
    """
    # One 4-byte item a colour: a whole frame is millions of pixels, and this is 3 times as fast.
    table = np.zeros((len(new_table()[1]), 4), dtype=np.uint8)
    table[:, :3] = np.rint(new_table()[1])
    phase = np.asarray(wrapped_phase, dtype=np.float32)
    step = ((phase + np.float32(_LIMIT)) * np.float32(1 / NEW_STEP_RAD)).astype(np.int32)
    painted = table.view(np.uint32)[:, 0].take(step, mode="clip")
    return painted[..., None].view(np.uint8)[..., :3].copy()


def old_colours(
    wrapped_phase: NDArray[np.floating], amplitude: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """Colours of the older palette: a hue wheel times the radar amplitude.

    Args:
        wrapped_phase: Any shape (...) [rad]; 0 is drawn yellow, 2 pi / 3 magenta, 4 pi / 3 cyan.
        amplitude: (...) brightness in [0, 1]; full brightness if None.

    Returns:
        (..., 3) uint8.
    """
    hue = (_OLD_HUE_AT_ZERO - np.degrees(np.asarray(wrapped_phase, dtype=np.float32))) / 60.0
    channels = [np.abs((hue - centre + 3.0) % 6.0 - 3.0) for centre in (0.0, 2.0, 4.0)]
    wheel = np.stack([np.clip(2.0 - distance, 0.0, 1.0) for distance in channels], axis=-1)
    colours = 255.0 * (1.0 - OLD_SATURATION * (1.0 - wheel))
    if amplitude is not None:
        colours = colours * np.clip(amplitude, 0.0, 1.0)[..., None]
    return np.rint(colours).astype(np.uint8)


def old_phase(
    rgb: NDArray[np.integer] | NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Phase and saturation of colours of the older palette.

    Args:
        rgb: (N, 3) colours in 0..255.

    Returns:
        (N,) phase [rad] in (-pi, pi] from the palette's own arbitrary zero, and (N,) saturation
        in [0, 1]: 0.58 on the wheel, less where phases are blended, 0 for greys.
    """
    level = np.asarray(rgb, dtype=np.float32)
    top, low = level.max(axis=-1), level.min(axis=-1)
    spread = np.maximum(top - low, 1e-6)
    red, green, blue = level[..., 0], level[..., 1], level[..., 2]
    hue = np.where(
        top == red,
        (green - blue) / spread,
        np.where(top == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    angle = np.radians(_OLD_HUE_AT_ZERO - 60.0 * hue)
    phase = np.arctan2(np.sin(angle), np.cos(angle))
    return phase.astype(np.float32), ((top - low) / np.maximum(top, 1.0)).astype(np.float32)


def decode_old(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Phase and confidence of colours of the older palette.

    Median error [rad] on fringes 10 / 4 px apart, drawn and decoded: 0.007 / 0.014, posterised
    0.066 / 0.090.

    Args:
        rgb: (N, 3) colours in 0..255.

    Returns:
        (N,) phase [rad] in (-pi, pi], zero and sense arbitrary; (N,) confidence in [0, 1]: the
        saturation as a share of the wheel's, less for dark pixels, whose hue is rounding noise.
    """
    phase, saturation = old_phase(rgb)
    top = rgb.max(axis=-1).astype(np.float32)
    # Rounding moves a hue by about 1 / (0.58 top) rad: believable from a few tens of levels on.
    bright = np.clip(top / 64.0, 0.0, 1.0)
    return phase, np.clip(saturation / OLD_SATURATION, 0.0, 1.0) * bright


def fit_old(rgb: NDArray[np.uint8], count: NDArray[np.integer], tolerance: float = 24.0) -> float:
    """Share of an image, in [0, 1], that the older palette can draw.

    Args:
        rgb: (N, 3) distinct colours.
        count: (N,) pixels of each.
        tolerance: Levels that the resize overshoots and the rounding moves a channel.

    Returns:
        Share of pixels that are no more saturated than the wheel.
    """
    _, saturation = old_phase(rgb)
    top = np.maximum(rgb.max(axis=-1), 1)
    allowed = saturation <= OLD_SATURATION + 0.03 + tolerance / top
    return float(count[allowed].sum() / count.sum())
