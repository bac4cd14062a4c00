"""The contrastive loss against its definition, its positives against the slow reference."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heph_vl.data import captions
from heph_vl.data.captions import CaptionFacts, Pattern
from heph_vl.errors import HephError
from heph_vl.models.retriever import (
    MAX_LOGIT_SCALE,
    Retriever,
    contrastive_loss,
    distinct_texts,
    entails,
    retriever_loss,
)
from heph_vl.models.text import TextConfig, train_tokenizer
from heph_vl.optim import make_optimizer
from tests.tiny_retriever import CONFIG, FACTS, drop_text, make, make_batch


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


def test_the_recipes_loss_puts_its_parts_together() -> None:
    model, batch = make(), make_batch([0, 1, 0, 5, len(FACTS) - 1, 1])
    drop_text(batch, 3)
    batch["text_patterns"][1, 0] = torch.tensor([6, 0, 0])  # "low", true of images 0, 1, 2, 5
    loss, logs = retriever_loss(model, batch)
    out = model(batch)
    # Texts 0 (also 2), 1, 4 and 5 are left; text 5 still says all of fact set 1.
    positives = torch.tensor(
        [[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]
    ).bool()
    texts = [0, 1, 4, 5]
    contrastive = contrastive_loss(
        out["image_embeds"],
        out["text_embeds"][texts],
        torch.tensor(math.log(10)),
        positives,
        batch["fact_count"] ** -0.5,
        batch["text_count"][texts] ** 0.5,
    )
    torch.testing.assert_close(logs["contrastive"], contrastive.detach())
    torch.testing.assert_close(loss.detach(), contrastive.detach() + logs["saliency"])
    assert logs["texts"] == 4
    assert logs["positives"] == pytest.approx(positives.float().mean().item())
    assert logs["logit_scale"] == pytest.approx(10)
    without, others = retriever_loss(model, {k: t for k, t in batch.items() if k != "mask"})
    torch.testing.assert_close(without, contrastive)
    assert "saliency" not in others


def test_an_empty_text_is_not_there() -> None:
    model, batch = make(), make_batch([0, 1, 2, 3])
    drop_text(batch, 2)
    loss, _ = retriever_loss(model, batch)
    batch["input_ids"][2] = torch.tensor([1, 99, 98, 2, 3])
    batch["text_count"][2] = 1000
    assert torch.equal(retriever_loss(model, batch)[0], loss)


def test_every_parameter_learns_even_without_texts() -> None:
    model, batch = make(saliency_weight=0.0), make_batch([0, 1])
    drop_text(batch, 0)
    drop_text(batch, 1)
    with pytest.warns(UserWarning, match="contrastive loss 0"):
        loss, _ = retriever_loss(model, batch)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_diagonal_option_knows_no_facts() -> None:
    model, batch = make(loss="diagonal"), make_batch([0, 0, 1, 2])
    out = model(batch)
    logits = 10 * out["image_embeds"] @ out["text_embeds"].T
    cross_entropy, target = torch.nn.functional.cross_entropy, torch.arange(4)
    clip = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(retriever_loss(model, batch)[1]["contrastive"], clip.detach())
    drop_text(batch, 0)
    assert retriever_loss(model, batch)[1]["texts"] == 3


def test_the_logit_scale_is_bounded_and_can_come_back() -> None:
    model, batch = make(), make_batch([0, 1, 2, 3])
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    loss, _ = retriever_loss(model.train(), batch)
    loss.backward()
    assert model.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.abs() > 0


def test_a_few_images_are_learnt_by_heart() -> None:
    model, batch = make(), make_batch([0, 4, 8, 18])
    optimizer = make_optimizer(model, 2e-3, 0.0)
    history = []
    for step in range(30):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 30)
        loss, logs = retriever_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(logs)
    for part in ("contrastive", "saliency"):
        assert history[-1][part] < 0.2 * history[0][part]
    out = model.eval()(batch)
    scores = out["image_embeds"] @ out["text_embeds"].T
    assert scores.argmax(0).tolist() == scores.argmax(1).tolist() == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = ["Sill-type deformation on the left.", "No deformation activity can be detected."]
    return train_tokenizer(texts, tmp_path_factory.mktemp("tokenizer"), 300)


@pytest.fixture
def saved(tokenizer: Any, tmp_path: Path) -> Path:
    make(tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_saved_and_read_again(saved: Path, tokenizer: Any) -> None:
    model, again = make(tokenizer).eval(), Retriever.from_pretrained(saved)
    assert not again.training
    assert again.model_id == model.model_id
    batch = make_batch([0, 1, 2])
    images = [batch[k] for k in ("pixel_values", "valid", "size")]
    assert torch.equal(again.encode_images(*images), model.encode_images(*images))
    texts = ["a sill", "No deformation"]
    embeds = again.embed_texts(texts)
    assert torch.equal(embeds, model.embed_texts(texts))
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.embed_texts(texts, batch_size=1), embeds)
    entries = json.loads((saved / "config.json").read_text())
    assert entries["encoder"]["path"] == "encoder"
    assert (saved / "encoder" / "config.json").is_file()
    weights = [p for p in saved.rglob("*") if p.suffix == ".safetensors"]
    assert len(weights) == 2  # the encoder is not saved twice
    sizes = sum(p.stat().st_size for p in weights)
    assert sizes < 4.2 * sum(t.numel() for t in model.state_dict().values()) + 20_000


def test_the_identity_follows_weights_and_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    model = make(tokenizer)
    ids = {model.model_id}
    for parameter in (model.encoder.pool.queries, model.logit_scale):
        with torch.no_grad():
            parameter.add_(1e-3)
        ids.add(model.model_id)
    model.tokenizer = train_tokenizer(["Other words."], tmp_path, 290)
    assert len(ids | {model.model_id}) == 4


def test_another_encoder_is_refused(saved: Path) -> None:
    model = make()
    with torch.no_grad():
        model.encoder.projection.bias.add_(1)
    model.encoder.save_pretrained(saved / "encoder")
    with pytest.raises(HephError, match=r"encoder/model\.safetensors: sha256 is"):
        Retriever.from_pretrained(saved)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", "this is no saved retriever"),
        ("model.safetensors", "no weights here"),
        ("encoder/model.safetensors", "no weights here"),
        ("tokenizer/tokenizer.json", "no tokenizer.json"),
    ],
)
def test_an_incomplete_folder_is_told(saved: Path, name: str, told: str) -> None:
    (saved / name).unlink()
    with pytest.raises(HephError, match=told):
        Retriever.from_pretrained(saved)


def test_an_encoder_is_no_retriever(saved: Path) -> None:
    with pytest.raises(HephError, match="this is a saved encoder; name a saved retriever"):
        Retriever.from_pretrained(saved / "encoder")


def test_wrong_use_is_told(saved: Path, tokenizer: Any) -> None:
    model = Retriever.from_pretrained(saved)
    with pytest.raises(HephError, match="text: it is empty"):
        model.embed_texts(["a sill", "  "])
    assert model.embed_texts([]).shape == (0, CONFIG.dim)
    with pytest.raises(HephError, match="no tokenizer"):
        make().embed_texts(["a sill"])
    with pytest.raises(HephError, match="no tokenizer"):
        make().save_pretrained(saved)
    small = dataclasses.replace(CONFIG, text=TextConfig(vocab_size=270, width=32, layers=1))
    with pytest.raises(HephError, match=r"text\.vocab_size: 270, but the tokenizer has"):
        Retriever(small, tokenizer)
