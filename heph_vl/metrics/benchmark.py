"""The retrieval benchmark: any embeddings of a gallery and of its queries, beside baselines.

Baselines: `chance` is the expectation under a random order; `shuffled` gives the images one
another's embeddings (mean over several permutations), so it keeps what a model gains without
looking; `true_facts` ranks by the captions' own facts and is the ceiling. All share queries,
gallery and bootstrap draws with the model, so differences have intervals. Where labels and masks
of the gallery are at hand, `heads_facts` ranks by what they make probable (`fact_beliefs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.metrics.bootstrap import Clusters, Statistic, clusters, group_weights
from heph_vl.metrics.fact_beliefs import Beliefs, suite_scores
from heph_vl.metrics.fact_queries import Suite, build_suites
from heph_vl.metrics.retrieval import (
    SUMMARY_NAMES,
    PerQuery,
    chance_per_query,
    first_groups,
    median_rank,
    per_query_metrics,
    rank_distribution,
)
from heph_vl.nearest import SCORE_DECIMALS

Vectors = npt.NDArray[np.float32]
IMAGE_TO_TEXT = "image_to_text"


@dataclass(frozen=True)
class Settings:
    """How baselines and intervals are drawn."""

    seed: int = 0
    num_shuffles: int = 5
    num_draws: int = 2000


def query_texts(captions: Sequence[str]) -> list[str]:
    """All texts that a model must embed to be scored on a gallery with these captions."""
    texts = [text for suite in build_suites(captions) for text in suite.texts]
    return list(dict.fromkeys(texts))


def score_retrieval(
    image_embeddings: Vectors,
    text_embeddings: Mapping[str, Vectors],
    captions: Sequence[str],
    groups: Sequence[str],
    settings: Settings = Settings(),
    heads: Sequence[Beliefs] | None = None,
) -> dict[str, Any]:
    """Metrics of all suites with baselines and intervals.

    Args:
        image_embeddings: (N, E), any length; scores are cosines.
        text_embeddings: (E,) of each of `query_texts`.
        captions: Caption of each of the N images.
        groups: Volcano group of each image, the unit of the bootstrap.
        settings: Seeds and numbers of draws.
        heads: What labels and masks say of each image, to be compared with.

    Returns:
        For each suite, and for `image_to_text` (captions answering images): `num_queries`,
        `num_candidates`, `left_out` and `metrics`: name -> `model` (value, interval, per_group),
        `chance`, `shuffled`, `true_facts`, `minus_chance` and `minus_shuffled` (value, interval);
        with `heads` also `heads_facts` and `minus_heads_facts`.
    """
    images = _unit(image_embeddings)
    found = {}
    for suite in build_suites(captions):
        texts = _unit(np.stack([text_embeddings[text] for text in suite.texts]))
        weights, names = group_weights(suite.relevance, groups)
        units = clusters(weights, names, seed=settings.seed, num_draws=settings.num_draws)
        by_heads = None if heads is None else suite_scores(suite, heads)
        found[suite.name] = _score(texts @ images.T, suite, units, settings, by_heads)
        if suite.name == "captions":
            own, names = group_weights(np.eye(len(images), dtype=np.bool_), groups)
            units = clusters(own, names, seed=settings.seed, num_draws=settings.num_draws)
            reverse = _reversed(suite)
            by_heads = None if by_heads is None else np.ascontiguousarray(by_heads.T)
            found[IMAGE_TO_TEXT] = _score(images @ texts.T, reverse, units, settings, by_heads)
    return found


def _reversed(suite: Suite) -> Suite:
    """Images ask, captions answer."""
    gains = None if suite.gains is None else np.ascontiguousarray(suite.gains.T)
    relevance = np.ascontiguousarray(suite.relevance.T)
    return Suite(IMAGE_TO_TEXT, suite.texts, suite.facts, relevance, gains, suite.left_out)


@dataclass(frozen=True)
class _System:
    """Per-query metrics of one system, and where its first relevant items can be."""

    per_query: PerQuery
    first: npt.NDArray[np.int64]

    def statistics(self, units: Clusters) -> dict[str, Statistic]:
        named = {SUMMARY_NAMES.get(k, k): units.mean(v) for k, v in self.per_query.items()}
        # Shuffled baselines come several to a query: their ranks are pooled.
        repeats = len(self.first) // max(1, len(units.members))
        ranks = rank_distribution(self.first, np.tile(units.members, (repeats, 1)))
        return named | {"median_rank": partial(median_rank, ranks)}


def _score(
    scores: Vectors, suite: Suite, units: Clusters, settings: Settings, by_heads: Vectors | None
) -> dict[str, Any]:
    scores = np.round(scores, SCORE_DECIMALS)
    relevance, gains = suite.relevance, suite.gains
    same = np.zeros_like(scores)
    by_facts = relevance.astype(np.float32) if gains is None else gains
    systems = {
        "model": _system(scores, suite),
        "chance": _System(chance_per_query(relevance, gains), first_groups(same, relevance)),
        "shuffled": _shuffled(scores, suite, settings),
        "true_facts": _system(by_facts, suite),
    }
    if by_heads is not None:
        systems["heads_facts"] = _system(np.round(by_heads, SCORE_DECIMALS), suite)
    statistics = {name: system.statistics(units) for name, system in systems.items()}
    return {
        "num_queries": int(relevance.any(axis=1).sum()),
        "num_without_relevant": int((~relevance.any(axis=1)).sum()),
        "num_candidates": relevance.shape[1],
        "num_groups": len(units.names),
        "left_out": list(suite.left_out),
        "metrics": {
            metric: _compare({name: found[metric] for name, found in statistics.items()}, units)
            for metric in statistics["model"]
        },
    }


def _compare(statistics: Mapping[str, Statistic], units: Clusters) -> dict[str, Any]:
    found: dict[str, Any] = {"model": units.estimate(statistics["model"])}
    others = [name for name in statistics if name != "model"]
    for name in others:
        found[name] = units.estimate(statistics[name])["value"]
    for name in others:
        if name != "true_facts":
            found[f"minus_{name}"] = units.difference(statistics["model"], statistics[name])
    return found


def _system(scores: Vectors, suite: Suite) -> _System:
    per_query = per_query_metrics(scores, suite.relevance, suite.gains)
    return _System(per_query, first_groups(scores, suite.relevance))


def _shuffled(scores: Vectors, suite: Suite, settings: Settings) -> _System:
    """Several permutations of the images: metrics averaged for each query, ranks pooled."""
    rng = np.random.default_rng(settings.seed)
    axis = 0 if suite.name == IMAGE_TO_TEXT else 1
    runs = []
    for _ in range(settings.num_shuffles):
        order = rng.permutation(scores.shape[axis])
        runs.append(_system(np.take(scores, order, axis=axis), suite))
    per_query = {
        name: np.mean([run.per_query[name] for run in runs], axis=0) for name in runs[0].per_query
    }
    return _System(per_query, np.concatenate([run.first for run in runs]))


def _unit(vectors: npt.ArrayLike) -> Vectors:
    array = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    unit: Vectors = np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 0)
    return unit
