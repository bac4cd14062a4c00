"""Segmentation: values by hand, no-data never counts, wrong masks are refused."""

import numpy as np
import pytest

from heph_vl.errors import HephError
from heph_vl.metrics.classification import ABSENT
from heph_vl.metrics.segmentation import METRICS, MaskCounts, count_pixels, score_masks


def masks(predicted: list[list[int]], truth: list[list[int]], hole: tuple[int, int] | None = None):
    p, t = (np.array(m, np.uint8) for m in (predicted, truth))
    valid = np.ones(t.shape, bool)
    if hole is not None:
        valid[hole] = False
    return count_pixels(p, t, valid)


MOGI, DYKE = 1, 2
ONE = masks([[MOGI, MOGI, 0], [0, DYKE, 0]], [[MOGI, 0, 0], [DYKE, MOGI, 0]])


def test_counts_by_hand() -> None:
    assert ONE.hit[:3].tolist() == [2, 1, 0]  # binary, mogi, dyke
    assert ONE.alarm[:3].tolist() == [1, 1, 1]
    assert ONE.miss[:3].tolist() == [1, 1, 1]
    assert ONE.ground == 3
    assert ONE.no_data == 0
    assert ONE.empty().miss.tolist() == (ONE.hit + ONE.miss).tolist()


def test_pixels_without_data_never_count() -> None:
    for hole in ((0, 0), (0, 1), (1, 0)):
        found = masks([[MOGI, MOGI, 0], [0, DYKE, 0]], [[MOGI, 0, 0], [DYKE, MOGI, 0]], hole)
        total = found.hit[0] + found.alarm[0] + found.miss[0]
        assert total == 3
    assert masks([[0, 1]], [[1, 1]], (0, 0)).no_data == 1
    assert masks([[0, 1]], [[1, 1]], (0, 0)).miss[0] == 0


def test_pixel_and_image_averages() -> None:
    large = masks([[1] * 8 + [0] * 2], [[1] * 10])  # IoU 0.8 of 10
    small = masks([[0, 1]], [[1, 0]])  # IoU 0 of 1, one pixel of false alarm
    bare = masks([[0, 3, 0, 0]], [[0, 0, 0, 0]])
    found = score_masks(MaskCounts.stack([large, small, bare]), ["a", "b", "b"])
    binary = found["classes"]["deformation"]
    assert (binary["support"], binary["support_pixels"], binary["predicted_pixels"]) == (2, 11, 10)
    values = {name: binary["metrics"][name]["model"]["value"] for name in METRICS}
    expected = {"iou": 8 / 13, "f1": 16 / 21, "iou_image": 0.4, "f1_image": (16 / 18) / 2}
    assert values == pytest.approx(expected)
    assert binary["metrics"]["iou"]["model"]["per_group"] == pytest.approx({"a": 0.8, "b": 0})
    assert binary["metrics"]["iou"]["empty"] == 0
    assert binary["metrics"]["iou"]["minus_empty"]["value"] == pytest.approx(8 / 13)
    alarms = found["false_alarms"]
    assert alarms["false_area"]["model"]["value"] == pytest.approx(2 / 5)  # 2 of 1 + 4 pixels
    assert alarms["false_alarm_images"]["model"]["value"] == 1  # of the one undeforming image
    assert alarms["false_area"]["empty"] == 0
    sill = found["classes"]["sill"]
    assert sill["metrics"] == dict.fromkeys(METRICS)
    assert (sill["support"], sill["predicted_pixels"], sill["reason"]) == (0, 1, ABSENT)
    assert found["macro"]["classes"] == ["mogi"]
    assert found["macro"]["left_out"]["dyke"] == ABSENT


def test_wrong_type_counts_for_binary_only() -> None:
    found = score_masks(MaskCounts.stack([masks([[DYKE, DYKE, 0]], [[MOGI, MOGI, 0]])]), ["a"])
    assert found["classes"]["deformation"]["metrics"]["iou"]["model"]["value"] == 1
    assert found["classes"]["mogi"]["metrics"]["iou"]["model"]["value"] == 0
    assert found["macro"]["metrics"]["iou"]["model"]["value"] == 0


def test_a_split_without_deformation_says_so() -> None:
    found = score_masks(MaskCounts.stack([masks([[0, 0]], [[0, 0]])] * 9), list("abcdefghi"))
    assert found["classes"]["deformation"]["metrics"]["iou"] is None
    assert found["macro"]["metrics"] == dict.fromkeys(METRICS)
    assert found["false_alarms"]["false_area"]["model"] == {
        "value": 0,
        "interval": [0, 0],
        "per_group": dict.fromkeys("abcdefghi", 0),
    }
    full = score_masks(MaskCounts.stack([masks([[1]], [[1]])]), ["a"])
    assert full["false_alarms"] == {"false_area": None, "false_alarm_images": None}


def test_masks_of_another_size_or_kind_are_refused() -> None:
    truth, valid = np.zeros((2, 3), np.uint8), np.ones((2, 3), bool)
    with pytest.raises(HephError, match=r"m\.png: 2 x 3 px, its image 3 x 2 px"):
        count_pixels(np.zeros((3, 2), np.uint8), truth, valid, "m.png")
    with pytest.raises(HephError, match="class id 7"):
        count_pixels(np.full((2, 3), 7, np.uint8), truth, valid)
