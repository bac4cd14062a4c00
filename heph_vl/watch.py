"""A folder of products watched: new pairs are looked at, and alerts told when two of them agree.

    OUT/watch.jsonl         a line for each product looked at: what was seen, or why it was not read
    OUT/alerts.jsonl, .csv  the alerts as they stand
    OUT/alerts.geojson      the same as a map, of those that have a place

`watch.jsonl` is the memory: a stopped watch goes on where it was, and a product whose file has
changed is looked at again.
"""

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heph_vl.alerts import COLUMNS, NEAR_DAYS, Alert, Sighting, find_alerts
from heph_vl.data.archive import dates_of, frame_of
from heph_vl.data.picture import Box, find_images, read_picture, stem_of
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
        stamp: Size and time of change of the file: another one is looked at again.
    """

    path: Path
    frame_id: str
    dates: tuple[date, date]
    stamp: tuple[int, int]


@dataclass
class Watch:
    """What has been looked at, and what it says.

    Attributes:
        folder: The watched folder.
        out: Where the memory and the alerts lie.
        seen: By path, the stamp of a product that was looked at or given up.
        sightings: By path, what was seen in it.
        problems: By path, why a product was not looked at.
        tries: By path and stamp, how often it could not be read.
    """

    folder: Path
    out: Path
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    sightings: dict[str, list[Sighting]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    tries: Counter[tuple[str, tuple[int, int]]] = field(default_factory=Counter)

    @classmethod
    def open(cls, folder: Path, out: Path) -> "Watch":
        """A new watch, or the one whose memory lies in `out`.

        Args:
            folder: Folder of products.
            out: Folder to write, made if it is not there.

        Returns:
            The watch.

        Raises:
            HephError: `folder` is no folder, `out` lies in it, or the memory is damaged.
        """
        if not folder.is_dir():
            raise HephError(str(folder), "no such folder", "give the folder of the products")
        if out.resolve().is_relative_to(folder.resolve()):
            what = f"lies in the watched folder {folder}"
            raise HephError(str(out), what, "choose another folder")
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        watch = cls(folder, out)
        memory = out / MEMORY
        if memory.is_file():
            # A line cut by a kill is one product that will be looked at again.
            for line in memory.read_text().splitlines():
                watch._recall(line)
        return watch

    def _recall(self, line: str) -> None:
        try:
            entry = json.loads(line)
            path, stamp = entry["path"], tuple(entry["stamp"])
            sightings = [_sighting(one) for one in entry["sightings"]]
        except (ValueError, KeyError, TypeError):
            return
        self._note(path, stamp, sightings, entry.get("problem"))

    def _note(
        self,
        path: str,
        stamp: tuple[int, int],
        sightings: list[Sighting],
        problem: str | None,
    ) -> None:
        self.seen[path] = stamp
        self.sightings[path] = sightings
        self.problems.pop(path, None)
        if problem is not None:
            self.problems[path] = problem

    def new_products(self) -> list[Product]:
        """Products that have not been looked at as they are now; odd names go to `problems`."""
        self.problems = {path: why for path, why in self.problems.items() if Path(path).exists()}
        found: list[Product] = []
        pairs: dict[tuple[str, tuple[date, date]], Path] = {}
        for path in find_products(self.folder):
            try:
                product = describe(path, self.folder)
                first = pairs.setdefault((product.frame_id, product.dates), path)
                if first is not path:
                    what = f"the same pair of {product.frame_id} as {first}"
                    raise HephError(str(path), what, "keep one of the two; the first was taken")
            except HephError as problem:
                self.problems[str(path)] = str(problem)
                continue
            if self.seen.get(str(path)) != product.stamp:
                found.append(product)
        return found

    def look(self, product: Product, heads: "Heads", bbox: Box | None = None) -> bool:
        """Look at a product and remember what it shows.

        Args:
            product: Of `new_products`.
            heads: The model.
            bbox: Look into this box only: west, south, east, north [deg].

        Returns:
            Whether it was looked at or given up; else it will be tried again.
        """
        path, problem = str(product.path), None
        sightings: list[Sighting] = []
        try:
            entry = look(read_picture(product.path, bbox), heads)
            sightings = sightings_of(entry, product)
        except HephError as error:
            key = path, product.stamp
            self.tries[key] += 1
            problem = str(error)
            if self.tries[key] < TRIES:
                self.problems[path] = f"{problem}; tried {self.tries[key]} of {TRIES} times"
                return False
        self._note(path, product.stamp, sightings, problem)
        line = {
            "path": path,
            "stamp": list(product.stamp),
            "frame_id": product.frame_id,
            "sightings": [_for_json(s) for s in sightings],
        } | ({} if problem is None else {"problem": problem})
        with writing(self.out), (self.out / MEMORY).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return True

    def alerts(self, near_days: int = NEAR_DAYS) -> list[Alert]:
        """The alerts that all sightings so far make."""
        return find_alerts((s for some in self.sightings.values() for s in some), near_days)

    def write_alerts(self, alerts: Iterable[Alert], provenance: dict[str, str]) -> list[str]:
        """Write the alerts as lines, table and map.

        Args:
            alerts: Of `alerts`.
            provenance: Of `maps.made_by`, in each line.

        Returns:
            Ids of those that were not there before.

        Raises:
            HephError: A file cannot be written.
        """
        rows = [alert.row() | provenance for alert in alerts]
        old = self.out / ALERTS
        before = set()
        if old.is_file():
            before = {json.loads(line)["alert_id"] for line in old.read_text().splitlines()}
        write_text(old, "".join(json.dumps(row) + "\n" for row in rows))
        write_text(self.out / TABLE, _table(rows))
        write_map(self.out / MAP, map(_as_entry, rows), provenance)
        return [row["alert_id"] for row in rows if row["alert_id"] not in before]


def find_products(folder: Path) -> list[Path]:
    """Interferograms in a folder; none is no error: the first may be still to come."""
    try:
        return find_images([folder])
    except HephError:
        return []


def describe(path: Path, folder: Path) -> Product:
    """What a product is by its name and its folders.

    Args:
        path: Its file.
        folder: The watched folder, for products outside a frame's folder.

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
    frame_id = frame_of(path) or folder.resolve().name
    try:
        stat = path.stat()
    except OSError as error:
        raise HephError(str(path), f"cannot be read: {error.strerror}", "see its rights") from error
    return Product(path, frame_id, dates, (stat.st_size, stat.st_mtime_ns))


def sightings_of(entry: dict[str, Any], product: Product) -> list[Sighting]:
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
            )
        )
    return found


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
) -> Iterator[tuple[Watch, list[Alert], list[str]]]:
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
        After each look: the watch, its alerts, and the ids of the new ones.

    Raises:
        HephError: See `Watch.open`.
    """
    state = Watch.open(folder, out)
    provenance = made_by(model, heads.model_id)
    while True:
        waiting = state.new_products()
        total = len(waiting)
        left = []
        for done, product in enumerate(waiting, 1):
            if not state.look(product, heads, bbox):
                left.append(product)
            if progress is not None:
                progress(done, total)
        alerts = state.alerts(near_days)
        if not left or every is not None:
            yield state, alerts, state.write_alerts(alerts, provenance)
        if not left and every is None:
            return
        time.sleep(retry_s if left else every or 0.0)


def _sighting(entry: dict[str, Any]) -> Sighting:
    """Of a line of the memory."""
    dates = {name: date.fromisoformat(entry[name]) for name in ("primary_date", "secondary_date")}
    ring = tuple((float(x), float(y)) for x, y in entry["ring"])
    return Sighting(**(entry | dates | {"ring": ring}))


def _for_json(sighting: Sighting) -> dict[str, Any]:
    entry = asdict(sighting)
    for name in ("primary_date", "secondary_date"):
        entry[name] = entry[name].isoformat()
    return entry


def _table(rows: list[dict[str, Any]]) -> str:
    """Alerts as CSV; lists are joined by spaces, outlines left to the other files."""
    names = [name for name in COLUMNS if name != "outline"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: row[name] for name in names}
        writer.writerow({k: " ".join(v) if isinstance(v, list) else v for k, v in cells.items()})
    return text.getvalue()


def _as_entry(row: dict[str, Any]) -> dict[str, Any]:
    """An alert as `maps` wants detections."""
    outline = {name: value for name, value in row.items() if name != "outline"}
    lonlat = row["outline"] if row["longitude"] is not None else None
    return {"image": row["frame_id"], "polygons": [outline | {"lonlat": lonlat}]}
