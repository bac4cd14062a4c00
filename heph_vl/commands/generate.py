"""`heph-vl generate`: draw interferograms of a sentence, to look at or to train on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from heph_vl.commands.output import Json, examples, print_json, progress_bar, say
from heph_vl.errors import HephError

EXAMPLES = examples(
    'heph-vl generate "A mogi-type deformation of high intensity on the top-left side" -n 8 '
    "--model weights/generator --out runs/drawn",
    'heph-vl generate "earthquake, turbulent mixing" -n 200 --model weights/generator '
    "--labels weights/heads --out runs/quakes",
    'heph-vl generate "" -n 16 --steps 8 --model weights/generator --out runs/anything',
)


def generate(
    prompt: Annotated[str, typer.Argument(help='What is to be seen; "" for anything.')],
    model: Annotated[Path, typer.Option(help="Folder of the generator.")],
    out: Annotated[Path, typer.Option(help="Archive to write or to add to.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Images.")] = 8,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder of heads that read off the pictures what the prompt leaves open."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler; 8 are nearly as good.")] = 20,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="How closely to follow the text; 1: as learnt.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width in pixels; those it was trained on if not given."),
    ] = None,
    palette: Annotated[
        Literal["new", "old"], typer.Option(help="LiCSAR's colours since, or before, October 2020.")
    ] = "new",
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw interferograms of a sentence. They are generated, not observations, and say so.

    Writes PNG pairs and annotations in the layout of an archive, and a sheet to look at.
    """
    from heph_vl.embed import on_best_device
    from heph_vl.generate import Request, load_generator, write_archive, write_sheet
    from heph_vl.models.heads import Heads

    request = Request(prompt, number, steps, guidance, size, seed, palette)
    if len(prompt) > 2000:
        raise HephError("prompt", f"it has {len(prompt)} characters", "use at most 2000")
    unknown = request.facts.unexplained
    pipeline = load_generator(model)
    heads = None if labels is None else on_best_device(Heads.from_pretrained(labels))
    with progress_bar("Drawing") as progress:
        written = write_archive(
            out, pipeline, request, model=str(model), labels=heads, progress=progress
        )
    sheet = write_sheet(out, written, request)
    if as_json:
        print_json(
            {
                "out": str(out),
                "read_as": request.text,
                "not_understood": list(unknown),
                "images": [
                    {"image": str(w.image), "unique_id": w.unique_id, "caption": w.caption}
                    for w in written
                ],
                "sheet": str(sheet),
            }
        )
        return
    say(f"read as: {request.text or '(anything)'}")
    if unknown:
        say(f"not understood: {', '.join(unknown)}")
    without = sum(w.caption is None for w in written)
    if without:
        say(f"{without} without a record: the text leaves open if the ground deforms; try --labels")
    say(f"{len(written)} generated pairs, not observations, written to {out}; look at {sheet}")
