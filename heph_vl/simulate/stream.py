"""Simulated patches for training, made while it runs: nothing is read from or written to disk.

Each patch goes through the whole chain at 0.001 degree and back: drawn, posterised, decoded. Sample
number i is the same whatever the worker, the process and the batch; scenes of one place follow one
another, since drawing the place costs as much as a patch.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from heph_vl.data import captions, phase, splits
from heph_vl.data.annotations import Annotation
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.raster import rasterise
from heph_vl.data.samples import QUALITY_FLAGS, VOLCANO_PHASES, Sample, from_phase
from heph_vl.data.transforms import TransformConfig, random_text
from heph_vl.errors import HephError
from heph_vl.simulate.frame import Frame, choose_pairs, draw_frame
from heph_vl.simulate.place import seeded
from heph_vl.simulate.plan import frame_order
from heph_vl.simulate.render import Rendering, draw, to_images
from heph_vl.simulate.scene import annotate, observe

PATCH_SIZE = 224
_DRAWN = 225  # a multiple of 3: the last row and column are cut off


@dataclass(frozen=True)
class StreamConfig:
    """What a stream of simulated patches is like.

    Raises:
        HephError: If a number is out of range or the split has no frame.
    """

    seed: int = 0
    split: str = "train"  # of the `grouped` split: only its frames' kinds of ground are used
    pairs_per_place: int = 28  # patches of one place, one after another: all pairs of 8 dates
    dates: int = 8  # acquisitions of each place
    deforming: float = 0.6  # share of pairs in which something moves
    icy: bool = False  # every place has an ice cap that flows; else few have glaciers
    palette: str = "new"
    transform: TransformConfig = field(default_factory=TransformConfig)  # texts and coherence only

    def __post_init__(self) -> None:
        most = self.dates * (self.dates - 1) // 2
        if not 1 <= self.pairs_per_place <= most:
            what = f"{self.pairs_per_place} pairs of {self.dates} dates"
            raise HephError("stream.pairs_per_place", what, f"use 1 to {most}")
        if not 0 <= self.deforming <= 1:
            raise HephError("stream.deforming", f"{self.deforming}", "a number from 0 to 1")
        if self.split not in splits.SPLITS:
            what = f"unknown split {self.split!r}"
            raise HephError("stream.split", what, f"one of {', '.join(splits.SPLITS)}")


@dataclass(frozen=True)
class Drawn:
    """A simulated patch as a picture.

    Args:
        place: Number of its place.
        annotation: Its record, of the frame whose kind of ground it has.
        facts: What a caption of the patch says.
        image: (224, 224, 3) uint8, LiCSAR colours, no-data white.
        coherence: (224, 224) uint8, 255 = 1.
        mask: (224, 224) uint8, class ids.
    """

    place: int
    annotation: Annotation
    facts: CaptionFacts
    image: NDArray[np.uint8]
    coherence: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class SimulatedPatches(Dataset[dict[str, Any]]):
    """Map-style dataset without end: key (index, draw) gives sample number `draw`.

    For `loop.fit`, whose sampler counts draws from the start of training: a resumed run goes on
    with the very patches that the unbroken one would have seen. The index is ignored.

    Args:
        config: What is drawn.
        length: What `len` says: samples of an epoch, for the sampler.
    """

    def __init__(self, config: StreamConfig, length: int = 1_000) -> None:
        self.config = config
        self._length = length
        self._frames = [f for f in frame_order() if splits.FRAMES[f].split == config.split]
        self._rendering = Rendering(palette=config.palette, posterise=True, flatten=True)
        self._places: OrderedDict[int, tuple[Frame, list[tuple[int, int]]]] = OrderedDict()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.sample(key[1])

    def sample(self, number: int) -> dict[str, Any]:
        """Sample of this number, as `data.transforms.collate` takes it.

        Args:
            number: From 0 on.

        Returns:
            `sample`, `text`, `text_facts`, `fact_count`, `text_count`, `unique_id`.
        """
        config = self.config
        drawn = self.draw(number)
        annotation, facts = drawn.annotation, drawn.facts
        decoded = phase.decode_image(Image.fromarray(drawn.image), palette=config.palette)
        measured = drawn.coherence.astype(np.float32) / np.float32(255)
        pixels = from_phase(decoded.wrapped_phase, decoded.valid, measured)
        rng = np.random.default_rng((config.seed, number))
        estimated = rng.random() < config.transform.estimated_coherence
        coherence = pixels.estimated_coherence if estimated else pixels.coherence
        assert coherence is not None  # measured above
        volcano_phase = annotation.volcano_phase
        sample = Sample(
            pixels.phase_code,
            coherence,
            drawn.mask,
            annotation.events,
            facts,
            captions.compose(facts),
            annotation.pass_direction,
            VOLCANO_PHASES.index(volcano_phase) if volcano_phase in VOLCANO_PHASES else -1,
            annotation.atmosphere,
            tuple(getattr(annotation, name) not in (False, "none") for name in QUALITY_FLAGS),
        )
        text, text_facts = random_text(sample, config.transform, rng)
        return {
            "sample": sample,
            "text": text,
            "text_facts": text_facts,
            "fact_count": 1,  # a stream has no counts of its own
            "text_count": 1,
            "unique_id": number,
        }

    def draw(self, number: int) -> Drawn:
        """Patch of this number, from 0 on, as a picture with its record."""
        config = self.config
        place = number // config.pairs_per_place
        frame, pairs = self._place(place)
        pair = pairs[number % config.pairs_per_place]
        generator = seeded(config.seed, "stream", number)
        (scene,) = observe([frame.layers(pair)], [generator])
        dates = frame.dates[pair[0]], frame.dates[pair[1]]
        annotation = annotate(scene, number, dates, generator)
        fields = scene.wrapped_phase[None], scene.valid[None], scene.coherence[None]
        picture = draw(*fields, self._rendering)
        image, _ = to_images(picture, 0, self._rendering)
        part = np.s_[:PATCH_SIZE, :PATCH_SIZE]
        window = (0, 0, PATCH_SIZE, PATCH_SIZE)
        return Drawn(
            place,
            annotation,
            captions.crop(scene.facts, window, (_DRAWN, _DRAWN), scene.events).facts,
            np.asarray(image)[part],
            picture.coherence[0].numpy()[part],
            rasterise(scene.events, (_DRAWN, _DRAWN))[part],
        )

    def _place(self, number: int) -> tuple[Frame, list[tuple[int, int]]]:
        """The place of this number and its pairs in random order; the last few are remembered."""
        if number not in self._places:
            while len(self._places) >= 2:
                self._places.popitem(last=False)
            config = self.config
            key = hashlib.sha256(repr((config.seed, "place", number)).encode()).digest()
            seed = int.from_bytes(key[:4], "big")
            frame_id = self._frames[number % len(self._frames)]
            frame = draw_frame(frame_id, _DRAWN, config.dates, seed, icy=config.icy)
            g = seeded(config.seed, "pairs", number)
            pairs = choose_pairs(frame, config.pairs_per_place, config.deforming, g)
            order = torch.randperm(len(pairs), generator=g).tolist()
            self._places[number] = frame, [pairs[k] for k in order]
        return self._places[number]


class SimulatedStream(IterableDataset[dict[str, Any]]):
    """The same samples as an endless iterable, place by place.

    Processes and their workers take places in turn, so that all together see every sample once.

    Args:
        config: What is drawn.
        rank: This process.
        world_size: Number of processes.
        first_place: Place to begin with, to go on after a stop.
    """

    def __init__(
        self, config: StreamConfig, *, rank: int = 0, world_size: int = 1, first_place: int = 0
    ) -> None:
        self.config = config
        self._patches = SimulatedPatches(config)
        self._rank, self._world_size, self._first = rank, world_size, first_place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        place = self._first + self._rank * workers + worker
        while True:
            first = place * self.config.pairs_per_place
            for number in range(first, first + self.config.pairs_per_place):
                yield self._patches.sample(number)
            place += self._world_size * workers
