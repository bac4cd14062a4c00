"""Anyone's captions for the benchmark: `predictions.jsonl`, written, read and checked.

One JSON object for each image, in any order; images that are not asked for are ignored:

    {"unique_id": 850, "caption": "A sill-type deformation pattern ...",
     "fact_confidence": [[["deformation", "1", "sill"], 0.8], ...], "deformation": 0.9}

`fact_confidence` and `deformation` (how sure it is that anything deforms) may be left out; each
atom of a `fact_confidence` must be told by the caption.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heph_vl.data import captions
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics.predictions import Gallery

FILE = "predictions.jsonl"
Confidence = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class CaptionPredictions:
    """Captions of a gallery's readable images, in its order.

    Attributes:
        positions: Of the n images in the gallery.
        texts: n captions.
        confidence: n times the confidence of each atom that is told, or None.
        deformation: n times how sure it is that anything deforms, or None.
        about: Where they come from, for the results.
        unreadable: Images left out, one line each.
    """

    positions: list[int]
    texts: list[str]
    confidence: list[Confidence] | None
    deformation: list[float] | None
    about: dict[str, Any]
    unreadable: list[str]


def caption_line(unique_id: int, text: str, confidence: Confidence, deformation: float) -> str:
    """The line of one image."""
    told = [[list(atom), p] for atom, p in sorted(confidence.items())]
    line = {"unique_id": unique_id, "caption": text, "fact_confidence": told}
    return json.dumps(line | {"deformation": deformation}, allow_nan=False)


def write_caption_predictions(folder: Path, lines: Iterable[str]) -> Path:
    """Write `predictions.jsonl` into a folder, made if need be; its path."""
    path = folder / FILE
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{line}\n" for line in lines))
    return path


def read_caption_predictions(
    path: Path, gallery: Gallery, excused: Callable[[int], str | None] = lambda position: None
) -> CaptionPredictions:
    """Captions, checked and put into the gallery's order.

    Args:
        path: A file as the module describes it.
        gallery: The images that must be there; others are ignored.
        excused: Why the image at a position of the gallery, which has no caption, cannot be read
            by anyone; None if it can.

    Returns:
        The captions of the readable gallery.

    Raises:
        HephError: With file and line, if anything is missing, repeated or of a wrong kind.
    """
    found: dict[int, tuple[str, Confidence | None, float | None]] = {}
    wanted = set(gallery.unique_ids)
    ignored = 0
    try:
        content = path.read_bytes()
        lines = content.decode().split("\n")  # captions may hold what splitlines cuts at
    except FileNotFoundError as error:
        raise HephError(str(path), "no such file", "give the .jsonl of your captions") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HephError(str(path), f"unreadable: {error}", "give UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        unique_id, text, confidence, share = _read_line(line, where)
        if unique_id in found:
            raise HephError(where, f"unique_id {unique_id} twice", "give each image once")
        if unique_id in wanted:
            found[unique_id] = text, confidence, share
        else:
            ignored += 1
    missing = [i for i, uid in enumerate(gallery.unique_ids) if uid not in found]
    # Where most are missing the file is of another split: no need to look at each image.
    look = len(missing) <= len(wanted) / 2
    reasons = {i: excused(i) for i in missing} if look else dict.fromkeys(missing)
    lost = [gallery.unique_ids[i] for i, reason in reasons.items() if reason is None]
    if lost:
        what = f"{len(lost)} of {len(wanted)} images missing, the first {lost[0]}"
        raise HephError(str(path), what, "give one line for each image of the split")
    kept = [i for i in range(len(gallery.unique_ids)) if i not in reasons]
    answers = [found[gallery.unique_ids[i]] for i in kept]
    sure = [confidence for _, confidence, _ in answers if confidence is not None]
    deformation = [sure_of for _, _, sure_of in answers if sure_of is not None]
    for name, given in (("fact_confidence", len(sure)), ("deformation", len(deformation))):
        if 0 < given < len(answers):
            what = f"{name} in {given} of {len(answers)} lines"
            raise HephError(str(path), what, "give it in all lines or in none")
    return CaptionPredictions(
        kept,
        [text for text, _, _ in answers],
        sure or None,
        deformation or None,
        {"predictions_sha256": hashlib.sha256(content).hexdigest(), "ignored_images": ignored},
        [str(reason) for reason in reasons.values()],
    )


def _read_line(line: str, where: str) -> tuple[int, str, Confidence | None, float | None]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HephError(where, f"not valid JSON ({error})", "write one object a line") from error
    if not isinstance(values, dict):
        raise HephError(where, "not an object", 'write {"unique_id": 850, "caption": "..."}')
    unique_id, text = values.get("unique_id"), values.get("caption")
    if type(unique_id) is not int:
        raise HephError(f"{where}: unique_id", f"{unique_id!r}", "give the image's number")
    if type(text) is not str:
        raise HephError(f"{where}: caption", f"{text!r}", "give a text")
    deformation = values.get("deformation")
    if deformation is not None:
        deformation = _probability(deformation, f"{where}: deformation")
    given = values.get("fact_confidence")
    if given is None:
        return unique_id, text, None, deformation
    atoms = captions.parse(text).atoms()
    try:
        confidence = {tuple(atom): p for atom, p in given}
    except (TypeError, ValueError) as error:
        fix = 'give [[["noise"], 0.9], ...]'
        raise HephError(f"{where}: fact_confidence", f"unreadable: {error}", fix) from error
    for atom, p in confidence.items():
        if atom not in atoms:
            what = f"{list(atom)} is not told by the caption"
            raise HephError(f"{where}: fact_confidence", what, "give only what it tells")
        confidence[atom] = _probability(p, f"{where}: fact_confidence")
    return unique_id, text, confidence, deformation


def _probability(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise HephError(where, f"{str(value)[:40]}", "give a number from 0 to 1")
    return float(value)
