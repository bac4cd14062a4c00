"""Where in an image a score comes from.

The relevance of a token is gradient times difference from a reference (Shrikumar et al., 2017) of
the score that is pooled from the tokens: to first order, what the score would lose if the cell
looked like the image's mean token. Gradient times the token itself would be 0: the pooling
normalises tokens, so their length says nothing. The backbone needs no gradient, so that a whole
frame costs a look and one pass back through the pooling.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from heph_vl.models.encoder import Encoder, EncoderOutput


def relevance(
    encoder: Encoder, seen: EncoderOutput, score: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """How much each cell speaks for a score.

    Args:
        encoder: That has looked.
        seen: What it saw of B images.
        score: Of latents (B, L, D) and tokens (B, N, D), differentiable: (B,), each of its own
            image only.

    Returns:
        (B, rows, columns) float32 of the cells of 16 px, at least 0; 0 where there is no data.
    """
    tokens = seen.tokens.detach().requires_grad_()
    with torch.enable_grad():
        latents = encoder.pool(tokens, seen.token_mask, seen.saliency_logits.detach())
        (gradient,) = torch.autograd.grad(score(latents, tokens).sum(), tokens)
    mask = seen.token_mask[..., None]
    mean = (seen.tokens * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    found = (gradient * (seen.tokens - mean)).sum(-1).clamp(min=0)
    return found.masked_fill(~seen.token_mask, 0.0).view(len(found), *seen.grid).float()
