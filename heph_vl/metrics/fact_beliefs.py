"""How probable a text is of an image, by labels and a mask: heads -> facts -> retrieval.

The baseline that a retriever has to be compared with: what a classifier and a segmenter know,
asked in words. Labels count as independent. Where annotators place an effect that no label places
is counted on the training captions of the grouped split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.data.annotations import ACTIVITY_TYPES, INTENSITIES
from heph_vl.data.captions.facts import AREA_EFFECTS, REGIONS, SCENE_ATOMS, Atom, CaptionFacts
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.metrics.fact_queries import Suite

_LEAST = 1e-4  # nothing is impossible: products stay comparable
_LOW_IMPACT = 0.90  # of deforming images without atmosphere; this and the next: `from_labels`
_SWATHS = 0.74
_SILENT = 1e-3  # of 1,783 patterns 2 name no place, and none but earthquakes no intensity
_PLACED = 0.9  # belief in a place where the mask has a pattern of the type
_NEAR = 0.45  # and in one where it has a pattern of another type
# How often each place is named of an effect that a caption with deformation tells: of 458 with
# noise, 533 with stratification, 978 with turbulence. Order of REGIONS.
_OF_DEFORMING = {
    "noise": (0.19, 0.02, 0.03, 0.004, 0.40, 0.36, 0.01, 0.02, 0.04, 0.10, 0.0),
    "vertical_stratification": (0.12, 0.09, 0.01, 0.23, 0.21, 0.01, 0.10, 0.01, 0.03, 0.06, 0.41),
    "turbulent_mixing": (0.09, 0.33, 0.03, 0.27, 0.23, 0.09, 0.23, 0.08, 0.11, 0.29, 0.001),
}


@dataclass(frozen=True)
class Beliefs:
    """Probabilities of what a caption of one image says.

    Args:
        scene: Of each of `SCENE_ATOMS` without a place.
        regions: Of each region of an area effect, given the effect.
        types: Of a pattern of each type, `unspecified` meaning any.
        levels: Of each intensity, given a pattern.
        places: Of a region, given a pattern of a type; where the mask shows none of that type
            there, `elsewhere`.
        elsewhere: See `places`.
    """

    scene: Mapping[Atom, float]
    regions: Mapping[str, Mapping[str, float]]
    types: Mapping[str, float]
    levels: Mapping[str, float]
    places: Mapping[tuple[str, str], float]
    elsewhere: float


def beliefs(labels: Mapping[str, Any], mask: npt.NDArray[np.uint8] | None = None) -> Beliefs:
    """What labels and a mask of one image make probable.

    Args:
        labels: As a line of `predictions.jsonl`, all groups.
        mask: (H, W) uint8 class ids, or None.

    Returns:
        The beliefs.
    """
    deforms = float(labels["deformation"])
    air, quality = labels["atmosphere"], labels["quality"]
    scene = {atom: 0.0 for atom in SCENE_ATOMS if atom[0] not in AREA_EFFECTS}
    for flag in ("image_artifacts", "orbital_fringes", "glacier_fringes", "corrupted"):
        scene[(flag,)] = quality[flag]
    scene[("no_information",)] = quality["no_info"]
    scene["processing_error", "swath_merging"] = quality["processing_error"] * _SWATHS
    scene["processing_error", "debursting"] = quality["processing_error"] * (1 - _SWATHS)
    scene[("low_atmospheric_impact",)] = air["none"] * deforms * _LOW_IMPACT
    still = (1 - quality["corrupted"]) * (1 - quality["no_info"])
    scene[("no_deformation",)] = (1 - deforms) * still
    vertical, both = air["vertical_stratification"], air["both"]
    scene[("noise",)] = quality["low_coherence"]
    scene[("vertical_stratification",)] = vertical + both
    scene[("turbulent_mixing",)] = air["turbulent_mixing"] + both
    # Without deformation: stratification alone at high altitude, everything else everywhere.
    high = vertical / max(vertical + both, _LEAST)
    calm: dict[str, dict[str, float]] = {
        "noise": {},
        "vertical_stratification": {"high-altitude": high, "everywhere": 1 - high},
        "turbulent_mixing": {"everywhere": 1.0},
    }
    regions = {
        effect: {
            region: deforms * share + (1 - deforms) * calm[effect].get(region, 0.0)
            for region, share in zip(REGIONS, _OF_DEFORMING[effect], strict=True)
        }
        for effect in AREA_EFFECTS
    }
    return Beliefs(
        scene,
        regions,
        {kind: labels["activity_types"][kind] for kind in ACTIVITY_TYPES}
        | {"unspecified": deforms},
        {level: labels["intensities"][level] for level in INTENSITIES},
        *_places(mask),
    )


def _places(mask: npt.NDArray[np.uint8] | None) -> tuple[dict[tuple[str, str], float], float]:
    found = () if mask is None else facts_from_labels({"deformation": 1.0}, mask).patterns
    named = {(kind, r) for p in found for r in p.regions for kind in (p.type, "unspecified")}
    # A mask may have the place right and the type wrong, as labels of the whole image know better.
    near = {(kind, r) for _, r in named for kind in ACTIVITY_TYPES} - named
    elsewhere = (1 - _PLACED if named else 1) / len(REGIONS)
    return {place: _PLACED for place in named} | {place: _NEAR for place in near}, elsewhere


def log_probability(facts: CaptionFacts, image: Beliefs, *, exactly: bool) -> float:
    """Log of the probability that all of a text is true of an image.

    Args:
        facts: Of the text.
        image: What is believed of the image.
        exactly: Whether it must also be all that an annotator would say.

    Returns:
        At most 0.
    """
    factors = []
    for atom, p in image.scene.items():
        if atom in facts.scene:
            factors.append(p)
            for region, q in image.regions.get(atom[0], {}).items():
                if (*atom, region) in facts.scene:
                    factors.append(q)
                elif exactly:
                    factors.append(1 - q)
        elif exactly:
            factors.append(1 - p)
    for pattern in facts.patterns:
        factors.append(image.types[pattern.type])
        for region in pattern.regions:
            factors.append(image.places.get((pattern.type, region), image.elsewhere))
        if pattern.intensity is not None:
            factors.append(image.levels[pattern.intensity])
        elif exactly and pattern.type != "earthquake":
            factors.append(_SILENT)
        if exactly and not pattern.regions:
            factors.append(_SILENT)
    if exactly:
        named = {pattern.type for pattern in facts.patterns} | {"unspecified"}
        factors += [1 - p for kind, p in image.types.items() if kind not in named]
    return float(np.log(np.clip(factors, _LEAST, 1)).sum())


def suite_scores(suite: Suite, images: Sequence[Beliefs]) -> npt.NDArray[np.float32]:
    """Scores of all images for a suite's queries.

    Args:
        suite: Those with gains ask for captions, which must be told exactly.
        images: N beliefs.

    Returns:
        (Q, N) float32.
    """
    exactly = suite.gains is not None
    return np.array(
        [[log_probability(q, image, exactly=exactly) for image in images] for q in suite.facts],
        dtype=np.float32,
    ).reshape(len(suite.facts), len(images))
