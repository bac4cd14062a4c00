"""`heph-vl download`: the real archive fetched, unpacked and checked."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from heph_vl.commands.output import Json, examples, print_json, say, spinner

EXAMPLES = examples(
    "heph-vl download 'https://SERVER/annotations.tar.gz' HEPHAESTUS",
    "heph-vl download 'https://SERVER/images.zip' HEPHAESTUS --sha256 HEX",
    "heph-vl download --check HEPHAESTUS",
)
_SHOWN = 3  # names of a list on the terminal; --json has all
_LISTS = {
    "pairs_without_coherence": "pairs without coherence",
    "images_without_record": "images without a record",
    "records_without_image": "records without an image",
    "frames_missing": "annotated frames of Hephaestus without an image here",
    "frames_other": "frames that are not annotated in Hephaestus",
    "problems": "cannot be read",
}


def download(
    url: Annotated[str | None, typer.Argument(help="Of a .zip, .tar or .tar.gz.")] = None,
    out: Annotated[
        Path | None, typer.Argument(help="Folder of the archive; several downloads add up.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Checksum the file must have.")] = None,
    no_unpack: Annotated[
        bool, typer.Option("--no-unpack", help="Only fetch the file, into OUT.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the file in OUT after it is unpacked.")
    ] = False,
    check: Annotated[
        Path | None, typer.Option(help="Fetch nothing: only check this folder.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Annotations kept elsewhere, for the check.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch an archive file by HTTP, unpack it safely, and say what is there and what is missing.

    The links stand in the README of https://github.com/Orion-AI-Lab/Hephaestus. Stopped or broken
    off, the same command goes on where it was.
    """
    if (check is None) == (url is None) or (check is None and out is None):
        raise typer.BadParameter("give URL and OUT, or --check FOLDER alone")
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise typer.BadParameter("give 64 hexadecimal digits", param_hint="--sha256")
    report: dict[str, Any] = {}
    folder = check
    if url is not None and out is not None:
        folder = out
        report = _download(url, out, sha256, unpack=not no_unpack, keep=keep)
    assert folder is not None  # one of the two was given
    if not as_json:
        _show_files(report)
    if not (no_unpack and check is None):
        from heph_vl.errors import HephError
        from heph_vl.layout import check_layout

        try:
            with spinner(f"Checking {folder}"):
                report |= check_layout(folder, annotations)
        except HephError as problem:
            if as_json and check is None:  # what was fetched and refused is told all the same
                print_json(report | {"problem": problem})
            raise
    if as_json:
        print_json(report)
    elif "pairs" in report:
        _show_layout(report, folder, annotations)
    if report.get("refused"):
        raise typer.Exit(1)


def _download(
    url: str, out: Path, sha256: str | None, *, unpack: bool, keep: bool
) -> dict[str, Any]:
    """Fetch and unpack; what was done."""
    from heph_vl.download import fetch, in_words
    from heph_vl.download_place import Place
    from heph_vl.errors import HephError
    from heph_vl.files import writing
    from heph_vl.unpack import unpack as unpack_file

    place = Place(out, url)
    with place.locked():
        wanted = {"unpacked"} if unpack else {"kept"}
        wanted |= {"kept"} if keep else set()
        if "kept" in wanted - place.done and place.kept.exists():
            what, fix = "is there already", "move it away or choose another folder"
            raise HephError(str(place.kept), what, fix)
        with _bytes_bar("Fetching") as progress:
            fetched = fetch(place, sha256=sha256, wanted=wanted, progress=progress, say=say)
        if fetched is None:
            remote = place.load()
            assert remote is not None  # something has been done with it
            say(
                f"nothing to fetch: all of {place.shown} is in {out}, {remote.unchanged} "
                f"(to fetch it again, remove {place.folder})"
            )
            return {"url": place.shown, "received": 0}
        received = in_words(fetched.received)
        say(f"{in_words(fetched.size)}, of which {received} now; checked: {fetched.checked}")
        report = {
            "url": place.shown,
            "bytes": fetched.size,
            "received": fetched.received,
            "checked": fetched.checked,
        }
        if unpack:
            with _bytes_bar("Unpacking") as progress, writing(out):
                done = unpack_file(fetched.path, out, place.unpacked, progress, place.name)
            report |= {
                "files": done.files,
                "files_there": done.there,
                "files_hidden": done.hidden,
                "around": sorted(done.around),
                "refused": done.refused,
            }
            if done.refused:
                say(f"{fetched.path} is kept, since not all of it was taken")
                return report
        if "kept" in wanted:
            fetched.path.replace(place.kept)
            report["file"] = str(place.kept)
        place.finish(wanted)
    return report


@contextmanager
def _bytes_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar of bytes on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show_files(report: dict[str, Any]) -> None:
    """What was fetched and unpacked on stdout, what was refused on stderr."""
    if "file" in report:
        print(f"{report['file']}: {report['bytes']:,} bytes")
    if "files" in report:
        there = f", {report['files_there']:,} were there" if report["files_there"] else ""
        hidden = f", {report['files_hidden']:,} hidden ones left" if report["files_hidden"] else ""
        print(f"{report['files']:,} files unpacked{there}{hidden}")
        if report["around"]:
            print(f"folders around frames and annotations left away: {', '.join(report['around'])}")
        _list("refused", report["refused"])


def _show_layout(report: dict[str, Any], folder: Path, annotations: Path | None) -> None:
    """What is there and what to do next on stdout, what is missing on stderr."""
    print(
        f"{folder}: {report['frames']} frames, {report['pairs']:,} interferograms, "
        f"{report['records']:,} records, {report['pairs_with_record']:,} interferograms with record"
    )
    if report["source"] not in (None, "real"):
        print(f"these are {report['source']}, not observations")
    for name, text in _LISTS.items():
        _list(text, report[name])
    if not report["pairs"]:
        print("no interferogram yet: fetch the images into the same folder")
        return
    if not report["records"]:
        print("no records: fetch the annotations into the same folder, or give --annotations")
        return
    where = shlex.quote(str(folder))
    other = f" --annotations {shlex.quote(str(annotations))}" if annotations is not None else ""
    print("next:")
    print(f"  heph-vl dataset {where} runs/dataset{other}")
    print("  heph-vl index runs/dataset runs/index --model weights/retriever")
    print('  heph-vl search runs/index "sill-type deformation of high intensity"')


def _list(text: str, names: list[Any]) -> None:
    """How many, and the first of them."""
    if names:
        say(f"{len(names):,} {text}:")
        for name in names[:_SHOWN]:
            say(f"  {name}")
        if len(names) > _SHOWN:
            say(f"  ... and {len(names) - _SHOWN:,} more (--json lists all)")
