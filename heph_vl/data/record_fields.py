"""Checks of single fields of a Hephaestus record, and the named rules that read its quirks."""

import functools
import math
from collections import Counter
from collections.abc import Mapping
from datetime import date
from typing import Any

from heph_vl.errors import HephError

ACTIVITY_TYPES = ("mogi", "dyke", "sill", "spheroid", "earthquake", "unidentified")
"""Kinds of deformation; the class id in a mask is the position here plus 1 (0 is background)."""

INTENSITIES = ("low", "medium", "high")
"""Fringes seen: 1, 2-3, more than 3 (Bountos et al., 2022, section 2.2)."""

LOS_SENSES = ("toward", "away", "unknown")
VOLCANO_PHASES = ("rest", "unrest", "rebound", "none")
PROCESSING_CODES = {0: "none", 2: "debursting", 3: "swath_merging"}

Point = tuple[float, float]
"""x (column), y (row) in pixels of the full image, origin at the top left."""

CONVENTIONS = {
    "processing_error_2_is_debursting": "the paper codes it 1; the captions show what 2 means",
    "processing_error_3_is_swath_merging": "the paper codes it 2; the captions show what 3 means",
    "intensity_none_string": "an earthquake has no intensity: the files write the string None",
}
"""Codes that the files use throughout; records are written with them again."""

RULES = CONVENTIONS | {
    "glacier_2_is_1": "glacier_fringes is a flag: 2 is read as 1",
    "caption_whitespace": "runs of white space become one blank, none at the ends",
    "intensity_string": "intensity_level as a string (the paper's Listing 1) is a list of one",
    "intensity_none_without_activity": "intensity_level None beside no activity is an empty list",
    "polygon_nested": "a polygon [[x, y], ...] is read as [x, y, ...]",
    "polygon_wrapped": "a polygon [[x, y, ...]] is read as [x, y, ...]",
    "mask_one_flat_polygon": "segmentation_mask [x, y, ...] is read as a list of one polygon",
    "fewer_polygons_than_activities": "a polygon goes to the activity that the evidence names",
    "fewer_intensities_than_activities": "an intensity goes to the activity the caption names",
    "is_crowd_disagrees": "is_crowd is kept although the number of polygons contradicts it",
    "macos_resource_fork_ignored": "side files of macOS in an archive are no annotations",
    "other_file_ignored": "files that are not JSON are no annotations",
}
"""What each rule does; the files' own conventions first."""

FIELDS = (
    *("uniqueID", "frameID", "primary_date", "secondary_date", "corrupted", "processing_error"),
    *("glacier_fringes", "orbital_fringes", "atmospheric_fringes", "low_coherence", "no_info"),
    *("image_artifacts", "label", "activity_type", "intensity_level", "phase", "confidence"),
    *("segmentation_mask", "is_crowd", "caption"),
)
"""The 20 fields in the order of the files."""

_FIELD_SET = frozenset(FIELDS)
_ACTIVITY = {name.capitalize(): name for name in ACTIVITY_TYPES}
_INTENSITY = {name.capitalize(): name for name in (*INTENSITIES, "none")}
_PHASE = {name.capitalize(): name for name in VOLCANO_PHASES}
# The widest LiCSAR images at full resolution have a few thousand pixels.
_MAX_COORDINATE = 100_000
_MAX_CAPTION = 10_000
_MAX_EVENTS = 64


def show(value: object) -> str:
    """The value as it stands in a message: escaped, at most 80 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; an int of more than 4,300 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


class FieldReader:
    """Typed access to one record; counts the rules it applies in `rules`.

    Args:
        record: The JSON object.
        source: File or member, named in errors.
    """

    def __init__(self, record: Mapping[str, Any], source: str) -> None:
        self.record = record
        self.source = source
        self.rules: Counter[str] = Counter()

    def wrong(self, field: str, expected: str) -> HephError:
        """An error that names the source, the field, its value and what would be right."""
        value = show(self.record.get(field))
        return HephError(
            f"{self.source}: {field}", f"{value} is not allowed", f"expected {expected}"
        )

    def check_fields(self) -> None:
        """Raise unless the record has the 20 fields, and at most `los_sense` beside them.

        Raises:
            HephError: A field is missing or unknown.
        """
        names = self.record.keys()
        if missing := [name for name in FIELDS if name not in names]:
            raise HephError(self.source, f"no field {', '.join(missing)}", "all 20 are needed")
        if len(names) > len(FIELDS):
            for name in names - _FIELD_SET - {"los_sense"}:
                where = f"{self.source}: {show(name)}"
                raise HephError(where, "unknown field", f"expected {', '.join(FIELDS)}")

    def integer(self, field: str, largest: int) -> int:
        """The integer in [0, largest]; true and 1.0 are none."""
        value = self.record[field]
        if type(value) is not int or not 0 <= value <= largest:
            raise self.wrong(field, f"an integer from 0 to {largest}")
        return value

    def flag(self, field: str) -> bool:
        """0 or 1 as a bool."""
        value = self.record[field]
        if type(value) is not int or value not in (0, 1):
            raise self.wrong(field, "0 or 1")
        return value == 1

    def glacier_fringes(self) -> bool:
        """A flag, where 2 is read as 1."""
        code = self.integer("glacier_fringes", 2)
        if code == 2:
            self.rules["glacier_2_is_1"] += 1
        return code > 0

    def processing_error(self) -> str:
        """`none`, `debursting` or `swath_merging`."""
        code = self.integer("processing_error", 3)
        if code not in PROCESSING_CODES:
            raise self.wrong("processing_error", "0 (none), 2 (debursting) or 3 (swath merging)")
        name = PROCESSING_CODES[code]
        if code:
            self.rules[f"processing_error_{code}_is_{name}"] += 1
        return name

    def confidence(self) -> float:
        """A number in [0, 1]."""
        value = self.record["confidence"]
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise self.wrong("confidence", "a number from 0 to 1")
        return float(value)

    def date(self, field: str) -> date:
        """The calendar day that a YYYYMMDD string names."""
        value = self.record[field]
        day = _parse_date(value) if type(value) is str else None
        if day is None:
            raise self.wrong(field, "a date as 8 digits, YYYYMMDD")
        return day

    def phase(self) -> str:
        """One of VOLCANO_PHASES."""
        value = self.record["phase"]
        if type(value) is not str or value not in _PHASE:
            raise self.wrong("phase", f"one of {', '.join(_PHASE)}")
        return _PHASE[value]

    def caption(self) -> str:
        """One line of printable text, white space normalised."""
        value = self.record["caption"]
        if type(value) is not str:
            raise self.wrong("caption", "a string")
        text = " ".join(value.split())
        # Not printable: control characters and halves of surrogate pairs, which no file can hold.
        if not 0 < len(text) <= _MAX_CAPTION or not text.isprintable():
            raise self.wrong("caption", f"1 to {_MAX_CAPTION:,} printable characters")
        if text != value:
            self.rules["caption_whitespace"] += 1
        return text

    def label(self) -> tuple[str, ...]:
        """The record's own words, which must say what its activities and phase say."""
        value = self.record["label"]
        kinds = set(self.record["activity_type"])
        label = ["Deformation"] * bool(kinds - {"Earthquake"})
        label += ["Earthquake"] * ("Earthquake" in kinds)
        label = label or ["Non_Deformation"]
        if value != label:
            raise self.wrong("label", f"{label} beside these activity types")
        phases = {"Non_Deformation": ("Rest",), "Earthquake": ("None",)}
        allowed = phases.get(label[0], ("Unrest", "Rebound"))
        if self.record["phase"] not in allowed:
            raise self.wrong("phase", f"{' or '.join(allowed)} beside the label {label}")
        return tuple(label)

    def activity_types(self) -> tuple[str, ...]:
        """Type of each event."""
        value = self.record["activity_type"]
        if type(value) is not list or len(value) > _MAX_EVENTS:
            raise self.wrong("activity_type", f"a list of at most {_MAX_EVENTS} names")
        if any(type(name) is not str or name not in _ACTIVITY for name in value):
            raise self.wrong("activity_type", f"names among {', '.join(_ACTIVITY)}")
        return tuple(_ACTIVITY[name] for name in value)

    def intensities(self, has_activity: bool) -> list[str | None]:
        """Intensities as given: `none` for "None", None for null (not graded)."""
        value = self.record["intensity_level"]
        if type(value) is str:
            self.rules["intensity_string"] += 1
            value = [value]
        if type(value) is not list:
            raise self.wrong("intensity_level", "a list")
        if value == ["None"] and not has_activity:
            self.rules["intensity_none_without_activity"] += 1
            return []
        for name in value:
            if name is not None and (type(name) is not str or name not in _INTENSITY):
                raise self.wrong("intensity_level", f"names among {', '.join(_INTENSITY)}")
        if "None" in value:
            self.rules["intensity_none_string"] += value.count("None")
        return [None if name is None else _INTENSITY[name] for name in value]

    def polygons(self) -> list[tuple[Point, ...] | None]:
        """Outlines as given; None for null (not drawn)."""
        value = self.record["segmentation_mask"]
        if type(value) is not list:
            raise self.wrong("segmentation_mask", "a list of polygons")
        if value and all(type(item) in (int, float) for item in value):
            self.rules["mask_one_flat_polygon"] += 1
            value = [value]
        return [self._polygon(index, item) for index, item in enumerate(value)]

    def los_senses(self, count: int) -> tuple[str, ...]:
        """Line-of-sight sense of each event; unknown where the record does not say."""
        if "los_sense" not in self.record:
            return ("unknown",) * count
        value = self.record["los_sense"]
        if type(value) is not list or len(value) != count:
            raise self.wrong("los_sense", f"a list of {count}, one for each activity")
        if any(type(sense) is not str or sense not in LOS_SENSES for sense in value):
            raise self.wrong("los_sense", f"names among {', '.join(LOS_SENSES)}")
        return tuple(value)

    def _polygon(self, index: int, value: Any) -> tuple[Point, ...] | None:
        if value is None:
            return None

        def wrong(found: str) -> HephError:
            where = f"{self.source}: segmentation_mask[{index}]"
            return HephError(
                where, found, "expected [x0, y0, x1, y1, ...] in pixels, 3 or more points"
            )

        if type(value) is not list:
            raise wrong(f"{show(value)} is no polygon")
        if len(value) == 1 and type(value[0]) is list:
            self.rules["polygon_wrapped"] += 1
            value = value[0]
        if value and all(type(point) is list and len(point) == 2 for point in value):
            self.rules["polygon_nested"] += 1
            value = [number for point in value for number in point]
        for number in value:
            # A comparison with NaN is false, so NaN is refused here, too.
            if type(number) not in (float, int) or not 0 <= number <= _MAX_COORDINATE:
                raise wrong(f"{show(number)} is no coordinate")
        if len(value) % 2:
            raise wrong(f"{len(value)} numbers, an odd count")
        points = tuple(zip(map(float, value[::2]), map(float, value[1::2]), strict=True))
        if len(points) < 3 or abs(signed_area(points)) < 1e-6:
            raise wrong(f"{len(points)} points that enclose no area")
        return points


def signed_area(points: tuple[Point, ...]) -> float:
    """Area inside the outline in px^2 (shoelace), positive where it runs clockwise on screen."""
    following = points[1:] + points[:1]
    crosses = (x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, following, strict=True))
    return math.fsum(crosses) / 2


@functools.lru_cache(maxsize=8192)
def _parse_date(text: str) -> date | None:
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
