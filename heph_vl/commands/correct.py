"""`heph-vl correct`: an analyst's edits of detections as annotations."""

from pathlib import Path
from typing import Annotated

import typer

from heph_vl.commands.output import Json, examples, print_json, say

EXAMPLES = examples(
    "heph-vl detect ARCHIVE --records drafts --map found.geojson",
    "heph-vl correct drafts ARCHIVE --map edited.geojson --out corrected",
    "heph-vl dataset ARCHIVE runs/mine --annotations corrected",
)


def correct(
    drafts: Annotated[Path, typer.Argument(help="Records of detect --records, edited or not.")],
    archive: Annotated[Path, typer.Argument(help="The archive that was looked at.")],
    out: Annotated[Path, typer.Option(help="Folder of the corrected annotations.")],
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="The edited outlines (GeoJSON); without, those of the records."),
    ] = None,
    confidence: Annotated[float, typer.Option(min=0, max=1, help="How sure the analyst is.")] = 0.8,
    as_json: Json = False,
) -> None:
    """Turn edited outlines and records into annotations that every other command reads.

    In the map each outline has `product`, `type` and `intensity`; one that was removed is gone, one
    that was added is there. Label, crowd flag and caption are made to fit. What cannot be used is
    listed, and the exit code is 1.
    """
    from heph_vl.corrections import correct as correcting
    from heph_vl.corrections import write_records
    from heph_vl.data.archive import scan_archive

    found = correcting(drafts, scan_archive(archive), map_file, confidence=confidence)
    write_records(found.records, out)
    problems = [str(problem) for problem in found.problems]
    if as_json:
        report = {"out": str(out), "records": len(found.records), "changed": found.changed}
        print_json(report | {"problems": problems})
    else:
        for problem in problems:
            say(f"left out: {problem}")
        say(f"{len(found.records)} records, {len(found.changed)} changed, in {out}")
    if problems:
        raise typer.Exit(1)
