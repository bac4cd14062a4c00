"""Patches of an interferogram, as in section 2.5 of the paper: crops of deformation, else tiles.

A deforming interferogram gives one crop for each deformation instance, which contains the whole
instance whenever it fits. Any other one is tiled: tiles do not overlap, except that the last
column and row are aligned to the right and bottom edge when the side is no multiple of the tile.
Tiles keep the numbers of the published patches (row by row over the tiles that fit); those at the
edge, which the published patches lack, are numbered after them. An image smaller than a patch is
one patch of its own size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import captions
from heph_vl.data.annotations import INTENSITIES, Annotation, Event
from heph_vl.data.native import NativePair, data_meter
from heph_vl.data.raster import CLASS_IDS, rasterise_instances

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the interferogram; x1 and y1 are the first ones outside."""

PATCH_SIZE = 224
_EARTHQUAKE_INTENSITY = 3
_PHASE_CODE = {"rest": 0, "unrest": 1, "rebound": 2, "none": 0}


@dataclass(frozen=True)
class PatchConfig:
    """How interferograms are cut.

    Attributes:
        size: Side of a patch in pixels.
        jitter: Seed of the random place of a deformation in its crop, drawn for each record and
            instance; None: in the middle, as far as the image's edges allow.
        min_valid: Least share of pixels with data that a tile must have.
    """

    size: int = PATCH_SIZE
    jitter: int | None = 0
    min_valid: float = 0.05


@dataclass(frozen=True)
class Patch:
    """A window of an interferogram with what is inside it.

    Attributes:
        name: `<uniqueID>_<k>`, or `<uniqueID>` for the only crop of a record.
        window: Where it was cut.
        subject: The event that the crop was cut for, None for tiles.
        events: Events with at least one pixel inside; polygons in pixels of the patch, which may
            reach over its edge.
        image: Part of the interferogram, in its mode and palette.
        coherence: (h, w) uint8, coherence x 255, or None.
        mask: (h, w) uint8 class ids.
    """

    name: str
    window: Window
    subject: Event | None
    events: tuple[Event, ...]
    image: Image.Image
    coherence: NDArray[np.uint8] | None
    mask: NDArray[np.uint8]


def cut_patches(
    annotation: Annotation, native: NativePair, config: PatchConfig, counts: Counter[str]
) -> list[Patch]:
    """All patches of an interferogram; nothing is decoded again.

    Args:
        annotation: Its record.
        native: Its images, with the record's events in pixels of them.
        config: Size, jitter and least valid share.
        counts: Gets `crops`, `tiles`, `tiles_without_data`, `crops_cut` (deformation larger than
            a patch) and `deformations_without_polygon`.

    Returns:
        Crops in the order of the events, or tiles in the order of their numbers.
    """
    if not annotation.events:
        return _tiles(annotation, native, config, counts)
    outlined = [i for i, event in enumerate(native.events) if event.polygon]
    counts["deformations_without_polygon"] += len(native.events) - len(outlined)
    instances = rasterise_instances(native.events, native.size)
    patches = []
    for number, index in enumerate(outlined):
        subject = native.events[index]
        rng = None
        if config.jitter is not None:
            rng = np.random.default_rng((config.jitter, annotation.unique_id, index))
        window = crop_window(subject.polygon or (), native.size, config.size, rng)
        name = f"{annotation.unique_id}" + (f"_{number}" if len(outlined) > 1 else "")
        patch = _cut(name, window, native.image.crop(window), native, subject, instances)
        counts["crops"] += 1
        counts["crops_cut"] += not contains(window, subject)
        patches.append(patch)
    return patches


def crop_window(
    polygon: Sequence[tuple[float, float]],
    image_size: tuple[int, int],
    size: int,
    rng: np.random.Generator | None = None,
) -> Window:
    """A square window around a polygon, inside the image.

    Args:
        polygon: Corners in pixels, inside the image.
        image_size: Width and height in pixels.
        size: Side of the window; an image's shorter side limits it.
        rng: Draws the place among all that contain the polygon; None: the polygon in the middle.

    Returns:
        The window; it contains the polygon unless that is larger than the window.
    """
    starts, sides = [], []
    for values, length in zip(zip(*polygon, strict=True), image_size, strict=True):
        side = min(size, length)
        first, last = ceil(max(values)) - side, floor(min(values))
        middle = round((min(values) + max(values) - side) / 2)
        if first > last:  # larger than the window: its middle
            first = last = middle
        first, last, middle = (min(max(x, 0), length - side) for x in (first, last, middle))
        starts.append(middle if rng is None else int(rng.integers(first, last + 1)))
        sides.append(side)
    return starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1]


def tile_windows(image_size: tuple[int, int], size: int) -> list[Window]:
    """Windows that cover an image, in the order of their numbers (see the top of this file).

    Args:
        image_size: Width and height in pixels.
        size: Side of a tile.

    Returns:
        Windows inside the image.
    """
    (columns, whole_columns), (rows, whole_rows) = (_starts(length, size) for length in image_size)
    width, height = image_size
    grid = [(r, c) for r in range(len(rows)) for c in range(len(columns))]
    grid.sort(key=lambda cell: not (cell[0] < whole_rows and cell[1] < whole_columns))
    return [
        (columns[c], rows[r], min(columns[c] + size, width), min(rows[r] + size, height))
        for r, c in grid
    ]


def contains(window: Window, event: Event) -> bool:
    """Whether the whole polygon of an event is inside a window."""
    if event.polygon is None:
        return False
    xs, ys = zip(*event.polygon, strict=True)
    x0, y0, x1, y1 = window
    return bool(min(xs) >= x0 and max(xs) <= x1 and min(ys) >= y0 and max(ys) <= y1)


def patch_caption(annotation: Annotation, native: NativePair, window: Window) -> str:
    """What the record's caption says of a window, in words relative to the window."""
    facts = _facts(annotation.caption)
    return captions.compose(captions.crop(facts, window, native.size, native.events).facts)


def patch_labels(annotation: Annotation, events: Sequence[Event]) -> tuple[str, ...]:
    """The record's `label` as far as it is true of a patch that shows these events."""
    if not events:
        return ("Non_Deformation",)
    quake = any(event.type == "earthquake" for event in events)
    kept = tuple(word for word in annotation.label if quake or word != "Earthquake")
    return kept or ("Deformation",)


def official_labels(annotation: Annotation, patch: Patch) -> dict[str, object]:
    """The JSON object that the published patches have in `cls_labels`.

    Args:
        annotation: Record of the interferogram.
        patch: A patch of it.

    Returns:
        `Deformation`: class ids inside (0: none); `Intensity` of the event it was cut for: 0 low
        or none, 1 medium, 2 high, 3 earthquake; `Phase`: 0 rest, 1 unrest, 2 rebound; frame and
        dates.
    """
    subject = patch.subject
    intensity = 0
    if subject is not None and subject.type == "earthquake":
        intensity = _EARTHQUAKE_INTENSITY
    elif subject is not None and subject.intensity is not None:
        intensity = INTENSITIES.index(subject.intensity)
    return {
        "Deformation": sorted({CLASS_IDS[event.type] for event in patch.events}) or [0],
        "Intensity": intensity,
        "Phase": _PHASE_CODE[annotation.volcano_phase],
        "frameID": annotation.frame_id,
        "primary_date": f"{annotation.primary_date:%Y%m%d}",
        "secondary_date": f"{annotation.secondary_date:%Y%m%d}",
    }


def _tiles(
    annotation: Annotation, native: NativePair, config: PatchConfig, counts: Counter[str]
) -> list[Patch]:
    share_with_data = data_meter(native.image)
    patches = []
    for number, window in enumerate(tile_windows(native.size, config.size)):
        image = native.image.crop(window)
        if share_with_data(image) < config.min_valid:
            counts["tiles_without_data"] += 1
            continue
        counts["tiles"] += 1
        name = f"{annotation.unique_id}_{number}"
        patches.append(_cut(name, window, image, native))
    return patches


def _cut(
    name: str,
    window: Window,
    image: Image.Image,
    native: NativePair,
    subject: Event | None = None,
    instances: NDArray[np.uint8] | None = None,
) -> Patch:
    x0, y0, x1, y1 = window
    part = np.s_[y0:y1, x0:x1]
    events: tuple[Event, ...] = ()
    if instances is not None:
        # Counting bytes is ten times faster than np.unique, which sorts or hashes every pixel.
        seen = np.flatnonzero(np.bincount(instances[part].ravel())[1:])
        events = tuple(_moved(native.events[i], x0, y0) for i in seen)
    coherence = None
    if native.coherence is not None:
        coherence = (native.coherence[part] * 255 + np.float32(0.5)).astype(np.uint8)
    return Patch(name, window, subject, events, image, coherence, native.mask[part])


def _moved(event: Event, x0: int, y0: int) -> Event:
    assert event.polygon is not None  # only drawn events have pixels
    return replace(event, polygon=tuple((x - x0, y - y0) for x, y in event.polygon))


def _starts(length: int, size: int) -> tuple[list[int], int]:
    """Where tiles start along a side, and how many of them are whole steps of the grid."""
    whole = length // size
    starts = [size * i for i in range(whole)]
    if length % size:
        starts.append(max(length - size, 0))
    return starts, whole


@lru_cache(maxsize=4096)
def _facts(caption: str) -> captions.CaptionFacts:
    return captions.parse(caption)
