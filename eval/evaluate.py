"""Score a retriever, a captioner, or labels and masks, ours or anyone's, beside their baselines.

    python eval/evaluate.py --data DATASET --split test --model runs/retriever/tiny/model
    python eval/evaluate.py --data DATASET --split test --write-queries queries.json
    python eval/evaluate.py --data DATASET --split test --predictions mine.npz

`--write-queries` writes `{"texts": [...], "unique_ids": [...], ...}`: what a third party must
embed. Its predictions are a .npz of four arrays, rows in any order:

    image_embeddings (N, E) float    unique_ids (N,) int
    text_embeddings  (Q, E) float    texts      (Q,) str

Scores are cosines, rounded to six decimals; closer ones are ties. Metrics, suites and baselines
are those of `heph_vl.metrics.benchmark`.

    python eval/evaluate.py --data DATASET --split test --model runs/heads/tiny/model
    python eval/evaluate.py --data DATASET --split test --predictions predictions.jsonl

Labels and masks are a .jsonl as `heph_vl.metrics.label_predictions` describes it, with masks beside
it; `--write-predictions DIR` keeps those of our heads. Thresholds come with the predictions.

    python eval/evaluate.py --data DATASET --split test --model runs/captioner/tiny/model
    python eval/evaluate.py --data DATASET --split test --predictions captions.jsonl

Captions are a .jsonl as `heph_vl.metrics.caption_predictions` describes it. `--heads
predictions.jsonl` puts beside a retriever or captions what labels and masks find or say.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.evaluate_retrieval import (
    embed_with_model,
    read_beliefs,
    retrieval_tables,
    score_embeddings,
)
from heph_vl import __version__
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics.benchmark import Settings, query_texts
from heph_vl.metrics.predictions import read_gallery, read_predictions

Progress = Callable[[int, int], None]


def tables(results: dict[str, Any]) -> list[Any]:
    """Rich tables of results of any task."""
    if results["task"] == "labels":
        from eval.evaluate_labels import label_tables

        return label_tables(results)
    if results["task"] == "captions":
        from eval.evaluate_captions import caption_tables

        return caption_tables(results)
    return retrieval_tables(results)


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
    if options.write_queries is not None:
        _refuse(options, "queries", ("write_predictions", "heads", "samples", "beams"))
        _write_queries(options, rows)
        return
    kind = _kind(options)
    keeps = kind != "retrieval" and options.model is not None
    _refuse(options, kind, () if keeps else ("write_predictions",))
    if kind == "labels":
        _refuse(options, kind, ("heads",))
    if kind != "captions" or options.model is None:
        _refuse(options, kind, ("samples", "beams"))
    if options.model is not None:
        beside = options.model.parent if options.model.exists() else Path()  # user/repo: here
        out = options.out or beside / f"results.{options.split}.json"
    else:
        out = options.out or options.predictions.with_suffix(".results.json")
    score = {"retrieval": _retrieval, "labels": _labels, "captions": _captions}[kind]
    _report(finished(score(options, rows)), out, options)


def _refuse(options: argparse.Namespace, kind: str, names: Sequence[str]) -> None:
    """Options that would have no effect are errors."""
    fixes = {
        "write_predictions": (
            "nothing to write",
            "use it with --model and saved heads or captioner",
        ),
        "samples": ("no text is drawn", "use it with --model and a saved captioner"),
        "beams": ("no text is searched for", "use it with --model and a saved captioner"),
        "heads": ("nothing to compare with", "use it with a retriever or captions, or their files"),
    }
    for name in names:
        if getattr(options, name) is not None:
            raise HephError(f"--{name.replace('_', '-')}", *fixes[name])


def _kind(options: argparse.Namespace) -> str:
    """What is scored: retrieval, labels or captions."""
    if options.predictions is not None:
        if options.predictions.suffix != ".jsonl":
            return "retrieval"
        broken = (OSError, ValueError, RecursionError)  # its reader says what is wrong
        with contextlib.suppress(*broken), options.predictions.open() as file:
            for line in file:
                if isinstance(values := json.loads(line), dict) and "unique_id" in values:
                    return "captions" if "caption" in values else "labels"
        return "labels"
    from heph_vl.hub import located
    from heph_vl.models.weights import kind_of_model

    kinds = {"heads": "labels", "captioner": "captions"}
    # The retriever's reader says what is wrong with a broken folder.
    return kinds.get(kind_of_model(located(options.model)) or "", "retrieval")


def _write_queries(options: argparse.Namespace, rows: Any) -> None:
    gallery = read_gallery(rows)
    queries = {
        "split": options.split,
        "sha256": gallery.sha256,
        "texts": query_texts(gallery.captions),
        "unique_ids": gallery.unique_ids,
    }
    with writing(options.write_queries):
        write_text(options.write_queries, json.dumps(queries, indent=1) + "\n")


def _retrieval(options: argparse.Namespace, rows: Any) -> dict[str, Any]:
    """Results of a retriever, or of a .npz of embeddings."""
    gallery = read_gallery(rows)
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
    return score_embeddings(
        gallery, embeddings, settings, split=options.split, source=source, heads=heads
    )


def _why_unreadable(rows: Any, position: int) -> str | None:
    """What keeps our own models from reading an image, if anything does."""
    from heph_vl.embed import encoded_images, read_image

    try:
        read_image(encoded_images(rows)[position], position)
    except HephError as problem:
        return str(problem)
    return None


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
    return {"predictions": str(source), **scored}


def _predicted(model: Path, rows: Any, labels: Any, folder: Path) -> Any:
    """Predictions of saved heads, on a GPU where there is one."""
    import torch

    from eval.evaluate_labels import predict_with_heads
    from heph_vl.models.heads import Heads

    heads = Heads.from_pretrained(model)
    heads.to("cuda" if torch.cuda.is_available() else "cpu")
    with _progress("Predicting", len(rows)) as progress:
        return predict_with_heads(heads, rows, labels, folder, progress)


def _captions(options: argparse.Namespace, rows: Any) -> dict[str, Any]:
    """Results of a captioner, or of a .jsonl of captions."""
    from eval.evaluate_captions import (
        CaptionSettings,
        commonest,
        heads_captions,
        neighbour_captions,
        predict_captions,
        score_captions,
    )
    from heph_vl.data.hephaestus import load
    from heph_vl.metrics.caption_predictions import read_caption_predictions

    gallery = read_gallery(rows)
    train = None
    # A dataset of held-out images alone has no training split.
    with contextlib.suppress(HephError):
        train = load(options.data, "train")
    others: dict[str, Sequence[str]] = {}
    if options.model is not None:
        from heph_vl.caption import NUM_SAMPLES, look_at_rows
        from heph_vl.embed import on_best_device
        from heph_vl.models.captioner import Captioner

        captioner = on_best_device(Captioner.from_pretrained(options.model))
        with _progress("Captioning", len(rows)) as progress:
            found, pooled = predict_captions(
                captioner,
                rows,
                gallery,
                options.write_predictions,
                progress,
                num_samples=options.samples or NUM_SAMPLES,
                num_beams=options.beams or 0,
            )
        # In the training split each image is its own neighbour.
        if train is not None and options.split != "train":
            with _progress("Looking at training images", len(train)) as progress:
                positions, seen = look_at_rows(captioner, train, progress=progress)
            texts = [train["caption"][i] for i in positions]
            others["neighbour"] = neighbour_captions(pooled, seen, texts)
    else:
        unreadable = partial(_why_unreadable, rows)
        found = read_caption_predictions(options.predictions, gallery, unreadable)
    others["constant"] = [commonest((train or rows)["caption"])] * len(found.texts)
    found.about["constant_from"] = options.split if train is None else "train"
    if options.heads is not None:
        others["heads"], found.about["heads"] = heads_captions(options.heads, rows, found.positions)
    source = options.model or options.predictions
    deforms = [bool(kinds) for kinds in rows["activity_types"]]
    settings = CaptionSettings(options.seed, options.draws)
    scored = score_captions(gallery, found, deforms, others, settings, split=options.split)
    return {"predictions": str(source), **scored}


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
    what.add_argument(
        "--model", type=Path, help="saved retriever, heads or captioner: its folder, or user/repo"
    )
    what.add_argument(
        "--predictions",
        type=Path,
        help="anyone's embeddings, .npz, or labels and masks, or captions, .jsonl",
    )
    what.add_argument("--write-queries", type=Path, help="write what must be embedded, and stop")
    parser.add_argument(
        "--write-predictions",
        type=Path,
        metavar="DIR",
        help="keep labels and masks of the heads, or captions",
    )
    parser.add_argument(
        "--heads",
        type=Path,
        metavar="FILE",
        help="labels and masks, .jsonl, that a retriever or captions are compared with",
    )
    parser.add_argument("--out", type=Path, help="default: beside model or predictions")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print results as JSON")
    parser.add_argument("--batch-size", type=_positive, default=8, help="images at once")
    parser.add_argument("--beams", type=_positive, help="of captions (default: agreement)")
    parser.add_argument("--samples", type=_positive, help="texts drawn for a caption (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of shuffles and draws")
    parser.add_argument("--shuffles", type=_positive, default=5, help="permutations of the images")
    parser.add_argument("--draws", type=_positive, default=2000, help="resamples of the groups")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def finished(results: dict[str, Any]) -> dict[str, Any]:
    """Results with date, version and commit, fit for JSON."""
    found: dict[str, Any] = _json_ready(
        {
            **results,
            "created": datetime.now(UTC).isoformat("T", "seconds"),
            "heph_vl": __version__,
            "commit": _commit(),
        }
    )
    return found


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
