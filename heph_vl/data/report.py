"""What a set of annotations holds, as one JSON value and as tables for the terminal."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from heph_vl.data import splits
from heph_vl.data.annotations import (
    ACTIVITY_TYPES,
    FLAGS,
    INTENSITIES,
    RULES,
    Annotation,
    AnnotationSet,
)
from heph_vl.data.captions import parse
from heph_vl.data.record_fields import PROCESSING_CODES, VOLCANO_PHASES

if TYPE_CHECKING:
    from rich.console import Console

_PERCENTILES = (5, 25, 50, 75, 95)
_TOP_SHARES = (1, 4, 10)
_SHOWN_PROBLEMS = 20

DISAGREEMENTS: dict[str, tuple[str, Callable[[Annotation], bool], str]] = {
    "low_coherence_without_noise": (
        "low coherence, but no word of noise",
        lambda item: item.low_coherence,
        "nois",
    ),
    "turbulence_without_word": (
        "turbulent atmosphere only, but the caption does not say turbulent",
        lambda item: item.atmosphere == 2,
        "turbul",
    ),
    "none_without_no_deformation": (
        "no deformation, but the caption does not say so",
        lambda item: not item.has_deformation,
        "no deformation",
    ),
}
"""Meaning, the records concerned, and what their captions should say."""


def summarise(annotation_set: AnnotationSet) -> dict[str, Any]:
    """Counts of everything the annotations say, with the rules and problems of reading them.

    Codes are those of the Hephaestus files (`processing_error` 2 is debursting, 3 swath merging).
    An *instance* is an event with an intensity or a polygon; `records` of a type counts the
    records that name it.

    Args:
        annotation_set: As read.

    Returns:
        One JSON value; lengths in pixels of the full image, shares in [0, 1].
    """
    items = annotation_set.annotations
    rules = annotation_set.rules
    deforming = [item for item in items if item.has_deformation]
    years = Counter(item.primary_date.year for item in items)
    return {
        "records": len(items),
        "deformation": len(deforming),
        "no_deformation": len(items) - len(deforming),
        "labels": _counts(" + ".join(item.label) for item in items),
        "activity_types": {kind: _activity(deforming, kind) for kind in ACTIVITY_TYPES},
        "phase": _counts(item.volcano_phase for item in items),
        "atmosphere": dict(sorted(_counts(str(item.atmosphere) for item in items).items())),
        "flags": {flag: sum(getattr(item, flag) for item in items) for flag in FLAGS},
        "processing_error": _processing(items),
        "glacier_fringes": _glacier(items, rules["glacier_2_is_1"]),
        "confidence": _counts(str(item.confidence) for item in items),
        "primary_years": {str(year): years[year] for year in sorted(years)},
        "frames": _frames(items),
        "groups": _groups(items),
        "polygons": _polygons(items),
        "captions": _captions(items),
        "caption_disagreements": _disagreements(items),
        "rules": {
            name: {"count": rules[name], "meaning": meaning}
            for name, meaning in RULES.items()
            if rules[name]
        },
        "problems": [str(problem) for problem in annotation_set.problems],
        "split": splits.class_counts(items, splits.assign(items)),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _activity(items: Sequence[Annotation], kind: str) -> dict[str, Any]:
    items = [item for item in items if kind in item.activity_types]
    found = [(event, item) for item in items for event in item.instances if event.type == kind]
    levels = Counter(event.intensity or "none" for event, _ in found)
    phases = Counter(item.volcano_phase for _, item in found)
    return {
        "instances": len(found),
        "records": len(items),
        "named": sum(item.activity_types.count(kind) for item in items),
        "intensity": {level: levels[level] for level in (*INTENSITIES, "none")},
        "phase": {phase: phases[phase] for phase in VOLCANO_PHASES},
    }


def _processing(items: Sequence[Annotation]) -> dict[str, int]:
    counts = Counter(item.processing_error for item in items)
    return {str(code): counts[name] for code, name in PROCESSING_CODES.items()}


def _glacier(items: Sequence[Annotation], written_2: int) -> dict[str, int]:
    flagged = sum(item.glacier_fringes for item in items)
    return {"0": len(items) - flagged, "1": flagged - written_2, "2": written_2}


def _frames(items: Sequence[Annotation]) -> dict[str, dict[str, Any]]:
    records = Counter(item.frame_id for item in items)
    deformation = Counter(item.frame_id for item in items if item.has_deformation)
    return {
        frame: {
            "records": records[frame],
            "deformation": deformation[frame],
            "group": splits.volcano_group(frame),
            "volcanoes": list(splits.VOLCANOES.get(frame, ())),
        }
        for frame in sorted(records)
    }


def _groups(items: Sequence[Annotation]) -> dict[str, dict[str, int]]:
    records = Counter(splits.volcano_group(item.frame_id) for item in items)
    deformation = Counter(
        splits.volcano_group(item.frame_id) for item in items if item.has_deformation
    )
    return {
        group: {"records": records[group], "deformation": deformation[group]}
        for group in sorted(records)
    }


def _polygons(items: Sequence[Annotation]) -> dict[str, Any]:
    outlines = [[e.polygon for e in item.events if e.polygon is not None] for item in items]
    per_record = Counter(len(found) for found in outlines if found)
    polygons = [np.array(polygon) for found in outlines for polygon in found]
    if not polygons:
        return {"count": 0, "per_record": {}}
    low = np.array([polygon.min(axis=0) for polygon in polygons])
    high = np.array([polygon.max(axis=0) for polygon in polygons])
    box = high - low  # (n, 2): width, height
    # An outline that was copied keeps its shape wherever it is put.
    shapes = Counter(np.round(p - p[0], 1).tobytes() for p in polygons)
    sides = np.percentile(box.max(axis=1), _PERCENTILES).round(1).tolist()
    return {
        "count": len(polygons),
        "per_record": {str(count): per_record[count] for count in sorted(per_record)},
        "median_box": np.median(box, axis=0).round(1).tolist(),
        "largest_box": box.max(axis=0).round(1).tolist(),
        "largest_side_percentiles": dict(zip(map(str, _PERCENTILES), sides, strict=True)),
        "x_range": [float(low[:, 0].min()), float(high[:, 0].max())],
        "y_range": [float(low[:, 1].min()), float(high[:, 1].max())],
        "most_reused_outline": shapes.most_common(1)[0][1],
    }


def _captions(items: Sequence[Annotation]) -> dict[str, Any]:
    captions = Counter(item.caption for item in items)
    positive = Counter(item.caption for item in items if item.has_deformation)
    negative = Counter(item.caption for item in items if not item.has_deformation)
    words = sorted(len(item.caption.split()) for item in items)
    common = [count for _, count in captions.most_common(max(_TOP_SHARES))]
    unexplained = {text: parse(text).unexplained for text in captions}
    left = Counter(word for text, found in unexplained.items() for word in found)
    return {
        "distinct": len(captions),
        "distinct_deformation": len(positive),
        "distinct_no_deformation": len(negative),
        "used_once_deformation": sum(count == 1 for count in positive.values()),
        "top_shares": {
            str(top): round(sum(common[:top]) / max(len(items), 1), 4) for top in _TOP_SHARES
        },
        "words": {"min": words[0], "median": float(np.median(words)), "max": words[-1]}
        if words
        else {},
        "word_forms": len(
            {w for text in captions for w in re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())}
        ),
        "records_with_unexplained_words": sum(
            captions[text] for text, found in unexplained.items() if found
        ),
        "unexplained_words": dict(left.most_common(20)),
    }


def _disagreements(items: Sequence[Annotation]) -> dict[str, int]:
    return {
        name: sum(concerns(item) and word not in item.caption.lower() for item in items)
        for name, (_, concerns, word) in DISAGREEMENTS.items()
    }


def render(summary: Mapping[str, Any], console: "Console") -> None:
    """Print the summary as tables.

    Args:
        summary: From `summarise`.
        console: Where to print.
    """
    _table(console, "Records", ("", "records"), _overview(summary))
    kinds = ("type", "instances", "records", *INTENSITIES, "none", *VOLCANO_PHASES)
    rows = [
        (kind, row["instances"], row["records"], *row["intensity"].values(), *row["phase"].values())
        for kind, row in summary["activity_types"].items()
    ]
    _table(console, "Deformation: instances by intensity, then by volcano phase", kinds, rows)
    _table(console, "Primary years", ("year", "records"), summary["primary_years"].items())
    frames = [
        (frame, row["records"], row["deformation"], row["group"], _some(row["volcanoes"]))
        for frame, row in summary["frames"].items()
    ]
    head = ("frame", "records", "deformation", "group", "volcanoes")
    _table(console, f"{len(frames)} frames in {len(summary['groups'])} groups", head, frames)
    _table(console, "Polygons, pixels", ("", ""), _flatten(summary["polygons"]))
    captions = {**summary["captions"], "disagreements": summary["caption_disagreements"]}
    _table(console, "Captions", ("", ""), _flatten(captions))
    _table(console, "Split `grouped`", *_split_rows(summary["split"]))
    rules = [(name, rule["count"], rule["meaning"]) for name, rule in summary["rules"].items()]
    _table(console, "Rules applied", ("rule", "count", "meaning"), rules)
    problems = summary["problems"]
    for problem in problems[:_SHOWN_PROBLEMS]:
        console.print(problem, markup=False, highlight=False, style="red")
    more = f", {_SHOWN_PROBLEMS} of them above" if len(problems) > _SHOWN_PROBLEMS else ""
    console.print(
        f"{len(problems)} problem{'' if len(problems) == 1 else 's'}{more}", highlight=False
    )


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _overview(summary: Mapping[str, Any]) -> list[tuple[str, int]]:
    rows = [(name, summary[name]) for name in ("records", "deformation", "no_deformation")]
    rows += [(f"label {name}", count) for name, count in summary["labels"].items()]
    for name in ("phase", "atmosphere", "processing_error", "glacier_fringes", "confidence"):
        rows += [(f"{name} {value}", count) for value, count in summary[name].items()]
    return rows + [(flag, n) for flag, n in summary["flags"].items() if flag not in summary]


def _split_rows(split: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    names = ("records", "deformation", "groups", "groups_with_deformation")
    rows = [
        (part, *(row[n] for n in names), *(t["records"] for t in row["activity_types"].values()))
        for part, row in split.items()
    ]
    return ("split", *(name.replace("_", " ") for name in names), *ACTIVITY_TYPES), rows


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{name} ")
        elif isinstance(value, list):
            rows.append((name, (" to " if "range" in key else " x ").join(f"{v:g}" for v in value)))
        else:
            rows.append((name, f"{value:g}" if isinstance(value, float) else f"{value:,}"))
    return rows


def _table(
    console: "Console", title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for position, name in enumerate(head):
        # Names and numbers stay whole; free text stands in the last column.
        table.add_column(name, overflow="fold", no_wrap=position < len(head) - 1)
        rows = list(rows)
        if rows and isinstance(rows[0][position], int):
            table.columns[position].justify = "right"
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
        table.add_row(*map(Text, cells))  # Text: names from files are not markup
    console.print(table)
