"""Captions of images: rows of a dataset, or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heph_vl.errors import HephError

if TYPE_CHECKING:
    from heph_vl.data.picture import Box, Picture
    from heph_vl.models.captioner import Captioner, Memory
    from heph_vl.models.consensus import Answer

NUM_SAMPLES = 64  # texts drawn of an image: a share is known to 0.06 at worst (one standard error)


@dataclass(frozen=True)
class Captioned:
    """Captions of the rows that could be read.

    Attributes:
        positions: Of the n rows.
        answers: n of them.
        pooled: (n, D) float32, what the encoder saw: images alike are near.
        problems: One error for each row left out.
    """

    positions: list[int]
    answers: list[Answer]
    pooled: npt.NDArray[np.float32]
    problems: list[HephError]


def caption_rows(
    model: Captioner,
    rows: Any,
    *,
    num_samples: int = NUM_SAMPLES,
    num_beams: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Captioned:
    """Captions of whole images, one after another, in all views of `captioner.VIEWS`.

    Args:
        model: The captioner; it comes back in the mode it was in.
        rows: As for `embed.embed_batches`.
        num_samples: See `Captioner.answer`.
        num_beams: Likewise.
        progress: Called with the number of rows done and of all.

    Returns:
        The captions.

    Raises:
        HephError: If no row could be read.
    """
    positions, answers, pooled, problems = [], [], [], []
    for position, memories in _memories(model, rows, progress, often=True):
        if isinstance(memories, HephError):
            problems.append(memories)
            continue
        (answer,) = model.answer(memories, num_samples=num_samples, num_beams=num_beams)
        positions.append(position)
        answers.append(answer)
        pooled.append(memories[0].pooled[0].float().cpu().numpy())
    if not positions:
        first = f", the first because {problems[0].what}" if problems else ""
        raise HephError("images", f"none of {len(rows)} could be read{first}", "check the dataset")
    return Captioned(positions, answers, np.stack(pooled), problems)


def look_at_rows(
    model: Captioner, rows: Any, *, progress: Callable[[int, int], None]
) -> tuple[list[int], npt.NDArray[np.float32]]:
    """What the encoder sees of whole images, without a word.

    Args:
        model: The captioner.
        rows: As for `embed.embed_batches`.
        progress: Called with the number of rows done and of all.

    Returns:
        Positions of the n rows that could be read, and (n, D) float32.

    Raises:
        HephError: If no row could be read.
    """
    positions, pooled = [], []
    for position, memories in _memories(model, rows, progress, often=False):
        if not isinstance(memories, HephError):
            positions.append(position)
            pooled.append(memories[0].pooled[0].float().cpu().numpy())
    if not positions:
        raise HephError("images", f"none of {len(rows)} could be read", "check the dataset")
    return positions, np.stack(pooled)


def _memories(
    model: Captioner, rows: Any, progress: Callable[[int, int], None], *, often: bool
) -> Iterator[tuple[int, list[Memory] | HephError]]:
    """What the captioner remembers of each row, in all views or one, or why it cannot be read."""
    import torch

    from heph_vl.embed import encoded_images, read_image

    images = encoded_images(rows)
    was_training = model.training
    model.eval()
    try:
        for position in range(len(images)):
            try:
                pixels, valid = read_image(images[position], position)
            except HephError as problem:
                yield position, problem
            else:
                image = torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None]
                yield position, model.look_often(*image) if often else [model.look(*image)]
            progress(position + 1, len(images))
    finally:
        model.train(was_training)


def caption_files(
    paths: Sequence[Path],
    model: Path,
    *,
    num_samples: int = NUM_SAMPLES,
    num_beams: int = 0,
    explain: Path | None = None,
    bbox: Box | None = None,
) -> Iterator[tuple[Answer, str | None] | HephError]:
    """What is said of each file.

    Args:
        paths: LiCSAR PNGs, GeoTIFFs of wrapped phase, or numpy phase; frames or patches.
        model: Folder of the captioner.
        num_samples: See `Captioner.answer`.
        num_beams: Likewise.
        explain: Folder for `<stem>.explain.png`, where each sentence comes from; none if not given.
        bbox: Look into this box only: west, south, east, north [deg].

    Yields:
        For each file its answer and the path of that picture, or the error that kept it out.

    Raises:
        HephError: The model cannot be loaded, or two files would write one name.
    """
    from heph_vl.data.picture import read_picture, stem_of
    from heph_vl.detect import check_names
    from heph_vl.embed import on_best_device
    from heph_vl.models.captioner import Captioner

    captioner = on_best_device(Captioner.from_pretrained(model))
    if explain is not None:
        check_names(paths, explain)
    for path in paths:
        try:
            picture = read_picture(path, bbox)
            answer = caption_picture(
                captioner, picture, num_samples=num_samples, num_beams=num_beams
            )
            drawn = None
            if explain is not None:
                drawn = explain / f"{stem_of(path)}.explain.png"
                draw_explained(captioner, picture, answer, drawn, str(path))
        except HephError as problem:
            yield problem
        else:
            yield answer, None if drawn is None else str(drawn)


def fact_in_words(atom: Sequence[str]) -> str:
    """A fact of a caption for people, e.g. `pattern 1: intensity high`."""
    start = f"pattern {atom[1]}: " if atom[0] == "deformation" else ""
    return start + " ".join(atom[2:] if start else atom).replace("_", " ")


def caption_picture(
    captioner: Captioner,
    picture: Picture,
    *,
    num_samples: int = NUM_SAMPLES,
    num_beams: int = 0,
) -> Answer:
    """What is said of a picture.

    Args:
        captioner: The model.
        picture: Of `read_picture`.
        num_samples: See `Captioner.answer`.
        num_beams: Likewise.

    Returns:
        The answer, of all views.
    """
    import torch

    pixels, valid = torch.from_numpy(picture.channels), torch.from_numpy(picture.valid)
    memories = captioner.look_often(pixels[None], valid[None])
    (answer,) = captioner.answer(memories, num_samples=num_samples, num_beams=num_beams)
    return answer


def draw_explained(
    captioner: Captioner, picture: Picture, answer: Answer, path: Path, title: str
) -> None:
    """Write where in a picture each sentence of its answer comes from.

    Args:
        captioner: The model.
        picture: Of `read_picture`.
        answer: What is said of it.
        path: The picture to write; its ending gives the format.
        title: Above it.

    Raises:
        HephError: The file cannot be written.
    """
    import torch
    from PIL import Image

    from heph_vl.data import phase
    from heph_vl.heat import Heat
    from heph_vl.sheet import draw_phrases

    pixels, valid = torch.from_numpy(picture.channels), torch.from_numpy(picture.valid)
    height, width = picture.valid.shape
    maps = [
        (sentence, Heat(cells.cpu().numpy(), (height, width)))
        for sentence, cells in captioner.phrase_maps(pixels, valid, answer.text)
    ]
    image = Image.fromarray(phase.colour(picture.wrapped_phase, picture.valid))
    draw_phrases(image, maps, path, title=title)
