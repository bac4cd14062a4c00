"""Exact search against the time it takes to read the vectors once, and approximate search.

    python benchmarks/search.py [--rows 20000 1000000] [--dim 256]
    python benchmarks/search.py --on-disk 1000000 --like runs/index

Search cannot be faster than memory: the ratio to a plain sum over the same array says how much of
the time is ours. Each figure is the fastest of several runs; ratios are of one process. For the
whole of `Index.search` (filter, columns of the results) an index on disk is made of the first row
count; `--on-disk` makes one of any size instead, and compares approximate with exact search in it.
How well an approximate search does depends on the vectors. `--like INDEX` draws them with the mean
and the covariance of those of an index of one's own; without it they fill all directions alike,
the hardest case, where nothing but reading everything helps.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from heph_vl import approximate
from heph_vl.index import Hit, Index
from heph_vl.index_rows import COLUMNS
from heph_vl.nearest import Vectors, nearest
from heph_vl.where import parse_where

K = 10


def fastest(action: Callable[[], object], runs: int) -> float:
    """Milliseconds of the fastest run."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(rows: int, dim: int) -> None:
    """Print the figures for one number of vectors."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((rows, dim), dtype=np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    queries = images[:: max(1, rows // 64)][:64].copy()
    runs = 200 if rows <= 100_000 else 10
    read = fastest(images.sum, runs)
    buffer = np.empty_like(images)
    copied = fastest(lambda: np.copyto(buffer, images), max(3, runs // 10))
    one = fastest(lambda: nearest(images, queries[:1], K), runs)
    many = fastest(lambda: nearest(images, queries, K), max(3, runs // 20))
    print(f"{rows:>9} x {dim}: read {read:8.3f} ms   copy {copied:8.3f} ms")
    print(f"{'one query':>20} {one:8.3f} ms = {one / read:.2f} x read, {one / copied:.2f} x copy")
    print(f"{'64 queries':>20} {many:8.3f} ms = {many / read / len(queries):.2f} x read each")


class Source:
    """Unit vectors with the mean and covariance of an index, or of all directions alike.

    Args:
        dim: Length of a vector, if no index is given.
        like: Folder of an index, or None.
    """

    def __init__(self, dim: int, like: Path | None) -> None:
        self.mean, self.root = np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32)
        if like is not None:
            index = Index.open(like)
            vectors = index.sample(len(index))
            self.mean = vectors.mean(0)
            values, axes = np.linalg.eigh(np.cov(vectors.T))
            self.root = (np.sqrt(values.clip(0))[:, None] * axes.T).astype(np.float32)

    def draw(self, count: int, rng: np.random.Generator) -> Vectors:
        """(count, D) float32."""
        found = rng.standard_normal((count, len(self.root)), dtype=np.float32) @ self.root
        found += self.mean
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found


def recall(exact: list[list[Hit]], near: list[list[Hit]]) -> float:
    """Share of the exact results that were found, of those that there are."""
    found = [
        len({h.row["unique_id"] for h in a} & {h.row["unique_id"] for h in b}) / len(a)
        for a, b in zip(exact, near, strict=True)
    ]
    return float(np.mean(found))


def measure_approximate(rows: int, source: Source) -> None:
    """Print recall and time of approximate search, and the memory that making it took.

    Frames are told by the vectors' first direction, half of them; the others are spread evenly.
    """
    rng = np.random.default_rng(0)
    queries, asked = source.draw(100, rng), source.draw(50, rng)
    filters = {
        "all": None,
        "one in 10": "frame_id IN ('frame 3', 'frame 7')",
        "one in 20, alike": "frame_id IN ('side 3', 'side 15')",
        "one in 1,000": f"unique_id < {rows // 1000}",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        start = time.perf_counter()
        with Index.create(path, "0" * 64, len(source.root)) as index:
            for first in range(0, rows, 20_000):
                count = min(20_000, rows - first)
                vectors = source.draw(count, rng)
                order = (vectors @ source.root[-1]).argsort().argsort() * 20 // count
                columns = [
                    {
                        "unique_id": i,
                        "frame_id": f"frame {i % 20}" if i % 2 else f"side {order[i - first]}",
                        "caption": "c" * 150,
                    }
                    for i in range(first, first + count)
                ]
                index.add(vectors, columns)
        stored = time.perf_counter() - start
        print(f"{rows} x {len(source.root)} on disk: stored in {stored:.0f} s, {peak():.1f} GiB")
        start = time.perf_counter()
        index.build_approximate(queries)
        built = time.perf_counter() - start
        print(f"lists made and measured in {built:.0f} s, {peak():.1f} GiB: {index.meta.lists}")
        table = index._table  # of the lists, without the columns of the results
        for name, filtered in filters.items():
            exact = index.search(asked, K, filtered)
            near = index.search(asked, K, filtered, approximately=True)
            one = fastest(lambda f=filtered: index.search(asked[:1], K, f), 5)
            times = [
                fastest(lambda q=q, f=filtered: index.search(q, K, f, approximately=True), 3)
                for q in asked
            ]
            sql = None if filtered is None else parse_where(filtered, COLUMNS).sql(COLUMNS)
            ids = [
                fastest(lambda q=q, f=sql: approximate.near(table, q, K, f, index.meta.lists), 3)
                for q in asked
            ]
            print(
                f"{name:>20} exact {one:7.1f} ms   approximate {np.median(times):6.1f} ms, "
                f"slowest {max(times):6.1f} ms, ids alone {np.median(ids):6.1f} ms, "
                f"recall {recall(exact, near):.3f}"
            )


def peak() -> float:
    """Most memory that this process has held [GiB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_index(rows: int, dim: int) -> None:
    """Print the figures of a whole search in an index on disk."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((rows, dim), dtype=np.float32)
    columns = [
        {"unique_id": i, "frame_id": f"frame {i % 40}", "caption": "c" * 150} for i in range(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        start = time.perf_counter()
        with Index.create(path, "0" * 64, dim) as index:
            index.add(images, columns)
        made = time.perf_counter() - start
        start = time.perf_counter()
        index = Index.open(path)
        index.search(images[:1], K)
        opened = time.perf_counter() - start
        plain = fastest(lambda: index.search(images[5:6], K), 50)
        where = "frame_id IN ('frame 3', 'frame 7')"
        filtered = fastest(lambda: index.search(images[5:6], K, where), 50)
    print(f"index of {rows}: made in {made:.2f} s, opened and first search {1e3 * opened:.0f} ms")
    print(f"{'search':>20} {plain:8.3f} ms   with a filter {filtered:8.3f} ms")


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--on-disk", type=int, help="rows of an index for approximate search")
    parser.add_argument("--like", type=Path, help="index whose vectors' covariance is taken")
    options = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"numpy {np.__version__}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    if options.on_disk:  # first, so that the memory is its own
        measure_approximate(options.on_disk, Source(options.dim, options.like))
        return
    for rows in options.rows:
        measure(rows, options.dim)
    measure_index(options.rows[0], options.dim)


if __name__ == "__main__":
    main()
