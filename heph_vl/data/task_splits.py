"""Splits for tasks whose class the grouped split cannot divide: glacier fringes and corruption.

Both keep the grouped split (no volcano on two sides) and change what they must:

- `glacier`: all 80 records with glacier fringes lie in one group of volcanoes, two Iceland frames
  of one track, which the grouped split tests. This group is divided by date instead; pairs that
  reach over a border are left out, so that no acquisition is on two sides. The ground is the same
  on all sides: read its scores as skill on another year of known glaciers (see `leakage`).
- `corruption`: the grouped validation part has 7 of the 312 corrupted records. One group of the
  training part without deformation and with 42 of them validates instead; nothing else moves, so
  the test part is that of the headline results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from heph_vl.data import splits
from heph_vl.data.annotations import Annotation
from heph_vl.errors import HephError

GLACIER_GROUP = "reykjanes-hengill"
# Of the 80 records 44, 10 and 25; melt fringes come from October to May, so each part has a winter.
GLACIER_PERIODS = (
    ("train", date.min, date(2020, 6, 30)),
    ("val", date(2020, 7, 1), date(2020, 12, 31)),
    ("test", date(2021, 1, 1), date.max),
)
CORRUPTION_MOVED = {"auckland-field": "val"}
TASKS = {"glacier": "glacier_fringes", "corruption": "corrupted"}
"""Scheme and the flag it is for."""


@dataclass(frozen=True)
class TaskSplit:
    """A split for one task, with what must be reported beside its scores.

    Attributes:
        assignment: Unique id -> `train`, `val` or `test`; records left out are not in it.
        leakage: Of `splits.leakage`.
        counts: Of `splits.class_counts`.
        positives: Records with the task's flag in each part, and `left_out`.
        groups_with_positives: Volcano groups that have any, in each part.
    """

    assignment: dict[int, str]
    leakage: dict[str, Any]
    counts: dict[str, dict[str, Any]]
    positives: dict[str, int]
    groups_with_positives: dict[str, int]


def choose(item: Annotation, task: str) -> str | None:
    """The side of one record: `train`, `val`, `test`, or None where it is left out.

    Args:
        item: The record.
        task: One of TASKS.

    Returns:
        Depends on the record alone, never on what else an archive holds.
    """
    group = splits.volcano_group(item.frame_id)
    if task == "corruption" and group in CORRUPTION_MOVED:
        return CORRUPTION_MOVED[group]
    if task == "glacier" and group == GLACIER_GROUP:
        for side, first, last in GLACIER_PERIODS:
            if first <= item.primary_date and item.secondary_date <= last:
                return side
        return None
    return splits.grouped_split(item.frame_id)


def task_split(annotations: Sequence[Annotation], task: str) -> TaskSplit:
    """The split of a task with its leakage and counts.

    Args:
        annotations: Records.
        task: One of TASKS.

    Returns:
        The split.

    Raises:
        HephError: If the task is unknown, or a part has no record with the task's flag.
    """
    if task not in TASKS:
        raise HephError("splits", f"unknown task {task!r}", f"use one of {', '.join(TASKS)}")
    assignment = splits.assign(annotations, task)
    groups: dict[str, list[str]] = {side: [] for side in (*splits.SPLITS, "left_out")}
    for item in annotations:
        if getattr(item, TASKS[task]):
            side = assignment.get(item.unique_id, "left_out")
            groups[side].append(splits.volcano_group(item.frame_id))
    empty = [side for side in splits.SPLITS if not groups[side]]
    if empty:
        what = f"no record with {TASKS[task]} in {', '.join(empty)}"
        raise HephError(f"splits: {task}", what, "use an archive that has some, or scheme grouped")
    return TaskSplit(
        assignment,
        splits.leakage(annotations, assignment),
        splits.class_counts(annotations, assignment),
        {side: len(found) for side, found in groups.items()},
        {side: len(set(found)) for side, found in groups.items()},
    )
