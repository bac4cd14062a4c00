"""Scores of embeddings of images and texts, ours or anyone's; used by `eval/evaluate.py`."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heph_vl.errors import HephError
from heph_vl.metrics.benchmark import Settings, query_texts, score_retrieval
from heph_vl.metrics.fact_beliefs import Beliefs, beliefs
from heph_vl.metrics.predictions import Embeddings, Gallery

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


def score_embeddings(
    gallery: Gallery,
    embeddings: Embeddings,
    settings: Settings,
    *,
    split: str,
    source: Path,
    heads: Sequence[Beliefs] | None = None,
) -> dict[str, Any]:
    """Everything of `results.json` that depends on the embeddings.

    Args:
        gallery: The whole split.
        embeddings: Of its readable images and all queries.
        settings: Seeds and numbers of draws.
        split: Name of the split.
        source: The model's folder or the predictions.
        heads: What labels and masks say of each readable image, to be compared with.

    Returns:
        `task`, `split`, `suites` (see `metrics.benchmark.score_retrieval`), `settings` and
        `scoring_seconds`.
    """
    readable = gallery.take(embeddings.positions)
    started = time.perf_counter()
    suites = score_retrieval(
        embeddings.images, embeddings.texts, readable.captions, readable.groups, settings, heads
    )
    return {
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


def retrieval_tables(results: dict[str, Any]) -> list[Any]:
    """One rich table for each suite.

    Args:
        results: Of `score_embeddings`, made ready for JSON.

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
