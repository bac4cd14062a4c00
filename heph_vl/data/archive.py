"""The raw archive: which interferograms there are, and which annotation belongs to which.

Layout: `<root>/<frameID>/interferograms/<primary>_<secondary>/<primary>_<secondary>.geo.diff.png`
with `.geo.cc.png` (coherence) and, where simulated from a record, `.geo.mask.png` (class ids as
rendered) beside it; annotations in `<root>/annotations/` or given separately. Where there is no
preview, LiCSAR's GeoTIFFs serve: `.geo.diff_pha.tif`, `.geo.cc.tif`.
Real and simulated archives are alike; `<root>/simulation.json` marks a simulated one,
`<root>/generation.json` a generated one.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

from heph_vl.data.annotations import Annotation, check_frame_id, read_annotations
from heph_vl.data.native import NativePair, load_pair, usual_size
from heph_vl.data.picture import COHERENCE_PNG, COHERENCE_TIFF, PHASE_PNG, PHASE_TIFF
from heph_vl.data.raster import rasterise
from heph_vl.errors import HephError

__all__ = ["Archive", "NativePair", "Pair", "load_pair", "rasterise", "scan_archive", "usual_size"]

IMAGE_SUFFIX = PHASE_PNG
COHERENCE_SUFFIX = COHERENCE_PNG
MASK_SUFFIX = ".geo.mask.png"
SIMULATION_FILE = "simulation.json"
GENERATION_FILE = "generation.json"
_ANNOTATIONS = ("annotations", "annotations.tar.gz", "annotations.zip", "annotations.json")


@dataclass(frozen=True, slots=True)
class Pair:
    """One interferogram of the archive.

    Attributes:
        frame_id: LiCSAR frame.
        primary_date: First acquisition.
        secondary_date: Second acquisition.
        image: Coloured wrapped phase (PNG), or wrapped phase in radians (GeoTIFF).
        coherence: Coherence of the same kind, None where the archive has none.
        annotation: The experts' record, None where there is none.
        mask: Class ids (PNG) as rendered by the simulator, None where the polygons say it.
    """

    frame_id: str
    primary_date: date
    secondary_date: date
    image: Path
    coherence: Path | None
    annotation: Annotation | None
    mask: Path | None = None

    @property
    def name(self) -> str:
        """`<frameID>/<primary>_<secondary>`, unique in an archive."""
        return f"{self.frame_id}/{self.primary_date:%Y%m%d}_{self.secondary_date:%Y%m%d}"


@dataclass(frozen=True)
class Archive:
    """What a folder holds.

    Attributes:
        root: The folder, resolved.
        pairs: All interferograms that have an image, by frame and dates.
        problems: What was left out: records without an image, unreadable records, odd files.
        rules: Quirks of the annotations that were normalised, with counts.
    """

    root: Path
    pairs: list[Pair]
    problems: list[HephError] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)

    @property
    def annotated(self) -> list[Pair]:
        """Pairs with a record, by unique id."""
        found = [pair for pair in self.pairs if pair.annotation is not None]
        return sorted(found, key=lambda pair: pair.annotation.unique_id if pair.annotation else 0)

    @property
    def unlabeled(self) -> list[Pair]:
        """Pairs without a record, by frame and dates."""
        return [pair for pair in self.pairs if pair.annotation is None]

    @property
    def source(self) -> str:
        """`simulated` or `generated` if the archive says so itself, else `real`."""
        return source_of(self.root)


def find_annotations(root: Path) -> Path | None:
    """The annotations that lie in an archive itself, if any."""
    return next((root / name for name in _ANNOTATIONS if (root / name).exists()), None)


def scan_archive(
    root: str | Path, annotations: str | Path | None = None, *, strict: bool = False
) -> Archive:
    """List the interferograms of an archive and join them with their annotations.

    No image is opened. Symbolic links are followed as long as they stay inside the archive.

    Args:
        root: The folder that holds the frame folders.
        annotations: Folder, .zip, .tar.gz or .json of annotations; None: those in `root`, if any.
        strict: Raise the first problem instead of listing it.

    Returns:
        Pairs, problems and applied rules.

    Raises:
        HephError: If the folder is missing, empty, or one too high or too low; with `strict`,
            the first problem.
    """
    root = Path(root)
    if not root.is_dir():
        raise HephError(str(root), "no such folder", "give the folder with the frame folders")
    root = root.resolve()
    problems: list[HephError] = []
    pairs = sorted(_find_pairs(root, problems), key=lambda pair: pair.name)
    if not pairs:
        raise _nothing_found(root, problems)
    rules: Counter[str] = Counter()
    where = Path(annotations) if annotations is not None else find_annotations(root)
    if where is not None:
        records = read_annotations(where, strict=strict)
        problems += records.problems
        rules = records.rules
        pairs = _join(pairs, records.annotations, root, problems)
    if strict and problems:
        raise problems[0]
    return Archive(root, pairs, problems, rules)


def _join(
    pairs: list[Pair], annotations: list[Annotation], root: Path, problems: list[HephError]
) -> list[Pair]:
    """Pairs with their records; records without a pair are added to `problems`."""
    records: dict[tuple[str, date, date], Annotation] = {}
    for record in annotations:
        key = (record.frame_id, record.primary_date, record.secondary_date)
        first = records.setdefault(key, record)
        if first is not record:
            problems.append(
                HephError(
                    f"annotation {record.unique_id}",
                    f"same pair as annotation {first.unique_id}: {record.frame_id} "
                    f"{record.pair_name}",
                    "keep one of the two; the lower id was used",
                )
            )
    joined = []
    for pair in pairs:
        key = (pair.frame_id, pair.primary_date, pair.secondary_date)
        joined.append(replace(pair, annotation=records.pop(key, None)))
    for record in records.values():
        folder = f"{record.frame_id}/interferograms/{record.pair_name}"
        problems.append(
            HephError(
                f"annotation {record.unique_id}",
                f"no image {folder}/{record.pair_name}{IMAGE_SUFFIX} in {root}",
                "get the image or remove the annotation",
            )
        )
    return joined


def _find_pairs(root: Path, problems: list[HephError]) -> Iterator[Pair]:
    for frame in _folders(root, root, problems):
        folder = root / frame / "interferograms"
        if not folder.is_dir():
            continue
        try:
            frame_id = check_frame_id(frame, str(folder.parent))
        except HephError as problem:
            problems.append(problem)
            continue
        if folder.is_symlink() and not _inside(folder, root):
            problems.append(_escapes(folder, root))
            continue
        for name in _folders(folder, root, problems):
            pair = _read_pair(folder / name, frame_id, root, problems)
            if pair is not None:
                yield pair


def _read_pair(folder: Path, frame_id: str, root: Path, problems: list[HephError]) -> Pair | None:
    """The pair in one folder named by its dates, or None and a problem."""
    dates = dates_of(folder.name)
    if dates is None:
        fix = "name the folder <primary>_<secondary>, e.g. 20200101_20200113"
        problems.append(HephError(str(folder), "no pair of dates, earlier first", fix))
        return None
    image, coherence = folder.name + IMAGE_SUFFIX, folder.name + COHERENCE_SUFFIX
    files = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not _inside(Path(entry.path), root):
                problems.append(_escapes(Path(entry.path), root))
            elif entry.is_file():
                files.add(entry.name)
    if image not in files and folder.name + PHASE_TIFF in files:
        image, coherence = folder.name + PHASE_TIFF, folder.name + COHERENCE_TIFF
    if image not in files:
        found = ", ".join(sorted(files)[:4]) or "no file"
        fix = f"name the interferogram {image}, or {folder.name}{PHASE_TIFF}"
        problems.append(HephError(str(folder), f"no {image}, found {found}", fix))
        return None
    beside = folder / coherence if coherence in files else None
    mask = folder / (folder.name + MASK_SUFFIX)
    rendered = mask if mask.name in files else None
    return Pair(frame_id, *dates, folder / image, beside, None, rendered)


def _folders(folder: Path, root: Path, problems: list[HephError]) -> list[str]:
    """Names of the visible subfolders that stay inside the archive, sorted."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                if entry.is_symlink() and not _inside(Path(entry.path), root):
                    problems.append(_escapes(Path(entry.path), root))
                else:
                    names.append(entry.name)
    except OSError as error:
        reason = error.strerror or str(error)
        problems.append(HephError(str(folder), f"cannot be listed: {reason}", "check its rights"))
    return sorted(names)


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def _escapes(path: Path, root: Path) -> HephError:
    fix = "copy the files into the archive"
    return HephError(str(path), f"link to {path.resolve()}, outside the archive {root}", fix)


def dates_of(name: str) -> tuple[date, date] | None:
    """Dates of a pair named `YYYYMMDD_YYYYMMDD`; None unless it is one, earlier date first."""
    first, _, second = name.partition("_")
    if not (len(first) == len(second) == 8 and (first + second).isdecimal()):
        return None
    try:
        dates = [datetime.strptime(text, "%Y%m%d").date() for text in (first, second)]
    except ValueError:
        return None
    return (dates[0], dates[1]) if dates[0] < dates[1] else None


def source_of(*folders: Path) -> str:
    """`simulated` or `generated` if one of the folders is marked so, else `real`."""
    marks = {"simulated": SIMULATION_FILE, "generated": GENERATION_FILE}
    found = (
        name for folder in folders for name, mark in marks.items() if (folder / mark).is_file()
    )
    return next(found, "real")


def frame_of(path: Path) -> str | None:
    """The LiCSAR frame in whose folder a file lies; None if in none."""
    for parent in path.resolve().parents:
        try:
            return check_frame_id(parent.name, str(path))
        except HephError:
            continue
    return None


def _nothing_found(root: Path, problems: list[HephError]) -> HephError:
    """Why a folder holds no interferogram: it is too high, too low, or empty."""
    where = str(root)
    for folder in (root, *root.parents[:3]):
        if (folder / "interferograms").is_dir() or folder.name == "interferograms":
            archive = folder.parent.parent if folder.name == "interferograms" else folder.parent
            if folder is root or root.is_relative_to(folder / "interferograms"):
                return HephError(where, "this is inside an archive", f"give {archive}")
    for child in _folders(root, root, []):
        for frame in _folders(root / child, root, []):
            if (root / child / frame / "interferograms").is_dir():
                return HephError(where, "one folder too high", f"give {root / child}")
    if problems:
        return HephError(
            where, f"no usable interferogram; first problem: {problems[0].what}", problems[0].fix
        )
    fix = f"expected <frameID>/interferograms/<dates>/<dates>{IMAGE_SUFFIX}"
    return HephError(where, "no interferogram in it", fix)
