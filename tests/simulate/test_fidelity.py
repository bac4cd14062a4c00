"""Counting how far a twin says what its records say."""

import json
from dataclasses import replace
from datetime import date

import numpy as np

from heph_vl.simulate.fidelity import fidelity
from tests.simulate.test_plan import PLAIN


def truth(root, unique_id, phase, asked=True, seen=True, events=()):
    folder = root / "truth"
    folder.mkdir(exist_ok=True)
    content = {
        "compared": {
            "effects": {"noise": {"asked": asked, "seen": seen}},
            "events": list(events),
        },
        "coarse_phase": (phase + np.zeros((16, 16))).tolist(),
    }
    (folder / f"{unique_id}.json").write_text(json.dumps(content))


def event(iou, intensity="low", rendered="low", given=True):
    return {
        "type": "sill", "given": given, "seen": rendered is not None, "iou": iou,
        "intensity": intensity, "rendered_intensity": rendered,
    }  # fmt: skip


def pairs():
    days = [date(2018, 1, 1), date(2018, 1, 13), date(2018, 1, 25), date(2018, 2, 6)]
    spans = [(0, 1), (1, 2), (0, 2), (2, 3), (1, 3)]
    return [
        replace(PLAIN, unique_id=i, primary_date=days[a], secondary_date=days[b])
        for i, (a, b) in enumerate(spans)
    ]


def test_counts(tmp_path):
    ramp = np.linspace(0, 3, 16)
    records = pairs()
    truth(tmp_path, 0, ramp, events=[event(0.9), event(0.5, "high", "medium")])
    truth(tmp_path, 1, 2 * ramp, seen=False, events=[event(0.7, "low", None)])
    truth(tmp_path, 2, 3 * ramp + 5.0, asked=False)  # closes, a constant aside
    truth(tmp_path, 3, -ramp, asked=False, seen=False, events=[event(0.0, given=False)])
    truth(tmp_path, 4, 2 * ramp)  # should be 1 x ramp: 0.9 rad off
    found = fidelity(tmp_path, [*records, replace(PLAIN, unique_id=99)])
    assert found["effects"]["noise"] == {
        "asked_and_seen": 2, "asked_only": 1, "seen_only": 1, "neither": 1,
    }  # fmt: skip
    assert found["events"]["sill"] == {
        "given": 3, "seen": 2, "same_intensity": 1, "graded": 2, "median_iou": 0.7,
    }  # fmt: skip
    assert (found["triangles"], found["open"]) == (2, 1)


def test_corrupted_pairs_make_no_triangle(tmp_path):
    records = pairs()[:3]
    for record in records:
        truth(tmp_path, record.unique_id, np.zeros(16))
    assert fidelity(tmp_path, records)["triangles"] == 1
    records[1] = replace(records[1], corrupted=True)
    assert fidelity(tmp_path, records)["triangles"] == 0
