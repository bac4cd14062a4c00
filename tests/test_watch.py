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
    return tmp_path / "in"


def moving(archive: Path) -> set[str]:
    """Names of the pairs whose record has deformation."""
    records = [json.loads(path.read_text()) for path in (archive / "annotations").glob("*.json")]
    return {f"{r['primary_date']}_{r['secondary_date']}" for r in records if r["activity_type"]}


def run(folder, out, heads, **options):
    ((state, alerts, new),) = watch(folder, out, heads, HEADS, retry_s=0.0, **options)
    return state, alerts, new


def test_a_moving_sill_raises_one_alert_and_a_second_run_nothing_new(
    folder, moving_archive, heads, tmp_path
):
    out = tmp_path / "out"
    state, alerts, new = run(folder, out, heads)
    assert len(state.seen) == 16
    assert not state.problems
    seen = {Path(p).parent.name for p, found in state.sightings.items() if found}
    assert len(seen & moving(moving_archive)) >= 6
    assert len(seen - moving(moving_archive)) <= 1
    (alert,) = alerts
    assert new == [alert.alert_id]
    row = alert.row()
    assert row["frame_id"] == FRAME
    assert row["los_sense"] == "toward"
    # The record's polygon says where, the truth how far: 2.98 fringes are 8.3 cm.
    assert row["centimetres"] == pytest.approx(8.3, rel=0.25)
    assert row["latitude"] == pytest.approx(13.1, abs=0.3)
    with (out / "alerts.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["alert_id"] == alert.alert_id
    assert line["pairs"].split() == row["pairs"]
    read = json.loads((out / "alerts.geojson").read_text())
    assert read["features"][0]["properties"]["alert_id"] == alert.alert_id
    assert json.loads((out / "alerts.jsonl").read_text())["model_id"] == heads.model_id

    again, same, nothing = run(folder, out, heads)
    assert nothing == []
    assert [a.row() for a in same] == [row]
    assert again.seen == state.seen


def test_pairs_that_share_a_date_are_no_alert(folder, moving_archive, heads, tmp_path):
    """Of the moving pairs only those of one date are left."""
    first = min(moving(moving_archive)).split("_")[0]
    for pair in (folder / FRAME / "interferograms").iterdir():
        if first not in pair.name.split("_"):
            shutil.rmtree(pair)
    state, alerts, _ = run(folder, tmp_path / "out", heads)
    assert sum(map(bool, state.sightings.values())) >= 2
    assert alerts == []


def test_it_goes_on_after_a_kill_and_looks_again_at_what_changed(folder, heads, tmp_path):
    out = tmp_path / "out"
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    state = Watch.open(folder, out)
    for product in state.new_products()[:3]:
        assert state.look(product, heads)
    with (out / "watch.jsonl").open("a") as file:
        file.write('{"path": "cut')  # as a kill leaves it
    again = Watch.open(folder, out)
    assert again.seen == state.seen
    assert again.sightings == state.sightings
    assert len(again.new_products()) == len(pairs) - 3
    path = next(iter(state.seen))
    os.utime(path, (1, 1))
    assert path in [str(product.path) for product in Watch.open(folder, out).new_products()]


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
    problems = sorted(state.problems.values())
    assert len(problems) == 4
    assert any("not a readable TIFF" in p and "tried" not in p for p in problems)
    assert any("dates in reverse" in p for p in problems)
    assert any("the same pair of" in p for p in problems)
    assert any("newest is no pair of dates" in p for p in problems)
    assert sum(p not in state.problems for p in state.seen) == 3
    # Given up, and not read again until it changes; a whole file then is.
    assert [p.path for p in state.new_products()] == []
    shutil.copy(nameless, cut)
    mended, _, _ = run(folder, tmp_path / "out", heads)
    assert len(mended.problems) == 3


def test_a_file_that_is_still_being_written_is_tried_again(folder, heads, tmp_path, monkeypatch):
    """The file becomes whole between two looks at the folder."""
    pairs = sorted((folder / FRAME / "interferograms").iterdir())
    for pair in pairs[1:]:
        shutil.rmtree(pair)
    path = pairs[0] / f"{pairs[0].name}.geo.diff_pha.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    naps = []

    def nap(seconds):
        naps.append(seconds)
        path.write_bytes(whole)

    monkeypatch.setattr(watching.time, "sleep", nap)
    state, _, _ = run(folder, tmp_path / "out", heads)
    assert len(naps) == 1
    assert state.problems == {}
    assert list(state.seen) == [str(path)]


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
        Watch.open(tmp_path / "none", tmp_path / "out")
    with pytest.raises(HephError, match="lies in the watched folder"):
        Watch.open(tmp_path, tmp_path / "out")


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
