"""The benchmark separates a model that sees from one that does not, and constant from chance."""

from typing import Any

import numpy as np
import pytest

from heph_vl.metrics.benchmark import Settings, query_texts, score_retrieval

KINDS = ("mogi", "sill", "dyke", "spheroid")
PLACES = ("left", "right", "top", "bottom")
CAPTIONS = [
    f"A {kind}-type deformation pattern can be detected on the {place} side."
    for kind in KINDS
    for place in PLACES
] * 4 + ["No deformation activity can be detected."] * 26
GROUPS = [f"volcano {i % 9}" for i in range(len(CAPTIONS))]
SETTINGS = Settings(num_draws=300, num_shuffles=3)


def embeddings(kind: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    texts = {text: rng.standard_normal(32).astype(np.float32) for text in query_texts(CAPTIONS)}
    if kind == "constant":
        return np.ones((len(CAPTIONS), 32), np.float32), {t: np.ones(32, np.float32) for t in texts}
    images = np.stack([texts[caption] for caption in CAPTIONS])
    noise = rng.standard_normal(images.shape).astype(np.float32)
    return (images + 1.5 * noise if kind == "seeing" else noise), texts


def score(kind: str) -> dict[str, Any]:
    return score_retrieval(*embeddings(kind), CAPTIONS, GROUPS, SETTINGS)


def test_a_model_that_sees_beats_shuffled_pairs_outside_the_interval() -> None:
    found = score("seeing")
    for name in ("captions", "deformation_captions", "image_to_text"):
        metric = found[name]["metrics"]["mAP"]
        assert 0.5 < metric["model"]["value"] < 1
        assert metric["true_facts"] == pytest.approx(1)
        for baseline in ("chance", "shuffled"):
            gain = metric[f"minus_{baseline}"]
            assert gain["value"] == pytest.approx(metric["model"]["value"] - metric[baseline])
            assert 0 < gain["interval"][0] < gain["value"] < gain["interval"][1]
        assert found[name]["metrics"]["median_rank"]["model"]["value"] == 1
    captions = found["captions"]
    assert (captions["num_queries"], captions["num_candidates"], captions["num_groups"]) == (
        17,
        90,
        9,
    )
    assert found["image_to_text"]["num_queries"] == 90
    assert found["image_to_text"]["num_candidates"] == 17
    assert set(captions["metrics"]["mAP"]["model"]["per_group"]) == set(GROUPS)


def test_noise_does_not_beat_chance() -> None:
    for suite in score("blind").values():
        gain = suite["metrics"]["mAP"]["minus_chance"]
        assert gain["interval"] is None or gain["interval"][0] < 0.01


def test_a_constant_embedding_scores_exactly_chance() -> None:
    for name, suite in score("constant").items():
        for metric, compared in suite["metrics"].items():
            assert compared["model"]["value"] == pytest.approx(compared["chance"]), (name, metric)
            gain = compared["minus_chance"]
            assert gain["interval"] is None or gain["interval"] == pytest.approx([0, 0], abs=1e-9)
            assert compared["shuffled"] == pytest.approx(compared["chance"]), (name, metric)


def test_the_length_of_embeddings_does_not_matter() -> None:
    images, texts = embeddings("seeing")
    scale = np.random.default_rng(1).uniform(0.1, 9, (len(images), 1)).astype(np.float32)
    scaled = score_retrieval(
        images * scale, {t: 5 * v for t, v in texts.items()}, CAPTIONS, GROUPS, SETTINGS
    )
    plain = score("seeing")
    assert scaled["captions"]["metrics"] == plain["captions"]["metrics"]


def test_too_few_groups_give_values_but_no_interval() -> None:
    images, texts = embeddings("seeing")
    few = [f"volcano {i % 5}" for i in range(len(CAPTIONS))]
    metric = score_retrieval(images, texts, CAPTIONS, few, SETTINGS)["captions"]["metrics"]["mAP"]
    assert metric["model"]["interval"] is None
    assert metric["minus_shuffled"]["interval"] is None
    assert len(metric["model"]["per_group"]) == 5
