"""A seeded tiny archive in the raw layout: real frame ids, palette PNGs, coherence, annotations.

The interferograms are drawn, not simulated: smooth phase with grain in the sea, a slanted
footprint without data outside it, and fringes around each polygon.
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heph_vl.data.palettes import new_table

# Real frames of five groups of volcanoes; in the split `grouped`: train, val, test, train, train.
# Their number is odd, so that each has deforming and undeforming interferograms.
FRAMES = (
    "128D_09016_110500",
    "169D_00001_020800",
    "124D_05291_081406",
    "087D_07004_060904",
    "156A_05796_080500",
)
TYPES = ("Sill", "Mogi", "Dyke")
REGIONS = (
    ("top-left", "top", "top-right"),
    ("left", "center", "right"),
    ("bottom-left", "bottom", "bottom-right"),
)
NO_DATA = 255  # palette index of the transparent white outside the swath


def draw_pair(
    width: int, height: int, polygons: Sequence[Sequence[float]], rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A palette interferogram (transparent outside the swath) and a grey coherence image."""
    rows, columns = np.mgrid[:height, :width]
    u, v = columns / width, rows / height
    a, b, c = rng.uniform(2, 9, 3)
    phase = a * np.sin(3 * u + b) + c * np.cos(4 * v + u)
    for polygon in polygons:
        corners = np.reshape(polygon, (-1, 2))
        x, y = corners.mean(axis=0)
        radius = np.ptp(corners, axis=0).max() / 2
        phase = phase + 15 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / radius**2)
    sea = (u - 0.85) ** 2 + (v - 0.15) ** 2 < 0.05
    phase = np.where(sea, rng.uniform(-np.pi, np.pi, phase.shape), phase)
    valid = np.abs(u - 0.5 - 0.1 * (v - 0.5)) < 0.46
    steps, table = new_table()
    wrapped = np.angle(np.exp(1j * phase))
    index = np.clip((wrapped - steps[0]) / (steps[1] - steps[0]) + 0.5, 0, len(steps) - 1)
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(table)] = np.rint(table)
    image = Image.fromarray(np.where(valid, index, NO_DATA).astype(np.uint8))
    image.putpalette(palette.tobytes())
    image.info["transparency"] = NO_DATA
    coherence = np.where(sea, 25, 210) + rng.integers(-20, 20, phase.shape)
    return image, Image.fromarray(np.where(valid, coherence, 0).astype(np.uint8))


def ring(x: float, y: float, radius: float, corners: int = 12) -> list[float]:
    """A flat polygon [x0, y0, x1, y1, ...] around (x, y)."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    return [float(value) for value in points.ravel()]


def record(
    unique_id: int, frame_id: str, primary: date, secondary: date, **changes: Any
) -> dict[str, Any]:
    """A raw annotation of an undeforming interferogram, with some fields changed."""
    return {
        "uniqueID": unique_id,
        "frameID": frame_id,
        "primary_date": f"{primary:%Y%m%d}",
        "secondary_date": f"{secondary:%Y%m%d}",
        "corrupted": 0,
        "processing_error": 0,
        "glacier_fringes": 0,
        "orbital_fringes": 0,
        "atmospheric_fringes": 2,
        "low_coherence": 0,
        "no_info": 0,
        "image_artifacts": 0,
        "label": ["Non_Deformation"],
        "activity_type": [],
        "intensity_level": [],
        "phase": "Rest",
        "confidence": 0.8,
        "segmentation_mask": [],
        "is_crowd": 0,
        "caption": "Turbulent mixing effect can be detected around the area. "
        "No deformation activity can be detected. ",
    } | changes


def pair_folder(root: Path, raw: dict[str, Any]) -> Path:
    """Where the images of a raw annotation lie."""
    name = f"{raw['primary_date']}_{raw['secondary_date']}"
    return root / raw["frameID"] / "interferograms" / name


def write_images(
    root: Path, raw: dict[str, Any], size: int | tuple[int, int], rng: np.random.Generator
) -> Path:
    """Draw and write both images of a raw annotation; returns the interferogram's path."""
    folder = pair_folder(root, raw)
    folder.mkdir(parents=True, exist_ok=True)
    width, height = (size, size) if isinstance(size, int) else size
    image, coherence = draw_pair(width, height, raw["segmentation_mask"], rng)
    path = folder / f"{folder.name}.geo.diff.png"
    image.save(path, transparency=NO_DATA)
    coherence.save(folder / f"{folder.name}.geo.cc.png")
    return path


def write_annotation(root: Path, raw: dict[str, Any]) -> Path:
    """Write a raw annotation as `<root>/annotations/<uniqueID>.json`."""
    path = root / "annotations" / f"{raw['uniqueID']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw))
    return path


def write_fake_archive(
    root: Path,
    n: int = 6,
    size: int | tuple[int, int] = 96,
    seed: int = 0,
    frames: Sequence[str] = FRAMES,
) -> list[dict[str, Any]]:
    """Write an archive of `n` annotated interferograms, every other one deforming.

    Interferogram i has uniqueID i + 1 and frame i modulo the number of frames; odd ones have one
    deformation polygon, every fourth of those a second one.

    Args:
        root: Folder to create.
        n: Number of interferograms.
        size: Side, or width and height, in pixels.
        seed: Same seed, same files.
        frames: Frame ids to use in turn.

    Returns:
        The raw annotations written.
    """
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        primary = date(2016, 1, 4) + timedelta(days=12 * (i // len(frames)))
        raw = record(i + 1, frames[i % len(frames)], primary, primary + timedelta(days=12))
        if i % 2:
            raw |= _deformation(size, 1 + (i % 8 == 7), i, rng)
        write_images(root, raw, size, rng)
        write_annotation(root, raw)
        records.append(raw)
    return records


def _deformation(
    size: int | tuple[int, int], count: int, i: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Fields of a record with `count` polygons, each in a cell of the 3 x 3 grid."""
    width, height = (size, size) if isinstance(size, int) else size
    cells = rng.permutation([0, 1, 3, 4, 6, 7])[:count]  # not the right, where the sea is
    polygons, said = [], []
    kinds = [TYPES[(i // 2 + k) % len(TYPES)] for k in range(count)]
    for kind, cell in zip(kinds, cells, strict=True):
        row, column = divmod(int(cell), 3)
        x = (column + rng.uniform(0.45, 0.55)) * width / 3
        y = (row + rng.uniform(0.45, 0.55)) * height / 3
        polygons.append(ring(x, y, min(width, height, 480) / 14))
        said.append((kind.lower(), REGIONS[row][column]))
    caption = " ".join(
        f"A {kind}-type deformation pattern of high intensity can be detected on the {place} "
        "side of the image."
        for kind, place in said
    )
    return {
        "label": ["Deformation"],
        "activity_type": kinds,
        "intensity_level": ["High"] * count,
        "phase": "Unrest",
        "segmentation_mask": polygons,
        "is_crowd": int(count > 1),
        "caption": f"Turbulent mixing effect can be detected around the area. {caption}",
    }
