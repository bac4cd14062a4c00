"""The measure of `watch`: what counts as an onset, as an alert on a source, and as a false one."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from eval.evaluate_watch import main, near, onset, summarise, told
from heph_vl.alerts import Sighting
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


def middle(frame):
    """Of the source, in pixels of 1/300 degree."""
    source, grid = frame.sources[0], frame.place.grid
    column = source.source.east / grid.dx + (grid.width - 1) / 2
    row = (grid.height - 1) / 2 - source.source.north / grid.dy
    # The source's own field is strongest there, so the place is not only our arithmetic.
    peak = divmod(int(source.unit.abs().argmax()), grid.width)
    assert abs(peak[0] - row) < 60
    assert abs(peak[1] - column) < 60
    return column / FINE_PER_NATIVE, row / FINE_PER_NATIVE


def test_a_sighting_is_near_the_source_it_covers(frame):
    x, y = middle(frame)
    assert near(seen(x + 13, y), frame.sources[0], frame)
    assert not near(seen(x + 15, y), frame.sources[0], frame)


def test_a_source_is_told_by_what_spans_its_onset(frame):
    """Alarms before it, at its place and elsewhere, neither tell it nor hide it."""
    x, y = middle(frame)
    source = replace(frame.sources[0], levels=(0.0, 0.0, 3.0, 3.0, 3.0))
    frame = replace(frame, sources=(source,), dates=tuple(DAYS))
    early = [seen(x, y, 0, 1), seen(x + 40, y, 0, 1), seen(x + 40, y, 2, 3)]
    late = [seen(x, y, 1, 2), seen(x, y, 0, 3)]
    (one,), off = told([*early, *late], frame, single=False)
    assert (one["delay"], off) == (12, 1)
    (one,), off = told([*early, *late], frame, single=True)
    assert (one["delay"], off) == (0, 1)
    (one,), _ = told([*early, late[0]], frame, single=False)
    assert one["delay"] is None
    # An onset on the last date cannot be spanned twice: it is not counted.
    last = replace(source, levels=(0.0, 0.0, 0.0, 0.0, 3.0))
    assert told(late, replace(frame, sources=(last,)), single=True)[0] == []


def test_the_summary_counts_by_frame_years():
    def row(group, false, delay):
        source = {"kind": "sill", "onset": "2020-01-01", "delay": delay}
        result = {"false_alarms": false, "off": 1, "sources": [source]}
        return {"group": group, "years": 0.5, "two pairs": result, "single": result}

    found = summarise([row("etna", 1, 12), row("afar", 0, None), row("afar", 2, 36)], 0)
    assert found["frame_years"] == 1.5
    two = found["two pairs"]
    assert two["false_alarms_per_frame_year"]["value"] == pytest.approx(2.0)
    assert two["told"]["value"] == pytest.approx(2 / 3)
    assert two["median_delay_days"] == 24
    assert two["off_source"] == 3
    assert two["told"]["interval"] is None  # two groups are too few


@pytest.mark.slow
def test_it_runs(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "a.json"), "--dates", "4", "--size", "96"]) == 0
    results = json.loads((tmp_path / "a.json").read_text())
    assert results["task"] == "watch"
    assert results["pairs"] == 2 * 6 * len(results["series"])
    assert "two pairs" in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "a.json"), "--model", str(tmp_path)]) == 1
