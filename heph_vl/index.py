"""Embedding index on disk: image vectors beside the columns that search results show and filter on.

An index is a folder with a LanceDB table and ``meta.json``. ``meta.json`` names the model and the
table version that readers see; it is written last and renamed into place. What an interrupted
writer left behind is therefore invisible, and dropped by the next writer. Search is exact: one
product with vectors held in memory. LanceDB gives persistence, and an approximate search that
reads a small part of the vectors from disk where `build_approximate` was called (`approximate`).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from heph_vl import approximate
from heph_vl.errors import HephError
from heph_vl.index_meta import Meta, guard, read_meta, write_meta
from heph_vl.index_rows import COLUMNS, image_id_of, record_batch, schema
from heph_vl.nearest import SCORE_DECIMALS, Vectors, nearest
from heph_vl.where import Filter, parse_where

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE = "images"
_ROWS_PER_WRITE = 4096  # every write makes files: few large ones read faster


@dataclass(frozen=True)
class Hit:
    """One search result: rank from 1, inner product with the query, and the image's columns."""

    rank: int
    score: float
    row: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The fields that ``heph-vl search --json`` prints."""
        names = ("unique_id", "frame_id", "primary_date", "secondary_date", "caption", "image")
        found = {name: self.row[name] for name in names}
        return {"rank": self.rank, "score": round(self.score, SCORE_DECIMALS), **found}


class Index:
    """Image embeddings of one model, with captions and labels.

    As a context manager it commits on a clean exit and discards on an exception::

        with Index.create("idx", model_id, dim=128) as index:
            index.add(vectors, rows)
        hits = Index.open("idx", model_id).search(queries, k=10, where="low_coherence = FALSE")
    """

    def __init__(self, path: Path, folder: Path, meta: Meta) -> None:
        self.path = path
        self.meta = meta
        self._folder = folder  # differs from `path` until a new index is committed
        self._table = self._open_table()
        # Folder of each image in the published version, by id; None: not writing.
        self._published: dict[str, str | None] | None = None
        self._staged: set[str] = set()
        self._pending: list[pa.RecordBatch] = []
        self._loaded: tuple[Vectors, pa.Table] | None = None

    @classmethod
    def create(cls, path: str | Path, model_id: str, dim: int, *, model: str = "") -> Index:
        """A new index, invisible under a temporary name until ``commit``.

        Args:
            path: Folder to make; it must not exist, or be empty.
            model_id: SHA-256 of the weights that make the vectors.
            dim: Length of a vector.
            model: Folder of the model, so that a search need not name it.

        Returns:
            An empty index to ``add`` to.

        Raises:
            HephError: If the folder holds something or cannot be written.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise HephError(str(path), "it exists", "name a new folder, or open this index to add")
        staging = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        table = guard(path, lambda: _make_table(staging, dim))
        created = datetime.now(UTC).isoformat("T", "seconds")
        meta = Meta(model_id, dim, 0, table.version, created, model)
        return cls(path, staging, meta)

    @classmethod
    def open(cls, path: str | Path, model_id: str | None = None) -> Index:
        """An existing index, to search or to add to.

        Args:
            path: Folder of the index.
            model_id: The model that will embed the queries; None accepts any.

        Returns:
            The index as last committed.

        Raises:
            HephError: If the folder is no index, is damaged, or was made by another model.
        """
        path = Path(path)
        meta = read_meta(path)
        if model_id is not None and model_id != meta.model_id:
            raise HephError(
                str(path),
                f"made by model {meta.model_id[:12]}, not by {model_id[:12]}",
                "search it with the model that made it, or index the images anew",
            )
        return cls(path, path, meta)

    def __len__(self) -> int:
        return self.meta.count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.commit()
        except BaseException:
            self.discard()
            raise

    def add(
        self, vectors: npt.ArrayLike, rows: Sequence[Mapping[str, Any]], *, moved: bool = False
    ) -> None:
        """Stages images; readers see them after ``commit``.

        An image id that the published index already holds replaces the older one, if it comes from
        the same folder (``data``): names repeat over folders. The same id twice before a commit is
        an error too: one of the two images would be lost.

        Args:
            vectors: (n, D) float32, unit length, in the order of ``rows``.
            rows: n mappings with ``COLUMNS`` and ``thumbnail`` (PNG bytes or None); a missing
                column is stored as missing, a missing ``image_id`` is the ``unique_id``.
            moved: Images of one id are the same ones in whatever folder.

        Raises:
            HephError: On vectors of another shape or not finite, a repeated or missing id, an id
                that came from another folder, or a value of another type than its column.
        """
        import pyarrow as pa

        array = np.ascontiguousarray(vectors, dtype=np.float32)
        if array.shape != (len(rows), self.meta.dim):
            raise HephError(
                str(self.path),
                f"vectors of shape {array.shape} for {len(rows)} images",
                f"give one vector of length {self.meta.dim} for each image",
            )
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise HephError(
                f"{self.path}: {image_id_of(rows[bad])}", "vector not finite", "embed it again"
            )
        if not rows:
            return
        ids = [image_id_of(row) for row in rows]
        published = self._begin_writing()
        for image_id, row in zip(ids, rows, strict=True):
            before, now = published.get(image_id), row.get("data")
            if not moved and None not in (before, now) and before != now:
                what = f"indexed from {before} before, now from {now}"
                fix = "make another index; or add --moved, if they are the same images"
                raise HephError(f"{self.path}: {image_id}", what, fix)
            if image_id in self._staged:
                raise HephError(
                    f"{self.path}: {image_id}", "image added twice", "give each its own id"
                )
            self._staged.add(image_id)
        try:
            self._pending.append(record_batch(array, ids, rows))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise HephError(
                str(self.path), f"value of a wrong type: {error}", "see COLUMNS"
            ) from error
        if sum(batch.num_rows for batch in self._pending) >= _ROWS_PER_WRITE:
            self._flush()

    def commit(self) -> None:
        """Publishes what was added: from now on readers see all of it."""
        self._flush()
        count = guard(self.path, self._table.count_rows)
        self._check_no_other_writer()
        self.meta = replace(self.meta, count=count, table_version=self._table.version)
        guard(self.path, lambda: write_meta(self._folder, self.meta))
        if self._folder != self.path:
            guard(self.path, lambda: self._folder.replace(self.path))
            self._folder = self.path
        self._reset()

    def build_approximate(self, *kinds: npt.ArrayLike) -> float:
        """Prepares approximate search over what is published, and publishes it.

        Images added later are found too, one by one, until it is called again.

        Args:
            *kinds: Queries of each kind that will be asked, (Q, D) float32, unit length: recall is
                measured with them, and decides how many lists a search looks into. The images of
                the index may be among them; that they find themselves does not count.

        Returns:
            Recall at 10 without a filter, of the kind that it is lowest for.

        Raises:
            HephError: Too few images to gain anything, no query, or images not committed.
        """
        asked = [self._queries(queries) for queries in kinds]
        if len(self) < approximate.FEWEST or not asked:
            what = f"{len(self)} images, and an exact search is fast up to 100,000 and more"
            raise HephError(str(self.path), what, "leave the approximate search out")
        images, table = self._load()
        self._check_no_other_writer()
        guard(self.path, self._table.restore)
        row_ids = table["_rowid"].to_numpy()
        lists = guard(self.path, lambda: approximate.build(self._table, asked, images, row_ids))
        self._check_no_other_writer()
        self.meta = replace(self.meta, table_version=self._table.version, lists=lists)
        guard(self.path, lambda: write_meta(self._folder, self.meta))
        self._reset()
        return lists.recall

    def discard(self) -> None:
        """Forgets what was added since the last commit; a new index leaves nothing behind."""
        if self._folder != self.path:
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            self._reset()

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int,
        where: str | Filter | None = None,
        *,
        approximately: bool = False,
    ) -> list[list[Hit]]:
        """The k images nearest to each query, best first.

        Args:
            vectors: (Q, D) float32 queries of the index's own model, unit length.
            k: At least 1; fewer hits come back if fewer images pass the filter.
            where: A filter (see ``heph_vl.where``).
            approximately: Look into some of the lists of ``build_approximate`` only, on disk.

        Returns:
            Q lists of at most k hits; equal scores in order of unique_id, then image_id.

        Raises:
            HephError: If the index is empty, the queries have another length, the filter is bad,
                or approximate search was not prepared.
        """
        queries = self._queries(vectors)
        if k < 1:
            raise HephError("k", f"{k} results asked for", "ask for at least 1")
        if isinstance(where, str):
            where = parse_where(where, COLUMNS)
        if approximately:
            return [self._near(query, k, where) for query in queries]
        images, table = self._load()
        keep = where.mask(table) if where is not None else None
        results = []
        for scores, positions in nearest(images, queries, k, keep):
            rows = table.take(positions).to_pylist()
            hits = zip(scores.tolist(), rows, strict=True)
            results.append([Hit(rank, score, row) for rank, (score, row) in enumerate(hits, 1)])
        return results

    def _near(self, query: Vectors, k: int, where: Filter | None) -> list[Hit]:
        if self.meta.lists is None:
            fix = "add --approximate to heph-vl index, or search exactly"
            raise HephError(str(self.path), "not prepared for approximate search", fix)
        sql = None if where is None else where.sql(COLUMNS)
        search = partial(approximate.search, self._table, query, k, sql, self.meta.lists)
        rows = guard(self.path, search).to_pylist()
        return [Hit(rank, row.pop("score"), row) for rank, row in enumerate(rows, 1)]

    def _queries(self, vectors: npt.ArrayLike) -> Vectors:
        queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.meta.dim or not len(queries):
            raise HephError(
                "query",
                f"vectors of shape {queries.shape}",
                f"the index holds vectors of length {self.meta.dim}: use the model that made it",
            )
        return queries

    def sample(self, count: int) -> Vectors:
        """Vectors (n, D) of at most `count` images, evenly spread by unique_id."""
        images, _ = self._load()
        return images[np.unique(np.linspace(0, len(images) - 1, count).astype(np.intp))]

    def captions(self) -> list[str]:
        """The distinct captions of all images, in order."""
        _, table = self._load()
        return [text for text in table["caption"].unique().to_pylist() if text and text.strip()]

    def thumbnails(self, hits: Sequence[Hit]) -> list[bytes | None]:
        """The small PNG of each hit, or None where the index has none."""
        row_ids = [hit.row["_rowid"] for hit in hits]
        if not row_ids:
            return []
        query = self._table.take_row_ids(sorted(set(row_ids))).select(["image_id", "thumbnail"])
        found = guard(self.path, query.to_arrow)
        by_id = dict(
            zip(found["image_id"].to_pylist(), found["thumbnail"].to_pylist(), strict=True)
        )
        return [by_id[hit.row["image_id"]] for hit in hits]

    def _load(self) -> tuple[Vectors, pa.Table]:
        """Vectors (N, D) and columns in order of unique_id, read once."""
        if self._loaded is None:
            if self._folder != self.path or self._staged:
                raise HephError(str(self.path), "images added but not committed", "call commit()")
            if not self.meta.count:
                raise HephError(str(self.path), "the index is empty", "add images to it first")
            self._loaded = guard(self.path, lambda: _read_table(self._table, self.meta.dim))
            if len(self._loaded[0]) != self.meta.count:
                raise HephError(
                    str(self.path),
                    f"{len(self._loaded[0])} images where meta.json says {self.meta.count}",
                    "the index is damaged: index the images anew",
                )
        return self._loaded

    def _open_table(self) -> Any:
        table = guard(self.path, lambda: _connect(self._folder).open_table(_TABLE))
        guard(self.path, lambda: table.checkout(self.meta.table_version))
        return table

    def _reset(self) -> None:
        self._table = self._open_table()
        self._published, self._loaded, self._pending = None, None, []
        self._staged = set()

    def _begin_writing(self) -> dict[str, str | None]:
        if self._published is not None:
            return self._published
        self._loaded = None
        self._check_no_other_writer()
        query = self._table.search().select(["image_id", "data"])
        rows = guard(self.path, query.to_arrow).to_pydict()
        self._published = dict(zip(rows["image_id"], rows["data"], strict=True))
        guard(self.path, self._table.restore)  # drops what an interrupted writer left
        return self._published

    def _check_no_other_writer(self) -> None:
        if self._folder == self.path and read_meta(self.path) != self.meta:
            raise HephError(
                str(self.path), "another process has changed the index", "open it again, then add"
            )

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._pending or self._published is None:
            return
        data = pa.Table.from_batches(self._pending)
        if self._published.keys().isdisjoint(data["image_id"].to_pylist()):
            guard(self.path, lambda: self._table.add(data))
        else:
            merge = self._table.merge_insert("image_id")
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            guard(self.path, lambda: merge.execute(data))
        self._pending = []


def _read_table(table: Any, dim: int) -> tuple[Vectors, pa.Table]:
    import pyarrow.compute as pc

    query = table.search().with_row_id(True).select(["vector", *COLUMNS])
    columns = query.to_arrow().combine_chunks()
    order = pc.sort_indices(columns, [("unique_id", "ascending"), ("image_id", "ascending")])
    if (np.diff(order.to_numpy().astype(np.int64)) < 0).any():  # usually sorted: no copy
        columns = columns.take(order).combine_chunks()
    flat = columns["vector"].combine_chunks().flatten().to_numpy()
    return flat.reshape(-1, dim), columns.drop_columns(["vector"])


def _connect(folder: Path) -> Any:
    import lancedb

    return lancedb.connect(str(folder))


def _make_table(folder: Path, dim: int) -> Any:
    folder.mkdir(parents=True)
    return _connect(folder).create_table(_TABLE, schema=schema(dim))
