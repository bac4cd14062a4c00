"""One pair of the archive as images, polygons and mask at 1/300 degree.

Nearly all previews are at that scale already and pass through as stored, byte for byte. The others
are decoded, averaged as phasors, coloured again, and their polygons shrunk with them:

- GeoTIFFs in radians, where there is no preview: coloured with LiCSAR's newer palette;
- images at LiCSAR's full resolution of 0.001 degree, 10/3 times the size their frame usually has;
- the previews of StripMap frames. These are processed on a grid of one arc-second and reduced to
  30 % like all previews, which makes 1/1080 degree (103 m).
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heph_vl.data import phase
from heph_vl.data.annotations import Event
from heph_vl.data.picture import read_picture
from heph_vl.data.raster import CLASS_IDS, rasterise
from heph_vl.errors import HephError

if TYPE_CHECKING:
    from heph_vl.data.archive import Pair

Size = tuple[int, int]

PREVIEW_SCALE = 0.3  # LiCSAR previews are 30 % of the full resolution
STRIPMAP_SPACING_DEG = 1 / 3600 / PREVIEW_SCALE
# No preview of the archive has a side above 1,567 px (a frame of 36 tiles of 224 px), no full
# image of a common frame one below 2,240 px. Decides only for frames without any preview.
_LARGEST_PREVIEW = 2000
_OUTSIDE_PX = 2.0  # how far a hand-drawn polygon may reach over the image's edge
_FIX_SIZE = "get the image and the record from the same release"


@dataclass(frozen=True)
class NativePair:
    """An interferogram at 1/300 degree.

    Attributes:
        image_png: Coloured wrapped phase, as stored unless it had to be resampled.
        coherence_png: Coherence, None where there is none.
        mask: (H, W) uint8 class ids (see `raster.rasterise`); as rendered, in a simulated twin.
        size: Width and height in pixels.
        events: Deformation events, polygons in pixels of these arrays.
        pixel_spacing_deg: Spacing of the source [degree]; the arrays themselves are at 1/300.
        image: The decoded picture of `image_png`.
        coherence: (H, W) float32 in [0, 1], None where there is none.
    """

    image_png: bytes
    coherence_png: bytes | None
    mask: NDArray[np.uint8]
    size: Size
    events: tuple[Event, ...]
    pixel_spacing_deg: float
    image: Image.Image
    coherence: NDArray[np.float32] | None


def load_pair(pair: "Pair", usual_size: Size | None = None) -> NativePair:
    """Read one pair; each file is read and decoded once.

    Args:
        pair: A pair of `archive.scan_archive`.
        usual_size: Width and height that previews of this frame have (see `usual_size`); without
            it only the image's own size tells its resolution.

    Returns:
        The pair at 1/300 degree.

    Raises:
        HephError: If an image is missing, damaged, grey, 16-bit or too large, if the coherence
            has another size, or if a polygon lies outside the image.
    """
    if pair.image.suffix != ".png":
        return _from_geotiff(pair)
    image_png = _read(pair.image)
    image = phase.open_png(image_png, str(pair.image))
    _refuse_grey(image, str(pair.image))
    coherence_png = coherence = None
    if pair.coherence is not None:
        coherence_png = _read(pair.coherence)
        shape = (image.height, image.width)
        coherence = phase.read_coherence(coherence_png, shape, str(pair.coherence))
    events: tuple[Event, ...] = ()
    if pair.annotation is not None:
        where = f"annotation {pair.annotation.unique_id}: segmentation_mask"
        events = tuple(_inside(event, image.size, where) for event in pair.annotation.events)
    spacing = source_spacing_deg(pair.frame_id, image.size, usual_size)
    rendered = None if pair.mask is None else read_mask(pair.mask, image.size)
    if spacing == phase.NATIVE_SPACING_DEG:
        mask = rasterise(events, image.size) if rendered is None else rendered
        return NativePair(
            image_png, coherence_png, mask, image.size, events, spacing, image, coherence
        )
    return _resampled(image, coherence, rendered, events, spacing, str(pair.image))


def _from_geotiff(pair: "Pair") -> NativePair:
    """A pair in radians, painted; its polygons are in pixels of the preview that is not there."""
    picture = read_picture(pair.image)
    smaller = phase.NATIVE_SPACING_DEG / source_spacing_deg(pair.frame_id, (0, 0), None)
    image = paint(picture.wrapped_phase, picture.valid, "new")
    events: tuple[Event, ...] = ()
    if pair.annotation is not None:
        where = f"annotation {pair.annotation.unique_id}: segmentation_mask"
        shrunk = (_divided(event, smaller) for event in pair.annotation.events)
        events = tuple(_inside(event, image.size, where) for event in shrunk)
    coherence = picture.channels[2] if picture.measured else None
    grey = None if coherence is None else np.rint(255 * coherence).astype(np.uint8)
    spacing = phase.NATIVE_SPACING_DEG / picture.scale[0]
    return NativePair(
        encode_png(image),
        None if grey is None else encode_png(grey),
        rasterise(events, image.size) if pair.mask is None else read_mask(pair.mask, image.size),
        image.size,
        events,
        spacing,
        image,
        coherence,
    )


def read_mask(path: Path, size: Size) -> NDArray[np.uint8]:
    """A mask of class ids that the simulator stored.

    Args:
        path: PNG, 8-bit grey.
        size: Width and height of its interferogram.

    Returns:
        (H, W) uint8 class ids (see `raster.rasterise`).

    Raises:
        HephError: If it cannot be read, has another size, or holds an unknown class.
    """
    image = phase.open_png(path, str(path))
    mask = np.asarray(image)
    if image.mode != "L" or image.size != size or mask.max(initial=0) > max(CLASS_IDS.values()):
        what = f"mode {image.mode}, {image.width} x {image.height} px, values to {mask.max()}"
        fix = f"a grey mask of {size[0]} x {size[1]} px with classes 0 to {max(CLASS_IDS.values())}"
        raise HephError(str(path), what, fix)
    return mask


def source_spacing_deg(frame_id: str, size: Size, usual_size: Size | None) -> float:
    """Pixel spacing [degree] of an image, from its frame and its size.

    Args:
        frame_id: LiCSAR frame.
        size: Width and height of the image.
        usual_size: Width and height of the frame's previews, if known.

    Returns:
        1/300 for most previews, 1/1080 for StripMap ones, 30 % of that at full resolution.
    """
    preview = STRIPMAP_SPACING_DEG if "_SM_" in frame_id else phase.NATIVE_SPACING_DEG
    full = min(size) > _LARGEST_PREVIEW
    if usual_size is not None and not full:
        full = _is_full_resolution_of(size, usual_size)
    return preview * PREVIEW_SCALE if full else preview


def usual_size(sizes: Sequence[Size]) -> Size:
    """The size that previews of a frame have.

    In two frames of the archive many images are at full resolution, in one nearly all: the median
    would take those for the rule. A size that others are 10/3 times as large as is the preview.

    Args:
        sizes: Width and height of each image of one frame, at least one.

    Returns:
        Width and height.
    """
    counts = Counter(sizes)
    previews = [s for s in counts if any(_is_full_resolution_of(other, s) for other in counts)]
    return max(previews or counts, key=lambda size: (counts[size], size))


def usual_sizes(pairs: Iterable["Pair"]) -> dict[str, Size]:
    """The size that previews of each frame have, read from the headers of all images.

    Args:
        pairs: All pairs of an archive.

    Returns:
        Width and height for each frame id; unreadable images are left out.
    """
    sizes: dict[str, list[Size]] = {}
    for pair in pairs:
        size = _header_size(pair.image)
        if size is not None:
            sizes.setdefault(pair.frame_id, []).append(size)
    return {frame_id: usual_size(found) for frame_id, found in sizes.items()}


def data_meter(image: Image.Image) -> Callable[[Image.Image], float]:
    """A function that tells how much of a crop of this picture shows anything (see `has_data`).

    Args:
        image: A loaded picture, mode P, RGB or RGBA.

    Returns:
        Crop of `image` -> share of its pixels with data, in [0, 1].
    """
    if image.mode != "P":
        opaque_file = image.mode == "RGB" or image.getchannel("A").getextrema()[0] == 255
        return lambda crop: float(_shows(np.asarray(crop.convert("RGBA")), opaque_file).mean())
    table = palette_rgba(image)
    empty = np.flatnonzero(~_shows(table, _is_opaque(image, table))).tolist()

    def measure(crop: Image.Image) -> float:
        # Counting colours is several times faster than an array of all pixels.
        count = crop.histogram()
        return 1 - sum(count[index] for index in empty) / (crop.width * crop.height)

    return measure


def has_data(image: Image.Image) -> NDArray[np.bool_]:
    """Where an interferogram shows anything, by its colours alone.

    Args:
        image: A loaded picture, mode P, RGB or RGBA.

    Returns:
        (H, W) bool, False where transparent; in a picture without transparency where white, and
        where black.
    """
    if image.mode == "P":
        table = palette_rgba(image)
        shown: NDArray[np.bool_] = _shows(table, _is_opaque(image, table))[np.asarray(image)]
        return shown
    rgba = np.asarray(image.convert("RGBA"))
    return _shows(rgba, bool((rgba[..., 3] == 255).all()))


def palette_rgba(image: Image.Image) -> NDArray[np.uint8]:
    """(256, 4) uint8 colour table of a palette picture, transparency included."""
    strip = Image.frombytes("P", (256, 1), bytes(range(256)))
    strip.putpalette(image.getpalette() or [])
    strip.info = dict(image.info)
    table: NDArray[np.uint8] = np.asarray(strip.convert("RGBA"))[0]
    return table


def encode_png(image: Image.Image | NDArray[np.uint8]) -> bytes:
    """PNG bytes of a picture or of an (H, W) or (H, W, 3) uint8 array, transparency kept."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    # Level 1 takes a third of the default's time; fringes and grain hardly compress better.
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _resampled(
    image: Image.Image,
    coherence: NDArray[np.float32] | None,
    mask: NDArray[np.uint8] | None,
    events: tuple[Event, ...],
    spacing: float,
    where: str,
) -> NativePair:
    """The pair brought from a finer spacing [degree] to 1/300 degree."""
    factor = phase.NATIVE_SPACING_DEG / spacing
    decoded = phase.decode_image(image, where=where)
    z, valid = phase.resample_phasor(
        phase.phasor(decoded.wrapped_phase, decoded.valid), decoded.valid, factor
    )
    coarse = paint(np.angle(z), valid, decoded.palette)
    coherence_png = None
    if coherence is not None:
        # Coherence 0 means no data: it must not pull the mean of its neighbours down.
        mean, _ = phase.resample_phasor(coherence.astype(np.complex64), coherence > 0, factor)
        grey = np.rint(255 * np.clip(mean.real, 0, 1)).astype(np.uint8)
        coherence, coherence_png = grey.astype(np.float32) / np.float32(255), encode_png(grey)
    shrunk = tuple(_divided(event, factor) for event in events)
    if mask is None:
        shrunk_mask = rasterise(shrunk, coarse.size)
    else:
        shrunk_mask = np.asarray(
            Image.fromarray(mask).resize(coarse.size, Image.Resampling.NEAREST)
        )
    return NativePair(
        encode_png(coarse),
        coherence_png,
        shrunk_mask,
        coarse.size,
        shrunk,
        spacing,
        coarse,
        coherence,
    )


def paint(
    wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_], palette: str
) -> Image.Image:
    """A coloured picture of a wrapped phase.

    Args:
        wrapped_phase: (H, W) [rad] in (-pi, pi].
        valid: (H, W) bool.
        palette: "new" or "old".

    Returns:
        A palette picture with transparent no-data where the colours allow it, else RGBA.
    """
    rgb = phase.colour(wrapped_phase, palette=palette)
    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, index = np.unique(packed, return_inverse=True)
    if len(colours) > 255:
        alpha = np.where(valid, 255, 0).astype(np.uint8)
        return Image.fromarray(np.dstack([rgb, alpha]))
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours[:, None] >> np.array([16, 8, 0]) & 255
    image = Image.fromarray(np.where(valid, index.reshape(valid.shape), 255).astype(np.uint8))
    image.putpalette(table.tobytes())
    image.info["transparency"] = 255
    return image


def _divided(event: Event, factor: float) -> Event:
    if event.polygon is None:
        return event
    return replace(event, polygon=tuple((x / factor, y / factor) for x, y in event.polygon))


def _inside(event: Event, size: Size, where: str) -> Event:
    """The event with its polygon cut to the image; an error if it lies outside."""
    if event.polygon is None:
        return event
    width, height = size
    corners = np.asarray(event.polygon)
    beyond = np.maximum(-corners, corners - (width, height)).max()
    if beyond > _OUTSIDE_PX:
        what = f"polygon reaches {beyond:.0f} px outside the image of {width} x {height} px"
        raise HephError(where, what, _FIX_SIZE)
    if beyond <= 0:
        return event
    kept = np.clip(corners, 0, (width, height))
    return replace(event, polygon=tuple((float(x), float(y)) for x, y in kept))


def _shows(rgba: NDArray[np.uint8], opaque_file: bool) -> NDArray[np.bool_]:
    """Which colours (..., 4) are data; white counts as none where transparency cannot say so."""
    rgb = rgba[..., :3]
    data = (rgba[..., 3] >= 128) & (rgb != 0).any(axis=-1)
    if opaque_file:
        data &= (rgb != 255).any(axis=-1)
    return np.asarray(data)


def _used(image: Image.Image) -> NDArray[np.bool_]:
    """(256,) bool: palette entries that occur in a picture."""
    return np.array(image.histogram()) > 0


def _is_opaque(image: Image.Image, table: NDArray[np.uint8]) -> bool:
    """Whether no pixel of a palette picture with this (256, 4) table is transparent."""
    clear = table[:, 3] < 255
    return not (clear[_sample(image)].any() or clear[_used(image)].any())


def _sample(image: Image.Image) -> NDArray[np.uint8]:
    """Palette indices of every 16th pixel of each row and column: mostly enough for a verdict."""
    return np.asarray(image)[::16, ::16]


def _refuse_grey(image: Image.Image, where: str) -> None:
    """A grey picture has lost its phase; phase.decode_image says the same, but takes longer."""
    if image.mode == "P":
        table = palette_rgba(image)
        coloured = (table[:, :3] != table[:, :1]).any(axis=1) & (table[:, 3] >= 128)
        if coloured[_sample(image)].any():
            return
        rgba = table[_used(image)]
        rgb = rgba[rgba[:, 3] >= 128, :3]
        shades = rgb[((rgb != 0) & (rgb != 255)).any(axis=1)]  # white and black may be no data
        grey = len(shades) > 0 and bool((rgb == rgb[:, :1]).all())
    elif image.mode in ("RGB", "RGBA"):
        rgb = np.asarray(image)[..., :3]
        grey = bool((rgb == rgb[..., :1]).all() and rgb.min() != rgb.max())
    else:
        grey = True
    if grey:
        what = f"grey image (mode {image.mode}): phase cannot be read from it"
        raise HephError(where, what, "give the coloured .geo.diff.png")


def _is_full_resolution_of(size: Size, preview: Size) -> bool:
    ratios = np.array(size) / np.array(preview)
    return bool((np.abs(ratios * PREVIEW_SCALE - 1) < 0.05).all())


def _header_size(path: Path) -> Size | None:
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(24)
    except OSError:
        return None
    if len(head) < 24 or head[12:16] != b"IHDR":
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise HephError(str(path), f"cannot be read: {reason}", "check the file") from error
