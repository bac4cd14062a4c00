"""One caption of many samples: who is elected, in which words, and how sure each fact is."""

from collections.abc import Sequence

import pytest

from heph_vl.data import captions
from heph_vl.models.consensus import Answer, choose

CALM = "No deformation."
SILL = "A sill on the left."
SILL_SAID_OTHERWISE = "On the left a sill."
LOW_SILL = "A sill of low intensity on the left."
DYKE = "A dyke on the right."


def say(texts: Sequence[str], threshold: float, text: str | None = None) -> Answer:
    """The answer where all texts are equally likely."""
    return choose([(sample, -2.5) for sample in texts], threshold, text)


def pattern(*rest: str, number: int = 1) -> tuple[str, ...]:
    return ("deformation", str(number), *rest)


@pytest.mark.parametrize(
    ("deforming", "threshold", "told"),
    [
        (2, 0.5, True),  # at the threshold
        (2, 0.51, False),
        (1, 0.25, True),
        (1, 0.26, False),
        (3, 0.75, True),
        (3, 0.76, False),
        (1, 0.0, True),
        (0, 0.0, False),  # nothing tells any
        (4, 1.0, True),
        (3, 1.0, False),
    ],
)
def test_the_threshold_decides_whether_a_deformation_is_told(
    deforming: int, threshold: float, told: bool
) -> None:
    samples = [SILL] * deforming + [CALM] * (4 - deforming)
    for order in (samples, samples[::-1]):
        answer = say(order, threshold)
        assert answer.text == (SILL if told else CALM)
        assert answer.deformation == deforming / 4


def test_where_no_sample_tells_what_is_asked_all_stand_for_election() -> None:
    # All deform, but not in the share that is asked for: no sample is without deformation.
    answer = say([SILL, DYKE, SILL], 1.5)
    assert answer.text == SILL
    assert answer.deformation == 1
    # None deforms, and the threshold asks for deformation.
    answer = say(["Noise on the left.", CALM, CALM], 0.0)
    assert answer.text == CALM
    assert answer.deformation == 0


def test_a_text_without_any_fact_counts_as_without_deformation() -> None:
    answer = say(["", "", SILL], 0.5)
    assert answer.text == ""
    assert answer.confidence == {}
    assert answer.deformation == 1 / 3


def test_the_facts_in_the_middle_are_said_not_the_commonest_ones() -> None:
    # Two of five say the dyke; the three others agree in most of what they tell of a sill.
    samples = [
        DYKE,
        DYKE,
        "A sill of low intensity on the left.",
        "A sill of low intensity on the top.",
        "A sill of low intensity on the left and top.",
    ]
    for order in (samples, samples[::-1]):
        answer = say(order, 0.5)
        # F1 of the last with the two before it is 6/7, with itself 1; of a dyke with itself 1.
        assert answer.text == samples[4]
        assert answer.confidence == {
            pattern("sill"): 3 / 5,
            pattern("intensity", "low"): 3 / 5,
            pattern("at", "left"): 2 / 5,
            pattern("at", "top"): 2 / 5,
        }


def test_each_sample_has_a_vote_however_often_its_facts_were_drawn() -> None:
    # As often as not: 3 x F1 of the low sill to itself against 2 x 1.
    assert say([LOW_SILL] * 3 + [DYKE] * 2, 0.5).text == LOW_SILL
    assert say([LOW_SILL] * 2 + [DYKE] * 3, 0.5).text == DYKE
    # The loser's votes go to what resembles it: 2 + 2 * 0.8 for each sill, 3 for the dyke.
    samples = [LOW_SILL] * 2 + [SILL] * 2 + [DYKE] * 3
    assert say(samples, 0.5).text in (LOW_SILL, SILL)


def test_only_those_that_agree_on_deformation_vote() -> None:
    noise = "Noise can be detected. "
    calm = noise + "No deformation activity can be detected."
    told = captions.parse(noise + SILL)
    assert captions.parse(SILL).scene < told.scene
    # The calm ones tell noise too, but what a deformation is like is not theirs to say.
    samples = [calm] * 4 + [SILL] * 3 + [noise + SILL] * 2
    assert say(samples, 0.5).text == SILL
    assert say(samples, 0.5).deformation == 5 / 9
    assert say(samples, 0.6).text == calm
    assert say(samples, 0.6).confidence[("noise",)] == 6 / 9  # all are asked how sure it is


def test_the_likeliest_wording_of_the_chosen_facts_is_said() -> None:
    assert captions.parse(SILL).key == captions.parse(SILL_SAID_OTHERWISE).key
    drawn = [(SILL, -3.0), (SILL_SAID_OTHERWISE, -1.0), (DYKE, -0.1), (SILL, -3.0)]
    for order in (drawn, drawn[::-1]):
        answer = choose(order, 0.5)
        assert answer.text == SILL_SAID_OTHERWISE
        assert answer.samples == tuple(order)
    # How likely a text is elects no facts: each draw has one vote.
    assert choose([(SILL, -9.0), (SILL_SAID_OTHERWISE, -8.0), (DYKE, -0.1)], 0.5).text == (
        SILL_SAID_OTHERWISE
    )


def test_facts_are_those_of_the_text_numbered_as_it_tells_them() -> None:
    first = "A sill on the left and a dyke on the right."
    again = "A dyke on the right and a sill on the left."
    assert captions.parse(first).key == captions.parse(again).key
    for order in (1, -1):
        answer = choose([(first, -2.0), (again, -1.0), (again, -1.0), (SILL, -1.0)][::order], 0.5)
        assert answer.text == again
        assert answer.facts.patterns == captions.parse(again).patterns
        assert answer.confidence == {
            pattern("dyke"): 3 / 4,
            pattern("at", "right"): 3 / 4,
            pattern("sill", number=2): 1,
            pattern("at", "left", number=2): 1,
        }


def test_confidence_is_the_share_of_the_samples_that_tell_each_fact() -> None:
    samples = [
        "Noise on the left. A sill of low intensity on the left.",
        "Noise. A sill of high intensity on the left.",
        "A sill on the right. Noise on the left.",
        "A dyke of low intensity on the left.",
        "No deformation.",
        "Noise on the left. A sill of low intensity on the left.",
        "Noise on the left. A dyke on the top and a sill of low intensity.",
        "",
    ]
    answer = say(samples, 0.5)
    assert answer.text == samples[0]
    assert answer.confidence == {
        ("noise",): 5 / 8,
        ("noise", "left"): 4 / 8,
        pattern("sill"): 5 / 8,
        pattern("intensity", "low"): 4 / 8,
        pattern("at", "left"): 4 / 8,
    }
    assert answer.deformation == 6 / 8
    assert answer.samples == tuple((text, -2.5) for text in samples)
    assert answer.facts == captions.parse(samples[0])


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_given_text_is_said_and_the_samples_tell_how_sure_it_is(threshold: float) -> None:
    text = "A dyke of high intensity on the right. Noise."
    samples = [SILL, DYKE, DYKE, CALM]
    answer = say(samples, threshold, text)
    assert answer.text == text
    assert answer.facts == captions.parse(text)
    assert answer.confidence == {
        pattern("dyke"): 2 / 4,
        pattern("intensity", "high"): 0,
        pattern("at", "right"): 2 / 4,
        ("noise",): 0,
    }
    assert answer.deformation == 3 / 4
    assert answer.samples == tuple((text, -2.5) for text in samples)
    assert say(samples, threshold, "").text == ""


def test_one_sample_is_sure_of_itself() -> None:
    answer = say([SILL], 0.5)
    assert (answer.text, answer.deformation) == (SILL, 1)
    assert set(answer.confidence.values()) == {1}
