"""What the phase says of the ground: motion of a pattern, and what may be the air instead.

    los_displacement = -wavelength / (4 pi) * phase, positive toward the satellite

One fringe (2 pi) is half a wavelength, 2.77 cm. Phase is known up to a constant, so a pattern's
motion is told relative to its surroundings, and a pattern as wide as the picture cannot be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from heph_vl.data.phase import phasor

WAVELENGTH_M = 0.05546576  # Sentinel-1, C band
LEAST_COHERENCE = 0.2  # below, phase is mostly noise
LEAST_SEEN = 0.5  # share of a pattern that must be coherent and of one piece
_ROOM = 0.6  # of a pattern's larger side: surroundings looked at on each side
_LEAST_ROOM_PX = 12
_STEP_PX = 5  # native pixels, 1.7 km: between two points whose phase and height are compared
SIGNIFICANT = 0.5  # correlation from which phase is said to follow height
_FEWEST = 200  # point pairs
_LEAST_RELIEF_M = 30.0  # spread of their height differences

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """Motion of a pattern along the line of sight, relative to its surroundings.

    Attributes:
        fringes: At its strongest, positive toward the satellite.
        noise_fringes: Standard deviation of the surroundings: air, noise, other motion.
    """

    fringes: float
    noise_fringes: float

    @property
    def centimetres(self) -> float:
        """The same as motion [cm], positive toward the satellite."""
        return self.fringes * WAVELENGTH_M * 50

    @property
    def sense(self) -> str:
        """`toward` or `away`; `unknown` where the surroundings vary as much."""
        if abs(self.fringes) <= self.noise_fringes:
            return "unknown"
        return "toward" if self.fringes > 0 else "away"


@dataclass(frozen=True)
class HeightFit:
    """How phase goes with height.

    Attributes:
        correlation: Of phase steps and height steps over 1.7 km, in [-1, 1].
        rad_per_km: Phase that a kilometre of height adds.
        count: Steps compared.
    """

    correlation: float
    rad_per_km: float
    count: int

    @property
    def significant(self) -> bool:
        """Whether a stratified atmosphere is likely; patterns on slopes may be air then."""
        return abs(self.correlation) >= SIGNIFICANT


def surroundings(
    ring: Sequence[tuple[float, float]], shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Rows and columns of the window in which a pattern is compared with what is around it.

    Args:
        ring: Its outline (x, y) [px].
        shape: Height and width of the image.

    Returns:
        The outline's box with room on each side, within the image.
    """
    low, high = np.floor(np.min(ring, axis=0)), np.ceil(np.max(ring, axis=0))
    room = max(_LEAST_ROOM_PX, round(_ROOM * float((high - low).max())))
    columns, rows = (
        slice(max(int(a) - room, 0), max(min(int(b) + room, side), 1))
        for a, b, side in zip(low, high, shape[::-1], strict=True)
    )
    return rows, columns


def los_change(
    wrapped_phase: Float, valid: Bool, coherence: Float, pattern: Bool, others: Bool | None = None
) -> Change | None:
    """How a pattern moved, from the unwrapped phase in and around it.

    Phase is meaned over 3 x 3 pixels and unwrapped in order of reliability (Herraez et al. 2002);
    the surroundings are all coherent ground of the window given, joined to the pattern. Fringes
    less than about 2.5 px apart are lost in the mean, and counted too low.

    Args:
        wrapped_phase: (H, W) float32 [rad], at 1/300 degree: a window, see `surroundings`.
        valid: (H, W) bool.
        coherence: (H, W) float32 in [0, 1].
        pattern: (H, W) bool, its pixels.
        others: (H, W) bool, pixels of other patterns: no surroundings.

    Returns:
        The change, or None where half of the pattern is incoherent or cut off from its
        surroundings.
    """
    from skimage.restoration import unwrap_phase

    seen = valid & (coherence >= LEAST_COHERENCE)
    if not pattern.any():
        return None
    z = phasor(wrapped_phase, valid)
    mean = _mean(z.real) + 1j * _mean(z.imag)
    pieces, _ = ndimage.label(seen)
    size = np.bincount(pieces[pattern & seen], minlength=1)
    size[0] = 0
    joined = seen & (pieces == size.argmax()) if size.any() else np.zeros_like(seen)
    ring = joined & ~pattern if others is None else joined & ~pattern & ~others
    if (joined & pattern).sum() < LEAST_SEEN * pattern.sum() or ring.sum() < pattern.sum() / 4:
        return None
    unwrapped = unwrap_phase(np.ma.array(np.angle(mean), mask=~joined)).filled(np.nan)
    level = float(np.median(unwrapped[ring]))
    low, high = np.percentile(unwrapped[joined & pattern] - level, (2, 98))
    strongest = high if abs(high) >= abs(low) else low
    return Change(-float(strongest) / (2 * np.pi), float(unwrapped[ring].std()) / (2 * np.pi))


def height_fit(
    wrapped_phase: Float, valid: Bool, coherence: Float, height: Float, patterns: Bool
) -> HeightFit | None:
    """Whether the phase follows the height, as a stratified atmosphere makes it.

    Steps of phase and of height between points 1.7 km apart, along rows and columns, are compared:
    they need no unwrapping, and ramps and broad turbulence hardly matter in them.

    Args:
        wrapped_phase: (H, W) float32 [rad], at 1/300 degree.
        valid: (H, W) bool.
        coherence: (H, W) float32 in [0, 1].
        height: (H, W) float32 [m], NaN where unknown.
        patterns: (H, W) bool: deforming ground, left out.

    Returns:
        The fit, or None where too little coherent ground or no relief is seen.
    """
    z = phasor(wrapped_phase, valid)
    usable = valid & (coherence >= LEAST_COHERENCE) & np.isfinite(height) & ~patterns
    phases, heights = [], []
    for axis in (0, 1):
        there = [np.s_[_STEP_PX:], np.s_[:-_STEP_PX]]
        first, second = ((s, np.s_[:]) if axis == 0 else (np.s_[:], s) for s in there)
        both = usable[first] & usable[second]
        phases.append(np.angle(z[first] * z[second].conj())[both])
        heights.append((height[first] - height[second])[both])
    d_phase, d_height = np.concatenate(phases), np.concatenate(heights).astype(np.float64)
    if len(d_phase) < _FEWEST or d_height.std() < _LEAST_RELIEF_M or d_phase.std() == 0:
        return None
    correlation = float(np.corrcoef(d_phase, d_height)[0, 1])
    slope = correlation * float(d_phase.std() / d_height.std())
    return HeightFit(correlation, 1000 * slope, len(d_phase))


def _mean(values: NDArray[np.floating]) -> NDArray[np.floating]:
    found: NDArray[np.floating] = ndimage.uniform_filter(values, 3, mode="constant")
    return found
