"""Kinds of results that no reference weights have: realism, alarms, runs and patches."""

import json
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from eval import evaluate_watch, realism, report
from eval.report_files import Result
from eval.report_runs import section as runs_section
from tests.eval.test_realism import write_patches


def page_of(path: Path) -> str:
    out = path.with_name("page.html")
    assert report.main([str(path), "--out", str(out)]) == 0
    return out.read_text()


def test_realism_gives_each_distance_beside_the_floor(tmp_path: Path) -> None:
    sets = ["--real", write_patches(tmp_path / "real", 1)]
    sets += ["--simulated", write_patches(tmp_path / "alike", 2), "--draws", "20"]
    assert realism.main([*map(str, sets), "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    by_set = found["groups"]["all"]["distances"]["grain"]
    markup = page_of(tmp_path / "out" / "results.json")
    wanted = [f"{by_set[s]['value']:.3f} ± {by_set[s]['standard_error']:.3f}" for s in by_set]
    row = re.search(r"<tr><td>grain</td>(.*?)</tr>", markup)
    assert row is not None
    assert re.findall(r"<td>([^<]+)</td>", row[1]) == wanted
    assert markup.index(">floor<") < markup.index(">simulated<")


def series(group: str, false: int, delay: int | None) -> dict[str, Any]:
    one = {"false_alarms": false, "off": 0, "sources": [{"kind": "mogi", "delay": delay}]}
    more = one | {"false_alarms": false + 1}
    return {"group": group, "years": 0.5, "two pairs": one, "single": more}


def test_alarms_stand_beside_those_of_a_single_pair(tmp_path: Path) -> None:
    rows = [series("etna", 1, 12), series("afar", 0, None), series("taupo", 0, 36)]
    summary = evaluate_watch.summarise(rows, 0)
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"task": "watch", "summary": summary, "data": "simulated series"}))
    markup = page_of(path)
    # 1 and 4 false alarms in 1.5 years; 2 of 3 sources told, after 12 and 36 days.
    both = re.search(r"<td>two pairs[^<]*</td><td>0.67</td>.*?<td>24</td>", markup)
    assert both is not None
    assert "<td>3</td><td>0.67</td>" in both[0]
    assert re.search(r"<td>a single pair[^<]*</td><td>2.67</td>", markup)


def test_runs_are_compared_with_those_that_measure_the_same() -> None:
    curve = [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)]
    runs = [
        Result(Path("a"), "training", "a", {"split": "val", "val_mAP": 0.25}, {}, curve),
        Result(Path("b"), "training", "b", {"split": "val", "val_iou": 0.5}),
        Result(Path("c"), "training", "c", {"split": "val", "val_mAP": 0.125}, {}, curve),
    ]
    markup = runs_section(runs)
    assert "<tr><td>val mAP</td><td>0.25</td><td>0.125</td></tr>" in markup
    assert "<tr><td>val iou</td><td>0.5</td></tr>" in markup
    (plot,) = re.findall(r"<svg.*?</svg>", markup, re.S)
    assert ">a</text>" in plot
    assert ">c</text>" in plot
    assert markup.count("No training curves") == 1


@pytest.mark.parametrize("sense", ["away", "unknown"])
def test_an_alert_says_where_and_how_it_moves(tmp_path: Path, sense: str) -> None:
    from heph_vl.alerts import Sighting, find_alerts
    from heph_vl.watch import update_alerts

    ring = ((15.0, 37.7), (15.1, 37.7), (15.1, 37.8), (15.0, 37.8))
    days = [date(2018, 1, 1) + timedelta(days=n) for n in (0, 6, 12, 18)]
    seen = [
        Sighting("124D_05291_081406", *pair, "p", "dyke", 0.9, ring, True, sense, -3.25)
        for pair in (days[:2], days[2:])
    ]
    update_alerts(tmp_path, find_alerts(seen), {})
    assert report.main(["--alerts", str(tmp_path), "--out", str(tmp_path / "a.html")]) == 0
    markup = (tmp_path / "a.html").read_text()
    assert "<td>37.750, 15.050</td>" in markup
    assert f"<td>3.2 cm{'' if sense == 'unknown' else ' away'}</td>" in markup
    assert "Etna" in markup
