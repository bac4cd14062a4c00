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
    recall = made.build_approximate(vectors(40, 1), vectors(N, 0)[:40])
    assert recall >= approximate.RECALL
    return Index.open(path, MODEL)


def recall(index: Index, queries: np.ndarray, where: str | None = None) -> float:
    exact = index.search(queries, 10, where)
    near = index.search(queries, 10, where, approximately=True)
    found = [
        len({h.row["unique_id"] for h in a} & {h.row["unique_id"] for h in b}) / max(1, len(a))
        for a, b in zip(exact, near, strict=True)
    ]
    return float(np.mean(found))


def test_other_queries_have_the_recall_that_was_measured(index: Index) -> None:
    lists = index.meta.lists
    assert lists is not None
    assert 1 < lists.probes < lists.count == round(N**0.5)
    assert recall(index, vectors(200, 2)) == pytest.approx(lists.recall, abs=0.03)


def test_images_that_find_themselves_do_not_count(tmp_path: Path) -> None:
    # Pairs of equal vectors: half of what a query finds nearest is no find at all.
    pairs = np.repeat(vectors(N // 2, 0), 2, axis=0)
    with Index.create(tmp_path / "idx", MODEL, dim=DIM) as made:
        made.add(pairs, rows(N))
    made.build_approximate(pairs[:50])
    assert made.meta.lists is not None
    assert made.meta.lists.probes > 1  # one list would do to find oneself
    assert recall(made, vectors(100, 3)) > 0.9


def test_copies_alone_are_nothing_to_miss(tmp_path: Path) -> None:
    copies = np.repeat(vectors(N // 40, 0), 40, axis=0)
    with Index.create(tmp_path / "idx", MODEL, dim=DIM) as made:
        made.add(copies, rows(N))
    assert made.build_approximate(copies[:50]) == 1
    assert made.meta.lists is not None
    assert made.meta.lists.probes == 1


@pytest.mark.parametrize("filtered", [False, True])
def test_a_filter_that_keeps_what_lies_elsewhere_loses_nothing(
    tmp_path: Path, filtered: bool
) -> None:
    """Images of a frame resemble one another, and a query may be far from those that pass."""
    rng = np.random.default_rng(0)
    centres = vectors(40, 4)
    which = rng.integers(40, size=4 * N)
    spread = centres[which] + 0.1 * rng.standard_normal((4 * N, DIM))
    images = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    with Index.create(tmp_path / "idx", MODEL, dim=DIM) as made:
        made.add(
            images, [{"unique_id": i, "frame_id": f"f{frame}"} for i, frame in enumerate(which)]
        )
    made.build_approximate(images[:60])
    lists = made.meta.lists
    assert lists is not None
    assert lists.probes < lists.count / 3
    if not filtered:
        assert recall(made, images[60:120] + 1e-3) > 0.9
        return
    # Of queries in any direction, unlike those that recall was measured with.
    assert recall(made, vectors(30, 5), "frame_id = 'f3'") == 1
    assert recall(made, vectors(30, 5), "unique_id = 17") == 1
    assert recall(made, vectors(30, 5), "frame_id IN ('f1', 'f2', 'f3', 'f4')") > 0.85
    assert recall(made, images[60:120] + 1e-3, "frame_id != 'f3'") > 0.9


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
    assert whole.meta.lists is not None
    lists = dataclasses.replace(whole.meta.lists, probes=whole.meta.lists.count)
    whole.meta = dataclasses.replace(whole.meta, lists=lists)
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
    assert Index.open(tmp_path / "idx").meta.lists is None
