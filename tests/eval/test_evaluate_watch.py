"""The measure of `watch`: what counts as an onset, as an alert on a source, and as a false one."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from eval.evaluate_watch import alarms, main, on_source, onset, summarise
from heph_vl.alerts import Alert, Sighting
from heph_vl.simulate.frame import draw_frame
from heph_vl.simulate.place import FINE_PER_NATIVE

DAYS = [date(2020, 1, 1) + timedelta(days=12 * i) for i in range(5)]


@pytest.fixture(scope="module")
def frame():
    return draw_frame("124D_05291_081406", 96, 5, 0, kinds=("sill",))


def seen(x: float, y: float, first: int = 0, last: int = 1) -> Sighting:
    ring = ((x - 4, y - 4), (x + 4, y - 4), (x + 4, y + 4), (x - 4, y + 4))
    return Sighting("f", DAYS[first], DAYS[last], "", "sill", 0.9, ring, placed=False)


def test_onset_is_the_first_clear_change(frame):
    source = replace(frame.sources[0], levels=(1.0, 1.2, 0.1, 3.0, 3.0))
    assert onset(source, DAYS) == DAYS[2]
    assert onset(replace(source, levels=(1.0, 1.2, 1.4, 1.5, 1.6)), DAYS) is None


def test_an_alert_is_on_the_source_it_covers(frame):
    source, grid = frame.sources[0], frame.place.grid
    column = source.source.east / grid.dx + (grid.width - 1) / 2
    row = (grid.height - 1) / 2 - source.source.north / grid.dy
    x, y = column / FINE_PER_NATIVE, row / FINE_PER_NATIVE
    # The source's own field is strongest there, so the place is not only our arithmetic.
    peak = divmod(int(source.unit.abs().argmax()), grid.width)
    assert abs(peak[0] - row) < 60
    assert abs(peak[1] - column) < 60
    assert on_source(Alert((seen(x + 13, y),), DAYS[1]), source, frame)
    assert not on_source(Alert((seen(x + 15, y),), DAYS[1]), source, frame)


def test_single_pairs_alarm_at_once_and_once_for_a_place():
    sightings = [seen(20, 20), seen(22, 20, 1, 2), seen(60, 60, 1, 3)]
    raised = alarms(sightings, single=True)
    assert [a.raised for a in raised] == [DAYS[1], DAYS[3]]
    assert alarms(sightings, single=False) == []


def test_the_summary_counts_by_frame_years():
    def row(group, false, delay):
        told = {"kind": "sill", "onset": "2020-01-01", "days_left": 40, "delay": delay}
        result = {"false_alarms": false, "sources": [told]}
        return {"group": group, "years": 0.5, "two pairs": result, "single": result}

    found = summarise([row("etna", 1, 12), row("afar", 0, None), row("afar", 2, 36)], 0)
    assert found["frame_years"] == 1.5
    two = found["two pairs"]
    assert two["false_alarms_per_frame_year"]["value"] == pytest.approx(2.0)
    assert two["told"]["value"] == pytest.approx(2 / 3)
    assert two["median_delay_days"] == 24
    assert two["told"]["interval"] is None  # two groups are too few


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "a.json"), "--dates", "4", "--size", "96"]) == 0
    results = json.loads((tmp_path / "a.json").read_text())
    assert results["task"] == "watch"
    assert results["pairs"] == 2 * 6 * len(results["series"])
    assert "two pairs" in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "a.json"), "--model", str(tmp_path)]) == 1
