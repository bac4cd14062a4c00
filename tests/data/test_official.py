"""Patches in the folders of the published code."""

import json

import numpy as np
import pytest
from PIL import Image

from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.hephaestus import export_official, write_parquet
from heph_vl.data.patches import PatchConfig
from heph_vl.errors import HephError
from tests.data.fake_archive import write_fake_archive

CONFIG = PatchConfig(size=40)


@pytest.fixture
def archive(tmp_path):
    write_fake_archive(tmp_path / "archive", n=8, size=(96, 64))
    return tmp_path / "archive"


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_layout_and_content(archive, tmp_path):
    out = tmp_path / "out"
    report = export_official(archive, out, patches=CONFIG)
    assert report["problems"] == []
    labels = {path.stem: json.loads(path.read_text()) for path in (out / "cls_labels").iterdir()}
    pictures = {path.stem: path for path in (out / "labeled").rglob("*.png")}
    masks = {path.stem: path for path in (out / "masks").rglob("*.png")}
    assert set(labels) == set(pictures)
    # Records 1, 3, 5, 7 are tiled (3 x 2), 2, 4, 6 have one crop, 8 has two.
    tiles = {f"{uid}_{k}" for uid in (1, 3, 5, 7) for k in range(6)}
    assert set(labels) == tiles | {"2", "4", "6", "8_0", "8_1"}
    assert set(masks) == {"2", "4", "6", "8_0", "8_1"}
    assert report["counts"]["class 0"] == 24
    for name, label in labels.items():
        folder = pictures[name].parent.name
        picture = Image.open(pictures[name])
        assert (picture.mode, picture.size) == ("RGB", (40, 40))
        if name in tiles:
            assert (folder, label["Deformation"]) == ("0", [0])
            assert (label["Intensity"], label["Phase"]) == (0, 0)
        else:
            mask = np.asarray(Image.open(masks[name]))
            assert masks[name].parent.name == folder
            assert set(np.unique(mask)) - {0} == set(label["Deformation"])
            assert int(folder) in label["Deformation"]
            assert (label["Intensity"], label["Phase"]) == (2, 1)
        assert label["frameID"]
        assert len(label["primary_date"]) == 8


def test_pictures_are_the_archive_on_white(archive, tmp_path):
    export_official(archive, tmp_path / "out", patches=CONFIG)
    native = load_pair(scan_archive(archive).annotated[0])
    rgba = np.asarray(native.image.convert("RGBA"))
    white = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255)
    tile = np.asarray(Image.open(tmp_path / "out" / "labeled" / "0" / "1_0.png"))
    np.testing.assert_array_equal(tile, white[:40, :40])


def test_small_images_are_padded_with_white(tmp_path):
    write_fake_archive(tmp_path / "a", n=1, size=(24, 30))
    export_official(tmp_path / "a", tmp_path / "out", patches=CONFIG)
    tile = np.asarray(Image.open(tmp_path / "out" / "labeled" / "0" / "1_0.png"))
    assert tile.shape == (40, 40, 3)
    assert (tile[30:] == 255).all()
    assert (tile[:, 24:] == 255).all()
    assert not (tile[:30, :24] == 255).all()


def test_again_does_nothing_and_changes_are_noticed(archive, tmp_path):
    out = tmp_path / "out"
    first = export_official(archive, out, patches=CONFIG)
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    again = export_official(archive, out, patches=CONFIG)
    assert (first["unchanged"], again["unchanged"]) == (False, True)
    assert {name: (out / name).stat().st_mtime_ns for name in names(out)} == before
    export_official(archive, out, patches=PatchConfig(size=32))
    sizes = {Image.open(path).size for path in (out / "labeled").rglob("*.png")}
    assert sizes == {(32, 32)}


def test_an_output_of_another_kind_is_replaced_whole(archive, tmp_path):
    out = tmp_path / "out"
    write_parquet(archive, out)
    export_official(archive, out, patches=CONFIG)
    kept = {"cls_labels", "heph_vl.json", "labeled", "masks"}
    assert {path.name for path in out.iterdir()} == kept
    write_parquet(archive, out)
    assert {path.name for path in out.iterdir()} == {"README.md", "data", "heph_vl.json"}


def test_bad_image_is_listed_or_fatal(archive, tmp_path):
    pair = scan_archive(archive).annotated[2]
    pair.image.write_bytes(pair.image.read_bytes()[:300])
    report = export_official(archive, tmp_path / "out", patches=CONFIG)
    assert len(report["problems"]) == 1
    assert not (tmp_path / "out" / "cls_labels" / "3_0.json").exists()
    with pytest.raises(HephError, match=pair.image.name):
        export_official(archive, tmp_path / "strict", patches=CONFIG, strict=True)
    assert not (tmp_path / "strict" / "labeled").exists()
