"""Tokenizer and text tower: round trips, determinism, and independence of padding."""

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heph_vl.data.annotations import read_annotations
from heph_vl.errors import HephError
from heph_vl.models.text import (
    EOS_ID,
    TextConfig,
    TextTower,
    load_tokenizer,
    save_tokenizer,
    sentence_case,
    sentence_spans,
    tokenize,
    train_tokenizer,
)

CAPTIONS = [
    f"A {kind}-type deformation of {intensity} intensity can be detected on the {side} side."
    for kind, intensity, side in itertools.product(
        ("sill", "dyke", "mogi"), ("low", "high"), ("left", "right", "top")
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, folder, 400)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def test_same_captions_in_any_order_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    train_tokenizer([*CAPTIONS[::-1], " ".join(CAPTIONS[0].split(" ")), CAPTIONS[3]], tmp_path, 400)
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["tokenizer.json", "tokenizer_config.json"]
    assert all((folder / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)


def test_special_pieces_and_size(tokenizer: Any) -> None:
    names = ["<unk>", "<s>", "</s>", "<pad>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3]
    assert 260 < len(tokenizer) <= 400
    assert tokenizer.padding_side == "right"


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1))
@example(text="Zürich 火山 \N{VOLCANO} qqq")
@example(text=CAPTIONS[0])
def test_any_text_is_written_and_read_back(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert ids[0] == 1
    assert ids[-1] == 2
    assert not {0, 1, 2, 3} & set(ids[1:-1])
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_known_words_are_few_pieces(tokenizer: Any) -> None:
    words = len(CAPTIONS[0].split())
    assert len(tokenizer(CAPTIONS[0])["input_ids"]) <= 2 * words


def test_other_libraries_load_the_folder(folder: Path, tokenizer: Any) -> None:
    from open_clip.tokenizer import HFTokenizer
    from transformers import AutoTokenizer

    ids = tokenizer("dyke on the left")["input_ids"]
    assert AutoTokenizer.from_pretrained(str(folder))("dyke on the left")["input_ids"] == ids
    assert (
        HFTokenizer(str(folder), context_length=20)("dyke on the left")[0, : len(ids)].tolist()
        == ids
    )


def test_a_saved_folder_needs_no_protobuf(
    folder: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(tokenizer, tmp_path)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    again = load_tokenizer(tmp_path)
    assert again("a sill")["input_ids"] == tokenizer("a sill")["input_ids"]


def test_tokenize_pads_and_marks_empty_texts(tokenizer: Any) -> None:
    tokens = tokenize(tokenizer, ["a sill", "", "  ", "A  SILL on the left"], 32)
    short = tokenizer("a sill")["input_ids"]
    assert tokens["input_ids"][0, : len(short)].tolist() == short
    assert set(tokens["input_ids"][0, len(short) :].tolist()) == {3}
    assert tokens["attention_mask"].sum(1)[:3].tolist() == [len(short), 0, 0]
    assert tokens["input_ids"][3].tolist() == tokenizer("a sill on the left")["input_ids"]
    assert tokenize(tokenizer, [], 32)["input_ids"].shape[0] == 0
    assert tokenize(tokenizer, [""], 32)["input_ids"].shape == (1, 1)


def test_a_long_text_is_cut_with_eos_and_a_warning(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts cut to 8 tokens"):
        tokens = tokenize(tokenizer, ["sill " * 50, "a sill"], 8)
    assert tokens["input_ids"].shape == (2, 8)
    assert tokens["input_ids"][0, -1] == EOS_ID
    assert tokens["attention_mask"][0].all()


def test_a_text_cannot_smuggle_in_special_tokens(tokenizer: Any) -> None:
    ids = tokenize(tokenizer, ["a </s> <pad> sill"], 40)["input_ids"][0].tolist()
    assert ids.count(2) == 1
    assert 3 not in ids


def tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextConfig(vocab_size=400, context_length=40, width=32, layers=2, heads=2))


def test_features_do_not_depend_on_padding_or_company(tokenizer: Any) -> None:
    texts = ["a sill", "", CAPTIONS[0]]
    model = tower()
    together = model(**tokenize(tokenizer, texts, 40))
    assert together.shape == (3, 32)
    for i in (0, 2):
        alone = model(**tokenize(tokenizer, texts[i : i + 1], 40))
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    assert (together[0] - together[2]).norm() > 0.1
    tokens = tokenize(tokenizer, texts, 40)
    tokens["input_ids"][tokens["attention_mask"] == 0] = 77
    assert torch.equal(model(**tokens), together)


def test_states_do_not_depend_on_padding_or_company(tokenizer: Any) -> None:
    texts = ["a sill", "", CAPTIONS[0]]
    model, tokens = tower(), tokenize(tokenizer, texts, 40)
    states, pooled = model.states(**tokens)
    assert states.shape == (*tokens["input_ids"].shape, 32)
    assert torch.equal(pooled, model(**tokens))
    for i, length in enumerate([*tokens["attention_mask"].sum(1).tolist()]):
        alone = model.states(**tokenize(tokenizer, texts[i : i + 1], 40))[0]
        kept = max(1, length)  # the first place stands for an empty text
        assert alone.shape[1] == kept
        torch.testing.assert_close(alone[0], states[i, :kept], rtol=0, atol=1e-5)
    # The whole text's features are those of its end.
    ends = states[torch.arange(3), tokens["attention_mask"].sum(1).sub(1).clamp(min=0)]
    torch.testing.assert_close(ends, pooled, rtol=0, atol=1e-6)
    tokens["input_ids"][tokens["attention_mask"] == 0] = 77
    assert torch.equal(model.states(**tokens)[0], states)


def test_a_state_tells_its_word_and_its_company(tokenizer: Any) -> None:
    one, two = tower().states(**tokenize(tokenizer, ["sill left", "sill right"], 40))[0]
    differences = (one - two).norm(dim=1)
    assert differences.argmax() > 1  # the word that differs
    assert (differences > 1e-4).all()  # and all that see it


def test_each_word_counts_and_every_parameter_learns(tokenizer: Any) -> None:
    model = tower()
    one, two = model(**tokenize(tokenizer, ["sill on the left", "sill on the right"], 40))
    assert (one - two).norm() > 1e-3
    model(**tokenize(tokenizer, ["", ""], 40)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("a sill - type pattern.", "A sill-type pattern."),
        ("a sill -type and a dyke- type", "A sill-type and a dyke-type"),
        (
            "noise on the left. a sill is seen! is it? yes",
            "Noise on the left. A sill is seen! Is it? Yes",
        ),
        ("two  blanks .  and\nlines ", "Two blanks . And lines"),
        ("top - left - most", "Top-left-most"),
        ("a.b is no sentence. 3 are. x", "A.b is no sentence. 3 are. X"),
        ("from - . to", "From - . To"),  # no words on both sides
        ("the Mogi of GPS", "The Mogi of GPS"),
        ("", ""),
    ],
)
def test_sentence_case(said: str, written: str) -> None:
    assert sentence_case(said) == written
    assert sentence_case(written) == written


@given(st.lists(st.sampled_from(CAPTIONS), min_size=1, max_size=3), st.booleans())
def test_sentences_are_found_with_their_pieces(
    tokenizer: Any, sentences: list[str], ended: bool
) -> None:
    text = " ".join(sentences) if ended else " ".join(sentences).rstrip(".")
    ids = tokenize(tokenizer, [text], 400)["input_ids"][0]
    found = sentence_spans(tokenizer, ids)
    wanted = [*sentences[:-1], sentences[-1] if ended else sentences[-1].rstrip(".")]
    assert [sentence for sentence, _ in found] == [sentence_case(s.lower()) for s in wanted]
    spans = [span for _, span in found]
    # All pieces between bos and eos, each once.
    assert [i for span in spans for i in range(span.start, span.stop)] == [*range(1, len(ids) - 1)]
    for sentence, span in found:
        alone = tokenize(tokenizer, [sentence], 400)["input_ids"][0, 1:-1]
        assert torch.equal(ids[span], alone)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_has_no_sentence(tokenizer: Any, text: str) -> None:
    assert sentence_spans(tokenizer, tokenize(tokenizer, [text], 8)["input_ids"][0]) == []
    assert sentence_spans(tokenizer, torch.tensor([1, 2])) == []


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json", "all"])
def test_an_incomplete_folder_is_told(folder: Path, missing: str, tmp_path: Path) -> None:
    if missing != "all":
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        (tmp_path / missing).unlink()
    with pytest.raises(HephError, match="no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_broken_tokenizer_is_told(folder: Path, content: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(HephError, match=str(tmp_path)) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    with pytest.raises(HephError, match="no caption"):
        train_tokenizer(["", "  "], tmp_path)
    with pytest.raises(HephError, match="vocab_size: 260"):
        train_tokenizer(CAPTIONS, tmp_path, 260)
    with pytest.raises(HephError, match="heads must divide width"):
        TextConfig(width=100, heads=3)


@pytest.mark.slow
@pytest.mark.real_data
def test_every_real_caption_fits_and_is_read_back(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "hephaestus" / "annotations.tar.gz"
    captions = sorted({a.caption for a in read_annotations(path).annotations})
    tokenizer = train_tokenizer(captions, tmp_path, TextConfig().vocab_size)
    ids = tokenizer(captions)["input_ids"]
    assert max(map(len, ids)) <= TextConfig().context_length
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == captions
