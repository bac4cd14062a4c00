"""The part of a report on time: alarms and delays, alerts raised, and the pairs of a frame."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.report_cells import ABSENT, estimate, number
from eval.report_files import Result, who, who_head
from heph_vl import page
from heph_vl.data.annotations import check_frame_id
from heph_vl.errors import HephError

_RULES = {"two pairs": "two pairs without a common date", "single": "a single pair is enough"}


def section(results: Sequence[Result]) -> str:
    """Rules of alarm side by side: the single pair is the baseline.

    Args:
        results: Of watch, at least one.

    Returns:
        Markup.
    """
    rows = []
    for result in results:
        for name, label in _RULES.items():
            row = result.values["summary"][name]
            quartiles = row["delay_quartiles_days"]
            spread = ABSENT if quartiles is None else " to ".join(f"{q:.0f}" for q in quartiles)
            rows.append(
                [
                    label,
                    *who(results, result),
                    *estimate(row["false_alarms_per_frame_year"], ".2f"),
                    str(row["sources"]),
                    *estimate(row["told"], ".2f"),
                    number(row["median_delay_days"], ".0f"),
                    spread,
                    str(row["off_source"]),
                ]
            )
    summary = results[0].values["summary"]
    title = f"{summary['series']} series, {summary['frame_years']:.1f} frame-years without motion"
    head = ["alarm at", *who_head(results), "false / frame-year",
            "95 %", "sources", "told", "95 %", "delay [days]", "quartiles",
            "off"]  # fmt: skip
    note = "Median delay from the first date on which a source could be seen. off: alarms where no "
    note += "source is, with sources elsewhere. Intervals are 95 %, by "
    return page.table(head, rows, caption=title) + page.paragraph(
        note + "resampling groups of volcanoes.", faint=True
    )


def time_line(folder: Path) -> str:
    """The pairs of a frame and their best series, drawn.

    Args:
        folder: A frame of an archive, or an archive of one frame.

    Returns:
        Markup.

    Raises:
        HephError: Nothing there to put in order.
    """
    from heph_vl.series import find_series
    from heph_vl.series_plot import draw_series

    folder = folder.resolve()
    try:
        source, frame = folder.parent, check_frame_id(folder.name, str(folder))
    except HephError:
        source, frame = folder, None
    found = find_series(source, frame)
    with tempfile.TemporaryDirectory() as temporary:
        draw_series(found, Path(temporary) / "series.png")
        drawn = plotted(Path(temporary) / "series.png", found.frame_id)
    problems = [page.missing(f"Left out: {problem}") for problem in found.problems]
    return "".join([drawn, *problems])


def plotted(path: Path, frame_id: str) -> str:
    """A picture of `heph-vl series --plot`, with what is in it."""
    caption = (
        f"{frame_id}. Above: all pairs by first date and length, the line joins the series that "
        "tells most. Below: its pairs from first to second date; red: the record names deformation."
    )
    return page.picture(Image.open(path), caption, side=1200)


def series_table(series: Mapping[str, Any]) -> str:
    """The pairs of `heph-vl series --json`.

    Args:
        series: What it printed.

    Returns:
        Markup.
    """
    rows = [
        [
            row["primary_date"],
            row["secondary_date"],
            number(row["score"]),
            ABSENT if row["gap_days"] is None else str(row["gap_days"]),
            ", ".join(row["activity_types"] or []) or ABSENT,
        ]
        for row in series["series"]
    ]
    head = ["first date", "second date", "score", "gap [days]", "deformation in the record"]
    title = f"{len(rows)} of {series['pairs']} pairs, scored by {series['score']}"
    return page.details(f"The pairs: {title}", page.table(head, rows, caption=title))


def alerts(folder: Path) -> str:
    """Alerts of a folder of `heph-vl watch`.

    Args:
        folder: With alerts.jsonl.

    Returns:
        Markup.

    Raises:
        HephError: There is none, or it is broken.
    """
    path = folder / "alerts.jsonl"
    try:
        found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        rows = [
            [
                alert["raised"],
                alert["frame_id"],
                f"{alert['first_date']} to {alert['last_date']}",
                alert["type"],
                number(alert["probability"]),
                _place(alert),
                _motion(alert),
                str(len(alert["pairs"])),
                ", ".join(alert["volcanoes"]) or ABSENT,
            ]
            for alert in found
        ]
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise HephError(str(path), what, "give a folder of heph-vl watch") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HephError(str(path), f"it is broken: {error}", "watch again") from error
    head = ["raised on", "frame", "dates", "type", "probability", "latitude, longitude",
            "motion", "pairs", "volcanoes near"]  # fmt: skip
    number_of = "1 alert" if len(rows) == 1 else f"{len(rows)} alerts"
    title = f"{number_of}: two pairs without a common date see the same place move"
    return page.table(head, rows, caption=title)


def _place(alert: Mapping[str, Any]) -> str:
    if alert["longitude"] is None:
        return f"{alert['x']:.0f}, {alert['y']:.0f} px"
    return f"{alert['latitude']:.3f}, {alert['longitude']:.3f}"


def _motion(alert: Mapping[str, Any]) -> str:
    """Along the line of sight, relative to the surroundings."""
    if alert["centimetres"] is None:
        return ABSENT
    sense = "" if alert["los_sense"] == "unknown" else f" {alert['los_sense']}"
    return f"{abs(alert['centimetres']):.1f} cm{sense}"
