"""Images of the demo's page: rows of its dataset, and what was detected and said of files."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.report_cells import number, words
from heph_vl import page
from heph_vl.caption import fact_in_words
from heph_vl.data import captions
from heph_vl.data.archive import dates_of, frame_of
from heph_vl.data.captions.agreement import agreeing
from heph_vl.data.picture import stem_of
from heph_vl.errors import HephError

_SIDE = 256  # px of a picture that is looked into
_FIRST = 3  # captions shown at once; the others open on a click
_OUTLINE = (0, 0, 0, 255), (255, 255, 255, 255)  # a black line with a white one around it


class Pictures:
    """Pictures and truth of dataset rows.

    Args:
        rows: A `datasets.Dataset` with encoded images.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        names = ("frame_id", "primary_date", "secondary_date")
        keys = zip(*(rows[name] for name in names), strict=True)
        self._places = {key: i for i, key in enumerate(keys)}

    def find(self, path: Path) -> int | None:
        """The row of a file of the archive, by its frame and dates; None if it has none."""
        dates = dates_of(stem_of(path))
        if dates is None:
            return None
        return self._places.get((frame_of(path), *(day.isoformat() for day in dates)))

    def row(self, position: int) -> dict[str, Any]:
        """All columns."""
        found: dict[str, Any] = self._rows[position]
        return found

    def plain(self, position: int, caption: str = "", side: int = 240) -> str:
        """The interferogram as LiCSAR colours it."""
        row = self.row(position)
        return page.picture(
            _decoded(row["image"]), caption, side=side, alt=f"Interferogram {row['unique_id']}"
        )

    def outlined(self, position: int, caption: str) -> str:
        """The interferogram with the outlines of what truly deforms."""
        row = self.row(position)
        image = _decoded(row["image"]).convert("RGBA")
        mask = Image.open(BytesIO(row["mask"]["bytes"])).resize(
            image.size, Image.Resampling.NEAREST
        )
        pixels = np.asarray(image).copy()
        inside = np.asarray(mask) > 0
        grown = _grown(inside)
        pixels[_grown(grown) & ~grown] = _OUTLINE[1]
        pixels[grown & ~inside] = _OUTLINE[0]
        return page.picture(Image.fromarray(pixels), caption, side=_SIDE)


def detections(folder: Path, pictures: Pictures) -> str:
    """What `heph-vl detect --out detected --json` saw, beside the truth.

    Args:
        folder: With `detected` and `detected.json`.
        pictures: Of the dataset.

    Returns:
        Markup.
    """
    told, overlays = folder / "detected.json", folder / "detected"
    if not told.is_file():
        return page.missing(f"Not here: {told}, of heph-vl detect --json.")
    parts, cards, right = [], [], 0
    with broken(told):
        entries = _entries(told)
        seen = [entry for entry in entries if "error" not in entry]
        for entry in seen:
            path = Path(entry["image"])
            position = pictures.find(path)
            overlay = overlays / f"{stem_of(path)}.overlay.png"
            shown, lines = [], [path.name.partition(".")[0], _detected(entry)]
            agrees = False
            if position is None:
                lines.append("truth: not in the dataset")
            else:
                row = pictures.row(position)
                agrees = entry["deformation"]["present"] == bool(row["activity_types"])
                shown.append(pictures.outlined(position, "truth"))
                lines[1:1] = [f"truth: {_truth(row)}"]
            right += agrees
            if overlay.is_file():
                shown.append(page.picture(_headless(overlay, entry), "detected", side=_SIDE))
            else:
                parts.append(page.missing(f"Not here: {overlay}, of heph-vl detect --out."))
            badge = "deformation told rightly" if agrees else ""
            cards.append(page.card(shown, lines, badge=badge))
        parts += [page.missing(f"Not read: {e['error']}") for e in entries if "error" in e]
    note = (
        "Left: outlines of what truly deforms; right: what the heads see, outlined by type. "
        f"Whether anything deforms is told rightly in {right} of {len(cards)}."
    )
    return page.paragraph(note) + page.grid(cards, least="26rem") + "".join(parts)


def described(folder: Path, pictures: Pictures) -> str:
    """What `heph-vl caption --explain explained --json` said, fact by fact, beside the truth.

    Args:
        folder: With `captions.json`, and `explained`.
        pictures: Of the dataset.

    Returns:
        Markup.
    """
    told = folder / "captions.json"
    if not told.is_file():
        return page.missing(f"Not here: {told}, of heph-vl caption --json.")
    parts = []
    with broken(told):
        for number_, entry in enumerate(_entries(told)):
            if "error" in entry:
                parts.append(page.missing(f"Not read: {entry['error']}"))
                continue
            said = _described(folder, entry, pictures)
            name = stem_of(Path(entry["image"]))
            first = number_ < _FIRST
            parts.append(page.heading(name) + said if first else page.details(name, said))
    note = (
        "Many texts are sampled for an image; the share of them that tells a fact is its "
        "confidence. The pictures are bright where a sentence comes from."
    )
    return page.paragraph(note) + "".join(parts)


def _described(folder: Path, entry: Mapping[str, Any], pictures: Pictures) -> str:
    position = pictures.find(Path(entry["image"]))
    explained = folder / "explained" / f"{stem_of(Path(entry['image']))}.explain.png"
    parts = []
    if explained.is_file():
        picture = Image.open(explained)
        parts.append(page.picture(picture, side=900, alt="Where each sentence comes from"))
    else:
        parts.append(page.missing(f"Not here: {explained}, of heph-vl caption --explain."))
        if position is not None:
            parts.append(page.card([pictures.plain(position, side=_SIDE)], []))
    truth = None if position is None else pictures.row(position)["caption"]
    parts.append(page.facts({"said": entry["caption"], "truth": truth or "not in the dataset"}))
    facts = [tuple(atom) for atom in entry["facts"]]
    reference = captions.parse(truth or "")
    right = agreeing(captions.parse(entry["caption"]), reference)
    rows = [
        [fact_in_words(atom), number(sure, ".2f"), _verdict(atom in right, truth)]
        for atom, sure in zip(facts, entry["fact_confidence"], strict=True)
    ]
    rows.append(["(anything deforms)", number(entry["deformation"], ".2f"),
                 "" if truth is None else "yes" if reference.patterns else "no"])  # fmt: skip
    return "".join([*parts, page.table(["fact", "confidence", "true"], rows)])


def _verdict(right: bool, truth: str | None) -> str:
    return "" if truth is None else "yes" if right else "no"


def _detected(entry: Mapping[str, Any]) -> str:
    there = entry["deformation"]["present"]
    probability = entry["deformation"]["probability"]
    text = f"detected: {'deformation' if there else 'none'} ({probability:.2f})"
    if there:
        best = [max(entry[name], key=entry[name].get) for name in ("activity_types", "intensity")]
        text += f", {best[0]} ({entry['activity_types'][best[0]]:.2f}), {best[1]}"
    motions = [p["motion"] for p in entry["polygons"] if p.get("motion")]
    if motions:
        sense = motions[0]["los_sense"]
        text += f"; largest {abs(motions[0]['centimetres']):.1f} cm"
        text += "" if sense == "unknown" else f" {sense}"
    air = max(entry["atmosphere"], key=entry["atmosphere"].get)
    return f"{text}; atmosphere {words(air)}"


def _truth(row: Mapping[str, Any]) -> str:
    kinds = [
        f"{kind} ({level})" if level else kind
        for kind, level in zip(row["activity_types"], row["intensities"], strict=True)
    ]
    return ", ".join(kinds) or "no deformation"


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HephError(str(path), f"cannot be read: {error}", "make it again") from error
    if not isinstance(found, list):
        raise HephError(str(path), "it holds no list", "write it with --json")
    return found


@contextmanager
def broken(path: Path) -> Iterator[None]:
    """Anything that a command does not write so is an error that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"not as heph-vl writes it ({type(error).__name__}: {error})"
        raise HephError(str(path), what, "make it again") from error


def _headless(overlay: Path, entry: Mapping[str, Any]) -> Image.Image:
    """An overlay without the text above it, which stands beside the picture here."""
    image = Image.open(overlay)
    width, height = entry["size"]
    return image.crop((0, image.height - round(image.width * height / width), *image.size))


def _decoded(image: Mapping[str, Any]) -> Image.Image:
    return Image.open(BytesIO(image["bytes"]))


def _grown(mask: Any) -> Any:
    """By one pixel to all four sides."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out
