"""Patches in the folders that the published Hephaestus code reads.

`labeled/<class>/<patch>.png`, `masks/<class>/<patch>.png` and `cls_labels/<patch>.json`, where
<class> is the class id of the deformation that the crop was cut for and 0 for tiles, which have no
mask file. Pictures are RGB with white for no data, always of the full patch size.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heph_vl.data import staging
from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.archive import Archive, Pair, scan_archive
from heph_vl.data.examples import fingerprint
from heph_vl.data.native import encode_png, load_pair, usual_sizes
from heph_vl.data.patches import Patch, PatchConfig, cut_patches, official_labels
from heph_vl.data.raster import CLASS_IDS
from heph_vl.errors import HephError

_FOLDERS = ("labeled", "masks", "cls_labels")


def export_official(
    archive: Archive | str | Path,
    out: str | Path,
    *,
    annotations: str | Path | None = None,
    patches: PatchConfig | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write all patches of an archive in the published layout.

    Args:
        archive: A scanned archive, or its root.
        out: Folder to write; must be new, empty, or written by this function.
        annotations: Annotations that lie elsewhere; only with a root.
        patches: How patches are cut.
        strict: Raise the first problem instead of leaving the record out.
        progress: Called with the number of interferograms done and that of all.

    Returns:
        `counts` (by class folder, and those of `patches.cut_patches`), `problems` and `unchanged`.

    Raises:
        HephError: If the archive cannot be read or `out` cannot be written.
    """
    out, patches = Path(out), patches or PatchConfig()
    if not isinstance(archive, Archive):
        archive = scan_archive(archive, annotations, strict=strict)
    if strict and archive.problems:
        raise archive.problems[0]
    key = fingerprint(archive, "official", patches)
    with staging.output_errors(out):
        if staging.is_complete(out, key):
            return (staging.read_manifest(out) or {}) | {"unchanged": True}
        stage = staging.open_stage(out, key)
        for name in range(len(ACTIVITY_TYPES) + 1):
            (stage / "labeled" / str(name)).mkdir(parents=True, exist_ok=True)
            (stage / "masks" / str(name)).mkdir(parents=True, exist_ok=True)
        (stage / "cls_labels").mkdir(exist_ok=True)
        counts: Counter[str] = Counter()
        problems = [str(problem) for problem in archive.problems]
        sizes = usual_sizes(archive.pairs)
        for done, pair in enumerate(archive.annotated, start=1):
            try:
                _export(pair, sizes.get(pair.frame_id), patches, stage, counts)
            except HephError as problem:
                if strict:
                    raise
                problems.append(str(problem))
            if progress:
                progress(done, len(archive.annotated))
        manifest = {"fingerprint": key, "counts": dict(counts), "problems": problems}
        staging.publish(out, stage, _FOLDERS, manifest)
    return manifest | {"unchanged": False}


def _export(
    pair: Pair,
    usual: tuple[int, int] | None,
    config: PatchConfig,
    stage: Path,
    counts: Counter[str],
) -> None:
    assert pair.annotation is not None  # the caller takes annotated pairs only
    native = load_pair(pair, usual)
    for patch in cut_patches(pair.annotation, native, config, counts):
        folder = 0 if patch.subject is None else CLASS_IDS[patch.subject.type]
        counts[f"class {folder}"] += 1
        picture = encode_png(_flattened(patch, config.size))
        (stage / "labeled" / str(folder) / f"{patch.name}.png").write_bytes(picture)
        if folder:
            mask = np.zeros((config.size, config.size), np.uint8)
            height, width = patch.mask.shape
            mask[:height, :width] = patch.mask
            (stage / "masks" / str(folder) / f"{patch.name}.png").write_bytes(encode_png(mask))
        labels = json.dumps(official_labels(pair.annotation, patch))
        (stage / "cls_labels" / f"{patch.name}.json").write_text(labels)


def _flattened(patch: Patch, size: int) -> Image.Image:
    """RGB on white, `size` x `size` px."""
    picture = Image.new("RGB", (size, size), "white")
    rgba = patch.image.convert("RGBA")
    picture.paste(rgba, (0, 0), rgba)
    return picture
