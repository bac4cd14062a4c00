"""Relevance of tokens: what it is to first order, and where it must be nothing."""

import pytest
import torch
from torch import Tensor

from heph_vl.models.explain import relevance
from tests.tiny_retriever import make, make_batch


def test_relevance_is_what_the_score_loses_to_first_order() -> None:
    model, batch = make().eval(), make_batch([0, 5], side=128)
    inputs = [batch[name] for name in ("pixel_values", "valid", "size")]
    direction = torch.nn.functional.normalize(torch.randn(2, 24), dim=1)
    with torch.no_grad():
        seen = model.encoder(*inputs)
    found = relevance(
        model.encoder, seen, lambda latents, tokens: (latents[:, 0, :24] * direction).sum(1)
    )
    assert found.shape == (2, *seen.grid)
    assert (found >= 0).all()

    def score(tokens: Tensor) -> Tensor:
        latents = model.encoder.pool(tokens, seen.token_mask, seen.saliency_logits)
        return (latents[:, 0, :24] * direction).sum(1)

    place = int(found[0].argmax())
    less = seen.tokens.clone()
    less[0, place] += 1e-2 * (seen.tokens[0][seen.token_mask[0]].mean(0) - less[0, place])
    with torch.no_grad():
        lost = (score(seen.tokens) - score(less))[0] / 1e-2
    assert found[0].flatten()[place].item() == pytest.approx(lost.item(), rel=0.05)
    assert (found.flatten(1)[~seen.token_mask] == 0).all()


def test_a_heat_map_is_of_the_image_given() -> None:
    model, batch = make().eval(), make_batch([0, 5], side=64)
    batch["valid"][0, :, 32:] = False
    inputs = [batch[name] for name in ("pixel_values", "valid", "size")]
    text = torch.nn.functional.normalize(torch.randn(24), dim=0)
    both = model.heat_map(text, *inputs)
    assert both.shape == (2, 4, 4)
    assert (both[0, :, 2:] == 0).all()
    assert both[1].any()
    alone = model.heat_map(text, *(tensor[1:] for tensor in inputs))
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())
