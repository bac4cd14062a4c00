"""Detections as draft annotations, and an analyst's edits of them, in Hephaestus' own JSON.

    detect --records DRAFTS --map found.geojson     what the heads saw, a record for each pair
    (the outlines are edited in a GIS, the records in any editor)
    correct DRAFTS --map edited.geojson ...         records again, checked as all others are

In the edited map a feature is an outline: `product` (and `frame_id`, where several frames have a
pair of these dates) names its pair, `type` and `intensity` say what it is. What was removed is
gone, what was added is there; a pair without features has none. Outlines of records are in pixels
of the pair's preview: 1/300 degree, for StripMap frames 1/1080.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from PIL import Image

from heph_vl.data import captions
from heph_vl.data.annotations import ACTIVITY_TYPES, Annotation, Event, read_annotations
from heph_vl.data.archive import Archive, Pair
from heph_vl.data.captions.facts import CaptionFacts, Pattern
from heph_vl.data.captions.from_labels import cell_of, facts_from_labels
from heph_vl.data.examples import ATMOSPHERE
from heph_vl.data.geotiff import Georeference
from heph_vl.data.native import STRIPMAP_SPACING_DEG
from heph_vl.data.phase import NATIVE_SPACING_DEG
from heph_vl.data.picture import placed, read_picture
from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.errors import HephError
from heph_vl.files import read_object, write_text, writing

DRAFT_CONFIDENCE = 0.5  # of a machine, the least that an expert of Hephaestus gave
_FEATURE_FIX = "give each outline `product`, `type` and, but for earthquakes, `intensity`"
_MAX_FEATURES = 100_000
_UNTOUCHED_PX = 0.05  # farthest that an outline moves by being rounded on its way

Size = tuple[int, int]


@dataclass
class Corrected:
    """What came of an analyst's edits.

    Attributes:
        records: The corrected annotations, by id.
        changed: Ids of those that differ from their drafts.
        problems: Features and records left out, with the reason.
    """

    records: list[Annotation] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    problems: list[HephError] = field(default_factory=list)


def draft_record(entry: Mapping[str, Any]) -> Annotation:
    """What the heads say of a pair as a record.

    Args:
        entry: Of `detect.detect`, of a pair in a frame's folder.

    Returns:
        The record. Its id is made of frame and dates; deformation without an outline is one event
        without a polygon; the volcano's phase, which no picture tells, is `unrest` where anything
        but earthquakes is.

    Raises:
        HephError: The entry has no frame or no dates.
    """
    frame_id = entry["frame_id"]
    if frame_id is None:
        fix = "records need a folder named after the frame"
        raise HephError(entry["image"], "in no LiCSAR frame's folder", fix)
    if entry["primary_date"] is None:
        raise HephError(entry["image"], "no pair of dates", "records need both dates in the name")
    dates = [date.fromisoformat(entry[name]) for name in ("primary_date", "secondary_date")]
    quality = {flag: entry["quality"][flag] >= 0.5 for flag in QUALITY_FLAGS}
    levels, air = entry["intensity"], entry["atmosphere"]
    level = max(levels, key=levels.__getitem__)
    right, down = (scale / _preview_px(frame_id) for scale in entry["scale"])
    events = tuple(
        Event(
            found["type"],
            None if found["type"] == "earthquake" else level,
            tuple((float(x / right), float(y / down)) for x, y in found["polygon"]),
            (found["motion"] or {}).get("los_sense", "unknown"),
        )
        for found in (entry["polygons"] if entry["deformation"]["present"] else ())
    )
    if entry["deformation"]["present"] and not events:
        kinds = entry["activity_types"]
        kind = max(kinds, key=kinds.__getitem__)
        events = (Event(kind, None if kind == "earthquake" else level, None),)
    record = Annotation(
        unique_id=record_id(frame_id, dates[0], dates[1]),
        frame_id=frame_id,
        primary_date=dates[0],
        secondary_date=dates[1],
        # Which of the two kinds of error it is no head tells: merging is the commoner one.
        processing_error="swath_merging" if quality.pop("processing_error") else "none",
        atmosphere=ATMOSPHERE.index(max(air, key=air.__getitem__)),
        label=(),
        events=events,
        volcano_phase="rest",
        confidence=DRAFT_CONFIDENCE,
        is_crowd=False,
        caption="",
        **quality,
    )
    width, height = (round(side * _preview_px(frame_id)) for side in entry["size"])
    return in_step(record, (width, height))


def in_step(record: Annotation, size: Size) -> Annotation:
    """The record with label, phase, crowd flag and caption that fit its events and flags.

    Args:
        record: Any record.
        size: Width and height of its image [px].

    Returns:
        The record; a phase that fits is kept.
    """
    volcanic = [event for event in record.events if event.type != "earthquake"]
    label = ("Deformation",) * bool(volcanic)
    label += ("Earthquake",) * (len(volcanic) < len(record.events))
    phase = record.volcano_phase
    if not volcanic:
        phase = "none" if record.events else "rest"
    elif phase not in ("unrest", "rebound"):
        phase = "unrest"
    return replace(
        record,
        label=label or ("Non_Deformation",),
        volcano_phase=phase,
        is_crowd=sum(event.polygon is not None for event in record.events) > 1,
        caption=captions.compose(_facts_of(record, size)),
    )


def record_id(frame_id: str, primary_date: date, secondary_date: date) -> int:
    """A number for a pair, the same everywhere: 15 digits of a hash, above all real ones."""
    key = f"{frame_id} {primary_date:%Y%m%d}_{secondary_date:%Y%m%d}"
    digits = int(hashlib.sha256(key.encode()).hexdigest()[:15], 16)
    return 10**14 + digits % (9 * 10**14)


def correct(
    drafts: Path,
    archive: Archive,
    edits: Path | None = None,
    *,
    confidence: float = 0.8,
) -> Corrected:
    """An analyst's records: the drafts, with the outlines of an edited map.

    Args:
        drafts: Records of `detect --records`, edited or not.
        archive: Where the pairs lie; its GeoTIFFs say where outlines are.
        edits: The edited map (GeoJSON); None: the records' own outlines stand.
        confidence: Of the analyst, in [0, 1].

    Returns:
        The records with labels and captions in step, and what was left out.

    Raises:
        HephError: The drafts or the map cannot be read at all.
    """
    found = read_annotations(drafts)
    result = Corrected(problems=list(found.problems))
    pairs = {(p.frame_id, p.primary_date, p.secondary_date): p for p in archive.pairs}
    features = None if edits is None else _features_by_pair(edits, result.problems)
    used: set[int] = set()
    drafted = [(a.frame_id, a.primary_date, a.secondary_date) for a in found.annotations]
    for draft in found.annotations:
        key = (draft.frame_id, draft.primary_date, draft.secondary_date)
        where = f"record {draft.unique_id}"
        try:
            if key not in pairs:
                what = f"no pair {draft.pair_name} of {draft.frame_id} in {archive.root}"
                raise HephError(where, what, "give the archive that was looked at")
            grid = _grid_of(pairs[key])
            before = tuple(_scaled(event, grid.per_px) for event in draft.events)
            record = replace(draft, events=before, confidence=confidence)
            if features is not None:
                mine = list(features.get(key, ()))
                nameless = features.get((None, *key[1:]), [])
                used |= {id(feature) for feature in (*mine, *nameless)}
                if nameless and sum(other[1:] == key[1:] for other in drafted) > 1:
                    what = f"outlines of {draft.pair_name} without frame_id, in several frames"
                    raise HephError(str(edits), what, _FEATURE_FIX)
                events = tuple(_event(f, grid, str(edits)) for f in (*mine, *nameless))
                record = replace(record, events=_as_drafted(record, events))
            record = in_step(record, grid.size)
        except HephError as problem:
            result.problems.append(problem)
            continue
        result.records.append(record)
        if record.events != before or record.caption != draft.caption:
            result.changed.append(draft.unique_id)
    for some in (features or {}).values():
        for feature in some:
            if id(feature) not in used:
                product = feature["properties"]["product"]
                fix = "give the drafts that belong to the map"
                result.problems.append(HephError(str(edits), f"no draft of {product}", fix))
    return result


def write_records(records: Sequence[Annotation], out: Path) -> None:
    """Write records as `<uniqueID>.json`; HephError if the folder cannot be written."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for record in records:
        text = json.dumps(record.to_record(), indent=1)
        write_text(out / f"{record.unique_id}.json", text + "\n")


def _facts_of(record: Annotation, size: Size) -> CaptionFacts:
    """What the record's labels say, with a pattern for each event in the cell of its middle."""
    labels = {
        "deformation": float(record.has_deformation),
        "atmosphere": {ATMOSPHERE[record.atmosphere]: 1.0},
        "quality": {f: float(getattr(record, f) not in (False, "none")) for f in QUALITY_FLAGS},
    }
    facts = facts_from_labels(labels)
    if record.processing_error != "none" and facts.scene != {("corrupted",)}:
        kept = {atom for atom in facts.scene if atom[0] != "processing_error"}
        error = ("processing_error", record.processing_error)
        facts = replace(facts, scene=frozenset({*kept, error}))
    if not facts.patterns:
        return facts
    patterns = tuple(
        Pattern(
            event.type,
            event.intensity,
            frozenset() if event.polygon is None else frozenset({cell_of(event.polygon, size)}),
        )
        for event in record.events[: captions.MAX_PATTERNS]
    )
    return replace(facts, patterns=patterns)


_Pair = tuple[str | None, date, date]


def _features_by_pair(
    edits: Path, problems: list[HephError]
) -> dict[_Pair, list[Mapping[str, Any]]]:
    """Outlines of the map by frame (None where it is not told) and dates."""
    from heph_vl.data.archive import dates_of

    features = read_object(edits, "save the map as GeoJSON").get("features")
    if not isinstance(features, list) or len(features) > _MAX_FEATURES:
        raise HephError(str(edits), "no list of features", "save the map as GeoJSON")
    found: dict[_Pair, list[Mapping[str, Any]]] = {}
    for number, feature in enumerate(features, 1):
        properties = feature.get("properties") if isinstance(feature, dict) else None
        product = properties.get("product") if isinstance(properties, dict) else None
        dates = dates_of(product.split(".")[0]) if isinstance(product, str) else None
        if not isinstance(properties, dict) or dates is None:
            what = f"feature {number}: product {product!r} names no pair"
            problems.append(HephError(str(edits), what, _FEATURE_FIX))
            continue
        frame = properties.get("frame_id")
        found.setdefault((frame if isinstance(frame, str) else None, *dates), []).append(feature)
    return found


@dataclass(frozen=True)
class _Grid:
    """Pixels in which a pair's record is: of its preview, or of what that would be.

    Attributes:
        size: Width and height.
        place: Where it lies, None if its files do not say.
        per_px: Pixels of it a pixel of drafts.
    """

    size: Size
    place: Georeference | None
    per_px: float


def _grid_of(pair: Pair) -> _Grid:
    picture = read_picture(placed(pair.image))
    finer = _preview_px(pair.frame_id)
    rows, columns = picture.valid.shape
    width, height = round(columns * finer), round(rows * finer)
    if pair.image.suffix == ".png":
        with Image.open(pair.image) as image:  # its header alone is read
            width, height = image.size
    place = None if picture.place is None else picture.place.coarser(columns / width)
    per_px = width / (columns * finer)
    return _Grid((width, height), place, 1.0 if abs(per_px - 1) < 0.02 else per_px)


def _preview_px(frame_id: str) -> float:
    """Pixels of a frame's previews a pixel of 1/300 degree, along each axis."""
    return NATIVE_SPACING_DEG / STRIPMAP_SPACING_DEG if "_SM_" in frame_id else 1.0


def _scaled(event: Event, factor: float) -> Event:
    if event.polygon is None or factor == 1:
        return event
    return replace(event, polygon=tuple((x * factor, y * factor) for x, y in event.polygon))


def _event(feature: Mapping[str, Any], grid: _Grid, where: str) -> Event:
    """An outline of the map as an event, in pixels of its pair, cut to the image."""
    import shapely

    place, size = grid.place, grid.size
    properties = feature["properties"]
    name = f"{where}: outline of {properties['product']}, whose pair is left out"
    if place is None:
        fix = "outlines of previews are edited in the records"
        raise HephError(name, "its pair does not say where it lies", fix)
    kind, level = properties.get("type"), properties.get("intensity")
    if kind not in ACTIVITY_TYPES:
        raise HephError(name, f"type {kind!r}", f"one of {', '.join(ACTIVITY_TYPES)}")
    if kind == "earthquake":
        level = None
    elif level not in captions.INTENSITIES:
        raise HephError(name, f"intensity {level!r}", f"one of {', '.join(captions.INTENSITIES)}")
    geometry = feature.get("geometry")
    if not isinstance(geometry, dict):
        raise HephError(name, "no geometry", "draw it again")
    rings: Any = geometry.get("coordinates")
    if geometry.get("type") == "MultiPolygon" and isinstance(rings, list) and len(rings) == 1:
        rings = rings[0]
    elif geometry.get("type") != "Polygon":
        raise HephError(name, f"a {geometry.get('type')}", "draw each outline as one polygon")
    try:
        points = [(float(point[0]), float(point[1])) for point in rings[0]]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise HephError(name, "its coordinates are no numbers", "draw it again") from error
    if len(points) > 1 and points[0] == points[-1]:
        points.pop()
    if len(points) < 3 or not all(math.isfinite(v) for point in points for v in point):
        raise HephError(name, f"{len(points)} corners", "draw it with three or more")
    if len(rings) > 1:
        raise HephError(name, "an outline with a hole", "draw it without: records know none")
    pixels = [place.pixel(*point) for point in points]
    if not all(0 <= x <= size[0] and 0 <= y <= size[1] for x, y in pixels):
        drawn = shapely.make_valid(shapely.Polygon(pixels))
        inside = drawn.intersection(shapely.box(0, 0, *size))
        if inside.geom_type != "Polygon" or inside.area == 0:
            what = "lies outside its pair" if inside.area == 0 else "is in several parts there"
            raise HephError(name, what, "move it to the pair that shows it, as one polygon")
        pixels = shapely.get_coordinates(inside.exterior)[:-1].tolist()
    return Event(kind, level, tuple((round(x, 2), round(y, 2)) for x, y in pixels))


def _as_drafted(draft: Annotation, events: Sequence[Event]) -> tuple[Event, ...]:
    """The events with the sense of the outline that was there; one left as it was stays exact."""
    import shapely

    def shape(event: Event) -> Any:
        return shapely.make_valid(shapely.Polygon(event.polygon))

    old = [(event, shape(event)) for event in draft.events if event.polygon is not None]

    def kept(event: Event) -> Event:
        mine = shape(event)
        shared = [(mine.intersection(its).area, was, its) for was, its in old]
        area, was, its = max(shared, key=lambda item: item[0], default=(0.0, event, mine))
        if area <= 0:
            return event
        untouched = mine.boundary.hausdorff_distance(its.boundary) <= _UNTOUCHED_PX
        polygon = was.polygon if untouched else event.polygon
        return replace(event, polygon=polygon, los_sense=was.los_sense)

    return tuple(map(kept, events))
