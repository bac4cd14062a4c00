"""`heph-vl inspect` and `heph-vl dataset`: read annotations and archives, write datasets."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from heph_vl.commands.output import (
    Json,
    Strict,
    examples,
    print_json,
    print_report,
    progress_bar,
    spinner,
    stdout_console,
)

INSPECT_EXAMPLES = examples(
    "heph-vl inspect annotations.tar.gz",
    "heph-vl inspect archive/annotations --json > summary.json",
)
DATASET_EXAMPLES = examples(
    "heph-vl dataset runs/archive runs/dataset",
    "heph-vl dataset HEPHAESTUS runs/patches --annotations annotations.tar.gz --config patches",
    "heph-vl dataset runs/archive runs/official --official",
)


def inspect(
    path: Annotated[Path, typer.Argument(help="A folder, .zip, .tar.gz or .json of annotations.")],
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Count and check annotations: classes, flags, years, frames, captions, quirks, problems."""
    from heph_vl.data import annotations, report

    with spinner(f"Reading {path}"):
        found = annotations.read_annotations(path, strict=strict)
        if not found.annotations and found.problems:
            raise found.problems[0]
        summary = report.summarise(found)
    if as_json:
        print_json(summary)
    else:
        report.render(summary, stdout_console())


def dataset(
    archive: Annotated[Path, typer.Argument(help="Folder that holds the frame folders.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset.")],
    annotations: Annotated[
        Path | None,
        typer.Option(help="Annotations kept elsewhere: a folder, .zip, .tar.gz or .json."),
    ] = None,
    config: Annotated[
        Literal["interferograms", "patches", "unlabeled"],
        typer.Option(help="Whole images, cuts of 224 px, or images without a record."),
    ] = "interferograms",
    scheme: Annotated[
        Literal["grouped", "paper", "official", "temporal", "glacier", "corruption"],
        typer.Option(help="Split; grouped shares no volcano, the last two serve one flag."),
    ] = "grouped",
    fold: Annotated[
        int | None, typer.Option(min=0, max=4, help="Fold of the grouped split.")
    ] = None,
    patch_file: Annotated[
        Path | None, typer.Option(help="The published patch split, for --scheme official.")
    ] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Write the official patch folders instead.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that write.")] = 1,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Join images and annotations into Parquet that `datasets.load_dataset(OUT)` reads."""
    if official and (config, scheme, fold) != ("interferograms", "grouped", None):
        raise typer.BadParameter("--official has its own patches: leave the other choices out")
    from heph_vl.data import official as official_patches
    from heph_vl.data import parquet
    from heph_vl.data.archive import scan_archive

    with spinner(f"Reading {archive}"):
        found = scan_archive(archive, annotations, strict=strict)
    with progress_bar("Writing") as progress:
        if official:
            report = official_patches.export_official(found, out, strict=strict, progress=progress)
        else:
            report = parquet.write_parquet(
                found,
                out,
                config=config,
                scheme=scheme,
                fold=fold,
                patch_file=patch_file,
                strict=strict,
                num_proc=workers,
                progress=progress,
            )
    print_report({"dataset": str(out), **report}, as_json)
