"""A folder of products watched: new pairs are looked at, and alerts told when two of them agree.

    OUT/watch.jsonl         the memory: model and box, then a line for each product looked at
    OUT/alerts.jsonl, .csv  the alerts as they stand
    OUT/alerts.geojson      the same as a map, of those that have a place

A stopped watch goes on where it was. A product is its frame and its dates: one whose files have
changed, or that has come as GeoTIFF after its preview, is looked at again, and what is seen takes
the place of what was. What was seen of a product stays when its files are gone.
"""

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely

from heph_vl.alerts import COLUMNS, NEAR_DAYS, Alert, Sighting, find_alerts
from heph_vl.data.archive import dates_of, frame_of, source_of
from heph_vl.data.picture import (
    Box,
    OutsideBoxError,
    coherence_of,
    find_images,
    frame_files,
    read_picture,
    stem_of,
)
from heph_vl.detect import look
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.maps import made_by, write_map

if TYPE_CHECKING:
    from heph_vl.models.heads import Heads

MEMORY, ALERTS, TABLE, MAP = "watch.jsonl", "alerts.jsonl", "alerts.csv", "alerts.geojson"
TRIES = 3  # a file that is still being written is read again so often
# A pair with one of these tells of the processing, not of the ground.
_USELESS = ("corrupted", "no_info", "processing_error")


@dataclass(frozen=True)
class Product:
    """A product found in a folder.

    Attributes:
        path: Its file.
        frame_id: LiCSAR frame of its folders, or the name of the watched folder.
        dates: Of the pair, earlier first.
        stamp: Of sizes and times of its files, coherence and the frame's own included.
    """

    path: Path
    frame_id: str
    dates: tuple[date, date]
    stamp: str = ""

    @property
    def key(self) -> str:
        """`<frame>/<primary>_<secondary>`."""
        return f"{self.frame_id}/{self.dates[0]:%Y%m%d}_{self.dates[1]:%Y%m%d}"


@dataclass(frozen=True)
class Looked:
    """What came of a look at a product.

    Attributes:
        stamp: Of its files then.
        sightings: What was seen.
        problem: Why it could not be read, or what is wrong with its frame's files.
        remark: `outside the box`, or `deformation without an outline`.
    """

    stamp: str
    sightings: tuple[Sighting, ...] = ()
    problem: str | None = None
    remark: str | None = None


@dataclass
class Watch:
    """What has been looked at, and what it says.

    Attributes:
        folder: The watched folder.
        out: Where the memory and the alerts lie.
        model_id: Of the heads; a memory of others is refused.
        bbox: Look into this box only: west, south, east, north [deg]; likewise.
        looked: By the product's key.
        odd: By path, what is wrong with the names of files, as of the last look at the folder.
        waiting: By key and stamp, how often a product could not be read, and why.
    """

    folder: Path
    out: Path
    model_id: str
    bbox: Box | None = None
    looked: dict[str, Looked] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    waiting: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, out: Path, model_id: str, bbox: Box | None = None) -> "Watch":
        """A new watch, or the one whose memory lies in `out`.

        Args:
            folder: Folder of products.
            out: Folder to write, made if it is not there.
            model_id: Of the heads.
            bbox: Look into this box only.

        Returns:
            The watch.

        Raises:
            HephError: `folder` is no folder, `out` lies in it, or the memory is damaged or was made
                with another model or box.
        """
        if not folder.is_dir():
            raise HephError(str(folder), "no such folder", "give the folder of the products")
        if out.resolve().is_relative_to(folder.resolve()):
            what = f"lies in the watched folder {folder}"
            raise HephError(str(out), what, "choose another folder")
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        watch = cls(folder, out, model_id, bbox)
        memory = out / MEMORY
        if memory.is_file():
            watch._recall(memory)
        else:
            write_text(memory, json.dumps(watch._header()) + "\n")
        return watch

    def _header(self) -> dict[str, Any]:
        return {"model_id": self.model_id, "bbox": None if self.bbox is None else list(self.bbox)}

    def _recall(self, memory: Path) -> None:
        fix = "choose another --out folder"
        try:
            text = memory.read_text()
        except (OSError, ValueError) as error:
            raise HephError(str(memory), f"cannot be read: {error}", fix) from error
        # A kill may cut the last line: its product is looked at again.
        if not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            write_text(memory, text)
        lines = text.splitlines()
        try:
            header, *entries = map(json.loads, lines)
            if header != self._header():
                what = f"made with model_id {str(header['model_id'])[:12]}, box {header['bbox']}"
                raise HephError(str(memory), what, f"use the same, or {fix}")
            for entry in entries:
                seen = tuple(map(_sighting, entry["sightings"]))
                rest = (entry["stamp"], seen, entry["problem"], entry["remark"])
                self.looked[entry["product"]] = Looked(*rest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HephError(str(memory), f"is no memory of a watch ({error})", fix) from error

    def new_products(self) -> list[Product]:
        """Products that have not been looked at as they are now; odd names go to `odd`."""
        found: dict[str, Product] = {}
        self.odd = {}
        stamps: dict[Path, str] = {}
        for path in find_products(self.folder):
            try:
                product = describe(path, self.folder, stamps)
                first = found.setdefault(product.key, product)
                if first is not product:
                    what = f"the same pair as {first.path}"
                    raise HephError(str(path), what, "keep one of the two; the first was taken")
            except HephError as problem:
                self.odd[str(path)] = str(problem)
        return [
            product
            for key, product in found.items()
            if key not in self.looked or self.looked[key].stamp != product.stamp
        ]

    def look(self, product: Product, heads: "Heads") -> bool:
        """Look at a product and remember what it shows.

        Args:
            product: Of `new_products`.
            heads: The model.

        Returns:
            Whether it was looked at or given up; else it is to be tried again.
        """
        try:
            entry = look(read_picture(product.path, self.bbox), heads)
            seen = sightings_of(entry, product)
            told = entry["deformation"]["present"] and not entry["polygons"]
            remark = "deformation without an outline" if told else None
            looked = Looked(product.stamp, tuple(seen), entry["frame_files"], remark)
        except OutsideBoxError:
            looked = Looked(product.stamp, remark="outside the box")
        except HephError as error:
            tries = self.waiting.setdefault((product.key, product.stamp), [])
            tries.append(f"{error}; tried {len(tries) + 1} of {TRIES} times")
            if len(tries) < TRIES:
                return False
            looked = Looked(product.stamp, problem=str(error))
        self.waiting = {k: why for k, why in self.waiting.items() if k[0] != product.key}
        self.looked[product.key] = looked
        line = {
            "product": product.key,
            "stamp": looked.stamp,
            "sightings": [_for_json(s) for s in looked.sightings],
            "problem": looked.problem,
            "remark": looked.remark,
        }
        with writing(self.out), (self.out / MEMORY).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return True

    @property
    def sightings(self) -> list[Sighting]:
        """All that was seen."""
        return [s for looked in self.looked.values() for s in looked.sightings]

    @property
    def problems(self) -> list[str]:
        """What could not be read, given up or to be tried again, and odd names."""
        given_up = [looked.problem for looked in self.looked.values() if looked.problem]
        return [*self.odd.values(), *given_up, *(why[-1] for why in self.waiting.values())]

    @property
    def remarks(self) -> Counter[str]:
        """How many products were outside the box, or seem to deform without an outline."""
        return Counter(looked.remark for looked in self.looked.values() if looked.remark)


def update_alerts(
    out: Path, alerts: Sequence[Alert], provenance: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write the alerts as lines, table and map; those that were there keep their names.

    Args:
        out: Folder of the watch.
        alerts: As they stand.
        provenance: Of `maps.made_by`, in each line.

    Returns:
        The alerts' rows, and the ids of those that were not there before.

    Raises:
        HephError: A file cannot be written.
    """
    old: dict[str, dict[str, Any]] = {}
    file = out / ALERTS
    if file.is_file():
        old = {row["alert_id"]: row for row in map(json.loads, file.read_text().splitlines())}
    rows, new = [], []
    for alert in alerts:
        row = alert.row()
        # An alert that a later pair joins, or whose first pair was looked at again, is the same.
        names = sorted((r["raised"], name) for name, r in old.items() if _same(row, r))
        if names:
            row["alert_id"] = names[0][1]
            old.pop(names[0][1])
        else:
            new.append(row["alert_id"])
        source = source_of(*Path(alert.strongest.product).resolve().parents)
        rows.append(row | {"source": source} | dict(provenance))
    with writing(out):
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(out / TABLE, _table(rows))
    write_map(out / MAP, map(_as_entry, rows), provenance)
    return rows, new


def _same(row: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether two rows are of one alert: a pair in common, and places that meet."""
    if row["frame_id"] != old["frame_id"] or not set(row["pairs"]) & set(old["pairs"]):
        return False
    shapes = [shapely.make_valid(shapely.Polygon(r["outline"])) for r in (row, old)]
    return bool(shapes[0].intersects(shapes[1]))


def find_products(folder: Path) -> list[Path]:
    """Interferograms in a folder; none is no error: the first may be still to come."""
    try:
        return find_images([folder])
    except HephError:
        return []


def describe(path: Path, folder: Path, stamps: dict[Path, str] | None = None) -> Product:
    """What a product is by its name and its folders.

    Args:
        path: Its file.
        folder: The watched folder, for products outside a frame's folder.
        stamps: Of frames' own files by the folder of a frame's pairs, kept between calls.

    Returns:
        The product.

    Raises:
        HephError: Its name is no pair of dates, earlier first, or the file is gone.
    """
    dates = dates_of(stem_of(path))
    if dates is None:
        reverse = dates_of("_".join(stem_of(path).split("_")[::-1]))
        what = "dates in reverse" if reverse else f"{stem_of(path)} is no pair of dates"
        raise HephError(str(path), what, "name it <primary>_<secondary>, e.g. 20200101_20200113")
    stamps = {} if stamps is None else stamps
    shared = path.parent.parent
    if shared not in stamps:
        stamps[shared] = _stamp([file for file in frame_files(path).values() if file is not None])
    if not path.is_file():
        raise HephError(str(path), "cannot be read", "see its rights")
    stamp = _stamp([path, coherence_of(path)]) + stamps[shared]
    return Product(path, frame_of(path) or folder.resolve().name, dates, stamp)


def _stamp(files: Sequence[Path | None]) -> str:
    """Of the sizes and times of change of files; one that is missing counts as well."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = None if file is None else file.stat()
        except OSError:
            stat = None
        told = None if stat is None or file is None else (file.name, stat.st_size, stat.st_mtime_ns)
        digest.update(repr(told).encode())
    return digest.hexdigest()[:12]


def sightings_of(entry: Mapping[str, Any], product: Product) -> list[Sighting]:
    """Patterns of a pair that speak of the ground.

    Args:
        entry: Of `detect.look`.
        product: Which pair it is.

    Returns:
        None where no deformation is seen, or where the product itself is useless.
    """
    useless = any(entry["quality"].get(flag, 0.0) >= 0.5 for flag in _USELESS)
    if useless or not entry["deformation"]["present"]:
        return []
    height = None if entry["height"] is None else entry["height"]["correlation"]
    found = []
    for outline in entry["polygons"]:
        ring = outline.get("lonlat")
        motion = outline["motion"] or {"los_sense": "unknown", "centimetres": None}
        found.append(
            Sighting(
                product.frame_id,
                *product.dates,
                str(product.path),
                outline["type"],
                outline["probability"],
                tuple((x, y) for x, y in (outline["polygon"] if ring is None else ring)),
                ring is not None,
                motion["los_sense"],
                motion["centimetres"],
                height,
            )
        )
    return found


@dataclass(frozen=True)
class News:
    """The state of a watch after a look at the folder.

    Attributes:
        watch: All that was seen.
        alerts: Rows of `alerts.jsonl`.
        new: Ids of the alerts that were not there before.
        looked: How many products were new.
    """

    watch: Watch
    alerts: list[dict[str, Any]]
    new: list[str]
    looked: int


def watch(
    folder: Path,
    out: Path,
    heads: "Heads",
    model: Path,
    *,
    every: float | None = None,
    near_days: int = NEAR_DAYS,
    bbox: Box | None = None,
    retry_s: float = 5.0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[News]:
    """Look at what is new in a folder, once or again and again.

    Args:
        folder: Folder of products.
        out: Folder of the memory and the alerts.
        heads: The model.
        model: Its folder, for the provenance.
        every: Seconds between two looks at the folder; None: once, until each file has been read
            or given up.
        near_days: Most days between pairs that speak of the same unrest.
        bbox: Look into this box only.
        retry_s: Seconds before a file that could not be read is tried again.
        progress: Called with products done and found.

    Yields:
        The state at first, and whenever something was new.

    Raises:
        HephError: See `Watch.open`.
    """
    state = Watch.open(folder, out, heads.model_id, bbox)
    first = True
    while True:
        products = state.new_products()
        done = 0
        for place, product in enumerate(products, 1):
            done += state.look(product, heads)
            if progress is not None:
                progress(place, len(products))
        left = len(products) - done
        if (done or first) and (every is not None or not left):
            first = False
            alerts = find_alerts(state.sightings, near_days)
            rows, new = update_alerts(out, alerts, made_by(model, heads.model_id))
            yield News(state, rows, new, done)
        if every is None and not left:
            return
        time.sleep(retry_s if left else every or 0.0)


def _sighting(entry: Mapping[str, Any]) -> Sighting:
    """Of a line of the memory."""
    dates = {name: date.fromisoformat(entry[name]) for name in ("primary_date", "secondary_date")}
    ring = tuple((float(x), float(y)) for x, y in entry["ring"])
    return Sighting(**{**entry, **dates, "ring": ring})


def _for_json(sighting: Sighting) -> dict[str, Any]:
    entry = asdict(sighting)
    for name in ("primary_date", "secondary_date"):
        entry[name] = entry[name].isoformat()
    return entry


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Alerts as CSV; lists are joined by "; ", outlines left to the other files."""
    names = [name for name in COLUMNS if name != "outline"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: row[name] for name in names}
        writer.writerow({k: "; ".join(v) if isinstance(v, list) else v for k, v in cells.items()})
    return text.getvalue()


def _as_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as `maps` wants detections."""
    outline = {name: row[name] for name in COLUMNS if name != "outline"}
    lonlat = row["outline"] if row["longitude"] is not None else None
    return {
        "image": row["frame_id"],
        "source": row["source"],
        "deformation": {"present": True},
        "polygons": [outline | {"lonlat": lonlat}],
    }
