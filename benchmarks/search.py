"""Exact search against the time it takes to read the vectors once.

    python benchmarks/search.py [--rows 20000 1000000] [--dim 256]

Search cannot be faster than memory: the ratio to a plain sum over the same array says how much of
the time is ours. Each figure is the fastest of several runs; ratios are of one process. For the
whole of `Index.search` (filter, columns of the results) an index on disk is made of the first row
count.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from heph_vl.index import Index
from heph_vl.nearest import nearest

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
    many = fastest(lambda: nearest(images, queries, K), max(3, runs // 20)) / len(queries)
    print(f"{rows:>9} x {dim}: read {read:8.3f} ms   copy {copied:8.3f} ms")
    print(f"{'one query':>20} {one:8.3f} ms = {one / read:.2f} x read, {one / copied:.2f} x copy")
    print(f"{'query out of 64':>20} {many:8.3f} ms = {many / read:.2f} x read")


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
    options = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"numpy {np.__version__}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    for rows in options.rows:
        measure(rows, options.dim)
    measure_index(options.rows[0], options.dim)


if __name__ == "__main__":
    main()
