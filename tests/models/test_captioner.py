"""Captioner: memory, loss against its definition, decoding, phrases, disk; it learns."""

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from heph_vl.data import captions
from heph_vl.errors import HephError
from heph_vl.models.captioner import VIEWS, Captioner, captioner_loss, seen_otherwise
from heph_vl.models.explain import relevance
from heph_vl.models.text import PAD_ID, tokenize, train_tokenizer
from heph_vl.optim import make_optimizer
from tests.tiny_captioner import CONFIG, make

TEXTS = [
    "No deformation activity can be detected.",
    "Noise can be detected on the left side. A sill-type pattern of low intensity can be detected.",
    "A dyke-type deformation pattern of high intensity can be detected on the right side.",
]
ROOM = {"vocab_size": 420, "context_length": 80}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [*TEXTS, *captions.fact_texts()]
    return train_tokenizer(texts, tmp_path_factory.mktemp("tokenizer"), 400)


def make_batch(
    tokenizer, numbers: list[int], *, side: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Image i has fringes at a place and of a width of its own; its text is TEXTS[numbers[i]]."""
    generator = torch.Generator().manual_seed(0)
    count = len(numbers)
    phase = 0.2 * torch.randn(count, side, side, generator=generator)
    mask = torch.zeros(count, side, side, dtype=torch.int64)
    for i, number in enumerate(numbers):
        if number:
            rows = slice(16, 48)
            columns = slice(0, 32) if number == 1 else slice(32, 64)
            mask[i, rows, columns] = number
            phase[i, rows, columns] += torch.arange(32) * 0.5 * number
    pixel_values = torch.stack([phase.cos(), phase.sin(), torch.ones_like(phase)], dim=1)
    valid = torch.ones(count, side, side, dtype=torch.bool)
    said = tokenize(tokenizer, [TEXTS[number] for number in numbers], ROOM["context_length"])
    return {"pixel_values": pixel_values, "valid": valid, "mask": mask, **said}


@pytest.fixture(scope="module")
def taught(tokenizer):
    """A captioner that has learnt the three texts by heart, and its batch."""
    torch.manual_seed(0)
    model = make(tokenizer, **ROOM, dropout=0.0, width=64)
    batch = make_batch(tokenizer, [0, 1, 2])
    optimizer = make_optimizer(model, 3e-3, 0.0)
    for _ in range(120):
        loss, _ = captioner_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), batch


# Memory


def test_memory_is_latents_and_the_most_salient_tokens():
    model = make().eval()
    pixels = torch.randn(2, 3, 64, 64)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    valid[1, :, 16:] = False  # 4 of 16 cells have data, of 6 that are asked for
    with torch.no_grad():
        seen = model.encoder(pixels, valid)
        memory = model.remember(seen.latents, seen.tokens, seen)
        latents = CONFIG.encoder.num_latents
        assert memory.states.shape == (2, latents + 6, CONFIG.width)
        assert memory.mask.sum(1).tolist() == [latents + 6, latents + 4]
        assert torch.equal(memory.pooled, seen.latents[:, 0])
        # The first token that is told is the most salient one.
        salience = seen.saliency_logits[0]
        best = int(salience.argmax())
        told = torch.cat([seen.tokens[0, best], salience[best, None]])
        expected = model.norm(model.token_projection(told) + model.kind[1])
    torch.testing.assert_close(memory.states[0, latents], expected)


def test_what_is_masked_in_the_memory_is_not_read():
    model = make().eval()
    memory = model.look(torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))
    ids = torch.tensor([[1, 20, 30, 40, 2]])
    memory.mask[:, -2:] = False
    before = model.next_logits(memory, ids)
    memory.states[:, -2:] = 1e3
    assert torch.equal(model.next_logits(memory, ids), before)
    memory.states[:, 0] += 1.0
    assert not torch.allclose(model.next_logits(memory, ids), before)


def test_logits_see_neither_later_pieces_nor_padding_nor_other_images():
    model = make().eval()
    pixels, valid = torch.randn(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool)
    memory = model.look(pixels, valid)
    ids = torch.tensor([[1, 20, 30, 2, PAD_ID, PAD_ID], [1, 50, 60, 70, 80, 2]])
    both = model.next_logits(memory, ids)
    alone = model.next_logits(memory.one(0), ids[:1, :4])
    torch.testing.assert_close(both[:1, :3], alone, atol=1e-5, rtol=1e-4)
    changed = ids.clone()
    changed[1, 3] = 99
    torch.testing.assert_close(model.next_logits(memory, changed)[1, :3], both[1, :3])


# Loss


def test_the_loss_is_the_mean_cross_entropy_of_all_pieces(tokenizer):
    model = make(tokenizer, **ROOM, saliency_weight=0.0).eval()
    batch = make_batch(tokenizer, [0, 1])
    loss, logs = captioner_loss(model, batch)
    with torch.no_grad():
        logits = model(batch)["logits"]
        terms = []
        for i in range(2):
            length = int(batch["attention_mask"][i].sum())
            ids = batch["input_ids"][i]
            terms += [-logits[i, t].log_softmax(0)[ids[t + 1]] for t in range(length - 1)]
    assert len(set(batch["attention_mask"].sum(1).tolist())) == 2  # one is padded
    assert loss.item() == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    assert set(logs) == {"text", "piece_accuracy"}
    with_saliency, logs = captioner_loss(make(tokenizer, **ROOM).eval(), batch)
    assert with_saliency.item() == pytest.approx(float(logs["text"] + logs["saliency"]), rel=1e-6)


def test_an_image_without_text_teaches_no_words(tokenizer):
    model = make(tokenizer, **ROOM).eval()
    batch = make_batch(tokenizer, [0, 1])
    batch["attention_mask"][1] = 0
    batch["input_ids"][1] = PAD_ID
    _, logs = captioner_loss(model, batch)
    _, alone = captioner_loss(model, make_batch(tokenizer, [0, 1]) | {
        name: value[:1] for name, value in batch.items()
    })  # fmt: skip
    assert float(logs["text"]) == pytest.approx(float(alone["text"]), rel=1e-4)
    batch["attention_mask"][:] = 0
    loss, logs = captioner_loss(model, batch)
    loss.backward()
    assert float(logs["text"]) == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_batch_without_any_text_has_a_loss(tokenizer):
    model = make(tokenizer, **ROOM)
    batch = make_batch(tokenizer, [0, 1])
    batch |= {"input_ids": torch.full((2, 1), PAD_ID), "attention_mask": torch.zeros(2, 1).long()}
    loss, logs = captioner_loss(model, batch)
    loss.backward()
    assert float(logs["text"]) == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_learns(tokenizer):
    model = make(tokenizer, **ROOM)
    loss, _ = captioner_loss(model, make_batch(tokenizer, [0, 1]))
    loss.backward()
    for name, parameter in model.named_parameters():
        # Without a gradient here, DistributedDataParallel would wait for ever.
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_frozen_encoder_stays_as_it_is(tokenizer):
    model = make(tokenizer, **ROOM, freeze_encoder=True).train()
    assert not model.encoder.training
    assert model.decoder.training
    loss, logs = captioner_loss(model, make_batch(tokenizer, [0, 1]))
    loss.backward()
    assert "saliency" not in logs
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# Words


def test_it_says_what_it_learnt_of_each_image(taught):
    model, batch = taught
    memory = model.look(batch["pixel_values"], batch["valid"])
    wanted = [[text] for text in TEXTS]
    assert model.generate(memory) == wanted
    assert model.generate(memory, num_beams=3) == wanted
    answers = model.answer([memory], num_samples=8)
    assert [captions.parse(text).key for text in TEXTS] == [a.facts.key for a in answers]
    assert answers[0].deformation < 0.3
    assert min(answers[1].deformation, answers[2].deformation) > 0.7
    assert min(answers[2].confidence.values()) > 0.5


def test_beams_find_texts_at_least_as_likely_as_the_greedy_one(tokenizer):
    model = make(tokenizer, **ROOM | {"context_length": 12}).eval()
    memory = model.look(torch.randn(3, 3, 64, 64), torch.ones(3, 64, 64, dtype=torch.bool))

    def likelihood(ids: Tensor) -> Tensor:
        logits = model.next_logits(memory, ids).log_softmax(-1)
        told = logits.gather(2, ids[:, 1:, None])[..., 0]
        return told.sum(1)

    from transformers.modeling_outputs import BaseModelOutput

    def decode(beams: int) -> Tensor:
        return model.decoder.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory.states),
            attention_mask=memory.mask.long(), max_length=8, min_length=8, num_beams=beams,
        )  # fmt: skip

    assert (likelihood(decode(5)) >= likelihood(decode(1)) - 1e-4).all()
    greedy = decode(1)
    best = model.next_logits(memory, greedy).argmax(-1)
    assert torch.equal(best[:, :6], greedy[:, 1:7])  # the eighth must be the end


def test_beams_prefer_likely_texts_to_long_ones(tokenizer):
    """Two of three texts are short: an equal image must be told so, however many beams."""
    torch.manual_seed(0)
    model = make(tokenizer, **ROOM, dropout=0.0, width=64)
    batch = make_batch(tokenizer, [0, 0, 1])
    for name in ("pixel_values", "mask"):
        batch[name] = batch[name][:1].expand_as(batch[name]).contiguous()
    optimizer = make_optimizer(model, 3e-3, 0.0)
    for _ in range(120):
        loss, _ = captioner_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    memory = model.eval().look(batch["pixel_values"][:1], batch["valid"][:1])
    assert model.generate(memory) == model.generate(memory, num_beams=4) == [[TEXTS[0]]]


def test_samples_come_with_their_probability(taught):
    model, batch = taught
    memory = model.look(batch["pixel_values"], batch["valid"]).one(1)
    found = model._sample(memory, 6, 1.0, 0)
    told = [p for text, p in found if text == TEXTS[1]]
    ids = batch["input_ids"][1:2, : int(batch["attention_mask"][1].sum())]
    with torch.no_grad():
        logits = model.next_logits(memory, ids).log_softmax(-1)
    expected = float(logits.gather(2, ids[:, 1:, None]).sum())
    assert told == pytest.approx([expected] * len(told), abs=1e-3)
    assert model._decode(memory, num_beams=1)[0][1] == pytest.approx(expected, abs=1e-3)
    assert model._decode(memory, num_beams=3)[0][1] == pytest.approx(expected, abs=1e-3)
    assert len(told) > 3


def test_samples_are_those_of_the_image_and_the_seed(taught):
    model, batch = taught
    memory = model.look(batch["pixel_values"], batch["valid"])
    state = torch.random.get_rng_state()
    found = model.generate(memory, num_samples=4, temperature=2.0, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [len(texts) for texts in found] == [4, 4, 4]
    assert model.generate(memory.one(2), num_samples=4, temperature=2.0, seed=5)[0] == found[2]
    assert model.generate(memory.one(2), num_samples=4, temperature=2.0, seed=6)[0] != found[2]


def test_views_turn_the_phase_and_nothing_else():
    phase = torch.rand(1, 8, 8) * 6
    image = torch.stack([phase.cos(), phase.sin(), torch.rand(1, 8, 8)], dim=1)
    image[..., 0] = 0.0  # no data
    assert torch.equal(seen_otherwise(image, *VIEWS[0]), image)
    turned = seen_otherwise(image, True, 0.7)[..., 1:]
    torch.testing.assert_close(turned[:, 0], (0.7 - phase[..., 1:]).cos())
    torch.testing.assert_close(turned[:, 1], (0.7 - phase[..., 1:]).sin())
    assert torch.equal(seen_otherwise(image, True, 0.7)[:, 2], image[:, 2])
    assert not seen_otherwise(image, True, 0.7)[..., 0].any()
    shifted = seen_otherwise(image, False, 0.7)[..., 1:]
    torch.testing.assert_close(shifted[:, 1], (phase[..., 1:] + 0.7).sin())


def test_samples_are_of_all_views_alike(taught):
    model, batch = taught
    memories = model.look_often(batch["pixel_values"], batch["valid"])
    assert len(memories) == len(VIEWS)
    as_it_is = model.look(batch["pixel_values"], batch["valid"])
    assert torch.equal(memories[0].states, as_it_is.states)
    assert not torch.allclose(memories[1].states, as_it_is.states)
    answers = model.answer(memories, num_samples=6, seed=3)
    expected = [
        sample
        for view, count in enumerate((2, 2, 1, 1))
        for sample in model._sample(memories[view].one(1), count, 1.0, 3 + view)
    ]
    assert answers[1].samples == tuple(expected)
    assert len(model.answer(memories, num_samples=1)[0].samples) == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_beams": 0}, "0 beams"),
        ({"num_samples": -1}, "-1 samples"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"num_beams": 2, "num_samples": 2}, "both beams and samples"),
    ],
)
def test_impossible_wishes(taught, how, message):
    model, batch = taught
    memory = model.look(batch["pixel_values"], batch["valid"])
    with pytest.raises(HephError, match=message):
        model.generate(memory, **how)
    with pytest.raises(HephError, match="0 samples"):
        model.answer([memory], num_samples=0)


def test_phrases_come_from_their_place(taught):
    model, batch = taught
    valid = batch["valid"][2].clone()
    valid[:16] = False
    maps = model.phrase_maps(batch["pixel_values"][2], valid, TEXTS[2])
    assert [sentence for sentence, _ in maps] == [TEXTS[2]]
    (_, cells) = maps[0]
    assert cells.shape == (4, 4)
    assert (cells >= 0).all()
    assert (cells[0] == 0).all()
    right = cells[:, 2:].sum() / cells.sum()
    assert right > 0.7  # where the fringes are
    two = model.phrase_maps(batch["pixel_values"][1], batch["valid"][1], TEXTS[1])
    assert [sentence for sentence, _ in two] == [
        "Noise can be detected on the left side.",
        "A sill-type pattern of low intensity can be detected.",
    ]
    assert not torch.allclose(two[0][1], two[1][1])


def test_a_map_is_of_the_pieces_of_its_own_sentence(taught):
    model, batch = taught
    pixels, valid = batch["pixel_values"][1:2], batch["valid"][1:2]
    maps = model.phrase_maps(pixels[0], valid[0], TEXTS[1])
    ids = batch["input_ids"][1:2, : int(batch["attention_mask"][1].sum())]
    pieces = model.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    stop = next(i for i, piece in enumerate(pieces) if piece.endswith("."))
    seen = model.encoder(pixels, valid)
    for (_, found), span in zip(maps, ((1, stop + 1), (stop + 1, len(pieces) - 1)), strict=True):

        def score(latents: Tensor, tokens: Tensor, span: tuple[int, int] = span) -> Tensor:
            memory = model.remember(latents, tokens, seen)
            logits = model.next_logits(memory, ids).log_softmax(-1)
            return sum(logits[:, i - 1, ids[0, i]] for i in range(*span))

        torch.testing.assert_close(found, relevance(model.encoder, seen, score)[0])


# Disk


def test_saved_and_loaded_it_says_the_same(taught, tmp_path):
    model, batch = taught
    model.threshold = 0.25
    model.save_pretrained(tmp_path / "model")
    loaded = Captioner.from_pretrained(tmp_path / "model")
    model.threshold = 0.5
    assert loaded.threshold == 0.25
    assert not loaded.training
    assert loaded.model_id == model.model_id
    memory = model.look(batch["pixel_values"], batch["valid"])
    again = loaded.look(batch["pixel_values"], batch["valid"])
    assert torch.equal(memory.states, again.states)
    assert loaded.generate(again, num_beams=2) == model.generate(memory, num_beams=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 2}, "threshold is 2"),
        ({"threshold": None}, "threshold is None"),
        ({"encoder": {"path": "encoder"}}, "the entry encoder"),
        ({"tokenizer": {"sha256": "0" * 64}}, "another model's tokenizer"),
        ({"model": "retriever"}, "this is a saved retriever"),
        ({"encoder": {"path": "../../model/encoder", "sha256": "0"}}, "one inside"),
        ({"tokenizer": {"sha256": 5}}, "sha256 is 5"),
    ],
)
def test_broken_folders(taught, tmp_path, change, message):
    taught[0].save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(HephError, match=message):
        Captioner.from_pretrained(tmp_path)


def test_all_weights_are_taken_only_from_one_made_alike(taught, tokenizer):
    model, _ = taught
    other = make(tokenizer, **ROOM, width=64)
    other.fill_from(model, "there")
    assert other.model_id == model.model_id
    with pytest.raises(HephError, match=r"width is 64, the config's 32; set model\.width to that"):
        make(tokenizer, **ROOM).fill_from(model, "there")


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"heads": 0},
        {"layers": 0},
        {"context_length": 2},
        {"num_tokens": 0},
        {"dropout": 1.0},
    ],
)
def test_impossible_sizes(change):
    with pytest.raises(HephError, match="model"):
        dataclasses.replace(CONFIG, **change)


def test_without_a_tokenizer_it_neither_speaks_nor_is_saved(tmp_path):
    model = make()
    memory = model.look(torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))
    with pytest.raises(HephError, match="no tokenizer"):
        model.generate(memory)
    with pytest.raises(HephError, match="no tokenizer"):
        model.answer([memory], num_samples=1)
    with pytest.raises(HephError, match="no tokenizer"):
        model.save_pretrained(tmp_path)


def test_more_pieces_than_embeddings(tokenizer):
    with pytest.raises(HephError, match="the tokenizer has"):
        make(tokenizer, vocab_size=300)


def test_the_likeliest_piece_is_counted(taught):
    model, batch = taught
    wrong = batch | {"input_ids": batch["input_ids"].clone()}
    wrong["input_ids"][0, 2:4] = 99
    _, logs = captioner_loss(model, wrong)
    with torch.no_grad():
        pieces = wrong["input_ids"][:, 1:]
        logits = model(wrong)["logits"]
    told = pieces != PAD_ID
    right = float((logits.argmax(-1) == pieces)[told].float().mean())
    assert right < 1
    assert float(logs["piece_accuracy"]) == pytest.approx(right)
