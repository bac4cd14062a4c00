"""Deformation in files: labels with probabilities, mask, polygons, quality, an overlay picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heph_vl.errors import HephError

if TYPE_CHECKING:
    from heph_vl.models.prediction import Prediction

SUFFIXES = (".png", ".tif", ".tiff", ".npy")
# What lies beside interferograms.
_OTHERS = {".cc", ".unw", ".mask", ".los", ".overlay", ".explain"}
LEAST_AREA_PX = 12.0  # native pixels: smaller patches of a mask are not outlined
# As the classes of a mask: Mogi, dyke, sill, spheroid, earthquake, unidentified.
COLOURS = ("#00c853", "#d500f9", "#212121", "#00b8d4", "#ffab00", "#795548")


@dataclass(frozen=True)
class Picture:
    """An input file at 1/300 degree.

    Args:
        channels: (3, H, W) float32, model input.
        valid: (H, W) bool.
        wrapped_phase: (H, W) float32 [rad].
        size: Width and height of the file [px].
    """

    channels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    wrapped_phase: NDArray[np.float32]
    size: tuple[int, int]


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are; of folders, all pictures in them but coherence, unwrapped phase, masks.

    Args:
        paths: Files and folders.

    Returns:
        Files in order.

    Raises:
        HephError: A folder without any.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
        inside = [p for p in inside if not _OTHERS & set(p.suffixes)]
        if not inside:
            fix = f"give a folder with {', '.join(SUFFIXES)} files"
            raise HephError(str(path), "holds no interferogram", fix)
        found += inside
    return found


def read_picture(path: Path) -> Picture:
    """A LiCSAR PNG, GeoTIFF or numpy phase, with the coherence PNG beside it if there is one.

    Args:
        path: The file; `.geo.cc.png` is looked for beside a `.geo.diff.png`.

    Returns:
        The picture; what is finer than 1/300 degree is averaged as phasors.

    Raises:
        HephError: It cannot be read, is no interferogram, or has no valid phase.
    """
    from heph_vl.data import phase
    from heph_vl.data.images import read_coherence
    from heph_vl.data.samples import decoded_pixels

    decoded = phase.read_interferogram(path)
    wrapped, valid = decoded.wrapped_phase, decoded.valid
    height, width = wrapped.shape
    coherence = None
    beside = path.with_name(path.name.replace(".geo.diff.png", ".geo.cc.png"))
    if beside != path and beside.is_file():
        coherence = read_coherence(beside.read_bytes(), wrapped.shape, str(beside))
    factor = phase.NATIVE_SPACING_DEG / (decoded.spacing_deg or phase.NATIVE_SPACING_DEG)
    if factor > 1.05:
        z, valid = phase.resample_phasor(phase.phasor(wrapped, valid), valid, factor)
        wrapped, coherence = np.angle(z).astype(np.float32), None
    if not valid.any():
        raise HephError(str(path), "no valid phase", "the whole image is no-data")
    channels, valid = decoded_pixels(wrapped, valid, coherence)
    return Picture(channels, valid, wrapped, (width, height))


def detect(
    paths: Sequence[Path], model: Path, out: Path | None = None
) -> Iterator[dict[str, Any] | HephError]:
    """What the heads see in each file.

    Args:
        paths: Image files.
        model: Folder of the heads.
        out: Where to write `<stem>.mask.png` (uint8 class ids, size of the file) and
            `<stem>.overlay.png`; nowhere if none.

    Yields:
        For each file its entry (see DESIGN's shell contract), or the error that kept it out.

    Raises:
        HephError: The model cannot be loaded, or two files would write one name.
    """
    import torch

    from heph_vl.models.heads import Heads

    heads = Heads.from_pretrained(model)
    if out is not None:
        check_names(paths, out)
    for path in paths:
        try:
            picture = read_picture(path)
            found = heads.predict(
                torch.from_numpy(picture.channels), torch.from_numpy(picture.valid)
            )
            yield _entry(path, picture, found, out)
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


def stem_of(path: Path) -> str:
    """`20200101_20200113` of `20200101_20200113.geo.diff.png`."""
    return path.name.split(".geo.")[0] if ".geo." in path.name else path.stem


def _entry(path: Path, picture: Picture, found: "Prediction", out: Path | None) -> dict[str, Any]:
    row: dict[str, Any] = found.row(0)
    mask = found.mask if found.mask is not None else np.zeros(picture.valid.shape, np.uint8)
    probability = found.mask_probability
    scale = picture.size[0] / mask.shape[1], picture.size[1] / mask.shape[0]
    polygons = outlines(mask, probability, scale)
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
