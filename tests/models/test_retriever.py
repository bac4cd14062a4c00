"""The retriever: its loss put together, saved and read again, wrong use told."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heph_vl.errors import HephError
from heph_vl.models.contrastive import (
    contrastive_loss,
    fact_counts,
    fact_similarity,
    sigmoid_loss,
    soft_loss,
)
from heph_vl.models.retriever import MAX_LOGIT_SCALE, Retriever, retriever_loss
from heph_vl.models.text import TextConfig, train_tokenizer
from heph_vl.optim import make_optimizer
from tests.tiny_retriever import CONFIG, FACTS, drop_text, make, make_batch


def test_the_recipes_loss_puts_its_parts_together() -> None:
    model, batch = make(count_power=0.5), make_batch([0, 1, 0, 5, len(FACTS) - 1, 1])
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


def test_without_weights_all_texts_and_images_count_alike() -> None:
    batch = make_batch([0, 1, 0, 5, len(FACTS) - 1, 1])
    flat, _ = retriever_loss(make(), batch)
    weighted, _ = retriever_loss(make(count_power=0.5), batch)
    batch |= {name: torch.ones_like(batch[name]) for name in ("fact_count", "text_count")}
    alike, _ = retriever_loss(make(count_power=0.5), batch)
    torch.testing.assert_close(flat, alike)
    assert abs(flat.item() - weighted.item()) > 1e-4


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


@pytest.mark.parametrize("kind", ["sigmoid", "soft"])
def test_the_other_losses_use_the_same_texts_and_weights(kind: str) -> None:
    model = make(loss=kind, count_power=0.5)
    batch = make_batch([0, 1, 0, 5, len(FACTS) - 1, 1])
    drop_text(batch, 3)
    out, texts = model(batch), [0, 1, 4]
    u, v, t = out["image_embeds"], out["text_embeds"][texts], out["logit_scale"]
    weights = batch["fact_count"] ** -0.5, batch["text_count"][texts] ** 0.5
    if kind == "sigmoid":
        same = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]])
        expected = sigmoid_loss(u, v, t, out["logit_bias"], same.bool(), *weights)
    else:
        model.weigh_facts(batch["scene_atoms"], batch["patterns"])
        ours = fact_counts(batch["scene_atoms"], batch["patterns"])
        similarity = fact_similarity(ours, ours[texts], model.fact_weights)
        expected = soft_loss(u, v, t, similarity, *weights)
    loss, logs = retriever_loss(model, batch)
    torch.testing.assert_close(logs["contrastive"], expected.detach())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_rare_facts_weigh_more() -> None:
    model, batch = make(loss="soft"), make_batch([0, 1, 0, 0])
    model.weigh_facts(batch["scene_atoms"], batch["patterns"])
    counts = fact_counts(batch["scene_atoms"], batch["patterns"])
    rare = model.fact_weights[counts.sum(0) == 1]  # log(1 + 4 / 1)
    assert len(rare)
    assert rare.tolist() == pytest.approx([math.log(5)] * len(rare))
    common = model.fact_weights[counts.sum(0) == 4]
    assert common.tolist() == pytest.approx([math.log(2)] * len(common))
    assert len(common)


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
    ids.add(model.model_id)
    model.config = replace(model.config, text=replace(model.config.text, heads=1))
    assert len(ids | {model.model_id}) == 5  # though no tensor has another shape


def test_another_encoder_is_refused(saved: Path) -> None:
    model = make()
    with torch.no_grad():
        model.encoder.projection.bias.add_(1)
    model.encoder.save_pretrained(saved / "encoder")
    with pytest.raises(HephError, match=r"encoder/model\.safetensors: sha256 is"):
        Retriever.from_pretrained(saved)


def test_another_tokenizer_is_refused(saved: Path) -> None:
    train_tokenizer(["Other words."], saved / "tokenizer", 290)
    with pytest.raises(HephError, match=r"tokenizer\.json: sha256 is .* another model's tokenizer"):
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
