"""Records of generated interferograms: what the sentence says, completed by what heads see."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, Event
from heph_vl.data.captions.facts import CaptionFacts
from heph_vl.data.captions.from_labels import cell_of, facts_from_labels
from heph_vl.data.samples import QUALITY_FLAGS, decoded_pixels
from heph_vl.models.pipeline import InSAROutput

if TYPE_CHECKING:
    from heph_vl.models.heads import Heads
    from heph_vl.models.prediction import Prediction

# No place on Earth: a LiCSAR name whose frame and bursts are 0. The grouped split trains on it.
FRAME_ID = "002D_00000_000000"
_FIRST = date(1900, 1, 1)  # no satellite flew: a date that cannot be taken for a real one
_SPAN, _LONG_SPAN = timedelta(days=12), timedelta(days=400)
_LEAST_BELIEF = 0.1  # that a pixel deforms, to lie inside an outline
_AIR = {"vertical_stratification", "turbulent_mixing", "low_atmospheric_impact"}
_NOTHING_ELSE = {("corrupted",), ("no_information",)}  # said of an image, they leave no more to say


def record_of(
    unique_id: int, said: CaptionFacts, drawn: InSAROutput, i: int, labels: "Heads"
) -> Annotation | str:
    """The record of a generated picture, or why it gets none.

    What the sentence says is taken as it is. What it leaves open (deformation, air, noise, flags,
    an intensity, where the outline runs) is what the heads see. A picture in which the heads see
    a deformation that was not asked for, or none where one was, has no label to be trusted.

    Args:
        unique_id: Its number.
        said: What the sentence says.
        drawn: The pictures.
        i: Which of them.
        labels: The heads.

    Returns:
        The record; or a reason.
    """
    if not drawn.valid[i].any():
        return "it has no data"
    channels, valid = decoded_pixels(drawn.wrapped_phase[i], drawn.valid[i], drawn.coherence[i])
    found: Prediction = labels.predict(torch.from_numpy(channels), torch.from_numpy(valid))
    deforms = bool(found.present["deformation"][0])
    if found.quality[QUALITY_FLAGS.index("corrupted")] >= 0.5 and ("corrupted",) not in said.scene:
        return "the heads see a corrupted picture"
    settled = bool(said.patterns) or bool(said.scene & {("no_deformation",), *_NOTHING_ELSE})
    if settled and deforms != bool(said.patterns):
        return "the heads see no deformation" if said.patterns else "the heads see a deformation"
    facts = _completed(said, found, deforms)
    events = _events(facts.patterns, _outlines(found, valid), valid.shape)
    if any(event.polygon is None for event in events):
        return "the heads see no outline"
    return _record(unique_id, facts, events)


def unlabelled(unique_id: int) -> Annotation:
    """Names and dates of a picture; a record of it is not to be written."""
    return _record(unique_id, CaptionFacts(), ())


def _completed(said: CaptionFacts, found: "Prediction", deforms: bool) -> CaptionFacts:
    """What is said, and of what that leaves open what is seen."""
    only = said.scene & _NOTHING_ELSE
    if only and not said.patterns:
        return CaptionFacts(said.scene)
    # Corrupted or without information is what is asked for, never seen: it would hide all else.
    never = {"corrupted": 1.1, "no_info": 1.1}
    thresholds = {"deformation": 0.0 if deforms else 1.1, "quality": never}
    seen = facts_from_labels(found.row(0), found.mask, thresholds)
    named = {atom[0] for atom in said.scene}
    taken = named | (_AIR if named & _AIR else set()) | {atom[0] for atom in _NOTHING_ELSE}
    scene = said.scene | {atom for atom in seen.scene if atom[0] not in taken}
    patterns = said.patterns or (() if ("no_deformation",) in scene else seen.patterns)
    level = captions.INTENSITIES[int(found.intensities.argmax())]
    return CaptionFacts(
        scene,
        tuple(
            p if p.intensity or p.type == "earthquake" else replace(p, intensity=level)
            for p in patterns
        ),
    )


def _outlines(found: "Prediction", valid: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Outlines of what deforms if anything does, the largest first."""
    from heph_vl.detect import outlines

    if found.mask_if_deforming is None:
        return []
    belief = np.where(valid, found.mask_if_deforming, 0)
    # The image is known to deform, so half of the highest belief bounds it, if there is any.
    bound = max(_LEAST_BELIEF, min(0.5, 0.5 * float(belief.max())))
    return outlines((belief >= bound).astype(np.uint8))


def _events(
    patterns: Sequence[captions.Pattern],
    found: Sequence[Mapping[str, Any]],
    shape: tuple[int, ...],
) -> tuple[Event, ...]:
    """One event for each pattern, outlined by what was found in its place, else the largest."""
    left, events = list(found), []
    for pattern in patterns:
        kind = "unidentified" if pattern.type == "unspecified" else pattern.type
        near = [
            o for o in left if cell_of(o["polygon"], (shape[1], shape[0])) in pattern.regions
        ] or left
        polygon = None
        if near:
            chosen = near[0]  # before it leaves `left`, which `near` may be
            left.remove(chosen)
            polygon = tuple((float(x), float(y)) for x, y in chosen["polygon"])
        events.append(Event(kind, pattern.intensity, polygon))
    return tuple(events)


def _record(unique_id: int, facts: CaptionFacts, events: tuple[Event, ...]) -> Annotation:
    """The record that facts amount to; the volcano's phase is unrest, which no picture tells."""
    said = {atom[0] for atom in facts.scene}
    error = next((a[1] for a in facts.scene if a[0] == "processing_error"), "none")
    volcanic = [event for event in events if event.type != "earthquake"]
    label = ["Deformation"] * bool(volcanic) + ["Earthquake"] * (len(volcanic) < len(events))
    start = _FIRST + timedelta(days=unique_id)
    return Annotation(
        unique_id=unique_id,
        frame_id=FRAME_ID,
        primary_date=start,
        secondary_date=start + (_LONG_SPAN if "long_temporal_baseline" in said else _SPAN),
        corrupted="corrupted" in said,
        processing_error=error,
        glacier_fringes="glacier_fringes" in said,
        orbital_fringes="orbital_fringes" in said,
        atmosphere=int("vertical_stratification" in said) + 2 * int("turbulent_mixing" in said),
        low_coherence="noise" in said,
        no_info="no_information" in said,
        image_artifacts="image_artifacts" in said,
        label=tuple(label) or ("Non_Deformation",),
        events=events,
        volcano_phase="unrest" if volcanic else "none" if events else "rest",
        confidence=0.5,
        is_crowd=len(events) > 1,
        caption=captions.compose(facts),
    )
