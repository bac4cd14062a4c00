"""The paper's augmentations of a picture, for comparison with views of our own.

Flips, cutout, elastic transform, Gaussian noise and blur, multiplicative noise (Bountos et al.,
2022, section 4), with the probabilities of the configs published with its code and the strengths
that the library used there has by default. The channels are treated as any picture is: nothing
keeps a phasor on its circle, and clipping holds each part in its range.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Channels = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class PaperConfig:
    """Probabilities of the paper's changes, from its published configs; strengths stand below."""

    blur: float = 0.5
    flip: float = 0.5  # each axis
    elastic: float = 0.6
    cutout: float = 0.8
    multiplicative_noise: float = 0.2
    noise: float = 0.8


def paper_view(
    channels: NDArray[np.float32],
    valid: NDArray[np.bool_],
    size: int,
    config: PaperConfig,
    rng: np.random.Generator,
) -> Channels:
    """The paper's changes of a picture, in the order of its config.

    Args:
        channels: (3, H, W) float32, a patch; the paper's pictures have three channels, too.
        valid: (H, W) bool.
        size: Side of the result; the paper resizes crops of 8 to 100 % of a 224 px patch to 200.
        config: Probabilities.
        rng: Source of randomness.

    Returns:
        (3, size, size) float32, parts of the phasor in [-1, 1], coherence in [0, 1], and (size,
        size) bool.
    """
    from scipy.ndimage import gaussian_filter

    picture = np.concatenate([channels, valid[None]]).astype(np.float32)
    picture = _warp(picture, *_resized_crop(picture.shape[1:], size, rng), size)
    if rng.random() < config.blur:
        sigma = rng.uniform(0.1, 2)
        picture[:3] = gaussian_filter(picture[:3], (0, sigma, sigma))
    for axis in (2, 1):
        if rng.random() < config.flip:
            picture = np.flip(picture, axis)
    if rng.random() < config.elastic:
        # With the library's settings the elastic part moves under 0.01 px; what is seen is the
        # affine one: three corners, each moved by up to 50 of 200 px.
        corners = np.array([[0, 0], [0, size], [size, 0]], float)
        moved = corners + rng.uniform(-0.25, 0.25, (3, 2)) * size
        matrix = np.stack([moved[2] - moved[0], moved[1] - moved[0]], axis=1) / size
        picture = _warp(picture, matrix, moved[0], size)
    picture = picture.copy()
    if rng.random() < config.cutout:
        for y, x in rng.integers(0, max(1, size - 8), (8, 2)):
            picture[:3, y : y + 8, x : x + 8] = 0
    if rng.random() < config.multiplicative_noise:
        picture[:3] *= rng.uniform(0.9, 1.1)
    if rng.random() < config.noise:
        # Variance 10 to 50 of 255 grey levels; the phasor's range of 2 stands for all of them.
        std = math.sqrt(rng.uniform(10, 50)) / 255 * np.array([2, 2, 1])[:, None, None]
        picture[:3] += std * rng.standard_normal((3, size, size))
    valid = picture[3] > 0.5
    low = np.array([-1, -1, 0])[:, None, None]
    return np.clip(picture[:3], low, 1).astype(np.float32) * valid, valid


def _resized_crop(
    shape: tuple[int, ...], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Matrix and start of a crop of 8 to 100 % of the area, sides 3:4 to 4:3."""
    height, width = shape
    area, ratio = rng.uniform(0.08, 1) * height * width, np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
    h, w = min(height, np.sqrt(area / ratio)), min(width, np.sqrt(area * ratio))
    start = np.array([rng.uniform(0, height - h), rng.uniform(0, width - w)])
    return np.diag([h / size, w / size]), start


def _warp(
    picture: NDArray[np.float32],
    matrix: NDArray[np.floating],
    start: NDArray[np.floating],
    size: int,
) -> NDArray[np.float32]:
    """Sample (C, H, W) at `matrix` (row, column) + `start`, linearly, reflected beyond the edge."""
    from scipy.ndimage import affine_transform

    offset = start + matrix @ [0.5, 0.5] - 0.5  # pixel centres
    return np.stack(
        [
            affine_transform(channel, matrix, offset, (size, size), order=1, mode="reflect")
            for channel in picture
        ]
    )
