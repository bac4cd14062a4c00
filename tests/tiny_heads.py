"""Heads of a few thousand parameters, and batches whose fringes tell the labels."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heph_vl.data.captions import CaptionFacts, Pattern, encode
from heph_vl.models.encoder import EncoderConfig
from heph_vl.models.heads import Heads, HeadsConfig

CONFIG = HeadsConfig(
    encoder=EncoderConfig(
        backbone="test_resnet", norm="group", dim=32, tile_size=64, num_latents=8, num_heads=2
    ),
    num_heads=2,
    decoder_width=16,
)
KINDS = (None, "mogi", "dyke", "sill")  # of image i: KINDS[numbers[i]]
LEVELS = (None, "low", "medium", "high")


def make(**changes: Any) -> Heads:
    torch.manual_seed(0)
    encoder = changes.pop("encoder", {})
    config = dataclasses.replace(CONFIG, **changes)
    return Heads(
        dataclasses.replace(config, encoder=dataclasses.replace(CONFIG.encoder, **encoder))
    )


def make_batch(numbers: list[int], *, side: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Image i deforms as KINDS[numbers[i]] says: fringes in a box, finer for each kind."""
    generator = torch.Generator().manual_seed(seed)
    count, which = len(numbers), torch.tensor(numbers)
    noise = 0.3 * torch.randn(count, side, side, generator=generator)
    box = torch.zeros(side, side, dtype=torch.bool)
    box[20:40, 8:32] = True
    columns = torch.arange(side) * which[:, None] * 0.5
    phase = noise + box * columns[:, None]
    facts = [
        CaptionFacts(patterns=(Pattern(KINDS[n], LEVELS[n], frozenset({"left"})),))
        if n
        else CaptionFacts(scene=frozenset({("no_deformation",)}))
        for n in numbers
    ]
    scenes, patterns = zip(*map(encode, facts), strict=True)
    types = torch.nn.functional.one_hot(which, 7)[:, 1:].bool()
    return {
        "pixel_values": torch.stack([phase.cos(), phase.sin(), torch.ones_like(phase)], dim=1),
        "valid": torch.rand(count, side, side, generator=generator) < 0.95,
        "size": torch.tensor([[side, side - 7]]).repeat(count, 1),
        "mask": box * which[:, None, None],
        "deformation": which > 0,
        "activity_types": types,
        "intensities": types[:, :3],
        "volcano_phase": torch.where(which > 0, which % 3, 0),
        "atmosphere": which % 4,
        "quality": torch.nn.functional.one_hot(which, 7).bool(),
        "scene_atoms": torch.from_numpy(np.stack(scenes)),
        "patterns": torch.from_numpy(np.stack(patterns)),
    }
