"""Captions of images: rows of a dataset, or files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heph_vl.errors import HephError

if TYPE_CHECKING:
    from heph_vl.models.captioner import Captioner
    from heph_vl.models.consensus import Answer

NUM_SAMPLES = 32  # texts drawn of an image: a share is known to 0.09 at worst (one standard error)


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
    answers: list["Answer"]
    pooled: npt.NDArray[np.float32]
    problems: list[HephError]


def caption_rows(
    model: "Captioner",
    rows: Any,
    *,
    num_samples: int = NUM_SAMPLES,
    num_beams: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Captioned:
    """Captions of whole images, one after another, nothing varied.

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
    from heph_vl.embed import encoded_images, read_image

    images = encoded_images(rows)
    positions, answers, problems = [], [], []
    pooled = []
    for position in range(len(images)):
        try:
            pixels, valid = read_image(images[position], position)
        except HephError as problem:
            problems.append(problem)
        else:
            answer, seen = _answer(model, pixels, valid, num_samples, num_beams)
            positions.append(position)
            answers.append(answer)
            pooled.append(seen)
        progress(position + 1, len(images))
    if not positions:
        first = f", the first because {problems[0].what}" if problems else ""
        raise HephError(
            "images", f"none of {len(images)} could be read{first}", "check the dataset"
        )
    return Captioned(positions, answers, np.stack(pooled), problems)


def _answer(
    model: "Captioner",
    pixels: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    num_samples: int,
    num_beams: int,
) -> tuple["Answer", npt.NDArray[np.float32]]:
    """The answer for one image, and what the encoder saw (D,)."""
    import torch

    was_training = model.training
    model.eval()
    try:
        memory = model.look(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None])
        (answer,) = model.answer(memory, num_samples=num_samples, num_beams=num_beams)
    finally:
        model.train(was_training)
    return answer, memory.pooled[0].float().cpu().numpy()
