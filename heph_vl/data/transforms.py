"""Dataset row -> tensors, with image, mask, polygons, labels and caption kept in step.

A training batch (`collate`) holds, with B images padded to the largest H x W:

    pixel_values   (B, 3, H, W) float32   Re and Im of the phasor in [-1, 1], coherence in [0, 1]
    valid          (B, H, W) bool         False where there is no data and in the padding
    size           (B, 2) int64           true height and width of each image
    mask           (B, H, W) int64        0 background, 1..6 = ACTIVITY_TYPES
    input_ids, attention_mask (B, T)      one text for each image; all 0 = no text
    scene_atoms    (B, A) bool, patterns (B, 4, 3) int64             facts of the image
    text_scene_atoms, text_patterns       the same, of the text after fact dropout
    fact_count, text_count (B,) float32   training records with the same fact set, at least 1
    unique_id      (B,) int64
    ambiguous      (B,) int64             patterns that a crop could not match to one polygon
    deformation (B,) bool, activity_types (B, 6) bool, intensities (B, 3) bool, atmosphere (B,)
    int64, volcano_phase (B,) int64 (-1 = masked), quality (B, 7) bool             labels

Random choices of a sample depend on (seed, draw, index) alone: not on workers, ranks or resuming;
`draw` counts samples from the start of training (`data.sampling`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data import captions
from heph_vl.data.annotations import ACTIVITY_TYPES, INTENSITIES
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.samples import (
    PHASE_LEVELS,
    Interferogram,
    Sample,
    crop,
    mirror,
    negate,
    pixels,
    read_row,
    shift_phase,
    whole,
)
from heph_vl.errors import HephError


@dataclass(frozen=True)
class TransformConfig:
    """How training samples are cut and varied; every change is applied to all fields together.

    Raises:
        HephError: If a share or a probability is not one, or the crop has no pixel.
    """

    crop_size: int = 224  # native pixels
    whole_fraction: float = 0.2  # share of samples that are whole interferograms
    # Native pixels; of an image that is larger, a window of this size stands for the whole, since
    # on a CPU one whole frame costs as much as two hundred crops. None: no limit.
    whole_size: int | None = None
    event_fraction: float = 0.5  # share of crops of deforming images aimed at a pattern
    mirror: float = 0.5  # probability of an east-west flip
    negate: float = 0.5  # probability of reversing the sense of all phase
    phase_shift: bool = True  # a constant added to the phase is free
    estimated_coherence: float = 0.5  # probability of the estimate although it was measured
    fact_dropout: float = 0.5  # probability that a text says only some of the facts
    paraphrase: float = 0.5  # probability of another wording of the same facts
    # Without, facts and caption stay those of the whole image however it is cut and turned: what
    # the ablation measures the worth of.
    captions_in_step: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("crop_size", "whole_size"):
                if value is not None and value < 1:
                    raise HephError(f"transform.{name}", f"{value} px", "at least 1, e.g. 224")
            elif not 0 <= value <= 1:  # True and False are
                raise HephError(f"transform.{name}", f"{value}", "a number from 0 to 1")


def random_window(
    sample: Sample, crop_size: int, event_fraction: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A crop window with data in it, aimed at a deformation pattern in some of the cases.

    Args:
        sample: A whole interferogram.
        crop_size: Side of the window in pixels; an image's shorter side limits it.
        event_fraction: Probability of aiming at a random event, if there is one.
        rng: Source of randomness.

    Returns:
        x0, y0, x1, y1 in pixels.
    """
    height, width = sample.phase_code.shape
    w, h = min(crop_size, width), min(crop_size, height)
    outlined = [event.polygon for event in sample.events if event.polygon is not None]
    if outlined and rng.random() < event_fraction:
        corners = np.array(outlined[rng.integers(len(outlined))])
        x0 = _aim(corners[:, 0].min(), corners[:, 0].max(), w, width, rng)
        y0 = _aim(corners[:, 1].min(), corners[:, 1].max(), h, height, rng)
        return x0, y0, x0 + w, y0 + h
    for _ in range(10):  # an image keeps at least one window with data nearly always
        x0, y0 = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        if (sample.phase_code[y0 : y0 + h : 4, x0 : x0 + w : 4] > 0).mean() >= 0.2:
            break
    return x0, y0, x0 + w, y0 + h


def random_sample(
    interferogram: Interferogram,
    row: Mapping[str, Any],
    config: TransformConfig,
    rng: np.random.Generator,
) -> Sample:
    """One augmented training sample of an interferogram."""
    sample = whole(interferogram, row, estimated=rng.random() < config.estimated_coherence)
    facts = sample.facts
    size = config.crop_size if rng.random() >= config.whole_fraction else config.whole_size
    if size is not None and max(interferogram.size) > size:
        sample = crop(sample, random_window(sample, size, config.event_fraction, rng))
    if rng.random() < config.mirror:
        sample = mirror(sample)
    if rng.random() < config.negate:
        sample = negate(sample)
    if config.phase_shift:
        sample = shift_phase(sample, int(rng.integers(PHASE_LEVELS)))
    if not config.captions_in_step:
        sample = replace(sample, facts=facts, caption=row["caption"])
    return sample


def random_text(
    sample: Sample, config: TransformConfig, rng: np.random.Generator
) -> tuple[str, CaptionFacts]:
    """A text that is true of the sample, and the facts it states (none: an empty text)."""
    if rng.random() < config.fact_dropout:
        # From queries of one fact to nearly whole captions.
        facts = captions.drop_facts(sample.facts, rng, keep=rng.uniform(0.1, 0.9))
    else:
        facts = sample.facts
        if sample.caption is not None and rng.random() >= config.paraphrase:
            return sample.caption, facts
    return captions.compose(facts, rng if rng.random() < config.paraphrase else None), facts


IMAGE_COLUMNS = ("image", "coherence", "mask")


def encoded(rows: Any) -> Any:
    """A `datasets.Dataset` whose image columns give stored bytes instead of decoded images."""
    import datasets

    for name in IMAGE_COLUMNS:
        if name in rows.column_names:
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


class TrainingSet:
    """Map-style dataset of augmented samples, keyed by (row index, draw).

    Decoded interferograms are kept in memory up to `cache_bytes`: what fits is decoded once.

    Args:
        rows: A `datasets.Dataset` of config `interferograms` or `patches`, images not decoded.
        config: Cutting and augmentation.
        seed: Seed of all random choices, with draw and index.
        cache_bytes: Memory for decoded interferograms.
    """

    def __init__(
        self, rows: Any, config: TransformConfig, *, seed: int, cache_bytes: int = 2 << 30
    ) -> None:
        self._images = encoded(rows.select_columns(["unique_id", *IMAGE_COLUMNS]))
        self._rows = rows.remove_columns(list(IMAGE_COLUMNS)).to_list()
        self._config = config
        self._seed = seed
        self._room = cache_bytes
        self._cache: dict[int, Interferogram] = {}
        self._counts = Counter(captions.parse(row["caption"]).key for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def interferogram(self, index: int) -> Interferogram:
        """The decoded interferogram of a row, from memory if it is there."""
        found = self._cache.get(index)
        if found is None:
            found = read_row(self._images[index])
            if found.num_bytes <= self._room:
                self._room -= found.num_bytes
                self._cache[index] = found
        return found

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, draw = key
        rng = np.random.default_rng((self._seed, draw, index))
        row = self._rows[index]
        sample = random_sample(self.interferogram(index), row, self._config, rng)
        text, text_facts = random_text(sample, self._config, rng)
        return {
            "sample": sample,
            "text": text,
            "text_facts": text_facts,
            "fact_count": max(1, self._counts[sample.facts.key]),
            "text_count": max(1, self._counts[text_facts.key]),
            "unique_id": row["unique_id"],
        }


def collate(
    items: Sequence[Mapping[str, Any]], tokenize: Callable[[list[str]], Mapping[str, Any]]
) -> dict[str, Any]:
    """Stack training items into the batch described at the top of this file.

    Args:
        items: Values of a `TrainingSet`.
        tokenize: Texts -> `input_ids` and `attention_mask`, int64 tensors (B, T).

    Returns:
        The batch, torch tensors.
    """
    import torch

    samples: list[Sample] = [item["sample"] for item in items]
    batch = collate_images([pixels(sample) for sample in samples])
    height, width = batch["valid"].shape[1:]
    masks = torch.zeros(len(samples), height, width, dtype=torch.int64)
    for into, sample in zip(masks, samples, strict=True):
        h, w = sample.mask.shape
        into[:h, :w] = torch.from_numpy(sample.mask.astype(np.int64))
    scenes, patterns = zip(*(captions.encode(s.facts) for s in samples), strict=True)
    said = [captions.encode(item["text_facts"]) for item in items]
    text = dict(tokenize([item["text"] for item in items]))
    return batch | {
        "mask": masks,
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
        "scene_atoms": torch.from_numpy(np.stack(scenes)),
        "patterns": torch.from_numpy(np.stack(patterns)),
        "text_scene_atoms": torch.from_numpy(np.stack([scene for scene, _ in said])),
        "text_patterns": torch.from_numpy(np.stack([pattern for _, pattern in said])),
        "fact_count": torch.tensor([float(item["fact_count"]) for item in items]),
        "text_count": torch.tensor([float(item["text_count"]) for item in items]),
        "unique_id": torch.tensor([item["unique_id"] for item in items]),
        "ambiguous": torch.tensor([sample.ambiguous for sample in samples]),
        "deformation": torch.tensor(
            [bool(sample.events) or bool(sample.mask.any()) for sample in samples]
        ),
        "activity_types": torch.tensor(
            [[any(e.type == t for e in s.events) for t in ACTIVITY_TYPES] for s in samples]
        ),
        "intensities": torch.tensor(
            [
                [any(e.intensity == level for e in s.events) for level in INTENSITIES]
                for s in samples
            ]
        ),
        "volcano_phase": torch.tensor([sample.volcano_phase for sample in samples]),
        "atmosphere": torch.tensor([sample.atmosphere for sample in samples]),
        "quality": torch.tensor([sample.quality for sample in samples]),
    }


def collate_images(
    images: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> dict[str, Any]:
    """Pad model inputs to the largest and stack them.

    Args:
        images: (3, H, W) float32 and (H, W) bool of each image.

    Returns:
        `pixel_values` (B, 3, H, W), `valid` (B, H, W) and `size` (B, 2) [height, width].
    """
    import torch

    sizes = np.array([valid.shape for _, valid in images])
    height, width = sizes.max(axis=0)
    pixel_values = torch.zeros(len(images), 3, height, width)
    valid_pixels = torch.zeros(len(images), height, width, dtype=torch.bool)
    for i, (channels, valid) in enumerate(images):
        h, w = valid.shape
        pixel_values[i, :, :h, :w] = torch.from_numpy(channels)
        valid_pixels[i, :h, :w] = torch.from_numpy(valid)
    return {
        "pixel_values": pixel_values,
        "valid": valid_pixels,
        "size": torch.from_numpy(sizes.astype(np.int64)),
    }


def _aim(low: float, high: float, side: int, limit: int, rng: np.random.Generator) -> int:
    """A random start such that [start, start + side) holds [low, high], or its middle."""
    first, last = int(np.ceil(high)) - side, int(np.floor(low))
    if first > last:
        first = last = int((low + high - side) / 2)
    first, last = (min(max(edge, 0), limit - side) for edge in (first, last))
    return int(rng.integers(first, last + 1))
