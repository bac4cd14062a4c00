"""Surface displacement of a rectangular dislocation: Okada (1985), in batched torch.

Only the free surface (z = 0) of Okada's half-space is needed here, which is an order of magnitude
less arithmetic than the general solution. Equation numbers are those of Okada, Y. (1985), Surface
deformation due to shear and tensile faults in a half-space, BSSA 75(4), 1135-1154.
"""

import math
from typing import Any

import torch
from torch import Tensor

Components = tuple[Tensor, Tensor, Tensor]
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
) -> Components:
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
            (opening positive) dislocation, each broadcastable against ``x``; the number 0 costs
            no arithmetic.
        poisson_ratio: Poisson's ratio of the half-space.

    Returns:
        Displacement (ux, uy, uz), each (..., H, W), in the unit of ``slip``, dtype of ``x``.
    """
    depth, dip, length, width = (
        torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (depth, dip, length, width)
    )
    sin, cos = torch.sin(dip), torch.cos(dip)
    p = y * cos + depth * sin
    q = y * sin - depth * cos
    nothing = torch.zeros_like(x + p + length + width)  # one shape for all, batch or not
    x, p = x + nothing, p + nothing
    # The four corners of Chinnery's notation, eq. (24), in two leading axes: (xi, eta).
    xi = torch.stack((x, x - length))[:, None]
    eta = torch.stack((p, p - width))[None]
    corners = _corners(xi, eta, q, sin, cos, slip, 1.0 - 2.0 * poisson_ratio)
    ux, uy, uz = ((u[0, 0] - u[0, 1] - u[1, 0] + u[1, 1]) / (2.0 * math.pi) for u in corners)
    return ux, uy, uz


def _corners(
    xi: Tensor,
    eta: Tensor,
    q: Tensor,
    sin: Tensor,
    cos: Tensor,
    slip: tuple[Any, Any, Any],
    mu_ratio: float,
) -> Components:
    """The brackets of eqs. (25), (26), (27) times their slips, summed."""
    left_lateral, reverse, opening = slip
    R = torch.sqrt(xi * xi + eta * eta + q * q)
    y_tilde = eta * cos + q * sin
    d_tilde = eta * sin - q * cos
    R_eta, log_R_eta = _edge_distance(xi, eta, q, R)
    a = torch.where(R_eta == 0, 0.0, q / (R * R_eta))
    theta = torch.where(q == 0, 0.0, torch.atan(xi * eta / (q * R)))
    I1, I3, I4, I5 = _integrals(xi, eta, q, R, y_tilde, d_tilde, log_R_eta, sin, cos, mu_ratio)
    ux = uy = uz = torch.zeros((), dtype=R.dtype, device=R.device)
    if not _is_zero(left_lateral):
        I2 = -mu_ratio * log_R_eta - I3
        ux = ux - left_lateral * (xi * a + theta + I1 * sin)
        uy = uy - left_lateral * (y_tilde * a + R * a * cos + I2 * sin)
        uz = uz - left_lateral * (d_tilde * a + R * a * sin + I4 * sin)
    if _is_zero(reverse) and _is_zero(opening):
        return ux, uy, uz
    R_xi, _ = _edge_distance(eta, xi, q, R)
    b = torch.where(R_xi == 0, 0.0, q / (R * R_xi))
    if not _is_zero(reverse):
        sin_cos = sin * cos
        ux = ux - reverse * (q / R - I3 * sin_cos)
        uy = uy - reverse * (y_tilde * b + cos * theta - I1 * sin_cos)
        uz = uz - reverse * (d_tilde * b + sin * theta - I5 * sin_cos)
    if not _is_zero(opening):
        sin_sin = sin * sin
        along = xi * a - theta
        ux = ux + opening * (q * a - I3 * sin_sin)
        uy = uy - opening * (d_tilde * b + sin * along + I1 * sin_sin)
        uz = uz + opening * (y_tilde * b + cos * along - I5 * sin_sin)
    return ux, uy, uz


def _is_zero(slip: Any) -> bool:
    return isinstance(slip, int | float) and slip == 0


def _edge_distance(xi: Tensor, eta: Tensor, q: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """R + eta and its logarithm; on the singular line R + eta = 0 (section 3): 0, -log(R - eta)."""
    # For eta < 0 the sum cancels, and the quotient does not.
    R_eta = torch.where(eta > 0, R + eta, (xi * xi + q * q) / (R - eta))
    on_line = R_eta <= 1e-12 * R
    logarithm = torch.where(on_line, -torch.log(R - eta), torch.log(R_eta))
    return torch.where(on_line, 0.0, R_eta), logarithm


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """I1, I3, I4, I5 of eq. (28), or of eq. (29) on a vertical fault; mu_ratio = mu/(lambda+mu)."""
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
    return I1, I3, I4, I5


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
) -> Components:
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
        Displacement (east, north, up), each (..., H, W) [m].
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
    return ux * s - uy * c, ux * c + uy * s, uz
