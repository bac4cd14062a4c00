"""LiCSAR's preview chain: wrapped phase to the palette PNG that Hephaestus was labelled from.

Colour first, shrink the picture second, round the colours last: in this order fringes lose
colours that no palette has, decorrelated areas get their salmon-grey grain, and neither can be
imitated by colouring a phase that was already coarse.

`draw` does all this on a batch of tensors, on their device; `to_images` makes files of them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heph_vl.data import palettes
from heph_vl.data.preview import (
    DOWNSAMPLE,
    Filter,
    cell_index,
    filter_weights,
    levels,
    source_reach,
)
from heph_vl.simulate.decorrelation import LOOKS
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.terrain import Terrain

LAVA_INTENSITY, WATER_INTENSITY = 0.3, 0.02  # radar backscatter as a share of forest's
_HUES = 4_096  # steps of the old palette's wheel: a quarter of a grey level each
_BLOCK = 15  # rows shrunk by one product: less work than a whole matrix, fewer calls than one each
# 3-3-2 bits have 256 cells: the last is white, which no hue wheel draws.
_CELLS = 255


@dataclass(frozen=True)
class Rendering:
    """How a preview is drawn.

    Attributes:
        downsample: Side of the picture as a share of the field's.
        filter: How the picture is shrunk; see `heph_vl.data.preview`.
        palette: "new" or "old".
        posterise: Round each channel to its top 3 bits, as the real patches are; otherwise the
            colours are quantised to at most 255 when a file is made.
        flatten: Draw no-data white (black in the old palette) in an opaque RGB picture, as the
            real patches have it, instead of transparent in a palette picture.
    """

    downsample: float = DOWNSAMPLE
    filter: Filter = "mitchell"
    palette: str = "new"
    posterise: bool = False
    flatten: bool = False

    @property
    def background(self) -> int:
        """Level of every channel where there is no data."""
        return 255 if self.flatten and self.palette == "new" else 0


@dataclass(frozen=True)
class Picture:
    """Previews of B interferograms.

    Attributes:
        rgb: (B, 3, h, w) uint8; `Rendering.background` without data.
        coherence: (B, h, w) uint8 grey, 255 = 1; 0 without data.
        shown: (B, h, w) bool, where there is data.
    """

    rgb: Tensor
    coherence: Tensor
    shown: Tensor


def draw(
    wrapped_phase: Tensor,
    valid: Tensor,
    coherence: Tensor,
    options: Rendering,
    amplitude: Tensor | None = None,
) -> Picture:
    """Previews that look like LiCSAR's.

    Args:
        wrapped_phase: (B, H, W) float32 [rad] in (-pi, pi], at 0.001 degree.
        valid: (B, H, W) or (H, W) bool, False outside the swath.
        coherence: (B, H, W) float32 in [0, 1].
        options: How to draw.
        amplitude: (B, H, W) or (H, W) float32 radar brightness in [0, 1]; only for the old
            palette, full brightness if none.

    Returns:
        Pictures of (round(0.3 H), round(0.3 W)) px, posterised if the options say so.
    """
    valid = valid.expand_as(wrapped_phase)
    bright = [None] * len(valid) if amplitude is None else amplitude.expand_as(wrapped_phase)
    # One record at a time stays in the processor's cache: twice as fast.
    records = zip(wrapped_phase, valid, coherence, bright, strict=True)
    small = torch.stack([shrink(_layers(*record, options.palette), options) for record in records])
    shown = small[:, 4] >= 0.5
    small = small[:, :4] / torch.where(shown, small[:, 4], 1.0)[:, None]
    small = small.round_().clamp_(0.0, 255.0).to(torch.uint8)
    rgb = small[:, :3]
    if options.posterise:
        rgb = _posterised(rgb, shown, options.palette)
    return Picture(
        torch.where(shown[:, None], rgb, options.background),
        torch.where(shown, small[:, 3], 0),
        shown,
    )


def _layers(
    phase: Tensor, valid: Tensor, coherence: Tensor, amplitude: Tensor | None, palette: str
) -> Tensor:
    """(5, H, W) float32 to be shrunk: colours and grey in whole numbers times alpha, and alpha."""
    layers = torch.empty((5, *phase.shape), device=phase.device)
    table, low, per_rad = _table(palette, phase.device)
    step = ((phase - low) * per_rad).to(torch.int32).clamp_(0, table.shape[1] - 1).view(-1)
    for layer, channel in zip(layers, table, strict=False):
        torch.index_select(channel, 0, step, out=layer.view(-1))
    if palette == "old" and amplitude is not None:
        layers[:3].mul_(amplitude.clamp(0.0, 1.0)).round_()
    torch.mul(coherence, 255.0, out=layers[3]).round_().clamp_(0.0, 255.0)
    # Colours are weighted by alpha, as ImageMagick does: no dark rims along the swath.
    layers[4] = valid
    layers[:4] *= layers[4]
    return layers


@lru_cache(maxsize=4)
def _table(palette: str, device: torch.device) -> tuple[Tensor, float, float]:
    """(3, N) float32 colours, phase [rad] at the lower edge of the first, steps per rad."""
    if palette == "new":
        phase, colours = palettes.new_table()
        low, per_rad = phase[0] - palettes.NEW_STEP_RAD / 2, 1.0 / palettes.NEW_STEP_RAD
    else:
        low, per_rad = -math.pi, _HUES / (2.0 * math.pi)
        middle = low + (np.arange(_HUES) + 0.5) / per_rad
        colours = palettes.old_colours(middle).astype(np.float64)
    table = torch.tensor(np.rint(colours).T, dtype=torch.float32, device=device)
    return table, float(low), per_rad


def shrink(layers: Tensor, options: Rendering) -> Tensor:
    """Layers (C, H, W) float32 shrunk along both axes: (C, h, w)."""
    channels, height, width = layers.shape
    rows = _blocks(height, options.downsample, options.filter, layers.device)
    short = torch.cat(
        [weight @ layers[:, first : first + weight.shape[1]] for first, weight in rows], dim=1
    )
    lines = short.view(-1, width)
    columns = _blocks(width, options.downsample, options.filter, layers.device)
    small = torch.cat(
        [lines[:, first : first + weight.shape[1]] @ weight.T for first, weight in columns], dim=1
    )
    return small.view(channels, -1, small.shape[1])


@lru_cache(maxsize=16)
def _blocks(
    length: int, scale: float, name: Filter, device: torch.device
) -> tuple[tuple[int, Tensor], ...]:
    """The matrix that shrinks one axis, cut into blocks: first source pixel and weights of each."""
    matrix = shrink_matrix(length, scale, name)
    blocks = []
    for rows in torch.split(torch.from_numpy(matrix), _BLOCK):
        used = rows.any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1])
        blocks.append((first, rows[:, first : last + 1].contiguous().to(device)))
    return tuple(blocks)


def shrink_matrix(length: int, scale: float, name: Filter) -> NDArray[np.float32]:
    """(round(scale * length), length) float32 weights that shrink one axis; rows sum to 1."""
    short = max(1, int(length * scale + 0.5))
    ratio = length / short
    middle = (np.arange(short) + 0.5) * ratio - 0.5
    taps = np.arange(-source_reach(1 / ratio, name), source_reach(1 / ratio, name) + 1)
    source = np.rint(middle)[:, None].astype(np.int64) + taps
    weight = filter_weights((source - middle[:, None]) / ratio, name)
    inside = (source >= 0) & (source < length)
    weight *= inside
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = np.zeros((short, length), dtype=np.float32)
    row = np.broadcast_to(np.arange(short)[:, None], source.shape)
    matrix[row[inside], source[inside]] = weight[inside]
    return matrix


def _posterised(rgb: Tensor, shown: Tensor, palette: str) -> Tensor:
    """Top 3 bits of each channel, replicated; 3-3-2 where 255 colours do not hold them.

    Mixtures of the new palette make about 100; only the hue wheel's amplitudes overflow.
    """
    fine = _top_bits(rgb, (3, 3, 3))
    if palette == "new":
        return fine
    top = (rgb >> 5).long()
    cell = (top[:, 0] * 64 + top[:, 1] * 8 + top[:, 2]).masked_fill_(~shown, 512)
    seen = torch.zeros((len(rgb), 513), dtype=torch.bool, device=rgb.device)
    seen.scatter_(1, cell.flatten(1), True)
    crowded = seen[:, :512].sum(dim=1) > _CELLS
    return torch.where(crowded[:, None, None, None], _top_bits(rgb, (3, 3, 2)), fine)


def _top_bits(rgb: Tensor, bits: tuple[int, int, int]) -> Tensor:
    tables = [torch.from_numpy(levels(kept)).to(rgb.device) for kept in bits]
    channels = [
        table[(rgb[:, channel] >> (8 - kept)).int()]
        for channel, (table, kept) in enumerate(zip(tables, bits, strict=True))
    ]
    return torch.stack(channels, dim=1)


def to_images(picture: Picture, record: int, options: Rendering) -> tuple[Image.Image, Image.Image]:
    """Pictures as they are stored in files.

    Args:
        picture: Of a batch.
        record: Which one of it.
        options: How it was drawn.

    Returns:
        The coloured interferogram (mode P, or RGB if flattened) and the coherence (mode P, grey,
        255 = 1), no-data transparent.
    """
    rgb = picture.rgb[record].permute(1, 2, 0).cpu().contiguous().numpy()
    shown = picture.shown[record].cpu().numpy()
    level = picture.coherence[record].cpu().numpy()
    # Index 0 is the transparent black of no data; a measured 0 keeps its place as 1 of 255.
    grey = _palette_image(
        np.where(shown, np.maximum(level, 1), 0),
        np.repeat(np.arange(256)[:, None], 3, axis=1),
        clear=0,
    )
    if options.flatten and options.posterise:
        return Image.fromarray(rgb), grey
    index, table = _cells(rgb, shown) if options.posterise else _median_cut(rgb, shown)
    if options.flatten:
        background = np.uint8(options.background)
        return Image.fromarray(np.where(shown[..., None], table[index], background)), grey
    clear = len(table)
    table = np.concatenate([table, np.zeros((1, 3), np.uint8)])
    return _palette_image(np.where(shown, index, clear), table, clear), grey


def render(
    wrapped_phase: NDArray[np.floating],
    valid: NDArray[np.bool_],
    coherence: NDArray[np.floating],
    options: Rendering,
    amplitude: NDArray[np.floating] | None = None,
) -> tuple[Image.Image, Image.Image]:
    """`draw` and `to_images` of one interferogram.

    Args:
        wrapped_phase: (H, W) [rad] in (-pi, pi], at 0.001 degree.
        valid: (H, W) bool, False outside the swath.
        coherence: (H, W) in [0, 1].
        options: How to draw.
        amplitude: (H, W) radar amplitude in [0, 1]; only for the old palette.

    Returns:
        The coloured interferogram and the coherence; see `to_images`.
    """
    fields = (torch.as_tensor(np.asarray(f, dtype=np.float32)) for f in (wrapped_phase, coherence))
    phase, grey = (field[None] for field in fields)
    bright = None if amplitude is None else torch.as_tensor(amplitude, dtype=torch.float32)
    picture = draw(phase, torch.as_tensor(valid), grey, options, bright)
    return to_images(picture, 0, options)


def amplitude(
    terrain: Terrain,
    grid: Grid,
    look_vector: tuple[float, float, float],
    generator: torch.Generator,
) -> Tensor:
    """Radar brightness behind the colours of the old palette.

    Slopes that face the radar are compressed in range and bright, tan(i) / tan(local i); shadows
    are black, forest brighter than lava, water dark. GAMMA draws intensity to the power 0.35.

    Args:
        terrain: The ground.
        grid: Where.
        look_vector: Unit vector from the ground to the satellite: east, north, up.
        generator: Speckle, on the terrain's device.

    Returns:
        (H, W) float32 in [0, 1], about 0.7 on flat forest.
    """
    east, north, up = look_vector
    height = terrain.elevation
    down, right = torch.gradient(height, spacing=(grid.dy, grid.dx))
    # The normal is (-dz/de, -dz/dn, 1), and rows run south.
    facing = (up - east * right + north * down) * torch.rsqrt(1.0 + right**2 + down**2)
    cosine = facing.clamp(0.0, 0.9986)  # 3 degrees: layover
    tangent = torch.sqrt(1.0 - cosine**2) / cosine.clamp_min(1e-6)
    flat = math.hypot(east, north) / up
    ground = LAVA_INTENSITY + (1.0 - LAVA_INTENSITY) * terrain.vegetation
    intensity = torch.where(terrain.water, WATER_INTENSITY, ground) * flat / tangent
    speckle = torch.randn(height.shape, generator=generator, device=height.device)
    intensity = intensity * (1.0 + speckle / math.sqrt(LOOKS)).clamp_min_(0.0)
    return (0.7 * intensity.pow_(0.35)).clamp_(0.0, 1.0)


def _cells(
    rgb: NDArray[np.uint8], shown: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """(h, w) index and (N, 3) colours, N <= 255, of a posterised picture."""
    cell = cell_index(rgb, (3, 3, 3))  # one colour each, of 3-3-2 bits as well
    colours = np.zeros((512, 3), dtype=np.uint8)
    colours[cell] = rgb
    cells = np.flatnonzero(np.bincount(cell[shown], minlength=512))
    rank = np.zeros(512, dtype=np.uint8)
    rank[cells] = np.arange(len(cells))
    return rank[cell], colours[cells]


def _median_cut(
    rgb: NDArray[np.uint8], shown: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """(h, w) index and (N, 3) colours, at most 255 of the picture's own; same in, same out."""
    if not shown.any():
        return np.zeros(shown.shape, np.uint8), np.zeros((0, 3), np.uint8)
    # What is not shown must not take a share of the colours.
    visible = Image.fromarray(np.where(shown[..., None], rgb, rgb[shown][0]))
    few = visible.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    table = np.array(few.getpalette(), dtype=np.uint8).reshape(-1, 3)
    return np.asarray(few), table[:255]


def _palette_image(
    index: NDArray[np.integer], table: NDArray[np.integer], clear: int
) -> Image.Image:
    image = Image.fromarray(index.astype(np.uint8), mode="P")
    image.putpalette(table.astype(np.uint8).tobytes())
    image.info["transparency"] = clear
    return image
