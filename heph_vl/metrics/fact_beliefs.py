"""How probable a text is of an image, by labels and a mask: heads -> facts -> retrieval.

The baseline that a retriever has to be compared with: what a classifier and a segmenter know,
asked in words. Labels count as independent; where annotators put effects that labels do not place
is as in `data.captions.from_labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.data.annotations import ACTIVITY_TYPES, INTENSITIES
from heph_vl.data.captions.facts import REGIONS, SCENE_ATOMS, Atom, CaptionFacts
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.metrics.fact_queries import Suite

_LEAST = 1e-4  # nothing is impossible: products stay comparable
# Shares of the training captions (`data.captions.from_labels`).
_HIGH_WITH_DEFORMATION = 0.51
_LOW_IMPACT = 0.90
_SWATHS = 0.74
_ANYWHERE = 1 / len(REGIONS)
_PLACED = 0.9  # of the belief in a place goes to where the mask has something


@dataclass(frozen=True)
class Beliefs:
    """Probabilities of what a caption of one image says.

    Args:
        scene: Of each of `SCENE_ATOMS`; an atom with a region means both.
        types: Of a pattern of each type, `unspecified` meaning any.
        levels: Of each intensity, given a pattern.
        places: Of each region, given a pattern.
    """

    scene: Mapping[Atom, float]
    types: Mapping[str, float]
    levels: Mapping[str, float]
    places: Mapping[str, float]


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
    scene = dict.fromkeys(SCENE_ATOMS, 0.0)
    still = 1 - deforms
    vertical, turbulent, both = (
        air[name] for name in ("vertical_stratification", "turbulent_mixing", "both")
    )
    for effect, alone in (("vertical_stratification", vertical), ("turbulent_mixing", turbulent)):
        scene[(effect,)] = alone + both
    scene["vertical_stratification", "high-altitude"] = vertical * (
        still + deforms * _HIGH_WITH_DEFORMATION
    )
    scene["vertical_stratification", "everywhere"] = both * still
    scene["turbulent_mixing", "everywhere"] = (turbulent + both) * still
    scene[("low_atmospheric_impact",)] = air["none"] * deforms * _LOW_IMPACT
    scene[("noise",)] = quality["low_coherence"]
    for region in REGIONS:
        scene["noise", region] = quality["low_coherence"] * _ANYWHERE
    for flag, atom in (("corrupted", "corrupted"), ("no_info", "no_information")):
        scene[(atom,)] = quality[flag]
    for name in ("image_artifacts", "orbital_fringes", "glacier_fringes"):
        scene[(name,)] = quality[name]
    scene["processing_error", "swath_merging"] = quality["processing_error"] * _SWATHS
    scene["processing_error", "debursting"] = quality["processing_error"] * (1 - _SWATHS)
    scene[("no_deformation",)] = still * (1 - quality["corrupted"]) * (1 - quality["no_info"])
    types = {kind: labels["activity_types"][kind] for kind in ACTIVITY_TYPES}
    found = facts_from_labels({"deformation": 1.0}, mask).patterns if mask is not None else ()
    regions = [region for pattern in found for region in pattern.regions]
    spread = _ANYWHERE * ((1 - _PLACED) if regions else 1)
    places = {
        region: spread + (_PLACED * regions.count(region) / len(regions) if regions else 0)
        for region in REGIONS
    }
    levels = {level: labels["intensities"][level] for level in INTENSITIES}
    return Beliefs(scene, types | {"unspecified": deforms}, levels, places)


def log_probability(facts: CaptionFacts, image: Beliefs, *, exactly: bool) -> float:
    """Log of the probability that all of a text is true of an image.

    Args:
        facts: Of the text.
        image: What is believed of the image.
        exactly: Whether it must also be all that there is to say.

    Returns:
        At most 0.
    """
    said = facts.scene
    narrowed = {atom[:1] for atom in said if len(atom) > 1}  # told by the atom with the region
    factors = [image.scene[atom] for atom in said if atom not in narrowed]
    for pattern in facts.patterns:
        factors.append(image.types[pattern.type])
        factors += [] if pattern.intensity is None else [image.levels[pattern.intensity]]
        factors += [image.places[region] for region in pattern.regions]
    if exactly:
        named = {pattern.type for pattern in facts.patterns} | {"unspecified"}
        factors += [1 - p for atom, p in image.scene.items() if len(atom) == 1 and atom not in said]
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
