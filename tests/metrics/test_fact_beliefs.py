"""Beliefs of heads as retrieval scores: places, exactness, and what cannot be said."""

import math
from typing import Any

import numpy as np
import pytest

from heph_vl.data import captions
from heph_vl.data.captions.facts import SCENE_ATOMS
from heph_vl.data.labels import LABELS
from heph_vl.metrics.fact_beliefs import beliefs, log_probability, suite_scores
from heph_vl.metrics.fact_queries import build_suites
from heph_vl.metrics.retrieval import retrieval_metrics


def labels(deformation: float = 0.02, **likely: str) -> dict[str, Any]:
    """All small but what is named: `activity_types`, `intensities`, `atmosphere`, `quality`."""
    found: dict[str, Any] = {"deformation": deformation}
    for task, names in LABELS.items():
        if task != "deformation":
            found[task] = {name: 0.9 if likely.get(task) == name else 0.02 for name in names}
    return found


def probability(text: str, image: Any, *, exactly: bool = False) -> float:
    return math.exp(log_probability(captions.parse(text), image, exactly=exactly))


def test_a_pattern_is_its_type_its_intensity_and_its_place() -> None:
    mask = np.zeros((90, 90), np.uint8)
    mask[5:25, 5:25] = 1
    sill = labels(0.95, activity_types="sill", intensities="high")
    seen, placeless = beliefs(sill, mask), beliefs(sill)
    text = "High intensity sill-type deformation on the top-left."
    # The mask calls it Mogi, the labels of the image a sill.
    assert probability(text, seen) == pytest.approx(0.9 * 0.9 * 0.45)
    assert probability(text, placeless) == pytest.approx(0.9 * 0.9 / 11)
    assert probability(text.replace("top-left", "right"), seen) < 0.02
    assert probability(text.replace("sill", "mogi"), seen) < 0.05


def test_a_mask_tells_which_type_is_where_and_a_second_pattern_takes_nothing_away() -> None:
    both = labels(0.95, intensities="low")
    both["activity_types"] |= {"mogi": 0.9, "sill": 0.9}
    one, right, wrong = (np.zeros((90, 90), np.uint8) for _ in range(3))
    one[40:50, 5:25] = right[40:50, 5:25] = 1
    right[40:50, 65:85] = 3
    wrong[40:50, 5:25], wrong[40:50, 65:85] = 3, 1
    seen, swapped = beliefs(both, right), beliefs(both, wrong)
    asked = "Mogi-type deformation on the left."
    assert probability(asked, seen) == probability(asked, beliefs(both, one))
    assert probability(asked, seen) == 2 * probability(asked, swapped)
    assert probability("Deformation on the left.", seen) == pytest.approx(0.95 * 0.9)


def test_exactly_is_less_than_entailed() -> None:
    image = beliefs(labels(0.02, atmosphere="turbulent_mixing", quality="low_coherence"))
    calm = "No deformation activity can be detected."
    assert probability(calm, image) == pytest.approx(0.98 * 0.98 * 0.98)
    assert probability(calm, image, exactly=True) < 0.02  # silent on turbulence and noise


def test_exactly_holds_silence_against_a_text() -> None:
    air = beliefs(labels(0.02, atmosphere="turbulent_mixing"))
    calm = " No deformation activity can be detected."
    placed = probability("Turbulent mixing effect around the area." + calm, air, exactly=True)
    assert placed > 10 * probability("Turbulent mixing effect." + calm, air, exactly=True)
    broken = beliefs(labels(0.02, quality="processing_error"))
    assert probability(calm, broken, exactly=True) < 0.5 * probability(
        calm, beliefs(labels()), exactly=True
    )
    sill = beliefs(labels(0.95, activity_types="sill", intensities="high"))
    full = probability("Sill-type deformation of high intensity on the left.", sill, exactly=True)
    assert full > probability("Sill-type deformation on the left.", sill, exactly=True)


def test_whatever_is_said_has_a_finite_score() -> None:
    image = beliefs(labels())
    for atom in SCENE_ATOMS:
        facts = captions.CaptionFacts(frozenset({atom}))
        for exactly in (False, True):
            assert -200 < log_probability(facts, image, exactly=exactly) <= 0


def test_true_labels_find_nearly_all() -> None:
    texts = [
        "No deformation activity can be detected.",
        "Sill-type deformation of high intensity on the left.",
        "Mogi-type deformation of low intensity on the right.",
        "Turbulent mixing effect around the area. No deformation activity can be detected.",
    ]
    kinds: list[dict[str, str]] = [{}, {"activity_types": "sill", "intensities": "high"}]
    kinds += [{"activity_types": "mogi", "intensities": "low"}, {"atmosphere": "turbulent_mixing"}]
    masks = [np.zeros((30, 30), np.uint8) for _ in texts]
    masks[1][12:18, 1:8] = 3
    masks[2][12:18, 22:29] = 1
    images = [
        beliefs(labels(0.95 if "activity_types" in kind else 0.02, **kind), mask)
        for kind, mask in zip(kinds, masks, strict=True)
    ]
    for suite in build_suites(texts):
        found = retrieval_metrics(suite_scores(suite, images), suite.relevance)
        assert found["mAP"] == pytest.approx(1), suite.name
