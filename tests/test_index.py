"""The index keeps what it is given, finds what a plain sort finds, and is never half-written."""

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from heph_vl.errors import HephError
from heph_vl.index import Index
from heph_vl.index_rows import COLUMNS, index_row, thumbnail
from heph_vl.nearest import nearest

MODEL = "a" * 64
OTHER = "b" * 64


def unit_vectors(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "unique_id": i,
            "frame_id": f"00{i % 3}A_00000_000000",
            "primary_date": f"20{15 + i % 5}-01-01",
            "secondary_date": f"20{15 + i % 5}-01-13",
            "caption": f"caption of {i}",
            "activity_types": ["sill"] if i % 2 else [],
            "low_coherence": i % 4 == 0,
            "thumbnail": b"png %d" % i,
        }
        for i in range(start, start + n)
    ]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    with Index.create(tmp_path / "idx", MODEL, dim=16) as made:
        made.add(unit_vectors(60), rows(60))
    return Index.open(tmp_path / "idx", MODEL)


def test_search_gives_the_columns_scores_and_thumbnails_that_were_added(index: Index) -> None:
    vectors = unit_vectors(60)
    hits = index.search(vectors[[7, 30]], k=5)
    for query, found in zip((7, 30), hits, strict=True):
        exact = vectors @ vectors[query]
        assert [hit.row["unique_id"] for hit in found] == list(np.argsort(-exact)[:5])
        assert [hit.rank for hit in found] == [1, 2, 3, 4, 5]
        assert [hit.score for hit in found] == pytest.approx(np.sort(exact)[::-1][:5], abs=1e-6)
        assert index.thumbnails(found) == [b"png %d" % hit.row["unique_id"] for hit in found]
    assert (
        hits[0][0].row.items() >= {k: v for k, v in rows(60)[7].items() if k != "thumbnail"}.items()
    )
    assert hits[0][0].to_json() == {
        "rank": 1,
        "score": 1.0,
        "unique_id": 7,
        "frame_id": "001A_00000_000000",
        "primary_date": "2017-01-01",
        "secondary_date": "2017-01-13",
        "caption": "caption of 7",
        "image": None,
    }


def test_a_filter_limits_the_results(index: Index) -> None:
    where = "activity_types = 'sill' AND primary_date > '2018' AND low_coherence = FALSE"
    [hits] = index.search(unit_vectors(1), k=60, where=where)
    expected = {i for i in range(60) if i % 2 and i % 5 >= 3}
    assert {hit.row["unique_id"] for hit in hits} == expected
    assert index.search(unit_vectors(2), k=3, where="frame_id = 'x'") == [[], []]
    with pytest.raises(HephError, match="unknown column 'thumbnail'"):
        index.search(unit_vectors(1), k=3, where="thumbnail = 'x'")


@pytest.mark.parametrize("at_once", [1 << 24, 1])  # all images, or 256, at once
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(n=st.integers(1, 900), k=st.integers(1, 20), q=st.integers(1, 3), seed=st.integers(0, 99))
def test_nearest_equals_a_plain_stable_sort(
    at_once: int, n: int, k: int, q: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heph_vl.nearest._SCORES_AT_ONCE", at_once)
        compare_with_a_plain_sort(n, k, q, seed)


def compare_with_a_plain_sort(n: int, k: int, q: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct integer vectors: many exact ties, scores exact in float32.
    images = rng.integers(-2, 3, (n, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, (q, 3)).astype(np.float32)
    keep = rng.random(n) < 0.7
    for mask in (None, keep):
        for query, (scores, positions) in zip(
            queries, nearest(images, queries, k, mask), strict=True
        ):
            exact = images @ query
            allowed = [i for i in range(n) if mask is None or mask[i]]
            expected = sorted(allowed, key=lambda i: (-exact[i], i))[:k]
            assert positions.tolist() == expected
            assert scores.tolist() == exact[expected].tolist()


def test_equal_vectors_come_in_order_of_unique_id(tmp_path: Path) -> None:
    same = np.repeat(unit_vectors(1), 700, axis=0)
    shuffled = [rows(1, start=i)[0] for i in np.random.default_rng(1).permutation(700).tolist()]
    with Index.create(tmp_path / "idx", MODEL, 16) as index:
        index.add(same, shuffled)
    [hits] = index.search(unit_vectors(1), k=9)
    assert [hit.row["unique_id"] for hit in hits] == list(range(9))
    assert [hit.row["caption"] for hit in hits] == [f"caption of {i}" for i in range(9)]


def test_patches_of_one_interferogram_are_kept_apart(tmp_path: Path) -> None:
    patches = [{**rows(1)[0], "image_id": f"0_{i}"} for i in range(3)]
    with Index.create(tmp_path / "idx", MODEL, 16) as index:
        index.add(unit_vectors(3), patches)
    [hits] = index.search(unit_vectors(3)[2], k=3)
    assert hits[0].row["image_id"] == "0_2"
    assert {hit.row["unique_id"] for hit in hits} == {0}


def test_adding_again_replaces_images_and_appends_new_ones(index: Index) -> None:
    changed = [{**row, "caption": "revised"} for row in rows(20, start=50)]
    index.add(unit_vectors(20, seed=1), changed)
    index.commit()
    again = Index.open(index.path)
    assert len(again) == 70
    [hits] = again.search(unit_vectors(20, seed=1)[0], k=70)
    assert len(hits) == 70
    assert hits[0].row["unique_id"] == 50
    assert hits[0].score == pytest.approx(1)
    revised = {hit.row["unique_id"] for hit in hits if hit.row["caption"] == "revised"}
    assert revised == set(range(50, 70))
    assert again.thumbnails(hits[:1]) == [b"png 50"]


def test_nothing_is_seen_before_the_commit(index: Index, tmp_path: Path) -> None:
    index.add(unit_vectors(5, seed=2), rows(5, start=100))
    index._flush()  # on disk, as after a kill between two batches
    with pytest.raises(HephError, match="not committed"):
        index.search(unit_vectors(1), k=1)
    again = Index.open(index.path)
    assert len(again) == 60
    assert len(again.search(unit_vectors(1), k=100)[0]) == 60
    with again:
        again.add(unit_vectors(1, seed=3), rows(1, start=200))
    ids = {hit.row["unique_id"] for hit in Index.open(index.path).search(unit_vectors(1), 100)[0]}
    assert ids == {*range(60), 200}
    with pytest.raises(HephError, match="another process has changed the index"):
        index.commit()


def test_an_exception_leaves_no_new_index_and_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with Index.create(tmp_path / "idx", MODEL, 16) as index:
            index.add(unit_vectors(3), rows(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_commit_that_fails_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, meta: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("heph_vl.index.write_meta", full)

    def fail() -> None:
        with Index.create(tmp_path / "idx", MODEL, 16) as index:
            index.add(unit_vectors(3), rows(3))

    with pytest.raises(HephError, match="No space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_while_adding_leaves_the_old_index(index: Index) -> None:
    with pytest.raises(HephError, match="added twice"), index:
        index.add(unit_vectors(2), [rows(1, start=300)[0]] * 2)
    assert len(index.search(unit_vectors(1), k=100)[0]) == 60


def test_an_index_of_another_model_is_refused(index: Index) -> None:
    with pytest.raises(
        HephError, match=r"made by model aaaaaaaaaaaa, not by bbbbbbbbbbbb"
    ) as caught:
        Index.open(index.path, OTHER)
    assert str(index.path) in caught.value.where


@pytest.mark.parametrize(
    "damage", ["none", "no_meta", "cut_meta", "old_meta", "no_table", "no_data"]
)
def test_what_is_no_index_is_refused(index: Index, damage: str) -> None:
    path = index.path
    meta = path / "meta.json"
    if damage == "none":
        assert len(Index.open(path).search(unit_vectors(1), 1)[0]) == 1
        return
    if damage == "no_meta":
        meta.unlink()
    elif damage == "cut_meta":
        meta.write_text(meta.read_text()[:40])
    elif damage == "old_meta":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 0}))
    elif damage == "no_table":
        shutil.rmtree(path / "images.lance")
    elif damage == "no_data":
        shutil.rmtree(path / "images.lance" / "data")
    with pytest.raises(HephError, match="idx"):
        Index.open(path).search(unit_vectors(1), 1)


def test_a_missing_folder_is_not_made_by_opening_it(tmp_path: Path) -> None:
    with pytest.raises(HephError, match="no index here"):
        Index.open(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_index_is_named_when_searched(tmp_path: Path) -> None:
    with Index.create(tmp_path / "idx", MODEL, 16) as index:
        index.add(np.empty((0, 16), dtype=np.float32), [])
    with pytest.raises(HephError, match="the index is empty"):
        Index.open(tmp_path / "idx").search(unit_vectors(1), 1)


def test_creating_over_something_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(HephError, match="it exists"):
        Index.create(index.path, MODEL, 16)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(HephError, match="it exists"):
        Index.create(tmp_path / "file", MODEL, 16)
    with pytest.raises(HephError, match="cannot read or write"):
        Index.create(tmp_path / "file" / "idx", MODEL, 16)


@pytest.mark.parametrize(
    ("vectors", "added", "says"),
    [
        (unit_vectors(2), rows(3), "vectors of shape (2, 16) for 3 images"),
        (unit_vectors(2, dim=8), rows(2), "vector of length 16"),
        (np.full((1, 16), np.nan), rows(1, start=90), "90: vector not finite"),
        (unit_vectors(1), [{"frame_id": "x"}], "without unique_id"),
        (unit_vectors(1), [{"unique_id": 90, "atmosphere": "three"}], "wrong type"),
    ],
)
def test_bad_vectors_and_rows_are_refused(
    index: Index, vectors: np.ndarray, added: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(HephError) as caught:
        index.add(vectors, added)
    assert says in str(caught.value)


def test_bad_queries_are_refused(index: Index) -> None:
    with pytest.raises(HephError, match="length 16"):
        index.search(unit_vectors(1, dim=8), 1)
    with pytest.raises(HephError, match="0 results"):
        index.search(unit_vectors(1), 0)


def test_an_example_becomes_columns_and_a_small_picture() -> None:
    image = Image.new("RGB", (700, 500), (166, 0, 38))
    example = {
        **rows(1)[0],
        "image": image,
        "intensities": ["high", None],
        "volcanoes": ["Sierra Negra"],
    }
    row = index_row(example)
    assert set(row) == {*COLUMNS, "thumbnail"}
    assert row["intensities"] == ["high"]
    assert row["image"] == (
        "000A_00000_000000/interferograms/20150101_20150113/20150101_20150113.geo.diff.png"
    )
    assert row["image_id"] == "0"
    assert index_row({**example, "patch": "0_3"})["image_id"] == "0_3"
    nameless = {**example, "unique_id": None}
    assert index_row(nameless)["image_id"] == "000A_00000_000000_20150101_20150113"
    stored = {"bytes": row["thumbnail"], "path": "pictures/a.png"}
    lone = index_row({"image_id": "a.png", "image": stored})
    assert (lone["image_id"], lone["image"]) == ("a.png", "pictures/a.png")
    small = Image.open(BytesIO(row["thumbnail"]))
    assert small.size == (192, 137)
    assert small.convert("RGB").getpixel((90, 60)) == (166, 0, 38)
    assert thumbnail(image, side=50) != row["thumbnail"]
