"""`heph-vl generate`: draw interferograms of a sentence, to look at or to train on."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from heph_vl.commands.output import Json, Model, examples, print_json, progress_bar, say
from heph_vl.errors import HephError

EXAMPLES = examples(
    'heph-vl generate "A mogi-type deformation of high intensity on the top-left side" -n 8 '
    "--out runs/drawn",
    'heph-vl generate "earthquake, turbulent mixing" -n 200 --out runs/quakes --json',
    'heph-vl generate "" -n 16 --steps 8 --no-records --out runs/anything',
)


def generate(
    prompt: Annotated[str, typer.Argument(help='What is to be seen; "" for anything.')],
    out: Annotated[Path, typer.Option(help="Archive to write or to add to.")],
    model: Model = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Images.")] = 8,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Folder of heads, or user/repo, that read off a picture what the prompt leaves "
            "open; the reference weights if not given."
        ),
    ] = None,
    records: Annotated[bool, typer.Option(help="Write annotations, or pictures alone.")] = True,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler, 8 and more.")] = 20,
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
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Same seed and new folder, same images.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Draw interferograms of a sentence. They are generated, not observations, and say so.

    Writes PNG pairs and annotations in the layout of an archive, and a sheet to look at. A picture
    in which the heads do not see what was asked for gets no annotation. Another call adds to OUT.
    """
    from heph_vl.embed import on_best_device
    from heph_vl.generate import Request, load_generator, write_archive, write_sheet
    from heph_vl.hub import model_folder
    from heph_vl.models.heads import Heads

    request = Request(prompt, number, steps, guidance, size, seed, palette)
    if len(prompt) > 2000:
        raise HephError("prompt", f"it has {len(prompt)} characters", "use at most 2000")
    unknown = request.facts.unexplained
    pipeline = load_generator(model_folder(model, "generator"))
    heads = None
    if records:
        heads = on_best_device(Heads.from_pretrained(model_folder(labels, "heads")))
    with progress_bar("Drawing") as progress:
        written = write_archive(
            out,
            pipeline,
            request,
            model=model or "reference weights",
            labels=heads,
            progress=progress,
        )
    sheet = write_sheet(out, written, request)
    if as_json:
        print_json(
            {
                "out": str(out),
                "read_as": request.text,
                "not_understood": list(unknown),
                "images": [{**vars(pair), "image": str(pair.image)} for pair in written],
                "sheet": str(sheet),
            }
        )
        return
    say(f"read as: {request.text or '(anything)'}")
    if unknown:
        say(f"not understood: {', '.join(unknown)}")
    for why, count in Counter(pair.why_not for pair in written if pair.why_not).items():
        say(f"{count} without a record: {why}")
    say(f"{len(written)} generated pairs, not observations, written to {out}; look at {sheet}")
