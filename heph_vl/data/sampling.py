"""Which samples a training step sees: a pure function of the seed and the step."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heph_vl.errors import HephError


class StepSampler:
    """Batch sampler of endless shuffled epochs that depends on (seed, step) and nothing else.

    So a run resumed at step s sees what the unbroken one sees, without stored state; and the
    global batch of a step is the same set for any number of ranks, rank r taking every
    `world_size`-th sample from r on. Epochs follow one another without a gap: a batch may hold
    the end of one and the start of the next.

    It yields keys `(index, draw)`, for a dataset that takes `dataset[(index, draw)]`: `draw`
    counts samples from the start of training, so `default_rng((seed, draw, index))` gives each
    sample its own randomness, whatever the worker, the rank or the resuming.

    Args:
        length: Number of samples.
        batch_size: Samples of a step over all ranks.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
        weights: (length,) Non-negative; share of draws. In an epoch sample i comes
            floor or ceil(length * weight_i / sum of weights) times. Equal ones if None.

    Attributes:
        start: Step whose batch comes first.

    Raises:
        HephError: No samples, or a batch that cannot be shared out equally.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: ArrayLike | None = None,
    ) -> None:
        if length < 1:
            raise HephError("training set", "has no samples", "check the split and the archive")
        if batch_size < 1 or batch_size % world_size:
            what = f"{batch_size} cannot be shared by {world_size} processes"
            raise HephError("batch_size", what, f"choose a multiple of {world_size}")
        self.length = length
        self.batch_size = batch_size
        self.start = 0
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._ends = None if weights is None else _ends(np.asarray(weights, np.float64), length)
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Keys of this rank's samples at a step."""
        first = step * self.batch_size
        draws = range(first + self._rank, first + self.batch_size, self._world_size)
        return [(self._index(draw), draw) for draw in draws]

    def __iter__(self) -> Iterator[Sequence[tuple[int, int]]]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def _index(self, draw: int) -> int:
        epoch, place = divmod(draw, self.length)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = epoch, self._epoch(epoch)
        return int(self._cached[1][place])

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Sample indices of an epoch, in order; `length` of them."""
        rng = np.random.default_rng((self._seed, epoch))
        if self._ends is None:
            return rng.permutation(self.length)
        # Systematic resampling: evenly spaced points with one random offset, so that each count
        # is as near to its expectation as whole numbers allow.
        points = (np.arange(self.length) + rng.random()) / self.length
        chosen = np.searchsorted(self._ends, points, side="right")
        return rng.permutation(np.minimum(chosen, self.length - 1))


def _ends(weights: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Cumulative shares."""
    if weights.shape != (length,) or not np.isfinite(weights).all() or (weights < 0).any():
        what = f"{weights.shape} weights for {length} samples, or a negative or infinite one"
        raise HephError("sampling weights", what, "give one non-negative number for each sample")
    if not weights.sum() > 0:
        raise HephError("sampling weights", "are all zero", "give at least one positive weight")
    return np.cumsum(weights / weights.sum())
