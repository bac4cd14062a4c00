"""A small gallery of simulated interferograms, for an app that has nothing else to show.

    $XDG_CACHE_HOME/heph_vl/gallery-<version>-<retriever>/
      patches/    a dataset of `simulate.patchset`
      index/      the same, embedded
      examples/   some of them as LiCSAR pictures

It is there or not: half of one has another name.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heph_vl import __version__
from heph_vl.data.picture import COHERENCE_PNG, PHASE_PNG
from heph_vl.errors import HephError
from heph_vl.files import new_folder, writing

NUMBER = 60  # patches of 224 px
SEED = 3  # of the first ten the only one that draws all six types
_CALM = 2  # examples without deformation, beside one of each type


@dataclass(frozen=True)
class Gallery:
    """A finished gallery.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def patches(self) -> Path:
        """The dataset."""
        return self.folder / "patches"

    @property
    def index(self) -> Path:
        """The index of it."""
        return self.folder / "index"

    def examples(self) -> list[tuple[Path, Path, str]]:
        """Phase and coherence of some patches, with what they show."""
        found = sorted((self.folder / "examples").glob(f"*/*{PHASE_PNG}"))
        return [
            (
                path,
                path.with_name(path.name.replace(PHASE_PNG, COHERENCE_PNG)),
                path.parent.name.partition("-")[2],
            )
            for path in found
        ]


def cache_folder() -> Path:
    """Where galleries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heph_vl"


def gallery(
    retriever: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    announce: Callable[[str], None] = lambda line: None,
) -> Gallery:
    """The gallery of a retriever, made if it is not there.

    Args:
        retriever: Folder of the model.
        progress: Called with patches done and of all.
        announce: Told in one line what takes a while.

    Returns:
        The gallery.

    Raises:
        HephError: The retriever cannot be read, or the cache cannot be written.
    """
    from heph_vl.models.retriever import Retriever

    cache = cache_folder()
    model_id = Retriever.from_pretrained(retriever).model_id
    found = Gallery(cache / f"gallery-{__version__}-{model_id[:16]}")
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
    if found.folder.is_dir():
        return found
    # A second program that starts now waits, and finds what this one has made.
    with _alone(cache / "gallery.lock"):
        if not found.folder.is_dir():
            announce(f"simulating {NUMBER} interferograms to search in (once): {found.folder}")
            with new_folder(found.folder) as stage:
                _fill(Gallery(stage), retriever, progress)
    return found


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One program at a time; the lock goes when its program ends, however it ends."""
    with writing(lock), lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(new: Gallery, retriever: Path, progress: Callable[[int, int], None]) -> None:
    from heph_vl.search import build_index
    from heph_vl.simulate.patchset import write_patches
    from heph_vl.simulate.stream import StreamConfig

    # Of volcanoes that the reference weights have not learnt from, three of each place.
    config = StreamConfig(seed=SEED, split="test", pairs_per_place=3)
    write_patches(new.patches, NUMBER, config, progress=progress)
    report = build_index(new.patches, new.index, retriever)
    if report["problems"]:
        raise HephError(str(new.folder), report["problems"][0], "report it")
    _write_examples(new)


def _write_examples(new: Gallery) -> None:
    from heph_vl.data import parquet

    rows = list(parquet.load(new.patches, "test"))
    kinds: dict[str, int] = {}
    for row in rows:
        types = set(row["activity_types"])
        kind = types.pop() if len(types) == 1 else None if types else "no deformation"
        good = not (row["corrupted"] or row["no_info"] or row["low_coherence"])
        if kind is None or not good:
            continue
        number = kinds.get(kind, 0)
        if number >= (_CALM if kind == "no deformation" else 1):
            continue
        kinds[kind] = number + 1
        folder = new.folder / "examples" / f"{sum(kinds.values())}-{kind}"
        folder.mkdir(parents=True)
        dates = (row[name].replace("-", "") for name in ("primary_date", "secondary_date"))
        name = "_".join(dates)
        row["image"].save(folder / f"{name}{PHASE_PNG}")
        row["coherence"].save(folder / f"{name}{COHERENCE_PNG}")
