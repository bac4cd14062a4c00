"""Text queries of the retrieval benchmark, and which images answer them, by facts.

`captions` asks with every distinct caption; the images of the same facts answer it;
`deformation_captions` are those that tell a deformation. The suites ask with composed texts about
one thing each; the images whose facts entail the text answer them:

    atoms            one scene atom, or one pattern type
    type_intensity   one pattern of a type and an intensity
    type_place       one pattern of a type in a region
    negation         no deformation, alone and with one more scene atom

A suite asks for what some image of the gallery has: a query without answer measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heph_vl.data import captions as caption_facts
from heph_vl.data.captions import CaptionFacts, Pattern

Floats = npt.NDArray[np.float32]
NO_DEFORMATION = ("no_deformation",)


@dataclass(frozen=True)
class Suite:
    """Queries over a gallery of N images.

    Args:
        name: Name of the suite.
        texts: Q query texts.
        facts: Their facts.
        relevance: (Q, N) bool, the images that answer each.
        gains: (Q, N) float32 in [0, 1] for nDCG, or None.
        left_out: Captions that are no query because they state no fact.
    """

    name: str
    texts: tuple[str, ...]
    facts: tuple[CaptionFacts, ...]
    relevance: npt.NDArray[np.bool_]
    gains: Floats | None = None
    left_out: tuple[str, ...] = ()


def fact_tokens(facts: CaptionFacts) -> Counter[tuple[str, ...]]:
    """Facts as a multiset, with patterns told by type and not by order of mention.

    Args:
        facts: The facts of a caption.

    Returns:
        Scene atoms once each; for each pattern (type), (type, intensity) and (type, region).
    """
    tokens: Counter[tuple[str, ...]] = Counter(facts.scene)
    for pattern in facts.patterns:
        kind = ("deformation", pattern.type)
        tokens[kind] += 1
        if pattern.intensity is not None:
            tokens[(*kind, "intensity", pattern.intensity)] += 1
        tokens.update((*kind, "at", region) for region in pattern.regions)
    return tokens


def fact_jaccard(
    queries: Sequence[CaptionFacts], images: Sequence[CaptionFacts], counts: Sequence[int]
) -> Floats:
    """Jaccard similarity of facts, weighted by how rare each is in the gallery.

    The weight of a token is log(1 + N / df), df the number of the gallery's N images that have it:
    what all images share counts little, never nothing.

    Args:
        queries: Q fact sets.
        images: U fact sets of the gallery.
        counts: How many images have each of them.

    Returns:
        (Q, U) float32 in [0, 1]; 1 for equal sets only.
    """
    bags = [fact_tokens(facts) for facts in (*queries, *images)]
    # The i-th occurrence of a token is a column of its own: Jaccard of multisets.
    columns: dict[tuple[tuple[str, ...], int], int] = {}
    for bag in bags:
        for token, times in bag.items():
            for i in range(times):
                columns.setdefault((token, i), len(columns))
    has = np.zeros((len(bags), len(columns)))
    for row, bag in zip(has, bags, strict=True):
        row[[columns[token, i] for token, times in bag.items() for i in range(times)]] = 1
    in_query, in_image = has[: len(queries)], has[len(queries) :]
    frequency = np.asarray(counts) @ in_image
    weights = np.log1p(sum(counts) / np.maximum(frequency, 0.5))  # 0.5: in no image, finite
    shared = (in_query * weights) @ in_image.T
    union = (in_query @ weights)[:, None] + in_image @ weights - shared
    similarity = np.divide(shared, union, out=np.ones_like(shared), where=union > 0)
    return np.clip(similarity, 0, 1).astype(np.float32)


def build_suites(captions: Sequence[str]) -> list[Suite]:
    """All suites over a gallery.

    Args:
        captions: Caption of each of the N images.

    Returns:
        ``captions`` first, then those of the module's table that have queries.
    """
    texts = [" ".join(text.split()) for text in captions]
    parsed = {text: caption_facts.parse(text) for text in dict.fromkeys(texts)}
    facts = [parsed[text] for text in texts]
    key_index = {key: i for i, key in enumerate(dict.fromkeys(one.key for one in facts))}
    codes = np.array([key_index[one.key] for one in facts], dtype=np.intp)
    distinct = [facts[i] for i in np.unique(codes, return_index=True)[1]]
    of_captions = _caption_suite(parsed, key_index, codes, distinct)
    suites = [of_captions, _deforming(of_captions)]
    for name, asked in _asked(distinct).items():
        entailed = np.array(
            [[caption_facts.entails(image, query) for image in distinct] for query in asked],
            dtype=np.bool_,
        ).reshape(len(asked), len(distinct))
        composed = tuple(caption_facts.compose(query) for query in asked)
        suites.append(Suite(name, composed, tuple(asked), entailed[:, codes]))
    return [suite for suite in suites if suite.texts]


def _caption_suite(
    parsed: dict[str, CaptionFacts],
    key_index: dict[Hashable, int],
    codes: npt.NDArray[np.intp],
    distinct: Sequence[CaptionFacts],
) -> Suite:
    queries = {text: facts for text, facts in parsed.items() if facts.atoms()}
    asked = np.array([key_index[facts.key] for facts in queries.values()], dtype=np.intp)
    similarity = fact_jaccard(list(queries.values()), distinct, np.bincount(codes).tolist())
    return Suite(
        "captions",
        tuple(queries),
        tuple(queries.values()),
        asked[:, None] == codes,
        similarity[:, codes],
        tuple(text for text in parsed if text not in queries),
    )


def _deforming(suite: Suite) -> Suite:
    rows = [i for i, facts in enumerate(suite.facts) if facts.patterns]
    return Suite(
        "deformation_captions",
        tuple(suite.texts[i] for i in rows),
        tuple(suite.facts[i] for i in rows),
        suite.relevance[rows],
        None if suite.gains is None else suite.gains[rows],
    )


def _asked(distinct: Sequence[CaptionFacts]) -> dict[str, list[CaptionFacts]]:
    atoms = {atom for facts in distinct for atom in facts.scene}
    patterns = {pattern for facts in distinct for pattern in facts.patterns}
    absent = {a for f in distinct if NO_DEFORMATION in f.scene for a in f.scene}
    asked: dict[str, set[CaptionFacts]] = {
        "atoms": {CaptionFacts(frozenset([atom])) for atom in atoms - {NO_DEFORMATION}}
        | {CaptionFacts(patterns=(Pattern(p.type),)) for p in patterns},
        "type_intensity": {
            CaptionFacts(patterns=(Pattern(p.type, p.intensity),))
            for p in patterns
            if p.intensity is not None
        },
        "type_place": {
            CaptionFacts(patterns=(Pattern(p.type, None, frozenset([region])),))
            for p in patterns
            for region in p.regions
        },
        "negation": {CaptionFacts(frozenset([NO_DEFORMATION, atom])) for atom in absent},
    }
    # Sets have no order: sort, so that a query list is the same in every process.
    return {
        name: sorted(queries, key=lambda f: sorted(f.atoms())) for name, queries in asked.items()
    }
