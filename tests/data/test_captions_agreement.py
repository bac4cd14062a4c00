"""Agreement of captions: as many atoms either way, patterns paired as well as can be."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.data import captions
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.captions.agreement import agreeing, fact_f1
from tests.data.test_captions import facts_of, valid_facts

unhurried = settings(deadline=None)  # scipy comes with the first pairing


def turned(facts: CaptionFacts, data: st.DataObject) -> CaptionFacts:
    """The same facts, patterns in another order of mention."""
    return CaptionFacts(facts.scene, tuple(data.draw(st.permutations(facts.patterns))))


@unhurried
@given(valid_facts())
def test_a_caption_agrees_with_itself_in_all_atoms(facts: CaptionFacts) -> None:
    assert agreeing(facts, facts) == facts.atoms()
    assert fact_f1(facts, facts) == 1


@unhurried
@given(valid_facts(), valid_facts())
def test_as_many_atoms_agree_the_other_way_round(one: CaptionFacts, other: CaptionFacts) -> None:
    found = agreeing(one, other)
    assert found <= one.atoms()
    assert len(found) == len(agreeing(other, one))
    assert fact_f1(one, other) == fact_f1(other, one)
    assert 0 <= fact_f1(one, other) <= 1


@unhurried
@given(valid_facts(), valid_facts(), st.data())
def test_the_order_of_mention_does_not_matter(
    one: CaptionFacts, other: CaptionFacts, data: st.DataObject
) -> None:
    count = len(agreeing(one, other))
    assert len(agreeing(one, turned(other, data))) == count
    assert len(agreeing(turned(one, data), other)) == count
    assert fact_f1(turned(one, data), turned(other, data)) == fact_f1(one, other)


def told(facts: CaptionFacts, order: tuple[int, ...], other: CaptionFacts) -> int:
    """Atoms of patterns that agree if `facts`' pattern order[i] is `other`'s i-th."""
    count = 0
    for index, b in zip(order, other.patterns, strict=False):
        a = facts.patterns[index]
        same_level = a.intensity is not None and a.intensity == b.intensity
        count += (a.type == b.type) + same_level + len(a.regions & b.regions)
    return count


@unhurried
@given(valid_facts(), valid_facts())
def test_no_other_pairing_agrees_in_more(one: CaptionFacts, other: CaptionFacts) -> None:
    if len(one.patterns) < len(other.patterns):
        one, other = other, one
    orders = permutations(range(len(one.patterns)), len(other.patterns))
    most = max(told(one, order, other) for order in orders)
    assert len(agreeing(one, other)) == most + len(one.scene & other.scene)


@pytest.mark.parametrize(
    ("label", "other", "expected"),
    [
        ("noise@l,t turb", "noise@l,r vert", {("noise",), ("noise", "left")}),
        ("no_deformation", "no_deformation noise", {("no_deformation",)}),
        ("no_deformation", "| sill", set()),
        ("| sill", "", set()),
        # Type, level and place agree each for itself.
        ("| sill/low@l", "| dyke/low@l,r", {("1", "intensity", "low"), ("1", "at", "left")}),
        ("| sill/low@l", "| sill/high@r", {("1", "sill")}),
        ("| sill@l", "| sill/low@l", {("1", "sill"), ("1", "at", "left")}),
        ("| sill", "| dyke", set()),
        ("| unspecified", "| sill", set()),
        # Numbers are those of the first argument.
        ("| dyke@r sill@l", "| sill@l", {("2", "sill"), ("2", "at", "left")}),
        ("| sill@l", "| dyke@r sill@l", {("1", "sill"), ("1", "at", "left")}),
        (
            "| dyke@r sill@l",
            "| sill@l dyke@t",
            {("1", "dyke"), ("2", "sill"), ("2", "at", "left")},
        ),
        # One pattern cannot stand for two; of equals it is the first.
        ("| sill sill", "| sill", {("1", "sill")}),
        ("| sill/low@l sill/low@l", "| sill", {("1", "sill")}),
        ("| sill", "| sill sill", {("1", "sill")}),
        # Each with what it shares most with would leave the second sill alone.
        (
            "| sill/low@l sill/low",
            "| sill/low@l sill@l",
            {("1", "sill"), ("1", "intensity", "low"), ("1", "at", "left"), ("2", "sill")},
        ),
        (
            "| mogi/low@l mogi/low",
            "| mogi/low mogi@l",
            {("1", "mogi"), ("1", "at", "left"), ("2", "mogi"), ("2", "intensity", "low")},
        ),
    ],
)
def test_agreeing_atoms_by_hand(label: str, other: str, expected: set[tuple[str, ...]]) -> None:
    numbered = {("deformation", *atom) if atom[0].isdigit() else atom for atom in expected}
    assert agreeing(facts_of(label), facts_of(other)) == numbered


def test_of_equal_pairings_that_of_the_earlier_patterns() -> None:
    found = agreeing(facts_of("| dyke sill sill sill"), facts_of("| sill sill"))
    assert found == {("deformation", "2", "sill"), ("deformation", "3", "sill")}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "", 1.0),
        ("", "noise", 0.0),
        ("| sill", "", 0.0),
        ("no_deformation", "| sill", 0.0),
        ("noise@l", "noise", 2 * 1 / 3),
        ("noise@l", "noise@r", 2 * 1 / 4),
        ("| sill/low@l", "| sill/high@l", 2 * 2 / 6),
        ("noise | sill/low@l dyke", "| sill@l", 2 * 2 / 7),
    ],
)
def test_f1_by_hand(one: str, other: str, expected: float) -> None:
    assert fact_f1(facts_of(one), facts_of(other)) == pytest.approx(expected, abs=1e-12)


def test_words_that_tell_no_fact_do_not_count() -> None:
    one, other = captions.parse("hello world"), captions.parse("")
    assert one.unexplained
    assert fact_f1(one, other) == 1
