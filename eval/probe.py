"""Probe frozen features: k nearest neighbours and a linear probe, beside chance.

    python eval/probe.py --data DATASET --encoder runs/moco/tiny/model --random
    python eval/probe.py --data DATASET --encoder runs/retriever/tiny/model --split test --json

Learns deformation, atmosphere and quality flags from the features of the train rows and tells
them on those of another split. FOLDER is a saved encoder, or any model with one: of
`train_moco`, a retriever, heads. `--random` adds the same encoder with random weights.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heph_vl.errors import HephError
from heph_vl.files import write_text, writing

PROBES = ("knn", "linear")


def load_encoder(folder: Path, *, random_seed: int | None = None) -> Any:
    """The encoder in a folder.

    Args:
        folder: Of `Encoder.save_pretrained`, or of a model that keeps its encoder in a subfolder.
        random_seed: Seed of random weights instead of the saved ones.

    Returns:
        An `Encoder` in evaluation mode.

    Raises:
        HephError: If there is no encoder.
    """
    import torch

    from heph_vl.models import weights
    from heph_vl.models.encoder import Encoder

    path = folder / weights.CONFIG
    sha256 = None
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError):
        entries = None
    if isinstance(entries, dict) and entries.get("model") != "encoder":
        inner = entries.get("encoder")
        if not isinstance(inner, dict) or {"path", "sha256"} - inner.keys():
            raise HephError(str(path), "this model has no encoder of its own", "name another")
        folder, sha256 = folder / inner["path"], inner["sha256"]
    encoder = Encoder.from_pretrained(folder, sha256=sha256)
    if random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            encoder = Encoder(encoder.config).eval()
    return encoder


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Probe the encoder, and a random one if asked for.

    Args:
        options: The command line.

    Returns:
        JSON-ready: `encoders` -> name -> target -> `knn`, `linear`, `chance`.
    """
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from heph_vl.data import parquet
    from heph_vl.metrics.probe import probe, read_rows

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = {"encoder": load_encoder(options.encoder)}
    if options.random:
        wanted["random"] = load_encoder(options.encoder, random_seed=options.seed)
    results: dict[str, Any] = {
        "encoder": str(options.encoder),
        "data": str(options.data),
        "split": options.split,
        "features": options.features,
        "encoders": {},
    }
    splits = {name: parquet.load(options.data, name) for name in ("train", options.split)}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name, encoder in wanted.items():
            read = {}
            for split, rows in splits.items():
                task = bar.add_task(f"Features: {name}, {split}")
                read[split] = read_rows(
                    encoder.to(device),
                    rows,
                    features=options.features,
                    limit=options.limit,
                    seed=options.seed,
                    progress=lambda done, total, task=task: bar.update(
                        task, completed=done, total=total
                    ),
                )
            results["rows"] = {split: len(rows.vectors) for split, rows in read.items()}
            results["unreadable"] = [line for rows in read.values() for line in rows.unreadable]
            results["encoders"][name] = probe(read["train"], read[options.split], k=options.k)
    return results


def table(results: dict[str, Any]) -> Any:
    """A rich table: targets and classes down, probes across."""
    from rich.box import SIMPLE
    from rich.table import Table

    rows = ", ".join(f"{count} {split}" for split, count in results["rows"].items())
    found = Table(title=f"{results['features']} features, {rows} rows", box=SIMPLE, pad_edge=False)
    headings = [f"{name} {kind}" for name in results["encoders"] for kind in PROBES]
    for heading in ("target", "positives", "metric", "chance", *headings):
        found.add_column(heading, justify="left" if heading in ("target", "metric") else "right")
    one = results["encoders"]["encoder"]
    for target, entry in one.items():
        for metric in ("auroc", "ap", "accuracy"):
            cells = [e[target][p][metric] for e in results["encoders"].values() for p in PROBES]
            found.add_row(target, "", metric, *map(_number, [entry["chance"][metric], *cells]))
        if len(entry["chance"]["classes"]) == 1:
            continue
        for name, guess in entry["chance"]["classes"].items():
            cells = [
                e[target][p]["classes"][name]["auroc"]
                for e in results["encoders"].values()
                for p in PROBES
            ]
            numbers = map(_number, [guess["auroc"], *cells])
            found.add_row(f"  {name}", str(guess["positives"]), "auroc", *numbers)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        results = run(options)
        if options.out is not None:
            with writing(options.out):
                options.out.parent.mkdir(parents=True, exist_ok=True)
                write_text(options.out, json.dumps(results, indent=1) + "\n")
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.as_json:
        print(json.dumps(results))
        return 0
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)
    console.print(table(results))
    if results["unreadable"]:
        first = results["unreadable"][0]
        console.print(f"{len(results['unreadable'])} images left out, the first: {first}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of `heph-vl dataset`")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a saved model")
    parser.add_argument("--random", action="store_true", help="the same with random weights, too")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="default: val")
    parser.add_argument(
        "--features", default="pooled", choices=("pooled", "mean"), help="of tokens"
    )
    parser.add_argument("--k", type=_positive, default=20, help="neighbours (default: 20)")
    parser.add_argument("--limit", type=_positive, help="rows of each split, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of random weights")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print them as JSON")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
