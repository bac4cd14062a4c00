"""`heph-vl simulate`: write an archive of simulated interferograms, invented or after records."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from heph_vl.commands.output import Json, examples, print_report, progress_bar, spinner
from heph_vl.errors import HephError

EXAMPLES = examples(
    "heph-vl simulate runs/archive -n 400 --frames 28 --seed 0",
    "heph-vl simulate runs/twin --annotations annotations.tar.gz -n 1000 --stratified",
    "heph-vl simulate runs/real_ground -n 100 --frames 4 --dem folder_of_hgt --truth",
)
PATCH_EXAMPLES = examples(
    "heph-vl simulate-patches runs/patches -n 12000 --seed 0",
    "heph-vl simulate-patches runs/patches_test -n 1000 --split test --workers 8",
)


def simulate_patches(
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset.")],
    number: Annotated[int, typer.Option("-n", "--number", help="Patches of 224 px.")] = 1000,
    split: Annotated[
        Literal["train", "val", "test"],
        typer.Option(help="Part of the grouped split whose kinds of ground are used."),
    ] = "train",
    pairs_per_place: Annotated[
        int, typer.Option(help="Patches of one place, of pairs of its 8 dates.")
    ] = 8,
    icy: Annotated[
        bool, typer.Option("--icy", help="Every place has an ice cap that flows.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same patches.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one for each core if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate annotated patches of many places as a dataset, for pretraining.

    They have the columns of `heph-vl dataset --config patches`. Running the same command again
    finishes what was interrupted.
    """
    from heph_vl.simulate.patchset import write_patches
    from heph_vl.simulate.stream import StreamConfig

    config = StreamConfig(seed=seed, split=split, pairs_per_place=pairs_per_place, icy=icy)
    count = workers or len(os.sched_getaffinity(0))
    with progress_bar("Simulating") as progress:
        report = write_patches(out, number, config, workers=count, progress=progress)
    print_report({"out": str(out)} | report, as_json)


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder of the new archive.")],
    number: Annotated[
        int | None,
        typer.Option("-n", "--number", help="Interferograms in all; 100, or every annotation."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Twin mode: render these records (folder, .zip, .tar.gz or .json)."),
    ] = None,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Twin mode: rare kinds get more than their share.")
    ] = False,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Twin mode: records of this part of the grouped split only."),
    ] = None,
    deforming: Annotated[
        bool, typer.Option("--deforming", help="Twin mode: records with deformation only.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(help="Frames (places) to spread them over; 28 if not given.")
    ] = None,
    dates: Annotated[int | None, typer.Option(help="Dates of each frame; 12 if not given.")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of an image in pixels of 1/300 degree; 288 if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    dem: Annotated[
        Path | None, typer.Option(help="Real elevation: .hgt, GeoTIFF, or a folder of them.")
    ] = None,
    truth: Annotated[
        bool, typer.Option("--truth", help="Store line-of-sight displacements (.geo.los.tif) too.")
    ] = False,
    geotiff: Annotated[
        bool,
        typer.Option("--geotiff", help="Write LiCSAR's GeoTIFFs, look vectors and heights too."),
    ] = False,
    palette: Annotated[
        Literal["new", "old"], typer.Option(help="LiCSAR's colours since, or before, October 2020.")
    ] = "new",
    posterise: Annotated[
        bool, typer.Option(help="Few colours, as the real patches have, or all 255.")
    ] = True,
    chain: Annotated[
        bool, typer.Option(help="Noise, filter, resize and rounding of colours; off to compare.")
    ] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one for each core if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate an archive of annotated interferograms in the layout of Hephaestus.

    Without --annotations scenes are invented, consistent in time; with it, each record becomes the
    interferogram that it describes. Running the same command again finishes what was interrupted.
    Under torchrun, ranks share the records.
    """
    if annotations is not None and (frames, dates, size) != (None, None, None):
        raise typer.BadParameter("--annotations give frames, dates and sizes: leave these options")
    if annotations is None and (stratified or split or deforming):
        what = "--stratified, --split and --deforming choose among --annotations: give them"
        raise typer.BadParameter(what)
    from heph_vl.simulate import corpus
    from heph_vl.simulate.render import Rendering

    shared: dict[str, Any] = {
        "seed": seed,
        "dem": dem,
        "truth": truth,
        "geotiff": geotiff,
        "chain": chain,
        "rendering": Rendering(palette=palette, posterise=posterise),
        "workers": workers,
        "shard": (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))),
    }
    problems: list[HephError] = []
    if annotations is None:
        count = 100 if number is None else number
        with progress_bar("Simulating") as progress:
            written = corpus.simulate(
                out,
                count,
                frames=min(28, max(1, count)) if frames is None else frames,
                dates=12 if dates is None else dates,
                size=288 if size is None else size,
                progress=progress,
                **shared,
            )
    else:
        from heph_vl.data.annotations import read_annotations

        with spinner(f"Reading {annotations}"):
            found = read_annotations(annotations)
        problems = found.problems
        with progress_bar("Simulating") as progress:
            written = corpus.simulate_twin(
                out,
                found.annotations,
                number,
                stratified=stratified,
                split=split,
                deforming=deforming,
                progress=progress,
                **shared,
            )
    report = {**vars(written), "patterns": dict(written.patterns), "problems": problems}
    if not written.written:  # counts are of what this call wrote
        report = {
            name: report[name] for name in ("out", "total", "written", "fidelity", "problems")
        }
    print_report(report, as_json)
