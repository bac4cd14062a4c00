"""A retriever of a few thousand parameters, and batches for it."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heph_vl.data.captions import CaptionFacts, Pattern, encode
from heph_vl.models.encoder import EncoderConfig
from heph_vl.models.retriever import Retriever, RetrieverConfig
from heph_vl.models.text import TextConfig

CONFIG = RetrieverConfig(
    encoder=EncoderConfig(
        backbone="test_resnet", norm="group", dim=32, tile_size=64, num_latents=8, num_heads=2
    ),
    text=TextConfig(vocab_size=320, context_length=24, width=32, layers=1, heads=2),
    dim=24,
)
LONG_TEXT = dataclasses.replace(CONFIG.text, context_length=160)  # room for any caption
FACTS = [
    CaptionFacts(patterns=(Pattern(kind, level, frozenset({place})),))
    for kind in ("mogi", "sill", "dyke")
    for level in ("low", "high")
    for place in ("left", "right", "top")
] + [CaptionFacts(scene=frozenset({("no_deformation",)}))]


def make(tokenizer: Any = None, **changes: Any) -> Retriever:
    torch.manual_seed(0)
    return Retriever(dataclasses.replace(CONFIG, **changes), tokenizer)


def make_batch(numbers: list[int], *, side: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Image and text i have the facts FACTS[numbers[i]]; text i is noise that tells them."""
    generator = torch.Generator().manual_seed(seed)
    count = len(numbers)
    encoded = [encode(FACTS[number]) for number in numbers]
    scene = torch.from_numpy(np.stack([scene for scene, _ in encoded]))
    patterns = torch.from_numpy(np.stack([patterns for _, patterns in encoded]))
    ids = torch.tensor([[1, 10 + number, 60 + number, 2, 3] for number in numbers])
    mask = torch.zeros(count, side, side, dtype=torch.int64)
    mask[:, 3:20, 5:9] = (torch.tensor(numbers)[:, None, None] < len(FACTS) - 1).long()
    columns = torch.arange(side) * torch.tensor(numbers)[:, None] * 0.2  # fringes tell the facts
    phase = columns[:, None] + 0.3 * torch.randn(count, side, side, generator=generator)
    weights = torch.randint(1, 50, (2, count), generator=generator).float()
    return {
        "pixel_values": torch.stack([phase.cos(), phase.sin(), torch.ones_like(phase)], dim=1),
        "valid": torch.rand(count, side, side, generator=generator) < 0.9,
        "size": torch.tensor([[side, side - 7]]).repeat(count, 1),
        "mask": mask,
        "input_ids": ids,
        "attention_mask": (ids != 3).long(),
        "scene_atoms": scene,
        "patterns": patterns,
        "text_scene_atoms": scene.clone(),
        "text_patterns": patterns.clone(),
        "fact_count": weights[0],
        "text_count": weights[1],
    }


def drop_text(batch: dict[str, Tensor], i: int) -> None:
    """Make the i-th text an empty one, as fact dropout can."""
    batch["attention_mask"][i] = 0
    batch["text_scene_atoms"][i] = False
    batch["text_patterns"][i] = torch.tensor([-1, -1, 0])
