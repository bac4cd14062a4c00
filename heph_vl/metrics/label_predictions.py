"""Anyone's labels and masks for the benchmark: `predictions.jsonl`, written, read and checked.

One JSON object for each image, in any order; images that are not asked for are ignored:

    {"unique_id": 850, "deformation": 0.9, "activity_types": {"mogi": 0.8, ...},
     "intensities": {"low": 0.7, ...}, "volcano_phase": {"rest": 0.1, ...},
     "atmosphere": {"none": 0.2, ...}, "quality": {"corrupted": 0.0, ...},
     "mask": "masks/850.png"}

Probabilities are in [0, 1]; `volcano_phase` and `atmosphere` sum to 1. `intensities` are given that
there is deformation. A mask is an 8-bit PNG of class ids, of the image's size, at a path relative
to the file. A task that no line has is not scored; one that some lines lack is an error.

A line `{"thresholds": {"deformation": 0.4, "quality": {"corrupted": 0.7}}}` without `unique_id`
gives the probabilities from which a label counts as present (0.5 where none is given); they must
come from elsewhere than the images that are scored.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.labels import LABELS, SOFTMAX, row_labels
from heph_vl.data.native import encode_png
from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.errors import HephError
from heph_vl.files import writing

Floats = npt.NDArray[np.float64]

TASKS, EXCLUSIVE = LABELS, SOFTMAX
FILE = "predictions.jsonl"
_SUM_TOLERANCE = 1e-3
_COLUMNS = (
    *("unique_id", "volcano_group", "source", "activity_types", "intensities"),
    *("volcano_phase", "atmosphere", *QUALITY_FLAGS),
)


@dataclass(frozen=True)
class Labels:
    """What the N images of a split are, without their pixels.

    Args:
        unique_ids: N ids.
        groups: Volcano group of each.
        sources: `real` or `simulated`.
        truth: For each task (N, C) bool.
        known: For each task (N,) bool: False where the label says nothing (`volcano_phase` of
            some records; `intensities` of what does not deform).
    """

    unique_ids: list[int]
    groups: list[str]
    sources: list[str]
    truth: dict[str, npt.NDArray[np.bool_]]
    known: dict[str, npt.NDArray[np.bool_]]

    @property
    def sha256(self) -> str:
        """Of ids and labels in order of id: equal hashes are equal tasks."""
        table = np.hstack([self.truth[task] for task in TASKS])
        lines = sorted(
            f"{uid}\t{''.join('01'[bit] for bit in row)}"
            for uid, row in zip(self.unique_ids, table.tolist(), strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def shares(self, task: str) -> Floats:
        """(C,) how frequent each class is among the images where it is known; 0 without any."""
        known = self.truth[task][self.known[task]]
        shares: Floats = known.sum(axis=0) / max(1, len(known))
        return shares


@dataclass(frozen=True)
class LabelPredictions:
    """Predictions for images of a split, in the order of ``positions``.

    Args:
        positions: Positions of the n images in the split.
        probabilities: For each task that is predicted (n, C) float64.
        thresholds: For each task that is not exclusive (C,) float64.
        masks: n mask files, or None.
        about: Where they come from, for the results.
        unreadable: Images left out, one line each.
    """

    positions: list[int]
    probabilities: dict[str, Floats]
    thresholds: dict[str, Floats]
    masks: list[Path] | None
    about: dict[str, Any]
    unreadable: list[str]

    def decided(self, task: str) -> npt.NDArray[np.bool_]:
        """(n, C) bool: the likeliest class of an exclusive task, else those above threshold."""
        values = self.probabilities[task]
        if task in EXCLUSIVE:
            best: npt.NDArray[np.bool_] = values.argmax(axis=1)[:, None] == np.arange(
                values.shape[1]
            )
            return best
        above: npt.NDArray[np.bool_] = values >= self.thresholds[task]
        return above


class Prediction(Protocol):
    """What is written of a `models.heads.Prediction`."""

    @property
    def mask(self) -> npt.NDArray[np.uint8] | None:
        """(H, W) class ids, or None."""

    def row(self, unique_id: int, mask: str | None = None) -> dict[str, Any]:
        """The image's line."""


def read_labels(rows: Any) -> Labels:
    """Labels of a dataset split.

    Args:
        rows: A `datasets.Dataset` of config `interferograms`.

    Returns:
        Its labels, in order.

    Raises:
        HephError: If the split is empty, lacks a column, or repeats an id.
    """
    missing = [name for name in _COLUMNS if name not in rows.column_names]
    if missing:
        fix = "evaluate a dataset of config interferograms"
        raise HephError("dataset", f"no column {missing[0]}", fix)
    columns = rows.select_columns(["unique_id", "volcano_group", "source"]).to_dict()
    ids = columns["unique_id"]
    if not ids:
        raise HephError("dataset", "the split has no images", "choose another split or dataset")
    twice = [key for key, times in Counter(ids).items() if times > 1]
    if twice:
        fix = "evaluate whole interferograms, not patches"
        raise HephError("dataset", f"unique_id {twice[0]} twice", fix)
    values = row_labels(rows.select_columns([name for name in _COLUMNS if name != "source"]))
    return Labels(
        ids,
        columns["volcano_group"],
        columns["source"],
        {task: np.asarray(given == 1) for task, given in values.items()},
        {task: np.asarray(~np.isnan(given).any(axis=1)) for task, given in values.items()},
    )


def write_label_predictions(
    folder: Path,
    predictions: Iterable[tuple[int, Prediction]],
    thresholds: Mapping[str, Any] | None = None,
) -> Path:
    """Write `predictions.jsonl` and `masks/<unique_id>.png`; the file appears when all is there.

    Args:
        folder: Made if need be.
        predictions: Id and prediction of each image, taken one at a time.
        thresholds: See the module.

    Returns:
        The file.

    Raises:
        HephError: If it cannot be written.
    """
    path = folder / FILE
    with writing(path):
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".writing-{FILE}")
        with temporary.open("w", encoding="utf-8") as file:
            if thresholds:
                file.write(json.dumps({"thresholds": thresholds}) + "\n")
            for unique_id, prediction in predictions:
                name = None
                if prediction.mask is not None:
                    name = f"masks/{unique_id}.png"
                    (folder / name).write_bytes(encode_png(prediction.mask))
                file.write(json.dumps(prediction.row(unique_id, name), allow_nan=False) + "\n")
        temporary.replace(path)
    return path


def read_label_predictions(
    path: Path, labels: Labels, left_out: Mapping[int, str] | None = None
) -> LabelPredictions:
    """Predictions, checked and put into the split's order.

    Args:
        path: A file as the module describes it.
        labels: The images that must be there; others are ignored.
        left_out: Ids that need not be there, and why: images that could not be read.

    Returns:
        The predictions of all images that are not left out. Masks are not opened.

    Raises:
        HephError: With file, line and field, if anything is missing, repeated, or no probability.
    """
    rows, thresholds, ignored = _read_lines(path, set(labels.unique_ids))
    excused = left_out or {}
    positions = [i for i, uid in enumerate(labels.unique_ids) if uid not in excused]
    ids = [labels.unique_ids[i] for i in positions]
    missing = [uid for uid in ids if uid not in rows]
    if missing:
        what = f"{len(missing)} of {len(ids)} images missing, the first {missing[0]}"
        raise HephError(str(path), what, "give one line for each image of the split")
    ordered = [rows[uid] for uid in ids]
    probabilities = {}
    for task in TASKS:
        given = [row for _, row in ordered if row.get(task) is not None]
        if len(given) == len(ordered) > 0:
            values = [_probabilities(row[task], task, f"{path}:{n}") for n, row in ordered]
            probabilities[task] = np.array(values)
        elif given:
            _partly(path, task, ordered)
    masks = None
    if any(row.get("mask") is not None for _, row in ordered):
        if any(row.get("mask") is None for _, row in ordered):
            _partly(path, "mask", ordered)
        masks = [_mask_path(row["mask"], path, f"{path}:{n}: mask") for n, row in ordered]
    if not probabilities and masks is None:
        what = "no task in any line"
        raise HephError(str(path), what, f"give some of {', '.join(TASKS)}, mask")
    about = {
        "predictions_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "ignored_images": ignored,
        "not_predicted": [t for t in TASKS if t not in probabilities] + ["mask"] * (masks is None),
    }
    return LabelPredictions(
        positions,
        probabilities,
        {task: _thresholds(thresholds, task) for task in TASKS if task not in EXCLUSIVE},
        masks,
        about,
        [f"{uid}: {why}" for uid, why in excused.items()],
    )


def read_mask(path: Path, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """A mask of class ids.

    Args:
        path: An 8-bit PNG, grey or with a palette.
        size: Width and height that it must have; any if None.

    Returns:
        (height, width) uint8.

    Raises:
        HephError: If it cannot be read, is of another kind or size, or holds an unknown id.
    """
    fix = "give an 8-bit PNG of class ids, of the image's size"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in ("L", "P"):
                raise HephError(str(path), f"image of mode {image.mode}", fix)
            # Before pixels are read: a huge one costs nothing.
            if size is not None and image.size != size:
                sizes = f"{image.size[0]} x {image.size[1]} px, its image {size[0]} x {size[1]} px"
                raise HephError(str(path), sizes, fix)
            mask = np.array(image, dtype=np.uint8)
    except FileNotFoundError as error:
        raise HephError(str(path), "no such mask", fix) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise HephError(str(path), f"unreadable: {error}", fix) from error
    if int(mask.max(initial=0)) > len(ACTIVITY_TYPES):
        ids = f"0 background, {', '.join(f'{i} {n}' for i, n in enumerate(ACTIVITY_TYPES, 1))}"
        raise HephError(str(path), f"class id {int(mask.max())}", f"use {ids}")
    return mask


_Lines = dict[int, tuple[int, dict[str, Any]]]


def _read_lines(path: Path, wanted: set[int]) -> tuple[_Lines, dict[str, Any], int]:
    """Number and content of the wanted lines by id, the thresholds, and how many are ignored."""
    rows: _Lines = {}
    seen: set[int] = set()
    thresholds: dict[str, Any] | None = None
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                row = _object(line, where)
                if "unique_id" not in row and "thresholds" in row:
                    if thresholds not in (None, row["thresholds"]):
                        raise HephError(where, "other thresholds than before", "give them once")
                    thresholds = _checked_thresholds(row["thresholds"], where)
                    continue
                unique_id = row.get("unique_id")
                if type(unique_id) is not int:
                    raise HephError(f"{where}: unique_id", f"{unique_id!r}", "give an integer")
                if unique_id in seen:
                    raise HephError(where, f"unique_id {unique_id} twice", "give each image once")
                unknown = sorted(set(row) - {"unique_id", "mask", *TASKS})
                if unknown:
                    fix = f"use unique_id, mask, {', '.join(TASKS)}"
                    raise HephError(f"{where}: {unknown[0]}", "no such task", fix)
                seen.add(unique_id)
                if unique_id in wanted:
                    rows[unique_id] = (number, row)
    except FileNotFoundError as error:
        raise HephError(str(path), "no such file", "give the .jsonl of your predictions") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HephError(str(path), f"unreadable: {error}", "give JSON lines in UTF-8") from error
    return rows, thresholds or {}, len(seen) - len(rows)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HephError(where, f"no JSON ({error})", "give one JSON object a line") from error
    if not isinstance(row, dict):
        raise HephError(where, f"{type(row).__name__}, no object", "give one JSON object a line")
    return row


def _probabilities(value: Any, task: str, where: str) -> list[float]:
    names = TASKS[task]
    if task == "deformation":
        return [_probability(value, f"{where}: {task}")]
    if not isinstance(value, dict) or set(value) != set(names):
        found = sorted(value) if isinstance(value, dict) else value
        raise HephError(f"{where}: {task}", f"{found!r}", f"give all of {', '.join(names)}")
    values = [_probability(value[name], f"{where}: {task}.{name}") for name in names]
    if task in EXCLUSIVE and abs(sum(values) - 1) > _SUM_TOLERANCE:
        raise HephError(f"{where}: {task}", f"sum {sum(values):.4f}", "let them sum to 1")
    return values


def _probability(value: Any, where: str) -> float:
    # NaN compares false, and True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise HephError(where, f"{value!r}", "a number from 0 to 1")
    return float(value)


def _checked_thresholds(value: Any, where: str) -> dict[str, Any]:
    where = f"{where}: thresholds"
    known = [task for task in TASKS if task not in EXCLUSIVE]
    if not isinstance(value, dict) or set(value) - set(known):
        raise HephError(where, f"{value!r}", f"give numbers by {', '.join(known)}")
    for task, given in value.items():
        entries = {task: given} if task == "deformation" else given
        if not isinstance(entries, dict) or set(entries) - set(TASKS[task]):
            fix = f"give numbers by {', '.join(TASKS[task])}"
            raise HephError(f"{where}.{task}", f"{given!r}", fix)
        for name, threshold in entries.items():
            _probability(threshold, f"{where}.{task}.{name}")
    return value


def _thresholds(given: Mapping[str, Any], task: str) -> Floats:
    entries = given.get(task, {})
    if task == "deformation":
        entries = {task: entries} if task in given else {}
    return np.array([float(entries.get(name, 0.5)) for name in TASKS[task]])


def _mask_path(value: Any, path: Path, where: str) -> Path:
    """A path that stays inside the folder of the predictions."""
    parts = PurePosixPath(value).parts if isinstance(value, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in value or "\0" in value:
        raise HephError(where, f"{value!r}", "a path relative to the file, inside its folder")
    return path.parent.joinpath(*parts)


def _partly(path: Path, task: str, ordered: list[tuple[int, dict[str, Any]]]) -> None:
    number = next(n for n, row in ordered if row.get(task) is None)
    what = "missing here, but other lines have it"
    raise HephError(f"{path}:{number}: {task}", what, "give it for all images or for none")
