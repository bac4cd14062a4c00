"""Surface displacement of a rectangular dislocation: Okada (1985), in batched torch.

Only the free surface (z = 0) of Okada's half-space is needed here, which is an order of magnitude
less arithmetic than the general solution. Equation numbers are those of Okada, Y. (1985), Surface
deformation due to shear and tensile faults in a half-space, BSSA 75(4), 1135-1154.
"""

import math
from typing import Any

import torch
from torch import Tensor

_VERTICAL = 1e-6  # |cos(dip)| below this takes the limit formulas of eq. (29)


def okada_surface(
    x: Tensor,
    y: Tensor,
    depth: Any,
    dip: Any,
    length: Any,
    width: Any,
    slip: tuple[Any, Any, Any],
    poisson_ratio: float = 0.25,
) -> Tensor:
    """Surface displacement in Okada's own frame, eqs. (25)-(27).

    The x axis runs along strike, y horizontally up-dip, z up; the origin lies above the corner of
    the fault's deep edge with the smaller x. All lengths share one unit.

    Args:
        x: (..., H, W) coordinate along strike.
        y: (..., H, W) coordinate up-dip.
        depth: Depth of the deep edge, positive down; broadcasts against ``x``.
        dip: Dip angle [rad].
        length: Length along strike.
        width: Width along dip.
        slip: Strike-slip (left-lateral positive), dip-slip (reverse positive) and tensile
            (opening positive) dislocation, each broadcastable against ``x``.
        poisson_ratio: Poisson's ratio of the half-space.

    Returns:
        (3, ..., H, W) displacement (ux, uy, uz) in the unit of ``slip``, dtype of ``x``.
    """
    depth, dip, length, width = (
        torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (depth, dip, length, width)
    )
    strike_slip, dip_slip, opening = (
        torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in slip
    )
    sin, cos = torch.sin(dip), torch.cos(dip)
    p = y * cos + depth * sin
    q = y * sin - depth * cos
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for sign, xi, eta in (
        (1.0, x, p),
        (-1.0, x, p - width),
        (-1.0, x - length, p),
        (1.0, x - length, p - width),
    ):  # Chinnery's notation, eq. (24)
        shear, dipping, tensile = _corner(xi, eta, q, sin, cos, 1.0 - 2.0 * poisson_ratio)
        total = total + sign * (opening * tensile - strike_slip * shear - dip_slip * dipping)
    return total / (2.0 * math.pi)


def _corner(
    xi: Tensor, eta: Tensor, q: Tensor, sin: Tensor, cos: Tensor, mu_ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The brackets of eqs. (25), (26), (27) at one corner, each (3, ..., H, W)."""
    zero = xi * 0 + eta * 0 + q * 0
    xi, eta, q = xi + zero, eta + zero, q + zero
    R = torch.sqrt(xi * xi + eta * eta + q * q)
    y_tilde = eta * cos + q * sin
    d_tilde = eta * sin - q * cos
    # Singular lines of section 3: R + eta = 0 (above the extension of an edge) and q = 0.
    on_line = R + eta <= 1e-12 * R.clamp_min(1e-30)
    per_R_eta = torch.where(on_line, 0.0, 1.0 / (R * (R + eta)))
    log_R_eta = torch.where(on_line, -torch.log(R - eta), torch.log(R + eta))
    on_xi = R + xi <= 1e-12 * R.clamp_min(1e-30)
    per_R_xi = torch.where(on_xi, 0.0, 1.0 / (R * (R + xi)))
    theta = torch.where(q == 0, 0.0, torch.atan(xi * eta / (q * R)))
    I1, I2, I3, I4, I5 = _integrals(xi, eta, q, R, y_tilde, d_tilde, log_R_eta, sin, cos, mu_ratio)
    a = q * per_R_eta
    b = q * per_R_xi
    shear = torch.stack(
        (
            xi * a + theta + I1 * sin,
            y_tilde * a + R * a * cos + I2 * sin,
            d_tilde * a + R * a * sin + I4 * sin,
        )
    )
    dipping = torch.stack(
        (
            q / R - I3 * sin * cos,
            y_tilde * b + cos * theta - I1 * sin * cos,
            d_tilde * b + sin * theta - I5 * sin * cos,
        )
    )
    tensile = torch.stack(
        (
            q * a - I3 * sin * sin,
            -d_tilde * b - sin * (xi * a - theta) - I1 * sin * sin,
            y_tilde * b + cos * (xi * a - theta) - I5 * sin * sin,
        )
    )
    return shear, dipping, tensile


def _integrals(
    xi: Tensor,
    eta: Tensor,
    q: Tensor,
    R: Tensor,
    y_tilde: Tensor,
    d_tilde: Tensor,
    log_R_eta: Tensor,
    sin: Tensor,
    cos: Tensor,
    mu_ratio: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """I1..I5 of eq. (28), or of eq. (29) where the fault is vertical; mu_ratio = mu/(lambda+mu)."""
    vertical = cos.abs() < _VERTICAL
    c = torch.where(vertical, 1.0, cos)
    tan = sin / c
    R_d = R + d_tilde
    X = torch.sqrt(xi * xi + q * q)
    arc = torch.atan((eta * (X + q * c) + X * (R + X) * sin) / (xi * (R + X) * c))
    I5 = mu_ratio * 2.0 / c * torch.where(xi == 0, 0.0, arc)
    I4 = mu_ratio / c * (torch.log(R_d) - sin * log_R_eta)
    I3 = mu_ratio * (y_tilde / (c * R_d) - log_R_eta) + tan * I4
    I1 = -mu_ratio * xi / (c * R_d) - tan * I5
    if bool(vertical.any()):
        half = 0.5 * mu_ratio
        I1 = torch.where(vertical, -half * xi * q / R_d**2, I1)
        I3 = torch.where(vertical, half * (eta / R_d + y_tilde * q / R_d**2 - log_R_eta), I3)
        I4 = torch.where(vertical, -mu_ratio * q / R_d, I4)
        I5 = torch.where(vertical, -mu_ratio * xi * sin / R_d, I5)
    I2 = -mu_ratio * log_R_eta - I3
    return I1, I2, I3, I4, I5


def rectangle(
    east: Tensor,
    north: Tensor,
    centroid: tuple[Any, Any, Any],
    strike_deg: Any,
    dip_deg: Any,
    length: Any,
    width: Any,
    slip: tuple[Any, Any, Any],
    poisson_ratio: float = 0.25,
) -> Tensor:
    """Surface displacement of a rectangle given by its centroid, in east, north, up.

    Args:
        east: (..., H, W) [m].
        north: (..., H, W) [m].
        centroid: East, north [m] and depth [m, positive down] of the rectangle's middle.
        strike_deg: Azimuth of the strike [deg, clockwise from north]; the fault dips to its right.
        dip_deg: Dip below the horizontal [deg].
        length: Length along strike [m].
        width: Width along dip [m].
        slip: Left-lateral, reverse and opening dislocation [m].
        poisson_ratio: Poisson's ratio of the half-space.

    Returns:
        (3, ..., H, W) displacement (east, north, up) [m].
    """
    center_east, center_north, center_depth = centroid
    strike = torch.deg2rad(torch.as_tensor(strike_deg, dtype=east.dtype, device=east.device))
    dip = torch.deg2rad(torch.as_tensor(dip_deg, dtype=east.dtype, device=east.device))
    s, c = torch.sin(strike), torch.cos(strike)
    de, dn = east - center_east, north - center_north
    half_run = width / 2 * torch.cos(dip)
    x = de * s + dn * c + length / 2
    y = dn * s - de * c + half_run
    deep_edge = center_depth + width / 2 * torch.sin(dip)
    ux, uy, uz = okada_surface(x, y, deep_edge, dip, length, width, slip, poisson_ratio)
    return torch.stack((ux * s - uy * c, ux * c + uy * s, uz))
