"""What a simulation consists of: which records, of which frames, in which order."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from heph_vl import __version__
from heph_vl.data import splits
from heph_vl.data.annotations import Annotation
from heph_vl.errors import HephError
from heph_vl.simulate.place import Site
from heph_vl.simulate.render import Rendering

CHUNK = 8  # records that a worker takes at a time
LEAST_OF_A_STRATUM = 4  # records of each kind in a stratified sample, or all there are


@dataclass(frozen=True)
class Settings:
    """What determines the bytes of a simulation.

    Attributes:
        interferograms: How many.
        seed: Same seed, same bytes.
        frames: Places in free mode, 0 in twin mode.
        dates: Acquisitions of each frame in free mode.
        size: Side of the images in native pixels in free mode.
        annotations: Hash of the records, in twin mode.
        stratified: Whether the records of a twin were sampled by kind.
        split: Of the `grouped` split, whose records a twin may take; all if empty.
        deforming: Whether a twin may take records with deformation only.
        dem: Hash of the real elevation, if it was used.
        truth: Whether LOS displacements are stored.
        geotiff: Whether LiCSAR's GeoTIFFs are written beside the pictures.
        chain: Whether noise, filter, resize and palette rounding are simulated.
        rendering: How pictures are drawn.
        version: Of this package.
    """

    interferograms: int
    seed: int
    frames: int = 0
    dates: int = 0
    size: int = 0
    annotations: str = ""
    stratified: bool = False
    split: str = ""
    deforming: bool = False
    dem: str = ""
    truth: bool = False
    geotiff: bool = False
    chain: bool = True
    rendering: Rendering = field(default_factory=Rendering)
    version: str = __version__


@dataclass(frozen=True)
class Job:
    """One interferogram to make.

    Args:
        unique_id: Number of its record.
        place_in_frame: Position among the pairs of its frame (free mode).
        annotation: The given record (twin mode).
    """

    unique_id: int
    place_in_frame: int = 0
    annotation: Annotation | None = None


@dataclass(frozen=True)
class Chunk:
    """Jobs of one frame, for one worker.

    Args:
        frame_id: The frame.
        of_frame: How many interferograms the frame has in all (free mode).
        site: The frame's place (twin mode).
        jobs: What to make.
    """

    frame_id: str
    of_frame: int
    site: Site | None
    jobs: tuple[Job, ...]


def frame_order() -> list[str]:
    """Frames to simulate, in order: one of each volcano group, then the second ones.

    Groups alternate between train, validation and test of the `grouped` split in proportion, so
    that any number of frames from three on has all of them. StripMap frames are left out: free mode
    has one image size for all.
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


def free_chunks(n: int, frame_ids: Sequence[str]) -> list[Chunk]:
    """N interferograms spread evenly over frames, ids from 1 on, frame by frame."""
    share, rest = divmod(n, len(frame_ids))
    chunks, unique_id = [], 1
    for index, frame_id in enumerate(frame_ids):
        total = share + (index < rest)
        jobs = [Job(unique_id + place, place) for place in range(total)]
        chunks += [Chunk(frame_id, total, None, part) for part in _parts(jobs)]
        unique_id += total
    return chunks


def twin_chunks(records: Sequence[Annotation], sites: dict[str, Site]) -> list[Chunk]:
    """One job for each record, frame by frame, in the order of their dates."""
    by_frame: dict[str, list[Annotation]] = defaultdict(list)
    for record in records:
        by_frame[record.frame_id].append(record)
    chunks = []
    for frame_id, members in sorted(by_frame.items()):
        members.sort(key=lambda a: (a.primary_date, a.secondary_date))
        jobs = [Job(record.unique_id, annotation=record) for record in members]
        chunks += [Chunk(frame_id, 0, sites[frame_id], part) for part in _parts(jobs)]
    return chunks


def _parts(jobs: Sequence[Job]) -> Iterator[tuple[Job, ...]]:
    for first in range(0, len(jobs), CHUNK):
        yield tuple(jobs[first : first + CHUNK])


def digest_of(records: Sequence[Annotation]) -> str:
    """A hash of records, whatever file they came from."""
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda a: a.unique_id):
        digest.update(json.dumps(record.to_record(), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def stratum_of(annotation: Annotation) -> tuple[str, ...]:
    """What kind of record it is: its deformation types, or the rarest flaw, or its atmosphere."""
    if annotation.events:
        return ("deformation", *sorted(set(annotation.activity_types)))
    for flag in ("glacier_fringes", "image_artifacts", "orbital_fringes", "no_info", "corrupted"):
        if getattr(annotation, flag):
            return (flag,)
    if annotation.processing_error != "none":
        return (annotation.processing_error,)
    noise = "noise" if annotation.low_coherence else "clear"
    return (f"atmosphere {annotation.atmosphere}", noise)


def eligible(records: Sequence[Annotation], split: str | None, deforming: bool) -> list[Annotation]:
    """Records that a twin may take.

    Args:
        records: All there are.
        split: Part of the `grouped` split they must be of; None: any.
        deforming: Whether they must have deformation.

    Returns:
        Those records, at least one.

    Raises:
        HephError: No such split, or none of the records is eligible.
    """
    if split is not None and split not in splits.SPLITS:
        raise HephError(f"simulate: split {split}", "unknown", f"one of {', '.join(splits.SPLITS)}")
    found = [
        record
        for record in records
        if (split is None or splits.grouped_split(record.frame_id) == split)
        and (record.events or not deforming)
    ]
    if not found:
        kind = " with deformation" * deforming + f" in {split}" * bool(split)
        raise HephError("simulate: annotations", f"no record{kind}", "choose others")
    return found


def choose_records(
    records: Sequence[Annotation], n: int, stratified: bool, seed: int
) -> list[Annotation]:
    """N of the records.

    Args:
        records: All there are.
        n: How many, at most all.
        stratified: By kind (`stratum_of`), in proportion to the square root of each kind's
            number and at least `LEAST_OF_A_STRATUM`, so that rare kinds are there; within a kind
            every frame in turn. Otherwise all records have the same chance.
        seed: Of the choice.

    Returns:
        The records by id.

    Raises:
        HephError: More are asked for than there are.
    """
    if not 1 <= n <= len(records):
        raise HephError(
            "simulate: interferograms", f"{n} asked of {len(records)} records", "use fewer"
        )
    rng = np.random.default_rng((seed, n))
    shuffled = [records[i] for i in rng.permutation(len(records))]
    if not stratified:
        return sorted(shuffled[:n], key=lambda a: a.unique_id)
    strata: dict[tuple[str, ...], list[Annotation]] = defaultdict(list)
    for record in shuffled:
        strata[stratum_of(record)].append(record)
    shares = _shares({name: len(members) for name, members in strata.items()}, n)
    chosen = [a for name, count in shares.items() for a in _by_turns(strata[name])[:count]]
    return sorted(chosen, key=lambda a: a.unique_id)


def _shares(sizes: dict[tuple[str, ...], int], n: int) -> dict[tuple[str, ...], int]:
    """How many of each stratum: one more at a time, to the one that is furthest behind."""
    weight = {name: size**0.5 for name, size in sizes.items()}
    taken = dict.fromkeys(sorted(sizes), 0)
    for _ in range(n):
        open_ = [name for name in taken if taken[name] < sizes[name]]
        few = [name for name in open_ if taken[name] < LEAST_OF_A_STRATUM]
        best = min(few or open_, key=lambda name: (taken[name] + 1) / weight[name])
        taken[best] += 1
    return taken


def _by_turns(records: Sequence[Annotation]) -> list[Annotation]:
    """Records reordered so that frames take turns."""
    turn: Counter[str] = Counter()
    ranked = []
    for index, record in enumerate(records):
        ranked.append((turn[record.frame_id], index))
        turn[record.frame_id] += 1
    return [records[index] for _, index in sorted(ranked)]
