"""The same scores as `evaluate.Metric`: they are those of the functions, alone and combined."""

from pathlib import Path
from typing import Any

import evaluate
import pytest

from heph_vl.errors import HephError
from heph_vl.metrics.captioning import Bleu, CiderD, FactScores, Meteor, RougeL
from heph_vl.metrics.n_grams import n_gram_scores
from tests.metrics.test_caption_facts import REFERENCES, TEXTS

MODULES = {"bleu": Bleu, "rouge_l": RougeL, "meteor": Meteor, "cider_d": CiderD}


def made(module: Any, tmp_path: Path) -> Any:
    return module(cache_dir=str(tmp_path))


@pytest.mark.parametrize("cut", ["ptb", "words"])
@pytest.mark.parametrize("name", MODULES)
def test_word_scores_are_those_of_the_functions(tmp_path: Path, name: str, cut: str) -> None:
    metric = made(MODULES[name], tmp_path)
    found = metric.compute(predictions=TEXTS, references=REFERENCES, tokenization=cut)
    expected = n_gram_scores(REFERENCES, TEXTS, cut, [name]).corpus
    assert found == {**expected, "tokenization": cut}
    assert len(expected) == (4 if name == "bleu" else 1)
    assert metric.citation
    assert metric.description


def test_words_are_cut_as_pycocoevalcap_does_unless_told(tmp_path: Path) -> None:
    texts = ["A sill-type pattern.", "noise"]
    references = ["A dyke-type pattern.", "noise"]
    found = made(RougeL, tmp_path).compute(predictions=texts, references=references)
    expected = n_gram_scores(references, texts, "ptb", ["rouge_l"]).corpus
    assert found == {**expected, "tokenization": "ptb"}
    assert expected != n_gram_scores(references, texts, "words", ["rouge_l"]).corpus
    with pytest.raises(HephError, match="'letters' is none"):
        made(RougeL, tmp_path).compute(
            predictions=texts, references=references, tokenization="letters"
        )


def test_fact_scores_by_hand(tmp_path: Path) -> None:
    found = made(FactScores, tmp_path).compute(predictions=TEXTS, references=REFERENCES)
    expected = {
        "all_precision": 5 / 9,
        "all_recall": 5 / 10,
        "all_f1": 10 / 19,
        "deformation_precision": 2 / 5,
        "deformation_recall": 2 / 5,
        "deformation_f1": 2 / 5,
        "noise_f1": 1,
        "type_f1": 1 / 2,
        "intensity_f1": 0,
        "place_f1": 1 / 2,
        "atmosphere_precision": None,  # none is said
        "atmosphere_recall": 0,
        "atmosphere_f1": 0,
        "flags_precision": None,
        "flags_recall": None,
        "flags_f1": None,
        "no_deformation_precision": 1 / 2,
        "exact": 1 / 4,
        "distinct": 4,
        "distinct_references": 4,
        "hallucination": 1 / 2,
        "miss": 1 / 2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert len(found) == 9 * 3 + 5


def test_precision_and_recall_are_not_confused(tmp_path: Path) -> None:
    texts = ["Noise.", "Noise."]
    references = ["Noise on the left. No deformation.", "A sill on the left."]
    found = made(FactScores, tmp_path).compute(predictions=texts, references=references)
    assert found["all_precision"] == pytest.approx(1 / 2)
    assert found["all_recall"] == pytest.approx(1 / 5)
    assert found["all_f1"] == pytest.approx(2 * 1 / 7)
    assert (found["hallucination"], found["miss"]) == (0, 1)
    assert (found["distinct"], found["distinct_references"]) == (1, 2)


def test_there_is_no_share_of_nothing(tmp_path: Path) -> None:
    calm = ["No deformation.", "Noise."]
    found = made(FactScores, tmp_path).compute(predictions=["A sill.", "Noise."], references=calm)
    assert found["miss"] is None
    assert found["hallucination"] == 1 / 2
    found = made(FactScores, tmp_path).compute(predictions=["A sill."], references=["A dyke."])
    assert found["hallucination"] is None
    assert found["miss"] == 0


def test_combined_they_say_the_same_and_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a look into the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    modules = [made(module, tmp_path) for module in (*MODULES.values(), FactScores)]
    found = evaluate.combine(modules).compute(predictions=TEXTS, references=REFERENCES)
    expected = n_gram_scores(REFERENCES, TEXTS, "ptb").corpus
    assert {name: found[name] for name in expected} == expected
    assert found["all_f1"] == pytest.approx(10 / 19)
