"""Score a retriever, ours or anyone's, on a split of a dataset, beside its baselines.

    python eval/evaluate.py --data DATASET --split test --model runs/retriever/tiny/model
    python eval/evaluate.py --data DATASET --split test --write-queries queries.json
    python eval/evaluate.py --data DATASET --split test --predictions mine.npz

`--write-queries` writes `{"texts": [...], "unique_ids": [...], ...}`: what a third party must
embed. Its predictions are a .npz of four arrays, rows in any order:

    image_embeddings (N, E) float    unique_ids (N,) int
    text_embeddings  (Q, E) float    texts      (Q,) str

Scores are cosines, rounded to six decimals; closer ones are ties. Metrics, suites and baselines
are those of `heph_vl.metrics.benchmark`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from heph_vl import __version__
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics.benchmark import Settings, query_texts, score_retrieval
from heph_vl.metrics.predictions import Embeddings, Gallery, read_gallery, read_predictions

SHOWN = ("hit@1", "hit@5", "hit@10", "recall@10", "median_rank", "mAP", "nDCG@10")


def embed_with_model(
    retriever: Any,
    rows: Any,
    gallery: Gallery,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Embeddings:
    """Embeddings by a saved retriever.

    Args:
        retriever: A `models.retriever.Retriever`.
        rows: The dataset split.
        gallery: Its columns.
        batch_size: Images at once.
        progress: Called with images done and of all.

    Returns:
        Embeddings of the images that could be read, and of the queries that they leave.
    """
    from heph_vl.embed import embed_images

    embedded = embed_images(retriever, rows, batch_size=batch_size, progress=progress)
    texts = query_texts(gallery.take(embedded.positions).captions)
    vectors = retriever.embed_texts(texts).cpu().numpy()
    return Embeddings(
        embedded.positions,
        embedded.vectors,
        dict(zip(texts, vectors, strict=True)),
        {"model_id": retriever.model_id},
        [str(problem) for problem in embedded.problems],
    )


def evaluate(
    gallery: Gallery, embeddings: Embeddings, settings: Settings, *, split: str, source: Path
) -> dict[str, Any]:
    """Everything that `results.json` holds.

    Args:
        gallery: The whole split.
        embeddings: Of its readable images and all queries.
        settings: Seeds and numbers of draws.
        split: Name of the split.
        source: The model's folder or the predictions.

    Returns:
        JSON-ready values; what does not exist (no query in a group) is None.
    """
    readable = gallery.take(embeddings.positions)
    started = time.perf_counter()
    suites = score_retrieval(
        embeddings.images, embeddings.texts, readable.captions, readable.groups, settings
    )
    results: dict[str, Any] = _json_ready(
        {
            "task": "retrieval",
            "embeddings": str(source),
            **embeddings.about,
            "split": {
                "name": split,
                "sha256": gallery.sha256,
                "images": len(gallery.unique_ids),
                "groups": len(set(gallery.groups)),
                "sources": dict(Counter(gallery.sources)),
                "unreadable": embeddings.unreadable,
            },
            "suites": suites,
            "settings": asdict(settings),
            "created": datetime.now(UTC).isoformat("T", "seconds"),
            "heph_vl": __version__,
            "commit": _commit(),
            "scoring_seconds": round(time.perf_counter() - started, 2),
        }
    )
    return results


def tables(results: dict[str, Any]) -> list[Any]:
    """One rich table for each suite.

    Args:
        results: Of `evaluate`.

    Returns:
        Tables: metrics down, the model and its baselines across.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    found = []
    for name, suite in results["suites"].items():
        title = f"{name}: {suite['num_queries']} queries, {suite['num_candidates']} candidates"
        table = Table(
            title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False
        )
        for heading in (
            "",
            "model",
            "95 %",
            "chance",
            "shuffled",
            "true facts",
            "- shuffled",
            "95 %",
        ):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for metric in SHOWN:
            if metric in suite["metrics"]:
                table.add_row(metric, *_cells(metric, suite["metrics"][metric]))
        if suite["metrics"]["mAP"]["model"]["interval"] is None:
            table.caption = f"{suite['num_groups']} volcano groups: too few for intervals"
        found.append(table)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from heph_vl.data.hephaestus import load

    rows = load(options.data, options.split)
    gallery = read_gallery(rows)
    if options.write_queries is not None:
        queries = {
            "split": options.split,
            "sha256": gallery.sha256,
            "texts": query_texts(gallery.captions),
            "unique_ids": gallery.unique_ids,
        }
        with writing(options.write_queries):
            write_text(options.write_queries, json.dumps(queries, indent=1) + "\n")
        return
    if options.model is not None:
        from heph_vl.models.retriever import Retriever

        retriever = Retriever.from_pretrained(options.model)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("Embedding images", total=len(rows))
            embeddings = embed_with_model(
                retriever,
                rows,
                gallery,
                options.batch_size,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        out = options.out or options.model.parent / f"results.{options.split}.json"
    else:
        embeddings = read_predictions(options.predictions, gallery)
        out = options.out or options.predictions.with_suffix(".results.json")
    settings = Settings(options.seed, options.shuffles, options.draws)
    source = options.model or options.predictions
    results = evaluate(gallery, embeddings, settings, split=options.split, source=source)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    if options.as_json:
        print(json.dumps(results, allow_nan=False))
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 110)
    for table in tables(results):
        console.print(table)
    if embeddings.unreadable:
        first = embeddings.unreadable[0]
        console.print(f"{len(embeddings.unreadable)} images left out, the first: {first}")
    console.print(f"written to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of `heph-vl dataset`")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="folder of a saved retriever")
    what.add_argument("--predictions", type=Path, help="anyone's embeddings, .npz")
    what.add_argument("--write-queries", type=Path, help="write what must be embedded, and stop")
    parser.add_argument("--out", type=Path, help="default: beside model or predictions")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print results as JSON")
    parser.add_argument("--batch-size", type=_positive, default=8, help="images at once")
    parser.add_argument("--seed", type=int, default=0, help="of shuffles and draws")
    parser.add_argument("--shuffles", type=_positive, default=5, help="permutations of the images")
    parser.add_argument("--draws", type=_positive, default=2000, help="resamples of the groups")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _cells(metric: str, compared: dict[str, Any]) -> list[str]:
    digits = 1 if metric == "median_rank" else 3
    model, gain = compared["model"], compared["minus_shuffled"]
    numbers = [compared[name] for name in ("chance", "shuffled", "true_facts")]
    return [
        _number(model["value"], digits),
        _interval(model["interval"], digits),
        *(_number(number, digits) for number in numbers),
        _number(gain["value"], digits, signed=True),
        _interval(gain["interval"], digits, signed=True),
    ]


def _number(value: float | None, digits: int, *, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def _interval(interval: list[float] | None, digits: int, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    return " to ".join(_number(edge, digits, signed=signed) for edge in interval)


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
