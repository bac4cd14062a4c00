"""The `heph-vl` command: each subcommand checks its input, calls one function and shows the result.

Exit codes: 0 done, 1 an error told in one line, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from heph_vl.errors import HephError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="heph-vl",
    help="Search, describe, simulate and check Sentinel-1 interferograms of volcanoes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Add --debug to any command to see the full traceback of an error.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first bad record instead of leaving it out.")
]


def main() -> None:
    """Run the command line; errors are one line on stderr unless --debug is given."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    sys.exit(run([word for word in arguments if word != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run one command.

    Args:
        arguments: Words after `heph-vl`.
        debug: Whether to print tracebacks.

    Returns:
        The exit code.
    """
    try:
        app(list(arguments))
    except SystemExit as end:  # typer's way to return; it has shown usage errors itself
        code = end.code if isinstance(end.code, int) else 0
        if code == 130:
            _say("stopped; nothing half-written is left: the same command again goes on")
        return code
    except HephError as error:
        return _fail(str(error), debug)
    except OSError as error:
        where = error.filename or "input or output"
        return _fail(f"{where}: {error.strerror or error}; check the path, rights and space", debug)
    except Exception as error:  # the last resort: one line, never a raw traceback
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _fail(f"heph-vl: unexpected {text}; run again with --debug and report it", debug)
    return 0


@app.command(
    epilog="Examples:\n\n"
    "heph-vl inspect annotations.tar.gz\n\n"
    "heph-vl inspect archive/annotations --json > summary.json"
)
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder, .zip, .tar.gz or .json of annotations.")],
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Count and check annotations: classes, flags, years, frames, captions, quirks, problems."""
    from heph_vl.data import annotations, report

    with _busy(f"Reading {path}"):
        found = annotations.read_annotations(path, strict=strict)
        if not found.annotations and found.problems:
            raise found.problems[0]
        summary = report.summarise(found)
    if as_json:
        _print_json(summary)
    else:
        report.render(summary, _console())


@app.command(
    epilog="Examples:\n\n"
    "heph-vl simulate runs/archive -n 400 --frames 28 --seed 0\n\n"
    "heph-vl simulate runs/twin --annotations annotations.tar.gz -n 1000 --stratified\n\n"
    "heph-vl simulate runs/real_ground -n 100 --frames 4 --dem folder_of_hgt --truth"
)
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
    if annotations is None and stratified:
        raise typer.BadParameter("--stratified chooses among --annotations: give them")
    from heph_vl.simulate import corpus
    from heph_vl.simulate.render import Rendering

    shared: dict[str, Any] = {
        "seed": seed,
        "dem": dem,
        "truth": truth,
        "chain": chain,
        "rendering": Rendering(palette=palette, posterise=posterise),
        "workers": workers,
        "shard": (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))),
    }
    problems: list[HephError] = []
    if annotations is None:
        count = 100 if number is None else number
        with _progress("Simulating") as progress:
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

        with _busy(f"Reading {annotations}"):
            found = read_annotations(annotations)
        problems = found.problems
        with _progress("Simulating") as progress:
            written = corpus.simulate_twin(
                out,
                found.annotations,
                number,
                stratified=stratified,
                progress=progress,
                **shared,
            )
    report = {**vars(written), "patterns": dict(written.patterns), "problems": problems}
    if not written.written:  # counts are of what this call wrote
        report = {
            name: report[name] for name in ("out", "total", "written", "fidelity", "problems")
        }
    _report(report, as_json)


@app.command(
    epilog="Examples:\n\n"
    "heph-vl dataset runs/archive runs/dataset\n\n"
    "heph-vl dataset HEPHAESTUS runs/patches --annotations annotations.tar.gz --config patches\n\n"
    "heph-vl dataset runs/archive runs/official --official"
)
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

    with _busy(f"Reading {archive}"):
        found = scan_archive(archive, annotations, strict=strict)
    with _progress("Writing") as progress:
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
    _report({"dataset": str(out), **report}, as_json)


@app.command(
    epilog="Examples:\n\n"
    "heph-vl index runs/dataset runs/index --model runs/retriever/tiny/model\n\n"
    "heph-vl index folder_of_pngs runs/index --model runs/retriever/tiny/model"
)
def index(
    data: Annotated[Path, typer.Argument(help="A dataset, an archive, or a folder of PNGs.")],
    index: Annotated[Path, typer.Argument(help="Folder of the index; made, or added to.")],
    model: Annotated[Path, typer.Option(help="Folder of the retriever.")],
    split: Annotated[str | None, typer.Option(help="Only this split of a dataset.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Embed interferograms and store them for search.

    An image that is in the index already is replaced.
    """
    from heph_vl.search import build_index

    with _progress("Embedding") as progress:
        report = build_index(
            data,
            index,
            model,
            split=split,
            batch_size=batch_size,
            strict=strict,
            progress=progress,
        )
    _report({"index": str(index), **report}, as_json)


@app.command(
    epilog="Examples:\n\n"
    'heph-vl search runs/index "sill-type deformation of high intensity on the left" -k 10\n\n'
    'heph-vl search runs/index "turbulent mixing" --where "frame_id = \'124D_05291_081406\' AND '
    "primary_date > '2018'\"\n\n"
    "heph-vl search runs/index --image 20180101_20180113.geo.diff.png --sheet out.png"
)
def search(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 10,
    where: Annotated[
        str | None, typer.Option(help='Filter on columns, e.g. "low_coherence = FALSE".')
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for images like this one.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of the results.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the retriever, if it has moved.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find interferograms by text, or by another interferogram."""
    from heph_vl import search as searching

    if (text is None) == (image is None):
        raise typer.BadParameter("give either a text or --image")
    with _busy("Searching"):
        found = searching.search(index, text=text, image=image, k=k, where=where, model=model)
    if found.read_as and found.read_as != text:
        _say(f"read as: {found.read_as}")
    if found.not_understood:
        _say(f"not understood: {', '.join(found.not_understood)}")
    if sheet is not None:
        from heph_vl.sheet import draw_hits

        draw_hits(found.hits, found.thumbnails, sheet, title=text or str(image))
    if as_json:
        _print_json([hit.to_json() for hit in found.hits])
    else:
        _print_hits(found.hits)


@app.command(
    epilog="Examples:\n\n"
    "heph-vl detect 20180101_20180113.geo.diff.png --model weights/heads --out found\n\n"
    "heph-vl detect folder_of_images --model runs/heads/tiny/model --json > found.json"
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
    with _progress("Detecting") as progress:
        answers = detecting.detect(paths, model, out)
        for done, (path, answer) in enumerate(zip(paths, answers, strict=True), 1):
            if isinstance(answer, HephError):
                failed += 1
                answer = {"image": str(path), "error": str(answer)}
            entries.append(answer)
            progress(done, len(paths))
    if as_json:
        _print_json(entries)
    else:
        _print_detections(entries)
    for entry in entries:
        if "error" in entry and not as_json:
            _say(f"error: {entry['error']}")
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
    _console().print(table)


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A spinner on stderr while something of unknown length is done."""
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; yields a function of (done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.2f}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(report: Mapping[str, Any], as_json: bool) -> None:
    """What was done, as JSON or as lines; problems are listed, each on its line."""
    if as_json:
        _print_json(report)
        return
    console = _console()
    for name, value in report.items():
        if name != "problems" and value not in (None, {}, []):
            if isinstance(value, Mapping):
                value = ", ".join(f"{key} {part}" for key, part in value.items())
            console.print(f"[bold]{name}[/]", end=": ")
            console.print(str(value), markup=False, soft_wrap=True)
    problems = list(report.get("problems", []))
    if problems:
        _say(f"{len(problems)} left out:")
    for problem in problems:
        _say(f"  {problem}")


def _print_hits(hits: Sequence[Any]) -> None:
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
    _console().print(table)


def _console() -> "Console":
    """Of stdout; wide enough for tables when it is a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str, allow_nan=False))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _fail(line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(f"error: {line}")
    return 1


if __name__ == "__main__":
    main()
