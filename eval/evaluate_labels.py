"""Scores of labels and masks on a dataset split, ours or anyone's; used by `eval/evaluate.py`.

Our heads write the file that anyone would write (`heph_vl.metrics.label_predictions`), and it is
read back: there is one way to the scores. Thresholds come with the predictions.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heph_vl.data import phase, samples
from heph_vl.data.transforms import encoded
from heph_vl.errors import HephError
from heph_vl.metrics.classification import Answers, score_classes
from heph_vl.metrics.curves import confusion, precision_recall, reliability
from heph_vl.metrics.label_predictions import (
    EXCLUSIVE,
    TASKS,
    LabelPredictions,
    Labels,
    read_label_predictions,
    read_mask,
    write_label_predictions,
)
from heph_vl.metrics.segmentation import MaskCounts, count_pixels, score_masks

Progress = Callable[[int, int], None]

# In one look Mogi, sill and spheroid nearly coincide, and one group of volcanoes has all spheroids.
NOT_AVERAGED = {"spheroid": "told from mogi and sill by no single look; its count is shown"}
NO_MASKED = "no image of the split has a known label of this kind"


@dataclass(frozen=True)
class LabelSettings:
    """What intervals depend on.

    Args:
        seed: Of the draws.
        num_draws: Resamples of the volcano groups.
    """

    seed: int = 0
    num_draws: int = 2000


def predict_with_heads(
    heads: Any, rows: Any, labels: Labels, folder: Path, progress: Progress
) -> LabelPredictions:
    """Predictions of saved heads for whole images.

    Args:
        heads: A `models.heads.Heads`.
        rows: The dataset split.
        labels: Its labels.
        folder: Gets `predictions.jsonl` and masks.
        progress: Called with images done and of all.

    Returns:
        Predictions of the images that could be read.

    Raises:
        HephError: If no image could be read.
    """
    import torch

    images = encoded(rows.select_columns(["unique_id", "image", "coherence"]))
    left_out: dict[int, str] = {}

    def predicted() -> Iterator[tuple[int, Any]]:
        for done, (uid, row) in enumerate(zip(labels.unique_ids, images, strict=True), start=1):
            try:
                pixels, valid = samples.whole_image(row)
                found = heads.predict(torch.from_numpy(pixels), torch.from_numpy(valid))
            except HephError as problem:
                left_out[uid] = problem.what
            else:
                yield uid, found
            progress(done, len(labels.unique_ids))

    thresholds = _thresholds_of(heads)
    path = write_label_predictions(folder, predicted(), thresholds)
    if len(left_out) == len(labels.unique_ids):
        first = next(iter(left_out.values()))
        what = f"none of {len(left_out)} could be read, the first because {first}"
        raise HephError("images", what, "check the dataset")
    predictions = read_label_predictions(path, labels, left_out)
    predictions.about["model_id"] = heads.model_id
    return predictions


def score_labels(
    rows: Any,
    labels: Labels,
    predictions: LabelPredictions,
    settings: LabelSettings,
    *,
    split: str,
    train: Labels | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Everything of `results.json` that depends on the predictions.

    Args:
        rows: The dataset split.
        labels: Its labels.
        predictions: Of its readable images.
        settings: Seed and number of draws.
        split: Name of the split.
        train: Labels of the training split, which the majority class is taken from; the scored
            split's own where there is none.
        progress: Called with masks done and of all.

    Returns:
        `task`, `split`, `thresholds`, `tasks` (see `metrics.classification.score_classes` and
        `metrics.segmentation.score_masks`; `curve`, `reliability` and `confusion` as of
        `metrics.curves`), `settings` and `scoring_seconds`.
    """
    started = time.perf_counter()
    kept = np.array(predictions.positions)
    groups = np.array(labels.groups)[kept]
    draws = {"seed": settings.seed, "num_draws": settings.num_draws}
    tasks: dict[str, Any] = {}
    for task, probability in predictions.probabilities.items():
        known = labels.known[task][kept]
        if not known.any():
            tasks[task] = {"images": 0, "reason": NO_MASKED}
            continue
        answers = Answers(
            labels.truth[task][kept][known],
            probability[known],
            predictions.decided(task)[known],
            (train or labels).shares(task),
            task in EXCLUSIVE,
        )
        out = NOT_AVERAGED if task == "activity_types" else None
        tasks[task] = score_classes(
            TASKS[task], answers, groups[known].tolist(), left_out=out, **draws
        ) | {"without_label": int((~known).sum())}
        _add_curves(tasks[task], TASKS[task], answers)
    if predictions.masks is not None:
        tasks["segmentation"] = _score_masks(rows, labels, predictions, draws, progress)
    return {
        "task": "labels",
        **predictions.about,
        "split": {
            "name": split,
            "sha256": labels.sha256,
            "images": len(labels.unique_ids),
            "groups": len(set(labels.groups)),
            "sources": dict(Counter(labels.sources)),
            "majority_from": "train" if train else split,
            "unreadable": predictions.unreadable,
        },
        "thresholds": {
            task: dict(zip(TASKS[task], values.tolist(), strict=True))
            for task, values in predictions.thresholds.items()
        },
        "tasks": tasks,
        "settings": asdict(settings),
        "scoring_seconds": round(time.perf_counter() - started, 2),
    }


def _add_curves(scored: dict[str, Any], names: Sequence[str], answers: Answers) -> None:
    """Add what `eval/report.py` draws: points and bins of each class, and who is taken for whom."""
    for c, name in enumerate(names):
        one = answers.truth[:, c], answers.probability[:, c]
        if scored["classes"][name]["support"]:
            scored["classes"][name]["curve"] = precision_recall(*one)
            scored["classes"][name]["reliability"] = reliability(*one)
    if len(names) > 1:
        scored["confusion"] = confusion(names, answers)


def _score_masks(
    rows: Any,
    labels: Labels,
    predictions: LabelPredictions,
    draws: dict[str, int],
    progress: Progress,
) -> dict[str, Any]:
    """One image at a time: masks of a whole archive do not fit into memory."""
    assert predictions.masks is not None
    images = encoded(rows.select_columns(["unique_id", "image", "mask"]))
    counts, groups, left_out = [], [], []
    pairs = zip(predictions.positions, predictions.masks, strict=True)
    for done, (position, path) in enumerate(pairs, start=1):
        row = images[position]
        where = f"interferogram {row['unique_id']}"
        try:
            valid = phase.decode_image(phase.open_png(row["image"]["bytes"], where), where=where)
            truth = np.asarray(phase.open_png(row["mask"]["bytes"], f"{where}: mask"))
        except HephError as problem:
            left_out.append(str(problem))
            continue
        height, width = truth.shape
        mask = read_mask(path, (width, height))
        counts.append(count_pixels(mask, truth, valid.valid, str(path)))
        groups.append(labels.groups[position])
        progress(done, len(predictions.masks))
    if not counts:
        return {"images": 0, "reason": "no image of the split could be read"}
    found = score_masks(MaskCounts.stack(counts), groups, left_out=NOT_AVERAGED, **draws)
    return found | {"left_out": left_out}


def _thresholds_of(heads: Any) -> dict[str, Any]:
    """Thresholds that were fitted on validation and saved with the heads."""
    found: dict[str, Any] = {}
    for task, names in TASKS.items():
        if task in EXCLUSIVE:
            continue
        values = getattr(heads.calibration, task).threshold
        named = dict(zip(names, map(float, values), strict=True))
        found[task] = named[task] if task == "deformation" else named
    return found


_CLASS_COLUMNS = {
    "ACC": "accuracy",
    "P": "precision",
    "R": "recall",
    "F1": "f1",
    "AUROC": "auroc",
    "AP": "average_precision",
    "ECE": "ece",
    "ECE=": "ece_balanced",
    "ECE~": "ece_balanced_shifted",
}
_GROUP_COLUMNS = {
    "F1": ("deformation", "f1"),
    "AUROC": ("deformation", "auroc"),
    "AP": ("deformation", "average_precision"),
    "ECE": ("deformation", "ece"),
    "IoU": ("segmentation", "iou"),
    "false area": ("segmentation", "false_area"),
}


def label_tables(results: dict[str, Any]) -> list[Any]:
    """Rich tables: deformation and masks with intervals, all classes, values by group.

    Args:
        results: Of `score_labels`, made ready for JSON.

    Returns:
        Tables.
    """
    tasks = results["tasks"]
    found = []
    for title, metrics, baseline in _detailed(tasks):
        table = _table(title, ("", "model", "95 %", baseline, "difference", "95 %"))
        for name, compared in metrics.items():
            if compared is None:
                table.add_row(name, *["-"] * 5)
                continue
            gain = compared[f"minus_{baseline}"]
            table.add_row(
                name,
                _number(compared["model"]["value"]),
                _interval(compared["model"]["interval"]),
                _number(compared[baseline]),
                _number(gain["value"]),
                _interval(gain["interval"]),
            )
        found.append(table)
    for task, scored in tasks.items():
        if task != "segmentation" and "macro" in scored:
            found.append(_classes(task, scored))
    by_group = _by_group(tasks)
    if by_group is not None:
        found.append(by_group)
    return found


def _detailed(tasks: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    if "classes" in tasks.get("deformation", {}):
        one = tasks["deformation"]["classes"]["deformation"]
        title = f"deformation: {one['support']} of {tasks['deformation']['images']} images"
        yield title, one["metrics"], "majority"
    masks = tasks.get("segmentation", {})
    if "classes" in masks:
        one = masks["classes"]["deformation"]
        title = f"masks: deformation in {one['support']} of {masks['images']} images"
        metrics = dict(one["metrics"]) | masks["false_alarms"]
        types = {f"{n} {m}": c["metrics"][m] for n, c in masks["classes"].items() for m in ("iou",)}
        types.pop("deformation iou")
        mean = {"mean iou of types": masks["macro"]["metrics"]["iou"]}
        yield title, metrics | types | mean, "empty"


def _classes(task: str, scored: dict[str, Any]) -> Any:
    """All classes of one task, their mean, and what the majority class has as precision."""
    title = f"{task}: {scored['images']} images"
    if "accuracy" in scored:
        model, majority = scored["accuracy"]["model"]["value"], scored["accuracy"]["majority"]
        title += f", accuracy {_number(model)} (majority {_number(majority)})"
    table = _table(title, ("", "images", *_CLASS_COLUMNS, "AP maj."))
    for name, one in scored["classes"].items():
        cells = [_value(one["metrics"][metric]) for metric in _CLASS_COLUMNS.values()]
        share = one["metrics"]["average_precision"]
        floor = "-" if share is None else _number(share["majority"])
        table.add_row(name, str(one["support"]), *cells, floor)
    mean = scored["macro"]
    cells = [_value(mean["metrics"].get(metric)) for metric in _CLASS_COLUMNS.values()]
    table.add_row(f"mean of {len(mean['classes'])}", "", *cells, "", style="bold")
    table.caption = "- absent   ECE= classes of equal weight   ECE~ probabilities shifted to that"
    table.caption_justify = "left"
    return table


def _by_group(tasks: dict[str, Any]) -> Any | None:
    columns: dict[str, dict[str, float | None]] = {}
    for heading, (task, metric) in _GROUP_COLUMNS.items():
        scored = tasks.get(task, {})
        if "classes" not in scored:
            continue
        metrics = scored["classes"]["deformation"]["metrics"] | scored.get("false_alarms", {})
        if metrics[metric] is not None:
            columns[heading] = metrics[metric]["model"]["per_group"]
    if not columns:
        return None
    table = _table("deformation by volcano group", ("", *columns))
    for group in sorted({name for column in columns.values() for name in column}):
        table.add_row(group, *(_number(column.get(group)) for column in columns.values()))
    return table


def _table(title: str, headings: tuple[str, ...]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    return table


def _value(compared: dict[str, Any] | None) -> str:
    return "-" if compared is None else _number(compared["model"]["value"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(interval: list[float] | None) -> str:
    return "-" if interval is None else " to ".join(_number(edge) for edge in interval)
