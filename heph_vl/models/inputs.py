"""What is seen of an interferogram: its phasor, or its colours, for the ablation of inputs."""

from typing import Literal

import torch
from torch import Tensor

from heph_vl.data.palettes import NEW_STEP_RAD

InputKind = Literal["phasor", "rgb", "grey"]


def as_seen(pixel_values: Tensor, valid: Tensor, kind: InputKind, colours: Tensor) -> Tensor:
    """The image as the backbone gets it.

    Args:
        pixel_values: (B, 3, H, W) float32: Re and Im of the phasor, coherence.
        valid: (B, H, W) bool.
        kind: `phasor`: as it is; `rgb`: LiCSAR's colours, without coherence; `grey`: their
            luminance three times, as an image opened in grey.
        colours: (252, 3) float32 in [0, 1], the palette from -pi to pi.

    Returns:
        (B, 3, H, W) float32. Colours are relative to white, in [-1, 0]: white is no data, and
        what the encoder blanks is 0.
    """
    if kind == "phasor":
        return pixel_values
    phase = torch.atan2(pixel_values[:, 1], pixel_values[:, 0])
    step = (phase / NEW_STEP_RAD + len(colours) / 2).long().clamp(0, len(colours) - 1)
    colour = colours[step]  # (B, H, W, 3)
    if kind == "grey":
        luminance = colour @ torch.tensor([0.299, 0.587, 0.114], device=colour.device)
        colour = luminance[..., None].expand_as(colour)
    return ((colour - 1) * valid[..., None]).permute(0, 3, 1, 2)
