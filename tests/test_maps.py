"""Maps: places, rings, provenance, and text that cannot break them."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import shapely

from heph_vl.errors import HephError
from heph_vl.maps import KML, made_by, write_map

RING = [[15.0, 37.7], [15.0, 37.8], [15.1, 37.8], [15.1, 37.7]]  # clockwise


def entry(name="a.geo.diff_pha.tif", **changes):
    outline = {"type": "mogi", "probability": 0.5, "polygon": [[0, 0]], "lonlat": RING}
    return {
        "image": f"/archive/{name}",
        "source": "real",
        "deformation": {"probability": 0.9, "present": True},
        "primary_date": "2020-01-01",
        "secondary_date": "2020-01-13",
        "height": None,
        "polygons": [outline | changes],
    }


PROVENANCE = made_by(Path("weights/heads"), "abc")


def test_geojson_has_closed_rings_counter_clockwise_and_says_what_made_it(tmp_path):
    path = tmp_path / "a.geojson"
    assert write_map(path, [entry(), {"image": "b", "error": "damaged"}], PROVENANCE) == 1
    read = json.loads(path.read_text())
    (feature,) = read["features"]
    ring = feature["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert shapely.LinearRing(ring).is_ccw
    assert shapely.Polygon(ring).equals(shapely.Polygon(RING))
    properties = feature["properties"]
    assert properties["product"] == "a.geo.diff_pha.tif"
    assert (properties["model"], properties["model_id"]) == ("heads", "abc")
    assert properties["primary_date"] == "2020-01-01"
    assert {"program", "made"} <= set(read)
    assert "Copernicus Sentinel data" in properties["attribution"]
    assert "polygon" not in properties


def test_kml_is_xml_whatever_the_names(tmp_path):
    path = tmp_path / "a.kml"
    assert write_map(path, [entry("<&\"'>.tif")], PROVENANCE) == 1
    root = ET.fromstring(path.read_text())
    names = [data.get("name") for data in root.iter(f"{{{KML}}}Data")]
    assert {"product", "model_id", "type", "made"} <= set(names)
    values = [data[0].text for data in root.iter(f"{{{KML}}}Data")]
    assert "<&\"'>.tif" in values
    (text,) = [element.text for element in root.iter(f"{{{KML}}}coordinates")]
    points = [tuple(map(float, point.split(","))) for point in text.split()]
    assert points[0] == points[-1]
    assert shapely.Polygon(points).area == pytest.approx(0.01)


def test_what_has_no_place_is_on_no_map(tmp_path):
    nowhere = entry()
    del nowhere["polygons"][0]["lonlat"]
    assert write_map(tmp_path / "a.json", [nowhere], PROVENANCE) == 0
    assert json.loads((tmp_path / "a.json").read_text())["features"] == []


def test_other_kinds_are_refused(tmp_path):
    with pytest.raises(HephError, match=r"name it \.geojson or \.kml"):
        write_map(tmp_path / "a.shp", [entry()], PROVENANCE)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match="could not be written"):
        write_map(tmp_path / "file" / "a.kml", [entry()], PROVENANCE)
    assert write_map(tmp_path / "new" / "a.kml", [entry()], PROVENANCE) == 1


def test_simulated_and_generated_pictures_are_called_so(tmp_path):
    for source in ("simulated", "generated"):
        write_map(tmp_path / "a.json", [entry() | {"source": source}], PROVENANCE)
        properties = json.loads((tmp_path / "a.json").read_text())["features"][0]["properties"]
        assert properties["attribution"] == f"{source}, not an observation"
