"""How much an interferogram can be expected to tell: one number in [0, 1] for choosing pairs.

    score = (U^2 * C^2 * T * K)^(1/6)          a geometric mean; what is not known is left out

    U = prod over flags (1 - w_f p_f)          usable: nothing spoils the image
    C = mean coherence over valid land         expected modulus of the phasor's average
    T = exp(-days / 120)                       share of pairs that age leaves without noise
    K = confidence                             certainty of the annotation or of the model

Of the 19,919 real records, those up to 12 days apart are of low coherence or without information in
6 %, 13 to 24 days apart in 12 %, to 48 in 29 %, to 96 in 45 %, to 192 in 68 %: within 5 points of
1 - exp(-days / 120) at the middle of each range. The weights w_f are a choice, not a fit: a
corrupted image or one without information tells nothing (1); an error or low coherence in parts
spoils half (0.5); ramps and melt hide large patterns (0.3, 0.2); a drawn legend a corner (0.1).

The score falls with each probability and with the temporal baseline, and rises with coherence and
confidence, strictly unless another factor is 0.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.errors import HephError

FLAG_WEIGHTS = {
    "corrupted": 1.0,
    "no_info": 1.0,
    "processing_error": 0.5,
    "low_coherence": 0.5,
    "orbital_fringes": 0.3,
    "glacier_fringes": 0.2,
    "image_artifacts": 0.1,
}
DECAY_DAYS = 120.0
EXPONENTS = {"usable": 2.0, "coherence": 2.0, "temporal": 1.0, "confidence": 1.0}


def information_score(
    quality: Mapping[str, float],
    *,
    mean_coherence: float | None = None,
    temporal_baseline: float | None = None,
    confidence: float | None = None,
) -> float:
    """Expected information of a pair.

    Args:
        quality: Probability in [0, 1] by flag of QUALITY_FLAGS; flags that are not given are 0.
        mean_coherence: Over valid land, in [0, 1] (`mean_coherence` of an image); None: unknown.
        temporal_baseline: Days between the dates, at least 0; None: unknown.
        confidence: Of the labels, in [0, 1]; None: unknown.

    Returns:
        The score in [0, 1]. Compare scores that know the same factors.

    Raises:
        HephError: If a flag is unknown or a value is out of its range.
    """
    unknown = sorted(set(quality) - set(QUALITY_FLAGS))
    if unknown:
        raise HephError("quality", f"unknown flag {unknown[0]}", f"use {', '.join(QUALITY_FLAGS)}")
    for name, value in quality.items():
        _check(f"quality.{name}", value, 1.0)
    factors = {"usable": float(np.prod([1 - FLAG_WEIGHTS[f] * p for f, p in quality.items()]))}
    if mean_coherence is not None:
        factors["coherence"] = _check("mean_coherence", mean_coherence, 1.0)
    if temporal_baseline is not None:
        days = _check("temporal_baseline", temporal_baseline, np.inf)
        factors["temporal"] = float(np.exp(-days / DECAY_DAYS))
    if confidence is not None:
        factors["confidence"] = _check("confidence", confidence, 1.0)
    total = sum(EXPONENTS[name] for name in factors)
    return float(np.prod([value ** (EXPONENTS[name] / total) for name, value in factors.items()]))


def mean_coherence(
    coherence: npt.NDArray[np.floating],
    valid: npt.NDArray[np.bool_],
    water: npt.NDArray[np.bool_] | None = None,
) -> float | None:
    """Mean coherence over valid land.

    Args:
        coherence: (H, W) in [0, 1].
        valid: (H, W) bool, where there is data.
        water: (H, W) bool, True on water; None where no one knows: water then counts, and lowers
            the mean of a coastal frame alike in all its pairs.

    Returns:
        The mean in [0, 1], or None without any valid land.
    """
    land = valid if water is None else valid & ~water
    return float(np.clip(coherence[land], 0, 1).mean(dtype=np.float64)) if land.any() else None


def _check(name: str, value: float, most: float) -> float:
    if not 0 <= value <= most or not np.isfinite(value):
        limits = "a finite number, at least 0" if most == np.inf else "a number from 0 to 1"
        raise HephError(name, f"{value}", limits)
    return float(value)
