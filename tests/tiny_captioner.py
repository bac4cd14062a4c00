"""A captioner of a few thousand parameters, and one that has learnt to say certain texts."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from heph_vl.models.captioner import Captioner, CaptionerConfig, Memory
from heph_vl.models.text import tokenize
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


def teach(model: Captioner, texts: Sequence[str], *, steps: int = 60) -> Captioner:
    """Let a captioner say each of some texts equally often, whatever it sees; in evaluation mode.

    Only the decoder learns, from one image of noise.
    """
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 64, 64, generator=generator)
    seen = model.eval().look(pixels, torch.ones(1, 64, 64, dtype=torch.bool))
    memory = Memory(*(value.expand(len(texts), *value.shape[1:]) for value in vars(seen).values()))
    with warnings.catch_warnings(action="error"):  # a text that is cut would never end
        tokens = tokenize(model.tokenizer, texts, model.config.context_length)
    ids, told = tokens["input_ids"], tokens["attention_mask"][:, 1:]
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-2)
    for _ in range(steps):
        logits = model.next_logits(memory, ids).transpose(1, 2)
        loss = (F.cross_entropy(logits, ids[:, 1:], reduction="none") * told).sum() / told.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
