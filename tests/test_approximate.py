"""Approximate search: as exact as asked for, with the filters of the exact one, on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heph_vl import approximate
from heph_vl.errors import HephError
from heph_vl.index import Index
from heph_vl.index_rows import COLUMNS
from heph_vl.where import Both, Comparison, Filter, Not

MODEL = "a" * 64
N, DIM = 2000, 16
TEXTS = ["Etna", "d'Etna", "a\\'b", '"', "%", "ä", None]


def vectors(n: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "unique_id": i,
            "frame_id": TEXTS[i % 7],
            "primary_date": None if i % 11 == 0 else f"20{15 + i % 5}-01-{1 + i % 28:02}",
            "activity_types": [None, [], ["sill"], ["sill", "d'yke"]][i % 4],
            "low_coherence": [True, False, None][i % 3],
            "atmosphere": None if i % 13 == 0 else i % 4,
            "confidence": None if i % 17 == 0 else i / 7,
        }
        for i in range(start, start + n)
    ]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    path = tmp_path_factory.mktemp("approximate") / "idx"
    with Index.create(path, MODEL, dim=DIM) as made:
        made.add(vectors(N, 0), rows(N))
    with pytest.raises(HephError, match="not prepared"):
        made.search(vectors(1, 1), 3, approximately=True)
    recall = made.build_approximate(vectors(40, 1))
    assert recall >= approximate.RECALL
    return Index.open(path, MODEL)


def test_recall_is_what_was_measured_and_most_lists_are_left_out(index: Index) -> None:
    queries = vectors(40, 1)
    exact = index.search(queries, 10)
    near = index.search(queries, 10, approximately=True)
    found = [
        len({h.row["unique_id"] for h in a} & {h.row["unique_id"] for h in b}) / 10
        for a, b in zip(exact, near, strict=True)
    ]
    assert np.mean(found) == pytest.approx(index.meta.recall)
    assert 1 < index.meta.probes < round(N**0.5)


COMPARISONS = st.one_of(
    st.builds(
        Comparison,
        st.sampled_from(["frame_id", "activity_types"]),
        st.sampled_from(["=", "!="]),
        st.sampled_from(
            [("Etna",), ("d'Etna",), ("a\\'b",), ("sill",), ("d'yke",), ("' OR 1=1 --",)]
        ),
    ),
    st.builds(
        Comparison, st.just("frame_id"), st.just("="), st.just(("d'Etna", "%", "ä", "nowhere"))
    ),
    st.builds(Comparison, st.just("activity_types"), st.just("="), st.just(("d'yke", "nothing"))),
    st.builds(
        Comparison,
        st.just("primary_date"),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from([("2016",), ("2017-01-05",), ("2018-01",)]),
    ),
    st.builds(
        Comparison,
        st.sampled_from(["atmosphere", "confidence", "unique_id"]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from([(2.0,), (0.5,), (-1e300,), (float("inf"),), (100.0,)]),
    ),
    st.builds(
        Comparison,
        st.just("low_coherence"),
        st.sampled_from(["=", "!="]),
        st.sampled_from([(True,), (False,)]),
    ),
)
TREES = st.recursive(
    COMPARISONS, lambda t: st.builds(Not, t) | st.builds(Both, t, t, st.booleans()), max_leaves=4
)


@given(where=TREES, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_all_lists_give_the_exact_answer_under_any_filter(
    index: Index, where: Filter, seed: int
) -> None:
    whole = Index.open(index.path)
    whole.meta = dataclasses.replace(whole.meta, probes=N)
    query = vectors(1, seed)
    (exact,) = index.search(query, 5, where)
    (near,) = whole.search(query, 5, where, approximately=True)
    assert [hit.row["unique_id"] for hit in near] == [hit.row["unique_id"] for hit in exact]
    assert [hit.score for hit in near] == pytest.approx([hit.score for hit in exact], abs=2e-6)
    assert [set(COLUMNS) - set(hit.row) for hit in near] == [set()] * len(near)


def test_images_added_later_are_found(index: Index, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(index.path, tmp_path / "idx")
    store = Index.open(tmp_path / "idx")
    new = vectors(3, 77)
    with store:
        store.add(new, [{"unique_id": 10_000 + i, "thumbnail": b"png"} for i in range(3)])
    hits = [found[0] for found in store.search(new, 1, approximately=True)]
    assert [hit.row["unique_id"] for hit in hits] == [10_000, 10_001, 10_002]
    assert store.thumbnails(hits) == [b"png"] * 3


def test_few_images_need_no_approximation(tmp_path: Path) -> None:
    with Index.create(tmp_path / "idx", MODEL, dim=DIM) as made:
        made.add(vectors(20, 0), rows(20))
    with pytest.raises(HephError, match="20 images"):
        made.build_approximate(vectors(2, 1))
    assert Index.open(tmp_path / "idx").meta.probes == 0
