"""Contrastive losses: by definition, and the slow references of `data.captions` and `metrics`."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heph_vl.data import captions
from heph_vl.data.captions import CaptionFacts, Pattern
from heph_vl.metrics.fact_queries import fact_jaccard, fact_tokens
from heph_vl.models.contrastive import (
    contrastive_loss,
    distinct_texts,
    entails,
    fact_counts,
    fact_similarity,
    sigmoid_loss,
    soft_loss,
)
from heph_vl.models.retriever import MAX_LOGIT_SCALE


def encoded(facts: list[CaptionFacts]) -> tuple[Tensor, Tensor]:
    scenes, patterns = zip(*(captions.encode(f) for f in facts), strict=True)
    return torch.from_numpy(np.stack(scenes)), torch.from_numpy(np.stack(patterns))


def entailed(text: CaptionFacts, image: CaptionFacts) -> bool:
    result = entails(*encoded([text]), *encoded([image]))
    assert result.shape == (1, 1)
    return bool(result)


def told(*patterns: tuple[str, str | None, str], scene: tuple[str, ...] = ()) -> CaptionFacts:
    return CaptionFacts(
        frozenset((atom,) for atom in scene),
        tuple(Pattern(kind, level, frozenset(places.split())) for kind, level, places in patterns),
    )


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [
        # Attributes of two patterns do not mix.
        (told(("mogi", None, "right")), told(("mogi", None, "left"), ("sill", None, "right")), 0),
        (told(("sill", None, "right")), told(("mogi", None, "left"), ("sill", None, "right")), 1),
        # Two patterns need two.
        (told(("mogi", "low", ""), ("mogi", "low", "")), told(("mogi", "low", "left")), 0),
        (
            told(("mogi", "low", ""), ("mogi", "low", "")),
            told(("mogi", "low", "left"), ("mogi", "low", "")),
            1,
        ),
        # The first text pattern must leave the only fitting one to the second.
        (
            told(("unspecified", None, ""), ("sill", None, "")),
            told(("sill", None, ""), ("mogi", None, "")),
            1,
        ),
        (told(("unspecified", "low", "")), told(("dyke", "low", "top")), 1),
        (told(("sill", None, "")), told(("unspecified", None, "")), 0),
        (told(("sill", "low", "")), told(("sill", None, "")), 0),
        (told(("sill", None, "")), told(("sill", "high", "top")), 1),
        (told(("sill", None, "top left")), told(("sill", None, "top")), 0),
        (told(("sill", None, "top")), told(("sill", None, "top left")), 1),
        (told(scene=("noise",)), told(("sill", None, ""), scene=("noise",)), 1),
        (told(scene=("noise", "corrupted")), told(scene=("noise",)), 0),
        (told(scene=("no_deformation",)), told(scene=("noise",)), 0),
        (told(), told(scene=("noise",)), 1),
    ],
)
def test_entailment_by_hand(text: CaptionFacts, image: CaptionFacts, expected: int) -> None:
    assert entailed(text, image) == bool(expected)
    assert captions.entails(image, text) == bool(expected)


PATTERNS = st.builds(
    Pattern,
    st.sampled_from(["mogi", "sill", "unspecified"]),
    st.sampled_from([None, "low", "high"]),
    st.frozensets(st.sampled_from(["left", "high-altitude"]), max_size=2),
)
ANY_FACTS = st.builds(
    CaptionFacts,
    st.frozensets(
        st.sampled_from(
            [("noise",), ("noise", "left"), ("corrupted",), ("long_temporal_baseline",)]
        )
    ),
    st.lists(PATTERNS, max_size=4).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ANY_FACTS, min_size=1, max_size=5), st.lists(ANY_FACTS, min_size=1, max_size=5))
def test_entailment_equals_the_slow_reference(
    texts: list[CaptionFacts], images: list[CaptionFacts]
) -> None:
    expected = [[captions.entails(image, text) for image in images] for text in texts]
    assert entails(*encoded(texts), *encoded(images)).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(ANY_FACTS, min_size=1, max_size=12), st.data())
def test_one_text_of_each_set_of_facts_is_kept(facts: list[CaptionFacts], data: Any) -> None:
    has_text = data.draw(st.lists(st.booleans(), min_size=len(facts), max_size=len(facts)))
    kept = distinct_texts(*encoded(facts), torch.tensor(has_text)).tolist()
    keys = [(f.scene, sorted(map(repr, captions.encode(f)[1].tolist()))) for f in facts]
    expected = [
        i
        for i, key in enumerate(keys)
        if has_text[i] and key not in [k for k, h in zip(keys[:i], has_text, strict=False) if h]
    ]
    assert kept == expected


def unit(*shape: int, seed: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1).requires_grad_()


def by_definition(s: Tensor, positives: Tensor, weights: Tensor) -> float:
    """One direction of DESIGN's loss, term by term in float64."""
    total = norm = 0.0
    for i, row in enumerate(positives.tolist()):
        if not any(row):
            continue
        e = [math.exp(x) for x in s[i].tolist()]
        others = sum(x for x, p in zip(e, row, strict=True) if not p)
        terms = [-math.log(x / (x + others)) for x, p in zip(e, row, strict=True) if p]
        total += float(weights[i]) * sum(terms) / len(terms)
        norm += float(weights[i])
    return total / norm


def test_loss_equals_its_definition() -> None:
    u, v, t = unit(6, 8, seed=0), unit(5, 8, seed=1), torch.tensor(1.7)
    positives = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    positives[3] = False  # an image of which no text is true
    positives[:, 4] = True  # a text that is true of all
    w, z = torch.tensor([1.0, 0.2, 3, 9, 0.5, 2]), torch.tensor([4.0, 1, 0.3, 2, 7])
    s = (t.exp() * u @ v.T).double()
    expected = (by_definition(s, positives, w) + by_definition(s.T, positives.T, z)) / 2
    loss = contrastive_loss(u, v, t, positives, w, z)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(u, v, t, positives, 5 * w, 9 * z).item() == pytest.approx(loss.item())
    loss.backward()
    assert u.grad is not None
    assert u.grad.isfinite().all()


def test_with_one_positive_each_it_is_clips_loss() -> None:
    u, v, t = unit(7, 8, seed=0), unit(7, 8, seed=1), torch.tensor(2.0)
    logits, target = t.exp() * u @ v.T, torch.arange(7)
    cross_entropy = torch.nn.functional.cross_entropy
    clip = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    ones = torch.ones(7)
    ours = contrastive_loss(u, v, t, torch.eye(7, dtype=torch.bool), ones, ones)
    torch.testing.assert_close(ours, clip)


def test_many_positives_have_no_floor() -> None:
    u = torch.eye(2).repeat_interleave(8, 0)  # two kinds of image, 8 of each
    loss = contrastive_loss(
        u, u, torch.tensor(MAX_LOGIT_SCALE), (u @ u.T).bool(), torch.ones(16), torch.ones(16)
    )
    assert loss < 1e-6  # with positives in the denominator: log 8


@pytest.mark.parametrize("case", ["one text", "no negative", "no positive", "no text"])
def test_nothing_to_contrast_is_zero_with_a_warning(case: str) -> None:
    texts = {"one text": 1, "no text": 0}.get(case, 3)
    u, v = unit(4, 8, seed=0), unit(texts, 8, seed=1)
    positives = torch.full((4, texts), case != "no positive")
    if case == "one text":
        positives[2:] = False
    t = torch.tensor(2.0, requires_grad=True)
    with pytest.warns(UserWarning, match="contrastive loss 0"):
        loss = contrastive_loss(u, v, t, positives, torch.ones(4), torch.ones(texts))
    loss.backward()
    assert loss == 0
    for parameter in (u, v, t):
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_a_row_of_positives_only_has_a_finite_gradient() -> None:
    u, v = unit(3, 8, seed=0), unit(3, 8, seed=1)
    positives = torch.tensor([[True, True, True], [True, False, False], [False, False, True]])
    loss = contrastive_loss(u, v, torch.tensor(4.6), positives, torch.ones(3), torch.ones(3))
    loss.backward()
    assert u.grad is not None
    assert u.grad.isfinite().all()
    assert u.grad[1].any()


def test_loss_is_computed_in_float32_under_autocast() -> None:
    u, v = unit(6, 8, seed=0), unit(6, 8, seed=1)
    arguments = (torch.tensor(4.0), torch.eye(6, dtype=torch.bool), torch.ones(6), torch.ones(6))
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_loss(u, v, *arguments)
    assert torch.equal(inside, contrastive_loss(u, v, *arguments))


def test_sigmoid_loss_equals_its_definition() -> None:
    u, v, t, b = unit(4, 8, seed=0), unit(3, 8, seed=1), torch.tensor(1.7), torch.tensor(-0.3)
    positives = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]]).bool()
    w, z = torch.tensor([1.0, 0.2, 3, 9]), torch.tensor([4.0, 1, 0.3])
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for i in range(4):
        for g in range(3):
            s = math.exp(1.7) * (u[i] @ v[g]).item() - 0.3
            on = bool(positives[i, g])
            pair = float(w[i] * z[g])
            sums[on][0] += pair * -math.log(1 / (1 + math.exp(-s if on else s)))
            sums[on][1] += pair
    expected = sum(total / weight for total, weight in sums.values()) / 2
    found = sigmoid_loss(u, v, t, b, positives, w, z)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_some_similarity_of_all_is_something_to_learn() -> None:
    similarity = 0.2 + 0.7 * torch.eye(3)
    arguments = torch.tensor(2.0), similarity, torch.ones(3), torch.ones(3)
    assert soft_loss(unit(3, 8, seed=0), unit(3, 8, seed=1), *arguments) > 0.01


def test_soft_loss_is_zero_at_its_shares_only() -> None:
    similarity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.0]])
    u, t, ones = torch.eye(3), torch.tensor(0.0), torch.ones(3)
    # Scores log(similarity) make shares in proportion to it, along rows and columns.
    v = (similarity + 1e-9).log().T.contiguous()
    assert soft_loss(u, v, t, similarity, ones, ones).item() == pytest.approx(0, abs=1e-5)
    other = torch.eye(3)
    assert soft_loss(u, v, t, other, ones, ones) > 0.1


@pytest.mark.parametrize("case", ["one text", "no negative", "no positive"])
def test_the_other_losses_with_nothing_to_contrast_are_zero(case: str) -> None:
    texts = 1 if case == "one text" else 3
    u, v, b = unit(4, 8, seed=0), unit(texts, 8, seed=1), torch.zeros((), requires_grad=True)
    t = torch.tensor(2.0, requires_grad=True)
    positives = torch.full((4, texts), case != "no positive")
    weights = torch.ones(4), torch.ones(texts)
    with pytest.warns(UserWarning, match="contrastive loss 0"):
        pairs = sigmoid_loss(u, v, t, b, positives, *weights)
    with pytest.warns(UserWarning, match="contrastive loss 0"):
        soft = soft_loss(u, v, t, positives.float(), *weights)
    (pairs + soft).backward()
    assert pairs == soft == 0
    for parameter in (u, v, t, b):
        assert parameter.grad is not None
        assert not parameter.grad.any()


@settings(max_examples=40, deadline=None)
@given(st.lists(ANY_FACTS, min_size=1, max_size=6), st.lists(ANY_FACTS, min_size=1, max_size=6))
def test_similarity_equals_the_metrics_jaccard(
    queries: list[CaptionFacts], images: list[CaptionFacts]
) -> None:
    ours = fact_counts(*encoded(images))
    for row, facts in zip(ours, images, strict=True):
        assert row.sum() == sum(fact_tokens(facts).values())
    # As the metric weighs facts: by how many images tell the i-th occurrence; here once each.
    single = [f for f in images if max(fact_tokens(f).values(), default=1) == 1]
    asked = [f for f in queries if max(fact_tokens(f).values(), default=1) == 1]
    if not single or not asked:
        return
    ours, texts = fact_counts(*encoded(single)), fact_counts(*encoded(asked))
    weights = torch.log1p(len(single) / ours.sum(0).clamp(min=0.5))
    expected = fact_jaccard(asked, single, [1] * len(single)).T
    found = fact_similarity(ours, texts, weights)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
