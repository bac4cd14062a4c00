"""How far a twin says what its records say, counted over the whole archive."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.annotations import Annotation
from heph_vl.simulate.store import truth_file

OPEN_RAD = 0.5  # root mean square of a triangle's residual from which it does not close


def fidelity(out: Path, records: Sequence[Annotation]) -> dict[str, Any]:
    """Counts over the records whose truth is stored.

    Args:
        out: The archive.
        records: Its records.

    Returns:
        `effects`: for noise and atmosphere, counts of asked and seen, asked only, seen only,
        neither. `events`: by type, how many were given, are seen, keep their intensity, and the
        median overlap (IoU) of given and rendered outline. `triangles` of dates of which all
        three pairs are there, and how many are `open`: their noise-free phase, a constant aside,
        does not sum to zero within `OPEN_RAD`.
    """
    effects: dict[str, Counter[str]] = defaultdict(Counter)
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    phases: dict[str, dict[tuple[Any, Any], NDArray[np.float64]]] = defaultdict(dict)
    for record in records:
        try:
            truth = json.loads(truth_file(out, record.unique_id).read_text())
        except FileNotFoundError:
            continue  # another rank has not written it yet
        for name, found in truth["compared"]["effects"].items():
            effects[name][_cell(found["asked"], found["seen"])] += 1
        for event in truth["compared"]["events"]:
            events[event["type"]].append(event)
        dates = record.primary_date, record.secondary_date
        if not record.corrupted:
            phases[record.frame_id][dates] = np.array(truth["coarse_phase"])
    triangles, not_closed = _triangles(phases)
    return {
        "effects": {name: dict(found) for name, found in sorted(effects.items())},
        "events": {name: _summary(found) for name, found in sorted(events.items())},
        "triangles": triangles,
        "open": not_closed,
    }


def _cell(asked: bool, seen: bool) -> str:
    if asked and seen:
        return "asked_and_seen"
    return "asked_only" if asked else "seen_only" if seen else "neither"


def _summary(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    given = [event for event in events if event["given"]]
    graded = [e for e in given if e["seen"] and e["intensity"] is not None]
    return {
        "given": len(given),
        "seen": sum(event["seen"] for event in given),
        "same_intensity": sum(e["intensity"] == e["rendered_intensity"] for e in graded),
        "graded": len(graded),
        "median_iou": round(float(np.median([event["iou"] for event in given])), 3) if given else 0,
    }


def _triangles(
    phases: dict[str, dict[tuple[Any, Any], NDArray[np.float64]]],
) -> tuple[int, int]:
    count = not_closed = 0
    for pairs in phases.values():
        following: dict[Any, list[Any]] = defaultdict(list)
        for first, second in pairs:
            following[first].append(second)
        for a, b in pairs:
            for c in following[b]:
                if (a, c) in pairs:
                    count += 1
                    residual = pairs[a, b] + pairs[b, c] - pairs[a, c]
                    not_closed += float(residual.std()) > OPEN_RAD
    return count, not_closed
