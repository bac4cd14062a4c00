"""Dataset rows from pairs of the archive; one generator for streaming, the cache and Parquet."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data import splits
from heph_vl.data.annotations import Annotation, Event
from heph_vl.data.archive import Archive, Pair
from heph_vl.data.native import NativePair, Size, encode_png, load_pair
from heph_vl.data.patches import (
    Patch,
    PatchConfig,
    cut_patches,
    patch_caption,
    patch_labels,
)
from heph_vl.errors import HephError

CONFIGS = ("interferograms", "patches", "unlabeled")
ATMOSPHERE = ("none", "vertical_stratification", "turbulent_mixing", "both")

Row = dict[str, Any]
# Modules of this package that do not change what a row holds.
_NOT_HASHED = (
    *(
        "transforms.py",
        "samples.py",
        "sampling.py",
        "views.py",
        "paper_views.py",
        "patch_rows.py",
        "labels.py",
        "from_labels.py",
        "grain.py",
    ),
)


@dataclass(frozen=True)
class ExampleConfig:
    """What rows are made of, the same for all pairs of an archive.

    Attributes:
        config: One of CONFIGS.
        source: `real`, `simulated` or `generated`.
        usual_sizes: Width and height of the previews of each frame (`native.usual_sizes`).
        patches: How patches are cut, for config `patches`.
        strict: Raise the first problem instead of leaving the record out.
    """

    config: str
    source: str
    usual_sizes: Mapping[str, Size]
    patches: PatchConfig = field(default_factory=PatchConfig)
    strict: bool = False


def generate(
    pairs: Iterable[Pair],
    config: ExampleConfig,
    problems: list[HephError],
    counts: Counter[str],
) -> Iterator[tuple[str, Row]]:
    """Keys and rows of pairs, in their order; the same rows whatever calls it.

    Args:
        pairs: Pairs of one split.
        config: What to make of them.
        problems: Gets what is left out.
        counts: Gets `rows`, `left_out`, and those of `patches.cut_patches`.

    Yields:
        A key that is unique in the archive, and the row.

    Raises:
        HephError: With `strict`, the first pair that cannot be read.
    """
    for pair in pairs:
        try:
            native = load_pair(pair, config.usual_sizes.get(pair.frame_id))
            rows = _rows(pair, native, config, counts)
        except HephError as problem:
            if config.strict:
                raise
            problems.append(problem)
            counts["left_out"] += 1
            continue
        counts["rows"] += len(rows)
        yield from rows


def pairs_by_split(
    archive: Archive, config: str, scheme: str, fold: int | None, patch_file: Path | None = None
) -> dict[str, list[Pair]]:
    """Pairs of each split, in the order of their ids (unlabeled ones: of frame and dates).

    Args:
        archive: A scanned archive.
        config: One of CONFIGS; `unlabeled` has the one split `train`.
        scheme: Split scheme (see `splits.assign`).
        fold: Fold of the scheme, if it has folds.
        patch_file: The published split, for the scheme `official`.

    Returns:
        Only splits that have pairs.

    Raises:
        HephError: If the config is unknown or has no pair at all.
    """
    if config not in CONFIGS:
        raise HephError(f"config {config}", "unknown", f"one of {', '.join(CONFIGS)}")
    if config == "unlabeled":
        if not archive.unlabeled:
            what = "every interferogram has a record, so none is unlabeled"
            raise HephError(str(archive.root), what, "use the config interferograms")
        return {"train": archive.unlabeled}
    if not archive.annotated:
        what = "no interferogram has an annotation"
        if archive.problems:
            what += f", {len(archive.problems)} problems, the first: {archive.problems[0]}"
        raise HephError(str(archive.root), what, "give the annotations, or the config unlabeled")
    records = [pair.annotation for pair in archive.annotated if pair.annotation is not None]
    assigned = splits.assign(records, scheme, fold=fold, patch_file=patch_file)
    found: dict[str, list[Pair]] = {"train": [], "val": [], "test": []}
    for pair in archive.annotated:
        split = assigned.get(pair.annotation.unique_id) if pair.annotation else None
        if split is not None:
            found[split].append(pair)
    return {name: pairs for name, pairs in found.items() if pairs}


def fingerprint(archive: Archive, *more: object) -> str:
    """A hash of everything that rows depend on: files, records, code, and what else is given.

    Args:
        archive: A scanned archive; of images, path, size and time of change are taken.
        *more: Anything with a meaningful `repr`; the content counts if it is a path.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(code_fingerprint().encode())
    for pair in archive.pairs:
        for path in (pair.image, pair.coherence, pair.mask):
            if path is not None:
                try:
                    status = path.stat()
                    state = (status.st_size, status.st_mtime_ns)
                except OSError:
                    state = (-1, -1)
                digest.update(repr((str(path.relative_to(archive.root)), state)).encode())
        digest.update(repr(pair.annotation).encode())
    digest.update(archive.source.encode())
    for item in more:
        data = item.read_bytes() if isinstance(item, Path) else repr(item).encode()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


@lru_cache
def code_fingerprint(package: str = "data") -> str:
    """A hash of the code and tables that make rows of an archive, or of another subpackage."""
    folder = Path(__file__).parents[1] / package
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        hidden = "__pycache__" in path.parts or path.name in _NOT_HASHED
        if path.is_file() and not hidden:
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _rows(
    pair: Pair, native: NativePair, config: ExampleConfig, counts: Counter[str]
) -> list[tuple[str, Row]]:
    if config.config == "unlabeled":
        row = image_columns(native.image_png, native.coherence_png) | _place(pair)
        return [(pair.name, row | _origin(native, config))]
    assert pair.annotation is not None  # pairs_by_split takes annotated pairs only
    if config.config == "interferograms":
        return [(pair.name, _interferogram(pair, pair.annotation, native, config))]
    patches = cut_patches(pair.annotation, native, config.patches, counts)
    return [(patch.name, _patch(pair, pair.annotation, native, patch, config)) for patch in patches]


def _interferogram(
    pair: Pair, annotation: Annotation, native: NativePair, config: ExampleConfig
) -> Row:
    return (
        image_columns(native.image_png, native.coherence_png)
        | mask_column(native.mask, native.events)
        | {"caption": annotation.caption, "unique_id": annotation.unique_id}
        | _place(pair)
        | record_columns(annotation)
        | event_columns(native.events)
        | {"label": list(annotation.label), "is_crowd": annotation.is_crowd}
        | _origin(native, config)
    )


def _patch(
    pair: Pair, annotation: Annotation, native: NativePair, patch: Patch, config: ExampleConfig
) -> Row:
    coherence = None if patch.coherence is None else encode_png(patch.coherence)
    return (
        image_columns(encode_png(patch.image), coherence)
        | mask_column(patch.mask, patch.events)
        | {
            "caption": patch_caption(annotation, native, patch.window),
            "unique_id": annotation.unique_id,
        }
        | _place(pair)
        | record_columns(annotation)
        | event_columns(patch.events)
        | {
            "label": list(patch_labels(annotation, patch.events)),
            "is_crowd": len(patch.events) > 1,
        }
        | _origin(native, config)
        | {
            "patch": patch.name,
            "kind": "tile" if patch.subject is None else "crop",
            "window": list(patch.window),
        }
    )


def image_columns(image: bytes, coherence: bytes | None) -> Row:
    """Stored pictures, PNG."""
    return {
        "image": {"bytes": image, "path": None},
        "coherence": None if coherence is None else {"bytes": coherence, "path": None},
    }


def mask_column(mask: NDArray[np.uint8], events: tuple[Event, ...]) -> Row:
    """Class ids as PNG."""
    png = encode_png(mask) if events or mask.any() else _empty_mask_png(*mask.shape)
    return {"mask": {"bytes": png, "path": None}}


@lru_cache(maxsize=256)
def _empty_mask_png(height: int, width: int) -> bytes:
    return encode_png(np.zeros((height, width), np.uint8))


def _place(pair: Pair) -> Row:
    return {
        "frame_id": pair.frame_id,
        "pass_direction": "ascending" if pair.frame_id[3] == "A" else "descending",
        "volcano_group": splits.volcano_group(pair.frame_id),
        "volcanoes": list(splits.VOLCANOES.get(pair.frame_id, ())),
        "primary_date": pair.primary_date.isoformat(),
        "secondary_date": pair.secondary_date.isoformat(),
    }


def record_columns(annotation: Annotation) -> Row:
    """Fields that hold for the whole interferogram and for its patches."""
    names = (
        "volcano_phase atmosphere corrupted processing_error glacier_fringes orbital_fringes "
        "low_coherence no_info image_artifacts confidence"
    )
    return {name: getattr(annotation, name) for name in names.split()}


def event_columns(events: tuple[Event, ...]) -> Row:
    """Lists with one entry for each event."""
    return {
        "activity_types": [event.type for event in events],
        "intensities": [event.intensity for event in events],
        "los_sense": [event.los_sense for event in events],
        # Rounded here, so that streamed rows equal stored ones.
        "polygons": [np.array(event.polygon or (), np.float32).tolist() for event in events],
    }


def _origin(native: NativePair, config: ExampleConfig) -> Row:
    return {"pixel_spacing_deg": native.pixel_spacing_deg, "source": config.source}
