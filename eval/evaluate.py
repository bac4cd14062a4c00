"""Score a retriever, or labels and masks, ours or anyone's, on a split, beside their baselines.

    python eval/evaluate.py --data DATASET --split test --model runs/retriever/tiny/model
    python eval/evaluate.py --data DATASET --split test --write-queries queries.json
    python eval/evaluate.py --data DATASET --split test --predictions mine.npz

`--write-queries` writes `{"texts": [...], "unique_ids": [...], ...}`: what a third party must
embed. Its predictions are a .npz of four arrays, rows in any order:

    image_embeddings (N, E) float    unique_ids (N,) int
    text_embeddings  (Q, E) float    texts      (Q,) str

Scores are cosines, rounded to six decimals; closer ones are ties. Metrics, suites and baselines
are those of `heph_vl.metrics.benchmark`. `--heads predictions.jsonl` puts beside them what labels
and masks find (heads -> facts -> retrieval).

    python eval/evaluate.py --data DATASET --split test --model runs/heads/tiny/model
    python eval/evaluate.py --data DATASET --split test --predictions predictions.jsonl

Labels and masks are a .jsonl as `heph_vl.metrics.label_predictions` describes it, with masks beside
it; `--write-predictions DIR` keeps those of our heads. Thresholds come with the predictions.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from heph_vl import __version__
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics.benchmark import Settings, query_texts, score_retrieval
from heph_vl.metrics.fact_beliefs import Beliefs, beliefs
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


def read_beliefs(
    path: Path, rows: Any, positions: Sequence[int]
) -> tuple[list[Beliefs], dict[str, Any]]:
    """What labels and masks make probable of images.

    Args:
        path: `predictions.jsonl`, with all tasks.
        rows: The dataset split.
        positions: Of the images that are asked for.

    Returns:
        One for each position; and path and sha256 of the file.

    Raises:
        HephError: An image or a task is missing, or the file or a mask is broken.
    """
    from heph_vl.data.labels import LABELS
    from heph_vl.metrics.label_predictions import read_label_predictions, read_labels, read_mask

    labels, wanted = read_labels(rows), set(positions)
    others = {uid: "not asked" for i, uid in enumerate(labels.unique_ids) if i not in wanted}
    found = read_label_predictions(path, labels, others)
    missing = [task for task in found.about["not_predicted"] if task != "volcano_phase"]
    if missing or found.masks is None:
        raise HephError(str(path), f"no {missing[0]}", "give labels of all tasks, and masks")
    said = []
    for i, mask in enumerate(found.masks):
        image: dict[str, Any] = {
            task: dict(zip(LABELS[task], map(float, values[i]), strict=True))
            for task, values in found.probabilities.items()
        }
        deformation = float(found.probabilities["deformation"][i, 0])
        said.append(beliefs(image | {"deformation": deformation}, read_mask(mask)))
    return said, {"path": str(path), "sha256": found.about["predictions_sha256"]}


def evaluate(
    gallery: Gallery,
    embeddings: Embeddings,
    settings: Settings,
    *,
    split: str,
    source: Path,
    heads: Sequence[Beliefs] | None = None,
) -> dict[str, Any]:
    """Everything that `results.json` holds.

    Args:
        gallery: The whole split.
        embeddings: Of its readable images and all queries.
        settings: Seeds and numbers of draws.
        split: Name of the split.
        source: The model's folder or the predictions.
        heads: What labels and masks say of each readable image, to be compared with.

    Returns:
        JSON-ready values; what does not exist (no query in a group) is None.
    """
    readable = gallery.take(embeddings.positions)
    started = time.perf_counter()
    suites = score_retrieval(
        embeddings.images, embeddings.texts, readable.captions, readable.groups, settings, heads
    )
    return _finished(
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
            "scoring_seconds": round(time.perf_counter() - started, 2),
        }
    )


def tables(results: dict[str, Any]) -> list[Any]:
    """One rich table for each suite, or those of labels.

    Args:
        results: Of `evaluate`, or of labels and masks.

    Returns:
        Tables: metrics down, the model and its baselines across.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    if results["task"] == "labels":
        from eval.evaluate_labels import label_tables

        return label_tables(results)
    found = []
    for name, suite in results["suites"].items():
        title = f"{name}: {suite['num_queries']} queries, {suite['num_candidates']} candidates"
        table = Table(
            title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False
        )
        heads = ("heads", "- heads", "95 %") if "heads_facts" in suite["metrics"]["mAP"] else ()
        plain = ("", "model", "95 %", "chance", "shuffled", "true facts", "- shuffled", "95 %")
        for heading in plain + heads:
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
    from heph_vl.data.hephaestus import load

    rows = load(options.data, options.split)
    labels = _is_of_labels(options)
    if options.write_predictions is not None and not (labels and options.model):
        fix = "use it with --model and saved heads"
        raise HephError("--write-predictions", "nothing to write", fix)
    if options.heads is not None and (labels or options.write_queries is not None):
        fix = "use it with a retriever or its embeddings"
        raise HephError("--heads", "nothing to compare with", fix)
    if options.model is not None:
        out = options.out or options.model.parent / f"results.{options.split}.json"
    elif options.predictions is not None:
        out = options.out or options.predictions.with_suffix(".results.json")
    if labels:
        _report(_labels(options, rows), out, options)
        return
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
        from heph_vl.embed import on_best_device
        from heph_vl.models.retriever import Retriever

        retriever = on_best_device(Retriever.from_pretrained(options.model))
        with _progress("Embedding images", len(rows)) as progress:
            embeddings = embed_with_model(retriever, rows, gallery, options.batch_size, progress)
    else:
        embeddings = read_predictions(options.predictions, gallery, partial(_why_unreadable, rows))
    heads = None
    if options.heads is not None:
        heads, source_of_heads = read_beliefs(options.heads, rows, embeddings.positions)
        embeddings.about["heads"] = source_of_heads
    settings = Settings(options.seed, options.shuffles, options.draws)
    source = options.model or options.predictions
    found = evaluate(gallery, embeddings, settings, split=options.split, source=source, heads=heads)
    _report(found, out, options)


def _why_unreadable(rows: Any, position: int) -> str | None:
    """What keeps our own models from reading an image, if anything does."""
    from heph_vl.embed import encoded_images, read_image

    try:
        read_image(encoded_images(rows)[position], position)
    except HephError as problem:
        return str(problem)
    return None


def _is_of_labels(options: argparse.Namespace) -> bool:
    """Whether the model is one of heads, or the predictions are of labels."""
    if options.predictions is not None:
        return bool(options.predictions.suffix == ".jsonl")
    if options.model is None:
        return False
    try:
        entries = json.loads((options.model / "config.json").read_bytes())
    except (OSError, ValueError):
        return False  # the retriever's reader says what is wrong
    return isinstance(entries, dict) and entries.get("model") == "heads"


def _labels(options: argparse.Namespace, rows: Any) -> dict[str, Any]:
    """Results of heads, or of a .jsonl of labels and masks."""
    from eval.evaluate_labels import LabelSettings, score_labels
    from heph_vl.data.hephaestus import load
    from heph_vl.metrics.label_predictions import read_label_predictions, read_labels

    labels = read_labels(rows)
    train = None
    if options.split != "train":
        # A dataset of held-out images alone has no training split.
        with contextlib.suppress(HephError):
            train = read_labels(load(options.data, "train"))
    settings = LabelSettings(options.seed, options.draws)
    with tempfile.TemporaryDirectory() as temporary:
        if options.model is not None:
            folder = options.write_predictions or Path(temporary)
            found = _predicted(options.model, rows, labels, folder)
        else:
            found = read_label_predictions(options.predictions, labels)
        with _progress("Comparing masks", len(found.masks or ())) as progress:
            scored = score_labels(
                rows, labels, found, settings, split=options.split, train=train, progress=progress
            )
    source = options.model or options.predictions
    return _finished({"predictions": str(source), **scored})


def _predicted(model: Path, rows: Any, labels: Any, folder: Path) -> Any:
    """Predictions of saved heads, on a GPU where there is one."""
    import torch

    from eval.evaluate_labels import predict_with_heads
    from heph_vl.models.heads import Heads

    heads = Heads.from_pretrained(model)
    heads.to("cuda" if torch.cuda.is_available() else "cpu")
    with _progress("Predicting", len(rows)) as progress:
        return predict_with_heads(heads, rows, labels, folder, progress)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    # Elsewhere than in a terminal the bar would leave an empty line beside an error's.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(results: dict[str, Any], out: Path, options: argparse.Namespace) -> None:
    """Write the results, and print them as JSON or tables."""
    from rich.console import Console

    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    if options.as_json:
        print(json.dumps(results, allow_nan=False))
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 130)
    for table in tables(results):
        console.print(table)
    unreadable = results["split"]["unreadable"]
    if unreadable:
        console.print(f"{len(unreadable)} images left out, the first: {unreadable[0]}")
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
    what.add_argument("--model", type=Path, help="folder of a saved retriever, or of heads")
    what.add_argument(
        "--predictions", type=Path, help="anyone's embeddings, .npz, or labels and masks, .jsonl"
    )
    what.add_argument("--write-queries", type=Path, help="write what must be embedded, and stop")
    parser.add_argument(
        "--write-predictions", type=Path, metavar="DIR", help="keep labels and masks of the heads"
    )
    parser.add_argument(
        "--heads",
        type=Path,
        metavar="FILE",
        help="labels and masks, .jsonl, that a retriever is compared with",
    )
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
    cells = [
        _number(model["value"], digits),
        _interval(model["interval"], digits),
        *(_number(number, digits) for number in numbers),
        _number(gain["value"], digits, signed=True),
        _interval(gain["interval"], digits, signed=True),
    ]
    if "heads_facts" in compared:
        gain = compared["minus_heads_facts"]
        cells += [
            _number(compared["heads_facts"], digits),
            _number(gain["value"], digits, signed=True),
            _interval(gain["interval"], digits, signed=True),
        ]
    return cells


def _number(value: float | None, digits: int, *, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def _interval(interval: list[float] | None, digits: int, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    return " to ".join(_number(edge, digits, signed=signed) for edge in interval)


def _finished(results: dict[str, Any]) -> dict[str, Any]:
    finished: dict[str, Any] = _json_ready(
        {
            **results,
            "created": datetime.now(UTC).isoformat("T", "seconds"),
            "heph_vl": __version__,
            "commit": _commit(),
        }
    )
    return finished


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
