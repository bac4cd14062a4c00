"""What the tabs of the app compute, from the values of the page to what is shown.

Nothing here knows the page; `heph_vl.app` is the page. Each of `search`, `detect`, `caption` and
`generate` takes an empty folder for the files of its answer, and checks what it is given: a request
need not come from the page.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from heph_vl.errors import HephError
from heph_vl.files import read_object
from heph_vl.once import Models
from heph_vl.uploads import read_upload, take_upload

if TYPE_CHECKING:
    from heph_vl.index import Hit
    from heph_vl.models.captioner import Captioner

MAX_TEXT = 1000  # characters; the longest real caption has 600
MAX_RESULTS, MAX_DRAWN, MAX_STEPS, MAX_GUIDANCE = 50, 8, 50, 8
CALM = "no deformation"
_SHOWN_PX = 640  # side to which small pictures are enlarged, in whole pixels

Table = list[list[str]]


def search(
    models: Models,
    work: Path,
    text: str | None,
    image: str | None,
    coherence: str | None,
    kinds: Sequence[str] | None,
    frame: str | None,
    since: str | None,
    until: str | None,
    more: str | None,
    number: float,
    heat: bool,
) -> tuple[list[tuple[Image.Image, str]], Table, str]:
    """Interferograms that fit a text or look like an upload.

    Args:
        models: What is asked.
        work: Empty folder.
        text: What to look for; or
        image: Path of an upload to compare with.
        coherence: Path of its coherence.
        kinds: See `wanted`; so are `frame`, `since`, `until` and `more`.
        frame: Filter.
        since: Filter.
        until: Filter.
        more: Filter.
        number: Of results.
        heat: Dim the pictures where they do not agree with the question.

    Returns:
        Pictures with a line each, a row for each, and how the question was read.

    Raises:
        HephError: A bad text, upload or filter.
    """
    from heph_vl.sheet import spotlight

    where = wanted(kinds, frame, since, until, more)
    path = take_upload(work, image, coherence) if image is not None else None
    k = _within("number of results", number, 1, MAX_RESULTS)
    found = models.searcher.ask(
        lambda searcher: searcher.search(
            text=text or None,
            image=path,
            k=k,
            where=where,
            heat=heat,
            data=models.data,
        )
    )
    pictures, rows = [], []
    for i, (hit, thumbnail) in enumerate(zip(found.hits, found.thumbnails, strict=True)):
        picture = Image.new("RGBA", (192, 192), "white")
        if thumbnail is not None:
            picture = Image.open(BytesIO(thumbnail)).convert("RGBA")
        shown = found.heat[i] if found.heat else None
        pictures.append((picture if shown is None else spotlight(picture, shown), _line_of(hit)))
        rows.append(_row_of(hit))
    notes = [f"Read as: {found.read_as}"] if found.read_as else []
    if found.not_understood:
        notes.append(f"Not understood: {', '.join(found.not_understood)}")
    notes += [f"No heat map: {problem}" for problem in found.problems]
    if not found.hits:
        notes.append("Nothing passes these filters.")
    return pictures, rows, "\n".join(notes)


def _line_of(hit: "Hit") -> str:
    kinds = ", ".join(dict.fromkeys(hit.row["activity_types"] or [])) or "no deformation noted"
    return f"{hit.rank}.  {hit.score:.3f}  {kinds}"


def _row_of(hit: "Hit") -> list[str]:
    row = hit.row
    dates = " to ".join(row[name] for name in ("primary_date", "secondary_date") if row[name])
    told = row["frame_id"] or row["image_id"], dates, row["caption"] or "", row["source"] or ""
    return [str(hit.rank), f"{hit.score:.3f}", *map(str, told)]


def wanted(
    kinds: Sequence[str] | None,
    frame: str | None,
    since: str | None,
    until: str | None,
    more: str | None,
) -> str | None:
    """A filter of `heph_vl.where` of what was filled in.

    Args:
        kinds: Types of deformation, any of them; `CALM` for none.
        frame: Name of a frame.
        since: Earliest first date.
        until: Latest second date.
        more: A filter that holds beside these.

    Returns:
        All of them together; None if nothing was filled in.
    """
    kinds = kinds or ()
    any_of = ["label = 'Non_Deformation'"] if CALM in kinds else []
    types = [_quoted(kind) for kind in kinds if kind != CALM]
    if types:
        any_of.append(f"activity_types IN ({', '.join(types)})")
    parts = [f"({' OR '.join(any_of)})"] if any_of else []
    fields = ("frame_id =", frame), ("primary_date >=", since), ("secondary_date <=", until)
    for comparison, value in fields:
        if value and value.strip():
            parts.append(f"{comparison} {_quoted(value.strip())}")
    if more and more.strip():
        parts.append(f"({more.strip()})")
    return " AND ".join(parts) or None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def caption(
    models: Models, work: Path, image: str | None, coherence: str | None
) -> tuple[str, Table, str, str]:
    """What is in an upload, in words.

    Args:
        models: What is asked.
        work: Empty folder.
        image: Path of the upload.
        coherence: Path of its coherence, if there is one.

    Returns:
        Caption, a row for each fact, path of a picture of where each sentence comes from, notes.

    Raises:
        HephError: A bad upload.
    """
    from heph_vl.caption import caption_picture, draw_explained, fact_in_words

    picture = read_upload(work, image, coherence)
    drawn = work / "explained.png"

    def look(captioner: "Captioner") -> Any:
        answer = caption_picture(captioner, picture)
        draw_explained(captioner, picture, answer, drawn, "The whole, and where each sentence is")
        return answer

    answer = models.captioner.ask(look)
    rows = [[fact_in_words(atom), f"{p:.2f}"] for atom, p in sorted(answer.confidence.items())]
    notes = [
        f"{answer.deformation:.0%} of {len(answer.samples)} sampled texts tell a deformation.",
        _about_coherence(picture.measured),
    ]
    return answer.text or "(nothing)", rows, str(drawn), " ".join(notes)


def detect(
    models: Models, work: Path, image: str | None, coherence: str | None
) -> tuple[Image.Image, str, Table, Table, list[str]]:
    """What deforms in an upload, and whether it is any good.

    Args:
        models: What is asked.
        work: Empty folder.
        image: Path of the upload.
        coherence: Path of its coherence, if there is one.

    Returns:
        Overlay, summary, a row for each label, a row for each outline, and paths of mask and map;
        there is a map where the upload says where it lies.

    Raises:
        HephError: A bad upload.
    """
    from heph_vl.detect import look
    from heph_vl.maps import made_by, write_map

    picture = read_upload(work, image, coherence)
    entry, model_id = models.heads.ask(lambda heads: (look(picture, heads, work), heads.model_id))
    overlay = Image.open(next(work.glob("*.overlay.png")))
    overlay.load()
    files = [entry["mask"]]
    notes = [_summary(entry)]
    if picture.place is not None:
        path = Path(entry["mask"].replace(".mask.png", ".outlines.geojson"))
        count = write_map(path, [entry], made_by(models.folders["heads"], model_id))
        files.append(str(path))
        notes.append(f"Outlines in the GeoJSON: {count}.")
    else:
        notes.append("The file does not say where it lies: no GeoJSON.")
    notes.append(_about_coherence(picture.measured))
    groups = ("activity_types", "intensity", "volcano_phase", "atmosphere", "quality")
    rows = [
        [group.replace("_", " "), label.replace("_", " "), f"{p:.2f}"]
        for group in groups
        for label, p in entry[group].items()
    ]
    return _enlarged(overlay), " ".join(notes), rows, _outline_rows(entry), files


def _summary(entry: dict[str, Any]) -> str:
    there = entry["deformation"]
    flags = [name.replace("_", " ") for name, p in entry["quality"].items() if p >= 0.5]
    said = "Deformation" if there["present"] else "No deformation"
    quality = f"quality flags: {', '.join(flags)}" if flags else "no quality flag"
    return f"{said} (probability {there['probability']:.2f}); {quality}."


def _outline_rows(entry: dict[str, Any]) -> Table:
    rows = []
    for found in entry["polygons"]:
        motion = found["motion"]
        moved = "-"
        if motion is not None:
            moved = f"{abs(motion['centimetres']):.1f} cm ({abs(motion['fringes']):.2f} fringes), "
            sense = motion["los_sense"]
            moved += "sense unknown" if sense == "unknown" else sense
        near = ", ".join(one["name"] for one in found.get("volcanoes", [])) or "-"
        rows.append([found["type"], f"{found['probability']:.2f}", moved, near])
    return rows


def generate(
    models: Models,
    work: Path,
    prompt: str | None,
    number: float,
    seed: float,
    steps: float,
    guidance: float | None,
    palette: str,
) -> tuple[list[tuple[str, str]], str]:
    """Interferograms of a sentence.

    Args:
        models: What is asked.
        work: Empty folder.
        prompt: What is to be seen; empty: anything.
        number: Of pictures.
        seed: Of all randomness.
        steps: Of the sampler.
        guidance: How closely to follow the text; None: the model's own.
        palette: "new" or "old".

    Returns:
        Paths of pictures with a line each, phase beside coherence, and how the sentence was read.

    Raises:
        HephError: The text is too long, or a number out of range.
    """
    from heph_vl.generate import Request, draw
    from heph_vl.models.pipeline import NOTICE
    from heph_vl.sheet import tile_pictures

    prompt = prompt or ""
    if len(prompt) > MAX_TEXT:
        raise HephError("text", f"it has {len(prompt)} characters", f"use at most {MAX_TEXT}")
    if guidance is not None:
        _within("guidance", guidance, 0, MAX_GUIDANCE)
    request = Request(
        prompt,
        _within("number", number, 1, MAX_DRAWN),
        _within("steps", steps, 1, MAX_STEPS),
        guidance,
        palette=palette,
    )
    start = _within("seed", seed, 0, 2**53)  # what a browser's numbers can hold
    (drawn,) = models.generator.ask(lambda pipeline: list(draw(pipeline, request, start)))
    tiles = []
    for i, pair in enumerate(zip(drawn.images, drawn.coherence_images, strict=True), start=1):
        path = work / f"generated_{i}.png"
        both = np.concatenate([np.asarray(part.convert("RGB")) for part in pair], axis=1)
        line = f"{i}: {request.text or 'anything'} Phase, and coherence. {NOTICE.capitalize()}."
        tile_pictures([(line, Image.fromarray(both))], path, columns=1, scale=4)
        tiles.append((str(path), f"{i}: {NOTICE}"))
    notes = [f"Read as: {request.text or '(anything)'}"]
    if request.facts.unexplained:
        notes.append(f"Not understood: {', '.join(request.facts.unexplained)}")
    return tiles, "\n".join(notes)


def own_guidance(folder: Path) -> float:
    """What a generator takes if it is not told."""
    found = read_object(folder / "model_index.json", "name the folder of a generator")
    return float(found.get("guidance_scale", 2.0))


def _within(name: str, value: float, least: int, most: int) -> int:
    if not isinstance(value, int | float) or not least <= value <= most:
        raise HephError(name, f"{value}", f"use {least} to {most}")
    return int(value)


def _about_coherence(measured: bool) -> str:
    return f"Coherence is {'measured' if measured else 'estimated from the phase'}."


def _enlarged(picture: Image.Image) -> Image.Image:
    scale = max(1, _SHOWN_PX // max(picture.size))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
