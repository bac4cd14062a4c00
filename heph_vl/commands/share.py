"""`heph-vl share`: send models, adapters, datasets, metrics and the app to the Hugging Face Hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from heph_vl.commands.output import Json, examples, print_json, say, spinner

EXAMPLES = examples(
    "heph-vl share runs/heads/small user/insar-heads --tag v1.0",
    "heph-vl share weights/retriever user/insar-retriever --out staged",
    "heph-vl share runs/dataset user/insar --config interferograms",
    "heph-vl share runs/adapted/etna/adapter user/etna --private",
    "heph-vl share metric:fact_scores user/fact_scores",
    "heph-vl share space user/insar-app",
)
METRIC = "metric:"


def share(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of a model, run, dataset, adapter or app; or metric:NAME, one of ours."
        ),
    ],
    repo: Annotated[str, typer.Argument(help="Where it goes: user/name; made if need be.")],
    out: Annotated[
        Path | None, typer.Option(help="Write what would be sent to this folder, and send nothing.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store a model in half precision: half the size.")
    ] = False,
    encoder: Annotated[
        Path | None,
        typer.Option(help="With --out: a saved encoder beside OUT to refer to, if it is the same."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Name of the dataset's config; a repository keeps several.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new one private.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to send to; made if need be.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Tag for what was sent, such as v1.0.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    as_json: Json = False,
) -> None:
    """Send a folder to the Hub, in one commit, with a card of results, provenance and limits.

    Log in first (hf auth login), or set HF_TOKEN. Only data is sent: safetensors, JSON, YAML,
    Parquet, pictures and cards; what stays behind is listed. If it breaks off nothing is published,
    and running it again does not send a second time what has arrived.
    """
    from heph_vl.share import prepare
    from heph_vl.share import share as send

    if encoder is not None and out is None:
        raise typer.BadParameter("--encoder is for --out: what is sent is whole")
    with TemporaryDirectory() as temporary:
        folder = Path(source)
        if source.startswith(METRIC):
            from heph_vl.metric_modules import write_module

            folder = write_module(source.removeprefix(METRIC), Path(temporary))
        if out is not None:
            left = prepare(folder, out, half=half, encoder=encoder, config=config, repo=repo)
            files = sorted(p for p in out.rglob("*") if p.is_file())
            size = sum(p.stat().st_size for p in files)
            if as_json:
                print_json({"out": out, "files": files, "bytes": size, "left": left})
                return
            for name in left:
                say(f"left behind: {name}")
            say(f"{len(files)} files, {size / 1e6:.1f} MB, in {out}: nothing was sent")
            return
        with spinner(f"Sending to {repo}"):
            address = send(
                folder,
                repo,
                config=config,
                half=half,
                private=private,
                revision=revision,
                tag=tag,
                message=message,
            )
    if as_json:
        print_json({"repo": repo, "commit": address})
    else:
        say(f"sent to {address}")
