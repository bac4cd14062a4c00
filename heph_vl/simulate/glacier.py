"""Flowing ice: the "glacier fringes" of Hephaestus (80 records of two frames in Iceland)."""

import torch
from torch import Tensor
from torch.nn import functional

from heph_vl.simulate.grid import Grid, uniform
from heph_vl.simulate.sources import FRINGE_M, los_to_phase

ICE_SLOPE = 0.22  # rise over run of a kilometre above which snow lies on rock
CLIFF = 0.6  # the same of a pixel
LEAST_ICE_KM2 = 20.0
SHEAR_RAD = 1.0  # phase step [rad] between 0.001 degree pixels that leaves 1 / e of the coherence


def glacier_phase(
    elevation: Tensor,
    slope: Tensor,
    snow: Tensor,
    grid: Grid,
    look_vector: tuple[float, float, float],
    days: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Phase of flowing ice: dense fringes along the streams of an ice field, sharp at its margins.

    Ice slides down the smoothed surface, fast in valleys and on steep parts and hardly at all at
    its margins. Linear in time, so that phase closes around dates if the generator is the frame's.

    Args:
        elevation: (H, W) float32 [m].
        slope: (H, W) float32, rise over run.
        snow: (H, W) bool.
        grid: Where.
        look_vector: Unit vector from the ground to the satellite: east, north, up.
        days: Days between the two dates.
        generator: Randomness.

    Returns:
        phase: (H, W) float32 [rad], 0 off the ice; 0 everywhere if no ice field is large enough.
        keep: (H, W) float32 in [0, 1], factor on the coherence: low where the ice shears.
    """
    height, width = elevation.shape
    cell = max(1, min(round(700.0 / grid.dy), height, width))
    cell_m = cell * grid.dy
    # Cliffs stick out of the ice; what is steep over a kilometre carries none.
    cover, ground = (_shrunk(x, cell) for x in ((snow & (slope < CLIFF)).float(), elevation))
    gentle = _steepness(_blurred(ground, 1e3 / cell_m), cell_m)[0] < ICE_SLOPE
    ice = (_blurred(cover * gentle, 2e3 / cell_m) > 0.5).float()
    los = _ice_flow(ground, ice, cell_m, look_vector, generator)
    # Fringes of twelve days on the fastest ice; the sign of the motion is the slope's.
    fringes = uniform(4.0, 12.0, generator)
    if float(ice.sum()) * (cell_m / 1e3) ** 2 < LEAST_ICE_KM2 or not bool(los.any()):
        return torch.zeros_like(elevation), torch.ones_like(elevation)
    los = los * (fringes * FRINGE_M / float(los.abs().max()) * days / 12.0)
    on_ice = (_grown(ice, height, width) > 0.5) & snow
    phase = torch.where(on_ice, los_to_phase(_grown(los, height, width)), 0.0)
    steep = torch.zeros_like(phase)
    steep[1:] += torch.diff(phase, dim=0).square()
    steep[:, 1:] += torch.diff(phase, dim=1).square()
    return phase, torch.exp(-steep / SHEAR_RAD**2)


def _ice_flow(
    elevation: Tensor,
    ice: Tensor,
    cell_m: float,
    look: tuple[float, float, float],
    g: torch.Generator,
) -> Tensor:
    """Displacement of the ice toward the satellite, of any unit; all on cells of about 700 m."""
    km = 1e3 / cell_m
    surface = _blurred(elevation, 3.0 * km)
    steepness, south, east = _steepness(surface, cell_m)
    # Streams begin in valleys or by chance, and run down the surface.
    valley = _normal(_blurred(elevation, 4.0 * km) - _blurred(elevation, km))
    chance = _normal(_blurred(torch.randn(ice.shape, generator=g).to(ice.device), 2.0 * km))
    stream = _along_flow(valley + chance, south / steepness, east / steepness, round(5.0 * km))
    inner = (2.0 * _blurred(ice, km) - 1.0).clamp_min(0.0).sqrt()  # 0 at a straight margin
    speed = ice * inner * (0.04 + torch.sigmoid(5.0 * _normal(stream) - 2.0)) * steepness.sqrt()
    # Down the slope and along the surface.
    toward = look[1] * south - look[0] * east - look[2] * steepness**2
    return speed * toward / steepness


def _steepness(surface: Tensor, cell_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rise over run: its amount, at least 1e-6, and its southward and eastward parts."""
    south, east = torch.gradient(surface, spacing=cell_m)
    return torch.sqrt(south**2 + east**2).clamp_min(1e-6), south, east


def _along_flow(field: Tensor, south: Tensor, east: Tensor, steps: int) -> Tensor:
    """Mean of a field up and down the slope, in steps of two cells.

    Args:
        field: (h, w) float32.
        south: (h, w) southward part of the unit vector uphill.
        east: (h, w) eastward part of it.
        steps: How far to go each way.

    Returns:
        (h, w) float32, drawn out along the slope.
    """
    height, width = field.shape
    rows = torch.linspace(-1.0, 1.0, height, device=field.device)[:, None].expand(height, width)
    columns = torch.linspace(-1.0, 1.0, width, device=field.device).expand(height, width)
    carried = torch.stack([east * (4.0 / width), south * (4.0 / height), field])[None]
    total = torch.zeros_like(field)
    for sign in (1.0, -1.0):
        at, here = torch.stack([columns, rows], dim=-1)[None], carried
        for _ in range(steps):
            at = at + sign * here[:, :2].permute(0, 2, 3, 1)
            here = functional.grid_sample(carried, at, padding_mode="border", align_corners=True)
            total += here[0, 2]
    return total / (2 * steps)


def _normal(field: Tensor) -> Tensor:
    return (field - field.mean()) / field.std().clamp_min(1e-6)


def _shrunk(field: Tensor, cell: int) -> Tensor:
    return functional.avg_pool2d(field[None, None], cell, ceil_mode=True)[0, 0]


def _grown(field: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(field[None, None], (height, width), mode="bilinear")[0, 0]


def _blurred(field: Tensor, cells: float) -> Tensor:
    """Two box means that reach so many cells each way; the rim counts only what there is."""
    out = field[None, None]
    reach = max(1, round(cells))
    size = 2 * reach + 1
    for _ in range(2):
        for kernel, padding in (((size, 1), (reach, 0)), ((1, size), (0, reach))):
            out = functional.avg_pool2d(out, kernel, 1, padding, count_include_pad=False)
    return out[0, 0]
