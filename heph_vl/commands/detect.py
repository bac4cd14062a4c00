"""`heph-vl detect`: what deforms in images, how strong and where, and which are any good."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
from heph_vl.errors import HephError

EXAMPLES = examples(
    "heph-vl detect 20180101_20180113.geo.diff.png --out found",
    "heph-vl detect folder_of_images --model runs/heads/tiny/model --json > found.json",
    "heph-vl detect 124D_05291_081406 --bbox 14.8 37.6 15.2 37.9 --map etna.geojson",
)


def detect(
    images: Annotated[
        list[Path], typer.Argument(help="LiCSAR PNGs, GeoTIFFs or .npy in radians, or folders.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for masks and pictures with outlines.")
    ] = None,
    model: Model = None,
    bbox: Bbox = None,
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="Outlines of GeoTIFFs as a map to write: .geojson or .kml."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="Folder for what is seen as annotations, to be corrected by an analyst."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what deforms, how strong and where, and whether the product is any good.

    An image that cannot be read is listed; the others are answered, and the exit code is 1. Those
    outside --bbox are listed as well, and are no errors. Of a LiCSAR folder the GeoTIFFs are taken:
    they say where they lie. Motion is along the line of sight, relative to the surroundings of a
    pattern.
    """
    from heph_vl import detect as detecting
    from heph_vl.data.picture import OutsideBoxError, find_images
    from heph_vl.embed import on_best_device
    from heph_vl.hub import model_folder
    from heph_vl.maps import check_kind, made_by, write_map
    from heph_vl.models.heads import Heads

    if records is not None and bbox is not None:
        raise typer.BadParameter("--records are of whole pairs: leave --bbox out")
    if map_file is not None:
        check_kind(map_file)
    box = check_box(bbox)
    paths = find_images(images)
    weights = model_folder(model, "heads")
    heads = on_best_device(Heads.from_pretrained(weights))
    entries: list[dict[str, Any]] = []
    failed = 0
    with progress_bar("Detecting") as progress:
        answers = detecting.detect(paths, heads, out, box)
        for done, (path, answer) in enumerate(zip(paths, answers, strict=True), 1):
            if isinstance(answer, HephError):
                failed += not isinstance(answer, OutsideBoxError)
                answer = {"image": str(path), "error": str(answer)}
            entries.append(answer)
            progress(done, len(paths))
    if as_json:
        print_json(entries)
    else:
        _print_detections(entries)
    if records is not None:
        failed += _write_drafts(entries, records)
    if map_file is not None:
        drawn = write_map(map_file, entries, made_by(weights, heads.model_id))
        placed = sum(entry.get("bbox") is not None for entry in entries)
        say(f"{drawn} outlines of {placed} images that say where they lie, in {map_file}")
    guessed = sum(entry.get("coherence") == "estimated" for entry in entries)
    if guessed and not as_json:
        say(f"{guessed} of {len(entries)} without a coherence file: estimated from the phase")
    for entry in entries if not as_json else ():
        if "error" in entry:
            say(f"error: {entry['error']}")
        elif entry["frame_files"]:
            say(f"warning: {entry['frame_files']}")
        elif entry["height"] and entry["height"]["warning"]:
            follows = f"correlation {entry['height']['correlation']:.2f}"
            say(f"warning: {entry['image']}: {entry['height']['warning']} ({follows})")
    if failed:
        raise typer.Exit(1)


def _write_drafts(entries: Sequence[Mapping[str, Any]], folder: Path) -> int:
    """Write a record for each image of a frame's folder; how many got none, which is told."""
    from heph_vl.corrections import draft_record, write_records

    drafts, failed = [], 0
    for entry in entries:
        try:
            if "error" not in entry:
                drafts.append(draft_record(entry))
        except HephError as problem:
            failed += 1
            say(f"no record: {problem}")
    write_records(drafts, folder)
    say(f"{len(drafts)} draft records in {folder}: correct them, they are no annotations yet")
    return failed


def _print_detections(entries: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    titles = "image", "deformation", "type", "intensity", "patches", "motion", "atmosphere"
    table = Table(*titles, "quality")
    for entry in entries:
        if "error" in entry:
            table.add_row(Path(entry["image"]).name, "not read", *["-"] * 6)
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
            _motion_in_words(entry["polygons"]),
            best["atmosphere"],
            ", ".join(name for name, p in entry["quality"].items() if p >= 0.5) or "-",
        )
    stdout_console().print(table)


def _motion_in_words(polygons: Sequence[Mapping[str, Any]]) -> str:
    """Of the largest patch: how far, and toward or away from the satellite."""
    motion = polygons[0]["motion"] if polygons else None
    if motion is None:
        return "-"
    sense = "sense unknown" if motion["los_sense"] == "unknown" else motion["los_sense"]
    return f"{abs(motion['centimetres']):.1f} cm {sense}"
