"""Random samples are pure functions of their key, and their texts are true of them."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from heph_vl.data import captions, phase, transforms
from heph_vl.data.samples import pixels
from heph_vl.data.transforms import TrainingSet, TransformConfig
from heph_vl.errors import HephError
from tests.data.test_samples import make_row

CONFIG = TransformConfig(crop_size=48)


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


@pytest.fixture(scope="module")
def rows():
    import datasets

    table = []
    y, x = np.mgrid[:100, :120]
    for i in range(4):
        wrapped = phase.wrap((x * 0.1 * (i + 1) + y * 0.05).astype(np.float32))
        mask = np.zeros(wrapped.shape, np.uint8)
        mask[4:15, 62:80] = 3
        table.append(
            make_row(unique_id=i)
            | {
                "image": png(phase.colour(wrapped)),
                "coherence": png(np.full(wrapped.shape, 200, np.uint8)) if i % 2 else None,
                "mask": png(mask),
            }
        )
    features = {name: datasets.Image(decode=False) for name in ("image", "coherence", "mask")}
    made = datasets.Dataset.from_list(table)
    return made.cast(datasets.Features({**made.features, **features}))


def test_a_sample_depends_on_seed_step_and_index_only(rows):
    one, other = TrainingSet(rows, CONFIG, seed=1), TrainingSet(rows, CONFIG, seed=1)
    other[3, 9]  # what was read before does not matter
    a, b = one[2, 5], other[2, 5]
    assert a["text"] == b["text"]
    np.testing.assert_array_equal(pixels(a["sample"])[0], pixels(b["sample"])[0])
    assert any(
        not np.array_equal(a["sample"].phase_code, one[2, step]["sample"].phase_code)
        for step in range(6, 9)
    )


def test_texts_are_entailed_by_their_images(rows):
    dataset = TrainingSet(rows, CONFIG, seed=3)
    dropped = 0
    for step in range(100):
        item = dataset[step % 4, step]
        assert captions.parse(item["text"]) == item["text_facts"]
        assert captions.entails(item["sample"].facts, item["text_facts"])
        dropped += item["text_facts"] != item["sample"].facts
    assert 10 < dropped < 90


def test_captions_out_of_step_stay_those_of_the_whole(rows):
    samples = TrainingSet(rows, replace(CONFIG, captions_in_step=False), seed=0)
    whole = captions.parse(rows[0]["caption"])
    in_step = TrainingSet(rows, CONFIG, seed=0)
    changed = 0
    for step in range(20):
        item = samples[0, step]["sample"]
        assert item.facts == whole
        assert item.caption == rows[0]["caption"]
        np.testing.assert_array_equal(item.mask, in_step[0, step]["sample"].mask)
        changed += in_step[0, step]["sample"].facts != whole
    assert changed > 5


def test_mask_and_facts_agree_in_every_sample(rows):
    dataset = TrainingSet(rows, CONFIG, seed=4)
    seen = set()
    for step in range(100):
        sample = dataset[step % 4, step]["sample"]
        shown = sample.mask.sum() > 0.5 * 18 * 11 * 3  # most of the pattern is inside
        if shown:
            assert [p.type for p in sample.facts.patterns] == ["sill"]
        elif not sample.mask.any():
            assert sample.facts.patterns == ()
        seen.add((shown, sample.phase_code.shape))
    assert (True, (100, 120)) in seen
    assert (True, (48, 48)) in seen
    assert (False, (48, 48)) in seen


def test_a_window_stands_for_a_large_whole(rows):
    config = TransformConfig(crop_size=48, whole_fraction=0.5, whole_size=80)
    samples = TrainingSet(rows, config, seed=0)
    sizes = {samples[(0, draw)]["sample"].phase_code.shape for draw in range(20)}
    assert sizes == {(48, 48), (80, 80)}
    whole = TrainingSet(rows, TransformConfig(whole_fraction=1, whole_size=130), seed=0)
    assert whole[(0, 0)]["sample"].phase_code.shape == (100, 120)


def test_event_crops_hold_the_whole_pattern(rows):
    config = TransformConfig(crop_size=48, whole_fraction=0, event_fraction=1)
    dataset = TrainingSet(rows, config, seed=5)
    for step in range(20):
        assert (dataset[step % 4, step]["sample"].mask > 0).sum() == 18 * 11


def test_collate_pads_and_keeps_true_sizes(rows):
    dataset = TrainingSet(rows, CONFIG, seed=6)
    items = [dataset[step % 4, step] for step in range(12)]

    def tokenize(texts):
        ids = torch.zeros(len(texts), 3, dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    batch = transforms.collate(items, tokenize)
    shapes = {item["sample"].phase_code.shape for item in items}
    assert shapes == {(48, 48), (100, 120)}
    assert batch["pixel_values"].shape == (12, 3, 100, 120)
    for i, item in enumerate(items):
        h, w = item["sample"].phase_code.shape
        assert batch["size"][i].tolist() == [h, w]
        assert not batch["valid"][i, h:].any()
        assert not batch["valid"][i, :, w:].any()
        np.testing.assert_array_equal(batch["mask"][i, :h, :w], item["sample"].mask)
        scene, patterns = batch["scene_atoms"][i].numpy(), batch["patterns"][i].numpy()
        assert captions.decode(scene, patterns) == item["sample"].facts
    assert batch["deformation"].tolist() == batch["mask"].flatten(1).any(1).tolist()
    assert (batch["activity_types"][:, 2] <= batch["deformation"]).all()
    assert not batch["activity_types"][:, [0, 1, 3, 4, 5]].any()
    assert batch["intensities"].tolist() == [
        [False, False, b] for b in batch["activity_types"][:, 2].tolist()
    ]


def test_cache_limit_changes_nothing_but_memory(rows):
    cached = TrainingSet(rows, CONFIG, seed=7)
    bare = TrainingSet(rows, CONFIG, seed=7, cache_bytes=0)
    for key in [(0, 0), (1, 1), (0, 2)]:
        np.testing.assert_array_equal(
            cached[key]["sample"].coherence, bare[key]["sample"].coherence
        )
    assert not bare._cache
    assert len(cached._cache) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("mirror", 7), ("fact_dropout", -0.1), ("crop_size", 0)]
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(HephError, match=f"^transform.{name}: {value}"):
        TransformConfig(**{name: value})
