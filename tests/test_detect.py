"""Detection on files: entries, masks of the file's size, polygons, broken files listed."""

import json

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from scipy import ndimage

from heph_vl import cli
from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.picture import find_images, read_picture, stem_of
from heph_vl.data.raster import fill
from heph_vl.detect import outlines
from heph_vl.errors import HephError
from tests import tiny_heads
from tests.data.fake_archive import write_fake_archive


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("detect")
    tiny_heads.make().eval().save_pretrained(root / "model")
    write_fake_archive(root / "archive", n=3, size=(120, 96))
    for i, path in enumerate(sorted((root / "archive").rglob("*.geo.diff.png"))):
        (root / "images").mkdir(exist_ok=True)
        (root / "images" / f"{i}.png").write_bytes(path.read_bytes())
    return root


def detect(capsys, *words):
    code = cli.run(["detect", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_entries_follow_the_contract(place, capsys, tmp_path):
    out = tmp_path / "found"
    words = (place / "images", "--model", place / "model", "--json", "--out", out)
    code, stdout, _ = detect(capsys, *words)
    assert code == 0
    entries = json.loads(stdout)
    assert len(entries) == 3
    for i, entry in enumerate(entries):
        assert entry["image"] == str(place / "images" / f"{i}.png")
        assert 0 <= entry["deformation"]["probability"] <= 1
        assert isinstance(entry["deformation"]["present"], bool)
        assert list(entry["activity_types"])[:2] == ["mogi", "dyke"]
        assert list(entry["intensity"]) == ["low", "medium", "high"]
        assert sum(entry["volcano_phase"].values()) == pytest.approx(1, abs=1e-5)
        assert sum(entry["atmosphere"].values()) == pytest.approx(1, abs=1e-5)
        assert len(entry["quality"]) == 7
        mask = np.asarray(Image.open(entry["mask"]))
        assert mask.shape == (96, 120)
        assert mask.dtype == np.uint8
        assert mask.max() <= 6
        assert (out / f"{i}.overlay.png").is_file()


def test_broken_files_are_listed_and_others_answered(place, capsys, tmp_path):
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((50, 50), 90, np.uint8)).save(grey)
    blank = tmp_path / "blank.npy"
    np.save(blank, np.full((40, 40), np.nan, np.float32))
    files = (place / "images" / "0.png", grey, blank, tmp_path / "missing.png")
    code, stdout, _ = detect(capsys, *files, "--model", place / "model", "--json")
    assert code == 1
    entries = json.loads(stdout)
    assert "deformation" in entries[0]
    assert "grey" in entries[1]["error"]
    assert "no valid phase" in entries[2]["error"]
    assert "missing.png" in entries[3]["error"]
    code, stdout, err = detect(capsys, *files, "--model", place / "model")
    assert code == 1
    assert err.count("error:") == 3
    assert "not read" in stdout


def test_wrong_models_and_folders(place, capsys, tmp_path):
    code, _, err = detect(capsys, place / "images", "--model", tmp_path)
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    code, _, err = detect(capsys, tmp_path, "--model", place / "model")
    assert code == 1
    assert "holds no interferogram" in err
    twice = (place / "images" / "0.png", place / "images" / "0.png")
    code, _, err = detect(capsys, *twice, "--model", place / "model", "--out", tmp_path / "o")
    assert code == 1
    assert "two images are named 0" in err


def test_finer_geotiffs_are_averaged_and_masks_come_back_at_their_size(place, capsys, tmp_path):
    rows, columns = np.mgrid[:300, :300]
    phase = np.angle(np.exp(1j * (0.02 * rows + 0.03 * columns))).astype(np.float32)
    path = tmp_path / "20180101_20180113.geo.diff_pha.tif"
    tags = [(33550, "d", 3, (0.001, 0.001, 0.0), True), (33922, "d", 6, (0, 0, 0, 15, 40, 0), True)]
    tifffile.imwrite(path, phase, extratags=tags)
    picture = read_picture(path)
    assert picture.size == (300, 300)
    assert picture.channels.shape == (3, 90, 90)
    # Native pixel k averages 10/3 fine ones: the phase at its middle.
    middle = (np.arange(90) + 0.5) * 10 / 3 - 0.5
    expected = 0.02 * middle[:, None] + 0.03 * middle[None, :]
    error = np.angle(np.exp(1j * (picture.wrapped_phase - expected)))
    assert np.abs(error).max() < 0.02
    out = tmp_path / "out"
    code, _, _ = detect(capsys, path, "--model", place / "model", "--out", out)
    assert code == 0
    assert Image.open(out / "20180101_20180113.mask.png").size == (300, 300)


def test_outlines_are_those_of_the_patches():
    mask = np.zeros((60, 80), np.uint8)
    fill(mask, ((10.0, 10.0), (40.0, 10.0), (40.0, 30.0), (10.0, 30.0)), 3)
    mask[12:15, 12:15] = 1
    fill(mask, ((60.0, 40.0), (66.0, 40.0), (66.0, 46.0), (60.0, 46.0)), 2)
    mask[50, 5] = 4  # too small
    probability = np.where(mask > 0, 0.75, 0.1).astype(np.float32)
    found = outlines(mask, probability, (2.0, 1.0))
    assert [entry["type"] for entry in found] == ["sill", "dyke"]
    assert found[0]["probability"] == pytest.approx(0.75)
    polygon = shapely.Polygon(found[0]["polygon"])
    assert polygon.area == pytest.approx(2 * 30 * 20, rel=0.05)
    assert polygon.bounds == pytest.approx((20, 10, 80, 30), abs=1.1)
    assert outlines(np.zeros((5, 5), np.uint8)) == []


def test_many_patches_are_each_outlined_as_in_the_whole_image():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((160, 140)), 1.5)
    mask = np.where(smooth > np.quantile(smooth, 0.75), rng.integers(1, 7, smooth.shape), 0)
    mask, probability = mask.astype(np.uint8), rng.random(smooth.shape, dtype=np.float32)
    pieces, count = ndimage.label(mask > 0, np.ones((3, 3)))
    expected = {}
    for number in range(1, count + 1):
        inside = pieces == number
        if inside.sum() >= 12:
            expected[float(probability[inside].mean())] = inside
    found = outlines(mask, probability)
    levels = [entry["probability"] for entry in found]
    assert len(levels) > 50
    assert sorted(levels) == sorted(expected)
    sizes = [expected[level].sum() for level in levels]
    assert sizes == sorted(sizes, reverse=True)
    whole = 0
    for entry in found:
        inside = expected[entry["probability"]]
        assert entry["type"] == ACTIVITY_TYPES[np.bincount(mask[inside]).argmax() - 1]
        if ndimage.label(inside)[1] > 1:
            continue  # parts that touch at corners only: the longest outline is given
        whole += 1
        rows, columns = inside.nonzero()
        # Outlines run half a pixel from the middles of the outermost pixels.
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        polygon = shapely.Polygon(entry["polygon"])
        assert polygon.bounds == box
        area = ndimage.binary_fill_holes(inside).sum()
        assert 0.7 * area <= polygon.area <= area
    assert whole > 30


@pytest.mark.parametrize("size", [(5, 3), (63, 20)])
def test_pictures_smaller_than_a_tile_are_answered(place, capsys, tmp_path, size):
    source = Image.open(place / "images" / "0.png")
    path, out = tmp_path / "small.png", tmp_path / "out"
    middle = source.width // 2, source.height // 2
    source.crop((*middle, middle[0] + size[0], middle[1] + size[1])).save(path)
    words = (path, "--model", place / "model", "--json", "--out", out)
    code, stdout, _ = detect(capsys, *words)
    assert code == 0
    assert 0 <= json.loads(stdout)[0]["deformation"]["probability"] <= 1
    assert Image.open(out / "small.mask.png").size == size


def test_coherence_of_another_size_is_told(place, capsys, tmp_path):
    (tmp_path / "a.geo.diff.png").write_bytes((place / "images" / "0.png").read_bytes())
    Image.new("L", (119, 96), 200).save(tmp_path / "a.geo.cc.png")
    code, stdout, _ = detect(capsys, tmp_path, "--model", place / "model", "--json")
    assert code == 1
    (entry,) = json.loads(stdout)
    what = "coherence of 119 x 96 px beside an interferogram of 120 x 96 px"
    assert what in entry["error"]


@pytest.mark.slow
def test_a_frame_of_3000_px(place, capsys, tmp_path):
    source = Image.open(place / "images" / "0.png")
    large = Image.fromarray(np.tile(np.asarray(source), (32, 25))[:3000, :3000])
    large.putpalette(source.getpalette())
    large.info = dict(source.info)
    large.save(tmp_path / "large.png")
    words = ("--model", place / "model", "--json", "--out", tmp_path / "out")
    code, stdout, _ = detect(capsys, tmp_path / "large.png", *words)
    assert code == 0
    (entry,) = json.loads(stdout)
    mask = np.asarray(Image.open(entry["mask"]))
    assert mask.shape == (3000, 3000)
    assert sum(len(found["polygon"]) >= 3 for found in entry["polygons"]) == len(entry["polygons"])
    assert Image.open(tmp_path / "out" / "large.overlay.png").size == (3000, 3034)


def test_names():
    from pathlib import Path

    assert stem_of(Path("a/20180101_20180113.geo.diff.png")) == "20180101_20180113"
    assert stem_of(Path("a/b.tif")) == "b"


def test_folders_leave_coherence_and_masks_out(tmp_path):
    for name in (
        "a.geo.diff.png",
        "a.geo.cc.png",
        "a.geo.mask.png",
        "b.npy",
        "c.txt",
        "b.mask.png",
    ):
        (tmp_path / name).write_text("")
    found = find_images([tmp_path])
    assert [path.name for path in found] == ["a.geo.diff.png", "b.npy"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(HephError, match="holds no interferogram"):
        find_images([tmp_path / "empty"])
