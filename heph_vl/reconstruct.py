"""What the autoencoder keeps of crops: scores, a sheet, and the scale of its latents."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from heph_vl.data.grain import draw_phase
from heph_vl.data.samples import pixels
from heph_vl.data.transforms import collate_images
from heph_vl.metrics.phase_fidelity import COHERENT, circular_error, fringe_count_error
from heph_vl.models.autoencoder import (
    PhaseAutoencoder,
    from_channels,
    set_scale,
    to_channels,
)
from heph_vl.sheet import tile_pictures

_AT_ONCE = 64
_TURN = 1.0  # rad, of the test for equivariance


def measure_scale(network: AutoencoderKL, items: Iterable[Mapping[str, Any]]) -> None:
    """Record mean and deviation of each latent channel over training crops in the network.

    Args:
        network: The trained one.
        items: Of a `TrainingSet`.
    """
    total, squares, number = 0.0, 0.0, 0
    for batch in _batches(items):
        with torch.no_grad():
            channels = to_channels(batch["pixel_values"], batch["valid"]).to(network.device)
            latents = network.encode(channels).latent_dist.mean.double()
        total = total + latents.sum((0, 2, 3))
        squares = squares + latents.square().sum((0, 2, 3))
        number += latents[:, 0].numel()
    centre = torch.as_tensor(total) / number
    variance = torch.as_tensor(squares) / number - centre.square()
    spread = variance.clamp(min=1e-8).sqrt()  # a channel that says nothing stays finite
    set_scale(network, centre.tolist(), spread.tolist())


@torch.no_grad()
def reconstruction(model: PhaseAutoencoder, items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How well crops come back.

    Args:
        model: The autoencoder, in evaluation mode.
        items: Of a `TrainingSet`, of one size.

    Returns:
        Where coherence is at least `COHERENT`: `circular_error` [rad], `fringe_count_error` (mean
        over lines) and `lines_off`, the share of lines that are wrong by half a fringe and more.
        Everywhere: `coherence_error` (mean absolute, of 3 x 3 means) and `valid_error` (share of
        pixels). And `equivariance_error` [rad], where coherent: a turned crop comes back turned.
        The same errors of the phase with its grain, as pictures have it, begin with `drawn_`. What
        no crop can tell is left out.
    """
    rng = np.random.default_rng(0)
    phase, drawn, turned, coherence, valid = [], [], [], [], []
    lines, drawn_lines = [], []
    for batch in _batches(items):
        pixel_values, data = batch["pixel_values"], batch["valid"]
        channels = to_channels(pixel_values, data)
        seen = _back(model, channels)
        z = torch.complex(pixel_values[:, 0], pixel_values[:, 1])
        turn = torch.complex(channels[:, 0], channels[:, 1]) * complex(np.cos(_TURN), np.sin(_TURN))
        other = _back(model, torch.stack([turn.real, turn.imag, channels[:, 2]], dim=1))
        wanted, given, shifted = (f.angle().numpy() for f in (z, seen.phasor, other.phasor))
        pictured = draw_phase(seen.phasor.numpy(), rng, seen.coherence.numpy())
        where = (pixel_values[:, 2] >= COHERENT).numpy()
        for i in range(len(where)):
            if where[i].any():
                phase.append(circular_error(wanted[i], given[i], where[i]))
                drawn.append(circular_error(wanted[i], pictured[i], where[i]))
                turned.append(circular_error(given[i] + _TURN, shifted[i], where[i]))
            lines.append(fringe_count_error(wanted[i], given[i], where[i]))
            drawn_lines.append(fringe_count_error(wanted[i], pictured[i], where[i]))
            error = (seen.coherence[i] - channels[i, 2]).abs()[data[i]]
            coherence += [float(error.mean())] if len(error) else []
            valid.append(float((seen.valid[i] != data[i]).float().mean()))
    wrong, drawn_wrong = np.concatenate(lines), np.concatenate(drawn_lines)
    found: dict[str, Any] = {
        "circular_error": phase,
        "fringe_count_error": wrong,
        "lines_off": wrong >= 0.5,
        "drawn_circular_error": drawn,
        "drawn_fringe_count_error": drawn_wrong,
        "coherence_error": coherence,
        "valid_error": valid,
        "equivariance_error": turned,
    }
    return {name: float(np.mean(each)) for name, each in found.items() if len(each)}


@torch.no_grad()
def reconstruction_sheet(
    model: PhaseAutoencoder, items: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Write a picture: crops above, what comes back of them below, coherence beside phase."""
    from heph_vl.data.phase import colour

    rng = np.random.default_rng(0)
    tiles: list[tuple[str, Image.Image]] = []
    for batch in _batches(items):
        channels = to_channels(batch["pixel_values"], batch["valid"])
        seen = _back(model, channels)
        z = torch.complex(batch["pixel_values"][:, 0], batch["pixel_values"][:, 1]).numpy()
        back = draw_phase(seen.phasor.numpy(), rng, seen.coherence.numpy())
        for i in range(len(z)):
            pair = []
            for phase, level, valid in (
                (np.angle(z[i]), batch["pixel_values"][i, 2].numpy(), batch["valid"][i].numpy()),
                (back[i], seen.coherence[i].numpy(), seen.valid[i].numpy()),
            ):
                grey = np.repeat((level * 255).astype(np.uint8)[..., None], 3, axis=2)
                pair.append(np.concatenate([colour(phase, valid), grey], axis=1))
            tiles.append(("above: crop, below: decoded", Image.fromarray(np.concatenate(pair))))
    tile_pictures(tiles, path, columns=4, scale=2)


def _back(model: PhaseAutoencoder, channels: torch.Tensor) -> Any:
    posterior = model.network.encode(channels.to(model.network.device)).latent_dist
    return from_channels(model.network.decode(posterior.mean).sample.float().cpu())


def _batches(items: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, torch.Tensor]]:
    left = iter(items)
    while some := list(islice(left, _AT_ONCE)):
        yield collate_images([pixels(item["sample"]) for item in some])
