"""Losses of the heads' labels, and of the facts that a caption tells."""

import torch
from torch import Tensor
from torch.nn import functional as F

from heph_vl.data.captions import INTENSITIES, PATTERN_TYPES, REGIONS, SCENE_ATOMS

# Scene atoms, then type x intensity and type x region of the patterns.
NUM_FACTS = len(SCENE_ATOMS) + len(PATTERN_TYPES) * (len(INTENSITIES) + len(REGIONS))


def label_loss(
    logits: Tensor, truth: Tensor, gamma: float = 0.0, known: Tensor | None = None
) -> Tensor:
    """Mean binary cross-entropy (); focal (Lin et al., 2017) with gamma above 0.

    Args:
        logits: (B, K).
        truth: (B, K) bool.
        gamma: A label of probability p of its truth weighs (1 - p)^gamma.
        known: (B,) bool, the rows that count; all if None.

    Returns:
        The loss, 0 without rows that count.
    """
    losses = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    if gamma:
        losses = losses * (-torch.expm1(-losses)).clamp(min=1e-6) ** gamma
    losses = losses.mean(1)
    return losses.mean() if known is None else (losses * known).sum() / known.sum().clamp(min=1)


def class_loss(logits: Tensor, target: Tensor, gamma: float = 0.0) -> Tensor:
    """Mean cross-entropy () of logits (B, K); target (B,) int64, -1 = does not count."""
    losses = F.cross_entropy(logits, target, ignore_index=-1, reduction="none")
    if gamma:
        losses = losses * (-torch.expm1(-losses)).clamp(min=1e-6) ** gamma
    return losses.sum() / (target >= 0).sum().clamp(min=1)


def fact_loss(logits: Tensor, scene_atoms: Tensor, patterns: Tensor) -> Tensor:
    """Binary cross-entropy () of the caption's scene atoms, plus that of its patterns.

    Args:
        logits: (B, NUM_FACTS).
        scene_atoms: (B, A) bool.
        patterns: (B, 4, 3) int64 as `data.captions.encode` gives them.

    Returns:
        The loss; bits that the caption does not tell do not count.
    """
    bits, known = fact_bits(scene_atoms, patterns)
    losses = F.binary_cross_entropy_with_logits(logits.float(), bits.float(), reduction="none")
    losses = losses * known
    scene = scene_atoms.shape[1]
    parts = [
        losses[:, part].sum() / known[:, part].sum().clamp(min=1)
        for part in (slice(scene), slice(scene, None))
    ]
    return parts[0] + parts[1]


def fact_bits(scene_atoms: Tensor, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Facts as bits: scene atoms, type x intensity, type x region.

    Args:
        scene_atoms: (B, A) bool.
        patterns: (B, 4, 3) int64: type, intensity, mask of regions; -1 = none or not stated.

    Returns:
        (B, NUM_FACTS) bool, and which of them the caption tells: a pattern without intensity or
        region says nothing of those of its type.
    """
    kind, intensity, regions = patterns.unbind(-1)
    kinds = torch.arange(len(PATTERN_TYPES), device=kind.device) == kind[..., None]  # (B, 4, 7)
    levels = torch.arange(len(INTENSITIES), device=kind.device) == intensity[..., None]
    places = (regions[..., None] >> torch.arange(len(REGIONS), device=kind.device)) & 1 > 0
    bits, known = [scene_atoms], [torch.ones_like(scene_atoms)]
    for said in (levels, places):  # (B, 4, n)
        cross = (kinds[..., None] & said[:, :, None]).any(1)  # (B, 7, n)
        silent = (kinds & ~said.any(-1, keepdim=True)).any(1)[..., None]  # (B, 7, 1)
        bits.append(cross.flatten(1))
        known.append((cross | ~silent).flatten(1))
    return torch.cat(bits, 1), torch.cat(known, 1)
