"""On-the-fly patches: whole chain, the same for any worker, ready for the training batch."""

from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from heph_vl.data import captions, splits
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import collate
from heph_vl.errors import HephError
from heph_vl.simulate.stream import SimulatedPatches, SimulatedStream, StreamConfig

CONFIG = StreamConfig(seed=3, pairs_per_place=3, dates=4)


def tokenize(texts):
    return {"input_ids": torch.zeros(len(texts), 4), "attention_mask": torch.ones(len(texts), 4)}


@pytest.fixture(scope="module")
def items():
    return list(islice(iter(SimulatedStream(CONFIG)), 7))


def test_samples_are_in_step(items):
    assert [item["unique_id"] for item in items] == list(range(7))
    for item in items:
        sample = item["sample"]
        assert sample.phase_code.shape == sample.mask.shape == (224, 224)
        assert len(np.unique(sample.phase_code)) > 20
        assert captions.parse(sample.caption) == sample.facts
        assert captions.entails(sample.facts, item["text_facts"])
        assert bool(sample.mask.any()) == bool(sample.events)
        said = ("no_deformation",) in sample.facts.scene
        assert not (said and sample.mask.any())


def test_batches_are_those_of_training(items):
    batch = collate(items, tokenize)
    assert batch["pixel_values"].shape == (7, 3, 224, 224)
    inside = batch["valid"]
    length = batch["pixel_values"][:, :2].square().sum(1)
    torch.testing.assert_close(length[inside], torch.ones(int(inside.sum())), atol=1e-4, rtol=0)
    assert batch["quality"].dtype == torch.bool


def test_workers_and_ranks_share_the_places(items):
    numbers = {}
    for rank in range(2):
        stream = SimulatedStream(CONFIG, rank=rank, world_size=2)
        numbers[rank] = [item["unique_id"] for item in islice(iter(stream), 4)]
    assert numbers == {0: [0, 1, 2, 6], 1: [3, 4, 5, 9]}
    resumed = next(iter(SimulatedStream(CONFIG, first_place=1)))
    assert resumed["unique_id"] == 3
    assert np.array_equal(resumed["sample"].phase_code, items[3]["sample"].phase_code)
    assert resumed["text"] == items[3]["text"]


def test_loader_with_a_sampler_gives_the_same(items):
    sampler = StepSampler(100, 2, seed=0)
    sampler.start = 1
    loader = DataLoader(
        SimulatedPatches(CONFIG, 100),
        batch_sampler=sampler,
        collate_fn=partial(collate, tokenize=tokenize),
    )
    batch = next(iter(loader))
    assert batch["unique_id"].tolist() == [2, 3]
    expected = collate(items[2:4], tokenize)
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_other_numbers_other_pictures(items):
    codes = [item["sample"].phase_code for item in items]
    assert not any(np.array_equal(a, b) for a, b in pairwise(codes))
    again = SimulatedPatches(StreamConfig(seed=4, pairs_per_place=3, dates=4)).sample(0)
    assert not np.array_equal(again["sample"].phase_code, codes[0])


def test_places_are_of_the_split():
    patches = SimulatedPatches(StreamConfig(split="test"))
    assert {splits.FRAMES[name].split for name in patches._frames} == {"test"}


def test_icy_places_have_glaciers():
    said = []
    for seed in range(3):
        patches = SimulatedPatches(StreamConfig(seed=seed, pairs_per_place=2, dates=4, icy=True))
        assert patches._place(0)[0].icy
        said += [("glacier_fringes",) in patches.draw(number).facts.scene for number in range(2)]
    assert sum(said) >= 3  # coherence may be too low to see it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs_per_place": 7}, "7 pairs of 4 dates; use 1 to 6"),
        ({"pairs_per_place": 0}, "0 pairs"),
        ({"deforming": 1.5}, "stream.deforming: 1.5"),
        ({"split": "all"}, "unknown split 'all'"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(HephError, match=message):
        StreamConfig(**({"dates": 4, "pairs_per_place": 3} | change))
