"""Anyone's embeddings for the retrieval benchmark: the .npz format, checked.

Four arrays, rows in any order; images and texts that are not asked for are ignored:

    image_embeddings (N, E) float    unique_ids (N,) int
    text_embeddings  (Q, E) float    texts      (Q,) str
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.errors import HephError
from heph_vl.metrics.benchmark import query_texts

Vectors = npt.NDArray[np.float32]
_COLUMNS = ("unique_id", "caption", "volcano_group", "source")
_KINDS = {  # numpy's dtype kinds, and their name for people
    "image_embeddings": ("fiu", "numbers"),
    "text_embeddings": ("fiu", "numbers"),
    "unique_ids": ("iu", "integers"),
    "texts": ("U", "str"),
}


@dataclass(frozen=True)
class Gallery:
    """The images of a split, without their pixels."""

    unique_ids: list[int]
    captions: list[str]
    groups: list[str]
    sources: list[str]

    @property
    def sha256(self) -> str:
        """Of ids and captions in order of id: equal hashes are equal tasks."""
        lines = sorted(zip(self.unique_ids, self.captions, strict=True))
        text = "\n".join(
            f"{unique_id}\t{' '.join(caption.split())}" for unique_id, caption in lines
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def take(self, positions: Sequence[int]) -> Gallery:
        """The images at these positions."""
        return Gallery(
            [self.unique_ids[i] for i in positions],
            [self.captions[i] for i in positions],
            [self.groups[i] for i in positions],
            [self.sources[i] for i in positions],
        )


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a gallery's readable images and of all query texts."""

    positions: list[int]
    images: Vectors
    texts: dict[str, Vectors]
    about: dict[str, Any]
    unreadable: list[str]


def read_gallery(rows: Any) -> Gallery:
    """The columns of a dataset split that scoring needs.

    Args:
        rows: A `datasets.Dataset` of config `interferograms`.

    Returns:
        Its images, in order.

    Raises:
        HephError: If the split is empty, has no captions, or repeats an id.
    """
    missing = [name for name in _COLUMNS if name not in rows.column_names]
    if missing:
        raise HephError(
            "dataset", f"no column {missing[0]}", "evaluate a dataset of config interferograms"
        )
    columns = rows.select_columns(list(_COLUMNS)).to_dict()
    if not columns["unique_id"]:
        raise HephError("dataset", "the split has no images", "choose another split or dataset")
    twice = [key for key, times in Counter(columns["unique_id"]).items() if times > 1]
    if twice:
        raise HephError(
            "dataset", f"unique_id {twice[0]} twice", "evaluate whole interferograms, not patches"
        )
    return Gallery(*(columns[name] for name in _COLUMNS))


def read_predictions(
    path: Path, gallery: Gallery, excused: Callable[[int], str | None] = lambda position: None
) -> Embeddings:
    """Anyone's embeddings, checked and put into the gallery's order.

    Args:
        path: A .npz as the module describes it.
        gallery: The images that must be there; others are ignored.
        excused: Why the image at a position of the gallery, which has no embedding, cannot be
            read by anyone; None if it can.

    Returns:
        Embeddings of the readable gallery and of all queries.

    Raises:
        HephError: If an array is missing, of a wrong shape or type, not finite or repeated, or
            lacks an image or a query.
    """
    arrays = _load_arrays(path)
    images, ids = arrays["image_embeddings"], arrays["unique_ids"]
    vectors, texts = arrays["text_embeddings"], arrays["texts"]
    for name, (kinds, wanted) in _KINDS.items():
        if arrays[name].dtype.kind not in kinds:
            raise HephError(f"{path}: {name}", f"dtype {arrays[name].dtype}", f"give {wanted}")
    for (name, matrix), (keys_name, keys) in (
        (("image_embeddings", images), ("unique_ids", ids)),
        (("text_embeddings", vectors), ("texts", texts)),
    ):
        if matrix.ndim != 2 or keys.ndim != 1 or len(matrix) != len(keys):
            what = f"shape {matrix.shape} beside {keys_name} {keys.shape}"
            raise HephError(f"{path}: {name}", what, "give one row for each")
        if not np.isfinite(matrix).all():
            row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
            raise HephError(f"{path}: {name}", f"row {row} is not finite", "embed it again")
    if images.shape[1] != vectors.shape[1]:
        what = f"length {images.shape[1]}, text_embeddings {vectors.shape[1]}"
        raise HephError(f"{path}: image_embeddings", what, "give both in one space")
    given = set(ids.tolist())
    absent = [i for i, key in enumerate(gallery.unique_ids) if key not in given]
    # Where most are missing the file is of another split: no need to look at each image.
    reasons = {i: excused(i) for i in absent} if len(absent) <= len(gallery.unique_ids) / 2 else {}
    unreadable = {i: reason for i, reason in reasons.items() if reason is not None}
    kept = [i for i in range(len(gallery.unique_ids)) if i not in unreadable]
    asked = [gallery.unique_ids[i] for i in kept]
    position = _positions(path, "unique_ids", ids.tolist(), asked, "image")
    spaced = [" ".join(text.split()) for text in texts.tolist()]
    wanted_texts = query_texts(gallery.captions)
    text_position = _positions(path, "texts", spaced, wanted_texts, "query")
    return Embeddings(
        kept,
        images[position].astype(np.float32),
        dict(zip(wanted_texts, vectors[text_position].astype(np.float32), strict=True)),
        {
            "predictions_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "ignored_images": len(ids) - len(position),
            "ignored_texts": len(spaced) - len(text_position),
        },
        list(unreadable.values()),
    )


def _load_arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise HephError(str(path), "one array, not a .npz", "save it with numpy.savez")
            missing = [name for name in _KINDS if name not in file.files]
            if missing:
                raise HephError(
                    str(path),
                    f"no array {missing[0]}",
                    f"save {', '.join(_KINDS)} with numpy.savez",
                )
            return {name: file[name] for name in _KINDS}
    except FileNotFoundError as error:
        raise HephError(str(path), "no such file", "give the .npz of your predictions") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        fix = "save plain arrays with numpy.savez; texts as numpy.array(texts, dtype=str)"
        raise HephError(str(path), f"unreadable: {error}", fix) from error


def _positions(
    path: Path, name: str, keys: list[Any], wanted: Sequence[Any], what: str
) -> list[int]:
    position = {key: i for i, key in enumerate(keys)}
    if len(position) < len(keys):
        twice = next(key for key, times in Counter(keys).items() if times > 1)
        raise HephError(f"{path}: {name}", f"{twice!r} twice", f"give each {what} once")
    missing = [key for key in wanted if key not in position]
    if missing:
        raise HephError(
            f"{path}: {name}",
            f"{len(missing)} of {len(wanted)} missing, the first {missing[0]!r}",
            "embed all that --write-queries lists",
        )
    return [position[key] for key in wanted]
