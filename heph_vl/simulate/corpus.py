"""A folder of simulated interferograms in the layout of the raw archive (see `store`).

`simulation.json` holds the settings; another run into the same folder must have the same. Every
record has its own random generator and its files are written whole, its record last: a stopped run
resumes, and the bytes do not depend on the number of workers, processes or machines.
"""

import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from heph_vl.data.annotations import Annotation
from heph_vl.errors import HephError
from heph_vl.simulate.dem import read_dem, room_for
from heph_vl.simulate.fidelity import fidelity
from heph_vl.simulate.place import Site, grid_of
from heph_vl.simulate.plan import (
    Chunk,
    Settings,
    choose_records,
    digest_of,
    eligible,
    frame_order,
    free_chunks,
    twin_chunks,
)
from heph_vl.simulate.produce import produce
from heph_vl.simulate.render import Rendering
from heph_vl.simulate.store import disk_error, is_complete, write, write_product
from heph_vl.simulate.twin import sites_of

SETTINGS_FILE = "simulation.json"
WAIT_S = 60  # how long other ranks wait for the first one to claim the folder

Progress = Callable[[int, int], None]
Shard = tuple[int, int]


@dataclass(frozen=True)
class SimulationReport:
    """What a run did.

    Args:
        out: The archive.
        total: Interferograms in it.
        written: Interferograms of this run; the others were there or are other ranks'.
        frames: Interferograms of each frame.
        patterns: Deformation patterns written in this run, by "type intensity".
        deforming: Interferograms of this run with a pattern.
        fidelity: Twin mode: how far the pictures say what the records say (see `fidelity`).
    """

    out: Path
    total: int
    written: int
    frames: dict[str, int]
    patterns: Counter[str]
    deforming: int
    fidelity: dict[str, Any] | None = None


def simulate(
    out: Path,
    n: int,
    *,
    frames: int = 28,
    dates: int = 12,
    seed: int = 0,
    size: int = 288,
    dem: Path | None = None,
    truth: bool = False,
    geotiff: bool = False,
    chain: bool = True,
    rendering: Rendering | None = None,
    workers: int | None = None,
    shard: Shard = (0, 1),
    progress: Progress | None = None,
) -> SimulationReport:
    """Writes an archive of n invented interferograms, or the rest of one that was stopped.

    Args:
        out: Folder to write: new, empty, or an archive of the same settings.
        n: Interferograms, spread evenly over the frames.
        frames: Frames, each a place with a terrain of its own.
        dates: Acquisitions of each frame; pairs are drawn from them.
        seed: Same seed, same bytes.
        size: Side of the images in native pixels (1/300 degree), a multiple of 3.
        dem: Real elevation (.hgt, GeoTIFF or folder) to take places from.
        truth: Whether to store LOS displacements beside the pictures.
        geotiff: Whether to store LiCSAR's GeoTIFFs at 0.001 degree beside them.
        chain: Whether to simulate noise, filter, resize and rounding of colours.
        rendering: How previews are drawn; if none, as the real patches are: the newer LiCSAR
            palette, posterised.
        workers: Processes; one for each core when none.
        shard: (rank, number of ranks): this call writes its share of the records.
        progress: Called with (done, n), from this process.

    Returns:
        What was written.

    Raises:
        HephError: Impossible settings, a folder that holds something else, or a disk that is full
            or read-only. What is on disk then is whole, and the same call resumes.
    """
    settings = Settings(
        n,
        seed,
        frames,
        dates,
        size,
        truth=truth,
        geotiff=geotiff,
        chain=chain,
        rendering=_rendering(rendering, chain),
    )
    _check(settings)
    sites = [Site(name, (size, size)) for name in frame_order()[:frames]]
    settings = replace(settings, dem=_dem_digest(dem, sites))
    chunks = free_chunks(n, frame_order()[:frames])
    return _simulate(Path(out), settings, chunks, dem, workers, shard, progress)


def simulate_twin(
    out: Path,
    records: Sequence[Annotation],
    n: int | None = None,
    *,
    stratified: bool = False,
    split: str | None = None,
    deforming: bool = False,
    seed: int = 0,
    dem: Path | None = None,
    truth: bool = False,
    geotiff: bool = False,
    chain: bool = True,
    rendering: Rendering | None = None,
    workers: int | None = None,
    shard: Shard = (0, 1),
    progress: Progress | None = None,
) -> SimulationReport:
    """Writes an archive of the interferograms that given records describe.

    Each record gives one pair, with its frame, dates, labels, polygons and caption, at an image
    size that fits its frame. The rendered mask, `los_sense`, sources and a comparison of what was
    asked with what is seen are stored beside.

    Args:
        out: Folder to write: new, empty, or an archive of the same settings.
        records: Annotations, all there are of each frame: they shape its ground.
        n: How many of them; all when none.
        stratified: Whether rare kinds get more than their share (see `plan.choose_records`).
        split: Take records of this part of the `grouped` split only.
        deforming: Take records with deformation only.
        seed: Same seed, same bytes.
        dem: Real elevation to take places from.
        truth: Whether to store LOS displacements beside the pictures.
        geotiff: Whether to store LiCSAR's GeoTIFFs at 0.001 degree beside them.
        chain: Whether to simulate noise, filter, resize and rounding of colours.
        rendering: As in `simulate`.
        workers: Processes; one for each core when none.
        shard: (rank, number of ranks): this call writes its share of the records.
        progress: Called with (done, n), from this process.

    Returns:
        What was written, and how faithful it is.

    Raises:
        HephError: As `simulate`; a record that cannot be simulated.
    """
    if not records:
        raise HephError("simulate: annotations", "no record", "give at least one")
    some = eligible(records, split, deforming)
    chosen = choose_records(some, len(some) if n is None else n, stratified, seed)
    sites = sites_of(records)
    settings = Settings(
        len(chosen),
        seed,
        annotations=digest_of(records),
        stratified=stratified,
        split=split or "",
        deforming=deforming,
        dem=_dem_digest(dem, sites.values()),
        truth=truth,
        geotiff=geotiff,
        chain=chain,
        rendering=_rendering(rendering, chain),
    )
    chunks = twin_chunks(chosen, sites)
    report = _simulate(Path(out), settings, chunks, dem, workers, shard, progress)
    return replace(report, fidelity=fidelity(Path(out), chosen))


def _rendering(rendering: Rendering | None, chain: bool) -> Rendering:
    asked = rendering or Rendering(posterise=True)
    return asked if chain else replace(asked, posterise=False)


def _dem_digest(dem: Path | None, sites: Iterable[Site]) -> str:
    """A hash of the elevation; a bad or small one is told before anything is written."""
    if dem is None:
        return ""
    model = read_dem(dem)
    for site in sites:
        room_for(model, grid_of(site))
    return hashlib.sha256(model.elevation.tobytes()).hexdigest()[:16]


def _simulate(
    out: Path,
    settings: Settings,
    chunks: Sequence[Chunk],
    dem: Path | None,
    workers: int | None,
    shard: Shard,
    progress: Progress | None,
) -> SimulationReport:
    _claim(out, settings, shard)
    frames: Counter[str] = Counter()
    for chunk in chunks:
        frames[chunk.frame_id] += len(chunk.jobs)
    rank, ranks = shard
    mine = chunks[rank::ranks]
    work = [left for chunk in mine if (left := _missing(out, settings, chunk)).jobs]
    total = sum(len(chunk.jobs) for chunk in mine)
    to_write = sum(len(chunk.jobs) for chunk in work)
    patterns: Counter[str] = Counter()
    written = deforming = 0
    if progress:
        progress(total - to_write, total)
    count = min(workers or len(os.sched_getaffinity(0)), max(1, len(work)))
    for record in _run(out, settings, work, None if dem is None else str(dem), count):
        written += 1
        deforming += record.has_deformation
        patterns.update(f"{e.type} {e.intensity or 'none'}" for e in record.events)
        if progress:
            progress(total - to_write + written, total)
    return SimulationReport(
        out, settings.interferograms, written, dict(frames), patterns, deforming
    )


def _check(settings: Settings) -> None:
    for name in ("interferograms", "frames", "dates", "size"):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise HephError(f"simulate: {name}", f"{value!r} is not a positive number", "use >= 1")
    most = len(frame_order())
    if settings.frames > most:
        raise HephError(
            "simulate: frames", f"{settings.frames} frames asked", f"there are {most} to name"
        )
    if settings.frames > settings.interferograms:
        raise HephError(
            "simulate: frames",
            f"{settings.frames} frames for {settings.interferograms} interferograms",
            "use at most one frame for each interferogram",
        )
    if settings.size % 3 or not 96 <= settings.size <= 1_500:
        raise HephError(
            "simulate: size", f"{settings.size} px", "use a multiple of 3 from 96 to 1500"
        )
    pairs = settings.dates * (settings.dates - 1) // 2
    needed = -(-settings.interferograms // settings.frames)
    if needed > pairs:
        raise HephError(
            "simulate: dates",
            f"{settings.dates} dates give {pairs} pairs, {needed} are needed for each frame",
            "use more dates or more frames",
        )


def _claim(out: Path, settings: Settings, shard: Shard) -> None:
    """Makes the folder ours, or finds that it already is; rank 0 makes it for all."""
    asked = json.loads(json.dumps(asdict(settings)))
    file = out / SETTINGS_FILE
    try:
        patience = time.monotonic() + WAIT_S
        while shard[0] and not file.is_file() and time.monotonic() < patience:
            time.sleep(0.2)
        if file.is_file():
            there = _read_settings(file)
            differ = [k for k in asked.keys() | there.keys() if asked.get(k) != there.get(k)]
            if differ:
                k = min(differ)
                raise HephError(
                    str(file),
                    f"{k} is {there.get(k)!r} there and {asked.get(k)!r} here",
                    "use the same settings to resume, or another folder",
                )
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise HephError(
                str(out), "is not empty and holds no simulation", "choose a new or empty folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        write(file, (json.dumps(asked, indent=2) + "\n").encode())
    except OSError as error:
        raise disk_error(error, out) from error


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        there = json.loads(file.read_text())
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise HephError(str(file), "is no settings file of a simulation", "choose another folder")
    return there


def _missing(out: Path, settings: Settings, chunk: Chunk) -> Chunk:
    """The chunk's jobs whose files are not all there."""
    twin = bool(settings.annotations)
    files = {"truth": settings.truth, "twin": twin, "geotiff": settings.geotiff}
    left = [j for j in chunk.jobs if not is_complete(out, j.unique_id, **files)]
    return replace(chunk, jobs=tuple(left))


def _run(
    out: Path, settings: Settings, work: Sequence[Chunk], dem: str | None, workers: int
) -> Iterator[Annotation]:
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums over threads would round differently
        try:
            for chunk in work:
                for product in produce(chunk, settings, dem):
                    write_product(out, product)
                    yield product.annotation
        finally:
            torch.set_num_threads(threads)
        return
    pool = worker_pool(workers)
    try:
        waiting: set[Future[list[Annotation]]] = {
            pool.submit(_write_chunk, out, settings, chunk, dem) for chunk in work
        }
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
    except BrokenProcessPool as error:
        raise HephError(
            "simulate", "a worker was killed, often for lack of memory", "resume with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each, to simulate in.

    They are spawned, since a forked child of a threaded torch can hang. Fields of megabytes come
    and go at every step: with huge pages (glibc 2.35 and newer) that takes a fifth less time.
    """
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches all processes: the first one gives out no more work, and waits for this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_chunk(out: Path, settings: Settings, chunk: Chunk, dem: str | None) -> list[Annotation]:
    """Writes the jobs of a chunk; their records."""
    written = []
    for product in produce(chunk, settings, dem):
        write_product(out, product)
        written.append(product.annotation)
    return written
