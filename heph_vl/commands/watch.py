"""`heph-vl watch`: look at new products of a folder, and raise alerts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heph_vl.commands.output import (
    Bbox,
    Json,
    Model,
    check_box,
    examples,
    print_json,
    progress_bar,
    say,
    stdout_console,
)

if TYPE_CHECKING:
    from heph_vl.watch import News

EXAMPLES = examples(
    "heph-vl watch 124D_05291_081406 --out runs/watch",
    "heph-vl watch LICSAR --out runs/watch --every 3600 --bbox 14.8 37.6 15.2 37.9",
    "heph-vl watch runs/archive --out runs/watch --json > alerts.json",
)


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder of LiCSAR products, of any depth.")],
    out: Annotated[Path, typer.Option(help="Folder of memory, alerts (JSON lines, CSV) and map.")],
    model: Model = None,
    every: Annotated[
        float | None, typer.Option(min=1, help="Look again after so many seconds, until Ctrl-C.")
    ] = None,
    near_days: Annotated[
        int, typer.Option(min=0, help="Most days between pairs that speak of the same unrest.")
    ] = 60,
    bbox: Bbox = None,
    as_json: Json = False,
) -> None:
    """Look at the new pairs of a folder; alert when two without a common date agree on a place.

    Pairs that share a date share its air, so they never make an alert by themselves. Running again
    goes on where it was. A product that cannot be read is tried again, then listed, and the exit
    code is 1.
    """
    if as_json and every is not None:
        raise typer.BadParameter("--json is for one look: with --every read OUT/alerts.jsonl")
    from heph_vl.embed import on_best_device
    from heph_vl.hub import model_folder
    from heph_vl.models.heads import Heads
    from heph_vl.watch import watch as watching

    box = check_box(bbox)
    weights = model_folder(model, "heads")
    heads = on_best_device(Heads.from_pretrained(weights))
    problems: list[str] = []
    with progress_bar("Watching") as progress:
        for news in watching(
            folder,
            out,
            heads,
            weights,
            every=every,
            near_days=near_days,
            bbox=box,
            progress=progress,
        ):
            for problem in news.watch.problems:
                if problem not in problems:
                    say(f"not read: {problem}")
            problems = news.watch.problems
            if as_json:
                print_json(_report(news))
            else:
                _print_alerts(news)
    if problems:
        raise typer.Exit(1)


def _report(news: "News") -> dict[str, object]:
    return {
        "products": len(news.watch.looked),
        "looked_at_now": news.looked,
        "sightings": len(news.watch.sightings),
        "alerts": news.alerts,
        "new": news.new,
        "remarks": dict(news.watch.remarks),
        "problems": news.watch.problems,
        "out": str(news.watch.out),
    }


def _print_alerts(news: "News") -> None:
    from rich.table import Table

    from heph_vl.motion import SIGNIFICANT

    titles = "", "raised", "frame", "type", "p", "where", "motion", "pairs", "confirmed by"
    table = Table(*titles)
    for row in news.alerts:
        where = ", ".join(row["volcanoes"][:2])
        if not where and row["longitude"] is not None:
            where = f"{row['longitude']:.2f} {row['latitude']:.2f}"
        motion = "-"
        if row["centimetres"] is not None:
            sense = row["los_sense"]
            motion = f"{abs(row['centimetres']):.1f} cm "
            motion += "sense unknown" if sense == "unknown" else sense
        if abs(row["height_correlation"] or 0.0) >= SIGNIFICANT:
            motion += ", follows height"
        table.add_row(
            "new" if row["alert_id"] in news.new else "",
            row["raised"],
            row["frame_id"],
            row["type"],
            f"{row['probability']:.2f}",
            where or f"x {row['x']:.0f}, y {row['y']:.0f}",
            motion,
            str(len(row["pairs"])),
            ", ".join(row["confirmed_by"]) or "-",
        )
    if news.alerts:
        stdout_console().print(table)
    remarks = "".join(f", {count} {what}" for what, count in news.watch.remarks.items())
    say(
        f"{len(news.watch.looked)} products looked at{remarks}; {len(news.alerts)} alerts, "
        f"{len(news.new)} of them new; in {news.watch.out}"
    )
