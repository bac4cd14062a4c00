"""The cache of latents: what it gives is what the frozen networks give for the same crops."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from heph_vl.errors import HephError
from heph_vl.latents import TENSORS, TEXTS, CachedCrops, collate_cached, write_cache
from heph_vl.models.autoencoder import set_scale
from heph_vl.models.text import tokenize
from tests.tiny_generator import CAPTIONS, SPREAD, TEXT, frozen, make_images, tokenizer

# The third repeats the first, one is empty; of different lengths.
SAID = [CAPTIONS[0], "a sill", CAPTIONS[0], "", CAPTIONS[-1], "a sill", "noise"]


def tokens(texts):
    return tokenize(tokenizer(), texts, TEXT.context_length)


def batches(size=3):
    images = make_images(len(SAID))
    for start in range(0, len(SAID), size):
        part = slice(start, start + size)
        yield {**{name: rows[part] for name, rows in images.items()}, "texts": SAID[part]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    done = []
    write_cache(folder, frozen(), batches(), tokens, done.append)
    assert done == [3, 6, 7]
    return folder


def test_a_crop_has_the_latents_and_texts_of_the_frozen_networks(folder):
    crops = CachedCrops(folder, frozen())
    assert len(crops) == 7
    found = collate_cached([crops[i, 40 + i] for i in range(7)])
    wanted = frozen().prepare({**make_images(7), **tokens(SAID)})
    assert found.keys() == wanted.keys()
    assert found["latents"].dtype == found["states"].dtype == torch.float32
    assert torch.equal(found["state_mask"], wanted["state_mask"])
    for name in ("latents", "pooled"):  # kept in half precision
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-3)
    seen = wanted["state_mask"]
    torch.testing.assert_close(found["states"][seen], wanted["states"][seen], rtol=1e-3, atol=1e-3)
    assert not found["states"][~seen].any()
    assert (found["latents"][0] - found["latents"][2]).abs().max() > 0.01


def test_an_empty_text_keeps_one_token(folder):
    crops = CachedCrops(folder, frozen())
    nothing = frozen().nothing(1)
    assert crops[3, 0]["states"].shape == (1, 32)
    torch.testing.assert_close(
        crops[3, 0]["states"].float(), nothing["states"][0], atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        crops[3, 0]["pooled"].float(), nothing["pooled"][0], atol=1e-3, rtol=0
    )


def test_a_batch_is_padded_to_its_longest_text(folder):
    crops = CachedCrops(folder, frozen())
    lengths = [int(n) for n in tokens(SAID)["attention_mask"].sum(1).clamp(min=1)]
    for chosen in ([1, 3], [5, 0], [6]):
        batch = collate_cached([crops[i, 0] for i in chosen])
        assert batch["state_mask"].sum(1).tolist() == [lengths[i] for i in chosen]
        assert batch["states"].shape[1] == max(lengths[i] for i in chosen)


def test_each_text_is_kept_once_and_a_draw_changes_nothing(folder):
    crops = CachedCrops(folder, frozen())
    different = list(dict.fromkeys(SAID))
    assert crops.texts == different
    tensors = load_file(folder / TENSORS)
    assert tensors["latents"].dtype == torch.float16
    assert tensors["text"].tolist() == [different.index(text) for text in SAID]
    assert len(tensors["pooled"]) == len(tensors["ends"]) == len(different)
    one, other = crops[2, 0], crops[2, 99]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_many_texts_are_read_some_at_a_time(tmp_path):
    texts = [f"sill {i}" for i in range(70)]  # more than go through the tower at once
    images = make_images(70)
    write_cache(tmp_path, frozen(), [{**images, "texts": texts}], tokens)
    crops = CachedCrops(tmp_path, frozen())
    found = collate_cached([crops[i, 0] for i in (0, 63, 64, 69)])
    wanted = frozen().read(**tokens([texts[i] for i in (0, 63, 64, 69)]))
    torch.testing.assert_close(found["pooled"], wanted["pooled"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["states"], wanted["states"] * wanted["state_mask"][..., None],
                               rtol=1e-3, atol=1e-3)  # fmt: skip


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(folder):
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:500])


def of_another_kind(folder):
    save_file({"latents": torch.zeros(2, 2)}, folder / TENSORS)


@pytest.mark.parametrize(
    "change",
    [
        remove(TENSORS), remove(TEXTS), cut, of_another_kind,
        lambda folder: (folder / TEXTS).write_text("["),
        lambda folder: (folder / TEXTS).write_text("[]"),
        lambda folder: (folder / TEXTS).write_text("{}"),
    ],
)  # fmt: skip
def test_a_broken_cache_is_told(change, tmp_path):
    write_cache(tmp_path, frozen(), batches(), tokens)
    change(tmp_path)
    with pytest.raises(HephError, match=r"not a cache of latents.*; delete that folder") as caught:
        CachedCrops(tmp_path, frozen())
    assert str(tmp_path) in str(caught.value)


def test_texts_are_listed_as_json_beside_whose_they_are(folder):
    about = json.loads((folder / TEXTS).read_text())
    assert about == {"of": frozen().identity, "texts": list(dict.fromkeys(SAID))}


def other_autoencoder(parts):
    with torch.no_grad():
        next(parts.autoencoder.parameters()).add_(1)


def other_text(parts):
    with torch.no_grad():
        next(parts.text.parameters()).add_(1)


def other_scale(parts):
    set_scale(parts.autoencoder, [0.0] * 4, SPREAD)


@pytest.mark.parametrize("change", [other_autoencoder, other_text, other_scale])
def test_latents_of_other_networks_are_refused(folder, change):
    parts = frozen()
    change(parts)
    with pytest.raises(HephError, match="these latents are of another autoencoder or text tower"):
        CachedCrops(folder, parts)
