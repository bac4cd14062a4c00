"""A folder of simulated interferograms in the layout of the raw archive.

    <out>/simulation.json                          settings; another run must have the same
    <out>/<frame>/interferograms/<pair>/<pair>.geo.diff.png and <pair>.geo.cc.png
    <out>/annotations/<uniqueID>.json              written last: where it is, the pair is complete

Every file is written under a temporary name and renamed, and every record has its own random
generator, so that a stopped run resumes and the bytes do not depend on the number of workers.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from heph_vl import __version__
from heph_vl.data import splits
from heph_vl.data.annotations import Annotation
from heph_vl.errors import HephError
from heph_vl.simulate.frame import cached_frame, choose_pairs, seeded
from heph_vl.simulate.render import Rendering, render
from heph_vl.simulate.scene import Scene, simulate_scenes

SETTINGS_FILE = "simulation.json"
CHUNK = 8  # pairs that a worker takes at a time
DEFORMING = 0.53  # share of pairs with motion; some of it is too noisy to be seen

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What determines the bytes of a simulation."""

    interferograms: int
    frames: int
    dates: int
    seed: int
    size: int
    rendering: Rendering = field(default_factory=Rendering)
    version: str = __version__


@dataclass(frozen=True)
class SimulationReport:
    """What a run did.

    Args:
        out: The archive.
        total: Interferograms in it.
        written: Interferograms of this run; the others were there.
        frames: Interferograms of each frame.
        patterns: Deformation patterns written in this run, by "type intensity".
        deforming: Interferograms of this run with a pattern.
    """

    out: Path
    total: int
    written: int
    frames: dict[str, int]
    patterns: Counter[str]
    deforming: int


@dataclass(frozen=True)
class Chunk:
    """Consecutive pairs of one frame: `first` is the position in it, `unique_id` the first id."""

    frame_id: str
    of_frame: int
    first: int
    count: int
    unique_id: int


def frame_order() -> list[str]:
    """Frames to simulate, in order: one of each volcano group, then the second ones.

    Groups alternate between train, validation and test of the `grouped` split in proportion, so
    that any number of frames from three on has all of them. StripMap frames are left out: their
    swath and pixel size are others.
    """
    rounds: dict[int, list[splits.Frame]] = {}
    for members in splits.GROUPS.values():
        usable = [splits.FRAMES[name] for name in members if "_SM_" not in name]
        for place, frame in enumerate(usable):
            rounds.setdefault(place, []).append(frame)
    order: list[str] = []
    for place in sorted(rounds):
        sizes = Counter(frame.split for frame in rounds[place])
        seen: Counter[str] = Counter()
        ranked = []
        for frame in rounds[place]:
            ranked.append((seen[frame.split] / sizes[frame.split], frame.split, frame.frame_id))
            seen[frame.split] += 1
        order += [frame_id for _, _, frame_id in sorted(ranked)]
    return order


def simulate(
    out: Path,
    n: int,
    *,
    frames: int = 28,
    dates: int = 12,
    seed: int = 0,
    size: int = 288,
    rendering: Rendering | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SimulationReport:
    """Writes an archive of n interferograms, or the rest of one that was stopped.

    Args:
        out: Folder to write: new, empty, or an archive of the same settings.
        n: Interferograms, spread evenly over the frames.
        frames: Frames, each a place with a terrain of its own.
        dates: Acquisitions of each frame; pairs are drawn from them.
        seed: Same seed, same bytes.
        size: Side of the images in native pixels (1/300 degree), a multiple of 3.
        rendering: How previews are drawn; if none, as the real patches are: the newer LiCSAR
            palette, posterised.
        workers: Processes; one for each core when none.
        progress: Called with (done, n), from this process.

    Returns:
        What was written.

    Raises:
        HephError: Impossible settings, a folder that holds something else, or a disk that is full
            or read-only. What is on disk then is whole, and the same call resumes.
    """
    out = Path(out)
    settings = Settings(n, frames, dates, seed, size, rendering or Rendering(posterise=True))
    _check(settings)
    counts = _spread(n, frame_order()[:frames])
    _claim(out, settings)
    work = [(chunk, missing) for chunk in _chunks(counts) if (missing := _missing(out, chunk))]
    to_write = sum(len(missing) for _, missing in work)
    patterns: Counter[str] = Counter()
    written = deforming = 0
    if progress:
        progress(n - to_write, n)
    count = min(workers or len(os.sched_getaffinity(0)), max(1, len(work)))
    for annotations in _run(out, settings, work, count):
        written += len(annotations)
        deforming += sum(found.has_deformation for found in annotations)
        for found in annotations:
            patterns.update(f"{e.type} {e.intensity or 'none'}" for e in found.events)
        if progress:
            progress(n - to_write + written, n)
    return SimulationReport(out, n, written, counts, patterns, deforming)


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
    if settings.size % 3 or not 96 <= settings.size <= 3_000:
        raise HephError(
            "simulate: size", f"{settings.size} px", "use a multiple of 3 from 96 to 3000"
        )
    pairs = settings.dates * (settings.dates - 1) // 2
    needed = -(-settings.interferograms // settings.frames)
    if needed > pairs:
        raise HephError(
            "simulate: dates",
            f"{settings.dates} dates give {pairs} pairs, {needed} are needed for each frame",
            "use more dates or more frames",
        )


def _spread(n: int, frame_ids: list[str]) -> dict[str, int]:
    share, rest = divmod(n, len(frame_ids))
    return {name: share + (place < rest) for place, name in enumerate(frame_ids)}


def _claim(out: Path, settings: Settings) -> None:
    """Makes the folder ours, or finds that it already is."""
    asked = json.loads(json.dumps(asdict(settings)))
    file = out / SETTINGS_FILE
    try:
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
        _write(file, (json.dumps(asked, indent=2) + "\n").encode())
    except OSError as error:
        raise _disk_error(error, out) from error


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        there = json.loads(file.read_text())
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise HephError(str(file), "is no settings file of a simulation", "choose another folder")
    return there


def _chunks(counts: dict[str, int]) -> Iterator[Chunk]:
    unique_id = 1
    for frame_id, total in counts.items():
        for first in range(0, total, CHUNK):
            count = min(CHUNK, total - first)
            yield Chunk(frame_id, total, first, count, unique_id + first)
        unique_id += total


def _missing(out: Path, chunk: Chunk) -> list[int]:
    """Ids of the chunk's records whose three files are not all there."""
    ids = range(chunk.unique_id, chunk.unique_id + chunk.count)
    return [uid for uid in ids if not _is_complete(out, uid)]


def _is_complete(out: Path, unique_id: int) -> bool:
    try:
        record = json.loads((out / "annotations" / f"{unique_id}.json").read_text())
        name = f"{record['primary_date']}_{record['secondary_date']}"
        folder = out / record["frameID"] / "interferograms" / name
    except (OSError, ValueError, KeyError):
        return False
    return all((folder / f"{name}.geo.{part}.png").is_file() for part in ("diff", "cc"))


def _run(
    out: Path, settings: Settings, work: list[tuple[Chunk, list[int]]], workers: int
) -> Iterator[list[Annotation]]:
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums over threads would round differently
        try:
            for chunk, missing in work:
                yield _simulate_chunk(out, settings, chunk, missing)
        finally:
            torch.set_num_threads(threads)
        return
    # Spawned, not forked: a forked child of a threaded torch can hang.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        waiting: set[Future[list[Annotation]]] = {
            pool.submit(_simulate_chunk, out, settings, chunk, ids) for chunk, ids in work
        }
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise HephError(
            "simulate", "a worker was killed, often for lack of memory", "resume with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _simulate_chunk(
    out: Path, settings: Settings, chunk: Chunk, missing: list[int]
) -> list[Annotation]:
    """Writes the missing pairs of a chunk; their records."""
    frame = cached_frame(chunk.frame_id, settings.size, settings.dates, settings.seed)
    pairs = choose_pairs(
        frame, chunk.of_frame, DEFORMING, seeded(settings.seed, chunk.frame_id, "pairs")
    )
    annotations = []
    for unique_id in missing:
        pair = pairs[chunk.first + unique_id - chunk.unique_id]
        generator = seeded(settings.seed, "record", unique_id)
        (scene,) = simulate_scenes(frame, [pair], [generator])
        annotation = scene.annotation(unique_id, generator)
        try:
            write_pair(out, scene, annotation, settings.rendering)
        except OSError as error:
            raise _disk_error(error, out) from error
        annotations.append(annotation)
    return annotations


def write_pair(out: Path, scene: Scene, annotation: Annotation, rendering: Rendering) -> None:
    """Writes the two pictures of a pair, then its record.

    Args:
        out: Root of the archive.
        scene: What to draw.
        annotation: The record; its dates and frame name the files.
        rendering: How to draw.
    """
    picture, coherence = render(
        scene.wrapped_phase.numpy(), scene.valid.numpy(), scene.coherence.numpy(), rendering
    )
    name = annotation.pair_name
    folder = out / annotation.frame_id / "interferograms" / name
    records = out / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    records.mkdir(exist_ok=True)
    _write(folder / f"{name}.geo.diff.png", _png(picture))
    _write(folder / f"{name}.geo.cc.png", _png(coherence))
    text = json.dumps(annotation.to_record(), indent=1) + "\n"
    _write(records / f"{annotation.unique_id}.json", text.encode())


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """All of the content under this name, or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _disk_error(error: OSError, out: Path) -> HephError:
    return HephError(
        str(error.filename or out),
        f"cannot be written: {error.strerror or error}",
        "free space or choose a folder you can write to; the same command resumes",
    )
