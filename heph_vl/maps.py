"""Detections as maps: GeoJSON (RFC 7946) for a GIS, KML for a globe, each with its provenance."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heph_vl import __version__
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing

KML = "http://www.opengis.net/kml/2.2"
_ATTRIBUTION = {
    "real": "derived from LiCSAR products; contains modified Copernicus Sentinel data",
    "simulated": "simulated, not an observation",
    "generated": "generated, not an observation",
}


def write_map(
    path: Path, entries: Iterable[Mapping[str, Any]], provenance: Mapping[str, Any]
) -> int:
    """Write the outlines of deformation that have a place, each with the source of its picture.

    Args:
        path: `.geojson`, `.json` or `.kml`.
        entries: Of `detect.detect`; those without a place give nothing, nor those in which no
            deformation is seen, whatever their masks have.
        provenance: What made them; see `made_by`.

    Returns:
        How many outlines are in the map.

    Raises:
        HephError: Another ending, or the file cannot be written.
    """
    check_kind(path)
    features = [feature for entry in entries for feature in _features(entry, provenance)]
    collection = {"type": "FeatureCollection", "features": features, **provenance}
    text = json.dumps(collection, indent=1, allow_nan=False) + "\n"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _kml(features, provenance) if path.suffix.lower() == ".kml" else text)
    return len(features)


def check_kind(path: Path) -> None:
    """Raise HephError unless a map of this name can be written."""
    if path.suffix.lower() not in (".geojson", ".json", ".kml"):
        raise HephError(str(path), "unknown kind of map", "name it .geojson or .kml")


def made_by(model: Path, model_id: str) -> dict[str, str]:
    """Provenance of detections: program, model and time.

    Args:
        model: Folder of the heads.
        model_id: Sha256 of their parameters.

    Returns:
        Keys and texts, the same in each feature and in the map as a whole.
    """
    return {
        "program": f"heph_vl {__version__}",
        "model": model.name or str(model),
        "model_id": model_id,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _features(entry: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    features: list[dict[str, Any]] = []
    if not entry.get("deformation", {}).get("present", False):
        return features
    for outline in entry["polygons"]:
        ring = outline.get("lonlat")
        if ring is None:
            continue
        properties = {name: value for name, value in outline.items() if name != "lonlat"}
        properties.pop("polygon", None)
        properties |= {"product": Path(entry["image"]).name, **provenance}
        properties |= {"source": entry["source"], "attribution": _ATTRIBUTION[entry["source"]]}
        for name in ("frame_id", "primary_date", "secondary_date", "height"):
            if entry.get(name) is not None:
                properties[name] = entry[name]
        geometry = {"type": "Polygon", "coordinates": [_closed(ring)]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return features


def _closed(ring: Sequence[Sequence[float]]) -> list[list[float]]:
    """A ring that ends where it begins, counter-clockwise as the norm asks of outer rings."""
    points = [list(point) for point in ring]
    area = sum(
        a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True)
    )
    points = points if area > 0 else points[::-1]
    return [*points, points[0]]


def _kml(features: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> str:
    """A document with a placemark for each feature; all text is escaped by the XML library."""
    ET.register_namespace("", KML)
    root = ET.Element(f"{{{KML}}}kml")
    document = _add(root, "Document")
    _add(document, "name", "heph_vl detections")
    _add(document, "description", "; ".join(f"{k}: {v}" for k, v in provenance.items()))
    for feature in features:
        properties = feature["properties"]
        mark = _add(document, "Placemark")
        _add(mark, "name", f"{properties['type']} {properties['probability']:.2f}")
        data = _add(mark, "ExtendedData")
        for name, value in properties.items():
            one = _add(data, "Data")
            one.set("name", name)
            _add(one, "value", value if isinstance(value, str) else json.dumps(value))
        ring = _add(_add(_add(mark, "Polygon"), "outerBoundaryIs"), "LinearRing")
        points = feature["geometry"]["coordinates"][0]
        _add(ring, "coordinates", " ".join(f"{x:.6f},{y:.6f}" for x, y in points))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    element = ET.SubElement(parent, f"{{{KML}}}{name}")
    element.text = text
    return element
