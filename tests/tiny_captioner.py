"""A captioner of a few thousand parameters."""

import dataclasses
from typing import Any

import torch

from heph_vl.models.captioner import Captioner, CaptionerConfig
from tests import tiny_retriever

CONFIG = CaptionerConfig(
    encoder=tiny_retriever.CONFIG.encoder,
    vocab_size=320,
    context_length=16,
    width=32,
    layers=1,
    heads=2,
    num_tokens=6,
)


def make(tokenizer: Any = None, **changes: Any) -> Captioner:
    torch.manual_seed(0)
    return Captioner(dataclasses.replace(CONFIG, **changes), tokenizer)
