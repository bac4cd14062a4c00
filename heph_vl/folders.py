"""Rows of a folder that holds interferograms: a dataset, an archive, or loose files.

Rows keep their images encoded (``{"bytes": ...}``) and are read when asked for, so that a folder
may hold more than memory. `ids` names them without reading an image.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from heph_vl.data.geotiff import middle_of
from heph_vl.data.images import read_png
from heph_vl.data.native import encode_png, paint
from heph_vl.data.picture import coherence_of, find_images, placed, read_picture
from heph_vl.data.volcanoes import nearest
from heph_vl.errors import HephError
from heph_vl.index_rows import ID_COLUMNS, image_id_of

Row = dict[str, Any]


class Rows(Protocol):
    """Rows read when asked for."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, position: int) -> Row:
        """One, with its images encoded; HephError if it cannot be read."""

    def ids(self) -> list[str]:
        """`index_rows.image_id_of` of each."""


def open_folder(data: Path, split: str | None = None) -> tuple[Rows, list[HephError]]:
    """Rows of whatever the folder holds.

    Args:
        data: A dataset of `heph-vl dataset`, an archive, or a folder of interferograms.
        split: Only this split of a dataset.

    Returns:
        The rows, and what of an archive has no row.

    Raises:
        HephError: No such folder or split, or nothing in it.
    """
    if not data.exists():
        raise HephError(str(data), "no such folder", "give a dataset, an archive or images")
    if any(data.glob("data/*.parquet")):
        return _Dataset(data, split), []
    if split is not None:
        raise HephError(str(data), "only a dataset has splits", "leave --split out")
    # scan_archive says so where the folder is one too high or too low.
    signs = ("interferograms", "annotations", "*/interferograms", "*/*/interferograms")
    if any(path.is_dir() for sign in signs for path in data.glob(sign)):
        archive = _Archive(data)
        return archive, archive.problems
    return _Files(data), []


def read_rows(rows: Rows, positions: Iterable[int], problems: list[HephError]) -> list[Row]:
    """The rows that can be read; one error is added to `problems` for each of the others."""
    found = []
    for i in positions:
        try:
            found.append(rows[i])
        except HephError as problem:
            problems.append(problem)
    return found


class _Dataset:
    """Rows of a dataset of `heph-vl dataset`."""

    def __init__(self, data: Path, split: str | None) -> None:
        import datasets

        from heph_vl.data import parquet

        found = parquet.load(data, split)
        parts = [found] if split is not None else list(found.values())
        rows = datasets.concatenate_datasets(parts)
        for name in ("image", "coherence"):
            rows = rows.cast_column(name, datasets.Image(decode=False))
        self._rows = rows.remove_columns([name for name in ("mask",) if name in rows.column_names])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Row:
        row: Row = self._rows[position]
        return row

    def ids(self) -> list[str]:
        there = [name for name in ID_COLUMNS if name in self._rows.column_names]
        return [image_id_of(row) for row in self._rows.select_columns(there)]


class _Archive:
    """Pairs of a raw archive as rows."""

    def __init__(self, root: Path) -> None:
        from heph_vl.data.archive import scan_archive
        from heph_vl.data.native import usual_sizes

        archive = scan_archive(root)
        self.problems = list(archive.problems)
        self._pairs = archive.pairs
        self._source = archive.source
        self._usual_sizes = usual_sizes(archive.pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> Row:
        from heph_vl.data.examples import ExampleConfig, generate

        pair = self._pairs[position]
        name = "unlabeled" if pair.annotation is None else "interferograms"
        config = ExampleConfig(name, self._source, self._usual_sizes, strict=True)
        row = next(row for _, row in generate([pair], config, [], Counter()))
        return row | _place_of(placed(pair.image))

    def ids(self) -> list[str]:
        names = ("frame_id", "primary_date", "secondary_date")
        return [
            image_id_of(
                {name: getattr(pair, name) for name in names}
                | {"unique_id": None if pair.annotation is None else pair.annotation.unique_id}
            )
            for pair in self._pairs
        ]


class _Files:
    """Loose files as rows; coherence, unwrapped phase and masks are no interferograms."""

    def __init__(self, data: Path) -> None:
        self._paths = find_images([data])
        self._root = data if data.is_dir() else data.parent

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> Row:
        path = self._paths[position]
        image, coherence = _encoded(path) if path.suffix.lower() != ".png" else _stored(path)
        name = str(path.relative_to(self._root))
        return {
            "image_id": name,
            "patch": name,
            "image": {"bytes": image, "path": str(path)},
            "coherence": None if coherence is None else {"bytes": coherence, "path": None},
        } | _place_of(path)

    def ids(self) -> list[str]:
        return [str(path.relative_to(self._root)) for path in self._paths]


def _place_of(path: Path) -> Row:
    """The middle of a GeoTIFF, and the volcanoes near it."""
    middle = middle_of(path)
    if middle is None:
        return {}
    names = [name for name, _ in nearest(*middle)]
    return {"longitude": middle[0], "latitude": middle[1]} | ({"volcanoes": names} if names else {})


def _stored(path: Path) -> tuple[bytes, bytes | None]:
    """A preview and the coherence beside it, as they are."""
    coherence = coherence_of(path)
    if coherence is None or not coherence.is_file():
        return read_png(path), None
    return read_png(path), read_png(coherence)


def _encoded(path: Path) -> tuple[bytes, bytes | None]:
    """Phase in radians as a picture, and its coherence."""
    picture = read_picture(path)
    image = encode_png(paint(picture.wrapped_phase, picture.valid, "new"))
    if not picture.measured:
        return image, None
    return image, encode_png(np.rint(255 * picture.channels[2]).astype(np.uint8))
