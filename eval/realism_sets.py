"""The sets of patches that `realism.py` compares: read, measured, and remade without structure."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.native import usual_sizes
from heph_vl.data.patches import PATCH_SIZE, PatchConfig, cut_patches
from heph_vl.data.phase import decode_image, open_png
from heph_vl.errors import HephError
from heph_vl.metrics import realism
from heph_vl.metrics.realism import PatchSet
from heph_vl.metrics.realism_measures import measure

CROP, TILE = "deformation crop", "tile"


@dataclass(frozen=True)
class Patch:
    """A picture of a set.

    Attributes:
        name: Its file or cut.
        record: The interferogram it is of.
        frame: LiCSAR frame, None where unknown.
        kind: CROP, TILE, or "" where unknown.
        image: RGB, PATCH_SIZE a side, white without data.
    """

    name: str
    record: str
    frame: str | None
    kind: str
    image: Image.Image


@dataclass
class Pictures:
    """The patches of a set and what was left out of it."""

    patches: list[Patch]
    left_out: list[str] = field(default_factory=list)


def read_set(path: Path) -> Pictures:
    """Patches of a folder of PNGs or of an archive.

    Args:
        path: The folder; one with a PNG directly inside is a folder of patches.

    Returns:
        Patches by name; grey or unreadable pictures are left out and listed.

    Raises:
        HephError: If there is no such folder, nothing in it, or a PNG of another size.
    """
    if not path.is_dir():
        raise HephError(str(path), "no such folder", "give a folder of patches or an archive")
    files = sorted(path.glob("*.png"))
    if files:
        return _from_folder(path, files)
    if not any(path.iterdir()):
        raise HephError(str(path), "empty folder", "give a folder of patches or an archive")
    return _from_archive(path)


def measure_set(pictures: Pictures, path: Path) -> PatchSet:
    """All patches measured.

    Args:
        pictures: The set; those that cannot be decoded are moved to `left_out`.
        path: How errors name it.

    Returns:
        Totals, units and kinds.

    Raises:
        HephError: If fewer than 4 patches, or patches of one unit only, are left.
    """
    totals, kept = [], []
    for patch in pictures.patches:
        try:
            decoded = decode_image(patch.image, where=patch.name)
        except HephError as problem:
            pictures.left_out.append(str(problem))
            continue
        totals.append(measure(np.asarray(patch.image), decoded.wrapped_phase, decoded.valid))
        kept.append(patch)
    pictures.patches = kept
    if len(kept) < realism.MIN_PATCHES:
        why = f"{len(kept)} usable patches, {len(pictures.left_out)} left out"
        if pictures.left_out:
            why += f", the first: {pictures.left_out[0]}"
        raise HephError(str(path), why, f"give at least {realism.MIN_PATCHES}")
    units = realism.draw_units([p.record for p in kept], [p.frame for p in kept])
    measured = PatchSet(realism.stack(totals), units, np.array([p.kind for p in kept]))
    if not measured.enough:
        fix = "name patches <record>_<k>.png; without a second record there is no error to give"
        raise HephError(str(path), f"all patches are of record {kept[0].record}", fix)
    return measured


def baselines(
    pictures: Pictures, real: PatchSet, generator: torch.Generator
) -> dict[str, PatchSet]:
    """Remakes of the real patches: `scrambled` and `random`.

    Args:
        pictures: The real patches, measured.
        real: Their measures.
        generator: Draws both.

    Returns:
        Sets that are paired with the real one.
    """
    made: dict[str, list[dict[str, Any]]] = {"scrambled": [], "random": []}
    for patch in pictures.patches:
        decoded = decode_image(patch.image)
        valid = decoded.valid
        drawn = {
            "scrambled": realism.scramble(decoded.wrapped_phase, valid, generator),
            "random": realism.random_phase(valid, generator),
        }
        for name, rgb in drawn.items():
            again = decode_image(Image.fromarray(rgb), palette="new")
            made[name].append(measure(rgb, again.wrapped_phase, again.valid))
    return {
        name: PatchSet(realism.stack(totals), real.units, real.kinds, paired=True)
        for name, totals in made.items()
    }


def _from_folder(path: Path, files: Sequence[Path]) -> Pictures:
    index = _index(path)
    found = Pictures([])
    for file in files:
        try:
            image = open_png(file, str(file))
        except HephError as problem:
            found.left_out.append(str(problem))
            continue
        if image.size != (PATCH_SIZE, PATCH_SIZE):
            raise HephError(
                str(file),
                f"picture of {image.width} x {image.height} px",
                f"cut it to {PATCH_SIZE} x {PATCH_SIZE} px, or give an archive",
            )
        about = index.get(file.stem, {})
        record, frame = file.stem.split("_")[0], about.get("frameID")
        found.patches.append(Patch(file.name, record, frame, about.get("kind", ""), _flat(image)))
    return found


def _index(path: Path) -> dict[str, dict[str, Any]]:
    """What an index.json in or above a folder of patches says of each, by name."""
    for file in (path / "index.json", path.parent / "index.json"):
        if file.is_file():
            try:
                return {entry["patch"]: entry for entry in json.loads(file.read_text())}
            except (OSError, ValueError, TypeError, KeyError) as error:
                fix = 'write [{"patch": ..., "kind": ..., "frameID": ...}, ...] or remove it'
                raise HephError(str(file), f"no index of patches: {error!r}", fix) from error
    return {}


def _from_archive(path: Path) -> Pictures:
    archive = scan_archive(path)
    if not archive.annotated:
        raise HephError(
            str(path), "no annotated interferogram", "put annotations/ beside the frames"
        )
    found = Pictures([], [str(problem) for problem in archive.problems])
    sizes = usual_sizes(archive.pairs)
    for pair in archive.annotated:
        assert pair.annotation is not None
        try:
            native = load_pair(pair, sizes.get(pair.frame_id))
        except HephError as problem:
            found.left_out.append(str(problem))
            continue
        for cut in cut_patches(pair.annotation, native, PatchConfig(), Counter()):
            whole = all(start % PATCH_SIZE == 0 for start in cut.window[:2])
            if cut.subject is None and not whole:
                continue  # the published patches lack the overlapping tiles at the edges
            if cut.image.size != (PATCH_SIZE, PATCH_SIZE):
                found.left_out.append(f"{cut.name}: image smaller than {PATCH_SIZE} px")
                continue
            kind = TILE if cut.subject is None else CROP
            record = str(pair.annotation.unique_id)
            image = _flat(cut.image)
            found.patches.append(Patch(cut.name, record, pair.frame_id, kind, image))
    return found


def _flat(image: Image.Image) -> Image.Image:
    """On white, as the published patches are: white may be no data or phase in every set."""
    if image.mode not in ("P", "RGB", "RGBA"):
        return image  # grey: refused at decoding
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")
