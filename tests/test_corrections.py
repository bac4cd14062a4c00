"""An analyst's way: detect, edit the map, correct, and train on it as on any archive."""

import json
from pathlib import Path

import numpy as np
import pytest

from heph_vl.corrections import correct, draft_record, record_id, write_records
from heph_vl.data import captions
from heph_vl.data.annotations import read_annotations
from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.picture import find_images
from heph_vl.detect import detect
from heph_vl.errors import HephError
from heph_vl.maps import made_by, write_map
from tests.conftest import REPO
from tests.test_cli import call

FRAME = "014A_07688_131313"


@pytest.fixture(scope="session")
def entries(moving_archive, heads):
    """What the heads see of the archive's GeoTIFFs."""
    return list(detect(find_images([moving_archive / FRAME]), heads))


@pytest.fixture
def workplace(entries, tmp_path):
    write_records([draft_record(entry) for entry in entries], tmp_path / "drafts")
    write_map(tmp_path / "found.geojson", entries, made_by(Path("heads"), "abc"))
    return tmp_path


def edited(workplace, change):
    """The map with its features changed by a function of them."""
    content = json.loads((workplace / "found.geojson").read_text())
    content["features"] = change(content["features"])
    path = workplace / "edited.geojson"
    path.write_text(json.dumps(content))
    return path


def test_drafts_are_records_that_say_what_was_seen(entries, workplace):
    found = read_annotations(workplace / "drafts", strict=True)
    assert len(found.annotations) == 16
    assert not found.rules
    by_pair = {record.pair_name: record for record in found.annotations}
    for entry in entries:
        record = by_pair[Path(entry["image"]).parent.name]
        assert record.has_deformation == bool(entry["polygons"])
        facts = captions.parse(record.caption)
        assert len(facts.patterns) == len(record.events)
        assert (("no_deformation",) in facts.scene) == (not record.events)
        assert record.confidence == 0.5
    assert sum(record.has_deformation for record in found.annotations) >= 6


def test_an_unedited_map_gives_the_drafts_back(moving_archive, workplace):
    archive = scan_archive(moving_archive)
    same = correct(workplace / "drafts", archive, edited(workplace, lambda f: f))
    assert same.problems == []
    drafts = read_annotations(workplace / "drafts").annotations
    for draft, record in zip(drafts, same.records, strict=True):
        assert record.caption == draft.caption
        assert record.confidence == 0.8
        for old, new in zip(draft.events, record.events, strict=True):
            assert np.allclose(old.polygon, new.polygon, atol=0.02)
            assert (old.type, old.intensity, old.los_sense) == (
                new.type,
                new.intensity,
                new.los_sense,
            )


def test_removed_added_and_changed_outlines(moving_archive, workplace):
    seen = {}

    def change(features):
        first, second, *rest = features
        seen["removed"] = first["properties"]["product"]
        second["properties"] |= {"type": "mogi", "intensity": "low"}
        seen["changed"] = second["properties"]["product"]
        west, north = (
            min(point[0] for point in second["geometry"]["coordinates"][0]) - 0.06,
            max(point[1] for point in second["geometry"]["coordinates"][0]),
        )
        box = [[west, north], [west, north - 0.05], [west + 0.05, north - 0.05]]
        added = {"product": seen["changed"], "type": "earthquake"}
        geometry = {"type": "Polygon", "coordinates": [box]}
        return [second, *rest, {"type": "Feature", "properties": added, "geometry": geometry}]

    found = correct(workplace / "drafts", scan_archive(moving_archive), edited(workplace, change))
    assert found.problems == []
    assert len(found.changed) == 2
    by_pair = {record.pair_name: record for record in found.records}
    removed = by_pair[seen["removed"].split(".")[0]]
    assert removed.label == ("Non_Deformation",)
    assert removed.volcano_phase == "rest"
    assert ("no_deformation",) in captions.parse(removed.caption).scene
    changed = by_pair[seen["changed"].split(".")[0]]
    assert changed.activity_types == ("mogi", "earthquake")
    assert changed.intensities == ("low", None)
    assert changed.label == ("Deformation", "Earthquake")
    assert changed.is_crowd
    assert changed.events[1].los_sense == "unknown"
    patterns = captions.parse(changed.caption).patterns
    assert [(p.type, p.intensity) for p in patterns] == [("mogi", "low"), ("earthquake", None)]
    # Written, they are read like all others, and their masks lie on the image.
    write_records(found.records, workplace / "corrected")
    joined = scan_archive(moving_archive, workplace / "corrected", strict=True)
    (pair,) = [p for p in joined.annotated if p.annotation == changed]
    assert set(np.unique(load_pair(pair).mask)) == {0, 1, 5}


def test_one_corner_moved_is_an_edit(moving_archive, workplace):
    """Three pixels, where rounding moves it by less than a twentieth."""

    def change(features):
        ring = features[0]["geometry"]["coordinates"][0]
        ring[1] = [ring[1][0] + 0.01, ring[1][1]]
        return features

    found = correct(workplace / "drafts", scan_archive(moving_archive), edited(workplace, change))
    assert len(found.changed) == 1


def test_what_reaches_over_the_edge_is_cut(moving_archive, workplace):
    def change(features):
        coordinates = [[[-90, 80], [90, 80], [90, -80], [-90, -80]]]
        features[0]["geometry"]["coordinates"] = coordinates
        return features

    found = correct(workplace / "drafts", scan_archive(moving_archive), edited(workplace, change))
    assert found.problems == []
    (changed,) = [r for r in found.records if r.unique_id in found.changed]
    corners = {tuple(corner) for corner in changed.events[0].polygon}
    assert corners == {(0, 0), (192, 0), (192, 192), (0, 192)}


def test_deformation_without_an_outline_is_an_event_without_one(entries, tmp_path):
    entry = next(e for e in entries if e["deformation"]["present"])
    bare = draft_record(entry | {"polygons": []})
    assert bare.has_deformation
    assert bare.events[0].polygon is None
    assert len(captions.parse(bare.caption).patterns) == 1
    write_records([bare], tmp_path)
    assert read_annotations(tmp_path, strict=True).annotations == [bare]


def test_what_is_not_seen_is_in_neither_map_nor_draft(entries, tmp_path):
    entry = next(e for e in entries if e["deformation"]["present"])
    unseen = entry | {"deformation": {"probability": 0.4, "present": False}}
    assert write_map(tmp_path / "a.geojson", [unseen], {}) == 0
    assert draft_record(unseen).events == ()


def test_outlines_are_in_pixels_of_the_preview(entries):
    """Of a StripMap frame these are 3.6 times as many."""
    entry = next(e for e in entries if e["deformation"]["present"])
    usual = draft_record(entry).events[0].polygon
    fine = draft_record(entry | {"frame_id": "144A_SM_REUN_S6"}).events[0].polygon
    assert np.allclose(np.array(fine), 3.6 * np.array(usual))


@pytest.mark.parametrize(
    ("properties", "geometry", "message"),
    [
        ({"type": "volcano"}, {}, "type 'volcano'; one of mogi"),
        ({"intensity": "huge"}, {}, "intensity 'huge'; one of low"),
        ({}, {"type": "Point", "coordinates": [1, 2]}, "a Point"),
        ({}, {"coordinates": [[[0, 0], [1, 0]]]}, "2 corners"),
        ({}, {"coordinates": [[["a", "b"]]]}, "no numbers"),
        ({}, {"coordinates": [[[0, 0], [1, 0], [1, 1]], [[0, 0]]]}, "with a hole"),
        ({}, {"coordinates": [[[50, 50], [51, 50], [51, 51]]]}, "outside its pair"),
        ({"product": 7}, {}, "product 7 names no pair"),
        ({"product": "20010101_20010113.tif"}, {}, "no draft of 20010101_20010113"),
        ({"frame_id": "124D_05291_081406"}, {}, "no draft of"),
    ],
)
def test_what_cannot_be_used_is_listed(moving_archive, workplace, properties, geometry, message):
    def change(features):
        features[0]["properties"] |= properties
        features[0]["geometry"] |= geometry
        return features

    found = correct(workplace / "drafts", scan_archive(moving_archive), edited(workplace, change))
    assert any(message in str(problem) for problem in found.problems)
    assert len(found.records) >= 15


def test_maps_that_are_none(moving_archive, workplace):
    archive = scan_archive(moving_archive)
    (workplace / "bad.geojson").write_text("{}")
    with pytest.raises(HephError, match="no list of features"):
        correct(workplace / "drafts", archive, workplace / "bad.geojson")
    (workplace / "bad.geojson").write_text("<kml/>")
    with pytest.raises(HephError, match="not valid JSON"):
        correct(workplace / "drafts", archive, workplace / "bad.geojson")


def test_ids_are_the_pairs_own():
    from datetime import date

    days = date(2020, 1, 1), date(2020, 1, 13)
    assert record_id(FRAME, *days) == record_id(FRAME, *days)
    assert record_id(FRAME, *days) != record_id(FRAME, days[0], date(2020, 1, 14))
    assert 10**14 <= record_id(FRAME, *days) < 2**63


def test_the_commands_in_a_row(moving_archive, tmp_path, capsys):
    heads = REPO / "weights" / "heads"
    words = ["--records", tmp_path / "drafts", "--map", tmp_path / "found.geojson"]
    code, out, err = call(capsys, "detect", moving_archive / FRAME, "--model", heads, *words)
    assert code == 0, err
    assert "cm toward" in out
    assert "16 draft records" in err
    words = ["--map", tmp_path / "found.geojson", "--out", tmp_path / "corrected"]
    code, _, err = call(capsys, "correct", tmp_path / "drafts", moving_archive, *words)
    assert code == 0, err
    assert "16 records, 0 changed" in err
    words = [moving_archive, tmp_path / "ds", "--annotations", tmp_path / "corrected", "--json"]
    code, out, err = call(capsys, "dataset", *words)
    assert code == 0, err
    assert sum(split["rows"] for split in json.loads(out)["splits"].values()) == 16
    loose = tmp_path / "20200101_20200113.geo.diff.png"
    image = next((moving_archive / FRAME).rglob("*.geo.diff.png"))
    loose.write_bytes(image.read_bytes())
    words = [loose, "--model", heads, "--records", tmp_path / "more"]
    code, _, err = call(capsys, "detect", *words)
    assert code == 1
    assert "in no LiCSAR frame's folder" in err
