"""Patches: read as they are, no-data white, padded, both classes equally often."""

import json
from collections import Counter

import numpy as np
import pytest

from heph_vl.data import parquet
from heph_vl.data.patch_rows import Patches, balanced_weights, padded, rgb_values
from heph_vl.data.patches import PatchConfig
from heph_vl.data.sampling import StepSampler
from heph_vl.errors import HephError
from tests.data.fake_archive import write_fake_archive


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    write_fake_archive(root / "archive", n=10, size=96)
    parquet.write_parquet(
        root / "archive", root / "patches", config="patches", patches=PatchConfig(48, jitter=0)
    )
    return root / "patches"


def test_a_picture_is_read_as_it_is_and_without_data_white(dataset):
    row = parquet.load(dataset, "train")[0]
    patches = Patches(dataset, "train", form="rgb", size=48)
    seen = patches[(0, 99)]["pixel_values"]
    stored = np.asarray(row["image"].convert("RGBA")) / 255
    colours = np.where(stored[..., 3:] > 0, stored[..., :3], 1.0)
    back = seen.transpose(1, 2, 0) * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
    np.testing.assert_allclose(back, colours, atol=1e-6)
    assert patches[(0, 0)]["deformation"] == bool(row["activity_types"])
    phasor = Patches(dataset, "train", form="phasor", size=50)[(0, 99)]["pixel_values"]
    assert phasor.shape == (3, 50, 50)
    valid = np.pad(stored[..., 3] > 0, ((0, 2), (0, 2)))
    np.testing.assert_allclose(np.hypot(phasor[0], phasor[1]), valid, atol=1e-6)


def test_labels_and_predictions_are_those_of_the_rows(dataset, tmp_path):
    rows = parquet.load(dataset, "train")
    patches = Patches(dataset, "train", form="rgb", size=48)
    deforming = [len(kinds) > 0 for kinds in rows["activity_types"]]
    assert 0 < sum(deforming) < len(rows)
    assert patches.labels.tolist() == deforming
    found = patches.about()
    assert found | {"sha256": ""} == {
        "source": "real",
        "patches": len(rows),
        "deforming": sum(deforming),
        "groups": len(set(rows["volcano_group"])),
        "sha256": "",
    }
    probabilities = np.linspace(0, 1, len(rows))
    patches.write_predictions(tmp_path / "out.jsonl", probabilities)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["deformation"] for line in lines] == probabilities.tolist()
    assert [line["label"] for line in lines] == deforming
    for name in ("unique_id", "patch", "volcano_group"):
        assert [line[name] for line in lines] == rows[name]
    patches.labels = ~patches.labels
    assert patches.about()["sha256"] != found["sha256"]
    assert patches[(0, 0)]["deformation"] != deforming[0]


def test_the_rarer_class_is_repeated_until_both_are_equally_frequent():
    labels = np.arange(47) % 16 == 3  # 3 of 47
    sampler = StepSampler(47, 47, seed=0, weights=balanced_weights(labels, "PATH"))
    for epoch in range(4):
        drawn = Counter(index for index, _ in sampler.batch(epoch))
        shares = [sum(n for i, n in drawn.items() if labels[i] == k) for k in (False, True)]
        assert sorted(shares) == [23, 24]
        assert all(n in (7, 8) for i, n in drawn.items() if labels[i])  # 23.5 / 3
        assert all(n == 1 for i, n in drawn.items() if not labels[i])  # 23.5 / 44


def test_labels_of_one_class_are_refused():
    with pytest.raises(HephError, match=r"PATH: all 3 training patches are of one class; give"):
        balanced_weights(np.ones(3, bool), "PATH")


def test_larger_patches_and_whole_interferograms_are_refused(dataset, tmp_path):
    with pytest.raises(HephError, match=r"of 48 px, and data\.patch_size is 47; set"):
        Patches(dataset, "train", form="rgb", size=47)
    write_fake_archive(tmp_path / "archive", n=3, size=64)
    parquet.write_parquet(tmp_path / "archive", tmp_path / "whole")
    with pytest.raises(HephError, match="holds whole interferograms, not patches"):
        Patches(tmp_path / "whole", "train", form="rgb", size=48)


def test_colours_are_normalised_as_for_imagenet_and_padded_white():
    rgb = np.zeros((1, 2, 3), np.uint8)
    rgb[0, 0] = 255, 0, 51
    values = rgb_values(rgb, 2, "patch")
    assert values.shape == (3, 2, 2)
    assert values.dtype == np.float32
    by_hand = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(values[:, 0, 0], by_hand, rtol=1e-5)
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(values[:, 1, 1], white, rtol=1e-5)


def test_a_patch_that_is_too_large_is_one_line():
    with pytest.raises(HephError, match=r"patch 7_1: 5 x 4 px, and data.patch_size is 4; set"):
        padded(np.zeros((3, 4, 5)), 4, 0.0, "patch 7_1")
