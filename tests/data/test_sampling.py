"""The order of samples: a pure function of seed and step, the same for any number of ranks."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from heph_vl.data.sampling import StepSampler
from heph_vl.errors import HephError


def indices(sampler: StepSampler, steps: int) -> list[int]:
    return [index for batch in islice(sampler, steps) for index, _ in batch]


def test_each_epoch_holds_every_sample_once() -> None:
    drawn = indices(StepSampler(10, 4, seed=1), 15)  # 60 draws, 6 epochs; batches cross their ends
    epochs = [drawn[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_resuming_at_a_step_gives_that_step() -> None:
    whole = list(islice(StepSampler(10, 4, seed=1), 12))
    resumed = StepSampler(10, 4, seed=1)
    resumed.start = 7
    assert list(islice(resumed, 5)) == whole[7:]
    assert resumed.batch(2) == whole[2]  # going back is possible too
    assert list(islice(StepSampler(10, 4, seed=2), 12)) != whole


def test_draws_number_the_samples_of_a_training() -> None:
    draws = [draw for batch in islice(StepSampler(10, 4, seed=1), 5) for _, draw in batch]
    assert draws == list(range(20))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_out_the_same_global_batch(world_size: int) -> None:
    ranks = [StepSampler(10, 4, seed=1, rank=r, world_size=world_size) for r in range(world_size)]
    alone = StepSampler(10, 4, seed=1)
    for step in range(6):
        shares = [rank.batch(step) for rank in ranks]
        assert all(len(share) == 4 // world_size for share in shares)
        for rank, share in enumerate(shares):
            assert share == alone.batch(step)[rank::world_size]


def test_weights_give_their_share_of_every_epoch() -> None:
    weights = [0, 1, 1, 2, 4, 0]
    drawn = indices(StepSampler(6, 3, seed=1, weights=weights), 200)
    for epoch in np.reshape(drawn, (100, 6)):
        counts = Counter(epoch.tolist())
        for index, weight in enumerate(weights):
            assert abs(counts[index] - 6 * weight / 8) < 1
    counts = Counter(drawn)
    assert counts[0] == counts[5] == 0
    assert counts[1] == pytest.approx(75, abs=20)  # 600 draws x 1/8
    assert counts[4] == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "training set: has no samples"),
        (
            {"world_size": 3},
            "4 cannot be shared by 3 processes; choose a multiple of 3",
        ),
        ({"weights": [1.0, 2.0]}, r"\(2,\) weights for 10 samples"),
        ({"weights": [-1.0] + [1.0] * 9}, "negative"),
        ({"weights": [0.0] * 10}, "are all zero"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(HephError, match=message):
        StepSampler(**{"length": 10, "batch_size": 4, "seed": 1, **arguments})  # type: ignore[arg-type]
