"""Hephaestus annotations as typed records; every quirk of the released files is a named rule.

A *rule* is applied and counted; whatever no rule covers is a HephError that names file, field and
value. Rules come in two kinds. CONVENTIONS read a code that the files use consistently and that
`to_record` writes again; all others repair or remark on something in one record.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from heph_vl.data.documents import as_record, read_documents, read_records
from heph_vl.data.record_fields import (
    ACTIVITY_TYPES,
    CONVENTIONS,
    FIELDS,
    INTENSITIES,
    PROCESSING_CODES,
    RULES,
    FieldReader,
    Point,
    show,
)
from heph_vl.errors import HephError

__all__ = [
    "ACTIVITY_TYPES",
    "CONVENTIONS",
    "FLAGS",
    "INTENSITIES",
    "RULES",
    "Annotation",
    "AnnotationSet",
    "Event",
    "Point",
    "check_frame_id",
    "parse_annotation",
    "read_annotations",
]

T = TypeVar("T")

FLAGS = (
    *("corrupted", "glacier_fringes", "orbital_fringes", "low_coherence", "no_info"),
    *("image_artifacts", "is_crowd"),
)
"""The fields that are yes or no."""

_CODES = {name: code for code, name in PROCESSING_CODES.items()}
_FRAME_ID = re.compile(r"[0-9]{3}[AD]_(?:[0-9]{5}_[0-9]{6}|SM_[A-Z0-9]{1,12}_S[0-9])")

# The caption of this record (unique id 6176) names both its dyke and its sill. Of the 36 other
# pairs of May and June 2018 with one dyke and one sill, 35 have the sill where its only polygon is
# (IoU with that polygon up to 0.84) and the dyke west of it: the polygon is the sill's.
_POLYGON_OWNERS = {("087D_07004_060904", "20180517", "20180529"): (1,)}


@dataclass(frozen=True, slots=True)
class Event:
    """One deformation pattern of an interferogram.

    Attributes:
        type: One of ACTIVITY_TYPES.
        intensity: One of INTENSITIES; None for earthquakes and where none was given.
        polygon: Outline in pixels of the full image; None where none was drawn.
        los_sense: Motion of the ground along the line of sight: toward the satellite, away from
            it, or unknown (all real records).
    """

    type: str
    intensity: str | None
    polygon: tuple[Point, ...] | None
    los_sense: str = "unknown"


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the experts say about one interferogram: the 20 fields of Hephaestus, typed.

    Attributes:
        unique_id: Number of the record, also its file name.
        frame_id: LiCSAR frame.
        primary_date: First acquisition.
        secondary_date: Second acquisition, later than the first.
        corrupted: The interferogram is useless.
        processing_error: One of PROCESSING_ERRORS.
        glacier_fringes: Fringes from glacier melt.
        orbital_fringes: A phase ramp from orbit errors.
        atmosphere: 0 none, 1 vertical stratification, 2 turbulent mixing, 3 both.
        low_coherence: Parts are decorrelated.
        no_info: The whole image is decorrelated.
        image_artifacts: A colour-bar legend is drawn into the image.
        label: The record's own words (Non_Deformation, Deformation, Earthquake).
        events: Deformation patterns, in the record's order.
        volcano_phase: One of VOLCANO_PHASES, for the whole record; it is not a sign of motion.
        confidence: Certainty of the deformation labels in [0, 1].
        is_crowd: Two or more fringe patterns, as given.
        caption: One line, white space normalised.
    """

    unique_id: int
    frame_id: str
    primary_date: date
    secondary_date: date
    corrupted: bool
    processing_error: str
    glacier_fringes: bool
    orbital_fringes: bool
    atmosphere: int
    low_coherence: bool
    no_info: bool
    image_artifacts: bool
    label: tuple[str, ...]
    events: tuple[Event, ...]
    volcano_phase: str
    confidence: float
    is_crowd: bool
    caption: str

    @property
    def pass_direction(self) -> str:
        """`ascending` or `descending`, as the frame's name says."""
        return "ascending" if self.frame_id[3] == "A" else "descending"

    @property
    def temporal_baseline_days(self) -> int:
        """Days from the primary to the secondary date, positive."""
        return (self.secondary_date - self.primary_date).days

    @property
    def pair_name(self) -> str:
        """`YYYYMMDD_YYYYMMDD`, the name of the pair's folder and files."""
        return f"{_digits(self.primary_date)}_{_digits(self.secondary_date)}"

    @property
    def has_deformation(self) -> bool:
        """Whether any event, an earthquake included, was labelled."""
        return bool(self.events)

    @property
    def instances(self) -> tuple[Event, ...]:
        """Events with an intensity or a polygon; the Mogi of unique id 850 is only a name."""
        return tuple(e for e in self.events if e.intensity is not None or e.polygon is not None)

    @property
    def activity_types(self) -> tuple[str, ...]:
        """Type of each event, in order."""
        return tuple(event.type for event in self.events)

    @property
    def intensities(self) -> tuple[str | None, ...]:
        """Intensity of each event, in order."""
        return tuple(event.intensity for event in self.events)

    def to_record(self) -> dict[str, Any]:
        """The 20 fields as Hephaestus writes them, ready for JSON.

        An intensity or polygon that an event lacks is written as null, so that the three lists
        stay in step; `los_sense` (a list beside them) is added where any is known.
        """
        record = {
            "uniqueID": self.unique_id,
            "frameID": self.frame_id,
            "primary_date": _digits(self.primary_date),
            "secondary_date": _digits(self.secondary_date),
            "processing_error": _CODES[self.processing_error],
            "atmospheric_fringes": self.atmosphere,
            "label": list(self.label),
            "activity_type": [event.type.capitalize() for event in self.events],
            "intensity_level": [_intensity_code(event) for event in self.events],
            "phase": self.volcano_phase.capitalize(),
            "confidence": self.confidence,
            "segmentation_mask": [_flat(event.polygon) for event in self.events],
            "caption": self.caption,
        } | {flag: int(getattr(self, flag)) for flag in FLAGS}
        record = {name: record[name] for name in FIELDS}
        if any(event.los_sense != "unknown" for event in self.events):
            record["los_sense"] = [event.los_sense for event in self.events]
        return record


@dataclass(frozen=True)
class AnnotationSet:
    """Records in the order of their ids, rules applied with counts, and what was left out."""

    annotations: list[Annotation]
    rules: Counter[str] = field(default_factory=Counter)
    problems: list[HephError] = field(default_factory=list)


def check_frame_id(frame_id: str, where: str) -> str:
    """The frame id itself, once it is known to be a LiCSAR name and safe as a folder name.

    Args:
        frame_id: e.g. `124D_04854_171313`, or StripMap `144A_SM_REUN_S6`.
        where: Named in the error.

    Returns:
        `frame_id`, unchanged.

    Raises:
        HephError: Anything else, such as a path.
    """
    if not isinstance(frame_id, str) or not _FRAME_ID.fullmatch(frame_id):
        raise HephError(
            where, f"{show(frame_id)} is no LiCSAR frame", "expected e.g. 124D_04854_171313"
        )
    return frame_id


def read_annotations(path: str | Path, *, strict: bool = False) -> AnnotationSet:
    """Read and check all annotations of a folder, a zip, a tar.gz or one JSON file.

    Args:
        path: A folder of `<uniqueID>.json` (nested, or holding `annotations/`), a .zip, .tar or
            .tar.gz of them with any path before the file names, or one JSON file with a record
            or with an object that has one record for each id.
        strict: Raise the first problem instead of listing it.

    Returns:
        The accepted records by id, the rules they needed, the problems of those left out.

    Raises:
        HephError: The path cannot be read or holds no annotation at all; with `strict`, the
            first problem.
    """
    path = Path(path)
    found = _Collector(strict)
    for document in read_documents(path, found.rules):
        if isinstance(document, HephError):
            found.reject(document)
            continue
        try:
            for source, stated_id, value in read_records(document):
                found.add(value, source, stated_id)
        except HephError as problem:
            found.reject(problem)
    if not found.annotations and not found.problems:
        raise HephError(str(path), "no annotation in it", "expected files like 850.json")
    ordered = [found.annotations[unique_id] for unique_id in sorted(found.annotations)]
    return AnnotationSet(ordered, found.rules, found.problems)


class _Collector:
    """Accepted records by id, with the rules they needed, and the problems of all others."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.annotations: dict[int, Annotation] = {}
        self.rules: Counter[str] = Counter()
        self.problems: list[HephError] = []
        self._pairs: dict[tuple[str, date, date], int] = {}

    def reject(self, problem: HephError) -> None:
        if self.strict:
            raise problem
        self.problems.append(problem)

    def add(self, value: Any, source: str, stated_id: str) -> None:
        applied: Counter[str] = Counter()
        try:
            annotation = parse_annotation(as_record(value, source), source, applied)
            self._check_new(annotation, source, stated_id)
        except HephError as problem:
            self.reject(problem)
            return
        self.annotations[annotation.unique_id] = annotation
        self._pairs[_pair(annotation)] = annotation.unique_id
        self.rules.update(applied)

    def _check_new(self, annotation: Annotation, source: str, stated_id: str) -> None:
        """Raise unless the id is the one the file states, and id and pair are new."""
        unique_id, where = annotation.unique_id, f"{source}: uniqueID"
        if stated_id.isdecimal() and stated_id.lstrip("0") != str(unique_id).lstrip("0"):
            raise HephError(
                where, f"{unique_id} in a file named {stated_id}", "rename or correct it"
            )
        if unique_id in self.annotations:
            raise HephError(where, f"{unique_id} occurs twice", "keep one of the two")
        if (first := self._pairs.get(_pair(annotation))) is not None:
            name = f"{annotation.frame_id} {annotation.pair_name}"
            what = f"{unique_id} is the same pair as {first} ({name})"
            raise HephError(where, what, "keep one of the two")


def parse_annotation(record: Mapping[str, Any], source: str, rules: Counter[str]) -> Annotation:
    """One checked annotation from a record's JSON object.

    Args:
        record: The 20 fields, and `los_sense` where known.
        source: File or member, named in errors.
        rules: Each rule applied is counted here, only if the record is accepted.

    Returns:
        The typed record.

    Raises:
        HephError: The first field that is missing, unknown, of a wrong type or out of range.
    """
    reader = FieldReader(record, source)
    reader.check_fields()
    frame_id = check_frame_id(record["frameID"], f"{source}: frameID")
    primary_date, secondary_date = reader.date("primary_date"), reader.date("secondary_date")
    if secondary_date <= primary_date:
        what = f"{_digits(secondary_date)} is not after primary_date {_digits(primary_date)}"
        raise HephError(f"{source}: secondary_date", what, "correct the dates or their order")
    caption = reader.caption()
    events = _events(reader, caption)
    annotation = Annotation(
        unique_id=reader.integer("uniqueID", 2**63 - 1),
        frame_id=frame_id,
        primary_date=primary_date,
        secondary_date=secondary_date,
        corrupted=reader.flag("corrupted"),
        processing_error=reader.processing_error(),
        glacier_fringes=reader.glacier_fringes(),
        orbital_fringes=reader.flag("orbital_fringes"),
        atmosphere=reader.integer("atmospheric_fringes", 3),
        low_coherence=reader.flag("low_coherence"),
        no_info=reader.flag("no_info"),
        image_artifacts=reader.flag("image_artifacts"),
        volcano_phase=reader.phase(),
        label=reader.label(),
        events=events,
        confidence=reader.confidence(),
        is_crowd=reader.flag("is_crowd"),
        caption=caption,
    )
    if annotation.is_crowd != (sum(event.polygon is not None for event in events) > 1):
        reader.rules["is_crowd_disagrees"] += 1
    rules.update(reader.rules)
    return annotation


def _events(reader: FieldReader, caption: str) -> tuple[Event, ...]:
    types = reader.activity_types()
    intensities = reader.intensities(bool(types))
    polygons = reader.polygons()
    if len(intensities) != len(types):
        owners = _owners(types, len(intensities), caption)
        intensities = _give(reader, "intensity_level", intensities, owners, len(types))
        reader.rules["fewer_intensities_than_activities"] += 1
    if len(polygons) != len(types):
        pair = tuple(reader.record[name] for name in ("frameID", "primary_date", "secondary_date"))
        owners = _POLYGON_OWNERS.get(pair) or _owners(types, len(polygons), caption)
        polygons = _give(reader, "segmentation_mask", polygons, owners, len(types))
        reader.rules["fewer_polygons_than_activities"] += 1
    if any(
        (kind == "earthquake") != (intensity == "none")
        for kind, intensity in zip(types, intensities, strict=True)
    ):
        raise reader.wrong("intensity_level", "None for an earthquake and for nothing else")
    graded = [None if intensity == "none" else intensity for intensity in intensities]
    return tuple(map(Event, types, graded, polygons, reader.los_senses(len(types))))


def _owners(types: Sequence[str], count: int, caption: str) -> tuple[int, ...]:
    """Positions of the activities that the caption names, if those are `count`; else none.

    Unique id 850 has the activities Sill and Mogi but one polygon, one intensity and a caption
    that tells of one sill: both are the sill's.
    """
    named = tuple(i for i, kind in enumerate(types) if kind in caption.lower())
    return named if len(named) == count else ()


def _give(
    reader: FieldReader, name: str, values: list[T | None], owners: tuple[int, ...], count: int
) -> list[T | None]:
    """The values at the positions of their owners, None elsewhere."""
    if not values or len(values) > count or len(owners) != len(values):
        raise HephError(
            f"{reader.source}: {name}",
            f"{len(values)} for {count} activities {reader.record['activity_type']}",
            "expected one for each, null where there is none",
        )
    owned = dict(zip(owners, values, strict=True))
    return [owned.get(position) for position in range(count)]


def _pair(annotation: Annotation) -> tuple[str, date, date]:
    return annotation.frame_id, annotation.primary_date, annotation.secondary_date


def _digits(day: date) -> str:
    # strftime leaves years before 1000 without leading zeros on some systems.
    return day.isoformat().replace("-", "")


def _intensity_code(event: Event) -> str | None:
    if event.type == "earthquake":
        return "None"
    return event.intensity.capitalize() if event.intensity else None


def _flat(polygon: tuple[Point, ...] | None) -> list[float] | None:
    return None if polygon is None else [number for point in polygon for number in point]
