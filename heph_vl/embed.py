"""Image embeddings of dataset rows, for an index and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from heph_vl.errors import HephError

if TYPE_CHECKING:
    from torch import Tensor

Vectors = npt.NDArray[np.float32]
_IMAGE_COLUMNS = ("image", "coherence")


class ImageEmbedder(Protocol):
    """What embedding needs of a `models.retriever.Retriever`."""

    training: bool

    @property
    def logit_scale(self) -> Tensor:
        """Any of its tensors: tells the device."""

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation."""

    def encode_images(self, pixel_values: Tensor, valid: Tensor, size: Tensor) -> Tensor:
        """Unit embeddings (B, E)."""


Model = TypeVar("Model")


def on_best_device(model: Model) -> Model:
    """The model on a GPU where there is one."""
    import torch

    found: Any = model
    moved: Model = found.to("cuda" if torch.cuda.is_available() else "cpu")
    return moved


@dataclass
class Embedded:
    """Embeddings of the rows that could be read.

    Args:
        positions: n positions of the rows.
        vectors: (n, E) float32, unit length, in the same order.
        problems: One error for each row left out.
    """

    positions: list[int] = field(default_factory=list)
    vectors: Vectors = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    problems: list[HephError] = field(default_factory=list)


def embed_batches(
    retriever: ImageEmbedder,
    rows: Any,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Embedded]:
    """Embeddings of whole images, batch by batch, nothing varied.

    Args:
        retriever: The model; it comes back in the mode it was in.
        rows: A `datasets.Dataset` with `image` and perhaps `coherence`, or a list of such rows
            with encoded images (``{"bytes": ...}``).
        batch_size: Rows at once; images of one batch are padded to its largest.
        progress: Called with the number of rows done and of all.

    Yields:
        The embeddings and problems of each batch; positions count from the first row of all.
    """
    import torch

    from heph_vl.data.transforms import collate_images

    images = encoded_images(rows)
    was_training, device = retriever.training, retriever.logit_scale.device
    retriever.train(False)
    try:
        for start in range(0, len(images), batch_size):
            batch = Embedded()
            inputs = []
            for position in range(start, min(start + batch_size, len(images))):
                try:
                    inputs.append(read_image(images[position], position))
                    batch.positions.append(position)
                except HephError as problem:
                    batch.problems.append(problem)
            if inputs:
                tensors = {k: v.to(device) for k, v in collate_images(inputs).items()}
                with torch.inference_mode():
                    vectors = retriever.encode_images(**tensors)
                batch.vectors = vectors.float().cpu().numpy()
            yield batch
            if progress is not None:
                progress(min(start + batch_size, len(images)), len(images))
    finally:
        retriever.train(was_training)


def embed_images(
    retriever: ImageEmbedder,
    rows: Any,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Embeddings of whole images, all at once; arguments as for `embed_batches`.

    Args:
        retriever: The model.
        rows: Dataset rows.
        batch_size: Rows at once.
        progress: Called with the number of rows done and of all.

    Returns:
        Embeddings of the n rows that could be read, and the problems of the others.

    Raises:
        HephError: If no row could be read.
    """
    batches = list(embed_batches(retriever, rows, batch_size=batch_size, progress=progress))
    problems = [problem for batch in batches for problem in batch.problems]
    positions = [position for batch in batches for position in batch.positions]
    if not positions:
        first = f", the first because {problems[0].what}" if problems else ""
        raise HephError("images", f"none of {len(rows)} could be read{first}", "check the dataset")
    vectors = np.concatenate([batch.vectors for batch in batches if batch.positions])
    return Embedded(positions, vectors, problems)


def encoded_images(rows: Any) -> Sequence[Mapping[str, Any]]:
    """The rows with their id and images as stored bytes; a list of rows comes back as it is."""
    if not hasattr(rows, "column_names"):
        found: Sequence[Mapping[str, Any]] = rows
        return found
    from datasets import Image

    names = [name for name in _IMAGE_COLUMNS if name in rows.column_names]
    keys = [name for name in ("unique_id", "patch") if name in rows.column_names]
    rows = rows.select_columns([*keys, *names])
    for name in names:
        rows = rows.cast_column(name, Image(decode=False))
    encoded: Sequence[Mapping[str, Any]] = rows
    return encoded


def read_image(
    row: Mapping[str, Any], position: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Model input of a row with encoded images.

    Args:
        row: With `image`, and perhaps `coherence` and a name.
        position: Names a row without a name.

    Returns:
        (3, H, W) float32 and (H, W) bool, as of `samples.whole_image`.

    Raises:
        HephError: No image, a broken one, or one without any valid phase.
    """
    from heph_vl.data.samples import whole_image

    name = row.get("patch", row.get("unique_id", f"row {position}"))
    images = {column: row.get(column) for column in _IMAGE_COLUMNS}
    if images["image"] is None:
        raise HephError(f"interferogram {name}", "no image", "write the dataset again")
    pixels, valid = whole_image({"unique_id": name, **images})
    if not valid.any():
        raise HephError(f"interferogram {name}", "no valid phase", "the whole image is no-data")
    return pixels, valid
