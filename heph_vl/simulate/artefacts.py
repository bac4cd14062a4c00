"""What goes wrong with interferograms besides noise: bursts, sub-swaths, whole pictures.

Labels and wordings are those of Hephaestus: a "processing error during the debursting step" (172
records, in one or in all three sub-swaths), one "related to swath merging. Missing information"
(324), "the image is corrupted" (312), and an "image artifact at the bottom of the image" (58),
which is the legend of the palette.

All but the legend change the noise-free fields at 0.001 degree, before decorrelation, filtering and
colours, so that damaged ground gets the noise and the look of any other.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from heph_vl.data import palettes
from heph_vl.data.preview import kept_bits, posterise
from heph_vl.simulate.grid import Grid, uniform

# A burst sweeps about 4.5 kHz of Doppler; azimuth lines are 2.056 ms apart. Bursts that are
# misregistered in azimuth thus show 2 pi 4.5e3 2.056e-3 = 58 rad a line, from end to end
# (Yague-Martinez et al. 2016: 2 pi Doppler shift; a thousandth of a line costs 3 degrees).
RAD_PER_LINE = 2.0 * math.pi * 4.5e3 * 2.056e-3
LEAST_SHARE = 0.05  # of the visible pixels, from which a burst or a sub-swath is in sight
CORRUPTIONS = ("fringes", "stripes", "blocks", "half")


class Fields(NamedTuple):
    """The fields of one interferogram that errors change.

    Args:
        phase: (H, W) float32 [rad], noise-free; damaged phase is not wrapped.
        coherence: (H, W) float32 in [0, 1].
        valid: (H, W) bool, False where there is no data.
    """

    phase: Tensor
    coherence: Tensor
    valid: Tensor


def in_sight(index: Tensor, visible: Tensor) -> list[int]:
    """Numbers in an index map that take at least `LEAST_SHARE` of what is visible.

    Args:
        index: (H, W) integer, e.g. of sub-swaths or bursts.
        visible: (H, W) bool, coherent land inside the swath.

    Returns:
        The numbers, ascending; swath merging can fail visibly if `sub_swath` has two of them.
    """
    some = index[::4, ::4][visible[::4, ::4]].long()
    if not len(some):
        return []
    low = int(some.min())
    counts = torch.bincount(some - low).tolist()
    # Of many bursts each is a small share: 30 % of an even one counts.
    least = min(LEAST_SHARE, 0.3 / len(counts)) * len(some)
    return [low + n for n, count in enumerate(counts) if count >= least]


def seams_in_sight(sub_swath: Tensor, burst: Tensor, visible: Tensor) -> list[int]:
    """Sub-swaths of which at least two bursts are in sight: those where debursting can fail."""
    return [
        s
        for s in in_sight(sub_swath, visible)
        if len(in_sight(burst, visible & (sub_swath == s))) > 1
    ]


def debursting_error(
    fields: Fields,
    sub_swath: Tensor,
    burst: Tensor,
    visible: Tensor,
    generator: torch.Generator,
) -> Fields:
    """Bursts joined wrongly in one or in all sub-swaths.

    Mostly they are misregistered in azimuth: the Doppler centroid sweeps through each burst, which
    gives a ramp that starts anew at each seam. Otherwise each burst has a phase of its own, or
    some lie at a wrong place. Strips without data at the seams may come with any of them.

    Args:
        fields: The fields before.
        sub_swath: (H, W) integer, number of the sub-swath.
        burst: (H, W) integer, number of the burst, growing along the flight direction.
        visible: (H, W) bool, where the error must be seen: coherent land inside the swath.
        generator: Randomness.

    Returns:
        The fields after; sub-swaths that are not hit are the same to the bit.

    Raises:
        ValueError: If no sub-swath has two bursts in sight (see `seams_in_sight`).
    """
    usable = seams_in_sight(sub_swath, burst, visible)
    if not usable:
        raise ValueError("debursting error: no sub-swath has two bursts in sight")
    chosen = usable if uniform(0.0, 1.0, generator) < 0.4 else [_pick(usable, generator)]
    kind = ("ramps", "steps", "misplaced")[_weighted([0.6, 0.15, 0.25], generator)]
    strips = uniform(0.0, 1.0, generator) < 0.35
    for s in chosen:
        inside = sub_swath == s
        along, step = _along_track(burst, inside)
        if kind == "ramps":
            fields = _ramps(fields, inside, along, generator)
        elif kind == "steps":
            fields = _steps(fields, inside, burst, generator)
        else:
            fields = _misplaced(fields, inside, burst, step, visible, generator)
        if strips:
            width = uniform(0.04, 0.14, generator)
            seam = inside & _border(burst, (-width * step[0], -width * step[1]))
            fields = fields._replace(valid=fields.valid & ~seam)
    return fields


def swath_merging_error(
    fields: Fields,
    sub_swath: Tensor,
    burst: Tensor,
    visible: Tensor,
    generator: torch.Generator,
) -> Fields:
    """A sub-swath that is lost, cut at its seam, or joined with another phase and place.

    Args:
        fields: The fields before.
        sub_swath: (H, W) integer, number of the sub-swath.
        burst: (H, W) integer, number of the burst, growing along the flight direction.
        visible: (H, W) bool, where the error must be seen: coherent land inside the swath.
        generator: Randomness.

    Returns:
        The fields after; the other sub-swaths are the same to the bit.

    Raises:
        ValueError: If fewer than two sub-swaths are in sight (see `in_sight`).
    """
    usable = in_sight(sub_swath, visible)
    if len(usable) < 2:
        raise ValueError(f"swath merging error: sub-swaths in sight are {usable}, two are needed")
    s = _pick(usable, generator)
    inside = sub_swath == s
    _, step = _along_track(burst, inside)
    offset = uniform(1.0, math.pi, generator) * _sign(generator)
    slip = uniform(0.1, 0.6, generator) * _sign(generator)
    moved = Fields(*(_displaced(f, (slip * step[0], slip * step[1])) for f in fields))
    fields = _where(inside, moved._replace(phase=moved.phase + offset), fields)
    # All but a tenth of the captions say "Missing information".
    kind = ("lost", "cut", "offset")[_weighted([0.5, 0.35, 0.15], generator)]
    if kind == "lost":
        gone = inside
        if s in (usable[0], usable[-1]):
            # A lost outer sub-swath would only be a narrower picture: half of it stays.
            bursts = in_sight(burst, visible & inside)
            late = burst >= bursts[len(bursts) // 2]
            gone = inside & (late if uniform(0.0, 1.0, generator) < 0.5 else ~late)
    elif kind == "cut":
        width = uniform(0.1, 0.6, generator)
        gone = inside & _border(sub_swath, (width * step[1], -width * step[0]))
        gone |= inside & _border(sub_swath, (-width * step[1], width * step[0]))
    else:
        return fields
    return fields._replace(valid=fields.valid & ~gone)


def _ramps(fields: Fields, inside: Tensor, along: Tensor, g: torch.Generator) -> Fields:
    lines = uniform(0.05, 0.35, g) * _sign(g)
    ramp = lines * RAD_PER_LINE * along
    return fields._replace(phase=torch.where(inside, fields.phase + ramp, fields.phase))


def _steps(fields: Fields, inside: Tensor, burst: Tensor, g: torch.Generator) -> Fields:
    number = (burst - burst.min()).long()
    # Never less than a radian between neighbours: an alternating sign.
    size = 0.5 + (math.pi / 2 - 0.5) * _rand((int(number.max()) + 1,), g, burst)
    size[1::2] *= -1.0
    return fields._replace(phase=torch.where(inside, fields.phase + size[number], fields.phase))


def _misplaced(
    fields: Fields,
    inside: Tensor,
    burst: Tensor,
    step: tuple[float, float],
    visible: Tensor,
    g: torch.Generator,
) -> Fields:
    """About half of the bursts show the ground of another place along track, with another phase."""
    bursts = in_sight(burst, visible & inside)
    first = int(torch.randint(0, 2, (), generator=g))
    for b in bursts[first::2]:
        # One burst away is a duplicate of the neighbour.
        far = 1.0 if uniform(0.0, 1.0, g) < 0.5 else uniform(0.15, 0.6, g)
        far *= _sign(g)
        moved = Fields(*(_displaced(f, (far * step[0], far * step[1])) for f in fields))
        moved = moved._replace(phase=moved.phase + uniform(-math.pi, math.pi, g))
        fields = _where(inside & (burst == b), moved, fields)
    return fields


def _along_track(burst: Tensor, inside: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Position within each burst of a sub-swath, and how far one burst is.

    The plane through the burst numbers, by least squares, is the position along track in bursts;
    what it exceeds the number by is the position in the burst.

    Args:
        burst: (H, W) integer, number of the burst.
        inside: (H, W) bool, the sub-swath.

    Returns:
        (H, W) float32 [bursts], about -0.5 to 0.5, rising along the flight direction with a jump of
        -1 at each seam; and the (rows, columns) from a pixel to its like one burst on.
    """
    height, width = burst.shape
    rows = torch.arange(height, device=burst.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=burst.device, dtype=torch.float32)[None, :]
    sample = (slice(None, None, 4), slice(None, None, 4))
    some = inside[sample]
    number = burst[sample].float()[some]
    r, c = ((x.expand(height, width)[sample])[some] for x in (rows, columns))
    dr, dc, dn = r - r.mean(), c - c.mean(), number - number.mean()
    rr, rc, cc = (float((p * q).mean()) for p, q in ((dr, dr), (dr, dc), (dc, dc)))
    rn, cn = float((dr * dn).mean()), float((dc * dn).mean())
    determinant = max(rr * cc - rc**2, 1e-9)
    a, b = (cc * rn - rc * cn) / determinant, (rr * cn - rc * rn) / determinant
    plane = (rows - r.mean()) * a + ((columns - c.mean()) * b + number.mean())
    squared = max(a**2 + b**2, 1e-9)
    return plane - burst, (a / squared, b / squared)


def corrupt(
    fields: Fields, grid: Grid, heading_deg: float, generator: torch.Generator, kind: str = ""
) -> Fields:
    """A picture in which nothing can be read.

    Args:
        fields: The fields before.
        grid: Where.
        heading_deg: Flight azimuth [deg, clockwise from north]; stripes and blocks are turned by
            it.
        generator: Randomness.
        kind: One of `CORRUPTIONS`: dense fringes over everything, stripes across track, blocks of
            garbage, or half the picture lost; drawn when empty.

    Returns:
        The fields after. Nothing of the ground is left in them, and water is as any land.
    """
    kind = kind or CORRUPTIONS[_weighted([0.35, 0.3, 0.2, 0.15], generator)]
    east, north = (x.to(fields.phase.device) for x in grid.east_north())
    heading = math.radians(heading_deg + uniform(-2.0, 2.0, generator))
    along = (east * math.sin(heading) + north * math.cos(heading)) / grid.dy
    across = (east * math.cos(heading) - north * math.sin(heading)) / grid.dy
    if kind == "fringes":
        return _dense_fringes(fields, along, across, generator)
    if kind == "stripes":
        return _stripes(fields, along, across, generator)
    if kind == "blocks":
        return _blocks(fields, along, across, generator)
    return _half(_stripes(fields, along, across, generator), along, across, generator)


def _dense_fringes(fields: Fields, along: Tensor, across: Tensor, g: torch.Generator) -> Fields:
    """Wavy fringes 2.5 to 6 native pixels apart, in ground of one poor coherence."""
    pixels = uniform(2.5, 6.0, g) / 0.3
    azimuth = uniform(0.0, 2.0 * math.pi, g)
    size = max(along.shape)
    u = along * math.cos(azimuth) + across * math.sin(azimuth)
    v = across * math.cos(azimuth) - along * math.sin(azimuth)
    bend = uniform(-0.25, 0.25, g) / size
    wave = uniform(0.2, 1.2, g) * torch.sin((v + 0.3 * u) * (uniform(6.0, 25.0, g) / size))
    phase = (2.0 * math.pi / pixels) * (u + bend * v**2) + wave
    coherence = torch.full_like(fields.coherence, uniform(0.12, 0.5, g))
    return fields._replace(phase=phase, coherence=coherence)


def _stripes(fields: Fields, along: Tensor, across: Tensor, g: torch.Generator) -> Fields:
    """Stripes across track, each with a ramp and a coherence of its own, a third of them noise."""
    stripe = (along - along.min()).div(uniform(6.0, 30.0, g)).floor().long()
    phase, slope, coherence = _rand((3, int(stripe.max()) + 1), g, along)
    slope = uniform(0.005, 0.05, g) * (slope - 0.5)
    ramp = (2.0 * math.pi * phase)[stripe] + slope[stripe] * across
    return fields._replace(phase=ramp, coherence=(0.75 * coherence - 0.25).clamp_min(0)[stripe])


def _blocks(fields: Fields, along: Tensor, across: Tensor, g: torch.Generator) -> Fields:
    """Blocks with a ramp and a coherence of their own, a tenth of them without data."""
    tall, wide = uniform(50.0, 130.0, g), uniform(90.0, 260.0, g)
    row = (along - along.min()).div(tall).floor().long()
    column = (across - across.min()).div(wide).floor().long()
    block = row * (int(column.max()) + 1) + column
    a, b, c = _rand((3, int(block.max()) + 1), g, along)
    phase = (0.6 * (a - 0.5))[block] * along + (0.6 * (b - 0.5))[block] * across
    share = c[block]
    coherence = (0.9 * share - 0.4).clamp_min(0.0)
    return Fields(phase, coherence, fields.valid & (share > 0.1))


def _half(fields: Fields, along: Tensor, across: Tensor, g: torch.Generator) -> Fields:
    """About half of the picture without data, cut along or across the flight direction."""
    distance = _sign(g) * (along if uniform(0.0, 1.0, g) < 0.5 else across)
    return fields._replace(
        valid=fields.valid & (distance > uniform(-0.1, 0.1, g) * max(along.shape))
    )


def color_bar(
    picture: Image.Image, generator: torch.Generator, palette: str = "new"
) -> Image.Image:
    """The picture with the palette's legend at the bottom: -pi to pi, framed, with five ticks.

    Args:
        picture: A finished preview, mode P or RGB, at native spacing.
        generator: Randomness.
        palette: "new" or "old", that of the picture.

    Returns:
        A picture of the same mode, size and, in mode P, colour table; only a box of about
        60-150 x 8-15 px differs.

    Raises:
        ValueError: If the picture has another mode or is too small for a legend.
    """
    if picture.mode not in ("P", "RGB"):
        raise ValueError(f"colour bar: mode {picture.mode!r}, expected P or RGB")
    if picture.width < 40 or picture.height < 20:
        raise ValueError(f"colour bar: picture of {picture.size} px, at least (40, 20) needed")
    width = min(round(uniform(60.0, 150.0, generator)), picture.width - 6)
    height = min(round(uniform(8.0, 15.0, generator)), picture.height - 6)
    left = round(_weighted([1.0, 1.0, 1.0], generator) / 2 * (picture.width - width - 6)) + 3
    top = picture.height - height - round(uniform(1.0, 5.0, generator))
    bar = _legend(width, height, palette)
    out = picture.copy()
    if picture.mode == "P":
        bar_image = Image.fromarray(_nearest(bar, picture))
    else:
        bits = kept_bits(np.unique(np.asarray(picture).reshape(-1, 3), axis=0))
        bar_image = Image.fromarray(posterise(bar, bits))
    out.paste(bar_image, (left, top))
    return out


def _legend(width: int, height: int, palette: str) -> NDArray[np.uint8]:
    """(height, width, 3) colours of the legend; frame and ticks are in its darkest shade."""
    paint = palettes.new_colours if palette == "new" else palettes.old_colours
    bar = np.tile(paint(np.linspace(-math.pi, math.pi, width, dtype=np.float32)), (height, 1, 1))
    dark = np.array([49, 54, 149] if palette == "new" else [48, 20, 48], dtype=np.uint8)
    bar[[0, -1]] = dark
    bar[:, [0, -1]] = dark
    ticks = np.linspace(0, width - 1, 5).round().astype(int)
    bar[-max(3, height // 3) :, ticks] = dark
    return bar


def _nearest(bar: NDArray[np.uint8], picture: Image.Image) -> NDArray[np.uint8]:
    """Index of the picture's own opaque colour nearest to each one of the bar."""
    table = np.array(picture.getpalette(), dtype=np.int64).reshape(-1, 3)
    used = np.unique(np.asarray(picture))
    used = used[used != picture.info.get("transparency", -1)]
    distance = ((bar[..., None, :].astype(np.int64) - table[used]) ** 2).sum(-1)
    nearest: NDArray[np.uint8] = used[distance.argmin(-1)].astype(np.uint8)
    return nearest


def _where(mask: Tensor, new: Fields, old: Fields) -> Fields:
    return Fields(*(torch.where(mask, a, b) for a, b in zip(new, old, strict=True)))


def _displaced(field: Tensor, by: tuple[float, float]) -> Tensor:
    """What lies `by` (rows, columns) from each pixel; the ground is mirrored at the rim."""
    rows, columns = (_source(n, round(d), field) for n, d in zip(field.shape, by, strict=True))
    return field[rows][:, columns]


def _source(length: int, by: int, like: Tensor) -> Tensor:
    last = length - 1
    at = (torch.arange(length, device=like.device) + by).abs()
    return (last - (last - at).abs()).clamp(0, last)


def _border(index: Tensor, by: tuple[float, float]) -> Tensor:
    """(H, W) bool, where another number lies `by` (rows, columns) from the pixel."""
    rows, columns = (
        (torch.arange(n, device=index.device) + round(d)).clamp(0, n - 1)
        for n, d in zip(index.shape, by, strict=True)
    )
    return index[rows][:, columns] != index


def _rand(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator).to(like.device)


def _sign(generator: torch.Generator) -> float:
    return 1.0 if uniform(0.0, 1.0, generator) < 0.5 else -1.0


def _pick(values: list[int], generator: torch.Generator) -> int:
    return values[min(int(uniform(0.0, len(values), generator)), len(values) - 1)]


def _weighted(weights: list[float], generator: torch.Generator) -> int:
    return int(torch.multinomial(torch.tensor(weights), 1, generator=generator))
