"""The part of a report on drawn pictures: how real, how faithful, and what they look like."""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from eval.report_cells import estimate, number, with_error, words
from eval.report_files import Result, same_split, who, who_head
from heph_vl import page
from heph_vl.data.archive import GENERATION_FILE, scan_archive, source_of
from heph_vl.data.patches import PATCH_SIZE
from heph_vl.errors import HephError
from heph_vl.folders import open_folder

_REALISM = {"kid_normalised": "KID, normalised", "fid_normalised": "FID, normalised",
            "precision": "precision", "recall": "recall", "density": "density",
            "coverage": "coverage"}  # fmt: skip
_LOOK = {"phase_gradient_rad": "phase gradient [rad]", "spectrum_db": "spectrum [dB]"}
_AGREEMENT = {"fact_f1": "F1 of all facts", "deformation_f1": "F1 of deformation"}
_WITH_AUROC = ("deformation_f1",)  # whether anything deforms
_MOST = 24  # pictures of an archive
_BESIDE = 8  # of each of two sets
_SIDE = 128  # px of a drawn picture


def section(results: Sequence[Result]) -> str:
    """Generators side by side: realism, agreement with the words, copying.

    Args:
        results: Of generation, at least one.

    Returns:
        Markup.
    """
    note = (
        "Normalised distances: 0 is the other half of the reference itself (floor), 1 the "
        "reference with its phase scrambled; mean and standard error over halvings. Precision, "
        "recall, density and coverage are of neighbours in the encoder's space. The looks are "
        "differences to the reference."
    )
    said = (
        "A judge of another network reads the facts off the pictures. shuffled: the captions in "
        "another order, so what is gained without listening; real: the reference's own crops; "
        "constant: one answer. Intervals are 95 %, by resampling groups of volcanoes."
    )
    return "".join(
        [
            same_split(results),
            _realism(results),
            page.paragraph(note, faint=True),
            _agreement(results),
            page.paragraph(said, faint=True),
            _copying(results),
        ]
    )


def _realism(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        for name, found in result.values["realism"].items():
            look = result.values.get("look", {}).get(name, {})
            cells = [with_error(found.get(key), ".2f") for key in _REALISM]
            rows.append(
                [*who(results, result), name, *cells, *(number(look.get(k)) for k in _LOOK)]
            )
    head = [*who_head(results), "set", *_REALISM.values(), *_LOOK.values()]
    return page.table(head, rows, caption="How real the crops look")


def _agreement(results: Sequence[Result]) -> str:
    tables = []
    for key, label in _AGREEMENT.items():
        rows = []
        for result in results:
            for name, found in result.values["agreement"].items():
                cells = [*estimate(found.get(key)), *estimate(found.get(f"{key}_shuffled"))[:1]]
                cells += estimate(found.get(f"{key}_minus_shuffled"), "+.3f")
                auroc = estimate(found.get("deformation_auroc")) if key in _WITH_AUROC else []
                rows.append([*who(results, result), name, *cells, *auroc])
        head = [*who_head(results), "set", label, "95 %", "shuffled", "difference", "95 %"]
        head += ["AUROC", "95 %"] if key in _WITH_AUROC else []
        title = f"Do the pictures show what was asked for: {label}"
        tables.append(page.table(head, rows, caption=title))
    return "".join(tables)


def _copying(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        for name, found in result.values.get("copying", {}).items():
            values = [number(found[k], ".2f") for k in ("median", "held_out_median", "ratio")]
            cells = [*who(results, result), name, *values, number(found["nearer"])]
            rows.append(cells)
    head = [*who_head(results), "set", "median", "of held-out crops", "ratio", "share nearer"]
    title = (
        "Distance of a crop's latents to the nearest training crop; share nearer than any held-out"
    )
    table = page.table(head, rows, caption=title)
    return page.details("Are training crops copied", table) if rows else ""


def realism_section(results: Sequence[Result]) -> str:
    """Distances of sets of patches to real ones, of eval/realism.py.

    Args:
        results: Of realism, at least one.

    Returns:
        Markup.
    """
    parts = []
    for result in results:
        for group, found in result.values["groups"].items():
            sets = list(found["sets"])
            counts = ", ".join(f"{n} {s['patches']} of {s['units']} units"
                               for n, s in found["sets"].items())  # fmt: skip
            for what in ("distances", "values"):
                head = ["floor" if s == "real" and what == "distances" else s for s in sets]
                rows = [[words(name), *(with_error(by_set.get(s)) for s in sets)]
                        for name, by_set in found[what].items()]  # fmt: skip
                title = f"{result.name}: {what}, {group} ({counts})"
                table = page.table(["", *head], rows, caption=title)
                parts.append(table if what == "distances" else page.details(title, table))
    note = (
        "Mean and standard error. floor: halves of the real patches; scrambled and random: worse "
    )
    return "".join(parts) + page.paragraph(note + "on purpose.", faint=True)


def samples(archive: Path) -> str:
    """Pictures of an archive of `heph-vl generate`, sentence by sentence.

    Args:
        archive: The folder.

    Returns:
        Markup.

    Raises:
        HephError: It is no such archive.
    """
    if not (archive / GENERATION_FILE).is_file():
        what = f"no {GENERATION_FILE}: not drawn by heph-vl generate"
        raise HephError(str(archive), what, "give an archive of heph-vl generate")
    try:
        made = json.loads((archive / GENERATION_FILE).read_text())
        requests = [(r["prompt"], r["first"], r["number"], r["steps"]) for r in made["requests"]]
    except (ValueError, KeyError, TypeError) as error:
        raise HephError(str(archive / GENERATION_FILE), "it is broken", "draw again") from error
    from heph_vl.generated_records import unlabelled  # not at the top: it loads diffusers

    pairs = {(p.primary_date, p.secondary_date): p for p in scan_archive(archive).pairs}
    parts = [page.paragraph(f"{made['notice'].capitalize()}; {made['model']}. Phase beside "
                            "coherence.", faint=True)]  # fmt: skip
    each = max(1, _MOST // max(1, len(requests)))
    for prompt, first, count, steps in requests:
        parts.append(page.heading(prompt or "(anything)"))
        cards = []
        for unique_id in range(first, first + min(count, each)):
            record = unlabelled(unique_id)
            pair = pairs.get((record.primary_date, record.secondary_date))
            if pair is None:
                continue
            files = [pair.image, *([pair.coherence] if pair.coherence else [])]
            drawn = [_enlarged(Image.open(file)) for file in files]
            shown = [page.picture(p, side=2 * _SIDE, alt=f"Generated: {prompt}") for p in drawn]
            said = pair.annotation.caption if pair.annotation else ""
            cards.append(page.card(shown, [said or "no record: the heads do not see it in there"]))
        parts.append(page.grid(cards, least="15rem"))
        left = f", {count - each} more in the archive" if count > each else ""
        parts.append(page.paragraph(f"{count} drawn in {steps} steps{left}.", faint=True))
    return "".join(parts)


def beside(real: Path, simulated: Path) -> str:
    """Two rows of pictures at one scale: real ones, and simulated ones.

    Args:
        real: Dataset, archive or folder of pictures.
        simulated: Likewise.

    Returns:
        Markup.

    Raises:
        HephError: A folder is missing or holds no picture.
    """
    parts = [page.paragraph("At one scale, cut to the middle 224 px; spread over each folder.",
                            faint=True)]  # fmt: skip
    for label, folder in (("Real", real), ("Simulated", simulated)):
        marked = source_of(folder.resolve(), *folder.resolve().parents)
        if label == "Real" and marked != "real":
            what = f"its images are {marked}, not real"
            raise HephError(str(folder), what, "give real ones, or leave --real out")
        shown = [page.picture(image, name, side=224, alt=f"{label} interferogram {name}")
                 for name, image in _pictures(folder, label)]  # fmt: skip
        parts += [page.heading(f"{label}: {folder.name}"), page.grid(shown, least="7rem")]
    return "".join(parts)


def _pictures(folder: Path, label: str) -> Iterator[tuple[str, Image.Image]]:
    rows = open_folder(folder)[0]
    step = max(1, len(rows) // _BESIDE)
    for position in list(range(0, len(rows), step))[:_BESIDE]:
        row = rows[position]
        if label == "Real" and row.get("source", "real") != "real":
            what = f"its images are {row['source']}, not real"
            raise HephError(str(folder), what, "give real ones, or leave --real out")
        image = Image.open(BytesIO(row["image"]["bytes"]))
        left, top = (max(0, (side - PATCH_SIZE) // 2) for side in image.size)
        box = (left, top, min(image.width, left + PATCH_SIZE), min(image.height, top + PATCH_SIZE))
        name = row.get("frame_id") or row.get("image_id") or str(row.get("unique_id"))
        yield str(name), image.crop(box)


def _enlarged(image: Image.Image) -> Image.Image:
    """Each pixel as a square of so many that small pictures are seen."""
    times = max(1, 2 * _SIDE // max(image.size))
    pixels = np.asarray(image.convert("RGB")).repeat(times, 0).repeat(times, 1)
    return Image.fromarray(pixels)
