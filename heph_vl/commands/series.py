"""`heph-vl series`: the interferograms of a frame in order of time, and the series of them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from heph_vl.commands.output import (
    Json,
    Model,
    examples,
    print_json,
    progress_bar,
    say,
    stdout_console,
)

EXAMPLES = examples(
    "heph-vl series annotations.tar.gz --frame 124D_04854_171313",
    "heph-vl series runs/archive --frame 124D_04854_171313 --max-gap 30 --plot series.png",
    "heph-vl series runs/archive --score quality --json",
)


def series(
    source: Annotated[Path, typer.Argument(help="An archive, or annotations alone.")],
    frame: Annotated[
        str | None, typer.Option(help="LiCSAR frame; may be left out where there is only one.")
    ] = None,
    score: Annotated[
        Literal["record", "coherence", "quality"] | None,
        typer.Option(
            help="What a pair tells: by its record, its mean coherence, or what heads see; "
            "by record where there are records, else by coherence."
        ),
    ] = None,
    model: Model = None,
    max_gap: Annotated[
        int | None, typer.Option(min=0, help="Most days between two pairs that neither sees.")
    ] = None,
    primary_once: Annotated[
        bool, typer.Option("--primary-once", help="At most one pair of each primary date.")
    ] = False,
    nested: Annotated[
        bool, typer.Option("--nested", help="List all pairs of pairs without an order as well.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Picture to write (.png, .pdf, .svg).")] = None,
    as_json: Json = False,
) -> None:
    """Find the series of interferograms, each before the next, that tells most in all.

    A pair is before another when neither of its dates is later and one is earlier. Pairs of which
    one spans the other have no order.
    """
    from heph_vl.hub import model_folder
    from heph_vl.series import find_series
    from heph_vl.series_plot import draw_series

    with progress_bar("Scoring") as progress:
        found = find_series(
            source,
            frame,
            kind=score,
            model=model_folder(model, "heads") if score == "quality" else None,
            max_gap=max_gap,
            primary_once=primary_once,
            progress=progress,
        )
    if plot is not None:
        draw_series(found, plot)
    rows = [found.row(position) for position in range(len(found.chosen))]
    total = sum(found.scores[i] for i in found.chosen)
    without_order = [[found.pairs[i].name for i in both] for both in found.nested if nested]
    if as_json:
        report = {
            "frame_id": found.frame_id,
            "score": found.kind,
            "pairs": len(found.pairs),
            "without_order": len(found.nested),
            "total": total,
            "estimated_coherence": found.estimated,
            "series": rows,
            "plot": plot,
            "problems": [str(problem) for problem in found.problems],
        }
        print_json(report | ({"nested": without_order} if nested else {}))
        return
    _print_rows(rows)
    for outer, inner in without_order:
        print(f"{outer} spans {inner}")
    for problem in found.problems:
        say(f"left out: {problem}")
    if found.estimated:
        say(f"{found.estimated} pairs without a coherence file: estimated from the phase")
    say(
        f"{found.frame_id}: {len(rows)} of {len(found.pairs)} pairs, total {total:.2f} "
        f"(score by {found.kind}); {len(found.nested)} pairs of pairs have no order"
        + (f"; {plot}" if plot else "")
    )


def _print_rows(rows: list[dict[str, object]]) -> None:
    from rich.table import Table

    table = Table("primary", "secondary", "score", "gap [days]", "record", "deformation")
    for row in rows:
        kinds = row["activity_types"]
        named = ", ".join(map(str, kinds)) if isinstance(kinds, list) and kinds else "-"
        gap, record = row["gap_days"], row["unique_id"]
        table.add_row(
            str(row["primary_date"]),
            str(row["secondary_date"]),
            f"{row['score']:.3f}",
            "-" if gap is None else str(gap),
            "-" if record is None else str(record),
            named,
        )
    stdout_console().print(table)
