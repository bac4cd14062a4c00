"""The datasets builder: features, streaming = cached, and a cache that notices changes."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from heph_vl.data import examples
from heph_vl.data.archive import scan_archive
from heph_vl.data.hephaestus import FEATURES, Hephaestus
from heph_vl.data.samples import read_row, row_events, whole
from heph_vl.errors import HephError
from tests.data.fake_archive import FRAMES, pair_folder, write_annotation, write_fake_archive

CONFIGS = ("interferograms", "patches", "unlabeled")
SETTINGS = {"interferograms": {}, "patches": {"patch_size": 40}, "unlabeled": {}}


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("archive")
    write_fake_archive(root, n=11, size=(96, 64))
    (root / "annotations" / "11.json").unlink()
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def built(archive, config, cache, **settings):
    builder = Hephaestus(archive, config, cache_dir=cache, **SETTINGS[config], **settings)
    builder.download_and_prepare()
    return builder


def plain(dataset):
    """Rows with images as stored bytes."""
    for name in ("image", "coherence", "mask"):
        if name in dataset.features:
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return list(dataset)


def test_features_are_those_of_the_design():
    expected = (
        "image coherence mask caption unique_id frame_id pass_direction volcano_group volcanoes "
        "primary_date secondary_date label activity_types intensities volcano_phase atmosphere "
        "corrupted processing_error glacier_fringes orbital_fringes low_coherence no_info "
        "image_artifacts confidence is_crowd polygons pixel_spacing_deg source los_sense"
    )
    assert set(FEATURES) == set(expected.split())
    assert all(isinstance(FEATURES[n], datasets.Image) for n in ("image", "coherence", "mask"))


@pytest.mark.parametrize("config", CONFIGS)
def test_streaming_equals_cached(archive, cache, config):
    builder = built(archive, config, cache)
    cached, streamed = builder.as_dataset(), builder.as_streaming_dataset()
    assert set(cached) == set(streamed)
    assert sum(len(part) for part in cached.values()) > 0
    for split in cached:
        assert plain(cached[split]) == plain(streamed[split])
        assert cached[split].features == streamed[split].features


def test_rows_of_interferograms(archive, cache):
    parts = built(archive, "interferograms", cache).as_dataset()
    assert {name: part["unique_id"][:] for name, part in parts.items()} == {
        "train": [1, 4, 5, 6, 9, 10],
        "val": [2, 7],
        "test": [3, 8],
    }
    row = plain(parts["val"])[0]
    raw = json.loads((archive / "annotations" / "2.json").read_text())
    pair = pair_folder(archive, raw)
    assert row["image"]["bytes"] == (pair / f"{pair.name}.geo.diff.png").read_bytes()
    assert row["coherence"]["bytes"] == (pair / f"{pair.name}.geo.cc.png").read_bytes()
    assert row["frame_id"] == FRAMES[1]
    assert row["primary_date"] == "2016-01-04"
    assert row["secondary_date"] == "2016-01-16"
    assert row["activity_types"] == [raw["activity_type"][0].lower()]
    assert row["intensities"] == ["high"]
    assert row["los_sense"] == ["unknown"]
    assert row["atmosphere"] == 2
    assert parts["val"].features["atmosphere"].int2str(2) == "turbulent_mixing"
    assert row["volcano_phase"] == "unrest"
    assert row["source"] == "real"
    assert row["confidence"] == 0.8
    np.testing.assert_allclose(np.ravel(row["polygons"][0]), raw["segmentation_mask"][0], rtol=1e-6)
    mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
    assert mask.shape == (64, 96)
    assert mask.max() == {"mogi": 1, "dyke": 2, "sill": 3}[row["activity_types"][0]]


def test_rows_are_what_the_transforms_read(archive, cache):
    for config in ("interferograms", "patches"):
        for row in plain(built(archive, config, cache).as_dataset("train")):
            interferogram = read_row(row)
            sample = whole(interferogram, row, estimated=False)
            assert len(row_events(row)) == len(row["activity_types"])
            assert {e.type for e in row_events(row)} == set(row["activity_types"])
            assert bool(sample.mask.any()) == bool(sample.events)


def test_patches_config(archive, cache):
    rows = plain(built(archive, "patches", cache).as_dataset("val"))
    crop, tiles = rows[0], rows[1:]
    assert (crop["patch"], crop["kind"]) == ("2", "crop")
    assert [tile["patch"] for tile in tiles] == [f"7_{k}" for k in range(6)]
    assert {tile["kind"] for tile in tiles} == {"tile"}
    for row in rows:
        x0, y0, x1, y1 = row["window"]
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert picture.size == (x1 - x0, y1 - y0) == (40, 40)
        assert picture.mode == "P"
    assert crop["label"] == ["Deformation"]
    assert tiles[0]["label"] == ["Non_Deformation"]


def test_unlabeled_has_the_image_without_record_only(archive, cache):
    parts = built(archive, "unlabeled", cache).as_dataset()
    assert list(parts) == ["train"]
    assert len(parts["train"]) == 1
    assert "caption" not in parts["train"].features
    assert parts["train"][0]["frame_id"] == FRAMES[0]


def test_two_processes_give_the_same_rows(archive, cache, tmp_path):
    one = built(archive, "interferograms", cache).as_dataset("train")
    builder = Hephaestus(archive, "interferograms", cache_dir=tmp_path)
    builder.download_and_prepare(num_proc=2)
    assert plain(builder.as_dataset("train")) == plain(one)


def test_cache_is_used_and_notices_changes(tmp_path, monkeypatch):
    root, cache = tmp_path / "a", tmp_path / "c"
    raw = write_fake_archive(root, n=5, size=48)[3]
    first = built(root, "interferograms", cache)
    assert built(root, "interferograms", cache).cache_dir == first.cache_dir

    write_annotation(root, raw | {"caption": raw["caption"].replace("high", "low")})
    second = built(root, "interferograms", cache)
    assert "low intensity" in second.as_dataset("train")[1]["caption"]

    pair = pair_folder(root, raw)
    image = Image.open(pair / f"{pair.name}.geo.diff.png").transpose(Image.Transpose.ROTATE_180)
    image.save(pair / f"{pair.name}.geo.diff.png")
    third = built(root, "interferograms", cache)
    np.testing.assert_array_equal(
        np.asarray(third.as_dataset("train")[1]["image"]), np.asarray(image)
    )

    (root / "simulation.json").write_text("{}")
    fourth = built(root, "interferograms", cache)
    assert fourth.as_dataset("train")[0]["source"] == "simulated"

    monkeypatch.setattr(examples, "code_fingerprint", lambda: "another version of the code")
    fifth = built(root, "interferograms", cache)
    others = built(root, "interferograms", cache, scheme="temporal")
    folders = {b.cache_dir for b in (first, second, third, fourth, fifth, others)}
    assert len(folders) == 6


def test_code_fingerprint_covers_the_modules_that_make_rows(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("examples.py", "phase.py", "transforms.py"):
        (folder / name).write_text("1")
    monkeypatch.setattr(examples, "__file__", str(folder / "examples.py"))

    def current():
        examples.code_fingerprint.cache_clear()
        return examples.code_fingerprint()

    before = current()
    (folder / "transforms.py").write_text("2")
    assert current() == before
    (folder / "phase.py").write_text("2")
    assert current() != before
    examples.code_fingerprint.cache_clear()


def test_bad_record_is_left_out_or_fatal(tmp_path, caplog):
    root = tmp_path / "a"
    raw = write_fake_archive(root, n=4, size=48)[0]
    pair = pair_folder(root, raw)
    (pair / f"{pair.name}.geo.diff.png").write_bytes(b"broken")
    rows = built(root, "interferograms", tmp_path / "c").as_dataset("train")
    assert rows["unique_id"][:] == [4]
    assert any("not a PNG" in record.getMessage() for record in caplog.records)
    strict = Hephaestus(root, cache_dir=tmp_path / "c", strict=True)
    with pytest.raises(HephError, match="not a PNG"):
        list(strict.as_streaming_dataset("train"))
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as error:
        strict.download_and_prepare()
    assert isinstance(error.value.__cause__, HephError)


def test_wrong_settings(archive, cache, tmp_path):
    with pytest.raises(HephError, match="one of interferograms, patches, unlabeled"):
        Hephaestus(archive, "frames", cache_dir=cache)
    with pytest.raises(HephError, match="at least 8"):
        Hephaestus(archive, "patches", cache_dir=cache, patch_size=4).as_streaming_dataset()
    write_fake_archive(tmp_path, n=1, size=32)
    with pytest.raises(HephError, match="none is unlabeled"):
        Hephaestus(tmp_path, "unlabeled", cache_dir=cache).as_streaming_dataset()
    (tmp_path / "annotations" / "1.json").unlink()
    (tmp_path / "annotations").rmdir()
    with pytest.raises(HephError, match="no interferogram has an annotation"):
        Hephaestus(tmp_path, cache_dir=cache).as_streaming_dataset()


def test_order_does_not_depend_on_the_file_system(archive):
    first = scan_archive(archive)
    ids = [pair.annotation.unique_id for pair in first.annotated]
    assert ids == sorted(ids)
    assert first.pairs == scan_archive(archive).pairs
