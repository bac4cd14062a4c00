"""`heph-vl index` and `heph-vl search`: embed interferograms, then find them by text or image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heph_vl.commands.output import (
    Json,
    Model,
    Strict,
    examples,
    print_json,
    print_report,
    progress_bar,
    say,
    spinner,
    stdout_console,
)

if TYPE_CHECKING:
    from heph_vl.index import Hit
    from heph_vl.search import Found

INDEX_EXAMPLES = examples(
    "heph-vl index runs/dataset runs/index",
    "heph-vl index folder_of_pngs runs/index --model user/retriever@v1.0",
)
SEARCH_EXAMPLES = examples(
    'heph-vl search runs/index "sill-type deformation of high intensity on the left" -k 10',
    'heph-vl search runs/index "turbulent mixing" --where "frame_id = \'124D_05291_081406\' AND '
    "primary_date > '2018'\"",
    "heph-vl search runs/index --image 20180101_20180113.geo.diff.png --sheet out.png",
    'heph-vl search runs/index "mogi-type deformation" --heatmap where.png',
)


def index(
    data: Annotated[Path, typer.Argument(help="A dataset, an archive, or a folder of images.")],
    index: Annotated[Path, typer.Argument(help="Folder of the index; made, or added to.")],
    model: Model = None,
    split: Annotated[str | None, typer.Option(help="Only this split of a dataset.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Prepare approximate search, for large indexes.")
    ] = False,
    moved: Annotated[
        bool,
        typer.Option("--moved", help="Images indexed from another folder before are the same."),
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Embed interferograms and store them for search.

    An image that is in the index already is replaced.
    """
    from heph_vl.hub import model_folder
    from heph_vl.search import build_index

    with progress_bar("Embedding") as progress:
        report = build_index(
            data,
            index,
            model_folder(model, "retriever"),
            split=split,
            batch_size=batch_size,
            strict=strict,
            approximate=approximate,
            moved=moved,
            progress=progress,
        )
    print_report({"index": str(index), **report}, as_json)


def search(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 10,
    where: Annotated[
        str | None, typer.Option(help='Filter on columns, e.g. "low_coherence = FALSE".')
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for images like this one.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of the results.")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Look into a part of a large index only.")
    ] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="Write a picture of the results, bright where they agree with it."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the images for --heatmap, if it has moved.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder of the index's retriever, or user/repo, if it has moved."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find interferograms by text, or by another interferogram."""
    if (text is None) == (image is None):
        raise typer.BadParameter("give either a text or --image")
    if data is not None and heatmap is None:
        raise typer.BadParameter("--data is for --heatmap, which is not given")
    from heph_vl import search as searching
    from heph_vl.hub import model_folder

    with spinner("Searching"):
        found = searching.search(
            index,
            model=None if model is None else model_folder(model, "retriever"),
            text=text,
            image=image,
            k=k,
            where=where,
            approximately=approximate,
            heat=heatmap is not None,
            data=data,
        )
    if found.read_as and found.read_as != text:
        say(f"read as: {found.read_as}")
    if found.not_understood:
        say(f"not understood: {', '.join(found.not_understood)}")
    for problem in found.problems:
        say(f"no heat map: {problem}")
    title = text or str(image)
    for path, maps in ((sheet, ()), (heatmap, found.heat)):
        if path is not None and found.hits:
            from heph_vl.sheet import draw_hits

            draw_hits(found.hits, found.thumbnails, path, title=title, heat=maps)
        elif path is not None:
            say(f"no results: {path} is not written")
    if as_json:
        print_json([hit.to_json() | _peak(found, i) for i, hit in enumerate(found.hits)])
    else:
        _print_hits(found.hits)


def _peak(found: "Found", number: int) -> dict[str, list[int] | None]:
    """Where the heat map of a hit is highest, x and y [px], if one was asked for."""
    if not found.heat:
        return {}
    heat = found.heat[number]
    return {"peak": None if heat is None else list(heat.peak)}


def _print_hits(hits: Sequence["Hit"]) -> None:
    from rich.table import Table

    table = Table("rank", "score", "id", "frame", "dates", "labels", "caption")
    for hit in hits:
        row = hit.row
        labels = ", ".join(row["activity_types"] or []) or "-"
        table.add_row(
            str(hit.rank),
            f"{hit.score:.3f}",
            str(row["image_id"]),
            row["frame_id"] or "-",
            f"{row['primary_date'] or '-'} {row['secondary_date'] or ''}".strip(),
            labels,
            row["caption"] or "-",
        )
    stdout_console().print(table)
