"""Interferograms from sentences: sheets to look at, and archives that a model can learn from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heph_vl.data import captions
from heph_vl.data.archive import COHERENCE_SUFFIX, GENERATION_FILE, IMAGE_SUFFIX
from heph_vl.data.samples import pixels
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.generated_records import record_of, unlabelled
from heph_vl.models.generator import TRAIN_STEPS, Frozen, denoise, flow_step, v_step
from heph_vl.models.pipeline import NOTICE, InSAROutput, InSARPipeline
from heph_vl.sheet import tile_pictures
from heph_vl.simulate.store import Product, write_product

if TYPE_CHECKING:
    from heph_vl.models.heads import Heads

_NO_HEADS: str | None = "no heads read it"
_LEVELS = 8  # of noise, at which the error is measured
_AT_ONCE = 16


@torch.no_grad()
def velocity_error(model: Any, batch: Mapping[str, Tensor], frozen: Frozen) -> float:
    """Mean square error of the denoiser on crops it has not seen, at fixed times and noise.

    Args:
        model: The denoiser, in evaluation mode.
        batch: Of `data.transforms.collate`.
        frozen: What it builds on.

    Returns:
        As the loss, without weights and left-out texts; 1 and more before it has learnt.
    """
    device = frozen.autoencoder.device
    count = len(batch["valid"])
    share = ((torch.arange(count) % _LEVELS) + 0.5) / _LEVELS
    noising = torch.Generator().manual_seed(0)
    errors = []
    for start in range(0, count, _AT_ONCE):
        part = np.s_[start : start + _AT_ONCE]
        kept = ("pixel_values", "valid", "input_ids", "attention_mask")
        seen = frozen.prepare({name: batch[name][part].to(device) for name in kept})
        latents = seen["latents"]
        noise = torch.randn(latents.shape, generator=noising).to(device)
        if frozen.config.prediction == "flow":
            noised, time, velocity, _ = flow_step(latents, noise, share[part])
        else:
            time = (share[part] * TRAIN_STEPS).long().to(device)
            noised, velocity, _ = v_step(latents, noise, time, frozen)
        errors.append((denoise(model, noised, time, seen) - velocity).square().mean((1, 2, 3)))
    return float(torch.cat(errors).mean())


def generated_sheet(
    pipeline: InSARPipeline, items: Sequence[Mapping[str, Any]], path: Path, *, num_steps: int
) -> None:
    """Write a picture: crops with their texts, and beside each what the texts alone give.

    Args:
        pipeline: The generator.
        items: Of a `TrainingSet`.
        path: The picture to write.
        num_steps: Of the sampler.
    """
    from heph_vl.data.phase import colour

    texts = [item["text"] for item in items]
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(texts, num_inference_steps=num_steps, generator=generator)
    tiles = []
    for i, item in enumerate(items):
        channels, valid = pixels(item["sample"])
        given = colour(np.arctan2(channels[1], channels[0]), valid), channels[2]
        made = colour(drawn.wrapped_phase[i], drawn.valid[i]), drawn.coherence[i]
        pairs = [np.concatenate([rgb, _grey(level)], axis=1) for rgb, level in (given, made)]
        picture = Image.fromarray(np.concatenate(pairs))
        tiles.append((f"above: crop; below: drawn. {texts[i] or '(no text)'}", picture))
    tile_pictures(tiles, path, columns=4, scale=2)


def _grey(level: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.repeat((level * 255).astype(np.uint8)[..., None], 3, axis=2)


@dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
        prompt: As it was typed; empty: anything.
        number: Of images.
        steps: Of the sampler.
        guidance_scale: None: the model's own.
        size: Height and width in pixels; None: of its training crops.
        seed: With what the folder holds already, of all randomness.
        palette: "new" or "old".
    """

    prompt: str
    number: int
    steps: int = 20
    guidance_scale: float | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    palette: str = "new"

    @property
    def facts(self) -> captions.CaptionFacts:
        """What the prompt says."""
        return captions.parse(self.prompt)

    @property
    def text(self) -> str:
        """The prompt as the model gets it: its facts in the words of the captions."""
        return captions.compose(self.facts) if self.facts.atoms() else self.prompt.strip()


def draw(
    pipeline: InSARPipeline,
    request: Request,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[InSAROutput]:
    """Interferograms of a request, some at a time.

    Args:
        pipeline: The generator.
        request: What to draw.
        seed: Of all randomness.
        progress: Called with steps done and of all.

    Yields:
        At most 16 of them.
    """
    height, width = request.size or (None, None)
    total = -(-request.number // _AT_ONCE) * request.steps
    generator = torch.Generator().manual_seed(seed)
    for number, start in enumerate(range(0, request.number, _AT_ONCE)):
        count = min(_AT_ONCE, request.number - start)

        def drawn(done: int, of_these: int, before: int = number * request.steps) -> None:
            progress(before + done, total)

        yield pipeline(
            request.text,
            num_images_per_prompt=count,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=generator,
            height=height,
            width=width,
            palette=request.palette,
            callback=drawn,
        )


@dataclass(frozen=True)
class Written:
    """One generated pair in an archive.

    Attributes:
        image: Path of its picture.
        unique_id: Its number.
        caption: Of its record; None if it got none.
        why_not: Why it got none; None if it has one.
    """

    image: Path
    unique_id: int
    caption: str | None
    why_not: str | None


def write_archive(
    out: Path,
    pipeline: InSARPipeline,
    request: Request,
    *,
    model: str,
    labels: "Heads | None" = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Written]:
    """Write generated pairs in the layout of an archive, beside those that are there.

    With `labels` pairs get records as well (`generated_records.record_of`); without, nobody has
    said what the pictures show beyond the prompt, and they are unlabelled.

    Args:
        out: Folder, new or of this function; another call adds other pairs to it.
        pipeline: The generator.
        request: What to draw.
        model: Where the generator was loaded from, for the record of how it was made.
        labels: Heads that complete the records.
        progress: Called with steps done and of all.

    Returns:
        What was written.

    Raises:
        HephError: `out` holds something else or pictures of another size, or cannot be written.
    """
    earlier, first = _requests(out), _next_id(out)
    height, width = request.size or (pipeline.side, pipeline.side)
    if any(past["pixels"] != [height, width] for past in earlier):
        what = f"it holds pictures of {earlier[0]['pixels']} px, not {[height, width]}"
        raise HephError(str(out), what, "a frame has one size: choose another folder")
    made = {
        "notice": NOTICE,
        "model": model,
        "text_sha256": pipeline.config.text_sha256,
        "requests": [
            *earlier,
            vars(request) | {"read_as": request.text, "first": first, "pixels": [height, width]},
        ],
    }
    written: list[Written] = []
    truth = {"notice": NOTICE, "prompt": request.prompt, "read_as": request.text}
    # What an archive has already got is not drawn a second time.
    seed = int(np.random.SeedSequence([request.seed, first]).generate_state(1)[0])
    for drawn in draw(pipeline, request, seed, progress):
        if not written:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
                write_text(out / GENERATION_FILE, json.dumps(made, indent=2) + "\n")
        for i in range(len(drawn.images)):
            unique_id = first + len(written)
            record, why_not = unlabelled(unique_id), _NO_HEADS
            if labels is not None:
                found = record_of(unique_id, request.facts, drawn, i, labels)
                record, why_not = (record, found) if isinstance(found, str) else (found, None)
            images = drawn.images[i], drawn.coherence_images[i]
            labelled = why_not is None
            write_product(out, Product(record, *images, None, None, truth, labelled, NOTICE))
            name = record.pair_name
            image = out / record.frame_id / "interferograms" / name / f"{name}{IMAGE_SUFFIX}"
            caption = record.caption if labelled else None
            written.append(Written(image, unique_id, caption, why_not))
    return written


def _requests(out: Path) -> list[dict[str, Any]]:
    """What was drawn into this folder before."""
    path = out / GENERATION_FILE
    if not path.is_file():
        if out.exists() and any(out.iterdir()):
            fix = "choose a new folder, or one that heph-vl generate wrote"
            raise HephError(str(out), "the folder holds something else", fix)
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text())["requests"]
        if any(not {"pixels", "first"} <= set(past) for past in found):
            raise KeyError("pixels")
    except (ValueError, KeyError, TypeError) as error:
        raise HephError(str(path), "it is broken", "choose a new folder") from error
    return found


def _next_id(out: Path) -> int:
    there = out / "truth"
    numbers = [int(p.stem) for p in there.glob("*.json") if p.stem.isdigit()]
    return max(numbers, default=0) + 1


def load_generator(folder: Path) -> InSARPipeline:
    """A generator on the best device there is, without diffusers' own progress bars.

    Args:
        folder: Of a saved pipeline.

    Returns:
        The pipeline.

    Raises:
        HephError: It cannot be loaded.
    """
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = InSARPipeline.from_pretrained(folder)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    return pipeline


def write_sheet(out: Path, written: Sequence[Written], request: Request) -> Path:
    """Write a picture of generated pairs into their archive.

    Args:
        out: The archive.
        written: What to show, the first 32.
        request: What was asked for.

    Returns:
        Its path.
    """
    tiles = []
    for pair in written[:32]:
        grey = pair.image.with_name(pair.image.name.replace(IMAGE_SUFFIX, COHERENCE_SUFFIX))
        parts = [np.asarray(Image.open(path).convert("RGB")) for path in (pair.image, grey)]
        text = f"{pair.unique_id}: {pair.caption or request.text or '(anything)'} - {NOTICE}"
        tiles.append((text, Image.fromarray(np.concatenate(parts, axis=1))))
    path = out / f"sheet_{written[0].unique_id}.png"
    tile_pictures(tiles, path, columns=4, scale=2)
    return path
