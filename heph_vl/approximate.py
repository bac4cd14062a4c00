"""Approximate nearest neighbours on disk: LanceDB's inverted lists, probed until recall is enough.

The vectors are split by k-means into about sqrt(N) lists; a query looks into the lists nearest to
it. How many suffices is measured against the exact answer when the index is made, with queries of
the kinds that will be asked: texts lie elsewhere than images and need more.

A filter may keep only images that are far from the query. Twice as many lists are probed, and if
they hold less than half of the kept images that a filter without regard to place would leave
there, all lists are: the answer is exact then, and takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.index_rows import COLUMNS
from heph_vl.nearest import SCORE_DECIMALS, Vectors, nearest
from heph_vl.where import Kind

FEWEST = 1000  # images; of fewer an exact search is as fast
RECALL, RECALL_AT = 0.97, 10  # aimed at without a filter; aim of the benchmark: 0.95 with one
_FILTERED_PROBES = 2
_COUNTED = 200  # kept images are counted up to here
_SCANNED = ("image_id", "caption", "image")  # nearly unique texts: an index of them gains nothing


@dataclass(frozen=True)
class Lists:
    """How an index was prepared.

    Attributes:
        count: Number of lists.
        probes: How many of them a search looks into.
        recall: At 10 without a filter, of the kind of queries that it is lowest for.
    """

    count: int
    probes: int
    recall: float


def build(
    table: Any, kinds: Sequence[Vectors], images: Vectors, row_ids: npt.NDArray[np.integer]
) -> Lists:
    """Make the lists, indexes of the columns that filters name, and measure how many to probe.

    Args:
        table: LanceDB table with `vector` and `COLUMNS`, at its newest version.
        kinds: Queries of each kind that will be asked, (Q, D) float32, unit length.
        images: (N, D) float32, all vectors.
        row_ids: (N,) their row ids.

    Returns:
        Number of lists, number to probe, recall.
    """
    from lancedb.index import IvfFlat

    count = max(1, round(math.sqrt(len(images))))
    config = IvfFlat(distance_type="dot", num_partitions=count)
    table.create_index("vector", config=config, replace=True)
    for name, kind in COLUMNS.items():
        if name not in _SCANNED:
            table.create_index(name, config=_scalar_index(kind), replace=True)
    wanted = [_wanted(queries, images, row_ids) for queries in kinds]
    probes = 1
    while True:
        recall = min(_recall(table, *pair, probes) for pair in zip(kinds, wanted, strict=True))
        if recall >= RECALL or probes >= count:
            return Lists(count, probes, recall)
        probes = min(count, max(probes + 1, round(probes * 1.4)))


def search(table: Any, query: Vectors, k: int, where: str | None, lists: Lists) -> Any:
    """Columns, `_rowid` and `score` of the k best images in the lists nearest to a query.

    Args:
        table: Of `build`; rows added since are searched one by one.
        query: (D,) float32.
        k: How many.
        where: A filter in SQL, of `Filter.sql` in `where`, or None.
        lists: Of `build`.

    Returns:
        Arrow table, best first; scores equal to `SCORE_DECIMALS` in order of unique_id, image_id.
    """
    import pyarrow as pa

    found = near(table, query, k, where, lists)[:k]
    scores = dict(zip(found["_rowid"].to_pylist(), found["_distance"].to_pylist(), strict=True))
    rows = table.take_row_ids(list(scores)).select([*COLUMNS]).with_row_id().to_arrow()
    rounded = [round(1 - scores[i], SCORE_DECIMALS) for i in rows["_rowid"].to_pylist()]
    rows = rows.append_column("score", pa.array(rounded, pa.float64()))
    keys = [("score", "descending"), ("unique_id", "ascending"), ("image_id", "ascending")]
    return rows.sort_by(keys)


def near(table: Any, query: Vectors, k: int, where: str | None, lists: Lists) -> Any:
    """`_rowid` and `_distance` = 1 - score of at least the k best images, best first.

    Args:
        table: As for `search`, like the rest.
        query: (D,) float32.
        k: How many, fewer if fewer pass the filter.
        where: A filter in SQL, or None.
        lists: Of `build`.

    Returns:
        Arrow table.
    """
    if where is None:
        return _ask(table, query, k, None, lists.probes)
    probes = min(lists.count, _FILTERED_PROBES * lists.probes)
    usual = table.count_rows(where) * probes / lists.count / 2
    if usual >= 2 * k:
        count = max(k, min(round(usual), _COUNTED))
        found = _ask(table, query, count, where, probes)
        if len(found) == count:
            return found
    return _ask(table, query, k, where, lists.count)


def _ask(table: Any, query: Vectors, k: int, where: str | None, probes: int) -> Any:
    """`_rowid` and `_distance` = 1 - score, best first."""
    asked = table.search(query, vector_column_name="vector").distance_type("dot").limit(k)
    asked = asked.minimum_nprobes(probes).maximum_nprobes(probes)
    if where is not None:
        asked = asked.where(where, prefilter=True)
    return asked.select(["_distance"]).with_row_id(True).to_arrow()


def _wanted(
    queries: Vectors, images: Vectors, row_ids: npt.NDArray[np.integer]
) -> list[tuple[set[int], set[int]]]:
    """For each query the row ids of its nearest images, and of those that are the query itself."""
    found = []
    for scores, positions in nearest(images, queries, 2 * RECALL_AT):
        other = scores < 1 - 10.0**-SCORE_DECIMALS
        best = row_ids[positions[other][:RECALL_AT]]
        found.append(({*best.tolist()}, {*row_ids[positions[~other]].tolist()}))
    return found


def _recall(
    table: Any, queries: Vectors, wanted: Sequence[tuple[set[int], set[int]]], probes: int
) -> float:
    shares = []
    for query, (best, same) in zip(queries, wanted, strict=True):
        if best:  # none where all its nearest are copies of the query: nothing to miss
            found = _ask(table, query, RECALL_AT + len(same), None, probes)["_rowid"].to_pylist()
            rest = [i for i in found if i not in same][:RECALL_AT]
            shares.append(len(best & set(rest)) / len(best))
    return float(np.mean(shares)) if shares else 1.0


def _scalar_index(kind: Kind) -> Any:
    from lancedb.index import Bitmap, BTree, LabelList

    kinds: Mapping[Kind, Any] = {"list": LabelList, "flag": Bitmap, "text": Bitmap}
    return kinds.get(kind, BTree)()
