"""Deformation sources: what moves the ground, and how the radar sees it.

A kind of source is a row of `KINDS`: a prior to draw its geometry from, and the physical model that
turns that geometry into surface displacement at unit strength. All are linear in their strength
(volume change, opening, pressure, slip), so the strength is solved by scaling; with all lengths
scaled by s the pattern is the same, s times as large.

Geometry is a plain dict of numbers [m, deg], so that a source can be stored as JSON. A composite
source has one entry, ``parts``: a list of such dicts with ``model``, ``east``, ``north`` and
``strength`` beside the geometry.

Signs: displacement is positive east, north, up; line-of-sight (LOS) displacement is positive toward
the satellite, and moving toward it shortens the path and lowers the phase.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchdeform import MogiSource, PECMSource, PennySource, los_vector

from heph_vl.simulate.grid import uniform
from heph_vl.simulate.okada import Components, rectangle

WAVELENGTH_M = 0.05546576  # Sentinel-1, C band
FRINGE_M = WAVELENGTH_M / 2  # LOS displacement of one fringe: 2.773 cm
RADIAL = 128  # samples of a crack's profile

Parameters = dict[str, Any]
Model = Callable[[dict[str, Tensor], Tensor, Tensor], Components]


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
    """One type of source.

    Args:
        prior: Generator to geometry.
        models: Keys of `MODELS` that a source of this kind can have: the penny-shaped one if its
            geometry has a radius and no tilt, otherwise the first.
        strength_unit: What strength 1 means.
    """

    prior: Callable[[torch.Generator], Parameters]
    models: tuple[str, ...]
    strength_unit: str


@dataclass(frozen=True)
class Part:
    """A single physical source: all of a simple `Source`, or one piece of a composite one.

    Args:
        model: A key of `MODELS`.
        east: Position [m] from the middle of the grid.
        north: Position [m] from the middle of the grid.
        strength: Factor on the model's unit.
        parameters: The geometry in m and deg.
    """

    model: str
    east: float
    north: float
    strength: float
    parameters: dict[str, float]


def los_to_phase(los_displacement: Tensor) -> Tensor:
    """Interferometric phase [rad, unwrapped] of a LOS displacement [m, toward positive]."""
    return -4.0 * math.pi / WAVELENGTH_M * los_displacement


def _mogi(p: dict[str, Tensor], east: Tensor, north: Tensor) -> Components:
    """Mogi (1958), dV = 1e6 m3."""
    return _flat(MogiSource(), p, east, north, (p["depth"], 1e6))


def _penny(p: dict[str, Tensor], east: Tensor, north: Tensor) -> Components:
    """Horizontal penny-shaped crack (Fialko et al. 2001), pressure 10 MPa.

    The crack is costly and looks the same from all sides: solved along a line and interpolated.
    """
    depth = p["depth"]
    distance = torch.sqrt(east * east + north * north)
    s = torch.asinh(distance / depth)  # as in `fields`: evenly smooth in s
    step = s.amax((1, 2), keepdim=True).clamp_min(1e-6) / (RADIAL - 3)
    line = step * torch.arange(-1.0, RADIAL - 1.0, dtype=s.dtype, device=s.device)
    along = depth * torch.sinh(line)
    u = _flat(PennySource(), p, along, torch.zeros_like(depth), (depth, p["radius"], 1e7))
    position = s / step + 1.0
    base = position.floor().clamp(1, RADIAL - 3)
    t = position - base
    weights = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    outward, up = (
        _interpolated(profile[:, 0].to(s.dtype), base.long(), weights) for profile in (u[0], u[2])
    )
    outward = outward / distance.clamp_min(1e-6)
    return outward * east, outward * north, up


def _interpolated(profile: Tensor, base: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Sum over k = -1 .. 2 of weight k times the profile (B, N) at base + k, (B, H, W)."""
    total = torch.zeros_like(weights[0])
    for k, weight in enumerate(weights, -1):
        total = total + weight * profile.gather(1, (base + k).flatten(1)).reshape(base.shape)
    return total


def _spheroid(p: dict[str, Tensor], east: Tensor, north: Tensor) -> Components:
    """Point ellipsoidal cavity (Nikkhoo et al. 2017) with one long axis, pressure 10 MPa."""
    turns = (torch.deg2rad(p["tilt"]), 0.0, torch.deg2rad(p["azimuth"]))
    radii = (p["radius"], p["radius"], p["radius"] * p["aspect"])
    return _flat(PECMSource(), p, east, north, (p["depth"], *turns, *radii, 1e7))


def _flat(
    source: Callable[..., Any],
    p: dict[str, Tensor],
    east: Tensor,
    north: Tensor,
    numbers: tuple[Tensor | float, ...],
) -> Components:
    """Call a torchdeform source, which takes points as (B, N) and parameters as (B,)."""
    one = torch.ones_like(p["depth"]).flatten()
    east = east + 0 * p["depth"]
    e, n = east + 0 * north, north + 0 * east
    columns = [
        number.flatten() if isinstance(number, Tensor) else number * one for number in numbers
    ]
    u = source(e.reshape(len(one), -1), n.reshape(len(one), -1), 0 * one, 0 * one, *columns)
    return u.e.reshape(e.shape), u.n.reshape(e.shape), u.u.reshape(e.shape)


def _tensile(p: dict[str, Tensor], east: Tensor, north: Tensor) -> Components:
    """Okada (1985) rectangle that opens by 1 m."""
    return _okada(p, east, north, (0, 0, 1.0))


def _shear(p: dict[str, Tensor], east: Tensor, north: Tensor) -> Components:
    """Okada (1985) rectangle that slips by 1 m along its rake (0 left-lateral, 90 reverse)."""
    rake = torch.deg2rad(p["rake"])
    return _okada(p, east, north, (torch.cos(rake), torch.sin(rake), 0))


def _okada(
    p: dict[str, Tensor], east: Tensor, north: Tensor, slip: tuple[Any, Any, Any]
) -> Components:
    centre = (0.0, 0.0, p["depth"])
    return rectangle(east, north, centre, p["strike"], p["dip"], p["length"], p["width"], slip)


MODELS: dict[str, Model] = {
    "mogi": _mogi,
    "penny": _penny,
    "spheroid": _spheroid,
    "tensile": _tensile,
    "shear": _shear,
}

# The priors are those of SyInterferoPy (Gaddes et al. 2019) where it has them: Mogi 1-4 km deep;
# sill 1.5-3.5 km deep with sides of 2-6 km; dyke dipping 75-90 deg, top 0-2 km, to 10 km long.
# Depths reach further down here, because at 333 m a pixel the fringes of many strong shallow
# sources average to nothing, and dykes do not come within 500 m of the surface.


def _mogi_prior(g: torch.Generator) -> Parameters:
    return {"depth": 1_500.0 * 4.0 ** uniform(0.0, 1.0, g)}


def _spheroid_prior(g: torch.Generator) -> Parameters:
    return {
        "depth": uniform(2_500.0, 6_000.0, g),
        "radius": uniform(400.0, 900.0, g),
        "aspect": uniform(1.5, 3.0, g),
        "tilt": uniform(0.0, 40.0, g),
        "azimuth": uniform(0.0, 360.0, g),
    }


def _sill_prior(g: torch.Generator) -> Parameters:
    """Two of three are rectangles, one is a penny-shaped crack."""
    if uniform(0.0, 1.0, g) < 1 / 3:
        return {"depth": uniform(1_500.0, 5_500.0, g), "radius": uniform(1_000.0, 3_000.0, g)}
    return _rectangle_prior(g, (0.0, 10.0), (2e3, 6e3), (2e3, 6e3), (1_500.0, 5_500.0))


def _dyke_prior(g: torch.Generator) -> Parameters:
    return _rectangle_prior(g, (75.0, 90.0), (3e3, 10e3), (2e3, 5e3), (500.0, 4_000.0))


def _earthquake_prior(g: torch.Generator) -> Parameters:
    """Strike-slip, normal or thrust, with the dips that each is known for."""
    style = int(torch.randint(0, 3, (), generator=g))
    dip = ((75.0, 90.0), (50.0, 70.0), (25.0, 45.0))[style]
    strike_slip = uniform(-15.0, 15.0, g) + (180.0 if uniform(0.0, 1.0, g) < 0.5 else 0.0)
    rake = (strike_slip, -90.0, 90.0)[style]
    p = _rectangle_prior(g, dip, (5e3, 14e3), (4e3, 8e3), (1_500.0, 5_000.0))
    return p | {"rake": rake}


def _unidentified_prior(g: torch.Generator) -> Parameters:
    """What nobody could name: a shallow shear patch, or small sources that overlap."""
    if uniform(0.0, 1.0, g) < 0.3:
        patch = _rectangle_prior(g, (5.0, 60.0), (2e3, 7e3), (2e3, 5e3), (500.0, 2_000.0))
        return {"parts": [_part("shear", 0.0, 0.0, 1.0, patch | {"rake": uniform(0.0, 360.0, g)})]}
    parts = []
    for _ in range(2 + int(torch.randint(0, 2, (), generator=g))):
        model = ("mogi", "penny", "tensile", "shear")[int(torch.randint(0, 4, (), generator=g))]
        azimuth, away = uniform(0.0, 2 * math.pi, g), uniform(500.0, 3_500.0, g)
        sign = 1.0 if uniform(0.0, 1.0, g) < 0.7 else -1.0
        strength = sign * uniform(0.5, 1.0, g)
        east, north = away * math.sin(azimuth), away * math.cos(azimuth)
        parts.append(_part(model, east, north, strength, _small_prior(model, g)))
    return {"parts": parts}


def _small_prior(model: str, g: torch.Generator) -> Parameters:
    if model == "mogi":
        return {"depth": uniform(1_000.0, 3_000.0, g)}
    if model == "penny":
        return {"depth": uniform(1_000.0, 3_000.0, g), "radius": uniform(500.0, 1_500.0, g)}
    p = _rectangle_prior(g, (0.0, 90.0), (1.5e3, 5e3), (1e3, 3e3), (600.0, 2_500.0))
    return p | ({"rake": uniform(0.0, 360.0, g)} if model == "shear" else {})


def _part(model: str, east: float, north: float, peak: float, p: Parameters) -> Parameters:
    """A part whose largest displacement is `peak` metres (sign: of the model's unit)."""
    reach = 2.0 * (p["depth"] + p.get("length", 0.0) / 2 + p.get("radius", 0.0))
    side = torch.linspace(-reach, reach, 33, dtype=torch.float64)
    u = MODELS[model](as_tensors([p]), side[None, None, :], side[None, :, None])
    largest = float(sum(c * c for c in u).max()) ** 0.5  # type: ignore[union-attr]
    return {"model": model, "east": east, "north": north, "strength": peak / largest} | p


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
    "mogi": Kind(_mogi_prior, ("mogi",), "1e6 m3 of volume change"),
    "sill": Kind(_sill_prior, ("tensile", "penny"), "1 m of opening, or 10 MPa of pressure"),
    "dyke": Kind(_dyke_prior, ("tensile",), "1 m of opening"),
    "spheroid": Kind(_spheroid_prior, ("spheroid",), "10 MPa of pressure"),
    "earthquake": Kind(_earthquake_prior, ("shear",), "1 m of slip"),
    "unidentified": Kind(_unidentified_prior, tuple(MODELS), "the strengths of its parts"),
}


def parts_of(source: Source) -> list[Part]:
    """The single sources that a source is made of."""
    p = source.parameters
    if "parts" not in p:
        models = KINDS[source.kind].models
        model = "penny" if "penny" in models and "radius" in p else models[0]
        return [Part(model, source.east, source.north, 1.0, p)]
    parts = []
    for part in p["parts"]:
        own = {k: v for k, v in part.items() if k not in ("model", "east", "north", "strength")}
        east, north = source.east + part["east"], source.north + part["north"]
        parts.append(Part(part["model"], east, north, part["strength"], own))
    return parts


def as_tensors(
    parameters: Sequence[dict[str, float]],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Geometries of one form as (B, 1, 1) tensors."""
    return {
        key: torch.tensor([p[key] for p in parameters], dtype=dtype, device=device)[:, None, None]
        for key in parameters[0]
    }
