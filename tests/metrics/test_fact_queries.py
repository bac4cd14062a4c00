"""Queries by facts: who answers what, and how alike two captions are."""

import numpy as np
import pytest

from heph_vl.data import captions
from heph_vl.data.captions import CaptionFacts, Pattern
from heph_vl.metrics.fact_queries import build_suites, fact_jaccard, fact_tokens

MOGI_LEFT = "A mogi-type deformation pattern of low intensity can be detected on the left side."
TWO = (
    "A sill-type deformation pattern can be detected on the right side. "
    "A mogi-type deformation pattern of low intensity can be detected on the left side."
)
TWO_TURNED = (
    "A mogi-type deformation pattern of low intensity can be detected on the left side. "
    "A sill-type deformation pattern can be detected on the right side."
)
NONE = "Turbulent mixing effect can be detected. No deformation activity can be detected."
GALLERY = [MOGI_LEFT, TWO, TWO_TURNED, NONE, NONE.replace(" ", "  ") + " ", "Hello."]


def test_order_of_mention_does_not_matter_but_number_does() -> None:
    mogi, sill = Pattern("mogi"), Pattern("sill")
    key = CaptionFacts(patterns=(mogi, sill)).key
    assert key == CaptionFacts(patterns=(sill, mogi)).key
    assert key != CaptionFacts(patterns=(mogi, sill, sill)).key
    assert fact_tokens(CaptionFacts(patterns=(sill, Pattern("sill", "low")))) == {
        ("deformation", "sill"): 2,
        ("deformation", "sill", "intensity", "low"): 1,
    }


def test_unique_captions_are_answered_by_equal_fact_sets() -> None:
    suite = build_suites(GALLERY)[0]
    assert suite.name == "captions"
    assert suite.texts == (MOGI_LEFT, TWO, TWO_TURNED, NONE)
    assert suite.left_out == ("Hello.",)
    assert suite.relevance.tolist() == [
        [True, False, False, False, False, False],
        [False, True, True, False, False, False],
        [False, True, True, False, False, False],
        [False, False, False, True, True, False],
    ]
    assert suite.gains is not None
    assert (suite.gains == 1)[:, :5].tolist() == suite.relevance[:, :5].tolist()
    assert 0 < suite.gains[0, 1] < 1
    assert suite.gains[0, 3] == 0


def test_suites_ask_for_what_the_gallery_has_and_entailment_answers() -> None:
    suites = {suite.name: suite for suite in build_suites(GALLERY)}
    assert list(suites) == [
        "captions", "deformation_captions", "atoms", "type_intensity", "type_place", "negation",
    ]  # fmt: skip
    answers = {
        text: np.flatnonzero(row).tolist()
        for name in ("atoms", "type_intensity", "type_place", "negation")
        for text, row in zip(suites[name].texts, suites[name].relevance, strict=True)
    }
    for text, found in answers.items():
        query = captions.parse(text)
        images = [captions.parse(caption) for caption in GALLERY]
        assert found == [i for i, facts in enumerate(images) if captions.entails(facts, query)]
        assert found
    by_facts = {captions.parse(text).key: found for text, found in answers.items()}
    assert len(by_facts) == len(answers)

    def answering(*patterns: Pattern, scene: tuple[str, ...] | None = None) -> list[int]:
        atoms = frozenset() if scene is None else frozenset([scene])
        return by_facts[CaptionFacts(atoms, patterns).key]

    assert answering(Pattern("mogi")) == [0, 1, 2]
    assert answering(Pattern("mogi", "low")) == [0, 1, 2]
    assert answering(Pattern("sill", None, frozenset(["right"]))) == [1, 2]
    assert answering(scene=("no_deformation",)) == [3, 4]
    assert suites["deformation_captions"].texts == (MOGI_LEFT, TWO, TWO_TURNED)
    assert suites["deformation_captions"].relevance.shape == (3, 6)


def test_every_query_text_states_the_facts_it_is_scored_by() -> None:
    for suite in build_suites(GALLERY):
        for text, facts in zip(suite.texts, suite.facts, strict=True):
            assert captions.parse(text).key == facts.key


def test_jaccard_weighs_rare_facts_more() -> None:
    # 8 of 10 images have a, 2 have b.
    a, b = ("orbital_fringes",), ("glacier_fringes",)
    sets = [CaptionFacts(frozenset([a])), CaptionFacts(frozenset([a, b])), CaptionFacts()]
    found = fact_jaccard(sets, sets, [8, 2, 0])
    weight_a, weight_b = np.log1p(10 / 10), np.log1p(10 / 2)
    assert found[0, 1] == pytest.approx(weight_a / (weight_a + weight_b))
    assert found[1, 0] == found[0, 1]
    assert np.diag(found).tolist() == [1, 1, 1]
    assert found[0, 2] == 0


def test_jaccard_counts_how_often_a_pattern_occurs() -> None:
    one, two = (CaptionFacts(patterns=(Pattern("sill"),) * n) for n in (1, 2))
    assert fact_jaccard([one], [two], [1])[0, 0] < 1


@pytest.mark.real_data
def test_real_captions_give_queries_of_every_suite(shared: object) -> None:
    from pathlib import Path

    from heph_vl.data.annotations import read_annotations

    assert isinstance(shared, Path)
    found = read_annotations(shared / "data" / "hephaestus" / "annotations.tar.gz").annotations
    suites = {s.name: s for s in build_suites([annotation.caption for annotation in found[::40]])}
    assert len(suites) == 6
    assert all(suite.relevance.any(axis=1).all() for suite in suites.values())
