"""`heph-vl caption`: what is in images, in words, and how sure each fact is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from heph_vl.models.consensus import Answer

EXAMPLES = examples(
    "heph-vl caption 20180101_20180113.geo.diff.png",
    "heph-vl caption folder_of_images --model user/captioner --json > captions.json",
    "heph-vl caption patch.png --explain why",
)
SHAKY = 0.5  # confidence below which a fact is marked


def caption(
    images: Annotated[
        list[Path], typer.Argument(help="LiCSAR PNGs, GeoTIFFs or .npy in radians, or folders.")
    ],
    model: Model = None,
    beams: Annotated[
        int,
        typer.Option(
            min=0, help="Beam search with so many beams; 0: what sampled texts agree on most."
        ),
    ] = 0,
    samples: Annotated[
        int, typer.Option(min=1, help="Texts drawn; their agreement gives the confidence.")
    ] = 64,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for pictures of where each sentence comes from.")
    ] = None,
    bbox: Bbox = None,
    as_json: Json = False,
) -> None:
    """Say what is in interferograms: whole frames, or patches. Places are those in the image given.

    An image that cannot be read is listed; the others are answered, and the exit code is 1.
    """
    from heph_vl.caption import caption_files
    from heph_vl.data.picture import OutsideBoxError, find_images
    from heph_vl.hub import model_folder

    paths = find_images(images)
    found: list[tuple[Path, Answer | HephError]] = []
    pictures: dict[Path, str | None] = {}
    with progress_bar("Captioning") as progress:
        answers = caption_files(
            paths,
            model_folder(model, "captioner"),
            num_samples=samples,
            num_beams=beams,
            explain=explain,
            bbox=check_box(bbox),
        )
        for done, (path, answer) in enumerate(zip(paths, answers, strict=True), start=1):
            if isinstance(answer, HephError):
                found.append((path, answer))
            else:
                found.append((path, answer[0]))
                pictures[path] = answer[1]
            progress(done, len(paths))
    if as_json:
        print_json([_entry(path, answer, pictures.get(path)) for path, answer in found])
    else:
        _print_captions(found)
        for picture in filter(None, pictures.values()):
            say(f"written to {picture}")
    failed = [answer for _, answer in found if isinstance(answer, HephError)]
    for problem in failed if not as_json else ():
        say(f"error: {problem}")
    if any(not isinstance(problem, OutsideBoxError) for problem in failed):
        raise typer.Exit(1)


def _entry(path: Path, answer: "Answer | HephError", picture: str | None) -> dict[str, Any]:
    if isinstance(answer, HephError):
        return {"image": str(path), "error": str(answer)}
    told = sorted(answer.confidence)
    return {
        "image": str(path),
        "caption": answer.text,
        "facts": [list(atom) for atom in told],
        "fact_confidence": [answer.confidence[atom] for atom in told],
        "deformation": answer.deformation,
        **({} if picture is None else {"explained": picture}),
    }


def _print_captions(found: Sequence[tuple[Path, "Answer | HephError"]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "caption", "deformation", "not sure of")
    for path, answer in found:
        if isinstance(answer, HephError):
            table.add_row(Text(path.name), "not read", "-", "-")
            continue
        shaky = [f"{_words(atom)} ({p:.2f})" for atom, p in answer.confidence.items() if p < SHAKY]
        cells = Text(path.name), Text(answer.text or "(nothing)"), f"{answer.deformation:.2f}"
        table.add_row(*cells, ", ".join(sorted(shaky)) or "-")
    stdout_console().print(table)


def _words(atom: tuple[str, ...]) -> str:
    """An atom for people: the number of a pattern is of no use without the text."""
    parts = atom[2:] if atom[0] == "deformation" else atom
    return " ".join(parts).replace("_", " ")
