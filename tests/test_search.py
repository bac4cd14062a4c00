"""From an archive to an answer: index and search with a real, untrained model."""

import shutil

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from heph_vl.data.parquet import write_parquet
from heph_vl.data.transforms import collate_images
from heph_vl.embed import read_image
from heph_vl.errors import HephError
from heph_vl.index import Index
from heph_vl.models.retriever import Retriever
from heph_vl.models.text import train_tokenizer
from heph_vl.search import build_index, search
from tests import tiny_retriever
from tests.data.fake_archive import write_fake_archive
from tests.licsar import FRAME, bowl, write_pair


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """An archive of 8, its dataset, a model and an index of the dataset."""
    root = tmp_path_factory.mktemp("search")
    records = write_fake_archive(root / "archive", n=8, size=96)
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT).save_pretrained(root / "model")
    build_index(root / "dataset", root / "index", root / "model")
    return root


def test_every_image_of_the_dataset_is_found(workplace):
    found = search(workplace / "index", text="sill on the left", k=100)
    assert sorted(hit.row["unique_id"] for hit in found.hits) == list(range(1, 9))
    assert [hit.rank for hit in found.hits] == list(range(1, 9))
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True)
    assert all(thumbnail.startswith(b"\x89PNG") for thumbnail in found.thumbnails)


def test_a_query_is_read_as_facts(workplace):
    words = search(workplace / "index", text="high intensity sill, left; gobbledygook")
    plain = search(workplace / "index", text=words.read_as)
    assert "sill" in words.read_as
    assert words.not_understood == ("gobbledygook",)
    assert plain.not_understood == ()
    assert [h.score for h in words.hits] == [h.score for h in plain.hits]


def test_a_query_image_is_brought_to_the_scale_of_the_index(workplace, tmp_path):
    y, x = np.mgrid[:96, :96]
    coarse = np.angle(np.exp(1j * (0.08 * x + 0.1 * y))).astype(np.float32)
    y, x = (np.mgrid[:288, :288] - 1) / 3
    fine = np.angle(np.exp(1j * (0.08 * x + 0.1 * y))).astype(np.float32)
    scores = []
    for name, phase, spacing in (("coarse", coarse, 1 / 300), ("fine", fine, 1 / 900)):
        tags = [(33550, "d", 3, (spacing, spacing, 0.0), True)]
        tags += [(33922, "d", 6, (0, 0, 0, 15, 40, 0), True)]
        tifffile.imwrite(tmp_path / f"{name}.tif", phase, extratags=tags)
        found = search(workplace / "index", image=tmp_path / f"{name}.tif", k=8)
        scores.append({hit.row["unique_id"]: hit.score for hit in found.hits})
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_names_that_repeat_over_folders_replace_nothing_unasked(workplace, tmp_path):
    first, second = sorted((workplace / "archive").rglob("*.geo.diff.png"))[:2]
    for folder, path in (("a", first), ("b", second)):
        (tmp_path / folder).mkdir()
        shutil.copy(path, tmp_path / folder / "20180101_20180113.geo.diff.png")
    build_index(tmp_path / "a", tmp_path / "index", workplace / "model")
    with pytest.raises(HephError, match=r"indexed from .*/a before, now from .*/b; .*--moved"):
        build_index(tmp_path / "b", tmp_path / "index", workplace / "model")
    assert (
        Index.open(tmp_path / "index").search(np.ones((1, 24)), 2)[0][0].row["data"].endswith("a")
    )
    build_index(tmp_path / "b", tmp_path / "index", workplace / "model", moved=True)
    assert len(Index.open(tmp_path / "index")) == 1


def test_loose_files_are_indexed_and_those_that_cannot_be_are_told(workplace, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    path = next((workplace / "archive").rglob("*.geo.diff.png"))
    shutil.copy(path, pictures / "20180101_20180113.geo.diff.png")
    shutil.copy(path, pictures / "20180101_20180113.geo.unw.png")  # beside it, and of no interest
    shutil.copy(path, pictures / "other.PNG")
    np.save(pictures / "phase.npy", np.zeros((40, 40), np.float32))
    np.save(pictures / "empty.npy", np.full((40, 40), np.nan, np.float32))
    phase = write_pair(tmp_path / "licsar" / FRAME, "20190101_20190113", bowl(4))
    report = build_index(tmp_path / "licsar", tmp_path / "index", workplace / "model")
    assert report["images"] == 1
    (hit,) = search(tmp_path / "index", text="mogi", where="latitude > 37 AND longitude < 16").hits
    assert hit.row["longitude"] == pytest.approx(15.0)
    assert hit.row["latitude"] == pytest.approx(37.75)
    assert hit.row["volcanoes"] == ["Etna"]
    assert hit.row["frame_id"] == FRAME
    assert not search(tmp_path / "index", text="mogi", where="latitude > 38").hits
    for path in phase.parent.iterdir():
        shutil.copy(path, pictures)
    report = build_index(pictures, tmp_path / "index2", workplace / "model")
    assert report["images"] == 4
    (problem,) = report["problems"]
    assert "empty.npy: no valid phase" in problem


def test_a_small_index_needs_no_approximation(workplace, tmp_path):
    report = build_index(
        workplace / "dataset", tmp_path / "index", workplace / "model", approximate=True
    )
    assert report["images"] == 8
    assert report["recall"] is None
    with pytest.raises(HephError, match="not prepared for approximate search"):
        search(tmp_path / "index", text="sill", approximately=True)


def test_a_large_one_finds_by_text_what_exact_search_finds(workplace, tmp_path):
    shutil.copytree(workplace / "index", tmp_path / "index")
    store = Index.open(tmp_path / "index")
    vectors = np.random.default_rng(0).standard_normal((1500, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with store:
        store.add(vectors, [{"unique_id": 100 + i} for i in range(1500)])
    report = build_index(
        workplace / "dataset", tmp_path / "index", workplace / "model", approximate=True
    )
    assert report["recall"] >= 0.97
    ask = {"text": "mogi on the right", "k": 10}
    exact = search(tmp_path / "index", **ask)
    near = search(tmp_path / "index", **ask, approximately=True)
    same = {h.row["unique_id"] for h in exact.hits} & {h.row["unique_id"] for h in near.hits}
    assert len(same) >= 8


def test_words_without_any_fact_are_answered_and_listed(workplace):
    found = search(workplace / "index", text="xyzzy plugh")
    assert found.read_as == "xyzzy plugh"
    assert set(found.not_understood) == {"xyzzy", "plugh"}
    assert len(found.hits) == 8


def test_an_image_finds_itself(workplace):
    picture = next((workplace / "archive").rglob("*.geo.diff.png"))
    build_index(workplace / "archive", workplace / "by_archive", workplace / "model")
    hit = search(workplace / "by_archive", image=picture, k=1).hits[0]
    # Without its coherence the query is a little different, yet nearest to itself.
    assert picture.name == hit.row["image"].split("/")[-1]
    assert hit.score > 0.9


def test_dataset_and_archive_give_the_same_vectors(workplace, tmp_path):
    build_index(workplace / "archive", tmp_path / "index", workplace / "model")
    one = search(workplace / "index", text="dyke", k=8).hits
    other = search(tmp_path / "index", text="dyke", k=8).hits
    assert [h.row["unique_id"] for h in one] == [h.row["unique_id"] for h in other]
    assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-5)


@pytest.mark.parametrize("kind", ["dataset", "archive", "files"])
def test_heat_maps_are_those_of_the_images_that_were_found(workplace, tmp_path, kind):
    folder = workplace / ("dataset" if kind == "dataset" else "archive")
    if kind == "files":
        folder = tmp_path / "files"
        folder.mkdir()
        for path in (workplace / "archive").rglob("*.png"):
            if path.name.endswith((".diff.png", ".cc.png")):
                shutil.copy(path, folder / path.name)
    build_index(folder, tmp_path / "index", workplace / "model")
    found = search(tmp_path / "index", text="sill on the left", k=3, heat=True)
    assert found.problems == []
    model = Retriever.from_pretrained(workplace / "model")
    query = model.embed_texts([found.read_as])
    for hit, heat in zip(found.hits, found.heat, strict=True):
        path = workplace / "archive" / hit.row["image"]
        path = path if path.is_file() else folder / hit.row["image_id"]
        coherence = path.with_name(path.name.replace("diff", "cc")).read_bytes()
        row = {"image": {"bytes": path.read_bytes()}, "coherence": {"bytes": coherence}}
        inputs = collate_images([read_image(row, 0)])
        assert heat.cells == pytest.approx(model.heat_map(query, **inputs)[0].numpy())
        assert heat.size == tuple(inputs["valid"].shape[1:])
        assert heat.cells.max() > 0


def test_images_that_have_moved_are_told_and_named(workplace, tmp_path):
    shutil.copytree(workplace / "dataset", tmp_path / "here")
    build_index(tmp_path / "here", tmp_path / "index", workplace / "model")
    (tmp_path / "here").rename(tmp_path / "there")
    ask = {"text": "sill", "k": 2, "heat": True}
    lost = search(tmp_path / "index", **ask)
    assert lost.heat == [None, None]
    assert len(lost.problems) == 2
    assert "--data" in str(lost.problems[0])
    again = search(tmp_path / "index", **ask, data=tmp_path / "there")
    assert not again.problems
    assert None not in again.heat


def test_a_query_image_without_data_is_refused(workplace, tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    with pytest.raises(HephError, match="no valid phase"):
        search(workplace / "index", image=tmp_path / "empty.png")


def test_filters_hold(workplace):
    everything = search(workplace / "index", text="dyke").hits
    frame = everything[0].row["frame_id"]
    hits = search(
        workplace / "index", text="dyke", where=f"frame_id = '{frame}' OR unique_id = 2"
    ).hits
    expected = [h for h in everything if h.row["frame_id"] == frame or h.row["unique_id"] == 2]
    assert [h.row["unique_id"] for h in hits] == [h.row["unique_id"] for h in expected]
    assert 2 <= len(hits) < 8


def test_a_folder_of_pictures_counts_what_it_leaves_out(workplace, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, path in enumerate(sorted((workplace / "archive").rglob("*.geo.diff.png"))[:3]):
        shutil.copy(path, pictures / f"{i}.png")
    Image.new("L", (40, 40), 7).save(pictures / "grey.png")
    (pictures / "cut.png").write_bytes((pictures / "0.png").read_bytes()[:500])
    report = build_index(pictures, tmp_path / "index", workplace / "model")
    assert report["images"] == 3
    assert len(report["problems"]) == 2
    assert any("grey.png" in line for line in report["problems"])
    ids = {h.row["image_id"] for h in search(tmp_path / "index", text="noise").hits}
    assert ids == {"0.png", "1.png", "2.png"}
    with pytest.raises(HephError, match=r"(cut|grey)\.png"):
        build_index(pictures, tmp_path / "strict", workplace / "model", strict=True)
    assert not (tmp_path / "strict").exists()


def test_indexing_again_replaces(workplace, tmp_path):
    shutil.copytree(workplace / "index", tmp_path / "index")
    build_index(workplace / "dataset", tmp_path / "index", workplace / "model", split="train")
    assert len(Index.open(tmp_path / "index")) == 8


@pytest.mark.parametrize(
    ("text", "message"), [("  ", "the text is empty"), ("mogi " * 2000, "10000 characters")]
)
def test_bad_queries(workplace, text, message):
    with pytest.raises(HephError, match=message):
        search(workplace / "index", text=text)


def test_another_model_is_refused(workplace, tmp_path):
    model = Retriever.from_pretrained(workplace / "model")
    with torch.no_grad():
        model.logit_scale.add_(1)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(HephError, match="made by model"):
        search(workplace / "index", text="mogi", model=tmp_path / "other")
    with pytest.raises(HephError, match="made by model"):
        build_index(workplace / "dataset", workplace / "index", tmp_path / "other")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_index(workplace, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(HephError, match=name):
        build_index(tmp_path / name, tmp_path / "index", workplace / "model")
    assert not (tmp_path / "index").exists()


@pytest.mark.real_data
def test_real_patches_are_indexed_and_found(shared, workplace, tmp_path):
    patches = shared / "data" / "hephaestus" / "patches" / "images"
    report = build_index(patches, tmp_path / "index", workplace / "model")
    assert report["images"] == 23
    assert report["problems"] == []
    hit = search(tmp_path / "index", image=patches / "1153_1.png", k=1).hits[0]
    assert hit.row["image_id"] == "1153_1.png"


def test_an_archive_one_folder_too_high_is_said(workplace, tmp_path):
    (tmp_path / "high").mkdir()
    (tmp_path / "high" / "archive").symlink_to(workplace / "archive")
    shutil.copytree(workplace / "archive", tmp_path / "high" / "copy")
    frame = next((workplace / "archive").glob("*_*"))
    for folder in (tmp_path / "high", frame):
        with pytest.raises(HephError):
            build_index(folder, tmp_path / "index", workplace / "model")
    assert not (tmp_path / "index").exists()


def test_odd_files_and_empty_pictures_are_left_out(workplace, tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "folder.png").mkdir(parents=True)  # a folder like any other, with nothing in it
    (pictures / "gone.png").symlink_to("/nowhere.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(pictures / "empty.png")
    shutil.copy(next((workplace / "archive").rglob("*.geo.diff.png")), pictures / "good.png")
    report = build_index(pictures, tmp_path / "index", workplace / "model")
    assert report["images"] == 1
    assert len(report["problems"]) == 2
