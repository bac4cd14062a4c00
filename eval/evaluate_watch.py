"""How often `heph-vl watch` cries wolf, and how late it is, on simulated series of unseen places.

    python eval/evaluate_watch.py --model weights/heads --out runs/eval/watch.json

Each series is a frame of the test part of the grouped split with acquisitions 6 to 36 days apart;
each date is paired with the next three, as LiCSAR does. It is made twice, with the same air, noise
and ground: with its sources, and with none. Without any, every alert is false. With them:

    onset     the first date at which a source has changed by a clear part of a fringe (0.8)
    on it     a sighting that ends at the onset or later, within 10 px (3 km) of the source's middle
    told      the sightings on it make an alert; its delay is from the onset to that day
    off       alerts of the moving series of which no sighting is within 10 px of any source

Sources are counted that have at least one more date after their onset: two pairs without a common
date must span it. `single` is the same with one pair as enough: the price of waiting for another.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from eval.evaluate import finished
from heph_vl.alerts import Sighting, find_alerts
from heph_vl.data import splits
from heph_vl.data.picture import Picture, native_picture
from heph_vl.detect import look
from heph_vl.errors import HephError
from heph_vl.files import write_text
from heph_vl.metrics.bootstrap import clusters
from heph_vl.models.heads import Heads
from heph_vl.simulate.frame import CLEAR, ActiveSource, Frame, draw_frame
from heph_vl.simulate.place import FINE_PER_NATIVE, seeded
from heph_vl.simulate.scene import observe
from heph_vl.watch import Product, sightings_of

NEXT = 3  # dates that each is paired with
NEAR_PX = 10.0


def series_of(
    frame: Frame, heads: Heads, seed: int, progress: Callable[[], None]
) -> list[Sighting]:
    """What the heads see in all pairs of a frame, in pixels of 1/300 degree."""
    found: list[Sighting] = []
    number = len(frame.dates)
    for pair in ((i, j) for i in range(number) for j in range(i + 1, min(i + 1 + NEXT, number))):
        dates = frame.dates[pair[0]], frame.dates[pair[1]]
        name = f"{dates[0]:%Y%m%d}_{dates[1]:%Y%m%d}"
        generator = seeded(seed, frame.place.site.frame_id, "watch", *pair)
        scene = observe([frame.layers(pair)], [generator])[0]
        place = frame.place.georeference
        picture = native_picture(
            Path(name), scene.wrapped_phase.numpy(), scene.valid.numpy(), scene.coherence.numpy(),
            place,
        )  # fmt: skip
        product = Product(Path(name), frame.place.site.frame_id, dates)
        found += _native(sightings_of(look(picture, heads), product), picture)
        progress()
    return found


def _native(sightings: Sequence[Sighting], picture: Picture) -> list[Sighting]:
    """Sightings with outlines in pixels at 1/300 degree."""
    place = picture.place
    assert place is not None  # simulated frames lie somewhere
    return [
        replace(s, ring=tuple(place.pixel(*point) for point in s.ring), placed=False)
        for s in sightings
    ]


def onset(source: ActiveSource, dates: Sequence[date]) -> date | None:
    """The first date at which a source has changed clearly since the first one."""
    changed = [abs(level - source.levels[0]) >= CLEAR for level in source.levels]
    return dates[changed.index(True)] if any(changed) else None


def near(sighting: Sighting, source: ActiveSource, frame: Frame) -> bool:
    """Whether a sighting is where a source is."""
    grid = frame.place.grid
    x = (source.source.east / grid.dx + (grid.width - 1) / 2 + 0.5) / FINE_PER_NATIVE
    y = ((grid.height - 1) / 2 - source.source.north / grid.dy + 0.5) / FINE_PER_NATIVE
    return bool(sighting.polygon.distance(shapely.Point(x, y)) <= NEAR_PX)


def told(
    sightings: Sequence[Sighting], frame: Frame, *, single: bool
) -> tuple[list[dict[str, Any]], int]:
    """When each source of a frame was told, and how many alerts are on none."""
    sources = []
    for source in frame.sources:
        began = onset(source, frame.dates)
        if began is None or began == frame.dates[-1]:
            continue
        on_it = [s for s in sightings if s.secondary_date >= began and near(s, source, frame)]
        raised = [alert.raised for alert in find_alerts(on_it, single=single)]
        delay = (min(raised) - began).days if raised else None
        kind = source.source.kind
        sources.append({"kind": kind, "onset": began.isoformat(), "delay": delay})
    off = [
        alert
        for alert in find_alerts(sightings, single=single)
        if not any(near(s, source, frame) for s in alert.sightings for source in frame.sources)
    ]
    return sources, len(off)


def measure(
    frame_id: str, seed: int, dates: int, size: int, heads: Heads, progress: Callable[[], None]
) -> dict[str, Any]:
    """One place, with and without its sources: alarms of both, and when each source was told."""
    frame = draw_frame(frame_id, size, dates, seed)
    still = series_of(replace(frame, sources=()), heads, seed, progress)
    moving = series_of(frame, heads, seed, progress)
    days = (frame.dates[-1] - frame.dates[0]).days
    row: dict[str, Any] = {
        "frame_id": frame_id,
        "group": splits.FRAMES[frame_id].group,
        "seed": seed,
        "years": days / 365.25,
    }
    for name, single in (("two pairs", False), ("single", True)):
        sources, off = told(moving, frame, single=single)
        false = len(find_alerts(still, single=single))
        row[name] = {"false_alarms": false, "off": off, "sources": sources}
    return row


def summarise(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """False alarms a frame-year, share of sources told, and delays, over all series."""
    groups = sorted({row["group"] for row in rows})
    weights = np.array([[row["group"] == group for group in groups] for row in rows], float)
    years = np.array([row["years"] for row in rows])
    summary: dict[str, Any] = {"series": len(rows), "frame_years": float(years.sum())}
    for name in ("two pairs", "single"):
        false = np.array([row[name]["false_alarms"] for row in rows], float)
        found = clusters(weights, groups, seed=seed)
        count, span = found.mean(false), found.mean(years)
        rate = found.estimate(lambda draws, c=count, s=span: c(draws) / s(draws))
        sources = [s | {"group": row["group"]} for row in rows for s in row[name]["sources"]]
        of_group = np.array([[s["group"] == group for group in groups] for s in sources], float)
        found_out = np.array([s["delay"] is not None for s in sources], float)
        delays = [s["delay"] for s in sources if s["delay"] is not None]
        share = clusters(of_group, groups, seed=seed)
        summary[name] = {
            "false_alarms_per_frame_year": {k: rate[k] for k in ("value", "interval")},
            "false_alarms": int(false.sum()),
            "sources": len(sources),
            "told": {k: share.estimate(share.mean(found_out))[k] for k in ("value", "interval")},
            "off_source": sum(row[name]["off"] for row in rows),
            "median_delay_days": float(np.median(delays)) if delays else None,
            "delay_quartiles_days": np.percentile(delays, (25, 75)).tolist() if delays else None,
        }
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, watch, score, write."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path("weights/heads"))
    parser.add_argument("--out", type=Path, required=True, help="results (.json)")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--dates", type=int, default=16, help="acquisitions of a series")
    parser.add_argument("--size", type=int, default=192, help="side in pixels, a multiple of 3")
    parser.add_argument("--repeats", type=int, default=1, help="series of each frame")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except HephError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    heads = Heads.from_pretrained(options.model)
    frames = [
        frame.frame_id
        for frame in splits.FRAMES.values()
        if frame.split == options.split and "_SM_" not in frame.frame_id
    ]
    jobs = [(frame_id, options.seed + k) for k in range(options.repeats) for frame_id in frames]
    pairs = sum(min(NEXT, options.dates - 1 - i) for i in range(options.dates))
    rows = []
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Watching series", total=2 * pairs * len(jobs))
        for frame_id, seed in jobs:
            advance = lambda: bar.advance(task)  # noqa: E731
            rows.append(measure(frame_id, seed, options.dates, options.size, heads, advance))
    results = finished(
        {
            "task": "watch",
            "data": f"simulated series, frames of the {options.split} part",
            "model": str(options.model),
            "model_id": heads.model_id,
            "seed": options.seed,
            "dates": options.dates,
            "size": options.size,
            "pairs": 2 * pairs * len(jobs),
            "summary": summarise(rows, options.seed),
            "series": rows,
        }
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    Console().print(table_of(results["summary"]))


def table_of(summary: dict[str, Any]) -> Table:
    """The summary for people."""
    titles = "alarm at", "false / frame-year", "sources told", "median delay [days]", "off"
    title = f"{summary['series']} series, {summary['frame_years']:.1f} frame-years without motion"
    table = Table(*titles, title=title)
    for name in ("two pairs", "single"):
        row = summary[name]
        delay = row["median_delay_days"]
        table.add_row(
            name,
            _with_interval(row["false_alarms_per_frame_year"]),
            f"{_with_interval(row['told'])} of {row['sources']}",
            "-" if delay is None else f"{delay:.0f}",
            str(row["off_source"]),
        )
    return table


def _with_interval(found: dict[str, Any]) -> str:
    interval = found["interval"]
    text = f"{found['value']:.2f}"
    return text if interval is None else f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
