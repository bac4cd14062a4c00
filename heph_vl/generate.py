"""Interferograms from sentences: sheets to look at, and archives that a model can learn from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, Event
from heph_vl.data.archive import COHERENCE_SUFFIX, GENERATION_FILE, IMAGE_SUFFIX
from heph_vl.data.captions.facts import AREA_EFFECTS
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.data.samples import decoded_pixels, pixels
from heph_vl.errors import HephError
from heph_vl.files import write_text
from heph_vl.models.generator import TRAIN_STEPS, Frozen, denoise, flow_step, v_step
from heph_vl.models.pipeline import NOTICE, InSAROutput, InSARPipeline
from heph_vl.sheet import tile_pictures
from heph_vl.simulate.store import Product, write_product

if TYPE_CHECKING:
    from heph_vl.models.heads import Heads
    from heph_vl.models.prediction import Prediction

# No frame of Sentinel-1: no track has number 0. The grouped split trains on both.
FRAME_ID = "002D_00000_000000"
_FIRST = date(1900, 1, 1)  # no satellite flew: a date that cannot be taken for a real one
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
    kept = ("pixel_values", "valid", "input_ids", "attention_mask")
    seen = frozen.prepare({name: batch[name].to(device) for name in kept})
    count = len(seen["latents"])
    noise = torch.randn(seen["latents"].shape, generator=torch.Generator().manual_seed(0))
    share = ((torch.arange(count) % _LEVELS) + 0.5) / _LEVELS
    errors = []
    for start in range(0, count, 64):
        part = {name: values[start : start + 64] for name, values in seen.items()}
        some = noise[start : start + 64].to(device), share[start : start + 64]
        if frozen.config.prediction == "flow":
            noised, time, velocity, _ = flow_step(part["latents"], *some)
        else:
            time = (some[1] * TRAIN_STEPS).long().to(device)
            noised, velocity, _ = v_step(part["latents"], some[0], time, frozen)
        errors.append((denoise(model, noised, time, part) - velocity).square().mean((1, 2, 3)))
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
        seed: Of all randomness.
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[InSAROutput]:
    """Interferograms of a request, some at a time.

    Args:
        pipeline: The generator.
        request: What to draw.
        progress: Called with steps done and of all.

    Yields:
        At most 16 of them.
    """
    height, width = request.size or (None, None)
    total = -(-request.number // _AT_ONCE) * request.steps
    for number, start in enumerate(range(0, request.number, _AT_ONCE)):
        count = min(_AT_ONCE, request.number - start)

        def drawn(done: int, of_these: int, before: int = number * request.steps) -> None:
            progress(before + done, total)

        yield pipeline(
            request.text,
            num_images_per_prompt=count,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed + number),
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
    """

    image: Path
    unique_id: int
    caption: str | None


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

    A record says what the prompt says. What a prompt leaves open (the air, noise, outlines, where
    it names a deformation) is read off the picture by `labels`, if given. A prompt that does not
    tell whether the ground deforms gets no record without `labels`.

    Args:
        out: Folder, new or of this function.
        pipeline: The generator.
        request: What to draw.
        model: Where the generator was loaded from, for the record of how it was made.
        labels: Heads that complete the records.
        progress: Called with steps done and of all.

    Returns:
        What was written.

    Raises:
        HephError: `out` holds something else, or cannot be written.
    """
    first = _next_id(out)
    made = {
        "notice": NOTICE,
        "model": model,
        "text_id": pipeline.config.text_id,
        "requests": [*_requests(out), {**vars(request), "read_as": request.text, "first": first}],
    }
    written: list[Written] = []
    for drawn in draw(pipeline, request, progress):
        for i in range(len(drawn.images)):
            unique_id = first + len(written)
            facts, events = request.facts, _events(request.facts, [])
            if labels is not None:
                facts, events = _completed(request.facts, drawn, i, labels)
            record = _record(unique_id, facts, events)
            if not written:
                out.mkdir(parents=True, exist_ok=True)
                write_text(out / GENERATION_FILE, json.dumps(made, indent=2) + "\n")
            written.append(_write(out, record, drawn, i, request, _tells(facts)))
    return written


def _tells(facts: captions.CaptionFacts) -> bool:
    """Whether facts say if the ground deforms, or that nothing can be said."""
    settled = {("no_deformation",), ("corrupted",), ("no_information",)}
    return bool(facts.patterns) or bool(facts.scene & settled)


def _write(
    out: Path, record: Annotation, drawn: InSAROutput, i: int, request: Request, labelled: bool
) -> Written:
    truth = {"notice": NOTICE, "prompt": request.prompt, "read_as": request.text}
    images = drawn.images[i], drawn.coherence_images[i]
    write_product(out, Product(record, *images, None, None, truth, labelled, NOTICE))
    name = record.pair_name
    image = out / record.frame_id / "interferograms" / name / f"{name}{IMAGE_SUFFIX}"
    return Written(image, record.unique_id, record.caption if labelled else None)


def _completed(
    said: captions.CaptionFacts, drawn: InSAROutput, i: int, labels: "Heads"
) -> tuple[captions.CaptionFacts, tuple[Event, ...]]:
    """What a prompt says, and of what it leaves open what the heads see."""
    from heph_vl.detect import outlines

    channels, valid = decoded_pixels(drawn.wrapped_phase[i], drawn.valid[i], drawn.coherence[i])
    found: Prediction = labels.predict(torch.from_numpy(channels), torch.from_numpy(valid))
    seen = facts_from_labels(found.row(0), found.mask)
    named = {atom[0] for atom in said.scene}
    settled = _tells(said)
    open_air = not named & {"vertical_stratification", "turbulent_mixing", "low_atmospheric_impact"}
    scene = set(said.scene)
    for atom in seen.scene:
        if atom[0] in ("no_deformation", "corrupted", "no_information"):
            if not settled:
                scene.add(atom)
        elif atom[0] in AREA_EFFECTS and atom[0] != "noise":
            if open_air:
                scene.add(atom)
        elif atom[0] != "low_atmospheric_impact" and atom[0] not in named:
            scene.add(atom)
    patterns = said.patterns if settled else seen.patterns
    level = max(zip(found.intensities, captions.INTENSITIES, strict=True))[1]
    patterns = tuple(
        p if p.intensity or p.type == "earthquake" else replace(p, intensity=level)
        for p in patterns
    )
    if patterns:
        scene.discard(("no_deformation",))
    facts = captions.CaptionFacts(frozenset(scene), patterns)
    whole = _if_deforming(found)
    return facts, _events(facts, outlines(whole) if whole is not None else [], valid.shape)


def _if_deforming(found: "Prediction") -> NDArray[np.uint8] | None:
    """A mask of an image that is known to deform: the image's own probability does not count."""
    if found.mask_if_deforming is None:
        return None
    return (found.mask_if_deforming >= 0.5).astype(np.uint8)


def _events(
    facts: captions.CaptionFacts,
    found: Sequence[Mapping[str, Any]],
    shape: tuple[int, ...] = (1, 1),
) -> tuple[Event, ...]:
    """One event for each pattern, outlined by what was found in its place, else the largest."""
    left, events = list(found), []
    for pattern in facts.patterns:
        kind = "unidentified" if pattern.type == "unspecified" else pattern.type
        near = [o for o in left if _cell(o["polygon"], shape) in pattern.regions] or left
        polygon = None
        if near:
            left.remove(near[0])
            polygon = tuple((float(x), float(y)) for x, y in near[0]["polygon"])
        events.append(Event(kind, pattern.intensity, polygon))
    return tuple(events)


def _cell(polygon: Sequence[Sequence[float]], shape: tuple[int, ...]) -> str:
    """Cell of the 3 x 3 grid at the middle of an outline's box."""
    corners = np.array(polygon)
    x, y = (corners.min(0) + corners.max(0)) / 2
    row, column = (min(2, int(3 * v / side)) for v, side in ((y, shape[0]), (x, shape[1])))
    return captions.CELLS[3 * row + column]


def _record(unique_id: int, facts: captions.CaptionFacts, events: tuple[Event, ...]) -> Annotation:
    """The record that facts amount to; the volcano's phase is unrest, which no phase tells."""
    said = {atom[0] for atom in facts.scene}
    error = next((a[1] for a in facts.scene if a[0] == "processing_error"), "none")
    volcanic = [event for event in events if event.type != "earthquake"]
    label = ["Deformation"] * bool(volcanic) + ["Earthquake"] * (len(volcanic) < len(events))
    phase = "unrest" if volcanic else "none" if events else "rest"
    start = _FIRST + timedelta(days=unique_id)
    return Annotation(
        unique_id=unique_id,
        frame_id=FRAME_ID,
        primary_date=start,
        secondary_date=start + timedelta(days=12),
        corrupted="corrupted" in said,
        processing_error=error,
        glacier_fringes="glacier_fringes" in said,
        orbital_fringes="orbital_fringes" in said,
        atmosphere=int("vertical_stratification" in said) + 2 * int("turbulent_mixing" in said),
        low_coherence="noise" in said,
        no_info="no_information" in said,
        image_artifacts="image_artifacts" in said,
        label=tuple(label) or ("Non_Deformation",),
        events=events,
        volcano_phase=phase,
        confidence=0.5,
        is_crowd=len(events) > 1,
        caption=captions.compose(facts),
    )


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
