"""One interferogram as a sample: image, coherence, mask, polygons, facts and labels in step.

A change (crop, east-west mirror, reversed phase, phase shift) is a function that takes a `Sample`
and returns the changed one, with everything that is said of the image changed too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data import captions, phase
from heph_vl.data.annotations import Event
from heph_vl.data.captions import CaptionFacts
from heph_vl.errors import HephError

QUALITY_FLAGS = (
    "corrupted",
    "processing_error",
    "low_coherence",
    "no_info",
    "image_artifacts",
    "orbital_fringes",
    "glacier_fringes",
)
VOLCANO_PHASES = ("rest", "unrest", "rebound")
_OPPOSITE_SENSE = {"toward": "away", "away": "toward", "unknown": "unknown"}
_OPPOSITE_PASS = {"ascending": "descending", "descending": "ascending"}

# Phase is kept as a byte: 0 = no data, 1..255 = 255 equal steps of the circle, as fine as the
# palette itself (0.025 rad a step), a twelfth of the memory of three float32 channels.
PHASE_LEVELS = 255
_ANGLE = (np.arange(256) - 1) * (2 * np.pi / PHASE_LEVELS)
_COS = np.where(np.arange(256) > 0, np.cos(_ANGLE), 0).astype(np.float32)
_SIN = np.where(np.arange(256) > 0, np.sin(_ANGLE), 0).astype(np.float32)
_BYTE = (np.arange(256) / 255).astype(np.float32)

# A region of a crop keeps its noise if a quarter of its pixels are below this coherence.
_NOISY = 0.35
_NOISY_SHARE = 0.25

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Interferogram:
    """One decoded interferogram at 1/300 degree, four bytes a pixel.

    Attributes:
        phase_code: (H, W) uint8, 0 = no data, else 1 + phase / (2 pi / 255) on the circle.
        coherence: (H, W) uint8, measured coherence x 255, or None when no such image exists.
        estimated_coherence: (H, W) uint8, coherence x 255 estimated from the phasor.
        mask: (H, W) uint8, class ids.
    """

    phase_code: Bytes
    coherence: Bytes | None
    estimated_coherence: Bytes
    mask: Bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.phase_code.shape[1], self.phase_code.shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory held by the arrays."""
        return self.phase_code.size * (3 if self.coherence is None else 4)


def from_phase(
    wrapped_phase: NDArray[np.float32],
    valid: NDArray[np.bool_],
    coherence: NDArray[np.float32] | None = None,
    mask: Bytes | None = None,
) -> Interferogram:
    """An `Interferogram` from decoded arrays.

    Args:
        wrapped_phase: (H, W) float32 [rad] in (-pi, pi].
        valid: (H, W) bool, False where there is no data.
        coherence: (H, W) float32 in [0, 1], or None when it was not measured.
        mask: (H, W) uint8 class ids, or None for an image without annotation.

    Returns:
        The compact form that samples are cut from.
    """
    code = _phase_code(wrapped_phase, valid)
    return Interferogram(
        code,
        None if coherence is None else _to_byte(coherence),
        _estimate(wrapped_phase, valid),
        np.zeros(code.shape, np.uint8) if mask is None else mask,
    )


def read_row(row: Mapping[str, Any]) -> Interferogram:
    """Decode the image columns of one dataset row.

    Args:
        row: A row whose `image`, `coherence` and `mask` are encoded (`{"bytes": ...}`).

    Returns:
        The decoded interferogram.

    Raises:
        HephError: If an image cannot be read or the sizes differ.
    """
    where = f"interferogram {row['unique_id']}"
    wrapped_phase, valid, coherence = _decode(row, where)
    shape = wrapped_phase.shape
    mask = None
    if row.get("mask") is not None:
        mask = np.asarray(phase.open_png(_encoded(row["mask"]), f"{where}: mask"))
        if mask.shape != shape:
            raise HephError(
                f"{where}: mask",
                f"{mask.shape[1]} x {mask.shape[0]} px, its image {shape[1]} x {shape[0]} px",
                "write the dataset again from its archive",
            )
    return from_phase(wrapped_phase, valid, coherence, mask)


def row_events(row: Mapping[str, Any]) -> tuple[Event, ...]:
    """The deformation events of a dataset row, polygons in pixels of its image."""
    columns = zip(
        row["activity_types"], row["intensities"], row["polygons"], row["los_sense"], strict=True
    )
    return tuple(
        Event(kind, intensity, tuple((x, y) for x, y in polygon) if polygon else None, sense)
        for kind, intensity, polygon, sense in columns
    )


@dataclass(frozen=True)
class Sample:
    """One training image before it becomes tensors: what is seen, and all that is said of it."""

    phase_code: Bytes
    coherence: Bytes
    mask: Bytes
    events: tuple[Event, ...]
    facts: CaptionFacts
    caption: str | None  # the annotator's own words, while they still hold
    pass_direction: str
    volcano_phase: int  # index in VOLCANO_PHASES, -1 = masked
    atmosphere: int
    quality: tuple[bool, ...]
    ambiguous: int = 0  # patterns that a crop could not match to one polygon


def whole(interferogram: Interferogram, row: Mapping[str, Any], *, estimated: bool) -> Sample:
    """The whole interferogram with everything its row says.

    Args:
        interferogram: The decoded images of `row`.
        row: The dataset row.
        estimated: Whether to give the coherence estimated from the phase even if it was measured.

    Returns:
        The sample from which crops, flips and shifts are made.
    """
    measured = interferogram.coherence
    volcano_phase = row["volcano_phase"]
    return Sample(
        interferogram.phase_code,
        interferogram.estimated_coherence if estimated or measured is None else measured,
        interferogram.mask,
        row_events(row),
        captions.parse(row["caption"]),
        row["caption"],
        row["pass_direction"],
        VOLCANO_PHASES.index(volcano_phase) if volcano_phase in VOLCANO_PHASES else -1,
        int(row["atmosphere"]),
        tuple(_flag(row[name]) for name in QUALITY_FLAGS),
    )


def crop(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """Cut a window; mask, polygons, facts and labels become those of the window.

    Args:
        sample: A whole interferogram.
        window: x0, y0, x1, y1 in pixels, inside the image.

    Returns:
        The crop; facts re-worded relative to it (`captions.crop`).
    """
    x0, y0, x1, y1 = window
    height, width = sample.phase_code.shape
    part = np.s_[y0:y1, x0:x1]
    cut = captions.crop(sample.facts, window, (width, height), sample.events)
    events = tuple(
        replace(event, polygon=tuple((x - x0, y - y0) for x, y in event.polygon))
        for event in sample.events
        if event.polygon is not None and captions.shows(event.polygon, window)
    )
    atmosphere = ("vertical_stratification",) in cut.facts.scene
    return replace(
        sample,
        phase_code=sample.phase_code[part],
        coherence=sample.coherence[part],
        mask=sample.mask[part],
        events=events,
        facts=_checked_noise(cut.facts, sample.coherence[part], sample.phase_code[part] > 0),
        caption=None,
        atmosphere=int(atmosphere) + 2 * (("turbulent_mixing",) in cut.facts.scene),
        volcano_phase=sample.volcano_phase if events else VOLCANO_PHASES.index("rest"),
        ambiguous=cut.ambiguous,
    )


def _checked_noise(facts: CaptionFacts, coherence: Bytes, valid: NDArray[np.bool_]) -> CaptionFacts:
    """Facts without noise where the crop's own coherence shows none.

    Coherence alone cannot place noise: water is as incoherent, and no annotator calls it noise. So
    a crop says noise where the caption places it and its coherence agrees.
    """
    low = valid & (coherence < _NOISY * 255)
    scene = set(facts.scene)
    for atom in facts.scene:
        if atom[0] == "noise":
            part = _area_of(atom[1] if len(atom) > 1 else "everywhere", *valid.shape)
            if low[part].sum() < _NOISY_SHARE * max(1, valid[part].sum()):
                scene.discard(atom)
    if facts.regions_of("noise") and not any(a[0] == "noise" and len(a) > 1 for a in scene):
        scene.discard(("noise",))
    return replace(facts, scene=frozenset(scene))


def _area_of(region: str, height: int, width: int) -> tuple[slice, slice]:
    """Third of an image that an area effect's region means."""
    x0, y0, x1, y1 = captions.region_box(region, (0, 0, width, height), strips=True)
    return slice(round(y0), round(y1)), slice(round(x0), round(x1))


def mirror(sample: Sample) -> Sample:
    """The east-west mirror image: left and right change places everywhere, so does the pass."""
    width = sample.phase_code.shape[1]
    events = tuple(
        replace(
            event,
            polygon=None
            if event.polygon is None
            else tuple((width - x, y) for x, y in event.polygon),
        )
        for event in sample.events
    )
    return replace(
        sample,
        phase_code=sample.phase_code[:, ::-1],
        coherence=sample.coherence[:, ::-1],
        mask=sample.mask[:, ::-1],
        events=events,
        facts=captions.mirror(sample.facts),
        caption=None,
        pass_direction=_OPPOSITE_PASS[sample.pass_direction],
    )


def negate(sample: Sample) -> Sample:
    """Reverse the sign of all phase: each event changes sense, the volcano's phase is unknown.

    Unrest and Rebound are an annotator's labels for a record, not the sign of motion, so a
    deforming record loses its label; an undeforming one stays at rest.
    """
    code = sample.phase_code
    reversed_code = np.where(
        code > 0, (PHASE_LEVELS + 1 - code.astype(np.int16)) % PHASE_LEVELS + 1, 0
    )
    return replace(
        sample,
        phase_code=reversed_code.astype(np.uint8),
        events=tuple(replace(e, los_sense=_OPPOSITE_SENSE[e.los_sense]) for e in sample.events),
        volcano_phase=-1 if sample.events else sample.volcano_phase,
    )


def shift_phase(sample: Sample, steps: int) -> Sample:
    """Add a constant to the phase: `steps` of 2 pi / 255."""
    code = sample.phase_code
    shifted = np.where(code > 0, (code.astype(np.int16) - 1 + steps) % PHASE_LEVELS + 1, 0)
    return replace(sample, phase_code=shifted.astype(np.uint8))


def pixels(sample: Sample) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Model input of a sample.

    Args:
        sample: Any sample.

    Returns:
        (3, H, W) float32: Re and Im of the unit phasor and coherence, all 0 without data; and
        (H, W) bool: where there is data.
    """
    return _stacked(sample.phase_code, sample.coherence)


def whole_image(row: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Model input of a whole dataset row, nothing varied: (3, H, W) float32 and (H, W) bool."""
    return decoded_pixels(*_decode(row, f"interferogram {row['unique_id']}"))


def image_pixels(
    interferogram: Interferogram,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Model input of a decoded interferogram: (3, H, W) float32 and (H, W) bool."""
    code, measured = interferogram.phase_code, interferogram.coherence
    return _stacked(code, interferogram.estimated_coherence if measured is None else measured)


def decoded_pixels(
    wrapped_phase: NDArray[np.float32],
    valid: NDArray[np.bool_],
    coherence: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Model input of decoded arrays, as that of an `Interferogram` of them.

    Args:
        wrapped_phase: (H, W) float32 [rad] in (-pi, pi].
        valid: (H, W) bool, False where there is no data.
        coherence: (H, W) float32 in [0, 1]; estimated if None.

    Returns:
        (3, H, W) float32 and (H, W) bool, as of `pixels`.
    """
    code = _phase_code(wrapped_phase, valid)
    level = _estimate(wrapped_phase, valid) if coherence is None else _to_byte(coherence)
    return _stacked(code, level)


def _stacked(code: Bytes, coherence: Bytes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    valid = code > 0
    return np.stack([_COS[code], _SIN[code], _BYTE[coherence] * valid]), valid


def _decode(
    row: Mapping[str, Any], where: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32] | None]:
    """Wrapped phase, validity and measured coherence of a row."""
    decoded = phase.decode_image(phase.open_png(_encoded(row["image"]), where), where=where)
    coherence = None
    if row.get("coherence") is not None:
        shape = decoded.wrapped_phase.shape
        coherence = phase.read_coherence(_encoded(row["coherence"]), shape, f"{where}: coherence")
    return decoded.wrapped_phase, decoded.valid, coherence


def _phase_code(wrapped_phase: NDArray[np.float32], valid: NDArray[np.bool_]) -> Bytes:
    step = np.rint(wrapped_phase * (PHASE_LEVELS / (2 * np.pi))).astype(np.int16) % PHASE_LEVELS
    return np.where(valid, step + 1, 0).astype(np.uint8)


def _estimate(wrapped_phase: NDArray[np.float32], valid: NDArray[np.bool_]) -> Bytes:
    return _to_byte(phase.estimate_coherence(phase.phasor(wrapped_phase, valid), valid))


def _flag(value: Any) -> bool:
    return bool(value) and bool(value != "none")


def _encoded(column: Any) -> bytes:
    data = column["bytes"] if isinstance(column, Mapping) else column
    return bytes(data)


def _to_byte(values: NDArray[np.float32]) -> Bytes:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
