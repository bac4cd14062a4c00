"""Heads on real Hephaestus patches: hits, probabilities, masks, false area on land, a sheet.

    python eval/real_patches.py --patches ../shared/data/hephaestus/patches --model HEADS
    python eval/real_patches.py --patches PATCHES --model HEADS --out runs/real_patches --json

PATCHES holds index.json, `[{"patch": NAME, "kind": ..., "frameID": ...}, ...]`, images/NAME.png
and, for each patch that deforms, masks/NAME.png (class ids). `--out` writes results.json and
sheet.png; the sheet shows the patches, so it belongs under runs/.

Land is where the phase is valid and neighbouring phase steps agree to at least 0.75 within 5 x 5
pixels (`data.phasors.agreement`). No coherence comes with these patches; water is grain, which
agrees to 0.4 and never so well, and histograms of the crops have their valley there. An estimated
coherence of 0.35 would do for calm ground, but 15 % of the given masks reach it (here 85 %):
fringes of posterised colours look rough. The false area on land is the share of land outside the
given mask that is called deforming, over several patches of their land together; that of all valid
pixels, water included, is told beside it. IoU is of deformation of any type, over valid pixels.

The 23 patches are of two frames, one with all the deformation, so they show decoding and
localisation, not detection: an AUROC over them may tell the two places apart.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from heph_vl.data import phase
from heph_vl.data.native import encode_png, read_mask
from heph_vl.data.phasors import agreement
from heph_vl.data.picture import Picture, read_picture
from heph_vl.detect import outlines
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.index import Hit
from heph_vl.metrics.classification import auroc, plain_value
from heph_vl.metrics.segmentation import count_pixels
from heph_vl.sheet import draw_hits

if TYPE_CHECKING:
    from heph_vl.models.heads import Heads

LABEL = "real patches, train frames of the official split, anecdotal"
LAND_AGREEMENT = 0.75  # of neighbouring phase steps; from here on a pixel is land
GIVEN, FOUND = "#212121", "#00c853"  # outlines of masks
_LAYOUT = 'write [{"patch": NAME, "kind": ..., "frameID": ...}, ...] for images/NAME.png'


@dataclass(frozen=True)
class Entry:
    """A line of the index with its files; `mask` is None where there is no such file."""

    patch: str
    kind: str
    frame: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Area:
    """Pixels outside the given mask, and those of them that are called deforming."""

    pixels: int
    called: int

    @property
    def share(self) -> float | None:
        """Called of all; None without any pixel."""
        return self.called / self.pixels if self.pixels else None

    def __add__(self, other: "Area") -> "Area":
        return Area(self.pixels + other.pixels, self.called + other.called)


@dataclass(frozen=True)
class Look:
    """One patch, what the heads make of it, and how right they are.

    Attributes:
        entry: Which patch.
        picture: As read.
        truth: (H, W) uint8 class ids as given, 0 without a mask.
        found: (H, W) uint8 as predicted, None without decoder; then the areas are None as well.
        probability: Of deformation, calibrated.
        present: Whether that reaches the heads' threshold.
        iou: Of deformation over valid pixels; None without deformation.
        land: False area on land.
        valid: False area of all valid pixels.
    """

    entry: Entry
    picture: Picture
    truth: NDArray[np.uint8]
    found: NDArray[np.uint8] | None
    probability: float
    present: bool
    iou: float | None
    land: Area | None
    valid: Area | None

    @property
    def deforming(self) -> bool:
        """Whether the given mask holds any deformation."""
        return bool(self.truth.any())

    def row(self) -> dict[str, Any]:
        """The patch's line of the results."""
        return {
            "patch": self.entry.patch,
            "kind": self.entry.kind,
            "frame": self.entry.frame,
            "deforming": self.deforming,
            "probability": self.probability,
            "present": self.present,
            "iou": self.iou,
            "false_area_land": None if self.land is None else self.land.share,
            "false_area_valid": None if self.valid is None else self.valid.share,
            "land_pixels": None if self.land is None else self.land.pixels,
        }


def read_entries(root: Path) -> list[Entry]:
    """The patches of a folder.

    Args:
        root: Folder of index.json, images/ and masks/.

    Returns:
        Entries in the order of the index.

    Raises:
        HephError: The index is missing, empty or broken, names a patch twice or one without image.
    """
    index = root / "index.json"
    try:
        lines = json.loads(index.read_text())
        told = [(str(line["patch"]), line["kind"], line["frameID"]) for line in lines]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HephError(str(index), f"no index of patches: {error!r}", _LAYOUT) from error
    names = [name for name, _, _ in told]
    if len(set(names)) < len(names) or not names:
        raise HephError(str(index), f"{len(names)} patches, {len(set(names))} names", _LAYOUT)
    entries = []
    for name, kind, frame in told:
        image, mask = (root / part / f"{name}.png" for part in ("images", "masks"))
        if not image.is_file():
            raise HephError(str(image), "missing", f"get it, or take {name} out of {index}")
        entries.append(Entry(name, kind, frame, image, mask if mask.is_file() else None))
    return entries


def look(heads: "Heads", entry: Entry) -> Look:
    """Read, predict and score one patch.

    Args:
        heads: On any device.
        entry: The patch.

    Returns:
        What came of it.

    Raises:
        HephError: A file cannot be read, or the mask is of another size or has unknown classes.
    """
    import torch

    picture = read_picture(entry.image)
    valid = picture.valid
    truth = np.zeros(valid.shape, np.uint8)
    if entry.mask is not None:
        truth = read_mask(entry.mask, (valid.shape[1], valid.shape[0]))
    found = heads.predict(torch.from_numpy(picture.channels), torch.from_numpy(valid))
    iou = land = whole = None
    if found.mask is not None:
        counts = count_pixels(found.mask, truth, valid)
        hit, alarm, miss = (float(n[0]) for n in (counts.hit, counts.alarm, counts.miss))
        iou = hit / (hit + alarm + miss) if hit + miss else None
        whole = false_area(found.mask, truth, valid)
        land = false_area(found.mask, truth, land_of(picture))
    present = bool(found.present["deformation"][0])
    return Look(entry, picture, truth, found.mask, found.deformation, present, iou, land, whole)


def land_of(picture: Picture) -> NDArray[np.bool_]:
    """(H, W) bool: valid pixels that are no grain, as water is."""
    z = phase.phasor(picture.wrapped_phase, picture.valid)
    land: NDArray[np.bool_] = picture.valid & (agreement(z, picture.valid) >= LAND_AGREEMENT)
    return land


def false_area(
    found: NDArray[np.uint8], truth: NDArray[np.uint8], where: NDArray[np.bool_]
) -> Area:
    """What is called deforming though it is not.

    Args:
        found: (H, W) uint8 class ids as predicted.
        truth: (H, W) uint8 class ids as given.
        where: (H, W) bool, which pixels count.

    Returns:
        The counted pixels outside the given mask, and those called deforming.
    """
    outside = where & (truth == 0)
    return Area(int(outside.sum()), int((found[outside] > 0).sum()))


def summarise(looks: Sequence[Look]) -> dict[str, Any]:
    """Numbers over all patches.

    Args:
        looks: At least one.

    Returns:
        `deforming`: `patches`, `hits`, `mean_iou`, `mean_iou_all_deforming` (of a mask that is
        everywhere). `undeforming`: `patches`, `false_alarms`. Both: `mean_probability`,
        `false_area_land`, `false_area_valid` (of their pixels together). `auroc`, `auroc_note`:
        of deformation, and what it is worth. None where nothing tells.
    """
    deforming = [one for one in looks if one.deforming]
    others = [one for one in looks if not one.deforming]
    everywhere = [float((one.truth[one.picture.valid] > 0).mean()) for one in deforming]
    value, note = _auroc(deforming, others)
    return {
        "deforming": {
            "patches": len(deforming),
            "hits": sum(one.present for one in deforming),
            "mean_iou": _mean([one.iou for one in deforming if one.iou is not None]),
            "mean_iou_all_deforming": _mean(everywhere),
            **_of_side(deforming),
        },
        "undeforming": {
            "patches": len(others),
            "false_alarms": sum(one.present for one in others),
            **_of_side(others),
        },
        "auroc": value,
        "auroc_note": note,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    from heph_vl.models.heads import Heads

    entries = read_entries(options.patches)
    heads = Heads.from_pretrained(options.model)
    looks = [look(heads, entry) for entry in entries]
    summary = summarise(looks)
    results = {
        "task": "real_patches",
        "label": LABEL,
        "patches": str(options.patches),
        "model": str(options.model),
        "model_id": heads.model_id,
        "land": f"valid phase whose steps agree to at least {LAND_AGREEMENT} within 5 x 5 pixels",
        "thresholds": {
            "deformation": heads.calibration.deformation.threshold[0],
            "mask": heads.calibration.mask_threshold,
        },
        "summary": summary,
        "by_patch": [one.row() for one in looks],
    }
    if options.out is not None:
        with writing(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(results, indent=1, allow_nan=False) + "\n"
            write_text(options.out / "results.json", text)
        draw_sheet(looks, options.out / "sheet.png")
    if options.as_json:
        print(json.dumps(results, allow_nan=False))
    else:
        _show(looks, summary, options.out)


def draw_sheet(looks: Sequence[Look], path: Path) -> None:
    """All patches with both outlines and their scores.

    Args:
        looks: At least one.
        path: The .png to write.

    Raises:
        HephError: It cannot be written.
    """
    hits = [
        Hit(rank, one.probability, {"frame_id": one.entry.patch, "caption": _told(one)})
        for rank, one in enumerate(looks, start=1)
    ]
    title = f"{LABEL}. Deformation: given mask black, predicted green; number: probability"
    draw_hits(hits, [encode_png(outlined(one)) for one in looks], path, title=title)


def outlined(one: Look) -> Image.Image:
    """The patch in LiCSAR's colours with the outlines of both masks: RGB, (H, W)."""
    image = Image.fromarray(phase.colour(one.picture.wrapped_phase, one.picture.valid))
    pen = ImageDraw.Draw(image)
    for mask, colour in ((one.truth, GIVEN), (one.found, FOUND)):
        for outline in [] if mask is None else outlines(mask):
            ring = [tuple(point) for point in outline["polygon"]]
            pen.line([*ring, ring[0]], fill="white", width=4)
            pen.line([*ring, ring[0]], fill=colour, width=2)
    return image


def _told(one: Look) -> str:
    row = one.row()
    called = "called deforming" if one.present else "not called deforming"
    scores = [f"IoU {_number(one.iou)}"] if one.deforming else []
    scores.append(f"false area on land {_number(row['false_area_land'])}")
    return f"{one.entry.kind}, {called}; {', '.join(scores)}"


def _auroc(deforming: Sequence[Look], others: Sequence[Look]) -> tuple[float | None, str]:
    if not deforming or not others:
        return None, "all patches are of one class"
    truth = np.array([True] * len(deforming) + [False] * len(others))
    probability = np.array([one.probability for one in (*deforming, *others)])
    value = plain_value(auroc, truth, probability)
    first, second = ({one.entry.frame for one in side} for side in (deforming, others))
    if first & second:
        return value, "some frames have patches of both classes"
    frames = ", ".join(sorted(first | second))
    return value, f"each frame has one class only ({frames}): it may tell places apart"


def _of_side(looks: Sequence[Look]) -> dict[str, float | None]:
    none = Area(0, 0)
    return {
        "mean_probability": _mean([one.probability for one in looks]),
        "false_area_land": sum((one.land for one in looks if one.land), none).share,
        "false_area_valid": sum((one.valid for one in looks if one.valid), none).share,
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _show(looks: Sequence[Look], summary: dict[str, Any], out: Path | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 130)
    table = Table(title=LABEL, title_justify="left", title_style="bold", box=SIMPLE)
    for heading in ("patch", "kind"):
        table.add_column(heading, no_wrap=True)
    numbers = ("probability", "called", "right", "IoU", "false on land", "on all", "land px")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in looks:
        row = one.row()
        table.add_row(
            one.entry.patch,
            one.entry.kind,
            _number(one.probability),
            "yes" if one.present else "no",
            "yes" if one.present == one.deforming else "no",
            *(_number(row[name]) for name in ("iou", "false_area_land", "false_area_valid")),
            "-" if one.land is None else str(one.land.pixels),
        )
    console.print(table)
    yes, no = summary["deforming"], summary["undeforming"]
    lines = [
        f"deforming: {yes['hits']} of {yes['patches']} hit, mean IoU {_number(yes['mean_iou'])} "
        f"(empty mask 0, all deforming {_number(yes['mean_iou_all_deforming'])})",
        f"undeforming: {no['false_alarms']} of {no['patches']} false alarms, false area on land "
        f"{_number(no['false_area_land'])}, of all valid pixels {_number(no['false_area_valid'])}",
        f"AUROC {_number(summary['auroc'])}: {summary['auroc_note']}",
    ]
    if out is not None:
        lines.append(f"written to {out}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--patches", type=Path, required=True, help="folder with index.json")
    parser.add_argument("--model", type=Path, required=True, help="folder of saved heads")
    parser.add_argument("--out", type=Path, help="write results.json and sheet.png here")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
