"""`heph-vl watch` on simulated products, with the reference heads: new pairs, memory, bad input."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from heph_vl import watch as watching
from heph_vl.errors import HephError
from heph_vl.watch import Watch, describe, watch
from tests.conftest import REPO
from tests.test_cli import call

HEADS = REPO / "weights" / "heads"
FRAME = "014A_07688_131313"


@pytest.fixture
def folder(moving_archive, tmp_path):
    shutil.copytree(moving_archive / FRAME, tmp_path / "in" / FRAME)
    shutil.copy(moving_archive / "simulation.json", tmp_path / "in")
    return tmp_path / "in"


def moving(archive: Path) -> set[str]:
    """Names of the pairs whose record has deformation."""
    records = [json.loads(path.read_text()) for path in (archive / "annotations").glob("*.json")]
    return {f"{r['primary_date']}_{r['secondary_date']}" for r in records if r["activity_type"]}


def run(folder, out, heads, **options):
    (news,) = watch(folder, out, heads, HEADS, retry_s=0.0, **options)
    return news.watch, news.alerts, news.new


def remembered(folder, out, heads):
    return Watch.open(folder, out, heads.model_id)


def seen_in(state):
    """Names of the pairs in which something was seen."""
    return {key.split("/")[1] for key, looked in state.looked.items() if looked.sightings}


def test_a_moving_sill_raises_one_alert_and_a_second_run_nothing_new(
    folder, moving_archive, heads, tmp_path
):
    out = tmp_path / "out"
    state, alerts, new = run(folder, out, heads)
    assert len(state.looked) == 16
    assert not state.problems
    seen = seen_in(state)
    assert len(seen & moving(moving_archive)) >= 6
    assert len(seen - moving(moving_archive)) <= 1
    (row,) = alerts
    assert new == [row["alert_id"]]
    assert row["source"] == "simulated"
    assert row["frame_id"] == FRAME
    assert row["los_sense"] == "toward"
    # The record's polygon says where, the truth how far: 2.98 fringes are 8.3 cm.
    assert row["centimetres"] == pytest.approx(8.3, rel=0.25)
    assert row["latitude"] == pytest.approx(13.1, abs=0.3)
    with (out / "alerts.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["alert_id"] == row["alert_id"]
    assert line["pairs"].split("; ") == row["pairs"]
    read = json.loads((out / "alerts.geojson").read_text())
    assert read["features"][0]["properties"]["alert_id"] == row["alert_id"]
    assert read["features"][0]["properties"]["attribution"].startswith("simulated")
    assert json.loads((out / "alerts.jsonl").read_text())["model_id"] == heads.model_id

    again, same, nothing = run(folder, out, heads)
    assert nothing == []
    assert [a["pairs"] for a in same] == [row["pairs"]]
    assert again.looked == state.looked


def test_pairs_that_share_a_date_are_no_alert(folder, moving_archive, heads, tmp_path):
    """Of the moving pairs only those of one date are left."""
    first = min(moving(moving_archive)).split("_")[0]
    for pair in (folder / FRAME / "interferograms").iterdir():
        if first not in pair.name.split("_"):
            shutil.rmtree(pair)
    state, alerts, _ = run(folder, tmp_path / "out", heads)
    assert len(seen_in(state)) >= 2
    assert alerts == []


def test_alerts_keep_their_names_as_pairs_come_in(folder, heads, tmp_path):
    """In the order of their second dates, as they do."""
    pairs = sorted((folder / FRAME / "interferograms").iterdir(), key=lambda p: p.name[9:])
    names = set()
    for part in (pairs[:8], pairs[8:11], pairs[11:]):
        for pair in pairs:
            shutil.move(pair, tmp_path / pair.name) if pair.exists() else None
        for pair in (*pairs[: pairs.index(part[-1]) + 1],):
            shutil.move(tmp_path / pair.name, pair)
        _, alerts, new = run(folder, tmp_path / "out", heads)
        names |= {row["alert_id"] for row in alerts}
        assert len(new) <= 1
    assert len(names) == 1
    assert len(alerts[0]["pairs"]) >= 6


def test_it_goes_on_after_a_kill_and_looks_again_at_what_changed(folder, heads, tmp_path):
    out = tmp_path / "out"
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    state = remembered(folder, out, heads)
    for product in state.new_products()[:3]:
        assert state.look(product, heads)
    with (out / "watch.jsonl").open("a") as file:
        file.write('{"product": "cut')  # as a kill leaves it
    again = remembered(folder, out, heads)
    assert again.looked == state.looked
    fourth = again.new_products()[0]
    assert again.look(fourth, heads)
    assert len(remembered(folder, out, heads).new_products()) == len(pairs) - 4
    key = next(iter(state.looked))
    for name in ("diff_pha", "cc"):
        pair = key.split("/")[1]
        path = folder / FRAME / "interferograms" / pair / f"{pair}.geo.{name}.tif"
        before = path.stat()
        os.utime(path, (1, 1))
        assert key in [product.key for product in remembered(folder, out, heads).new_products()]
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        new = [product.key for product in remembered(folder, out, heads).new_products()]
        assert key not in new


def test_a_geotiff_takes_the_place_of_its_preview(folder, heads, tmp_path):
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    hidden = {}
    for pair in pairs:
        for path in pair.glob("*.tif"):
            hidden[path] = path.read_bytes()
            path.unlink()
    state, (row,), _ = run(folder, tmp_path / "out", heads)
    assert row["longitude"] is None
    assert row["x"] is not None
    for path, content in hidden.items():
        path.write_bytes(content)
    state, (row,), _new = run(folder, tmp_path / "out", heads)
    assert len(state.looked) == 16
    assert row["longitude"] is not None


def test_a_memory_of_another_kind_is_refused(folder, heads, tmp_path):
    out = tmp_path / "out"
    remembered(folder, out, heads)
    with pytest.raises(HephError, match="made with model_id"):
        Watch.open(folder, out, "other")
    with pytest.raises(HephError, match="made with model_id"):
        Watch.open(folder, out, heads.model_id, (0.0, 1.0, 2.0, 3.0))
    memory = out / "watch.jsonl"
    good = memory.read_text()
    for bad in (b"\xff\xfe\n", b"[1]\n", good.encode() + b'{"product": 1}\n'):
        memory.write_bytes(bad)
        with pytest.raises(HephError, match=r"watch\.jsonl"):
            remembered(folder, out, heads)


def test_bad_products_are_listed_and_the_others_looked_at(folder, heads, tmp_path):
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    for pair in pairs[4:]:
        shutil.rmtree(pair)
    first, second, third, fourth = pairs[:4]
    cut = first / f"{first.name}.geo.diff_pha.tif"
    cut.write_bytes(cut.read_bytes()[:3000])
    backwards = "_".join(second.name.split("_")[::-1])
    shutil.copytree(second, second.with_name(backwards))
    for path in second.with_name(backwards).iterdir():
        path.rename(path.with_name(path.name.replace(second.name, backwards)))
    shutil.copytree(third, folder / FRAME / "copy" / third.name)
    nameless = fourth / f"{fourth.name}.geo.diff_pha.tif"
    shutil.copy(nameless, folder / FRAME / "newest.tif")
    state, _, _ = run(folder, tmp_path / "out", heads)
    problems = state.problems
    assert len(problems) == 4
    assert any("not a readable TIFF" in p and "tried" not in p for p in problems)
    assert any("dates in reverse" in p for p in problems)
    assert any("the same pair as" in p for p in problems)
    assert any("newest is no pair of dates" in p for p in problems)
    assert sum(looked.problem is None for looked in state.looked.values()) == 3
    # Given up, and not read again until it changes; a whole file then is.
    assert state.new_products() == []
    shutil.copy(nameless, cut)
    mended, _, _ = run(folder, tmp_path / "out", heads)
    assert len(mended.problems) == 3


def test_a_damaged_file_of_the_frame_costs_no_detection(folder, heads, tmp_path):
    (folder / FRAME / "metadata" / f"{FRAME}.geo.hgt.tif").write_bytes(b"II*")
    state, alerts, _ = run(folder, tmp_path / "out", heads)
    assert len(alerts) == 1
    assert all("hgt.tif" in problem for problem in state.problems)
    assert len(state.problems) == 16


@pytest.mark.parametrize("name", ["diff_pha", "cc"])
def test_a_file_that_is_still_being_written_is_tried_again(
    folder, heads, tmp_path, monkeypatch, name
):
    """The file becomes whole between two looks at the folder."""
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    for pair in pairs[1:]:
        shutil.rmtree(pair)
    path = pairs[0] / f"{pairs[0].name}.geo.{name}.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    naps = []

    def nap(seconds):
        naps.append(seconds)
        path.write_bytes(whole)

    monkeypatch.setattr(watching.time, "sleep", nap)
    state, _, _ = run(folder, tmp_path / "out", heads)
    assert len(naps) == 1
    assert state.problems == []
    assert len(state.looked) == 1


def test_what_lies_outside_the_box_is_counted(folder, heads, tmp_path):
    state, alerts, _ = run(folder, tmp_path / "out", heads, bbox=(100.0, 10.0, 101.0, 11.0))
    assert alerts == []
    assert state.problems == []
    assert state.remarks == {"outside the box": 16}


def test_polling_tells_only_what_is_new(folder, heads, tmp_path, monkeypatch):
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    last = tmp_path / pairs[-1].name
    shutil.move(pairs[-1], last)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            shutil.move(last, pairs[-1])
        assert len(naps) < 9

    monkeypatch.setattr(watching.time, "sleep", nap)
    looks = watch(folder, tmp_path / "out", heads, HEADS, every=60.0)
    assert next(looks).looked == 15
    assert next(looks).looked == 1
    assert naps == [60.0] * 3


def test_frames_are_named_by_their_folders(tmp_path):
    path = tmp_path / "etna" / FRAME / "interferograms" / "20200101_20200113"
    path.mkdir(parents=True)
    file = path / "20200101_20200113.geo.diff_pha.tif"
    file.write_bytes(b"x")
    assert describe(file, tmp_path).frame_id == FRAME
    loose = tmp_path / "etna" / "20200101_20200113.png"
    loose.write_bytes(b"x")
    assert describe(loose, tmp_path / "etna").frame_id == "etna"


def test_wrong_folders(tmp_path):
    with pytest.raises(HephError, match="no such folder"):
        Watch.open(tmp_path / "none", tmp_path / "out", "a")
    with pytest.raises(HephError, match="lies in the watched folder"):
        Watch.open(tmp_path, tmp_path / "out", "a")


def test_the_command_tells_and_draws(folder, tmp_path, capsys):
    words = ["watch", folder, "--out", tmp_path / "out", "--model", HEADS]
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert "toward" in out
    assert "1 alerts, 1 of them new" in err
    code, out, _ = call(capsys, *words, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["products"] == 16
    assert report["new"] == []
    code, _, err = call(capsys, *words, "--json", "--every", "5")
    assert code == 2
    code, _, err = call(capsys, *words, "--bbox", "1", "2", "0", "3")
    assert code == 2
    assert "west south east north" in " ".join(err.split())
