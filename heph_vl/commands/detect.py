"""`heph-vl detect`: what deforms in images, how strong and where, and which are any good."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from heph_vl.commands.output import Json, examples, print_json, progress_bar, say, stdout_console
from heph_vl.errors import HephError

EXAMPLES = examples(
    "heph-vl detect 20180101_20180113.geo.diff.png --model weights/heads --out found",
    "heph-vl detect folder_of_images --model runs/heads/tiny/model --json > found.json",
)


def detect(
    images: Annotated[
        list[Path], typer.Argument(help="LiCSAR PNGs, GeoTIFFs or .npy in radians, or folders.")
    ],
    model: Annotated[Path, typer.Option(help="Folder of the heads.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for masks and pictures with outlines.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what deforms, how strong and where, and whether the product is any good.

    An image that cannot be read is listed; the others are answered, and the exit code is 1.
    """
    from heph_vl import detect as detecting

    paths = detecting.find_images(images)
    entries: list[dict[str, Any]] = []
    failed = 0
    with progress_bar("Detecting") as progress:
        answers = detecting.detect(paths, model, out)
        for done, (path, answer) in enumerate(zip(paths, answers, strict=True), 1):
            if isinstance(answer, HephError):
                failed += 1
                answer = {"image": str(path), "error": str(answer)}
            entries.append(answer)
            progress(done, len(paths))
    if as_json:
        print_json(entries)
    else:
        _print_detections(entries)
    for entry in entries:
        if "error" in entry and not as_json:
            say(f"error: {entry['error']}")
    if failed:
        raise typer.Exit(1)


def _print_detections(entries: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    table = Table("image", "deformation", "type", "intensity", "patches", "atmosphere", "quality")
    for entry in entries:
        if "error" in entry:
            table.add_row(Path(entry["image"]).name, "not read", "-", "-", "-", "-", "-")
            continue
        there = entry["deformation"]["present"]
        best = {
            name: max(entry[name], key=entry[name].get)
            for name in ("activity_types", "intensity", "atmosphere")
        }
        table.add_row(
            Path(entry["image"]).name,
            f"{entry['deformation']['probability']:.3f} {'yes' if there else 'no'}",
            best["activity_types"] if there else "-",
            best["intensity"] if there else "-",
            str(len(entry["polygons"])),
            best["atmosphere"],
            ", ".join(name for name, p in entry["quality"].items() if p >= 0.5) or "-",
        )
    stdout_console().print(table)
