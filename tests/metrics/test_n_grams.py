"""Word scores against pycocoevalcap 1.2 (see make_pycocoevalcap_values.py), METEOR by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heph_vl.errors import HephError
from heph_vl.metrics.n_grams import N_GRAMS, TOKENIZATIONS, meteor, n_gram_scores, words_of

VALUES: dict[str, Any] = json.loads(
    Path(__file__).with_name("pycocoevalcap_values.json").read_text()
)
SIDES = VALUES["references"], VALUES["texts"]
CUTS = list(TOKENIZATIONS)


@pytest.mark.parametrize("cut", CUTS)
def test_words_are_those_of_the_reference_implementation(cut: str) -> None:
    for side in ("references", "texts"):
        assert [words_of(text, cut) for text in VALUES[side]] == VALUES[cut][side]


@pytest.mark.parametrize("cut", CUTS)
def test_scores_are_those_of_the_reference_implementation(cut: str) -> None:
    found = n_gram_scores(*SIDES, cut)
    names = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor", "cider_d"]
    assert list(found.corpus) == names
    expected = VALUES[cut]["corpus"]
    assert len(expected) == 6
    assert {name: found.corpus[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    for name, values in VALUES[cut]["each"].items():
        assert found.each[name] == pytest.approx(np.array(values), abs=1e-6)
        assert found.corpus[name] == pytest.approx(np.mean(values), abs=1e-6)
    assert set(found.each) == {"rouge_l", "meteor", "cider_d"}


def test_texts_and_references_are_not_confused() -> None:
    # None of these is symmetric: precision and recall weigh unlike.
    one, other = n_gram_scores(*SIDES, "ptb"), n_gram_scores(*SIDES[::-1], "ptb")
    for name in ("bleu_4", "rouge_l", "meteor"):
        assert abs(one.corpus[name] - other.corpus[name]) > 1e-4, name


def test_the_two_ways_to_cut_differ() -> None:
    text = "A sill-type pattern, on the top-left side."
    assert words_of(text, "ptb") == "a sill-type pattern on the top-left side"
    assert words_of(text, "words") == "a sill type pattern on the top left side"
    ptb, words = (n_gram_scores(*SIDES, cut).corpus for cut in ("ptb", "words"))
    for name in ptb:
        assert abs(ptb[name] - words[name]) > 0.001, name


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("text", ["A sill - type", "a  SILL  -  type.", "A sill-type"])
def test_a_hyphen_with_blanks_is_one_without(text: str, cut: str) -> None:
    assert words_of(text, cut) == {"ptb": "a sill-type", "words": "a sill type"}[cut]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("text", ["", "  ", " - ", "-- .", "?!"])
def test_a_text_may_have_no_words(text: str, cut: str) -> None:
    assert words_of(text, cut) == ""
    scores = n_gram_scores(["a sill on the left", "noise"], [text, "noise"], cut)
    for values in scores.each.values():
        assert values[0] == 0
        assert values[1] > 0


def test_an_unknown_way_to_cut_is_told() -> None:
    with pytest.raises(HephError, match="'PTB' is none; use ptb or words"):
        words_of("a sill", "PTB")
    with pytest.raises(HephError, match="'spaces' is none"):
        n_gram_scores(["a"], ["a"], "spaces", ["bleu"])


def test_some_scores_alone() -> None:
    everything = n_gram_scores(*SIDES, "ptb")
    for name in N_GRAMS:
        alone = n_gram_scores(*SIDES, "ptb", [name])
        assert alone.corpus == {
            key: value for key, value in everything.corpus.items() if key.startswith(name)
        }
        assert all(np.array_equal(alone.each[key], everything.each[key]) for key in alone.each)


def by_hand(matches: int, said: int, wanted: int, chunks: int) -> float:
    """METEOR of Lavie and Agarwal (2007) with alpha 0.9, beta 3, gamma 0.5."""
    precision, recall = matches / said, matches / wanted
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


@pytest.mark.parametrize(
    ("reference", "text", "matches", "chunks"),
    [
        ("noise on the left side", "noise on the left side", 5, 1),
        ("noise on the left side", "noise on the left", 4, 1),
        ("noise on the left", "noise on the left side of it", 4, 1),
        ("noise on the left side", "the left side noise", 4, 2),
        ("a pattern on the left", "a dyke on the right", 3, 2),
        ("deformation patterns detected", "deformation pattern detects", 3, 1),  # by their stems
        ("a pattern detected", "patterns", 1, 1),
    ],
)
def test_meteor_by_hand(reference: str, text: str, matches: int, chunks: int) -> None:
    found = meteor([reference], [text])
    said, wanted = len(text.split()), len(reference.split())
    assert found.each["meteor"][0] == pytest.approx(by_hand(matches, said, wanted, chunks))
    assert found.corpus["meteor"] == found.each["meteor"][0]


def test_meteor_knows_no_synonyms() -> None:
    found = meteor(["image", "noise", "dyke"], ["picture", "noises", "sill"])
    assert found.each["meteor"] == pytest.approx([0, 0.5, 0])
    assert found.corpus["meteor"] == pytest.approx(0.5 / 3)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        meteor(["a", "b"], ["a"])
