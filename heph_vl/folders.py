"""Rows of a folder that holds interferograms: a dataset, an archive, or PNG files.

Rows keep their images encoded (``{"bytes": ...}``) and are read when asked for, so that a folder
may hold more than memory. `ids` names them without reading an image.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from heph_vl.data.images import read_png
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
        data: A dataset of `heph-vl dataset`, an archive, or a folder of PNG interferograms.
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
    files = _Files(data)
    if not len(files):
        raise HephError(str(data), "holds no PNG", "give a dataset, an archive or images")
    return files, files.problems


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
        return next(row for _, row in generate([pair], config, [], Counter()))

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
    """PNG files as rows; coherence, unwrapped phase and masks are no interferograms."""

    def __init__(self, data: Path) -> None:
        from heph_vl.detect import find_images

        paths = find_images([data])
        self._paths = [path for path in paths if path.suffix.lower() == ".png"]
        self._root = data if data.is_dir() else data.parent
        fix = "give it as a PNG; search --image takes it as a query"
        self.problems = [
            HephError(str(path), f"{path.suffix} files are not indexed", fix)
            for path in paths
            if path.suffix.lower() != ".png"
        ]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> Row:
        path = self._paths[position]
        coherence = path.with_name(path.name.replace(".geo.diff.png", ".geo.cc.png"))
        has = coherence != path and coherence.is_file()
        name = str(path.relative_to(self._root))
        return {
            "image_id": name,
            "patch": name,
            "image": {"bytes": read_png(path), "path": str(path)},
            "coherence": {"bytes": read_png(coherence), "path": None} if has else None,
        }

    def ids(self) -> list[str]:
        return [str(path.relative_to(self._root)) for path in self._paths]
