"""Crops that a generator is scored on, drawn or real, and what networks see in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from heph_vl.data import captions
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.data.labels import row_labels, sampling_weights
from heph_vl.data.phase import decode_image, read_coherence
from heph_vl.data.samples import decoded_pixels, pixels
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, TransformConfig
from heph_vl.errors import HephError
from heph_vl.metrics.realism import scrambled_phase
from heph_vl.models.autoencoder import encode
from heph_vl.models.generator import centred
from heph_vl.models.heads import Heads
from heph_vl.models.inputs import as_seen
from heph_vl.models.pipeline import InSARPipeline, draw_pictures

Floats = npt.NDArray[np.float64]
AT_ONCE = 32


@dataclass(frozen=True)
class Crops:
    """N images of one kind.

    Attributes:
        channels: (N, 3, H, W) float32: Re and Im of the unit phasor, coherence.
        valid: (N, H, W) bool.
        texts: What each shows, or was asked to show; none where nobody said.
        groups: Volcano group of each, or of whose caption it was drawn after.
        units: Interferogram of each, likewise.
    """

    channels: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    texts: Sequence[str]
    groups: Sequence[str]
    units: Sequence[int]

    @property
    def wrapped_phase(self) -> npt.NDArray[np.float32]:
        """(N, H, W) float32 [rad]."""
        return np.arctan2(self.channels[:, 1], self.channels[:, 0])


def read_crops(rows: Any, side: int, number: int, seed: int) -> Crops:
    """Crops of dataset rows, as the generator learnt them, but with all that can be said of each.

    Args:
        rows: Of one split.
        side: Pixels.
        number: How many.
        seed: Of the choice.

    Returns:
        The crops, half of images that deform; facts of each composed anew for it. Those cut at an
        edge are left out.

    Raises:
        HephError: No image is as large.
    """
    config = TransformConfig(
        crop_size=side,
        whole_fraction=0.0,
        event_fraction=0.8,
        estimated_coherence=0.0,
        fact_dropout=0.0,
    )
    samples = TrainingSet(rows, config, seed=seed)
    weights = sampling_weights(row_labels(rows), "deformation", 0.0)
    keys = StepSampler(len(samples), number, seed=seed, weights=weights).batch(0)
    found = [(samples[key], rows[key[0]]["volcano_group"]) for key in keys]
    images = [pixels(item["sample"]) for item, _ in found]
    kept = [i for i, (_, valid) in enumerate(images) if valid.shape == (side, side) and valid.any()]
    if not kept:
        raise HephError("crops", f"no image has {side} x {side} px", "give larger ones")
    return Crops(
        np.stack([images[i][0] for i in kept]),
        np.stack([images[i][1] for i in kept]),
        [captions.compose(found[i][0]["sample"].facts) for i in kept],
        [found[i][1] for i in kept],
        [found[i][0]["unique_id"] for i in kept],
    )


def draw_crops(
    pipeline: InSARPipeline,
    like: Crops,
    steps: int,
    guidance: float | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> Crops:
    """What the generator draws of the captions of other crops."""
    made = []
    for start in range(0, len(like.texts), AT_ONCE):
        made.append(
            pipeline(
                like.texts[start : start + AT_ONCE],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed + start),
            )
        )
        progress(min(start + AT_ONCE, len(like.texts)), len(like.texts))
    images = [image for drawn in made for image in drawn.images]
    grey = [image for drawn in made for image in drawn.coherence_images]
    return as_read(images, grey, like)


def scrambled(crops: Crops, seed: int) -> Crops:
    """Crops of the same spectrum without structure; coherence stays."""
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(crops.wrapped_phase, crops.valid, strict=True)
    mixed = np.stack([scrambled_phase(*pair, generator) for pair in pairs]).astype(np.float32)
    return as_read(*draw_pictures(mixed, crops.valid, crops.channels[:, 2]), crops)


def as_read(images: Sequence[Any], grey: Sequence[Any], like: Crops) -> Crops:
    """Pictures as anyone would read them: colours decoded, as those of the reference were."""
    found = []
    for image, level in zip(images, grey, strict=True):
        decoded = decode_image(image, palette="new")
        shape = decoded.valid.shape
        coherence = read_coherence(_png(level), shape, "generated coherence")
        found.append(decoded_pixels(decoded.wrapped_phase, decoded.valid, coherence))
    channels, valid = (np.stack(part) for part in zip(*found, strict=True))
    return replace(like, channels=channels, valid=valid)


def _png(image: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@torch.no_grad()
def features(seer: Heads, crops: Crops) -> Floats:
    """(N, D) float64, what a frozen encoder sees of crops as a whole."""
    found = []
    for start in range(0, len(crops.valid), AT_ONCE):
        part = np.s_[start : start + AT_ONCE]
        valid = torch.from_numpy(crops.valid[part])
        images = torch.from_numpy(crops.channels[part])
        seen = as_seen(images, valid, seer.config.input, seer.colours)
        found.append(seer.encoder(seen, valid).pooled.double().numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class Reading:
    """What a judge reads off N crops.

    Attributes:
        texts: Captions of the facts it sees.
        deformation: (N,) its probability of any.
    """

    texts: list[str]
    deformation: Floats


def read_facts(judge: Heads, crops: Crops) -> Reading:
    """What the judge sees, by its own thresholds; flags from 0.5 on, as for captions."""
    limits = {
        "deformation": judge.calibration.deformation.threshold[0],
    }
    texts, deformation = [], []
    for channels, valid in zip(crops.channels, crops.valid, strict=True):
        if not valid.any():  # nothing to be read
            texts.append("")
            deformation.append(0.0)
            continue
        found = judge.predict(torch.from_numpy(channels), torch.from_numpy(valid))
        texts.append(captions.compose(facts_from_labels(found.row(0), found.mask, limits)))
        deformation.append(found.deformation)
    return Reading(texts, np.array(deformation))


def latents_of(pipeline: InSARPipeline, crops: Crops) -> Floats:
    """(N, C h w) float64 latents of crops: what a copy would share with its original."""
    found = []
    for start in range(0, len(crops.valid), AT_ONCE):
        part = np.s_[start : start + AT_ONCE]
        images = torch.from_numpy(crops.channels[part]), torch.from_numpy(crops.valid[part])
        with torch.no_grad():
            latents = encode(pipeline.autoencoder, centred(images[0]), images[1])
            found.append(latents.flatten(1).double().numpy())
    return np.concatenate(found)
