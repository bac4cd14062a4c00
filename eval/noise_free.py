"""Redraw a simulated archive from its noise-free line of sight: what an oracle of heads trains on.

    heph-vl simulate TWIN --annotations annotations.tar.gz -n 1000 --stratified --truth
    python eval/noise_free.py TWIN TWIN_LOS
    heph-vl dataset TWIN_LOS runs/los_dataset
    python training/train_heads.py --config configs/heads/base.yaml --data.path runs/los_dataset

The new archive has the same records, masks and file sizes. Its pictures show the wrapped phase of
the line-of-sight displacement alone (`.geo.los.tif`): no air, orbit, ice, noise, filter, shrinking
or rounding of colours, each pixel in one colour of LiCSAR's palette. Coherence is 1 where the
original picture has data; where it has none, neither has the new one. The same architecture and
recipe on it tell how much of an error is due to what covers the motion, and how much to the look
itself, from which types of sources may not be told apart however clean it is.

OUT must be new or empty; it appears when it is complete. `truth/` stays with the original.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import palettes, phase
from heph_vl.data.archive import (
    COHERENCE_SUFFIX,
    IMAGE_SUFFIX,
    MASK_SUFFIX,
    SIMULATION_FILE,
    Archive,
    Pair,
    find_annotations,
    scan_archive,
)
from heph_vl.data.native import encode_png
from heph_vl.errors import HephError
from heph_vl.files import new_folder, writing
from heph_vl.simulate.sources import los_to_phase
from heph_vl.simulate.store import LOS_SUFFIX

Progress = Callable[[int, int], None]

_CLEAR = 255  # palette index of no data; the palette has 252 steps
_FIX = "simulate it again with --truth"


def picture(los_displacement: NDArray[np.float32], valid: NDArray[np.bool_]) -> Image.Image:
    """Wrapped phase of a displacement in LiCSAR's newer palette, each pixel for itself.

    Args:
        los_displacement: (H, W) float32 [m], positive toward the satellite.
        valid: (H, W) bool, transparent where False.

    Returns:
        Palette picture of -4 pi / wavelength * los_displacement, to half a step of 0.025 rad.
    """
    wrapped = phase.wrap(los_to_phase(torch.from_numpy(los_displacement)).numpy())
    middle, colours = palettes.new_table()
    step = np.rint((wrapped - middle[0]) / palettes.NEW_STEP_RAD).clip(0, len(middle) - 1)
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = np.rint(colours)
    image = Image.fromarray(np.where(valid, step, _CLEAR).astype(np.uint8))
    image.putpalette(table.tobytes())
    image.info["transparency"] = _CLEAR
    return image


def redraw(root: Path, out: Path, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Write the noise-free twin of an archive.

    Args:
        root: An archive simulated with --truth.
        out: New or empty folder outside of it.
        progress: Called with interferograms done and of all.

    Returns:
        `interferograms`, `moving` (with any displacement), `masks`, and `problems` of the archive,
        such as records without an image, which are copied as they are.

    Raises:
        HephError: The archive has no displacements or damaged ones, or `out` cannot be written.
    """
    archive = scan_archive(root)
    _check_out(archive, out)
    missing = [pair for pair in archive.pairs if not _los_file(pair).is_file()]
    if missing:
        what = f"no {LOS_SUFFIX} beside {len(missing)} of {len(archive.pairs)} interferograms"
        raise HephError(str(root), f"{what}, the first: {missing[0].name}", _FIX)
    moving = 0
    with writing(out), new_folder(out) as folder:
        for done, pair in enumerate(archive.pairs, start=1):
            moving += _redraw_pair(pair, folder / pair.image.parent.relative_to(archive.root))
            progress(done, len(archive.pairs))
        _copy_records(archive, folder)
    return {
        "interferograms": len(archive.pairs),
        "moving": moving,
        "masks": sum(pair.mask is not None for pair in archive.pairs),
        "problems": [str(problem) for problem in archive.problems],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    started = time.perf_counter()
    try:
        done = _redraw_with_bar(options.archive, options.out)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.perf_counter() - started, 1)
    report = {"archive": str(options.archive), "out": str(options.out), **done, "seconds": seconds}
    if options.as_json:
        print(json.dumps(report))
        return 0
    print(f"{done['interferograms']} interferograms, {done['moving']} of them with motion")
    if done["problems"]:
        print(f"{len(done['problems'])} problems, the first: {done['problems'][0]}")
    print(f"written to {options.out} in {seconds} s; next: heph-vl dataset {options.out} DATASET")
    return 0


def _redraw_with_bar(root: Path, out: Path) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Redrawing", total=None)
        return redraw(root, out, lambda done, of: bar.update(task, completed=done, total=of))


def _redraw_pair(pair: Pair, folder: Path) -> bool:
    """Write the files of a pair; whether anything moves in it."""
    where = str(pair.image)
    original = phase.open_png(pair.image, where)
    # Decoded, not only looked at: in a full swath white is a phase, not a gap.
    valid = phase.decode_image(original, where=where).valid
    los = _read_los(_los_file(pair), valid.shape)
    folder.mkdir(parents=True)
    stem = folder / folder.name
    stem.with_name(folder.name + IMAGE_SUFFIX).write_bytes(encode_png(picture(los, valid)))
    full = np.where(valid, 255, 0).astype(np.uint8)
    stem.with_name(folder.name + COHERENCE_SUFFIX).write_bytes(encode_png(full))
    if pair.mask is not None:
        shutil.copyfile(pair.mask, stem.with_name(folder.name + MASK_SUFFIX))
    return bool(los.any())


def _read_los(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        los: NDArray[np.float32] = tifffile.imread(path)
    except Exception as error:  # tifffile and its codecs raise many kinds on damaged files
        raise HephError(str(path), f"cannot be read: {error}", _FIX) from error
    if los.shape != shape or los.dtype != np.float32 or not np.isfinite(los).all():
        what = f"{los.dtype} of shape {los.shape}, or not finite"
        raise HephError(str(path), what, f"finite float32 of shape {shape} belongs here: {_FIX}")
    return los


def _copy_records(archive: Archive, folder: Path) -> None:
    records = find_annotations(archive.root)
    if records is not None:
        copy = shutil.copytree if records.is_dir() else shutil.copyfile
        copy(records, folder / records.name)
    settings = archive.root / SIMULATION_FILE
    try:
        told = json.loads(settings.read_text()) if settings.is_file() else {}
        text = json.dumps({**told, "noise_free": True}, indent=2)
    except (ValueError, TypeError) as error:
        raise HephError(str(settings), f"holds no settings: {error}", _FIX) from error
    (folder / SIMULATION_FILE).write_text(text + "\n")


def _check_out(archive: Archive, out: Path) -> None:
    target = out.resolve()
    if target.is_relative_to(archive.root) or archive.root.is_relative_to(target):
        raise HephError(str(out), f"overlaps {archive.root}", "give another folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise HephError(str(out), "is not empty", "give a new folder")


def _los_file(pair: Pair) -> Path:
    return pair.image.with_name(pair.image.name.removesuffix(IMAGE_SUFFIX) + LOS_SUFFIX)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("archive", type=Path, help="archive simulated with --truth")
    parser.add_argument("out", type=Path, help="archive to write, new or empty")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print what was done")
    return parser


if __name__ == "__main__":
    sys.exit(main())
