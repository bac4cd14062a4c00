"""Splits for glacier fringes and corruption: enough in each part, and told what leaks."""

from collections import Counter
from dataclasses import replace

import pytest

from heph_vl.data import splits, task_splits
from heph_vl.errors import HephError
from tests.data.test_splits import ETNA, HIERRO, make


def frame_of(group: str) -> str:
    return splits.GROUPS[group][0]


def test_glacier_divides_one_group_by_date_and_leaves_borders_out() -> None:
    iceland = frame_of(task_splits.GLACIER_GROUP)
    items = [
        make(1, iceland, "2020-06-18", "2020-06-30"),
        make(2, iceland, "2020-06-24", "2020-07-06"),
        make(3, iceland, "2020-07-06", "2020-12-31"),
        make(4, iceland, "2020-12-31", "2021-01-06"),
        make(5, iceland, "2021-01-06", "2021-01-12"),
        make(6, ETNA, "2020-06-24", "2020-07-06"),
        make(7, HIERRO, "2021-01-06", "2021-01-12"),
    ]
    assigned = splits.assign(items, "glacier")
    assert assigned == {1: "train", 3: "val", 5: "test", 6: "test", 7: "val"}
    items = [replace(item, glacier_fringes=item.unique_id < 6) for item in items]
    found = task_splits.task_split(items, "glacier")
    assert found.positives == {"train": 1, "val": 1, "test": 1, "left_out": 2}
    assert found.leakage["train-test"]["volcano_groups"] == [task_splits.GLACIER_GROUP]
    assert found.leakage["train-test"]["acquisitions"] == 0
    assert found.counts["left_out"]["records"] == 2


def test_corruption_moves_one_group_to_validation() -> None:
    frames = list(splits.FRAMES)
    items = [make(i, frame) for i, frame in enumerate(frames)]
    grouped, moved = (splits.assign(items, scheme) for scheme in ("grouped", "corruption"))
    changed = {frames[i] for i in grouped if grouped[i] != moved[i]}
    assert changed == set(splits.GROUPS["auckland-field"])
    assert {moved[frames.index(frame)] for frame in changed} == {"val"}
    for pair in splits.leakage(items, moved).values():
        assert not any(pair.values())


@pytest.mark.parametrize("task", task_splits.TASKS)
def test_unknown_frames_go_as_in_grouped(task: str) -> None:
    items = [make(i, f"{i:03}A_{i:05}_131313") for i in range(1, 60)]
    assert splits.assign(items, task) == splits.assign(items)


def test_wrong_use_is_one_line() -> None:
    with pytest.raises(HephError, match="unknown task 'noise'; use one of glacier, corruption"):
        task_splits.task_split([], "noise")
    with pytest.raises(HephError, match="no record with corrupted in train, val, test"):
        task_splits.task_split([make(1)], "corruption")
    with pytest.raises(HephError, match="with grouped only"):
        splits.assign([], "glacier", fold=1)


@pytest.mark.real_data
def test_real_counts(real_annotations) -> None:
    items = real_annotations.annotations
    glacier = task_splits.task_split(items, "glacier")
    assert glacier.positives == {"train": 44, "val": 10, "test": 25, "left_out": 1}
    for pair in glacier.leakage.values():
        assert pair["volcano_groups"] == ["reykjanes-hengill"]
        assert pair["acquisitions"] == 0
    corruption = task_splits.task_split(items, "corruption")
    assert corruption.positives == {"train": 96, "val": 49, "test": 167, "left_out": 0}
    assert corruption.groups_with_positives == {"train": 7, "val": 4, "test": 5, "left_out": 0}
    for pair in corruption.leakage.values():
        assert not any(pair.values())
    tested = {uid for uid, side in corruption.assignment.items() if side == "test"}
    grouped = splits.assign(items)
    assert tested == {uid for uid, side in grouped.items() if side == "test"}
    assert Counter(corruption.assignment.values()).total() == len(items)
