"""Deformation sources: what moves the ground, how the radar sees it, and its outline.

A kind of source is a row of `KINDS`: a prior to draw its geometry from, and a function from that
geometry to surface displacement at unit strength. All are linear in their strength (volume change,
opening, pressure, slip), so the strength is solved by scaling.

Signs: displacement is positive east, north, up; line-of-sight (LOS) displacement is positive toward
the satellite, and moving toward it shortens the path and lowers the phase.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import contourpy
import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torchdeform import MogiSource, PECMSource, los_vector

from heph_vl.simulate.okada import rectangle
from heph_vl.simulate.terrain import Grid, uniform

WAVELENGTH_M = 0.05546576  # Sentinel-1, C band
FRINGE_M = WAVELENGTH_M / 2  # LOS displacement of one fringe: 2.773 cm
LOW_FROM, MEDIUM_FROM, HIGH_FROM = 0.5, 1.5, 3.5  # fringes inside the outline
OUTLINE_FRINGES = 0.25  # the outline is the contour of |LOS| at this many fringes ...
OUTLINE_SHARE = 0.12  # ... or at this share of its peak, where that is more
COARSE_STEP = 4  # sources are evaluated on every 4th pixel and interpolated ...
WINDOW_M = 4_000.0  # ... except within this distance of the edges of
SHALLOW_M = 1_500.0  # sources whose top is above this depth

Parameters = dict[str, float]
Displace = Callable[[Parameters, Tensor, Tensor], Tensor]
Prior = Callable[[torch.Generator], Parameters]


@dataclass(frozen=True)
class Look:
    """Sentinel-1's viewing geometry, right-looking.

    Args:
        heading_deg: Flight azimuth [deg, clockwise from north].
        incidence_deg: Angle between the vertical and the ray [deg].
    """

    heading_deg: float
    incidence_deg: float

    @property
    def vector(self) -> tuple[float, float, float]:
        """Unit vector from the ground to the satellite: east, north, up."""
        unit = los_vector([self.heading_deg], [self.incidence_deg])
        return float(unit.e), float(unit.n), float(unit.u)


@dataclass(frozen=True)
class Source:
    """One buried source.

    Args:
        kind: A key of `KINDS`.
        east: Position [m] from the middle of the grid.
        north: Position [m] from the middle of the grid.
        parameters: The geometry that the kind needs, in m and deg.
    """

    kind: str
    east: float
    north: float
    parameters: Parameters


@dataclass(frozen=True)
class Kind:
    """One type of source: how its geometry is drawn, and the motion it causes.

    Args:
        prior: Generator to geometry.
        displace: Geometry, east and north [m] from the source -> (3, H, W) displacement [m]
            (east, north, up) for unit strength.
        strength_unit: What strength 1 means.
    """

    prior: Prior
    displace: Displace
    strength_unit: str


@dataclass(frozen=True)
class Outline:
    """Where a pattern is seen, and how strong.

    Args:
        polygon: Corners (x, y) in native pixels, origin at the top left of the image.
        fringe_count: (max - min) of the LOS displacement inside, in fringes.
        toward: Whether the strongest motion inside is toward the satellite.
        seen_share: Share of the outline's pixels that pass `clear` (see `outline`).
    """

    polygon: tuple[tuple[float, float], ...]
    fringe_count: float
    toward: bool
    seen_share: float


def los_to_phase(los_displacement: Tensor) -> Tensor:
    """Interferometric phase [rad, unwrapped] of a LOS displacement [m, toward positive]."""
    return -4.0 * math.pi / WAVELENGTH_M * los_displacement


def intensity_of(fringe_count: float) -> str | None:
    """Hephaestus' intensity level of a number of fringes; None when too weak to be seen."""
    if fringe_count < LOW_FROM:
        return None
    if fringe_count <= MEDIUM_FROM:
        return "low"
    return "medium" if fringe_count <= HIGH_FROM else "high"


def _mogi(p: Parameters, east: Tensor, north: Tensor) -> Tensor:
    """Mogi (1958), dV = 1e6 m3."""
    zero = torch.zeros(1, dtype=torch.float64)
    east, north = east + 0 * north, north + 0 * east
    u = MogiSource()(
        east.reshape(1, -1), north.reshape(1, -1), zero, zero, zero + p["depth"], zero + 1e6
    )
    return torch.stack((u.e, u.n, u.u)).reshape(3, *east.shape)


def _spheroid(p: Parameters, east: Tensor, north: Tensor) -> Tensor:
    """Point ellipsoidal cavity (Nikkhoo et al. 2017) with one long axis, pressure 10 MPa."""
    east, north = east + 0 * north, north + 0 * east
    one = torch.ones(1, dtype=torch.float64)
    u = PECMSource()(
        east.reshape(1, -1),
        north.reshape(1, -1),
        0.0 * one,
        0.0 * one,
        p["depth"] * one,
        math.radians(p["tilt"]) * one,
        0.0 * one,
        math.radians(p["azimuth"]) * one,
        p["radius"] * one,
        p["radius"] * one,
        p["radius"] * p["aspect"] * one,
        1e7 * one,
    )
    return torch.stack((u.e, u.n, u.u)).reshape(3, *east.shape)


def _tensile(p: Parameters, east: Tensor, north: Tensor) -> Tensor:
    """Okada (1985) rectangle that opens by 1 m."""
    return _okada(p, east, north, (0.0, 0.0, 1.0))


def _shear(p: Parameters, east: Tensor, north: Tensor) -> Tensor:
    """Okada (1985) rectangle that slips by 1 m along its rake (0 left-lateral, 90 reverse)."""
    rake = math.radians(p["rake"])
    return _okada(p, east, north, (math.cos(rake), math.sin(rake), 0.0))


def _okada(p: Parameters, east: Tensor, north: Tensor, slip: tuple[float, float, float]) -> Tensor:
    centre = (0.0, 0.0, p["depth"])
    return rectangle(east, north, centre, p["strike"], p["dip"], p["length"], p["width"], slip)


def _mogi_prior(g: torch.Generator) -> Parameters:
    return {"depth": 1_800.0 * 4.0 ** uniform(0.0, 1.0, g)}


def _spheroid_prior(g: torch.Generator) -> Parameters:
    return {
        "depth": uniform(2_500.0, 6_000.0, g),
        "radius": uniform(400.0, 900.0, g),
        "aspect": uniform(1.5, 3.0, g),
        "tilt": uniform(0.0, 40.0, g),
        "azimuth": uniform(0.0, 360.0, g),
    }


def _sill_prior(g: torch.Generator) -> Parameters:
    return _rectangle_prior(g, (0.0, 10.0), (2e3, 6e3), (2e3, 6e3), (1_500.0, 5_500.0))


def _dyke_prior(g: torch.Generator) -> Parameters:
    return _rectangle_prior(g, (75.0, 90.0), (3e3, 10e3), (2e3, 5e3), (500.0, 4_000.0))


def _earthquake_prior(g: torch.Generator) -> Parameters:
    style = int(torch.randint(0, 3, (), generator=g))
    dip = ((75.0, 90.0), (50.0, 70.0), (25.0, 45.0))[style]
    rake = (uniform(-15.0, 15.0, g), -90.0, 90.0)[style]
    p = _rectangle_prior(g, dip, (5e3, 14e3), (4e3, 8e3), (1_500.0, 5_000.0))
    return p | {"rake": rake}


def _rectangle_prior(
    g: torch.Generator,
    dip: tuple[float, float],
    length: tuple[float, float],
    width: tuple[float, float],
    top: tuple[float, float],
) -> Parameters:
    p = {
        "dip": uniform(*dip, g),
        "length": uniform(*length, g),
        "width": uniform(*width, g),
        "strike": uniform(0.0, 360.0, g),
        "top": uniform(*top, g),
    }
    return p | {"depth": p["top"] + p["width"] / 2 * math.sin(math.radians(p["dip"]))}


KINDS: dict[str, Kind] = {
    "mogi": Kind(_mogi_prior, _mogi, "1e6 m3 of volume change"),
    "sill": Kind(_sill_prior, _tensile, "1 m of opening"),
    "dyke": Kind(_dyke_prior, _tensile, "1 m of opening"),
    "spheroid": Kind(_spheroid_prior, _spheroid, "10 MPa of pressure"),
    "earthquake": Kind(_earthquake_prior, _shear, "1 m of slip"),
}


def unit_los(source: Source, grid: Grid, look: Look) -> Tensor:
    """LOS displacement of a source at unit strength.

    Evaluated in float64 on every `COARSE_STEP`-th pixel and interpolated by 6-point Lagrange
    polynomials; around shallow sources every pixel is evaluated.

    Args:
        source: The source.
        grid: Where.
        look: From where it is seen.

    Returns:
        (H, W) float32 [m], positive toward the satellite.
    """
    kind = KINDS[source.kind]
    east, north = grid.east_north(torch.float64)
    east, north = east - source.east, north - source.north
    look_vector = torch.tensor(look.vector, dtype=torch.float64)

    def los(e: Tensor, n: Tensor) -> Tensor:
        return torch.einsum("c,chw->hw", look_vector, kind.displace(source.parameters, e, n))

    rows, columns = _lagrange(grid.height), _lagrange(grid.width)
    coarse_east = _coarse(east[0], grid.dx, columns.shape[1])[None, :]
    coarse_north = _coarse(north[:, 0], -grid.dy, rows.shape[1])[:, None]
    field = rows @ los(coarse_east, coarse_north) @ columns.T
    p = source.parameters
    if p.get("top", p["depth"]) < SHALLOW_M:
        reach = WINDOW_M + 0.5 * (p.get("length", 0.0) + p.get("width", 0.0))
        inner_rows = (north[:, 0].abs() <= reach).nonzero()[:, 0]
        inner_columns = (east[0].abs() <= reach).nonzero()[:, 0]
        if len(inner_rows) and len(inner_columns):
            r = slice(int(inner_rows[0]), int(inner_rows[-1]) + 1)
            c = slice(int(inner_columns[0]), int(inner_columns[-1]) + 1)
            field[r, c] = los(east[:, c], north[r])
    return field.float()


def _coarse(fine: Tensor, spacing: float, count: int) -> Tensor:
    """Coordinates of the coarse nodes: two before the first pixel, then every COARSE_STEP-th."""
    return fine[0] + (torch.arange(count, dtype=fine.dtype) - 2) * COARSE_STEP * spacing


def _lagrange(length: int) -> Tensor:
    """(length, nodes) float64 matrix that interpolates coarse nodes to every pixel."""
    nodes = (length - 1) // COARSE_STEP + 6
    index = torch.arange(length)
    base = index // COARSE_STEP
    t = (index % COARSE_STEP).double() / COARSE_STEP
    matrix = torch.zeros((length, nodes), dtype=torch.float64)
    for j in range(-2, 4):
        weight = torch.ones_like(t)
        for k in range(-2, 4):
            if k != j:
                weight = weight * (t - k) / (j - k)
        matrix[index, base + j + 2] = weight
    return matrix


def outline(los: Tensor, visible: Tensor, clear: Tensor, native: tuple[int, int]) -> Outline | None:
    """Outline of the fringes that one event shows.

    The contour of |LOS| at `OUTLINE_FRINGES` of a fringe (or `OUTLINE_SHARE` of the peak), gaps of
    up to six native pixels closed so that the lobes of one source stay together, cut at coasts
    and at the swath's edge; the largest piece of it.

    Args:
        los: (H, W) float32 [m] of the event alone.
        visible: (H, W) bool: inside the swath and not water.
        clear: (H, W) bool: coherent enough for fringes to be seen.
        native: Height and width of the image at native spacing.

    Returns:
        The outline in native pixels, or None when nothing is seen.
    """
    peak = float(torch.where(visible, los.abs(), 0.0).max()) / FRINGE_M
    if peak < LOW_FROM:
        return None
    level = max(min(OUTLINE_FRINGES, 0.5 * peak), OUTLINE_SHARE * peak) * FRINGE_M
    # One sample a native pixel is enough: no source has detail below its depth.
    rows, columns = (
        ((torch.arange(short) + 0.5) * (long / short)).long()
        for short, long in zip(native, los.shape, strict=True)
    )
    land = visible[rows][:, columns].numpy()
    blob = _close((los[rows][:, columns].abs() >= level).numpy() & land) & land
    pieces, count = ndimage.label(blob, structure=np.ones((3, 3)))
    if count == 0:
        return None
    piece: NDArray[np.bool_] = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    extent = ndimage.find_objects(piece.astype(np.int32))[0]
    polygon = _trace(piece[extent], (extent[1].start, extent[0].start), native)
    if polygon is None:
        return None
    # Count on the full grid, inside the piece's window only.
    index = [(torch.arange(n) * (m / n)).long() for n, m in zip(los.shape, native, strict=True)]
    box = [(i >= side.start) & (i < side.stop) for i, side in zip(index, extent, strict=True)]
    window = tuple(slice(int(b.nonzero()[0]), int(b.nonzero()[-1]) + 1) for b in box)
    inside = torch.from_numpy(piece)[index[0][window[0]]][:, index[1][window[1]]] & visible[window]
    if not bool(inside.any()):
        return None
    values = los[window][inside]
    return Outline(
        polygon,
        float(values.max() - values.min()) / FRINGE_M,
        bool(values[values.abs().argmax()] > 0),
        float(clear[window][inside].float().mean()),
    )


def _close(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Morphological closing by a 7 x 7 square: gaps of up to six pixels are filled."""
    grown = torch.from_numpy(np.pad(mask, 6))[None, None].float()
    for sign in (1.0, -1.0):
        for kernel in ((7, 1), (1, 7)):
            grown = sign * functional.max_pool2d(sign * grown, kernel, 1)
    return (grown[0, 0] > 0).numpy()


def _trace(
    piece: NDArray[np.bool_], offset: tuple[int, int], native: tuple[int, int]
) -> tuple[tuple[float, float], ...] | None:
    """Corners of the outline of a connected mask that starts at `offset`, slightly smoothed."""
    filled = ndimage.binary_fill_holes(np.pad(piece, 2))
    rings = contourpy.contour_generator(z=ndimage.gaussian_filter(filled * 1.0, 0.7)).lines(0.5)
    areas = [shapely.Polygon(ring) for ring in rings if len(ring) >= 4]
    if not areas:
        return None
    largest = max(areas, key=lambda area: area.area).simplify(0.4)
    if largest.geom_type != "Polygon" or largest.area < 12:  # under 12 px nothing can be read
        return None
    # Padding moved index i to i + 2; the centre of pixel i lies at i + 0.5.
    xy = np.asarray(largest.exterior.coords)[:-1] - 1.5 + np.asarray(offset)
    xy = np.clip(xy, 0.0, (native[1], native[0]))
    return tuple((round(float(x), 1), round(float(y), 1)) for x, y in xy)
