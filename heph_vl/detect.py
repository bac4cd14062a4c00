"""Deformation in files: labels with probabilities, mask, polygons, quality, an overlay picture."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.archive import dates_of, frame_of, source_of
from heph_vl.data.picture import Box, Layers, Picture, read_layers, read_picture, stem_of
from heph_vl.data.volcanoes import nearest
from heph_vl.errors import HephError

if TYPE_CHECKING:
    from heph_vl.models.heads import Heads
    from heph_vl.motion import Change

LEAST_AREA_PX = 12.0  # native pixels: smaller patches of a mask are not outlined
# As the classes of a mask: Mogi, dyke, sill, spheroid, earthquake, unidentified.
COLOURS = ("#00c853", "#d500f9", "#212121", "#00b8d4", "#ffab00", "#795548")


def detect(
    paths: Sequence[Path], heads: "Heads", out: Path | None = None, bbox: Box | None = None
) -> Iterator[dict[str, Any] | HephError]:
    """What the heads see in each file.

    Args:
        paths: Image files.
        heads: The model.
        out: Where to write `<stem>.mask.png` (uint8 class ids, size of the file, or of the box) and
            `<stem>.overlay.png`; nowhere if none.
        bbox: Look into this box only: west, south, east, north [deg].

    Yields:
        For each file its entry (see DESIGN's shell contract), or the error that kept it out.

    Raises:
        HephError: Two files would write one name.
    """
    if out is not None:
        check_names(paths, out)
    for path in paths:
        try:
            yield look(read_picture(path, bbox), heads, out)
        except HephError as problem:
            yield problem


def check_names(paths: Sequence[Path], out: Path) -> None:
    """Make a folder for files named after images; two of one name are an error.

    Args:
        paths: The images.
        out: The folder.

    Raises:
        HephError: Two would write one file, or the folder cannot be made.
    """
    from heph_vl.files import writing

    names = [stem_of(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise HephError(str(out), f"two images are named {twice}", "give them one by one")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def look(picture: Picture, heads: "Heads", out: Path | None = None) -> dict[str, Any]:
    """What the heads see in a picture.

    Args:
        picture: Of `read_picture`.
        heads: The model.
        out: As for `detect`.

    Returns:
        Its entry. Polygons are in pixels of the file, or of the box, whose `corner` in the file is
        told; `frame_files` says what is wrong with look vector or height, if anything is.

    Raises:
        HephError: A file cannot be written.
    """
    import torch

    path = picture.path
    found = heads.predict(torch.from_numpy(picture.channels), torch.from_numpy(picture.valid))
    row: dict[str, Any] = found.row(0)
    mask = found.mask if found.mask is not None else np.zeros(picture.valid.shape, np.uint8)
    probability = found.mask_probability
    scale = picture.scale
    polygons = outlines(mask, probability, scale)
    level = max(row["intensities"], key=row["intensities"].__getitem__)
    for outline in polygons:
        outline["intensity"] = None if outline["type"] == "earthquake" else level
    layers, problem = Layers(None, None), None
    try:
        layers = read_layers(picture, look=bool(polygons))
    except HephError as error:  # what is seen is seen, whatever is wrong with the frame's files
        problem = str(error)
    height = _look_at_ground(picture, mask, polygons, layers)
    entry: dict[str, Any] = {
        "image": str(path),
        "deformation": {
            "probability": found.deformation,
            "present": bool(found.present["deformation"][0]),
        },
        "activity_types": row["activity_types"],
        "intensity": row["intensities"],
        "volcano_phase": row["volcano_phase"],
        "atmosphere": row["atmosphere"],
        "quality": row["quality"],
        "polygons": polygons,
        "mask": None,
        "coherence": "measured" if picture.measured else "estimated",
        **_where_and_when(picture),
        "height": height,
        "frame_files": problem,
    }
    if out is not None:
        from PIL import Image

        from heph_vl.files import write_bytes

        target = out / f"{stem_of(path)}.mask.png"
        full = Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST)
        write_bytes(target, _png(full))
        entry["mask"] = str(target)
        write_bytes(out / f"{stem_of(path)}.overlay.png", _png(overlay(picture, entry, scale)))
    return entry


def _where_and_when(picture: Picture) -> dict[str, Any]:
    """Dates by the file's name, place by its tags, and the volcanoes near its middle."""
    dates = dates_of(stem_of(picture.path))
    height, width = picture.valid.shape
    found: dict[str, Any] = {
        "frame_id": frame_of(picture.path),
        "primary_date": None if dates is None else dates[0].isoformat(),
        "secondary_date": None if dates is None else dates[1].isoformat(),
        "source": source_of(*picture.path.resolve().parents),
        "corner": list(picture.corner),
        "size": [width, height],
        "scale": [round(v, 6) for v in picture.scale],
        "bbox": None,
        "volcanoes": [],
    }
    if picture.place is not None:
        west, north = picture.place.lonlat(0, 0)
        east, south = picture.place.lonlat(width, height)
        found["bbox"] = [round(v, 6) for v in (west, south, east, north)]
        found["volcanoes"] = [name for name, _ in nearest((west + east) / 2, (south + north) / 2)]
    return found


def _look_at_ground(
    picture: Picture, mask: NDArray[np.uint8], polygons: list[dict[str, Any]], layers: Layers
) -> dict[str, Any] | None:
    """Add to each polygon how it moved and where it lies; how phase goes with height, if known."""
    from heph_vl.data.raster import fill
    from heph_vl.motion import height_fit, los_change, surroundings

    deforming, coherence = mask > 0, picture.channels[2]
    for found in polygons:
        ring = [(x / picture.scale[0], y / picture.scale[1]) for x, y in found["polygon"]]
        near = surroundings(ring, mask.shape)  # there may be a thousand patches
        drawn = np.zeros(mask[near].shape, np.uint8)
        fill(drawn, [(x - near[1].start, y - near[0].start) for x, y in ring], 1)
        pattern = drawn > 0
        change = los_change(
            picture.wrapped_phase[near],
            picture.valid[near],
            coherence[near],
            pattern,
            deforming[near] & ~pattern,
        )
        found["motion"] = None if change is None else _motion(change, picture.sense_known)
        if picture.place is not None:
            found["lonlat"] = [[round(v, 6) for v in picture.place.lonlat(*xy)] for xy in ring]
            middle = np.mean(found["lonlat"], axis=0)
            volcanoes = nearest(float(middle[0]), float(middle[1]))
            found["volcanoes"] = [{"name": name, "km": km} for name, km in volcanoes]
        if layers.look_vector is not None:
            vectors = layers.look_vector[:, *near][:, pattern]
            vectors = vectors[:, np.isfinite(vectors).all(axis=0)]
            mean = vectors.mean(axis=1) if vectors.size else None
            found["look_vector"] = None if mean is None else [round(float(v), 4) for v in mean]
    if layers.height is None:
        return None
    fit = height_fit(picture.wrapped_phase, picture.valid, coherence, layers.height, deforming)
    if fit is None:
        return None
    return {
        "correlation": round(fit.correlation, 3),
        "rad_per_km": round(fit.rad_per_km, 2),
        "warning": "phase follows height: a stratified atmosphere may look like deformation"
        if fit.significant
        else None,
    }


def _motion(change: "Change", sense_known: bool) -> dict[str, Any]:
    """Of a pattern, for JSON; without a sign where the palette's sense is not known."""
    sign = 1.0 if sense_known else np.sign(change.fringes)
    return {
        "los_sense": change.sense if sense_known else "unknown",
        "fringes": round(float(sign * change.fringes), 2),
        "centimetres": round(float(sign * change.centimetres), 2),
        "surroundings_fringes": round(change.noise_fringes, 2),
    }


def outlines(
    mask: NDArray[np.uint8],
    probability: NDArray[np.float32] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> list[dict[str, Any]]:
    """Outlines of the connected patches of a mask, the largest first.

    Args:
        mask: (H, W) uint8 class ids.
        probability: (H, W) float32 of deformation, meaned over each patch.
        scale: Factors on x and y, for files that are finer than the mask.

    Returns:
        For each patch `type` (the class of most of its pixels), `probability`, and `polygon`,
        [[x, y], ...] in pixels of the file.
    """
    import contourpy
    from scipy import ndimage

    from heph_vl.data.annotations import ACTIVITY_TYPES

    pieces, count = ndimage.label(mask > 0, structure=np.ones((3, 3)))
    areas = np.bincount(pieces.ravel(), minlength=count + 1).tolist()
    found: list[tuple[int, dict[str, Any]]] = []
    # A noisy mask has a thousand patches: each is looked at in its own box, not in the whole image.
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        area = areas[number]
        if area < LEAST_AREA_PX:
            continue
        piece = pieces[box] == number
        filled = np.pad(ndimage.binary_fill_holes(piece).astype(float), 1)
        rings: Any = contourpy.contour_generator(z=filled).lines(0.5)
        ring = max(rings, key=len)[:-1] - 0.5  # padded by 1; the centre of pixel i is i + 0.5
        ring += (box[1].start, box[0].start)
        kind = int(np.bincount(mask[box][piece]).argmax())
        level = 1.0 if probability is None else float(probability[box][piece].mean())
        polygon = [[round(float(x * scale[0]), 2), round(float(y * scale[1]), 2)] for x, y in ring]
        found.append(
            (area, {"type": ACTIVITY_TYPES[kind - 1], "probability": level, "polygon": polygon})
        )
    return [entry for _, entry in sorted(found, key=lambda item: -item[0])]


def overlay(picture: Picture, entry: dict[str, Any], scale: tuple[float, float]) -> Any:
    """The phase in LiCSAR's colours with outlines and labels: an RGB image at 1/300 degree."""
    from PIL import Image, ImageDraw

    from heph_vl.data import phase
    from heph_vl.data.annotations import ACTIVITY_TYPES

    image = Image.fromarray(phase.colour(picture.wrapped_phase, picture.valid))
    page = Image.new("RGB", (image.width, image.height + 34), "white")
    page.paste(image, (0, 34))
    pen = ImageDraw.Draw(page)
    for found in entry["polygons"]:
        colour = COLOURS[ACTIVITY_TYPES.index(found["type"])]
        ring = [(x / scale[0], y / scale[1] + 34) for x, y in found["polygon"]]
        pen.line([*ring, ring[0]], fill="white", width=4)
        pen.line([*ring, ring[0]], fill=colour, width=2)
        x, y = max(x for x, _ in ring), min(y for _, y in ring)
        pen.text(
            (x + 3, y),
            f"{found['type']} {found['probability']:.2f}",
            "black",
            stroke_width=2,
            stroke_fill="white",
        )
    deformation = entry["deformation"]
    groups: list[dict[str, float]] = [
        entry[name] for name in ("activity_types", "intensity", "atmosphere")
    ]
    kind, level, air = (max(group, key=lambda name: group[name]) for group in groups)
    flags = [name for name, p in entry["quality"].items() if p >= 0.5]
    first = f"deformation {deformation['probability']:.2f}"
    if deformation["present"]:
        first += f": {kind}, {level}"
    pen.text((3, 2), first, "black")
    pen.text((3, 17), f"atmosphere {air}; {', '.join(flags) or 'no quality flag'}", "black")
    return page


def _png(image: Any) -> bytes:
    buffer = BytesIO()
    # Grain hardly compresses: the usual level takes more than twice as long for the same size.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
